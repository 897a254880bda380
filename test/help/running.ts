/**
 * A process that a test started and whose output is lines, JSON objects among them: waited for by what they say, ended
 * with the test. What is started, and what its lines mean, is the caller's.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

/** One line of output that is a JSON object, as `event` names it. */
export type OutputLine = Readonly<Record<string, unknown>> & { readonly event?: string };

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface Running {
  readonly pid: number;
  readonly child: ChildProcess;
  /** What is known of it so far, oldest first. */
  readonly lines: readonly OutputLine[];
  /** Everything it printed, both outputs, for a failed test to show. */
  text(): string;
  /**
   * The first line from `from` on that `matches`, already there or to come; rejects with all output when the process ends
   * before, or after `withinMs`.
   */
  until(matches: string | ((line: OutputLine) => boolean), options?: { readonly withinMs?: number; readonly from?: number }): Promise<OutputLine>;
  readonly exit: Promise<Exit>;
  /** Sends the signal, SIGTERM unless given, and waits for the end. */
  end(signal?: NodeJS.Signals): Promise<Exit>;
}

export interface RunningOptions {
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly cwd?: string;
  readonly uid?: number;
  readonly gid?: number;
}

const standardWaitMs = 20_000;
const keptText = 256 * 1024;

export function startRunning(command: readonly [string, ...string[]], options: RunningOptions = {}): Running {
  const [file, ...args] = command;
  const child = spawn(file, args, { ...options, env: { ...process.env, ...options.env }, stdio: ['pipe', 'pipe', 'pipe'] });
  const lines: OutputLine[] = [];
  const waiting = new Set<() => void>();
  let text = '';
  let ended: Exit | undefined;
  const keep = (more: string): void => {
    text = (text + more).slice(-keptText);
  };
  const wake = (): void => {
    for (const look of waiting) look();
  };
  child.stdin.on('error', () => undefined);
  child.stderr.setEncoding('utf8').on('data', keep);
  const reader = createInterface({ input: child.stdout });
  reader.on('line', (line) => {
    keep(`${line}\n`);
    const parsed = parseLine(line);
    if (parsed === undefined) return;
    lines.push(parsed);
    wake();
  });
  const failed = once(child, 'error').then(([error]): Exit => {
    keep(`${String(error)}\n`);
    return { code: null, signal: null };
  });
  // Output that was written before the end has been read by then.
  const closed = once(child, 'close').then(([code, signal]): Exit => ({ code, signal }));
  const exit = Promise.race([closed, failed]).then((how) => {
    ended = how;
    wake();
    return how;
  });
  return {
    pid: child.pid ?? -1,
    child,
    lines,
    text: () => text,
    exit,
    until(matches, { withinMs = standardWaitMs, from = 0 } = {}) {
      const fits = typeof matches === 'string' ? (line: OutputLine) => line.event === matches : matches;
      const wanted = typeof matches === 'string' ? matches : String(matches);
      return new Promise((resolve, reject) => {
        let read = from;
        const timer = setTimeout(() => finish(() => reject(new Error(`no line ${wanted} within ${withinMs} ms:\n${text}`))), withinMs);
        const finish = (settle: () => void): void => {
          clearTimeout(timer);
          waiting.delete(look);
          settle();
        };
        const look = (): void => {
          for (; read < lines.length; read += 1) {
            const line = lines[read];
            if (line !== undefined && fits(line)) return finish(() => resolve(line));
          }
          if (ended !== undefined) finish(() => reject(new Error(`ended ${JSON.stringify(ended)} without a line ${wanted}:\n${text}`)));
        };
        waiting.add(look);
        look();
      });
    },
    async end(signal = 'SIGTERM') {
      if (ended === undefined) child.kill(signal);
      return exit;
    },
  };
}

export interface Finished extends Exit {
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a command to its end, whatever its exit code. */
export async function runToEnd(command: readonly [string, ...string[]], options: RunningOptions & { readonly input?: string } = {}): Promise<Finished> {
  const [file, ...args] = command;
  const { input = '', ...rest } = options;
  const child = spawn(file, args, { ...rest, env: { ...process.env, ...options.env }, stdio: ['pipe', 'pipe', 'pipe'] });
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (more: string) => (stdout += more));
  child.stderr.setEncoding('utf8').on('data', (more: string) => (stderr += more));
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  return { code, signal, stdout, stderr };
}

/** @returns undefined for what is no JSON object */
export function parseLine(line: string): OutputLine | undefined {
  if (!line.startsWith('{')) return undefined;
  try {
    return JSON.parse(line) as OutputLine;
  } catch {
    return undefined;
  }
}
