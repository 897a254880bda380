import { chmod, chown, mkdir, mkdtemp, realpath, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { weaknessAbove } from '../../runtime/path-owners.ts';

const isRoot = process.geteuid?.() === 0;

let base: string;
beforeEach(async () => {
  base = await realpath(await mkdtemp(path.join(tmpdir(), 'steeple-path-')));
  await mkdir(path.join(base, 'a', 'b'), { recursive: true });
});
afterEach(() => rm(base, { recursive: true, force: true }));

const file = (): string => path.join(base, 'a', 'b', 'file');

describe('what is above a path', () => {
  it('is safe where root and this user alone may write, and below sticky directories', async () => {
    expect(await weaknessAbove('/usr/bin/any')).toBe(undefined);
    expect(await weaknessAbove('/')).toBe(undefined);
    expect(await weaknessAbove(file())).toBe(undefined);
    await chmod(path.join(base, 'a'), 0o1777);
    expect(await weaknessAbove(file())).toBe(undefined);
  });

  it.each([0o777, 0o770, 0o757, 0o720])('is weak where others may write: %o', async (mode) => {
    await chmod(path.join(base, 'a'), mode);
    expect(await weaknessAbove(file())).toMatchObject({ path: path.join(base, 'a'), is: 'writable', mode: 0o040000 | mode });
  });

  it('is looked at without following links, which have owners but no modes', async () => {
    await symlink(path.join(base, 'a'), path.join(base, 'link'));
    expect(await weaknessAbove(path.join(base, 'link', 'file'))).toBe(undefined);
  });

  it.skipIf(!isRoot)('is weak where it is another user’s', async () => {
    await chown(path.join(base, 'a'), 4242, 4242);
    expect(await weaknessAbove(file())).toMatchObject({ path: path.join(base, 'a'), uid: 4242, is: 'owner' });
  });

  it('is not looked at where it is not there', async () => {
    await expect(weaknessAbove(path.join(base, 'none', 'file'))).rejects.toMatchObject({ code: 'ENOENT' });
  });
});
