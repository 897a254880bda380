/**
 * Takes out what is over: expired entries soon, records when they were kept long enough; in small transactions with
 * pauses, so that nobody waits behind them.
 */
import type { Clock } from '../../runtime/clock.ts';
import { isSpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeError } from '../../spiffe/errors.ts';
import { serverScope } from '../audit/scope.ts';
import type { Store } from '../store/store.ts';

export interface PruneOptions {
  readonly store: Pick<Store, 'pruneEntries' | 'pruneRecords'>;
  readonly clock: Clock;
  readonly intervalMs?: number;
  /** After their expiry. */
  readonly credentialsKeptMs?: number;
  readonly auditKeptMs?: number;
  /** Told when a round could not be finished; the next one tries again. */
  readonly onFailure?: (error: SpiffeError) => void;
}

const dayMs = 86_400_000;
const batch = 500;
const pauseMs = 50;

/** Runs until the signal aborts, then rejects with its reason. */
export async function runPruning(options: PruneOptions, signal: AbortSignal): Promise<never> {
  const { clock, intervalMs = 60_000 } = options;
  for (;;) {
    try {
      await pruneOnce(options, signal);
    } catch (error) {
      // A store that is busy or full now may not be in a minute.
      if (!isSpiffeError(error, 'unavailable')) throw error;
      options.onFailure?.(error);
    }
    await clock.sleep(intervalMs, signal);
  }
}

/** One round: until nothing is left that is due. */
export async function pruneOnce(options: PruneOptions, signal: AbortSignal): Promise<void> {
  const { store, clock, credentialsKeptMs = 30 * dayMs, auditKeptMs = 400 * dayMs } = options;
  for (;;) {
    const now = clock.now();
    const scope = serverScope(now);
    const entries = await store.pruneEntries(batch, scope);
    const before = { credentialsExpired: now - credentialsKeptMs, auditAt: now - auditKeptMs };
    const records = await store.pruneRecords(before, batch, scope);
    if (Math.max(entries, records.credentials, records.events) < batch) return;
    await clock.sleep(pauseMs, signal);
  }
}
