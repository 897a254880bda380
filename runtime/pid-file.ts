/**
 * A signal to the program whose number is in a pid-file, and to no other that has this number by now. Which signal it
 * wants, and when, is the caller's.
 */
import { constants, closeSync, readFileSync } from 'node:fs';
import { open, readFile, readlink } from 'node:fs/promises';
import { resolve } from 'node:path';
import { SpiffeError } from '../spiffe/errors.ts';
import { closeDescriptor, effectiveUid, openPidfd, signalPidfd, systemCode } from './linux.ts';
import { openStat, readFacts } from './peer.ts';

export const hookSignals = ['HUP', 'INT', 'QUIT', 'TERM', 'USR1', 'USR2'] as const;
export type HookSignal = (typeof hookSignals)[number];

export interface PidFileSignal {
  readonly signal: HookSignal;
  readonly pidFile: string;
  /** What the process must run; any program when absent. */
  readonly executable?: string;
}

const maxBytes = 4_096;
/** Ticks of /proc, which are the same on every architecture that Node runs on. */
const ticksPerSecond = 100;
/** Boot time is told in whole seconds, and some programs write their file a moment before they fork. */
const slackMs = 2_000;

/**
 * @throws missing `pid-file.missing|no-process`, invalid `pid-file.malformed`, denied `pid-file.owner|link`,
 *   conflict `pid-file.stale|executable`, unavailable `pid-file.failed`
 */
export async function signalByPidFile(wanted: PidFileSignal): Promise<void> {
  const { pidFile, executable } = wanted;
  const { pid, uid, writtenAt } = await readPidFile(pidFile);
  const pidfd = hold(pid, pidFile);
  try {
    const process = await lookAt(pid);
    if (process === undefined) throw gone(pid, pidFile);
    const self = effectiveUid();
    // Whoever may write the file chooses who gets the signal: only among processes of their own.
    if (uid !== 0 && uid !== self && uid !== process.uid) {
      const message = `${pidFile} belongs to user ${uid}, but process ${pid} to user ${process.uid}`;
      throw new SpiffeError('denied', 'pid-file.owner', message, { detail: { pid } });
    }
    if (executable !== undefined) {
      // An upgrade replaces the file of a program that runs on.
      if (process.executable.replace(/ \(deleted\)$/, '') !== executable) {
        const message = `process ${pid} of ${pidFile} runs ${process.executable}, not ${executable}`;
        throw new SpiffeError('conflict', 'pid-file.executable', message, { detail: { pid } });
      }
    } else if (process.startedAt > writtenAt + slackMs) {
      const message = `process ${pid} is younger than ${pidFile}; if that is for the clock, say which executable it must be`;
      throw new SpiffeError('conflict', 'pid-file.stale', message, { detail: { pid } });
    }
    signalPidfd(pidfd, `SIG${wanted.signal}`);
  } catch (error) {
    if (error instanceof SpiffeError) throw error;
    if (systemCode(error) === 'ESRCH') throw gone(pid, pidFile);
    const message = `process ${pid} of ${pidFile} could not be sent a signal`;
    throw new SpiffeError('unavailable', 'pid-file.failed', message, { detail: { pid }, cause: error });
  } finally {
    closeDescriptor(pidfd);
  }
}

interface Written {
  readonly pid: number;
  readonly uid: number;
  readonly writtenAt: number;
}

/** The number is all of the first line. */
async function readPidFile(file: string): Promise<Written> {
  try {
    const handle = await open(file, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const stats = await handle.stat();
      // Of what was opened: whoever owns a directory on the way could have a link lead to a file of someone else.
      const real = await readlink(`/proc/self/fd/${handle.fd}`);
      if (real !== resolve(file)) {
        throw new SpiffeError('denied', 'pid-file.link', `${file} leads through a symbolic link; write ${real}`);
      }
      const text = stats.isFile() && stats.size <= maxBytes ? await handle.readFile('latin1') : '';
      const line = /^[ \t]*(\d{1,9})[ \t]*(?:\r?\n|$)/.exec(text)?.[1];
      if (line === undefined || Number(line) < 2) {
        throw new SpiffeError('invalid', 'pid-file.malformed', `${file} does not begin with the number of a process`);
      }
      if ((stats.mode & 0o002) !== 0) throw new SpiffeError('denied', 'pid-file.owner', `${file} may be written by everybody`);
      return { pid: Number(line), uid: stats.uid, writtenAt: stats.mtimeMs };
    } finally {
      await handle.close();
    }
  } catch (error) {
    if (error instanceof SpiffeError) throw error;
    throw new SpiffeError('missing', 'pid-file.missing', `${file} cannot be read: does its program run?`, { cause: error });
  }
}

function hold(pid: number, file: string): number {
  try {
    return openPidfd(pid);
  } catch (error) {
    if (systemCode(error) === 'ESRCH') throw gone(pid, file);
    const message = `process ${pid} of ${file} cannot be held on to`;
    throw new SpiffeError('unavailable', 'pid-file.failed', message, { detail: { pid }, cause: error });
  }
}

interface Looked {
  readonly uid: number;
  readonly executable: string;
  /** Epoch milliseconds, to a second. */
  readonly startedAt: number;
}

async function lookAt(pid: number): Promise<Looked | undefined> {
  const descriptor = openStat(pid);
  if (descriptor === undefined) return undefined;
  try {
    const facts = readFacts(pid, descriptor);
    const uid = /^Uid:\t\d+\t(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1];
    if (facts === undefined || uid === undefined) return undefined;
    const executable = await readlink(`/proc/${pid}/exe`).catch(() => 'what may not be looked at');
    return { uid: Number(uid), executable, startedAt: bootedAt() + (Number(facts.startTime) / ticksPerSecond) * 1_000 };
  } finally {
    closeSync(descriptor);
  }
}

function bootedAt(): number {
  return Number(/^btime (\d+)$/m.exec(readFileSync('/proc/stat', 'latin1'))?.[1] ?? 0) * 1_000;
}

function gone(pid: number, file: string): SpiffeError {
  const message = `there is no process ${pid}, which ${file} names`;
  return new SpiffeError('missing', 'pid-file.no-process', message, { detail: { pid } });
}
