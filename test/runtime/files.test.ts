import { execFileSync } from 'node:child_process';
import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  checkPrivateDirectory,
  ensurePrivateDirectory,
  readPrivateFile,
  readTrustedFile,
  removeFile,
  writePrivateFile,
} from '../../runtime/files.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'steeple-files-'));
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

const modeOf = async (path: string): Promise<number> => (await stat(path)).mode & 0o7777;

describe('writePrivateFile', () => {
  it('replaces content, keeps 0600, and leaves no temporary', async () => {
    const path = join(directory, 'key');
    await writePrivateFile(path, 'one');
    await writePrivateFile(path, Buffer.from('two'));
    expect((await readPrivateFile(path)).toString()).toBe('two');
    expect(await modeOf(path)).toBe(0o600);
    expect(await readdir(directory)).toEqual(['key']);
  });

  it('replaces a symbolic link instead of writing through it', async () => {
    const victim = join(directory, 'victim');
    const path = join(directory, 'link');
    await writeFile(victim, 'untouched');
    await symlink(victim, path);
    await writePrivateFile(path, 'secret');
    expect(await readFile(victim, 'utf8')).toBe('untouched');
    expect((await readPrivateFile(path)).toString()).toBe('secret');
  });

  it('keeps the old content and cleans up when the new cannot take its place', async () => {
    const path = join(directory, 'target');
    await mkdir(join(path, 'occupied'), { recursive: true });
    await expect(writePrivateFile(path, 'x')).rejects.toMatchObject({ name: 'SpiffeError' });
    expect(await readdir(directory)).toEqual(['target']);
    await expect(writePrivateFile(join(directory, 'no', 'file'), 'x')).rejects.toMatchObject({ reason: 'files.missing' });
  });

  it('survives parallel writers with one whole content', async () => {
    const path = join(directory, 'state');
    const contents = Array.from({ length: 20 }, (_, i) => `${i}`.repeat(5_000));
    await Promise.all(contents.map((content) => writePrivateFile(path, content)));
    expect(contents).toContain((await readPrivateFile(path)).toString());
    expect(await readdir(directory)).toEqual(['state']);
  });
});

describe('readPrivateFile', () => {
  it.each([0o640, 0o604, 0o660, 0o601])('refuses mode %o by name', async (mode) => {
    const path = join(directory, 'loose');
    await writeFile(path, 'x');
    await chmod(path, mode);
    await expect(readPrivateFile(path)).rejects.toMatchObject({ kind: 'denied', reason: 'files.mode', detail: { path } });
  });

  it('refuses what is not a plain file of its own', async () => {
    const path = join(directory, 'plain');
    await writePrivateFile(path, 'x');
    await symlink(path, join(directory, 'link'));
    await expect(readPrivateFile(join(directory, 'link'))).rejects.toMatchObject({ kind: 'denied', reason: 'files.symlink' });
    await expect(readPrivateFile(join(directory, 'absent'))).rejects.toMatchObject({ kind: 'missing', reason: 'files.missing' });
    await expect(readPrivateFile(directory)).rejects.toMatchObject({ reason: 'files.not-file' });
    await expect(readPrivateFile(path, 0)).rejects.toMatchObject({ reason: 'files.size' });
    execFileSync('mkfifo', ['-m', '600', join(directory, 'fifo')]);
    await expect(readPrivateFile(join(directory, 'fifo'))).rejects.toMatchObject({ reason: 'files.not-file' });
  });

  it.runIf(userInfo().uid === 0)('refuses the file of another user', async () => {
    const path = join(directory, 'foreign');
    await writePrivateFile(path, 'x');
    await chown(path, 65_534, 65_534);
    await expect(readPrivateFile(path)).rejects.toMatchObject({ kind: 'denied', reason: 'files.owner' });
    await expect(readTrustedFile(path)).rejects.toMatchObject({ kind: 'denied', reason: 'files.owner' });
  });
});

describe('readTrustedFile', () => {
  it('takes a world-readable file and a link to it, not one that others may write', async () => {
    const path = join(directory, 'bundle.pem');
    await writeFile(path, 'pem');
    await chmod(path, 0o644);
    await symlink(path, join(directory, 'link'));
    expect((await readTrustedFile(join(directory, 'link'))).toString()).toBe('pem');
    await chmod(path, 0o666);
    await expect(readTrustedFile(path)).rejects.toMatchObject({ reason: 'files.mode' });
  });
});

describe('directories', () => {
  it('makes them 0700, parents too, and accepts them again', async () => {
    const path = join(directory, 'a', 'b');
    await ensurePrivateDirectory(path);
    await ensurePrivateDirectory(path);
    expect(await modeOf(path)).toBe(0o700);
    expect(await modeOf(join(directory, 'a'))).toBe(0o700);
  });

  it('refuses loose ones, links and files', async () => {
    const loose = join(directory, 'loose');
    await mkdir(loose);
    await chmod(loose, 0o755);
    await expect(ensurePrivateDirectory(loose)).rejects.toMatchObject({ reason: 'files.mode' });
    await chmod(loose, 0o700);
    await symlink(loose, join(directory, 'link'));
    await expect(checkPrivateDirectory(join(directory, 'link'))).rejects.toMatchObject({ reason: 'files.not-directory' });
    await writeFile(join(directory, 'file'), '');
    await expect(ensurePrivateDirectory(join(directory, 'file'))).rejects.toMatchObject({ reason: 'files.not-directory' });
    await expect(checkPrivateDirectory(join(directory, 'none'))).rejects.toMatchObject({ reason: 'files.missing' });
  });
});

it('removes a file, also one already gone', async () => {
  const path = join(directory, 'x');
  await writePrivateFile(path, 'x');
  await removeFile(path);
  await removeFile(path);
  expect(await readdir(directory)).toEqual([]);
});
