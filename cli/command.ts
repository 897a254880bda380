/**
 * What a command is: its words, its flags, and a function from parsed arguments to an exit code. Finding the command
 * and turning errors into exit codes is `main.ts`.
 */
import type { ErrorKind } from '../spiffe/errors.ts';
import type { FlagSpecs, ParsedFlags } from './flags.ts';

/** Where a command reads and writes; text goes out as given, line ends included. */
export interface Io {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  /** All of standard input. */
  readonly input: () => Promise<string>;
  readonly isTerminal: boolean;
  readonly columns: number;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborts at the first interrupt or termination signal. */
  readonly signal: AbortSignal;
  /** Tells when the terminal is gone, which otherwise ends the process at once. */
  readonly onHangup: (listener: () => void) => void;
  /** The running Node, for commands that start further programs, and how they end those that are no children of theirs. */
  readonly execPath: string;
  readonly kill: (pid: number, signal: NodeJS.Signals) => void;
}

export interface Command<F extends FlagSpecs = FlagSpecs> {
  /** Such as `entry create`. */
  readonly name: string;
  readonly summary: string;
  /** One line for each way to use it, without the program's name. */
  readonly usage?: readonly string[];
  readonly flags: F;
  /** Names of the positional arguments, `…` at the end for many; none when absent. */
  readonly positionals?: readonly string[];
  readonly run: (args: ParsedFlags<F>, io: Io) => Promise<number>;
}

/** Keeps the flags' types for `run` and forgets them for the table of commands. */
export function command<const F extends FlagSpecs>(definition: Command<F>): Command {
  return definition as unknown as Command;
}

/** Stable for scripts; `docs/cli.md` lists them. */
export const exitCodes = {
  ok: 0,
  /** Asked for, and the answer is no: an item failed, a check did not pass. */
  failed: 1,
  usage: 2,
  unavailable: 69,
  internal: 70,
  denied: 77,
  config: 78,
  interrupted: 130,
} as const;

const byKind: Readonly<Record<ErrorKind, number>> = {
  invalid: exitCodes.usage,
  unauthenticated: exitCodes.denied,
  denied: exitCodes.denied,
  missing: exitCodes.failed,
  exists: exitCodes.failed,
  conflict: exitCodes.failed,
  limited: exitCodes.unavailable,
  unavailable: exitCodes.unavailable,
  unsupported: exitCodes.failed,
  internal: exitCodes.internal,
};

export function exitCodeOf(kind: ErrorKind): number {
  return byKind[kind];
}
