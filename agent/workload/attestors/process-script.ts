/**
 * The script that a process says it runs, where all that can be compared agrees: its arguments are those the kernel writes
 * when it starts this script, and the file names the running interpreter on its `#!` line now.
 *
 * That is no proof of what runs. Arguments are memory of the process, any program of the user may start the interpreter
 * with them, and options or the environment may load other code. It tells honest processes of one user apart.
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { basename, posix } from 'node:path';
import { closeDescriptor, locateBeneath } from '../../../runtime/linux.ts';
import type { Peer } from '../../../runtime/peer.ts';
import { hidden, plainText, readProcessFile } from './process-file.ts';

export interface Script {
  /** As the process's root has it. */
  readonly path: string;
  /** Of the file as it is now, in lower-case hex. */
  readonly sha256: string;
}

/** Larger ones are data with a line in front. */
const LIMIT_BYTES = 1024 * 1024;
/** As much as the kernel looks at. */
const FIRST_LINE_BYTES = 256;
/** Where `env` is taken to look; what PATH was is the process's word. */
const searched = ['/usr/local/bin', '/usr/bin', '/bin', '/usr/local/sbin', '/usr/sbin', '/sbin'];

/**
 * @returns a reason where the process runs no script, or none that all agrees of
 * @throws as `readProcessFile`
 */
export function scriptOf(peer: Peer): Script | { readonly reason: string } {
  const args = argumentsOf(peer.pid);
  if (args === undefined) return { reason: 'process.script.text' };
  const root = openRoot(peer.pid);
  try {
    // The kernel writes the interpreter, its one argument if the line has one, and the script.
    for (const at of [1, 2]) {
      const path = args[at] ?? '';
      if (!path.startsWith('/') || posix.normalize(path) !== path) continue;
      const text = readScript(root, path);
      if (text === undefined) continue;
      const line = parseShebang(text);
      if (line !== undefined && agrees(root, peer, args.slice(0, at), line)) {
        return { path, sha256: createHash('sha256').update(text).digest('hex') };
      }
    }
    return { reason: 'process.script.none' };
  } finally {
    closeSync(root);
  }
}

/** @returns undefined when what would count is not text */
function argumentsOf(pid: number): readonly string[] | undefined {
  const raw = readProcessFile(pid, 'cmdline');
  const args: string[] = [];
  for (let from = 0; from < raw.length && args.length < 3; ) {
    const end = raw.indexOf(0, from);
    const text = plainText(raw.subarray(from, end < 0 ? raw.length : end));
    if (text === undefined) return undefined;
    args.push(text);
    from = end < 0 ? raw.length : end + 1;
  }
  return args;
}

function openRoot(pid: number): number {
  try {
    return openSync(`/proc/${String(pid)}/root`, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (error) {
    throw hidden(error);
  }
}

/** @returns undefined for what is no regular file of a bearable size, or cannot be read */
function readScript(root: number, path: string): Buffer | undefined {
  let place = -1;
  let fd = -1;
  try {
    place = locateBeneath(root, path);
    const stats = fstatSync(place);
    if (!stats.isFile() || stats.size > LIMIT_BYTES) return undefined;
    fd = openSync(`/proc/self/fd/${String(place)}`, constants.O_RDONLY | constants.O_NONBLOCK);
    const bytes = Buffer.alloc(stats.size);
    let length = 0;
    while (length < bytes.length) {
      const read = readSync(fd, bytes, length, bytes.length - length, length);
      if (read === 0) return undefined;
      length += read;
    }
    return bytes;
  } catch {
    return undefined;
  } finally {
    if (fd >= 0) closeSync(fd);
    closeDescriptor(place);
  }
}

export interface Shebang {
  readonly interpreter: string;
  /** All of the rest of the line, as one argument. */
  readonly argument: string | undefined;
}

/** The first line as the kernel reads it; undefined unless it is one, with an absolute interpreter. */
export function parseShebang(text: Uint8Array): Shebang | undefined {
  const head = Buffer.from(text.subarray(0, FIRST_LINE_BYTES));
  const end = head.indexOf(10);
  if (end < 0 && text.length >= FIRST_LINE_BYTES) return undefined;
  const line = plainText(Buffer.from(head.subarray(0, end < 0 ? head.length : end).map((byte) => (byte === 9 ? 32 : byte))));
  const [, interpreter, argument] = /^#! *(\/[^ ]*)(?: +(.*?))? *$/u.exec(line ?? '') ?? [];
  if (interpreter === undefined) return undefined;
  return { interpreter, argument: argument === '' ? undefined : argument };
}

/** @param before the arguments in front of the script */
function agrees(root: number, peer: Peer, before: readonly string[], { interpreter, argument }: Shebang): boolean {
  const [first, second] = before;
  if (basename(interpreter) === 'env') {
    // It has become what it was asked for, and left no argument of its own.
    const isName = argument !== undefined && /^[\w.+][\w.+-]*$/u.test(argument);
    return isName && before.length === 1 && first === argument && searched.some((folder) => isImage(root, peer, `${folder}/${argument}`));
  }
  return first === interpreter && second === argument && isImage(root, peer, interpreter);
}

/** Whether the file at this path is the one that the process runs. */
function isImage(root: number, peer: Peer, path: string): boolean {
  let place = -1;
  try {
    place = locateBeneath(root, path);
    const { dev, ino } = fstatSync(place, { bigint: true });
    return `${String(dev)}:${String(ino)}` === peer.facts.exe;
  } catch {
    return false;
  } finally {
    closeDescriptor(place);
  }
}
