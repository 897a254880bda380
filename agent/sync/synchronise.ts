/**
 * Following where the server can be followed, else polling; and for whoever asks, whether there is something newer. Which
 * of the two it is, is found out by trying, every few minutes anew: servers are replaced while agents run.
 */
import type { SpiffeError } from '../../spiffe/errors.ts';
import { abortReason, linkedController } from '../../runtime/abort.ts';
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
  /** The server cannot be followed; polling begins. Not told again before it was followed. */
  readonly onPolling: (why: SpiffeError) => void;
}

export interface Synchronisation {
  readonly freshness: Freshness;
  run(signal: AbortSignal): Promise<never>;
}

/** For so long a server that could not be followed is polled before that is tried again. */
export const followAgainMs = 300_000;
const enough = new Error('polled for a while');

export function synchronise(options: SynchroniseOptions): Synchronisation {
  const { clock, holdings, follower, poller } = options;
  /** What the follower had heard last when polling began. */
  let polledSince: { readonly heardAt: number | undefined } | undefined;
  /** While following is tried again, too: until it succeeds, whoever asks waits for the next poll. */
  const polling = (): boolean => polledSince !== undefined && polledSince.heardAt === follower.heardAt;

  const catchUp = async (signal: AbortSignal): Promise<void> => {
    const target = await options.askBehind(holdings.value.position, signal);
    if (target === undefined) return;
    for await (const now of holdings.values(signal)) if (isAtLeast(now.position, target)) return;
  };

  const pollForAWhile = async (signal: AbortSignal): Promise<void> => {
    const turn = linkedController(signal);
    const elapsed = clock.sleep(followAgainMs, turn.signal).then(() => turn.abort(enough));
    try {
      await Promise.all([poller.run(turn.signal), elapsed]);
    } catch (error) {
      if (signal.aborted) throw abortReason(signal);
      if (!turn.signal.aborted) throw error;
    } finally {
      turn.abort(enough);
      turn.unlink();
    }
  };

  return {
    freshness: createFreshness({
      clock,
      ask: (signal) => (polling() ? poller.soon() : catchUp(signal)),
      isConnected: () => polling() || follower.connected,
    }),
    async run(signal) {
      for (;;) {
        const why = await follower.run(signal);
        if (!polling()) options.onPolling(why);
        polledSince = { heardAt: follower.heardAt };
        await pollForAWhile(signal);
      }
    },
  };
}
