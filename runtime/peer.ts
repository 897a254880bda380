/**
 * Who is at the other end of a Unix socket: the process that connected, as the kernel names it, and whether it is still
 * that process running the same program. What the process is entitled to is decided elsewhere.
 */
import { openSync, readSync, statSync } from 'node:fs';
import { pidfdExited, systemCode } from './linux.ts';

/**
 * How the process is held on to. 1: a pidfd the kernel made at connect (SO_PEERPIDFD); exact. 2: a pidfd opened by
 * number after accept. 3: its /proc/PID/stat held open, asked at intervals whether the process lives. At 2 and 3 a
 * number that changed hands between connect and accept goes unseen.
 */
export type PeerTier = 1 | 2 | 3;

/** `exited`: no such process now. `closed`: the connection is over. `image`: it runs another program. */
export type PeerChange = 'peer.exited' | 'peer.closed' | 'peer.image';

/** What exec changes and what a reused number cannot repeat. Texts are the kernel's decimals, compared as they are. */
export interface ProcessFacts {
  /** Clock ticks after boot at which the process began: stat field 22. */
  readonly startTime: string;
  /** Stat fields 26 and 28; `0` or `1` where the kernel hides them. */
  readonly startCode: string;
  readonly startStack: string;
  /** Device and inode of the running executable, `device:inode`; undefined where the kernel hides it. */
  readonly exe: string | undefined;
}

/** The process that opened one connection. Made by the acceptor alone, which also closes the pidfd behind it. */
export interface Peer {
  readonly pid: number;
  /** Effective ids at connect, in the user namespace of this program. */
  readonly uid: number;
  readonly gid: number;
  readonly tier: PeerTier;
  /** Epoch milliseconds. */
  readonly acceptedAt: number;
  readonly facts: ProcessFacts;
  /** Aborts when the process is gone or the connection closed, with a SpiffeError `peer.exited` or `peer.closed`. */
  readonly signal: AbortSignal;
  /** True once the process is gone; also true after the connection closed, when nobody can tell any more. */
  exited(): boolean;
  /** Reads /proc and then asks the pidfd, so that a `true` speaks of the process that connected. Some 20 us. */
  stillTheSame(): true | PeerChange;
}

const statBytes = Buffer.alloc(2048);

/** @returns the state letter and facts of /proc/PID/stat; undefined when the text is not of its form */
export function parseStat(text: string): (Omit<ProcessFacts, 'exe'> & { readonly state: string }) | undefined {
  // The name in parentheses is the program's own choice and may hold anything, so fields count from the last ")".
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ', 27);
  const state = fields[0];
  const startTime = fields[19];
  const startCode = fields[23];
  const startStack = fields[25];
  if (state === undefined || startTime === undefined || startCode === undefined || startStack === undefined) return undefined;
  if (!/^\d+$/.test(startTime) || !/^\d+$/.test(startCode) || !/^\d+$/.test(startStack)) return undefined;
  return { state, startTime, startCode, startStack };
}

/**
 * Opens /proc/PID/stat. The descriptor stays with the process it was opened for, whoever gets the number later, and
 * reading it again needs no further descriptor. The caller closes it.
 * @returns undefined when there is no such process, or none that /proc shows
 * @throws the system error of running out of descriptors
 */
export function openStat(pid: number): number | undefined {
  try {
    return openSync(`/proc/${String(pid)}/stat`, 'r');
  } catch (error) {
    if (isHidden(error)) return undefined;
    throw error;
  }
}

/** @returns undefined when the process behind the descriptor is gone; a zombie counts as gone */
function readStat(stat: number): ReturnType<typeof parseStat> {
  try {
    const facts = parseStat(statBytes.toString('latin1', 0, readSync(stat, statBytes, 0, statBytes.length, 0)));
    return facts === undefined || facts.state === 'Z' || facts.state === 'X' ? undefined : facts;
  } catch (error) {
    if (isHidden(error)) return undefined;
    throw error;
  }
}

/** @returns `device:inode`, or undefined where the kernel does not let us look */
function readExe(pid: number): string | undefined {
  try {
    const { dev, ino } = statSync(`/proc/${String(pid)}/exe`, { bigint: true });
    return `${String(dev)}:${String(ino)}`;
  } catch (error) {
    if (isHidden(error)) return undefined;
    throw error;
  }
}

function isHidden(error: unknown): boolean {
  const code = systemCode(error);
  return code === 'ENOENT' || code === 'ESRCH' || code === 'EACCES' || code === 'EPERM';
}

/**
 * The facts of a process whose `stat` is held open. The executable is looked up by number, so who asks must find the
 * process alive afterwards.
 * @returns undefined when the process is gone
 */
export function readFacts(pid: number, stat: number): ProcessFacts | undefined {
  const fields = readStat(stat);
  if (fields === undefined) return undefined;
  const { startTime, startCode, startStack } = fields;
  return { startTime, startCode, startStack, exe: readExe(pid) };
}

/** Whether the process behind an open `stat` still lives, told without a pidfd. */
export function statExited(stat: number): boolean {
  return readStat(stat) === undefined;
}

export function sameImage(a: ProcessFacts, b: ProcessFacts): boolean {
  return a.exe === b.exe && a.startCode === b.startCode && a.startStack === b.startStack;
}

export interface PeerMaking {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  readonly tier: PeerTier;
  readonly acceptedAt: number;
  readonly facts: ProcessFacts;
  /** Stays open until `signal` has aborted; -1 at tier 3. */
  readonly pidfd: number;
  /** From `openStat`; stays open until `signal` has aborted. */
  readonly stat: number;
  readonly signal: AbortSignal;
}

export function createPeer(making: PeerMaking): Peer {
  const { pidfd, stat, ...known } = making;
  const { pid, facts, signal } = making;
  const gone = (): boolean => (pidfd >= 0 ? pidfdExited(pidfd) : statExited(stat));
  return Object.freeze({
    ...known,
    exited: () => signal.aborted || gone(),
    stillTheSame(): true | PeerChange {
      // After the abort the descriptor's number may belong to something else.
      if (signal.aborted) return changeOf(signal.reason);
      const now = readFacts(pid, stat);
      if (now === undefined || gone()) return 'peer.exited';
      if (now.startTime !== facts.startTime) return 'peer.exited';
      return sameImage(now, facts) ? true : 'peer.image';
    },
  });
}

function changeOf(reason: unknown): PeerChange {
  return reason instanceof Error && 'reason' in reason && reason.reason === 'peer.exited' ? 'peer.exited' : 'peer.closed';
}
