/**
 * A process that did not connect but was named by its number: pinned before anything is read of it, so that what is read
 * and attested is of one process or of none. Who may name processes, and what they get for it, is decided elsewhere.
 */
import { closeSync, readFileSync } from 'node:fs';
import { SpiffeError } from '../../spiffe/errors.ts';
import { closeDescriptor, openPidfd, systemCode } from '../../runtime/linux.ts';
import { createPeer, openStat, readFacts, type Peer } from '../../runtime/peer.ts';

/** Closed by whoever opened it; the peer's signal aborts then with the reason, if it has not before. */
export interface NamedProcess {
  readonly peer: Peer;
  close(reason: SpiffeError): void;
}

/** Beyond it no process has a number. */
const mostPid = 0x3f_ffff;

/**
 * The peer's tier is 2 with a pidfd and 3 without one.
 * @returns undefined when there is no such process: the number is out of range, a thread's, or nobody's
 * @throws unavailable `process.descriptors`
 */
export function openNamedProcess(pid: number, now: number): NamedProcess | undefined {
  if (!Number.isInteger(pid) || pid <= 0 || pid > mostPid) return undefined;
  let [stat, pidfd] = [-1, -1];
  try {
    stat = openStat(pid) ?? -1;
    if (stat < 0) return undefined;
    const opened = pidfdOf(pid);
    if (opened === 'none') return letGo(stat, pidfd);
    pidfd = opened ?? -1;
    const ids = readIds(pid);
    // Whoever has the number here has had it since the first of these lines.
    const facts = readFacts(pid, stat);
    if (ids === undefined || facts === undefined) return letGo(stat, pidfd);
    return hold({ pid, ...ids, tier: pidfd < 0 ? 3 : 2, acceptedAt: now, facts, pidfd, stat });
  } catch (cause) {
    letGo(stat, pidfd);
    throw new SpiffeError('unavailable', 'process.descriptors', 'no descriptor is left to hold the process with', { cause });
  }
}

function hold(making: Omit<Parameters<typeof createPeer>[0], 'signal'>): NamedProcess {
  const over = new AbortController();
  return {
    peer: createPeer({ ...making, signal: over.signal }),
    close(reason) {
      if (over.signal.aborted) return;
      // Before the descriptors are others'.
      over.abort(reason);
      letGo(making.stat, making.pidfd);
    },
  };
}

function letGo(stat: number, pidfd: number): undefined {
  if (pidfd >= 0) closeDescriptor(pidfd);
  if (stat >= 0) closeSync(stat);
}

/** @returns undefined where the kernel has no pidfds; `none` where the number is no process's */
function pidfdOf(pid: number): number | 'none' | undefined {
  try {
    return openPidfd(pid);
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ESRCH' || code === 'EINVAL' || code === 'ENOENT') return 'none';
    if (code === 'EMFILE' || code === 'ENFILE' || code === 'ENOMEM') throw error;
    return undefined;
  }
}

/** Effective ids, as a connection's credentials would have them; undefined for a thread, whose number is no process's. */
function readIds(pid: number): { readonly uid: number; readonly gid: number } | undefined {
  const status = readStatus(pid);
  const uid = /^Uid:\t\d+\t(\d+)/m.exec(status)?.[1];
  const gid = /^Gid:\t\d+\t(\d+)/m.exec(status)?.[1];
  if (uid === undefined || gid === undefined || /^Tgid:\t(\d+)/m.exec(status)?.[1] !== String(pid)) return undefined;
  return { uid: Number(uid), gid: Number(gid) };
}

/** A process chooses its `Name`, in which the kernel escapes line ends. */
function readStatus(pid: number): string {
  try {
    return readFileSync(`/proc/${String(pid)}/status`, 'latin1');
  } catch (error) {
    if (systemCode(error) === 'EMFILE' || systemCode(error) === 'ENFILE') throw error;
    return '';
  }
}

/**
 * Whether the process counts processes as this program does. In a namespace of its own it has a second number there, and
 * what it calls 7 is another process here.
 */
export function sharesPidNamespace(peer: Peer): boolean {
  const numbers = /^NSpid:((?:\t\d+)+)$/m.exec(readStatus(peer.pid))?.[1]?.trim().split('\t');
  return numbers?.length === 1 && numbers[0] === String(peer.pid) && peer.stillTheSame() === true;
}
