/**
 * Synchronises with a server that has no follow stream: asks for entry revisions, fetches what is stale, then the bundles,
 * every few seconds. What the calls look like is `messages.ts`.
 */
import type { Bundle } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { abortReason } from '../../runtime/abort.ts';
import { backoffMs } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createAlarm } from '../alarm.ts';
import type { HoldingsOwner } from './holdings.ts';

export interface PollSource {
  /** All entries this agent is authorized for; those in `known` that did not change may be taken from there. */
  entries(known: ReadonlyMap<string, RegistrationEntry>, signal: AbortSignal): Promise<readonly RegistrationEntry[]>;
  bundle(signal: AbortSignal): Promise<Bundle>;
  /** `undefined` when the server has none. */
  federatedBundle(trustDomain: TrustDomain, signal: AbortSignal): Promise<Bundle | undefined>;
}

export interface PollOptions {
  readonly clock: Clock;
  readonly random: () => number;
  readonly trustDomain: TrustDomain;
  readonly holdings: HoldingsOwner;
  readonly source: PollSource;
  readonly intervalMs?: number;
  readonly onSynced: () => void;
  readonly onFailed: (error: SpiffeError) => void;
}

export interface Poller {
  /** One synchronisation that starts now or later. */
  soon(): Promise<void>;
  run(signal: AbortSignal): Promise<never>;
}

const federatedAtOnce = 10;

export function createPoller(options: PollOptions): Poller {
  const { clock, random, trustDomain, holdings, source, intervalMs = 5_000, onSynced, onFailed } = options;
  const alarm = createAlarm(clock);
  let waiting: PromiseWithResolvers<void> | undefined;

  const syncOnce = async (signal: AbortSignal): Promise<void> => {
    const entries = await source.entries(holdings.value.entries, signal);
    const names = new Set(entries.flatMap((entry) => entry.federatesWith));
    names.delete(trustDomain);
    const bundles = [await source.bundle(signal)];
    const asked = [...names];
    while (asked.length > 0) {
      const some = asked.splice(0, federatedAtOnce).map((name) => source.federatedBundle(name, signal));
      bundles.push(...(await Promise.all(some)).filter((bundle) => bundle !== undefined));
    }
    holdings.replace({ position: undefined, entries, bundles, authorities: [] });
  };

  return {
    soon() {
      if (waiting === undefined) {
        waiting = Promise.withResolvers<void>();
        // Whoever asked may have stopped waiting.
        waiting.promise.catch(() => undefined);
      }
      alarm.ring();
      return waiting.promise;
    },
    async run(signal) {
      let failures = 0;
      const retry = { firstMs: intervalMs, factor: 1.5, longestMs: Math.min(8 * 60_000, 48 * intervalMs), jitter: 0.1 };
      for (;;) {
        const waiters = waiting;
        waiting = undefined;
        try {
          await syncOnce(signal);
          failures = 0;
          waiters?.resolve();
          onSynced();
        } catch (caught) {
          const error = asSpiffeError(caught);
          waiters?.reject(error);
          if (signal.aborted) throw abortReason(signal);
          failures += 1;
          onFailed(error);
        }
        await alarm.after(backoffMs(Math.max(1, failures), random(), retry), signal);
      }
    },
  };
}

function asSpiffeError(error: unknown): SpiffeError {
  if (error instanceof SpiffeError) return error;
  return new SpiffeError('internal', 'poll.failed', 'synchronising failed for an unexpected reason', { cause: error });
}
