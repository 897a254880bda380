import { closeSync, fstatSync, openSync, readFileSync, readSync, readdirSync } from 'node:fs';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  EPOLLIN,
  EPOLLONESHOT,
  acceptConnection,
  bindSocket,
  closeDescriptor,
  connectSocket,
  drainEventfd,
  listenSocket,
  locateBeneath,
  notifyServiceManager,
  openEpoll,
  openEventfd,
  openPidfd,
  openStreamSocket,
  ownPid,
  peerCredentials,
  pidfdExited,
  signalEventfd,
  systemCode,
} from '../../runtime/linux.ts';

let directory: string;
let owned: number[];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'steeple-linux-'));
  owned = [];
});
afterEach(async () => {
  for (const fd of owned) closeDescriptor(fd);
  await rm(directory, { recursive: true, force: true });
});

function own(fd: number): number {
  owned.push(fd);
  return fd;
}

function codeOf(act: () => unknown): string | undefined {
  try {
    act();
    return undefined;
  } catch (error) {
    return systemCode(error);
  }
}

describe('places', () => {
  it('T-A05 are found below a root, whatever links and dots say, and are not opened', async () => {
    await mkdir(join(directory, 'root/sub'), { recursive: true });
    await writeFile(join(directory, 'file'), 'outside');
    await writeFile(join(directory, 'root/file'), 'inside');
    await symlink('/file', join(directory, 'root/absolute'));
    await symlink('../../../../file', join(directory, 'root/sub/dots'));
    await symlink(join(directory, 'file'), join(directory, 'root/outside'));
    const root = openSync(join(directory, 'root'), 'r');
    try {
      for (const path of ['/file', 'file', '/absolute', '/sub/dots', '/../../file']) {
        expect(readFileSync(`/proc/self/fd/${String(own(locateBeneath(root, path)))}`, 'utf8')).toBe('inside');
      }
      expect(codeOf(() => locateBeneath(root, '/outside'))).toBe('ENOENT');
    } finally {
      closeSync(root);
    }
    const host = openSync('/', 'r');
    try {
      expect(codeOf(() => locateBeneath(host, '/proc/self/root'))).toBe('ELOOP');
      const place = own(locateBeneath(host, '/dev/tty'));
      expect(fstatSync(place).isCharacterDevice()).toBe(true);
      expect(codeOf(() => readSync(place, Buffer.alloc(1)))).toBe('EBADF');
    } finally {
      closeSync(host);
    }
  });
});

describe('sockets', () => {
  it('name the process that connected', () => {
    const path = join(directory, 'a.sock');
    const listener = own(openStreamSocket());
    bindSocket(listener, path);
    expect(codeOf(() => connectSocket(own(openStreamSocket()), path))).toBe('ECONNREFUSED');
    listenSocket(listener, 4);
    expect(acceptConnection(listener)).toBeUndefined();
    connectSocket(own(openStreamSocket()), path);
    const connection = acceptConnection(listener);
    expect(connection).toBeDefined();
    const credentials = peerCredentials(own(connection!));
    expect(credentials).toEqual({ pid: process.pid, uid: process.geteuid?.(), gid: process.getegid?.() });
    expect(ownPid()).toBe(process.pid);
  });

  it('say which call failed with which code', () => {
    expect(codeOf(() => bindSocket(own(openStreamSocket()), join(directory, 'no', 'a.sock')))).toBe('ENOENT');
    expect(codeOf(() => connectSocket(own(openStreamSocket()), join(directory, 'x'.repeat(108))))).toBe('ENAMETOOLONG');
    expect(codeOf(() => acceptConnection(-1))).toBe('EBADF');
    expect(codeOf(() => openPidfd(0x3fff_ffff))).toBe('ESRCH');
  });
});

describe('openEpoll', () => {
  it('tells several tags apart, once each where asked', () => {
    const epoll = openEpoll(8);
    const fds = [0xffff_ffff, 7, 1_000_000].map((tag) => ({ tag, fd: own(openEventfd()) }));
    for (const { fd, tag } of fds) epoll.add(fd, tag, tag === 7 ? EPOLLIN | EPOLLONESHOT : EPOLLIN);
    expect(epoll.wait(0)).toEqual([]);
    for (const { fd } of fds) signalEventfd(fd);
    expect(new Set(epoll.wait(-1))).toEqual(new Set([0xffff_ffff, 7, 1_000_000]));
    expect(new Set(epoll.wait(0))).toEqual(new Set([0xffff_ffff, 1_000_000]));
    drainEventfd(fds[0]!.fd);
    epoll.change(fds[2]!.fd, 1_000_000, 0);
    expect(epoll.wait(0)).toEqual([]);
    epoll.change(fds[2]!.fd, 5, EPOLLIN);
    expect(epoll.wait(0)).toEqual([5]);
    epoll.close();
  });

  it('wakes for a process that exits, dead or reaped', async () => {
    const child = spawn('/bin/sleep', ['60'], { stdio: 'ignore' });
    const exit = once(child, 'exit');
    const pidfd = own(openPidfd(child.pid ?? -1));
    const epoll = openEpoll(1);
    epoll.add(pidfd, 3, EPOLLIN);
    expect(epoll.wait(0)).toEqual([]);
    expect(pidfdExited(pidfd)).toBe(false);
    child.kill('SIGKILL');
    expect(epoll.wait(-1)).toEqual([3]);
    expect(pidfdExited(pidfd)).toBe(true);
    await exit;
    expect(pidfdExited(pidfd)).toBe(true);
    epoll.close();
  });
});

describe('notifyServiceManager', () => {
  type Socket = (domain: number, type: number, protocol: number) => number;
  const socket = koffi.load(null).func('int socket(int domain, int type, int protocol)') as Socket;

  function receiver(address: string): () => string {
    const fd = own(socket(1, 2 | 0o4000, 0));
    bindSocket(fd, address);
    const bytes = Buffer.alloc(256);
    return () => bytes.toString('utf8', 0, readSync(fd, bytes));
  }

  it.each(['path', 'abstract'])('sends one datagram to a %s address', (form) => {
    const address = form === 'path' ? join(directory, 'notify') : `@steeple-test-${String(process.pid)}`;
    const next = receiver(address);
    notifyServiceManager(address, 'READY=1\nSTATUS=serving');
    expect(next()).toBe('READY=1\nSTATUS=serving');
  });

  it('says so when nobody listens, and keeps no descriptor', () => {
    const sockets = (): number => readdirSync('/proc/self/fd').length;
    const before = sockets();
    for (let n = 0; n < 50; n += 1) {
      expect(() => notifyServiceManager(join(directory, 'nobody'), 'READY=1')).toThrow(
        expect.objectContaining({ kind: 'unavailable', reason: 'linux.notify' }),
      );
    }
    expect(sockets()).toBeLessThan(before + 40);
  });
});
