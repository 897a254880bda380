/**
 * How long to wait before trying again: a delay from the attempt's number and a random number. Waiting, counting and
 * giving up are the caller's.
 */

/** How pauses grow from one attempt to the next. */
export interface BackoffPolicy {
  /** Delay after the first failure. */
  readonly firstMs: number;
  /** Growth per further failure, at least 1. */
  readonly factor: number;
  readonly longestMs: number;
  /** Share of the delay that is random, 0 to 1: 0.2 spreads it over ±20 %. */
  readonly jitter: number;
}

export const defaultBackoff: BackoffPolicy = { firstMs: 500, factor: 1.6, longestMs: 60_000, jitter: 0.2 };

/**
 * @param attempt failures so far, from 1
 * @param random in [0, 1)
 * @returns milliseconds, never more than `longestMs`
 */
export function backoffMs(attempt: number, random: number, policy: BackoffPolicy = defaultBackoff): number {
  const exponent = Math.max(0, Math.floor(attempt) - 1);
  // The power overflows to Infinity after some hundred attempts, which the minimum takes.
  const plain = Math.min(policy.longestMs, policy.firstMs * policy.factor ** exponent);
  const spread = plain * (1 + policy.jitter * (2 * random - 1));
  return Math.max(0, Math.min(policy.longestMs, Math.round(spread)));
}
