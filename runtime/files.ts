/**
 * Durable owner-only files and directories: a write either leaves the old content or the new, and nobody else can read
 * it. What the content means, and sealing it, are left to others.
 */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import type { Stats } from 'node:fs';
import { lstat, mkdir, open, rename, unlink } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { geteuid } from 'node:process';
import { SpiffeError } from '../spiffe/errors.ts';

const ownerOnlyFile = 0o600;
const ownerOnlyDirectory = 0o700;
const othersMask = 0o077;

/**
 * Makes a directory that only its owner may enter, parents included, and checks one that is already there. The parents
 * that have to be made get the same mode.
 * @throws denied `files.mode`, `files.owner`, invalid `files.not-directory`, unavailable `files.io`
 */
export async function ensurePrivateDirectory(path: string): Promise<void> {
  await translated(path, () => mkdir(path, { recursive: true, mode: ownerOnlyDirectory }));
  await checkPrivateDirectory(path);
}

/**
 * @throws missing `files.missing`, denied `files.mode`, `files.owner`, invalid `files.not-directory`, unavailable `files.io`
 */
export async function checkPrivateDirectory(path: string): Promise<void> {
  const stats = await translated(path, () => lstat(path));
  if (!stats.isDirectory()) throw new SpiffeError('invalid', 'files.not-directory', `${path} is not a directory`);
  checkOwnerOnly(path, stats);
}

/**
 * Replaces the content of a file with mode 0600: a temporary beside it, synced, renamed over it, the directory synced.
 * Once resolved, the content survives a power loss. A symbolic link at `path` is replaced, not followed.
 * @throws unavailable `files.full|io`, denied `files.access`, missing `files.missing` (the directory)
 */
export async function writePrivateFile(path: string, content: string | Uint8Array): Promise<void> {
  const directory = dirname(path);
  const temporary = join(directory, `.${basename(path)}.${randomBytes(6).toString('hex')}.tmp`);
  await translated(path, async () => {
    let handle: FileHandle | undefined;
    try {
      const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW;
      handle = await open(temporary, flags, ownerOnlyFile);
      // The mode given to open is narrowed by the umask, which could take the owner's own bits.
      await handle.chmod(ownerOnlyFile);
      await handle.writeFile(content);
      await handle.sync();
      await handle.close();
      handle = undefined;
      await rename(temporary, path);
    } catch (error) {
      await handle?.close().catch(() => undefined);
      await unlink(temporary).catch(() => undefined);
      throw error;
    }
    await syncDirectory(directory);
  });
}

/**
 * Reads a file that only its owner may read or write; the checks are made on the opened file, not on its name.
 * @param maxBytes larger files are refused
 * @throws missing `files.missing`, denied `files.mode|owner|symlink|access`, invalid `files.not-file|size`, unavailable `files.io`
 */
export async function readPrivateFile(path: string, maxBytes: number = 16 * 1024 * 1024): Promise<Buffer> {
  return readChecked(path, maxBytes, checkOwnerOnly);
}

/**
 * Reads a file whose content is no secret but must not be changed by others, such as a bundle or a config: it belongs to
 * the running user or to root, and no one else may write it. Symbolic links are followed, as mounted config maps are links.
 * @throws as `readPrivateFile`
 */
export async function readTrustedFile(path: string, maxBytes: number = 16 * 1024 * 1024): Promise<Buffer> {
  return readChecked(path, maxBytes, checkTrusted, constants.O_RDONLY);
}

/**
 * Removes a file durably; one that is not there is fine.
 * @throws unavailable `files.io`, denied `files.access`
 */
export async function removeFile(path: string): Promise<void> {
  await translated(path, async () => {
    try {
      await unlink(path);
    } catch (error) {
      if (systemCode(error) === 'ENOENT') return;
      throw error;
    }
    await syncDirectory(dirname(path));
  });
}

async function readChecked(
  path: string,
  maxBytes: number,
  check: (path: string, stats: Stats) => void,
  flags: number = constants.O_RDONLY | constants.O_NOFOLLOW,
): Promise<Buffer> {
  return translated(path, async () => {
    // Without O_NONBLOCK a FIFO at this place would hold the open forever.
    const handle = await open(path, flags | constants.O_NONBLOCK);
    try {
      const stats = await handle.stat();
      if (!stats.isFile()) throw new SpiffeError('invalid', 'files.not-file', `${path} is not a regular file`);
      check(path, stats);
      if (stats.size > maxBytes) {
        throw new SpiffeError('invalid', 'files.size', `${path} is larger than ${maxBytes} bytes`);
      }
      return await handle.readFile();
    } finally {
      await handle.close();
    }
  });
}

function checkOwnerOnly(path: string, stats: Stats): void {
  const self = geteuid?.();
  if (self !== undefined && stats.uid !== self) {
    throw new SpiffeError('denied', 'files.owner', `${path} belongs to user ${stats.uid}, not to user ${self}`, {
      detail: { path, owner: stats.uid },
    });
  }
  if ((stats.mode & othersMask) !== 0) throw modeError(path, stats, 'accessible to others; remove their rights');
}

function checkTrusted(path: string, stats: Stats): void {
  const self = geteuid?.();
  if (self !== undefined && stats.uid !== self && stats.uid !== 0) {
    throw new SpiffeError('denied', 'files.owner', `${path} belongs to user ${stats.uid}, not to user ${self} or root`, {
      detail: { path, owner: stats.uid },
    });
  }
  if ((stats.mode & 0o022) !== 0) throw modeError(path, stats, 'writable by others; remove their right to write');
}

function modeError(path: string, stats: Stats, what: string): SpiffeError {
  const mode = (stats.mode & 0o7777).toString(8).padStart(4, '0');
  return new SpiffeError('denied', 'files.mode', `${path} has mode ${mode}: ${what}`, { detail: { path, mode } });
}

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Runs work on files; system codes become ours here, once.
 * @throws missing `files.missing`, denied `files.symlink|access`, invalid `files.not-directory`, unavailable `files.full|io`
 */
export async function translated<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof SpiffeError) throw error;
    throw fileError(path, error);
  }
}

function fileError(path: string, cause: unknown): SpiffeError {
  const code = systemCode(cause);
  const context = { detail: { path, code }, cause };
  switch (code) {
    case 'ENOENT':
      return new SpiffeError('missing', 'files.missing', `${path} does not exist`, context);
    case 'ELOOP':
      return new SpiffeError('denied', 'files.symlink', `${path} is a symbolic link`, context);
    case 'EACCES':
    case 'EPERM':
    case 'EROFS':
      return new SpiffeError('denied', 'files.access', `${path}: no permission (${code})`, context);
    case 'ENOTDIR':
    case 'EEXIST':
      return new SpiffeError('invalid', 'files.not-directory', `${path}: a part of the path is not a directory`, context);
    case 'ENOSPC':
    case 'EDQUOT':
      return new SpiffeError('unavailable', 'files.full', `${path}: no space left`, context);
    default:
      return new SpiffeError('unavailable', 'files.io', `${path}: input or output failed (${code})`, context);
  }
}

function systemCode(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'unknown';
}
