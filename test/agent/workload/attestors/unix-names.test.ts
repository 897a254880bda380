import { appendFile, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createNameTable } from '../../../../agent/workload/attestors/unix-names.ts';

let directory: string;
let path: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'steeple-names-'));
  path = join(directory, 'passwd');
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

describe('createNameTable', () => {
  it('gives the first name of an id, with or without a last line end', async () => {
    await writeFile(path, 'root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/false');
    const table = createNameTable(path);
    expect(await table.nameOf(0)).toBe('root');
    expect(await table.nameOf(33)).toBe('web');
    expect(await table.nameOf(34)).toBeUndefined();
  });

  it('sees a file that was replaced or grew', async () => {
    await writeFile(path, 'a:x:1:1\n');
    const table = createNameTable(path);
    expect(await table.nameOf(1)).toBe('a');
    await appendFile(path, 'b:x:2:2\n');
    expect(await table.nameOf(2)).toBe('b');
    await writeFile(`${path}.new`, 'c:x:1:1\nd:x:2:2\n');
    await rename(`${path}.new`, path);
    expect([await table.nameOf(1), await table.nameOf(2)]).toEqual(['c', 'd']);
    await rm(path);
    expect(await table.nameOf(1)).toBeUndefined();
  });

  it.each([
    ['a comment', '#a:x:1:1'],
    ['NIS markers', '+a:x:1:1\n-b:x:1:1\n+::1:'],
    ['no name', ':x:1:1'],
    ['too few fields', 'a:x:1'],
    ['an id that is no number', 'a:x:1x:1\nb:x:-1:1\nc:x::1\nd:x: 1:1'],
    ['an id past the last', 'a:x:4294967297:1'],
    ['broken UTF-8', Buffer.from([0x61, 0xff, 0x3a, 0x78, 0x3a, 0x31, 0x3a])],
    ['a control character', 'a\tb:x:1:1\nc\u0085:x:1:1'],
    ['a name cut at the limit of a line', `${'a'.repeat(2000)}:x:1:1`],
  ])('T-A15 takes no name from %s', async (_, text) => {
    await writeFile(path, text);
    await appendFile(path, '\nlast:x:7:7\n');
    const table = createNameTable(path);
    expect(await table.nameOf(1)).toBeUndefined();
    expect(await table.nameOf(7)).toBe('last');
  });

  it('T-A15 reads a group whose members run to a megabyte', async () => {
    await writeFile(path, `big:x:5:${'member,'.repeat(150_000)}\nnext:x:6:\n`);
    const table = createNameTable(path);
    expect([await table.nameOf(5), await table.nameOf(6)]).toEqual(['big', 'next']);
  });

  it('reads names across the pieces in which a file comes', async () => {
    const line = (id: number): string => `user-with-a-name-${String(id)}:x:${String(id)}:0::/:/bin/sh\n`;
    await writeFile(path, Array.from({ length: 20_000 }, (_, id) => line(id)).join(''));
    const table = createNameTable(path);
    for (let id = 0; id < 20_000; id += 37) expect(await table.nameOf(id)).toBe(`user-with-a-name-${String(id)}`);
  });

  it('refuses a file over its limit and one that cannot be read', async () => {
    await writeFile(path, 'a:x:1:1\n'.repeat(100));
    await expect(createNameTable(path, 799).nameOf(1)).rejects.toMatchObject({ kind: 'limited', reason: 'unix.names.too-large' });
    expect(await createNameTable(path, 800).nameOf(1)).toBe('a');
    const unreadable = { kind: 'unavailable', reason: 'unix.names.unreadable' };
    await expect(createNameTable(directory).nameOf(1)).rejects.toMatchObject(unreadable);
  });
});
