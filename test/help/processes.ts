/**
 * Real programs that tests start and talk to by lines: one that connects, one that accepts. What they do is written in
 * `connector.ts` and `acceptor-host.ts`.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { AcceptorCounters, AdmissionLimits } from '../../runtime/acceptor.ts';

const programOf = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

export interface Program {
  readonly pid: number;
  readonly child: ChildProcess;
  /** The next line of output; rejects when there is none any more. */
  line(): Promise<string>;
  /** Resolves when the process is gone and reaped. */
  readonly gone: Promise<void>;
}

export interface ProgramOptions {
  readonly uid?: number;
  readonly gid?: number;
}

/** @param command program and arguments, standard input and output connected */
export function startProgram(command: readonly [string, ...string[]], options: ProgramOptions = {}): Program {
  const [file, ...args] = command;
  const child = spawn(file, args, { ...options, stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  child.stdin.on('error', () => undefined);
  return {
    pid: child.pid ?? -1,
    child,
    async line() {
      const next = await lines.next();
      if (next.done === true) throw new Error(`${file} ended without a further line`);
      return next.value;
    },
    gone: once(child, 'exit').then(() => undefined),
  };
}

export type ConnectorAct = 'hold' | 'exec-other' | 'exec-same' | 'bequeath';

/** Resolves once it has connected. It acts when `child.stdin` ends. */
export async function startConnector(path: string, act: ConnectorAct): Promise<Program> {
  const program = startProgram([process.execPath, programOf('connector.ts'), path, act]);
  const line = await program.line();
  if (line !== 'connected') throw new Error(`the connector said ${line}`);
  return program;
}

export interface HostState extends AcceptorCounters {
  readonly descriptors: number;
  readonly cpu: { readonly user: number; readonly system: number };
}

export interface Host extends Program {
  /** Events, as their kinds, in the order they came in. */
  readonly events: readonly string[];
  ask(): Promise<HostState>;
  end(): Promise<void>;
}

/** @param through a program and arguments that run the host as their last arguments say, e.g. with fewer rights */
export async function startHost(
  path: string,
  limits: Partial<AdmissionLimits> = {},
  through: readonly string[] = [],
): Promise<Host> {
  const host = [process.execPath, programOf('acceptor-host.ts'), path, JSON.stringify(limits)];
  const [first = process.execPath, ...rest] = [...through, ...host];
  const program = startProgram([first, ...rest]);
  const events: string[] = [];
  const next = async (kind: string): Promise<unknown> => {
    for (;;) {
      const message = JSON.parse(await program.line()) as { readonly kind: string };
      if (message.kind === kind) return message;
      events.push(message.kind);
    }
  };
  await next('listening');
  return {
    ...program,
    events,
    async ask() {
      program.child.stdin?.write('\n');
      return (await next('state')) as HostState;
    },
    async end() {
      program.child.stdin?.end();
      await program.gone;
    },
  };
}
