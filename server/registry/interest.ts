/**
 * Which followers an entry's change concerns, and what it means to each: a map from parents to those who watch below
 * them, so that a change touches nobody else. Streams and queues are left to `feed.ts`.
 */
import { authorizedEntries } from '../../spiffe/authorize.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { FeedChange } from './feed-items.ts';
import type { EntryDelta, EntryIndex } from './index.ts';

/** What one follower holds, without naming its entries: they are those under the parents it watches. */
export interface View {
  roots: ReadonlySet<SpiffeId>;
  /** The roots, and every ID of a held entry that has entries below it. */
  watched: ReadonlySet<SpiffeId>;
  /** How many held entries federate with each trust domain. */
  readonly domains: Map<TrustDomain, number>;
  /** Trust domains that came into need or out of it, and whether they were needed before; emptied by the owner. */
  readonly shifted: Map<TrustDomain, boolean>;
}

export interface Interest {
  /** Starts watching below the roots; yields what is held. */
  enter(view: View): readonly RegistrationEntry[];
  leave(view: View): void;
  /** To be called after each single change of the index. */
  entryChanged(delta: EntryDelta): ReadonlyMap<View, readonly FeedChange[]>;
  /** The view's roots are others now. */
  rootsChanged(view: View, roots: ReadonlySet<SpiffeId>): readonly FeedChange[];
}

export function createView(roots: ReadonlySet<SpiffeId>): View {
  return { roots, watched: new Set(), domains: new Map(), shifted: new Map() };
}

export function createInterest(entries: EntryIndex): Interest {
  const watchers = new Map<SpiffeId, Set<View>>();

  const walk = (roots: ReadonlySet<SpiffeId>): { watched: Set<SpiffeId>; held: RegistrationEntry[] } => {
    const watched = new Set(roots);
    const childrenOf = function* (parentId: SpiffeId): Generator<RegistrationEntry> {
      for (const entry of entries.childrenOf(parentId)) {
        watched.add(parentId);
        yield entry;
      }
    };
    return { watched, held: [...authorizedEntries(roots, childrenOf)] };
  };

  const watch = (view: View, watched: ReadonlySet<SpiffeId>): void => {
    for (const id of view.watched) {
      if (watched.has(id)) continue;
      const others = watchers.get(id);
      others?.delete(view);
      if (others?.size === 0) watchers.delete(id);
    }
    for (const id of watched) {
      const others = watchers.get(id);
      if (others === undefined) watchers.set(id, new Set([view]));
      else others.add(view);
    }
    view.watched = watched;
  };

  const hasChildren = (id: SpiffeId): boolean => {
    for (const _ of entries.childrenOf(id)) return true;
    return false;
  };
  const isFirstChild = (entry: RegistrationEntry): boolean => {
    for (const child of entries.childrenOf(entry.parentId)) if (child !== entry) return false;
    return true;
  };

  /** Those who reach the ID although nothing was below it, so that nobody watched it. */
  const reaching = (id: SpiffeId): Set<View> => {
    const found = new Set<View>();
    const above = new Set([id]);
    for (const next of above) {
      for (const view of watchers.get(next) ?? []) found.add(view);
      for (const entry of entries.bySpiffeId(next)) above.add(entry.parentId);
    }
    return found;
  };

  /** What the view gains and loses when it watches others; `delta` is what led to it. */
  const rewatch = (view: View, watched: ReadonlySet<SpiffeId>, delta: EntryDelta | undefined): FeedChange[] => {
    const changes: FeedChange[] = [];
    for (const parentId of view.watched) {
      if (watched.has(parentId)) continue;
      for (const entry of entries.childrenOf(parentId)) {
        if (entry.id === delta?.id) continue;
        count(view, entry, -1);
        changes.push({ what: 'entry-removed', id: entry.id });
      }
    }
    for (const parentId of watched) {
      if (view.watched.has(parentId)) continue;
      for (const entry of entries.childrenOf(parentId)) {
        if (entry.id === delta?.id) continue;
        count(view, entry, 1);
        changes.push({ what: 'entry', entry });
      }
    }
    if (delta !== undefined) changes.push(...single(view, delta, view.watched, watched));
    watch(view, watched);
    return changes;
  };

  return {
    enter(view) {
      const { watched, held } = walk(view.roots);
      for (const entry of held) count(view, entry, 1);
      view.shifted.clear();
      watch(view, watched);
      return held;
    },
    leave(view) {
      watch(view, new Set());
    },
    entryChanged(delta) {
      const { before, after } = delta;
      const moved = before?.spiffeId !== after?.spiffeId || before?.parentId !== after?.parentId;
      const first = after !== undefined && moved && isFirstChild(after);
      const named = [before, after].some((entry) => entry !== undefined && hasChildren(entry.spiffeId));
      const concerned = new Set(before === undefined ? [] : watchers.get(before.parentId));
      if (after !== undefined) {
        for (const view of first ? reaching(after.parentId) : (watchers.get(after.parentId) ?? [])) concerned.add(view);
      }
      const told = new Map<View, readonly FeedChange[]>();
      for (const view of concerned) {
        const structural = first || (moved && named);
        const changes = structural ? rewatch(view, walk(view.roots).watched, delta) : single(view, delta, view.watched, view.watched);
        if (changes.length > 0) told.set(view, changes);
      }
      return told;
    },
    rootsChanged(view, roots) {
      view.roots = roots;
      return rewatch(view, walk(roots).watched, undefined);
    },
  };
}

function single(
  view: View,
  { id, before, after }: EntryDelta,
  watchedBefore: ReadonlySet<SpiffeId>,
  watchedAfter: ReadonlySet<SpiffeId>,
): FeedChange[] {
  const held = before !== undefined && watchedBefore.has(before.parentId);
  const holds = after !== undefined && watchedAfter.has(after.parentId);
  if (held) count(view, before, -1);
  if (holds) count(view, after, 1);
  if (holds) return [{ what: 'entry', entry: after }];
  return held ? [{ what: 'entry-removed', id }] : [];
}

function count(view: View, entry: RegistrationEntry, by: 1 | -1): void {
  for (const trustDomain of entry.federatesWith) {
    const had = view.domains.get(trustDomain) ?? 0;
    const left = had + by;
    if (left > 0) view.domains.set(trustDomain, left);
    else view.domains.delete(trustDomain);
    if (had > 0 !== left > 0 && !view.shifted.has(trustDomain)) view.shifted.set(trustDomain, had > 0);
  }
}
