/**
 * How long records are kept: credentials some time past their expiry, audit events longer, both pruned in small batches,
 * each of which is on record itself. What a record says is `event.ts`, keeping it the store's.
 */
import { backoffMs } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Scope, Store } from '../store/store.ts';
import { serverScope } from './scope.ts';

export interface Retention {
  /** Past expiry. */
  readonly credentialsMs: number;
  readonly auditMs: number;
}

const dayMs = 24 * 3_600_000;

export const defaultRetention: Retention = { credentialsMs: 30 * dayMs, auditMs: 400 * dayMs };

export interface PrunerDeps {
  readonly store: Pick<Store, 'pruneRecords'>;
  readonly clock: Clock;
  /** Asked anew for every round, so that a reload takes effect. */
  readonly retention: () => Retention;
  /** Told of every failure, and with `undefined` when it is over. */
  readonly onProblem: (problem: unknown) => void;
}

/** Small enough that nobody who writes beside it waits noticeably. */
const batch = 500;
const betweenBatchesMs = 100;
const betweenRoundsMs = 600_000;
const retry = { firstMs: 5_000, factor: 2, longestMs: betweenRoundsMs, jitter: 0 } as const;

/** Prunes until the signal aborts. */
export async function keepPruning({ store, clock, retention, onProblem }: PrunerDeps, signal: AbortSignal): Promise<void> {
  let failures = 0;
  while (!signal.aborted) {
    let pauseMs = betweenRoundsMs;
    try {
      const now = clock.now();
      if (await pruneOnce(store, retention(), serverScope(now))) pauseMs = betweenBatchesMs;
      if (failures > 0) onProblem(undefined);
      failures = 0;
    } catch (error) {
      failures += 1;
      onProblem(error);
      pauseMs = backoffMs(failures, 0.5, retry);
    }
    await clock.sleep(pauseMs, signal).catch(() => undefined);
  }
}

/** Tells whether there may be more. */
async function pruneOnce(store: Pick<Store, 'pruneRecords'>, { credentialsMs, auditMs }: Retention, scope: Scope): Promise<boolean> {
  const before = { credentialsExpired: scope.at - credentialsMs, auditAt: scope.at - auditMs };
  const { credentials, events } = await store.pruneRecords(before, batch, scope);
  return credentials >= batch || events >= batch;
}
