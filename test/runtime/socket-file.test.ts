import { chmod, link, lstat, mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import type { Server } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../runtime/clock.ts';
import { bindSocket, closeDescriptor, effectiveUid, openStreamSocket } from '../../runtime/linux.ts';
import { openSocketFile } from '../../runtime/socket-file.ts';
import type { SocketFile, SocketFileOptions } from '../../runtime/socket-file.ts';

let directory: string;
let open: SocketFile[];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'steeple-sock-'));
  open = [];
});
afterEach(async () => {
  for (const file of open) {
    file.remove();
    closeDescriptor(file.descriptor);
  }
  await rm(directory, { recursive: true, force: true });
});

async function place(path: string, more: Partial<SocketFileOptions> = {}): Promise<SocketFile> {
  const file = await openSocketFile({ path, mode: 0o770, backlog: 16, ...more }, systemClock);
  open.push(file);
  return file;
}

const modeOf = async (path: string): Promise<number> => (await stat(path)).mode & 0o7777;

/** A socket file that nobody listens on, as a killed program leaves it. */
function abandon(path: string): void {
  const fd = openStreamSocket();
  bindSocket(fd, path);
  closeDescriptor(fd);
}

describe('openSocketFile', () => {
  it.each([0o777, 0o770, 0o600, 0o660])('gives the file exactly mode %o whatever the umask, and nothing else', async (mode) => {
    const path = join(directory, 'a.sock');
    await place(path, { mode });
    expect(await modeOf(path)).toBe(mode);
    expect(await readdir(directory)).toEqual(['a.sock']);
  });

  it('listens under its name', async () => {
    const path = join(directory, 'a.sock');
    await place(path);
    const client = connect(path);
    await once(client, 'connect');
    client.destroy();
  });

  it('creates the directory with its mode only when told to', async () => {
    const path = join(directory, 'public', 'a.sock');
    await expect(place(path)).rejects.toMatchObject({ kind: 'missing', reason: 'acceptor.directory.missing' });
    await place(path, { directoryMode: 0o755 });
    expect(await modeOf(join(directory, 'public'))).toBe(0o755);
  });

  it.each([
    ['relative', 'a.sock', 'acceptor.path.relative'],
    ['zero byte', '/tmp/a\0b', 'acceptor.path.zero-byte'],
    ['108 bytes', `/tmp/${'x'.repeat(103)}`, 'acceptor.path.too-long'],
    ['108 bytes in fewer characters', `/tmp/${'é'.repeat(51)}x`, 'acceptor.path.too-long'],
  ])('refuses a path: %s', async (_, path, reason) => {
    await expect(place(path)).rejects.toMatchObject({ kind: 'invalid', reason });
  });

  it('takes a path of 107 bytes', async () => {
    const path = join(directory, 'x'.repeat(107 - directory.length - 1));
    expect(Buffer.byteLength(path)).toBe(107);
    await place(path);
    expect((await lstat(path)).isSocket()).toBe(true);
  });

  it('T-A14 replaces a dead socket of ours', async () => {
    const path = join(directory, 'a.sock');
    abandon(path);
    await place(path);
    const client = connect(path);
    await once(client, 'connect');
    client.destroy();
  });

  describe('T-A14 refuses and leaves alone', () => {
    it('a live socket', async () => {
      const path = join(directory, 'a.sock');
      const server: Server = createServer((socket) => socket.destroy()).listen(path);
      await once(server, 'listening');
      const before = await lstat(path);
      await expect(place(path)).rejects.toMatchObject({ kind: 'conflict', reason: 'acceptor.path.in-use' });
      expect((await lstat(path)).ino).toBe(before.ino);
      server.close();
    });

    it('one of our own that is open already', async () => {
      const path = join(directory, 'a.sock');
      await place(path);
      await expect(place(path)).rejects.toMatchObject({ reason: 'acceptor.path.in-use' });
      expect(await readdir(directory)).toEqual(['a.sock']);
    });

    it('a symbolic link, wherever it leads', async () => {
      const path = join(directory, 'a.sock');
      await symlink(join(directory, 'elsewhere'), path);
      await expect(place(path)).rejects.toMatchObject({ kind: 'conflict', reason: 'acceptor.path.symlink' });
      expect(await readdir(directory)).toEqual(['a.sock']);
    });

    it('a file', async () => {
      const path = join(directory, 'a.sock');
      await writeFile(path, 'precious');
      await expect(place(path)).rejects.toMatchObject({ kind: 'conflict', reason: 'acceptor.path.not-socket' });
      expect((await stat(path)).size).toBe(8);
    });

    it('a dead socket with a second name', async () => {
      const path = join(directory, 'a.sock');
      abandon(path);
      await link(path, join(directory, 'other'));
      await expect(place(path)).rejects.toMatchObject({ kind: 'conflict', reason: 'acceptor.path.hard-link' });
      expect((await readdir(directory)).toSorted()).toEqual(['a.sock', 'other']);
    });

    it.each([
      ['the directory itself', ['open'], 0o777],
      ['a directory above it', ['open', 'closed'], 0o777],
    ])('a world-writable way: %s', async (_, names, mode) => {
      const inner = join(directory, ...names);
      await mkdir(inner, { recursive: true });
      await chmod(join(directory, 'open'), mode);
      const reason = 'acceptor.directory.world-writable';
      await expect(place(join(inner, 'a.sock'))).rejects.toMatchObject({ kind: 'denied', reason });
      await chmod(join(directory, 'open'), 0o1777);
      await place(join(inner, 'a.sock'));
    });

    it.skipIf(effectiveUid() !== 0)('a dead socket of another user, and a directory of another user (needs root)', async () => {
      const { chown } = await import('node:fs/promises');
      const path = join(directory, 'a.sock');
      abandon(path);
      await chown(path, 4242, 4242);
      await expect(place(path)).rejects.toMatchObject({ kind: 'conflict', reason: 'acceptor.path.not-ours' });
      expect((await lstat(path)).uid).toBe(4242);
      const foreign = join(directory, 'foreign');
      await mkdir(foreign);
      await chown(foreign, 4242, 4242);
      await expect(place(join(foreign, 'a.sock'))).rejects.toMatchObject({ kind: 'denied', reason: 'acceptor.directory.owner' });
    });
  });

  it('T-A14 lets exactly one of two that start at once have the name', async () => {
    const path = join(directory, 'a.sock');
    const both = await Promise.allSettled([place(path), place(path)]);
    expect(both.map((one) => one.status).toSorted()).toEqual(['fulfilled', 'rejected']);
  });

  it('removes its own name and nobody else’s', async () => {
    const path = join(directory, 'a.sock');
    const first = await place(path);
    first.remove();
    first.remove();
    expect(await readdir(directory)).toEqual([]);
    const second = await place(path);
    await rm(path);
    abandon(path);
    second.remove();
    expect(await readdir(directory)).toEqual(['a.sock']);
  });
});
