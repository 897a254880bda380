/**
 * The registry as a whole: it loads what the store has, applies every commit to the indexes in order and then tells the
 * feed; and it ends entries at the instant they expire. The indexes answer questions; nothing here writes.
 */
import { linkedController } from '../../runtime/abort.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { CommittedBatch, CommittedChange, Store } from '../store/store.ts';
import { createAgentIndex } from './agents.ts';
import type { AgentIndex } from './agents.ts';
import { createAuthorityIndex } from './authorities.ts';
import type { AuthorityIndex } from './authorities.ts';
import { createBundleIndex } from './bundles.ts';
import type { BundleIndex } from './bundles.ts';
import { createFeed } from './feed.ts';
import type { Feed, FeedInput, FeedOptions } from './feed.ts';
import { createHoldings } from './holdings.ts';
import type { Holdings } from './holdings.ts';
import { createEntryIndex } from './index.ts';
import type { EntryDelta, EntryIndex } from './index.ts';

export interface RegistryOptions extends Pick<FeedOptions, 'onDelivered' | 'heartbeatMs' | 'maxQueued'> {
  readonly store: Pick<
    Store,
    'position' | 'subscribe' | 'loadEntries' | 'loadAgents' | 'loadBundles' | 'loadAuthorities' | 'changesSince'
  >;
  readonly trustDomain: TrustDomain;
  readonly clock: Clock;
  /** Most entries held in memory. */
  readonly maxEntries: number;
}

export interface Registry {
  readonly entries: EntryIndex;
  readonly agents: AgentIndex;
  readonly bundles: BundleIndex;
  readonly authorities: AuthorityIndex;
  readonly holdings: Holdings;
  readonly feed: Feed;
  /** Ends entries as they expire, until the signal aborts. */
  run(signal: AbortSignal): Promise<void>;
  /** Stops listening to the store. */
  close(): void;
}

/** Loaded when it resolves; follows the store from then on. @throws what loading throws */
export async function openRegistry(options: RegistryOptions): Promise<Registry> {
  const { store, trustDomain, clock, maxEntries } = options;
  const entries = createEntryIndex(trustDomain, maxEntries);
  const agents = createAgentIndex();
  const bundles = createBundleIndex(trustDomain);
  const authorities = createAuthorityIndex();
  const holdings = createHoldings(entries, agents);
  let replan = Promise.withResolvers<void>();

  const entryMoved = (delta: EntryDelta, input: FeedInput | undefined): void => {
    holdings.entryChanged(delta);
    input?.entryChanged(delta);
  };
  const applyOne = (change: CommittedChange, now: number, input?: FeedInput): void => {
    switch (change.noun) {
      case 'entry':
        entryMoved(entries.apply(change, now), input);
        break;
      case 'agent': {
        const delta = agents.apply(change);
        holdings.agentChanged(delta);
        input?.agentChanged(delta);
        break;
      }
      case 'bundle':
        bundles.apply(change);
        input?.bundleChanged(change.id);
        break;
      case 'relationship':
        // Concerns no agent; federation follows it.
        break;
      case 'authority':
        authorities.apply(change);
        input?.authorityChanged(change.id);
    }
    input?.committed(change);
  };

  // What is committed while loading is applied after it; applying something twice changes nothing.
  const missed: CommittedBatch[] = [];
  let apply = (batch: CommittedBatch): void => void missed.push(batch);
  const unsubscribe = store.subscribe((batch) => apply(batch));
  try {
    await agents.load(store);
    await bundles.load(store);
    await authorities.load(store);
    await entries.load(store, () => clock.now());
  } catch (error) {
    unsubscribe();
    throw error;
  }
  for (const { changes } of missed) for (const change of changes) applyOne(change, clock.now());
  const { feed, input } = createFeed({ ...options, entries, agents, bundles, authorities, holdings });
  apply = ({ changes, committedAt }) => {
    const now = clock.now();
    const plannedAt = entries.nextExpiryAt;
    for (const change of changes) applyOne(change, now, input);
    input.flush(changes.at(-1)?.revision, committedAt);
    if (entries.nextExpiryAt !== plannedAt) replan.resolve();
  };

  return {
    entries,
    agents,
    bundles,
    authorities,
    holdings,
    feed,
    async run(signal) {
      while (!signal.aborted) {
        let ended = 0;
        for (const delta of entries.expire(clock.now())) {
          entryMoved(delta, input);
          ended += 1;
        }
        if (ended > 0) input.flush(undefined, clock.now());
        replan = Promise.withResolvers();
        await untilNext(entries.nextExpiryAt, replan.promise, clock, signal);
      }
    },
    close: unsubscribe,
  };
}

async function untilNext(at: number | undefined, replan: Promise<void>, clock: Clock, signal: AbortSignal): Promise<void> {
  const rest = linkedController(signal);
  const aborted = Promise.withResolvers<void>();
  rest.signal.addEventListener('abort', () => aborted.resolve(), { once: true });
  if (rest.signal.aborted) aborted.resolve();
  const slept = at === undefined ? aborted.promise : clock.sleepUntil(at, rest.signal).catch(() => undefined);
  try {
    await Promise.race([slept, replan]);
  } finally {
    rest.abort(new Error('planned anew'));
    rest.unlink();
  }
}
