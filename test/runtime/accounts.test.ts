import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findGroup, findUser } from '../../runtime/accounts.ts';

let base: string;
let file: string;
beforeAll(async () => {
  base = await mkdtemp(path.join(tmpdir(), 'steeple-accounts-'));
  file = path.join(base, 'names');
  await writeFile(file, 'root:x:0:0::/root:/bin/sh\n# note\nweb:x:33:34:Web:/:/bin/false\nweb:x:44:44::/:\nbroken:x\nodd:x:-1:0\nlarge:x:4294967295:0\nlast:x:55');
});
afterAll(() => rm(base, { recursive: true, force: true }));

describe('an account', () => {
  it.each([
    ['root', 0],
    ['web', 33],
    ['last', 55],
    ['4242', 4242],
    ['4294967294', 4_294_967_294],
  ])('%s is %d', async (name, id) => {
    expect(await findUser(name, file)).toBe(id);
    expect(await findGroup(name, file)).toBe(id);
  });

  it.each(['nobody', 'broken', 'odd', 'large', '', '# note', '4294967295', '-1'])('%j is none', async (name) => {
    await expect(findUser(name, file)).rejects.toMatchObject({ kind: 'missing', reason: 'accounts.user' });
    await expect(findGroup(name, file)).rejects.toMatchObject({ kind: 'missing', reason: 'accounts.group' });
  });

  it('cannot be told without the file, but for numbers', async () => {
    await expect(findUser('web', path.join(base, 'none'))).rejects.toMatchObject({ kind: 'unavailable', reason: 'accounts.unreadable' });
    expect(await findUser('33', path.join(base, 'none'))).toBe(33);
  });

  it('of the machine is known', async () => expect(await findUser('root')).toBe(0));
});
