/**
 * What a call comes to, as one text that a table row can hold.
 */
import { SpiffeError } from '../../spiffe/errors.ts';

/** `accepted`, or kind and reason of the SpiffeError; any other error is thrown on. */
export function refusal(call: () => unknown): string {
  try {
    call();
    return 'accepted';
  } catch (error) {
    if (error instanceof SpiffeError) return `${error.kind} ${error.reason}`;
    throw error;
  }
}
