/**
 * The processes of a bench: servers, agents and the compiled load, each started apart, watched through /proc and ended in
 * order. What they are asked to do is left to the benches.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import process from 'node:process';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { buildPrograms } from './build.ts';
import { buildProgram, type ProgramLine } from '../interop/program.ts';

/** The flags and the environment that `steeple` starts each role with. */
const roleFlags = { server: [], agent: ['--max-semi-space-size=1'] } as const;
const roleEnvironment = { server: {}, agent: { MALLOC_ARENA_MAX: '1' } } as const;

const here = (file: string): string => fileURLToPath(new URL(file, import.meta.url));

export interface Running extends AsyncDisposable {
  readonly pid: number;
  /** The first line, past or to come, of which the test says yes. @throws when the process ends before */
  line(wanted: (line: Readonly<Record<string, unknown>>) => boolean): Promise<Readonly<Record<string, unknown>>>;
  /** The newest lines, oldest first. */
  lines(): readonly Readonly<Record<string, unknown>>[];
  /** Resident memory, bytes. */
  rss(): number;
  /** Processor time since its start, seconds. */
  cpuSeconds(): number;
  /** The same by the name of the thread. */
  threadSeconds(): Readonly<Record<string, number>>;
  stop(): Promise<void>;
}

/** Started with a profiler when STEEPLE_BENCH_PROFILE names a directory. */
export function startProgram(role: 'server' | 'agent', config: string): Running {
  const profile = process.env['STEEPLE_BENCH_PROFILE'];
  const profiler = profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profile}`];
  return watched(spawn(process.execPath, [...roleFlags[role], ...profiler, buildPrograms(), role, 'run', '--config', config], { env: { ...process.env, ...roleEnvironment[role] }, stdio: ['ignore', 'pipe', 'inherit'] }), role);
}

/** Runs a file of this folder as a process of its own and yields what it prints as JSON, line by line. */
export async function runPart(file: string, args: readonly string[], flags: readonly string[] = []): Promise<readonly Readonly<Record<string, unknown>>[]> {
  const child = spawn(process.execPath, [...flags, here(file), ...args], { stdio: ['ignore', 'pipe', 'inherit'] });
  return finished(child, file);
}

/** Starts a file of this folder as a process of its own. */
export function startPart(file: string, args: readonly string[]): Running {
  return watched(spawn(process.execPath, [here(file), ...args], { stdio: ['ignore', 'pipe', 'inherit'] }), file);
}

export interface LoadOptions {
  /** User and group to run as; needs root. */
  readonly uid?: number;
  /** A copy of the program, where the user may run it. */
  readonly program?: string;
  readonly cwd?: string;
}

/** Runs the compiled load to its end. @throws when it fails as a whole */
export async function runLoad(args: readonly string[], { uid, program, cwd }: LoadOptions = {}): Promise<readonly ProgramLine[]> {
  const user = { ...(uid !== undefined && { uid, gid: uid }), ...(cwd !== undefined && { cwd }) };
  const child = spawn(program ?? buildProgram(), args, { stdio: ['ignore', 'pipe', 'inherit'], ...user });
  return (await finished(child, `interop ${args.join(' ')}`)) as readonly ProgramLine[];
}

export function startLoad(args: readonly string[]): Running {
  return watched(spawn(buildProgram(), args, { stdio: ['ignore', 'pipe', 'inherit'] }), 'load');
}

async function finished(child: ChildProcess, name: string): Promise<readonly Readonly<Record<string, unknown>>[]> {
  living.add(child);
  const lines: Readonly<Record<string, unknown>>[] = [];
  const reading = readInto(child, (line) => void lines.push(line));
  const code = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (ended) => resolve(ended));
  });
  living.delete(child);
  await reading;
  if (code !== 0) throw new Error(`${name} ended with ${code}: ${JSON.stringify(lines.at(-1))}`);
  return lines;
}

async function readInto(child: ChildProcess, take: (line: Readonly<Record<string, unknown>>) => void): Promise<void> {
  if (child.stdout === null) return;
  for await (const text of createInterface({ input: child.stdout })) {
    try {
      take(JSON.parse(text) as Readonly<Record<string, unknown>>);
    } catch {
      take({ text });
    }
  }
}

/** Of this bench, so that none outlives it. */
const living = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of living) child.kill('SIGKILL');
});

interface Waiting {
  readonly wanted: (line: Readonly<Record<string, unknown>>) => boolean;
  readonly resolve: (line: Readonly<Record<string, unknown>>) => void;
  readonly reject: (error: Error) => void;
}

/** Lines that are kept for those who ask late. */
const keptLines = 2_000;

function watched(child: ChildProcess, name: string): Running {
  living.add(child);
  const seen: Readonly<Record<string, unknown>>[] = [];
  const waiting = new Set<Waiting>();
  let ended = false;
  void readInto(child, (line) => {
    seen.push(line);
    if (seen.length > keptLines) seen.shift();
    for (const one of waiting) {
      if (!one.wanted(line)) continue;
      waiting.delete(one);
      one.resolve(line);
    }
  });
  const exit = new Promise<void>((resolve) => {
    child.once('close', () => {
      ended = true;
      living.delete(child);
      for (const one of waiting) one.reject(new Error(`${name} ended: ${JSON.stringify(seen.slice(-3))}`));
      resolve();
    });
  });
  const pid = child.pid ?? -1;
  const stop = async (): Promise<void> => {
    if (!ended) child.kill('SIGTERM');
    const late = setTimeout(() => child.kill('SIGKILL'), 15_000);
    await exit;
    clearTimeout(late);
  };
  return {
    pid,
    line(wanted) {
      const past = seen.find(wanted);
      if (past !== undefined) return Promise.resolve(past);
      if (ended) return Promise.reject(new Error(`${name} has ended: ${JSON.stringify(seen.slice(-3))}`));
      return new Promise((resolve, reject) => waiting.add({ wanted, resolve, reject }));
    },
    lines: () => seen,
    rss: () => Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024,
    cpuSeconds: () => secondsOf(readFileSync(`/proc/${pid}/stat`, 'utf8')),
    threadSeconds() {
      const seconds: Record<string, number> = {};
      for (const thread of readdirSync(`/proc/${pid}/task`)) {
        const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8');
        const thisName = stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')'));
        seconds[thisName] = (seconds[thisName] ?? 0) + secondsOf(stat);
      }
      return seconds;
    },
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** Of a line in `/proc/PID/stat`. */
function secondsOf(stat: string): number {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/** What it costs while nothing is asked of it. */
export async function idleCost(running: Running, ms: number): Promise<{ readonly cpuPercent: number; readonly rss: number }> {
  const before = running.cpuSeconds();
  const began = performance.now();
  await sleep(ms);
  const seconds = (performance.now() - began) / 1000;
  return { cpuPercent: (100 * (running.cpuSeconds() - before)) / seconds, rss: running.rss() };
}
