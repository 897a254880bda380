/**
 * What every fuzz target is: a module named `*.fuzz.ts` that exports these three, or one object `target` that has them. What
 * counts as a finding is the same for all of them and is said in `run.ts`.
 */
import { readFileSync } from 'node:fs';
import { SpiffeError } from '../../spiffe/errors.ts';

export interface FuzzTarget {
  readonly name: string;
  /** Inputs to start from; right ones above all, since wrong ones are made of them. */
  corpus(): readonly Uint8Array[];
  /** Returns for good and bad input alike; throws only when the parser did what it must not. */
  run(input: Uint8Array): void;
}

/** Lets a parser refuse: SpiffeErrors that blame the input pass, everything else is thrown on. */
export function refusing(parse: () => void): void {
  try {
    parse();
  } catch (error) {
    if (error instanceof SpiffeError && (error.kind === 'invalid' || error.kind === 'unsupported')) return;
    throw error;
  }
}

/** A file of `test/vectors`. */
export function vectors(file: string): unknown {
  return JSON.parse(readFileSync(new URL(`../vectors/${file}`, import.meta.url), 'utf8'));
}
