import { once } from 'node:events';
import { chmod, chown, link, mkdir, mkdtemp, realpath, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkSocket } from '../../../../../agent/workload/attestors/cri/socket.ts';
import { effectiveUid } from '../../../../../runtime/linux.ts';

const isRoot = effectiveUid() === 0;

let directory: string;
let path: string;
let server: Server;
beforeEach(async () => {
  directory = await realpath(await mkdtemp(join(tmpdir(), 'steeple-cri-')));
  path = join(directory, 'runtime.sock');
  server = createServer().listen(path);
  await once(server, 'listening');
  await chmod(path, 0o660);
});
afterEach(async () => {
  await new Promise((resolve) => server.close(resolve));
  await rm(directory, { recursive: true, force: true });
});

describe('checkSocket', () => {
  it('believes a socket of its own user that its group may use, also through a link', async () => {
    checkSocket(path);
    await symlink(path, join(directory, 'link.sock'));
    checkSocket(join(directory, 'link.sock'));
  });

  it('tells a socket that is not there from one not to be believed', async () => {
    expect(() => checkSocket(join(directory, 'other.sock'))).toThrow(
      expect.objectContaining({ kind: 'unavailable', reason: 'cri.socket.missing', detail: { path: join(directory, 'other.sock'), code: 'ENOENT' } }),
    );
    await symlink(join(directory, 'nowhere'), join(directory, 'dangling.sock'));
    expect(() => checkSocket(join(directory, 'dangling.sock'))).toThrow(expect.objectContaining({ reason: 'cri.socket.missing' }));
  });

  it('refuses a file', async () => {
    await writeFile(join(directory, 'file.sock'), '');
    expect(() => checkSocket(join(directory, 'file.sock'))).toThrow(expect.objectContaining({ kind: 'denied', reason: 'cri.socket.file' }));
  });

  it('refuses a socket that everybody may write to', async () => {
    await chmod(path, 0o666);
    expect(() => checkSocket(path)).toThrow(expect.objectContaining({ kind: 'denied', reason: 'cri.socket.mode' }));
  });

  it('refuses a directory in which everybody may rename', async () => {
    await chmod(directory, 0o777);
    expect(() => checkSocket(path)).toThrow(expect.objectContaining({ kind: 'denied', reason: 'cri.socket.directory', detail: { path: directory } }));
    await chmod(directory, 0o1777);
    checkSocket(path);
  });

  it.runIf(isRoot)('refuses a socket of another user', async () => {
    await chown(path, 65534, 0);
    expect(() => checkSocket(path)).toThrow(expect.objectContaining({ kind: 'denied', reason: 'cri.socket.owner' }));
  });

  it.runIf(isRoot)('refuses a directory of another user above, also behind a link', async () => {
    const theirs = join(directory, 'theirs');
    await mkdir(join(theirs, 'run'), { recursive: true });
    await link(path, join(theirs, 'run', 'runtime.sock'));
    await chown(theirs, 65534, 65534);
    await symlink(join(theirs, 'run'), join(directory, 'run'));
    for (const way of [join(theirs, 'run', 'runtime.sock'), join(directory, 'run', 'runtime.sock')]) {
      expect(() => checkSocket(way)).toThrow(expect.objectContaining({ kind: 'denied', reason: 'cri.socket.directory', detail: { path: theirs } }));
    }
  });

  it('looks again each time', async () => {
    checkSocket(path);
    await rename(path, join(directory, 'moved.sock'));
    expect(() => checkSocket(path)).toThrow(expect.objectContaining({ reason: 'cri.socket.missing' }));
    checkSocket(join(directory, 'moved.sock'));
    await rename(join(directory, 'moved.sock'), path);
  });
});
