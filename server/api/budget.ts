/**
 * Token buckets for callers: one per budget and caller, refilled evenly, waited for in order. Which method draws on
 * which budget is `access.ts`; how large a budget is comes from the configuration.
 */
import type { Clock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { Budget } from './access.ts';

/** Tokens a second, which is the bucket's size as well; 0 switches the limit off. */
export type BudgetRates = Readonly<Record<Budget, number>>;

export const defaultBudgetRates: BudgetRates = {
  signing: 2000,
  tokens: 2000,
  status: 10,
  sync: 50,
  report: 50,
  publish: 500,
};

/** How long a caller may queue for tokens before it is told to go away. */
const maxWaitMs = 10_000;
/** Full buckets say nothing; they are swept when so many callers were seen. */
const sweepAt = 10_000;

interface Bucket {
  /** May be negative: tokens promised to callers that wait already. */
  tokens: number;
  refilledAt: number;
}

export interface Budgets {
  /**
   * Takes `cost` tokens of the caller's bucket, waiting for them when they are not there yet.
   * @throws limited `access.budget.burst|wait`
   */
  take(budget: Budget, caller: string, cost: number, signal: AbortSignal): Promise<void>;
}

/** `rates` is read at every call, so that a reload takes effect at once. */
export function createBudgets(clock: Clock, rates: () => BudgetRates): Budgets {
  const buckets = new Map<string, Bucket>();

  const refill = (bucket: Bucket, rate: number): void => {
    const now = clock.monotonic();
    bucket.tokens = Math.min(rate, bucket.tokens + ((now - bucket.refilledAt) / 1000) * rate);
    bucket.refilledAt = now;
  };

  const sweep = (): void => {
    const now = clock.monotonic();
    // A bucket refills completely within a second of the last promise it made.
    for (const [key, bucket] of buckets) {
      if (now - bucket.refilledAt > maxWaitMs + 1000) buckets.delete(key);
    }
  };

  return {
    async take(budget, caller, cost, signal) {
      const rate = rates()[budget];
      if (rate === 0) return;
      if (cost > rate) {
        throw new SpiffeError('limited', 'access.budget.burst', `rate (${cost}) exceeds burst size (${rate})`, {
          detail: { budget },
        });
      }
      const key = `${budget} ${caller}`;
      let bucket = buckets.get(key);
      if (bucket === undefined) {
        if (buckets.size >= sweepAt) sweep();
        bucket = { tokens: rate, refilledAt: clock.monotonic() };
        buckets.set(key, bucket);
      }
      refill(bucket, rate);
      const waitMs = bucket.tokens >= cost ? 0 : ((cost - bucket.tokens) / rate) * 1000;
      if (waitMs > maxWaitMs) {
        throw new SpiffeError('limited', 'access.budget.wait', 'too many requests are waiting', { detail: { budget } });
      }
      bucket.tokens -= cost;
      if (waitMs > 0) await clock.sleep(waitMs, signal);
    },
  };
}
