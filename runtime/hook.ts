/**
 * A program that is run when something changed: without a shell, with hardly an environment, under a deadline that its
 * children do not outlive. What changed, and when to try again, is the caller's.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { realpath, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { SpiffeError } from '../spiffe/errors.ts';
import { abortReason, linkedController } from './abort.ts';
import type { Clock } from './clock.ts';
import { effectiveUid, signalGroup } from './linux.ts';
import { weaknessAbove } from './path-owners.ts';

export interface Hook {
  /** Program and arguments; an absolute path, or a name that is looked up in `hookPath`. */
  readonly command: readonly [string, ...string[]];
  /** Besides PATH, which is all it gets otherwise. */
  readonly env: Readonly<Record<string, string>>;
  readonly timeoutMs: number;
}

export const hookPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Between being asked to end and being ended. */
const graceMs = 2_000;
const keptOutput = 1_024;

/**
 * Returns when the program has ended well.
 * @throws unavailable `hook.failed|deadline`, missing `hook.missing`, denied `hook.writable`; the signal's reason
 */
export async function runHook(hook: Hook, clock: Clock, signal: AbortSignal): Promise<void> {
  const [program, ...args] = hook.command;
  if (program.startsWith('/')) await requireOwn(program);
  signal.throwIfAborted();
  const child = spawn(program, args, {
    cwd: '/',
    env: { PATH: hookPath, ...hook.env },
    stdio: ['ignore', 'ignore', 'pipe'],
    // A group of its own, so that what it started ends with it.
    detached: true,
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (said.length < keptOutput) said = (said + text).slice(0, keptOutput);
  });
  const ended = endOf(child, program);
  const over = linkedController(signal);
  const late = clock.sleep(hook.timeoutMs, over.signal).then(
    () => 'late' as const,
    () => 'stopped' as const,
  );
  try {
    const first = await Promise.race([ended, late]);
    if (typeof first === 'object') {
      if (first.code === 0) return;
      const how = first.code === null ? `signal ${first.signal ?? ''}` : `exit code ${first.code}`;
      const told = said.trim();
      const message = `${program} ended with ${how}${told === '' ? '' : `: ${told}`}`;
      throw new SpiffeError('unavailable', 'hook.failed', message, { detail: { program, how } });
    }
    await putDown(child, ended, clock);
    if (first === 'stopped') throw abortReason(signal);
    const message = `${program} did not end within ${hook.timeoutMs} ms`;
    throw new SpiffeError('unavailable', 'hook.deadline', message, { detail: { program } });
  } finally {
    over.abort(new Error('the hook is over'));
    over.unlink();
    child.stderr.destroy();
  }
}

interface End {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

function endOf(child: ChildProcess, program: string): Promise<End> {
  const ended = new Promise<End>((resolve, reject) => {
    // Not `close`: a program that leaves a daemon behind leaves its output open.
    child.once('exit', (code, signal) => resolve({ code, signal }));
    child.once('error', (cause) => {
      const missing = 'code' in cause && (cause.code === 'ENOENT' || cause.code === 'EACCES');
      const context = { detail: { program }, cause };
      if (missing) reject(new SpiffeError('missing', 'hook.missing', `${program} is not there or cannot be run`, context));
      else reject(new SpiffeError('unavailable', 'hook.failed', `${program} could not be started`, context));
    });
  });
  ended.catch(() => undefined);
  return ended;
}

async function putDown(child: ChildProcess, ended: Promise<End>, clock: Clock): Promise<void> {
  if (child.pid === undefined) return;
  signalGroup(child.pid, 'SIGTERM');
  const grace = linkedController(new AbortController().signal);
  await Promise.race([ended.then(() => undefined), clock.sleep(graceMs, grace.signal).catch(() => undefined)]);
  grace.abort(new Error('it ended'));
  signalGroup(child.pid, 'SIGKILL');
  await ended;
}

/** What others may write, or put in its place, they would have run with this process's rights. */
async function requireOwn(program: string): Promise<void> {
  const missing = (cause: unknown): never => {
    throw new SpiffeError('missing', 'hook.missing', `${program} is not there or cannot be run`, { detail: { program }, cause });
  };
  const [real, stats] = await Promise.all([realpath(program), stat(program)]).catch(missing);
  const self = effectiveUid();
  const isOwn = (stats.uid === 0 || stats.uid === self) && (stats.mode & 0o022) === 0;
  const weak = (await weaknessAbove(resolve(program))) ?? (await weaknessAbove(real));
  if (isOwn && weak === undefined) return;
  const where = weak === undefined ? program : `${weak.path}, on the way to ${program},`;
  const message = `${where} belongs to, or may be written by, someone else`;
  throw new SpiffeError('denied', 'hook.writable', message, { detail: { program } });
}
