/**
 * Names of users and groups from `/etc/passwd` and `/etc/group`, read when they change and held in memory. Other sources
 * of names (LDAP, systemd-homed, whatever nsswitch.conf says) are not asked: an id without a line here has no name.
 */
import { createReadStream, statSync } from 'node:fs';
import { TextDecoder } from 'node:util';
import { SpiffeError } from '../../../spiffe/errors.ts';

export interface NameTable {
  /**
   * The first name the file gives to an id, as getpwuid(3) has it.
   * @throws limited `unix.names.too-large`; unavailable `unix.names.unreadable`
   */
  nameOf(id: number): Promise<string | undefined>;
}

/** Larger than any directory that is kept in a file by hand, small enough to hold. */
const DEFAULT_LIMIT_BYTES = 16 * 1024 * 1024;
/** Of a line only the first three fields matter; the members of a group may run to megabytes. */
const HEAD_BYTES = 1024;

interface Loaded {
  readonly version: string;
  readonly names: Promise<ReadonlyMap<number, string>>;
}

/** @param path a file of lines `name:…:id:…` */
export function createNameTable(path: string, limitBytes: number = DEFAULT_LIMIT_BYTES): NameTable {
  let loaded: Loaded | undefined;

  const load = (version: string): Loaded => {
    const names = readNames(path, limitBytes);
    const loading: Loaded = { version, names };
    // A failure is told to whoever asked meanwhile, and tried again by the next.
    names.catch(() => {
      if (loaded === loading) loaded = undefined;
    });
    return loading;
  };

  return {
    async nameOf(id) {
      const version = versionOf(path, limitBytes);
      if (version === undefined) return undefined;
      if (loaded?.version !== version) loaded = load(version);
      return (await loaded.names).get(id);
    },
  };
}

/** @returns undefined when there is no such file, and so no names */
function versionOf(path: string, limitBytes: number): string | undefined {
  const stats = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (stats === undefined) return undefined;
  if (stats.size > limitBytes) throw tooLarge();
  return `${String(stats.dev)}:${String(stats.ino)}:${String(stats.size)}:${String(stats.mtimeNs)}:${String(stats.ctimeNs)}`;
}

function tooLarge(): SpiffeError {
  return new SpiffeError('limited', 'unix.names.too-large', 'a file of names is larger than allowed');
}

async function readNames(path: string, limitBytes: number): Promise<ReadonlyMap<number, string>> {
  const names = new Map<number, string>();
  const line = Buffer.alloc(HEAD_BYTES);
  const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let length = 0;
  let total = 0;
  const append = (part: Buffer): void => {
    if (length < HEAD_BYTES) length += part.copy(line, length);
  };
  const finish = (): void => {
    const entry = parseName(line.subarray(0, length), text);
    if (entry !== undefined && !names.has(entry.id)) names.set(entry.id, entry.name);
    length = 0;
  };
  try {
    for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
      total += chunk.length;
      if (total > limitBytes) throw tooLarge();
      let from = 0;
      for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, from)) {
        append(chunk.subarray(from, end));
        finish();
        from = end + 1;
      }
      append(chunk.subarray(from));
    }
  } catch (error) {
    if (error instanceof SpiffeError) throw error;
    throw new SpiffeError('unavailable', 'unix.names.unreadable', 'a file of names cannot be read', { cause: error });
  }
  finish();
  return names;
}

/** @returns undefined for a line that names nobody: comments, NIS markers, broken text */
function parseName(line: Buffer, text: TextDecoder): { readonly name: string; readonly id: number } | undefined {
  const first = line.indexOf(58);
  const second = first < 0 ? -1 : line.indexOf(58, first + 1);
  const third = second < 0 ? -1 : line.indexOf(58, second + 1);
  if (first < 1 || third < 0 || '#+-'.includes(String.fromCodePoint(line[0] ?? 0))) return undefined;
  const id = line.toString('latin1', second + 1, third);
  if (!/^\d{1,10}$/.test(id) || Number(id) > 0xffff_fffe) return undefined;
  try {
    const name = text.decode(line.subarray(0, first));
    return /[\p{Cc}\u2028\u2029]/u.test(name) ? undefined : { name, id: Number(id) };
  } catch {
    return undefined;
  }
}
