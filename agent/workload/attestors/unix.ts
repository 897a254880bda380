/**
 * What the kernel says of a process: effective user and group, supplementary groups, their names, and the executable.
 * Selectors are written as SPIRE's `unix` attestor writes them; containers and services are other attestors' subject.
 */
import { closeSync, openSync, readFileSync, readSync, readlinkSync, statSync } from 'node:fs';
import type { Clock } from '../../../runtime/clock.ts';
import { systemCode } from '../../../runtime/linux.ts';
import type { Peer } from '../../../runtime/peer.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { composeSelector } from '../../../spiffe/selector.ts';
import type { Selector } from '../../../spiffe/selector.ts';
import type { Omit, WantedSelectors, WorkloadAttestor } from '../attestor.ts';
import { createImageHashes } from './unix-hash.ts';
import type { ImageHashes } from './unix-hash.ts';
import { createNameTable } from './unix-names.ts';
import type { NameTable } from './unix-names.ts';

export interface UnixAttestorOptions {
  readonly clock: Clock;
  readonly passwdFile?: string;
  readonly groupFile?: string;
  /** A process in more supplementary groups is refused. */
  readonly groupLimit?: number;
  /** Larger executables get no `unix:sha256`. */
  readonly hashLimitBytes?: number;
  /** Shared with other attestors, in place of its own; its owner stops it. */
  readonly hashes?: ImageHashes;
  /** The ids that stand for "no id of this user namespace"; undefined when it is the host's, where every id is one. */
  readonly overflow?: OverflowIds | undefined;
}

export interface OverflowIds {
  readonly uid: number;
  readonly gid: number;
}

/** Stop it to end the thread that hashes. */
export interface UnixAttestor extends WorkloadAttestor {
  stop(): Promise<void>;
}

const DEFAULT_GROUP_LIMIT = 1024;
/** Far above what 1,024 groups need; a longer status is not read to its end. */
const STATUS_BYTES = 65_536;
const status = Buffer.alloc(STATUS_BYTES);

/** Effective ids, and supplementary groups without repeats, as /proc shows them to this program's user namespace. */
export interface ProcessIds {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
}

export function createUnixAttestor(options: UnixAttestorOptions): UnixAttestor {
  const { clock, groupLimit = DEFAULT_GROUP_LIMIT, hashLimitBytes } = options;
  const overflow = 'overflow' in options ? options.overflow : ownOverflowIds();
  const users = createNameTable(options.passwdFile ?? '/etc/passwd');
  const groups = createNameTable(options.groupFile ?? '/etc/group');
  const hashes = options.hashes ?? createImageHashes({ clock, ...(hashLimitBytes === undefined ? {} : { limitBytes: hashLimitBytes }) });
  return {
    name: 'unix',
    attest: async (peer, { wanted, omit }) => {
      const ids = mappedOf(parseStatus(readStatus(peer.pid), groupLimit), overflow, omit);
      const selectors = [
        unix('uid', ids.uid),
        unix('gid', ids.gid),
        ...ids.groups.map((gid) => unix('supplementary_gid', gid)),
        ...(await namesOf(ids, users, groups, omit)),
        ...pathOf(peer, omit),
        ...(await hashOf(peer, wanted, hashes, omit)),
      ];
      return selectors;
    },
    stop: async () => {
      if (options.hashes === undefined) await hashes.stop();
    },
  };
}

function unix(kind: string, value: string | number): Selector {
  return composeSelector('unix', `${kind}:${String(value)}`);
}

function readStatus(pid: number): string {
  let fd: number;
  try {
    fd = openSync(`/proc/${String(pid)}/status`, 'r');
  } catch (error) {
    const detail = { code: systemCode(error) ?? 'unknown' };
    throw new SpiffeError(
      'unavailable',
      'unix.process.hidden',
      'the status of the process cannot be read',
      { detail, cause: error },
    );
  }
  try {
    let length = 0;
    for (;;) {
      const read = readSync(fd, status, length, status.length - length, null);
      if (read === 0) return status.toString('latin1', 0, length);
      length += read;
      if (length === status.length) throw tooManyGroups();
    }
  } catch (error) {
    if (error instanceof SpiffeError) throw error;
    throw new SpiffeError('unavailable', 'unix.process.gone', 'the process ended while it was looked at', { cause: error });
  } finally {
    closeSync(fd);
  }
}

function tooManyGroups(): SpiffeError {
  return new SpiffeError('limited', 'unix.groups.too-many', 'the process is in more groups than are looked at');
}

/**
 * Reads /proc/PID/status. The process chooses its `Name`, in which the kernel escapes line ends.
 * @throws limited `unix.groups.too-many`; internal `unix.status.form`
 */
export function parseStatus(text: string, groupLimit: number): ProcessIds {
  const uid = idAt(text, 'Uid', 1);
  const gid = idAt(text, 'Gid', 1);
  const groups = [...new Set(fieldsOf(text, 'Groups').map(parseId))];
  if (groups.length > groupLimit) throw tooManyGroups();
  return { uid, gid, groups };
}

function fieldsOf(text: string, key: string): readonly string[] {
  const start = text.indexOf(`\n${key}:`);
  const end = start < 0 ? -1 : text.indexOf('\n', start + 1);
  if (end < 0) throw malformed();
  return text
    .slice(start + key.length + 2, end)
    .split(/[\t ]+/)
    .filter((field) => field !== '');
}

function idAt(text: string, key: string, index: number): number {
  return parseId(fieldsOf(text, key)[index] ?? '');
}

function parseId(text: string): number {
  const id = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (!(id <= 0xffff_ffff)) throw malformed();
  return id;
}

function malformed(): SpiffeError {
  return new SpiffeError('internal', 'unix.status.form', 'the status of the process is not of the known form');
}

/** In a user namespace of our own, ids from outside all show as the same one, which is then nobody's. */
function mappedOf(ids: ProcessIds, overflow: OverflowIds | undefined, omit: Omit): ProcessIds {
  if (overflow === undefined) return ids;
  if (ids.uid === overflow.uid || ids.gid === overflow.gid) {
    throw new SpiffeError('denied', 'unix.ids.unmapped', "an id of the process does not exist in the agent's user namespace");
  }
  const groups = ids.groups.filter((gid) => gid !== overflow.gid);
  if (groups.length < ids.groups.length) omit('unix:supplementary_gid', 'unix.ids.unmapped');
  return { ...ids, groups };
}

/** @returns undefined when every id of the host is visible here as itself */
function ownOverflowIds(): OverflowIds | undefined {
  if (/^\s*0\s+0\s+4294967295\s*$/.test(readFileSync('/proc/self/uid_map', 'utf8'))) return undefined;
  return {
    uid: Number(readFileSync('/proc/sys/kernel/overflowuid', 'utf8')),
    gid: Number(readFileSync('/proc/sys/kernel/overflowgid', 'utf8')),
  };
}

async function namesOf(ids: ProcessIds, users: NameTable, groups: NameTable, omit: Omit): Promise<readonly Selector[]> {
  const selectors: Selector[] = [];
  const add = async (kind: string, table: NameTable, all: readonly number[]): Promise<void> => {
    try {
      for (const id of all) {
        const name = await table.nameOf(id);
        if (name !== undefined) selectors.push(unix(kind, name));
      }
    } catch (error) {
      omit(`unix:${kind}`, error instanceof SpiffeError ? error.reason : 'unix.names.unreadable');
    }
  };
  await add('user', users, [ids.uid]);
  await add('group', groups, [ids.gid]);
  await add('supplementary_group', groups, ids.groups);
  return selectors;
}

const deleted = ' (deleted)';

function pathOf(peer: Peer, omit: Omit): readonly Selector[] {
  const fault = (reason: string): readonly Selector[] => {
    omit('unix:path', reason);
    return [];
  };
  let path: string;
  try {
    const bytes = readlinkSync(`/proc/${String(peer.pid)}/exe`, { encoding: 'buffer' });
    path = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (error) {
    return fault(systemCode(error) === 'ERR_ENCODING_INVALID_ENCODED_DATA' ? 'unix.path.encoding' : 'unix.path.hidden');
  }
  if (/[\p{Cc}\u2028\u2029]/u.test(path)) return fault('unix.path.control-character');
  // Outside our root the kernel writes "(unreachable)" in front.
  if (!path.startsWith('/')) return fault('unix.path.unreachable');
  // The kernel marks a name that is gone with a suffix which is also a legal end of a name.
  if (path.endsWith(deleted) && identityOf(path) !== peer.facts.exe) return fault('unix.path.deleted');
  return [unix('path', path)];
}

function identityOf(path: string): string | undefined {
  try {
    const { dev, ino } = statSync(path, { bigint: true });
    return `${String(dev)}:${String(ino)}`;
  } catch {
    return undefined;
  }
}

async function hashOf(peer: Peer, wanted: WantedSelectors, hashes: ImageHashes, omit: Omit): Promise<readonly Selector[]> {
  if (!wanted.asks('unix:sha256:')) return [];
  const answer = await hashes.of(peer);
  if ('sha256' in answer) return [unix('sha256', answer.sha256)];
  omit('unix:sha256', answer.reason, answer.until);
  return [];
}
