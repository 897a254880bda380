/**
 * A directory of files that belong together, such as a certificate and its key: replaced all at once by one rename, with an
 * owner and modes of their own. What is in the files, and who is told of new ones, is left to others.
 *
 * `NAME` is a link to `current/NAME`, `current` a link to a directory of one generation. At every instant, and after a
 * crash or a power loss at any, the names lead to one whole generation. Who opens two of them while `current` changes in
 * between has one of each, which no file system can prevent; who opens `current` first, and the files in it, never does.
 */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import {
  chmod,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  symlink,
  unlink,
  type FileHandle,
} from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { SpiffeError } from '../spiffe/errors.ts';
import { translated } from './files.ts';
import { effectiveUid, systemCode, tryLockFile } from './linux.ts';
import { weaknessAbove } from './path-owners.ts';

export interface SecretFile {
  /** Of the forms that `isFileName` takes. */
  readonly name: string;
  readonly content: string;
  /** Permission bits. */
  readonly mode: number;
}

/** Absent: as the writing process has it. */
export interface FileOwner {
  readonly uid?: number;
  readonly gid?: number;
}

export interface SecretDirectoryOptions {
  /** Absolute, without links on the way; made when only its last part is missing. */
  readonly path: string;
  /** Asked before every write, so that accounts may come later. */
  readonly owner?: () => Promise<FileOwner>;
  /** Told before each step that changes the directory. */
  readonly onStep?: (step: string) => Promise<void> | void;
}

/** `settled` once `settle` was called for just these files and whoever was told; `written` when they are there; else `other`. */
export type DirectoryState = 'settled' | 'written' | 'other';

/** One writer at a time, in this process and in others. To be closed. */
export interface SecretDirectory {
  /** Whether the directory holds exactly these files, with their modes and owner, and whether these were told of them. */
  state(files: readonly SecretFile[], told: string): Promise<DirectoryState>;
  /** The generation before stays until `settle`, for who has opened `current`. */
  replace(files: readonly SecretFile[]): Promise<void>;
  /** Remembers who was told of the files, and removes all other generations. */
  settle(told: string): Promise<void>;
  /** Removes what `replace` put there; whether there was anything. */
  clear(): Promise<boolean>;
  close(): Promise<void>;
}

const current = 'current';
const marker = '.settled';
const generationForm = /^\.generation-[0-9a-f]{16}$/;
const draftForm = /^\.draft-[0-9a-f]{16}$/;
const directoryMode = 0o755;
const maxFileBytes = 16 * 1024 * 1024;

/** Whether a file of a set may be called so: one plain name that hides nothing and is none of the directory's own. */
export function isFileName(name: string): boolean {
  return /^[A-Za-z0-9_][A-Za-z0-9._-]{0,199}$/.test(name) && name !== current;
}

/**
 * Nothing is looked at before the first use. Every method
 * @throws denied `secret-files.path|owner|writable`, conflict `secret-files.in-use|in-the-way`,
 *   invalid `secret-files.not-absolute`, and as `translated`
 */
export function createSecretDirectory(options: SecretDirectoryOptions): SecretDirectory {
  const { path } = options;
  let held: FileHandle | undefined;

  /** Through the descriptor, so that a directory swapped meanwhile is not the one written to. */
  const within = (handle: FileHandle, ...names: readonly string[]): string => join(`/proc/self/fd/${handle.fd}`, ...names);

  const place = async (create: boolean): Promise<FileHandle> => {
    if (held !== undefined && (await isStillThere(path, held))) return held;
    await held?.close();
    held = undefined;
    held = await openPlace(path, create);
    return held;
  };

  const step = async (name: string): Promise<void> => {
    await options.onStep?.(name);
  };

  const replace = async (files: readonly SecretFile[]): Promise<void> => {
    const owner = (await options.owner?.()) ?? {};
    const handle = await place(true);
    await requireFree(handle, files);
    await prune(handle, await generationOf(handle));
    const generation = `.generation-${randomBytes(8).toString('hex')}`;
    try {
      await step('make the generation');
      await mkdir(within(handle, generation), { mode: 0o700 });
      for (const file of files) {
        await step(`write ${file.name}`);
        await writeOne(within(handle, generation, file.name), file, owner);
      }
      await step('open the generation');
      await chmod(within(handle, generation), directoryMode);
      await syncDirectory(within(handle, generation));
      await step('turn to it');
      await link(handle, generation, current);
      await step('make it last');
      await handle.sync();
    } catch (error) {
      if ((await generationOf(handle).catch(() => undefined)) !== generation) {
        await rm(within(handle, generation), { recursive: true, force: true }).catch(() => undefined);
      }
      throw error;
    }
    for (const { name } of files) {
      if ((await linkOf(within(handle, name))) === join(current, name)) continue;
      await step(`name ${name}`);
      await link(handle, join(current, name), name);
    }
    await dropNames(handle, new Set(files.map(({ name }) => name)));
    await handle.sync();
  };

  /** @throws conflict `secret-files.in-the-way` when a name is taken by something that is not ours */
  const requireFree = async (handle: FileHandle, files: readonly SecretFile[]): Promise<void> => {
    for (const name of [current, ...files.map((file) => file.name)]) {
      const target = await linkOf(within(handle, name));
      const free = target === undefined || (name === current ? generationForm.test(target) : target === join(current, name));
      if (free) continue;
      const message = `${join(path, name)} is there already and not from here; move it away`;
      throw new SpiffeError('conflict', 'secret-files.in-the-way', message, {
        detail: { path: join(path, name) },
      });
    }
  };

  const generationOf = async (handle: FileHandle): Promise<string | undefined> => {
    const target = await linkOf(within(handle, current));
    return target !== undefined && generationForm.test(target) ? target : undefined;
  };

  /** A link that replaces one of the same name at once. */
  const link = async (handle: FileHandle, target: string, name: string): Promise<void> => {
    const draft = within(handle, `.draft-${randomBytes(8).toString('hex')}`);
    await symlink(target, draft);
    try {
      await rename(draft, within(handle, name));
    } catch (error) {
      await unlink(draft).catch(() => undefined);
      throw error;
    }
  };

  /** What earlier generations and broken-off writes left. */
  const prune = async (handle: FileHandle, keep: string | undefined): Promise<void> => {
    for (const name of await readdir(within(handle))) {
      if (name === keep || !(generationForm.test(name) || draftForm.test(name))) continue;
      await step('remove an old generation');
      await rm(within(handle, name), { recursive: true, force: true });
    }
  };

  const dropNames = async (handle: FileHandle, keep: ReadonlySet<string>): Promise<boolean> => {
    let dropped = false;
    for (const name of await readdir(within(handle))) {
      if (keep.has(name) || (await linkOf(within(handle, name))) !== join(current, name)) continue;
      await step(`drop ${name}`);
      await unlink(within(handle, name));
      dropped = true;
    }
    return dropped;
  };

  const state = async (files: readonly SecretFile[], told: string): Promise<DirectoryState> => {
    const handle = await place(false);
    const generation = await generationOf(handle);
    if (generation === undefined) return 'other';
    const owner = (await options.owner?.()) ?? {};
    const names = (await readdir(within(handle, generation))).filter((name) => name !== marker);
    if (names.length !== files.length) return 'other';
    for (const file of files) {
      if ((await linkOf(within(handle, file.name))) !== join(current, file.name)) return 'other';
      if (!(await isAsWritten(within(handle, generation, file.name), file, owner))) return 'other';
    }
    return (await textOf(within(handle, generation, marker))) === `${told}\n` ? 'settled' : 'written';
  };

  /** A directory that is not there holds nothing. */
  const orMissing = async <T>(missing: T, work: () => Promise<T>): Promise<T> => {
    try {
      return await translated(path, work);
    } catch (error) {
      if (error instanceof SpiffeError && error.reason === 'files.missing') return missing;
      throw error;
    }
  };

  return {
    state: (files, told) => orMissing('other', () => state(files, told)),
    replace: (files) => translated(path, () => replace(files)),
    settle: (told) =>
      translated(path, async () => {
        const handle = await place(false);
        const generation = await generationOf(handle);
        if (generation === undefined) return;
        await step('settle');
        // One that is cut short by a crash says nobody, and they are told again.
        await rm(within(handle, generation, marker), { force: true });
        await writeOne(within(handle, generation, marker), { name: marker, content: `${told}\n`, mode: 0o600 }, {});
        await syncDirectory(within(handle, generation));
        await prune(handle, generation);
        await handle.sync();
      }),
    clear: () =>
      orMissing(false, async () => {
        const handle = await place(false);
        const generation = await generationOf(handle);
        const dropped = await dropNames(handle, new Set());
        if (generation !== undefined) {
          await step('turn away');
          await unlink(within(handle, current));
        }
        await prune(handle, undefined);
        await handle.sync();
        return dropped || generation !== undefined;
      }),
    async close() {
      await held?.close();
      held = undefined;
    },
  };
}

/**
 * Opens the directory and locks it for as long as it is open. Nobody but its owner, who is this process's user, may be
 * able to change it, or to put another one in its place.
 */
async function openPlace(path: string, create: boolean): Promise<FileHandle> {
  if (resolve(path) !== path || path === '/') {
    throw new SpiffeError('invalid', 'secret-files.not-absolute', `${path} is not an absolute path without . and ..`);
  }
  const parent = dirname(path);
  const real = await realpath(parent);
  if (real !== parent) {
    const message = `${parent} leads through a symbolic link; write ${join(real, basename(path))}`;
    throw new SpiffeError('denied', 'secret-files.path', message, { detail: { path } });
  }
  const weak = await weaknessAbove(path);
  if (weak !== undefined) throw weak.is === 'owner' ? foreign(weak.path, weak.uid) : writable(weak.path, weak.mode);
  const made = create && (await makeDirectory(path));
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY | constants.O_NOFOLLOW);
  try {
    const { uid, mode } = await handle.stat();
    if (uid !== effectiveUid()) throw foreign(path, uid);
    if (made) await handle.chmod(directoryMode);
    else if ((mode & 0o022) !== 0) throw writable(path, mode);
    if (!tryLockFile(handle.fd)) {
      throw new SpiffeError('conflict', 'secret-files.in-use', `another process writes to ${path}`, { detail: { path } });
    }
    return handle;
  } catch (error) {
    await handle.close();
    throw error;
  }
}

/** @returns whether it was made now */
async function makeDirectory(path: string): Promise<boolean> {
  try {
    await mkdir(path, { mode: 0o700 });
    return true;
  } catch (error) {
    if (systemCode(error) === 'EEXIST') return false;
    throw error;
  }
}

function foreign(path: string, uid: number): SpiffeError {
  const message = `${path} belongs to user ${uid}, who could put other files in the place of these`;
  return new SpiffeError('denied', 'secret-files.owner', message, {
    detail: { path, owner: uid },
  });
}

function writable(path: string, mode: number): SpiffeError {
  const digits = (mode & 0o7777).toString(8).padStart(4, '0');
  const message = `${path} has mode ${digits}: others could put other files in the place of these`;
  return new SpiffeError('denied', 'secret-files.writable', message, {
    detail: { path, mode: digits },
  });
}

async function isStillThere(path: string, handle: FileHandle): Promise<boolean> {
  try {
    const [named, opened] = await Promise.all([lstat(path), handle.stat()]);
    return named.dev === opened.dev && named.ino === opened.ino;
  } catch {
    return false;
  }
}

async function writeOne(path: string, file: SecretFile, owner: FileOwner): Promise<void> {
  const handle = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o600);
  try {
    await handle.writeFile(file.content);
    if (owner.uid !== undefined || owner.gid !== undefined) await handle.chown(owner.uid ?? -1, owner.gid ?? -1);
    await handle.chmod(file.mode);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function isAsWritten(path: string, file: SecretFile, owner: FileOwner): Promise<boolean> {
  try {
    const stats = await lstat(path);
    if (!stats.isFile() || stats.size > maxFileBytes || (stats.mode & 0o7777) !== file.mode) return false;
    if (owner.uid !== undefined && stats.uid !== owner.uid) return false;
    if (owner.gid !== undefined && stats.gid !== owner.gid) return false;
    return (await readFile(path, 'utf8')) === file.content;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** @returns undefined when nothing has the name, '' when it is no link */
async function linkOf(path: string): Promise<string | undefined> {
  try {
    return await readlink(path);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    if (systemCode(error) === 'EINVAL') return '';
    throw error;
  }
}

async function textOf(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
