/**
 * Starting programs of the demo, hearing what they say, stopping them in time, and stopping those that an earlier demo
 * left behind. Which programs there are is `story.ts`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { copyFile, link, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { systemClock } from '../../runtime/clock.ts';
import { parseStat } from '../../runtime/peer.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { Memory } from './place.ts';

export interface Program {
  readonly pid: number;
  /** Clock ticks after boot, which with the pid names a process for good. */
  readonly startTime: string;
  readonly alive: boolean;
  /** Resolves when it has ended, with its exit code or the name of the signal. */
  readonly ended: Promise<number | string>;
  /** Asks it to end, and ends it when it does not in time. */
  stop(): Promise<void>;
}

export interface Start {
  readonly command: readonly [string, ...string[]];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Where its output goes: a file that is appended to, or a listener for its lines. */
  readonly output: string | ((line: string) => void);
}

const stopMs = 600;

/** @throws unavailable `cli.demo.start` */
export async function startProgram({ command: [file, ...args], env, output }: Start): Promise<Program> {
  const log = typeof output === 'string' ? await open(output, 'a', 0o600) : undefined;
  const to = log?.fd ?? 'pipe';
  // In a group of its own: Ctrl-C in the terminal is for the demo, which stops the others in order. Standard input ends
  // with the demo, which is how its workloads learn that it is gone.
  const child = spawn(file, args, { env, detached: true, stdio: ['pipe', to, to] });
  try {
    await once(child, 'spawn');
  } catch (cause) {
    throw new SpiffeError('unavailable', 'cli.demo.start', `${file} does not start`, { cause });
  } finally {
    await log?.close();
  }
  child.stdin?.on('error', () => undefined);
  if (typeof output !== 'string') for (const stream of [child.stdout, child.stderr]) if (stream) createInterface({ input: stream }).on('line', output);
  const ended = new Promise<number | string>((resolve) => {
    child.once('exit', (code, signal) => resolve(code ?? signal ?? 'unknown'));
  });
  return {
    pid: child.pid ?? 0,
    startTime: startTimeOf(child.pid ?? 0) ?? '',
    get alive() {
      return isAlive(child);
    },
    ended,
    stop: () => stopChild(child, ended),
  };
}

async function stopChild(child: ChildProcess, ended: Promise<unknown>): Promise<void> {
  if (!isAlive(child)) return;
  child.kill('SIGTERM');
  const over = new AbortController();
  const late = systemClock.sleep(stopMs, over.signal).then(
    () => child.kill('SIGKILL'),
    () => undefined,
  );
  await ended;
  over.abort();
  await late;
}

function isAlive(child: ChildProcess): boolean {
  return child.exitCode === null && child.signalCode === null;
}

/** Ends what the last demo started and could not stop because it was killed itself. */
export async function stopLeftovers(started: Memory['started'], kill: (pid: number, signal: NodeJS.Signals) => void): Promise<number> {
  const left = started.filter(isStill);
  for (const { pid } of left) kill(pid, 'SIGTERM');
  for (let waited = 0; waited < 2000 && left.some(isStill); waited += 50) await systemClock.sleep(50);
  for (const process of left.filter(isStill)) kill(process.pid, 'SIGKILL');
  while (left.some(isStill)) await systemClock.sleep(20);
  return left.length;
}

function isStill({ pid, startTime }: Memory['started'][number]): boolean {
  return startTime !== '' && startTimeOf(pid) === startTime;
}

function startTimeOf(pid: number): string | undefined {
  try {
    const facts = parseStat(readFileSync(`/proc/${pid}/stat`, 'utf8'));
    return facts === undefined || facts.state === 'Z' ? undefined : facts.startTime;
  } catch {
    return undefined;
  }
}

/** The program as an operator starts it, from a checkout or from an installed package. */
export function steepleProgram(): string {
  const places = ['../../bin/steeple.cjs', '../../../bin/steeple.cjs'].map((place) => fileURLToPath(new URL(place, import.meta.url)));
  const found = places.find(existsSync);
  if (found === undefined) throw new SpiffeError('internal', 'cli.demo.program', 'bin/steeple.cjs is missing');
  return found;
}

/** The demo's workload as it lies beside this file, compiled or not. */
export function workloadProgram(): string {
  return fileURLToPath(new URL(import.meta.url.endsWith('.ts') ? './main.ts' : './main.js', import.meta.url));
}

/** Gives a program a second path of its own, by which it is told apart: a hard link, or a copy where none can be made. */
export async function giveOwnPath(program: string, path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o755 });
  const [original, present] = await Promise.all([stat(program), stat(path).catch(() => undefined)]);
  if (present !== undefined && present.size === original.size && present.mtimeMs >= original.mtimeMs) return;
  const draft = `${path}.new`;
  await rm(draft, { force: true });
  await link(program, draft).catch(() => copyFile(program, draft));
  await rename(draft, path);
}
