/**
 * The system calls Node does not offer: Unix sockets with peer credentials, pidfds, epoll, eventfd, file locks and the
 * datagram systemd listens to. The only file that reaches native code; what the calls are good for is decided elsewhere.
 */
import { arch, constants } from 'node:os';
import koffi from 'koffi';
import { SpiffeError } from '../spiffe/errors.ts';

const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SO_PEERPIDFD = 77;
const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_DGRAM = 2;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const MSG_NOSIGNAL = 0x4000;
const EFD_NONBLOCK_CLOEXEC = 0o2004000;
const EPOLL_CLOEXEC = 0o2000000;
const LOCK_EX = 2;
const LOCK_NB = 4;
const POLLIN = 1;
/** The same on every architecture: it came after the numbers were unified. */
const SYS_PIDFD_OPEN = 434;
const SYS_PIDFD_SEND_SIGNAL = 424;
const SYS_OPENAT2 = 437;
const O_PATH = 0o10000000;
const O_CLOEXEC = 0o2000000;
const RESOLVE_NO_MAGICLINKS = 2n;
const RESOLVE_IN_ROOT = 16n;

export const EPOLLIN = 1;
export const EPOLLONESHOT = 1 << 30;

const { errno } = constants;
const errnoNames: ReadonlyMap<number, string> = new Map(Object.entries(errno).map(([name, value]) => [value, name]));

/** A failed call: `code` as Node spells it (`ENOENT`). Never leaves `runtime/`: callers translate it. */
export class SystemCallError extends Error {
  readonly call: string;
  readonly code: string;

  constructor(call: string, number: number) {
    const code = errnoNames.get(number) ?? `errno ${String(number)}`;
    super(`${call}: ${code}`);
    this.name = 'SystemCallError';
    this.call = call;
    this.code = code;
  }
}

type Native = (...args: readonly (number | string | Buffer | null)[]) => number;

interface Calls {
  readonly socket: Native;
  readonly socketpair: Native;
  readonly bind: Native;
  readonly listen: Native;
  readonly connect: Native;
  readonly accept4: Native;
  readonly getsockopt: Native;
  readonly sendto: Native;
  readonly close: Native;
  readonly poll: Native;
  readonly epollCreate: Native;
  readonly epollControl: Native;
  readonly epollWait: Native;
  readonly eventfd: Native;
  readonly eventfdWrite: Native;
  readonly read: Native;
  readonly flock: Native;
  readonly getpid: Native;
  readonly geteuid: Native;
  readonly getegid: Native;
  readonly kill: Native;
  readonly syscall: Native;
}

let loaded: Calls | undefined;

/** Found in the running program itself, so that glibc and musl need no telling apart. */
function libc(): Calls {
  if (loaded !== undefined) return loaded;
  if (arch() !== 'x64' && arch() !== 'arm64') {
    throw new SpiffeError(
      'unsupported',
      'linux.architecture',
      `no system call layout for ${arch()}`,
      { detail: { arch: arch() } },
    );
  }
  try {
    const library = koffi.load(null);
    const find = (definition: string): Native => library.func(definition) as Native;
    loaded = {
      socket: find('int socket(int domain, int type, int protocol)'),
      socketpair: find('int socketpair(int domain, int type, int protocol, void *pair)'),
      bind: find('int bind(int fd, void *address, unsigned int length)'),
      listen: find('int listen(int fd, int backlog)'),
      connect: find('int connect(int fd, void *address, unsigned int length)'),
      accept4: find('int accept4(int fd, void *address, void *length, int flags)'),
      getsockopt: find('int getsockopt(int fd, int level, int name, void *value, void *length)'),
      sendto: find('long sendto(int fd, void *bytes, unsigned long size, int flags, void *address, unsigned int length)'),
      close: find('int close(int fd)'),
      poll: find('int poll(void *fds, unsigned long count, int timeout)'),
      epollCreate: find('int epoll_create1(int flags)'),
      epollControl: find('int epoll_ctl(int epoll, int operation, int fd, void *event)'),
      epollWait: find('int epoll_wait(int epoll, void *events, int count, int timeout)'),
      eventfd: find('int eventfd(unsigned int value, int flags)'),
      eventfdWrite: find('int eventfd_write(int fd, uint64_t value)'),
      read: find('long read(int fd, void *bytes, unsigned long size)'),
      flock: find('int flock(int fd, int operation)'),
      getpid: find('int getpid()'),
      geteuid: find('unsigned int geteuid()'),
      getegid: find('unsigned int getegid()'),
      kill: find('int kill(int pid, int signal)'),
      syscall: find('long syscall(long number, ...)'),
    };
  } catch (error) {
    throw new SpiffeError(
      'unsupported',
      'linux.native',
      'the native call layer cannot be loaded on this platform',
      { cause: error },
    );
  }
  return loaded;
}

function check(call: string, result: number): number {
  if (result < 0) throw new SystemCallError(call, koffi.errno());
  return result;
}

/** The code of a failed system call, whether it came through here or through Node; undefined for anything else. */
export function systemCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error) || typeof error.code !== 'string') return undefined;
  return error.code;
}

/** `sun_path` holds 108 bytes with its closing zero. */
export const longestSocketPath = 107;

/** A leading `@` or zero byte names an abstract address. */
function unixAddress(path: string): Buffer {
  const name = Buffer.from(path.startsWith('@') ? `\0${path.slice(1)}` : path);
  if (name.length === 0 || name.length > longestSocketPath) throw new SystemCallError('sockaddr_un', errno.ENAMETOOLONG);
  const abstract = name[0] === 0;
  const address = Buffer.alloc(2 + name.length + (abstract ? 0 : 1));
  address.writeUInt16LE(AF_UNIX, 0);
  name.copy(address, 2);
  return address;
}

/** A Unix stream socket, non-blocking, not inherited. The caller closes it. */
export function openStreamSocket(): number {
  return check('socket', libc().socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
}

export function bindSocket(fd: number, path: string): void {
  const address = unixAddress(path);
  check('bind', libc().bind(fd, address, address.length));
}

export function listenSocket(fd: number, backlog: number): void {
  check('listen', libc().listen(fd, backlog));
}

export function connectSocket(fd: number, path: string): void {
  const address = unixAddress(path);
  check('connect', libc().connect(fd, address, address.length));
}

/** @returns the new descriptor, non-blocking, owned by the caller; undefined when nobody waits (or who waited left) */
export function acceptConnection(listener: number): number | undefined {
  const fd = libc().accept4(listener, null, null, SOCK_NONBLOCK | SOCK_CLOEXEC);
  if (fd >= 0) return fd;
  const number = koffi.errno();
  if (number === errno.EAGAIN || number === errno.ECONNABORTED || number === errno.EINTR) return undefined;
  throw new SystemCallError('accept4', number);
}

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

const credentials = Buffer.alloc(12);
const optionLength = Buffer.alloc(4);

/** Who called `connect()`, as of that instant. */
export function peerCredentials(fd: number): PeerCredentials {
  optionLength.writeUInt32LE(credentials.length, 0);
  check('SO_PEERCRED', libc().getsockopt(fd, SOL_SOCKET, SO_PEERCRED, credentials, optionLength));
  return { pid: credentials.readInt32LE(0), uid: credentials.readUInt32LE(4), gid: credentials.readUInt32LE(8) };
}

/** A pidfd of who called `connect()`, dead or alive (Linux 6.5). The caller closes it. */
export function peerPidfd(fd: number): number {
  optionLength.writeUInt32LE(4, 0);
  check('SO_PEERPIDFD', libc().getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, credentials, optionLength));
  return credentials.readInt32LE(0);
}

/** A pidfd of whoever holds this number now (Linux 5.3). The caller closes it. */
export function openPidfd(pid: number): number {
  return check('pidfd_open', libc().syscall(SYS_PIDFD_OPEN, 'int', pid, 'unsigned int', 0));
}

const pollEntry = Buffer.alloc(8);

/** Whether the process has exited, reaped or not. */
export function pidfdExited(pidfd: number): boolean {
  pollEntry.writeInt32LE(pidfd, 0);
  pollEntry.writeInt32LE(POLLIN, 4);
  return check('poll', libc().poll(pollEntry, 1, 0)) !== 0;
}

/** Sends a signal to the process behind a pidfd and to no other (Linux 5.1). */
export function signalPidfd(pidfd: number, signal: NodeJS.Signals): void {
  const number = constants.signals[signal];
  check('pidfd_send_signal', libc().syscall(SYS_PIDFD_SEND_SIGNAL, 'int', pidfd, 'int', number, 'void *', null, 'unsigned int', 0));
}

/** Sends a signal to every process of a group, some of which may be gone; a group without processes is fine. */
export function signalGroup(leader: number, signal: NodeJS.Signals): void {
  if (leader > 1) libc().kill(-leader, constants.signals[signal]);
}

/**
 * Looks up a path as a process whose root is `root` does: links, absolute ones and `..` too, stay below it, and none of the
 * kernel's own in /proc is followed (Linux 5.6). Nothing is opened but the place, so no device wakes and no pipe waits.
 * @returns a descriptor to ask for the file's state or to open again by `/proc/self/fd`; the caller closes it
 */
export function locateBeneath(root: number, path: string): number {
  const how = Buffer.alloc(24);
  how.writeBigUInt64LE(BigInt(O_PATH | O_CLOEXEC), 0);
  how.writeBigUInt64LE(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, 16);
  const name = Buffer.from(`${path}\0`);
  return check('openat2', libc().syscall(SYS_OPENAT2, 'int', root, 'void *', name, 'void *', how, 'unsigned long', how.length));
}

/** Two connected stream sockets; the caller closes both. */
export function openSocketPair(): readonly [number, number] {
  const pair = Buffer.alloc(8);
  check('socketpair', libc().socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair));
  return [pair.readInt32LE(0), pair.readInt32LE(4)];
}

/** Only for descriptors no Node object owns. A failing close has closed all the same, so nothing is thrown. */
export function closeDescriptor(fd: number): void {
  if (fd >= 0) libc().close(fd);
}

/** A counter that wakes an epoll; the caller closes it. */
export function openEventfd(): number {
  return check('eventfd', libc().eventfd(0, EFD_NONBLOCK_CLOEXEC));
}

/** A counter already at its top has its reader woken, so that failure is none. */
export function signalEventfd(fd: number): void {
  libc().eventfdWrite(fd, 1);
}

const drained = Buffer.alloc(8);

export function drainEventfd(fd: number): void {
  libc().read(fd, drained, drained.length);
}

export function tryLockFile(fd: number): boolean {
  if (libc().flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  const number = koffi.errno();
  if (number === errno.EWOULDBLOCK || number === errno.EINTR) return false;
  throw new SystemCallError('flock', number);
}

export function ownPid(): number {
  return libc().getpid();
}

export function effectiveUid(): number {
  return libc().geteuid();
}

export function effectiveGid(): number {
  return libc().getegid();
}

/**
 * One message to the service manager (`READY=1`, `WATCHDOG=1`, `STATUS=…`), as sd_notify(3) has it.
 * @param address what NOTIFY_SOCKET says
 * @throws unavailable `linux.notify`
 */
export function notifyServiceManager(address: string, message: string): void {
  let fd = -1;
  try {
    fd = check('socket', libc().socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const to = unixAddress(address);
    const bytes = Buffer.from(message);
    check('sendto', libc().sendto(fd, bytes, bytes.length, MSG_NOSIGNAL, to, to.length));
  } catch (error) {
    throw new SpiffeError('unavailable', 'linux.notify', 'the service manager could not be told', { cause: error });
  } finally {
    closeDescriptor(fd);
  }
}

/** One epoll instance and the buffer it fills; `tag` is a number below 2^32 that comes back with each event. */
export interface Epoll {
  add(fd: number, tag: number, events: number): void;
  change(fd: number, tag: number, events: number): void;
  /** Waits in native code, a negative timeout for ever. @returns the tags that are ready, valid until the next call */
  wait(timeoutMs: number): readonly number[];
  close(): void;
}

const EPOLL_CTL_ADD = 1;
const EPOLL_CTL_MOD = 3;

/** x86_64 packs `struct epoll_event` to 12 bytes; everywhere else its 64 bits of data are aligned. */
const eventLayout = arch() === 'x64' ? { size: 12, data: 4 } : { size: 16, data: 8 };

export function openEpoll(capacity: number): Epoll {
  const calls = libc();
  const epoll = check('epoll_create1', calls.epollCreate(EPOLL_CLOEXEC));
  const one = Buffer.alloc(eventLayout.size);
  const many = Buffer.alloc(eventLayout.size * capacity);
  const tags: number[] = [];
  const control = (operation: number, fd: number, tag: number, events: number): void => {
    one.writeUInt32LE(events >>> 0, 0);
    one.writeUInt32LE(tag, eventLayout.data);
    one.writeUInt32LE(0, eventLayout.data + 4);
    check('epoll_ctl', calls.epollControl(epoll, operation, fd, one));
  };
  return {
    add: (fd, tag, events) => control(EPOLL_CTL_ADD, fd, tag, events),
    change: (fd, tag, events) => control(EPOLL_CTL_MOD, fd, tag, events),
    wait(timeoutMs) {
      const count = calls.epollWait(epoll, many, capacity, timeoutMs);
      tags.length = 0;
      if (count < 0) {
        const number = koffi.errno();
        if (number === errno.EINTR) return tags;
        throw new SystemCallError('epoll_wait', number);
      }
      for (let i = 0; i < count; i += 1) tags.push(many.readUInt32LE(i * eventLayout.size + eventLayout.data));
      return tags;
    },
    close: () => closeDescriptor(epoll),
  };
}
