/**
 * Following where the server can be followed, else polling; and for whoever asks, whether there is something newer. Which
 * of the two it is, is found out by trying.
 */
import type { SpiffeError } from '../../spiffe/errors.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Watch } from '../../runtime/watch.ts';
import type { Follower } from './follow.ts';
import { createFreshness, type Freshness } from './freshness.ts';
import { isAtLeast, type Holdings, type Position } from './holdings.ts';
import type { Poller } from './poll.ts';

export interface SynchroniseOptions {
  readonly clock: Clock;
  readonly holdings: Watch<Holdings>;
  readonly follower: Follower;
  readonly poller: Poller;
  /** Where the server is, when that is beyond `position`. */
  readonly askBehind: (position: Position | undefined, signal: AbortSignal) => Promise<Position | undefined>;
  /** The server cannot be followed; polling begins. */
  readonly onPolling: (why: SpiffeError) => void;
}

export interface Synchronisation {
  readonly freshness: Freshness;
  run(signal: AbortSignal): Promise<never>;
}

export function synchronise(options: SynchroniseOptions): Synchronisation {
  const { clock, holdings, follower, poller } = options;
  let polling = false;

  const catchUp = async (signal: AbortSignal): Promise<void> => {
    const target = await options.askBehind(holdings.value.position, signal);
    if (target === undefined) return;
    for await (const now of holdings.values(signal)) if (isAtLeast(now.position, target)) return;
  };

  return {
    freshness: createFreshness({
      clock,
      ask: (signal) => (polling ? poller.soon() : catchUp(signal)),
      isConnected: () => polling || follower.connected,
    }),
    async run(signal) {
      options.onPolling(await follower.run(signal));
      polling = true;
      return poller.run(signal);
    },
  };
}
