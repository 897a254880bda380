/**
 * The file of a listening Unix socket: put in place only where nobody else can tamper with it, never open wider than
 * asked, removed only if it is still ours. Who connects to it is left to the acceptor.
 */
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  realpathSync,
  unlinkSync,
} from 'node:fs';
import type { Stats } from 'node:fs';
import { basename, dirname, isAbsolute, join, parse, sep } from 'node:path';
import { SpiffeError } from '../spiffe/errors.ts';
import type { ErrorContext } from '../spiffe/errors.ts';
import {
  bindSocket,
  closeDescriptor,
  connectSocket,
  effectiveUid,
  listenSocket,
  longestSocketPath,
  openStreamSocket,
  systemCode,
  tryLockFile,
} from './linux.ts';
import type { Clock } from './clock.ts';

export interface SocketFileOptions {
  readonly path: string;
  /** Permission bits of the socket file, `0o777` or less. */
  readonly mode: number;
  /** Connections the kernel may hold before they are accepted. */
  readonly backlog: number;
  /** Creates the directory with this mode when it is missing; without it a missing directory is refused. */
  readonly directoryMode?: number;
}

export interface SocketFile {
  /** Listening, non-blocking; whoever takes it closes it. */
  readonly descriptor: number;
  /** Takes the name away if it is still this socket's; safe to call twice. */
  remove(): void;
}

/**
 * @throws invalid `acceptor.path.relative|zero-byte|too-long`; conflict `acceptor.path.in-use|symlink|not-socket|
 * not-ours|hard-link|busy`; denied `acceptor.directory.world-writable|owner`; missing `acceptor.directory.missing`;
 * unavailable `acceptor.path.failed`
 */
export async function openSocketFile(options: SocketFileOptions, clock: Clock): Promise<SocketFile> {
  checkPath(options.path);
  try {
    return await place(options, clock);
  } catch (error) {
    if (error instanceof SpiffeError) throw error;
    const code = systemCode(error) ?? 'unknown';
    throw new SpiffeError(
      'unavailable',
      'acceptor.path.failed',
      `the socket file could not be made: ${code}`,
      about(options.path, error),
    );
  }
}

function about(path: string, cause?: unknown): ErrorContext {
  return { detail: { path: path.slice(0, 4096) }, cause };
}

function checkPath(path: string): void {
  if (!isAbsolute(path)) {
    throw new SpiffeError('invalid', 'acceptor.path.relative', 'a socket path must be absolute', about(path));
  }
  if (path.includes('\0')) throw new SpiffeError('invalid', 'acceptor.path.zero-byte', 'a socket path holds no zero byte');
  if (Buffer.byteLength(path) > longestSocketPath) {
    const message = `a socket path has at most ${String(longestSocketPath)} bytes`;
    throw new SpiffeError('invalid', 'acceptor.path.too-long', message, about(path));
  }
}

async function place(options: SocketFileOptions, clock: Clock): Promise<SocketFile> {
  const directory = openDirectory(dirname(options.path), options.directoryMode);
  let descriptor = -1;
  let lock = -1;
  try {
    // Names are reached through the descriptor, so that a directory swapped meanwhile is not the one written to.
    const within = `/proc/self/fd/${String(directory)}`;
    const final = join(within, basename(options.path));
    lock = openSync(`${within}/.`, constants.O_RDONLY | constants.O_DIRECTORY);
    await lockDirectory(lock, options.path, clock);
    clearName(final, options.path);
    const draft = join(within, `.${randomBytes(6).toString('hex')}.sock`);
    descriptor = openStreamSocket();
    // The mode of an unbound socket is the upper bound of its file's mode.
    fchmodSync(descriptor, options.mode);
    bindSocket(descriptor, draft);
    const inode = publish(draft, final, descriptor, options);
    return { descriptor, remove: once(() => removeOwn(final, inode, directory)) };
  } catch (error) {
    closeDescriptor(descriptor);
    closeSync(directory);
    throw error;
  } finally {
    // Node keeps account of what it opened in a worker thread, so what Node opened, Node closes.
    if (lock >= 0) closeSync(lock);
  }
}

/** Gives the socket its exact mode, then its name; a name taken meanwhile is not overwritten. @returns `device:inode` */
function publish(draft: string, final: string, descriptor: number, options: SocketFileOptions): string {
  try {
    chmodSync(draft, options.mode);
    listenSocket(descriptor, options.backlog);
    const inode = identity(lstatSync(draft));
    linkSync(draft, final);
    return inode;
  } catch (error) {
    if (systemCode(error) !== 'EEXIST') throw error;
    throw new SpiffeError(
      'conflict',
      'acceptor.path.in-use',
      'the socket path was taken by another program',
      about(options.path, error),
    );
  } finally {
    unlinkSync(draft);
  }
}

function removeOwn(final: string, inode: string, directory: number): void {
  try {
    if (identity(lstatSync(final)) === inode) unlinkSync(final);
  } catch (error) {
    // Taken away by somebody else, which is what was wanted; and no way out of a read-only file system at the end.
    if (systemCode(error) === undefined) throw error;
  } finally {
    closeSync(directory);
  }
}

function once(act: () => void): () => void {
  let done = false;
  return () => {
    if (done) return;
    done = true;
    act();
  };
}

function identity(stats: Stats): string {
  return `${String(stats.dev)}:${String(stats.ino)}`;
}

/** Programs that start at once take turns from looking at the name to holding it. Closing the descriptor unlocks. */
async function lockDirectory(lock: number, path: string, clock: Clock): Promise<void> {
  for (let attempt = 0; attempt < 40; attempt += 1) {
    if (tryLockFile(lock)) return;
    await clock.sleep(25);
  }
  throw new SpiffeError(
    'conflict',
    'acceptor.path.busy',
    'another program keeps the directory of the socket locked',
    about(path),
  );
}

/** Makes sure that nothing bears the name, or says what does. */
function clearName(final: string, path: string): void {
  let stats: Stats;
  try {
    stats = lstatSync(final);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return;
    throw error;
  }
  if (stats.isSymbolicLink()) {
    throw new SpiffeError('conflict', 'acceptor.path.symlink', 'the socket path is a symbolic link', about(path));
  }
  if (!stats.isSocket()) {
    throw new SpiffeError('conflict', 'acceptor.path.not-socket', 'the socket path holds something else', about(path));
  }
  if (isLive(final)) throw new SpiffeError('conflict', 'acceptor.path.in-use', 'another program serves this socket', about(path));
  if (stats.uid !== effectiveUid()) {
    throw new SpiffeError('conflict', 'acceptor.path.not-ours', 'a dead socket of another user is in the way', about(path));
  }
  if (stats.nlink !== 1) {
    throw new SpiffeError('conflict', 'acceptor.path.hard-link', 'a dead socket with a second name is in the way', about(path));
  }
  unlinkSync(final);
}

/** Only a refused connection proves that nobody serves it: a full backlog or a missing permission does not. */
function isLive(path: string): boolean {
  const probe = openStreamSocket();
  try {
    connectSocket(probe, path);
    return true;
  } catch (error) {
    return systemCode(error) !== 'ECONNREFUSED';
  } finally {
    closeDescriptor(probe);
  }
}

/** @returns an open descriptor of a directory that only root, this user and those they trust can change names in */
function openDirectory(named: string, mode: number | undefined): number {
  if (mode !== undefined) createDirectory(named, mode);
  let real: string;
  try {
    real = realpathSync(named);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
    throw new SpiffeError(
      'missing',
      'acceptor.directory.missing',
      'the directory of the socket does not exist',
      about(named, error),
    );
  }
  for (const path of ancestors(real)) checkDirectory(lstatSync(path), path);
  const directory = openSync(real, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    const stats = fstatSync(directory);
    checkDirectory(stats, real);
    if (stats.uid !== 0 && stats.uid !== effectiveUid()) {
      throw new SpiffeError(
        'denied',
        'acceptor.directory.owner',
        'the directory of the socket belongs to another user',
        about(real),
      );
    }
    return directory;
  } catch (error) {
    closeSync(directory);
    throw error;
  }
}

function createDirectory(path: string, mode: number): void {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  try {
    mkdirSync(path, { mode });
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return;
    throw error;
  }
  chmodSync(path, mode);
}

function* ancestors(path: string): Iterable<string> {
  let at = parse(path).root;
  yield at;
  for (const name of path.split(sep).slice(1, -1)) yield (at = join(at, name));
}

function checkDirectory(stats: Stats, path: string): void {
  if ((stats.mode & 0o1002) !== 0o002) return;
  throw new SpiffeError(
    'denied',
    'acceptor.directory.world-writable',
    'everybody can change names on the way to the socket',
    about(path),
  );
}
