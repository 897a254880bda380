/**
 * One stream per following agent: a snapshot or what it missed, then every commit that concerns it, numbered and never
 * conflated. It hears of changes from the registry, after the indexes did; messages are the API's.
 */
import { linkedController } from '../../runtime/abort.ts';
import type { Clock } from '../../runtime/clock.ts';
import { isAlias } from '../../spiffe/authorize.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { ChangeReference, CommittedChange, Position, Store } from '../store/store.ts';
import { isActive, isBanned } from './agents.ts';
import type { AgentDelta, AgentIndex } from './agents.ts';
import { noticeOf } from './authorities.ts';
import type { AuthorityIndex } from './authorities.ts';
import type { BundleIndex } from './bundles.ts';
import { changesItems, snapshotPages } from './feed-items.ts';
import type { CommandAction, FeedChange, FeedItem } from './feed-items.ts';
import type { Holdings } from './holdings.ts';
import type { EntryDelta, EntryIndex } from './index.ts';
import { createInterest, createView } from './interest.ts';
import type { View } from './interest.ts';
import { resumeChanges } from './resume.ts';
import { createStandings } from './standings.ts';
import type { Standings } from './standings.ts';

export interface FeedOptions {
  readonly trustDomain: TrustDomain;
  readonly store: Pick<Store, 'position' | 'changesSince'>;
  readonly entries: EntryIndex;
  readonly agents: AgentIndex;
  readonly bundles: BundleIndex;
  readonly authorities: AuthorityIndex;
  readonly holdings: Holdings;
  readonly clock: Clock;
  /** Told, when an item of changes is taken from the queue, how long ago it was committed. */
  readonly onDelivered?: (delayMs: number) => void;
  readonly heartbeatMs?: number;
  /** Items that may wait for a slow follower. */
  readonly maxQueued?: number;
}

export interface Feed extends Pick<Standings, 'confirm' | 'following' | 'unconfirmed'> {
  /** Whether there are agents that never confirm, because they poll. */
  readonly pollers: boolean;
  /**
   * Everything that concerns the agent, from a position on, or from the beginning. A newer stream ends an older one.
   * @param version 1 always takes a snapshot, 2 resumes
   * @throws denied `feed.agent-inactive`, unavailable `feed.overflow|replaced`
   */
  follow(agentId: SpiffeId, from: Position | undefined, version: number, signal: AbortSignal): AsyncIterableIterator<FeedItem>;
  /** Where the agent is to be, when something that concerns it was committed after the position. */
  behind(agentId: SpiffeId, position: Position | undefined): Position | undefined;
  /** Ends the agent's stream now, telling it why. */
  disconnect(agentId: SpiffeId, action: CommandAction, reason?: string): void;
}

/** The registry's side: every change after the indexes have it, then `flush` once per commit. */
export interface FeedInput {
  entryChanged(delta: EntryDelta): void;
  agentChanged(delta: AgentDelta): void;
  bundleChanged(trustDomain: TrustDomain): void;
  authorityChanged(id: string): void;
  /** Remembers what resuming agents would otherwise miss between reading and listening. */
  committed(change: CommittedChange): void;
  flush(revision: number | undefined, committedAt: number): void;
}

/** More changes than this cost more to go through than a snapshot. */
const maxResumed = 5_000;

interface Follower {
  readonly agentId: SpiffeId;
  readonly view: View;
  readonly queue: FeedItem[];
  /** The newest position that was queued for it. */
  position: Position;
  wake: PromiseWithResolvers<void>;
  /** Once set, the stream ends when the queue is empty. */
  end: { readonly error: SpiffeError | undefined } | undefined;
  /** Changes of the commit at hand. */
  pending: FeedChange[];
}

interface Started {
  readonly follower: Follower;
  readonly items: Iterable<FeedItem>;
  readonly snapshot: boolean;
}

export function createFeed(options: FeedOptions): { readonly feed: Feed; readonly input: FeedInput } {
  const { trustDomain, store, entries, agents, bundles, authorities, holdings, clock } = options;
  const { heartbeatMs = 25_000, maxQueued = 1_024 } = options;
  const interest = createInterest(entries);
  const followers = new Map<SpiffeId, Follower>();
  const owners = new Map<View, Follower>();
  const starting = new Set<ChangeReference[]>();
  let position = store.position;
  const touched = new Set<Follower>();
  let touchedBundles = new Set<TrustDomain>();
  let touchedAuthorities = new Set<string>();

  const isActiveNow = (agentId: SpiffeId): boolean => isActive(agents.get(agentId), clock.now());
  const standings = createStandings(() => position, isActiveNow);

  const enqueue = (follower: Follower, items: Iterable<FeedItem>): void => {
    for (const item of items) follower.queue.push(item);
    if (follower.queue.length > maxQueued) {
      follower.queue.length = 0;
      end(follower, new SpiffeError('unavailable', 'feed.overflow', 'the follower is too slow; resume from the last position'));
    }
    wake(follower);
  };
  const end = (follower: Follower, error: SpiffeError | undefined): void => {
    follower.end ??= { error };
    interest.leave(follower.view);
    owners.delete(follower.view);
    if (followers.get(follower.agentId) === follower) {
      followers.delete(follower.agentId);
      standings.left(follower.agentId);
    }
    wake(follower);
  };

  const add = (follower: Follower, changes: readonly FeedChange[]): void => {
    for (const change of changes) follower.pending.push(change);
    touched.add(follower);
  };

  const cut = (agentId: SpiffeId, action: CommandAction, reason: string): void => {
    const follower = followers.get(agentId);
    if (follower === undefined) return;
    const command: FeedChange = { what: 'command', action, reason };
    follower.queue.length = 0;
    follower.queue.push({ what: 'changes', position: follower.position, committedAt: clock.now(), changes: [command] });
    end(follower, undefined);
  };

  const bundleChanges = ({ view }: Follower): FeedChange[] => {
    const isNeeded = (name: TrustDomain): boolean => name === trustDomain || view.domains.has(name);
    const changes: FeedChange[] = [];
    for (const name of new Set([...touchedBundles, ...view.shifted.keys()])) {
      const wasNeeded = view.shifted.get(name) ?? isNeeded(name);
      const bundle = isNeeded(name) ? bundles.get(name) : undefined;
      if (bundle !== undefined) changes.push({ what: 'bundle', bundle });
      else if (wasNeeded) changes.push({ what: 'bundle-removed', trustDomain: name });
    }
    view.shifted.clear();
    return changes;
  };

  const authorityChanges = (ids: Iterable<string>): FeedChange[] => {
    const changes: FeedChange[] = [];
    for (const id of ids) {
      const authority = authorities.get(id);
      if (authority !== undefined) changes.push({ what: 'authority', authority: noticeOf(authority) });
    }
    return changes;
  };

  const input: FeedInput = {
    entryChanged(delta) {
      for (const [view, changes] of interest.entryChanged(delta)) {
        const follower = owners.get(view);
        if (follower !== undefined) add(follower, changes);
      }
      const { before, after } = delta;
      const named = (before !== undefined && isAlias(before)) || (after !== undefined && isAlias(after));
      if (named) for (const follower of followers.values()) reroot(follower);
    },
    agentChanged({ id, after }) {
      const follower = followers.get(id);
      if (after === undefined || isBanned(after)) {
        cut(id, after === undefined ? 'evicted' : 'banned', after === undefined ? 'agent.evicted' : 'agent.banned');
        standings.forget(id);
      } else if (follower !== undefined) {
        reroot(follower);
      }
    },
    bundleChanged: (name) => void touchedBundles.add(name),
    authorityChanged: (id) => void touchedAuthorities.add(id),
    committed({ revision, noun, id }) {
      // Whether it is structural is not in the change: those few are taken as if.
      for (const seen of starting) seen.push({ revision, noun, id, structural: true });
    },
    flush(revision, committedAt) {
      if (revision !== undefined) position = Object.freeze({ epoch: position.epoch, revision });
      const forAll = authorityChanges(touchedAuthorities);
      if (touchedBundles.size > 0 || forAll.length > 0) for (const follower of followers.values()) touched.add(follower);
      for (const follower of touched) {
        if (follower.end !== undefined) continue;
        const changes = [...bundleChanges(follower), ...follower.pending, ...forAll];
        follower.pending = [];
        if (changes.length === 0) continue;
        const before = follower.position;
        follower.position = position;
        standings.sent(follower.agentId, position.revision);
        enqueue(follower, changesItems(changes, committedAt, before, position));
      }
      touched.clear();
      touchedBundles = new Set();
      touchedAuthorities = new Set();
    },
  };

  const reroot = (follower: Follower): void => {
    const roots = holdings.rootsOf(follower.agentId, clock.now());
    if (sameMembers(roots, follower.view.roots)) return;
    add(follower, interest.rootsChanged(follower.view, roots));
  };

  /** What was missed up to the time of reading, or `undefined` when only a snapshot tells. */
  const missedSince = async (from: Position | undefined, version: number): Promise<readonly ChangeReference[] | undefined> => {
    if (version < 2 || from === undefined || from.epoch !== position.epoch || from.revision > position.revision) return undefined;
    if (from.revision === position.revision) return [];
    const missed = await store.changesSince(from.revision, maxResumed);
    return missed === undefined || missed.length >= maxResumed ? undefined : missed;
  };

  /** From here on the follower hears of every commit; the items say what came before. */
  const start = (agentId: SpiffeId, from: Position | undefined, missed: readonly ChangeReference[] | undefined): Started => {
    const older = followers.get(agentId);
    if (older !== undefined) end(older, new SpiffeError('unavailable', 'feed.replaced', 'a newer stream of this agent took over'));
    const view = createView(holdings.rootsOf(agentId, clock.now()));
    const held = interest.enter(view);
    const changes =
      missed === undefined || from === undefined
        ? undefined
        : resumeChanges({ agentId, view, held, missed, trustDomain, entries, bundles, authorities });
    const at = from !== undefined && changes?.length === 0 ? from : position;
    const follower: Follower = { agentId, view, queue: [], position: at, wake: Promise.withResolvers(), end: undefined, pending: [] };
    followers.set(agentId, follower);
    owners.set(view, follower);
    standings.joined(agentId, clock.now(), at.revision);
    if (changes === undefined || from === undefined) {
      const needed = bundles.all().filter((bundle) => bundle.trustDomain === trustDomain || view.domains.has(bundle.trustDomain));
      const notices = Array.from(authorities.all(), noticeOf);
      const items = snapshotPages({ entries: held, bundles: needed, authorities: notices, position });
      return { follower, items, snapshot: true };
    }
    const items = changes.length === 0 ? [] : changesItems(changes, clock.now(), from, position);
    return { follower, items, snapshot: false };
  };

  const begin = async (agentId: SpiffeId, from: Position | undefined, version: number, signal: AbortSignal): Promise<Started | undefined> => {
    const meanwhile: ChangeReference[] = [];
    starting.add(meanwhile);
    try {
      const missed = await missedSince(from, version);
      if (signal.aborted) return undefined;
      if (!isActiveNow(agentId)) throw inactive();
      return start(agentId, from, missed === undefined ? undefined : [...missed, ...meanwhile]);
    } finally {
      starting.delete(meanwhile);
    }
  };

  async function* follow(agentId: SpiffeId, from: Position | undefined, version: number, signal: AbortSignal): AsyncIterableIterator<FeedItem> {
    const started = await begin(agentId, from, version, signal);
    if (started === undefined) return;
    const { follower, items, snapshot } = started;
    try {
      yield { what: 'welcome', version, serverTimeAt: clock.now(), snapshot };
      for (const item of items) {
        if (follower.end !== undefined || signal.aborted) break;
        yield item;
      }
      while (!signal.aborted) {
        const item = follower.queue.shift();
        if (item !== undefined) {
          if (item.what === 'changes') options.onDelivered?.(clock.now() - item.committedAt);
          yield item;
        } else if (follower.end !== undefined) {
          if (follower.end.error !== undefined) throw follower.end.error;
          return;
        } else if (!(await woken(follower, clock, heartbeatMs, signal)) && !signal.aborted) {
          if (!isActiveNow(agentId)) throw inactive();
          yield { what: 'heartbeat', serverTimeAt: clock.now(), position };
        }
      }
    } finally {
      end(follower, undefined);
    }
  }

  const feed: Feed = {
    get pollers() {
      for (const agent of agents.all()) if (isActive(agent, clock.now()) && !standings.knows(agent.id)) return true;
      return false;
    },
    follow,
    behind(agentId, at) {
      const newest = followers.get(agentId)?.position ?? position;
      if (at === undefined || at.epoch !== newest.epoch) return position;
      return at.revision < newest.revision ? newest : undefined;
    },
    disconnect: (agentId, action, reason = `agent.${action}`) => cut(agentId, action, reason),
    confirm: (agentId, at) => standings.confirm(agentId, at),
    following: () => standings.following(),
    unconfirmed: (revision) => standings.unconfirmed(revision),
  };
  return { feed, input };
}

function inactive(): SpiffeError {
  return new SpiffeError('denied', 'feed.agent-inactive', 'the agent is unknown, banned or expired');
}

/** Whether there is something before the time for a heartbeat. */
async function woken(follower: Follower, clock: Clock, ms: number, signal: AbortSignal): Promise<boolean> {
  const rest = linkedController(signal);
  const slept = clock.sleep(ms, rest.signal).then(
    () => false,
    () => false,
  );
  try {
    return await Promise.race([follower.wake.promise.then(() => true), slept]);
  } finally {
    rest.abort(new Error('woken'));
    rest.unlink();
    follower.wake = Promise.withResolvers();
    if (follower.queue.length > 0 || follower.end !== undefined) wake(follower);
  }
}

function wake(follower: Follower): void {
  follower.wake.resolve();
}

function sameMembers<T>(a: ReadonlySet<T>, b: ReadonlySet<T>): boolean {
  if (a.size !== b.size) return false;
  for (const member of a) if (!b.has(member)) return false;
  return true;
}
