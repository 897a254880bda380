/**
 * What a parser may do with hostile input: yield a value, or refuse with an error of ours of a kind that blames the input.
 */
import type { ErrorKind } from '../../spiffe/errors.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

const kinds: readonly ErrorKind[] = ['invalid', 'denied', 'unauthenticated', 'unsupported'];

/** The value, or nothing when it was refused; anything else is a finding and thrown on. */
export function expected<T>(call: () => T): T | undefined {
  try {
    return call();
  } catch (error) {
    if (error instanceof SpiffeError && kinds.includes(error.kind)) return undefined;
    throw error;
  }
}
