/**
 * Asks the server, before somebody is denied, whether this agent is behind, and if so waits a moment for it to catch up.
 * One question at a time, at most one a second, a quarter of a second at most; without a server the answer is no.
 */
import type { Clock } from '../../runtime/clock.ts';

export interface Freshness {
  /** Resolves when the agent is as new as the server was at the question, or when waiting longer is not worth it. */
  catchUp(): Promise<void>;
}

export interface FreshnessOptions {
  readonly clock: Clock;
  /** Resolves when the agent has caught up with what the server has now; rejects when it cannot be asked. */
  readonly ask: (signal: AbortSignal) => Promise<void>;
  /** False while there is no connection worth asking over. */
  readonly isConnected: () => boolean;
}

const patienceMs = 250;
const restMs = 1_000;

export function createFreshness({ clock, ask, isConnected }: FreshnessOptions): Freshness {
  let asking: Promise<void> | undefined;
  let askedAt = Number.NEGATIVE_INFINITY;

  const once = async (): Promise<void> => {
    const stop = new AbortController();
    const answered = ask(stop.signal).catch(() => undefined);
    const elapsed = clock.sleep(patienceMs, stop.signal).catch(() => undefined);
    await Promise.race([answered, elapsed]);
    stop.abort(new Error('enough'));
  };

  return {
    async catchUp() {
      if (asking === undefined) {
        // What was asked within the last second is known; nobody is made to wait to hear it again.
        if (!isConnected() || clock.monotonic() - askedAt < restMs) return;
        askedAt = clock.monotonic();
        asking = once().finally(() => (asking = undefined));
      }
      await asking;
    },
  };
}
