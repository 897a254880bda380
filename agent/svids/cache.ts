/**
 * Which SVID belongs to which entry, and for each set of selectors that somebody is connected with the newest update: its
 * identities and bundles. Signing what is missing is `renew.ts`; what survives a restart is `disk.ts`.
 */
import { matchingEntries } from '../../spiffe/authorize.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { isSubset, type SelectorSet } from '../../spiffe/selector.ts';
import { createWatch, type Watch, type WatchSource } from '../../runtime/watch.ts';
import { createEntryIndex } from '../sync/entry-index.ts';
import type { WorkloadProcess } from '../process.ts';
import type { Holdings } from '../sync/holdings.ts';
import { isEntryLive, isUsable, type HeldX509Svid } from './held.ts';

export interface X509Identity {
  readonly entry: RegistrationEntry;
  readonly svid: HeldX509Svid;
}

/** Everything one set of selectors is entitled to at a moment. Frozen. */
export interface WorkloadUpdate {
  /** All that match, hints settled, the default first; empty means: no identity. */
  readonly entries: readonly RegistrationEntry[];
  /** Those of them that have an X509-SVID now, in the same order. */
  readonly identities: readonly X509Identity[];
  /** The own trust domain's and those the entries federate with, as far as they are known. */
  readonly bundles: ReadonlyMap<TrustDomain, Bundle>;
  /** When what caused this update was committed, by the server's clock. */
  readonly committedAt: number | undefined;
}

/** Closed by whoever subscribed. */
export interface Subscription {
  readonly selectors: SelectorSet;
  readonly updates: Watch<WorkloadUpdate>;
  close(): void;
}

export interface SvidCacheOptions {
  readonly trustDomain: TrustDomain;
  /** Wall time. */
  readonly now: () => number;
  /** How many SVIDs are fetched ahead of anybody asking. */
  readonly prefetchLimit: number;
  /** Told which entries may need an X509-SVID now. */
  readonly onWanted: (entries: readonly RegistrationEntry[]) => void;
  /** Told that something changed that a restart should find again. */
  readonly onChange: () => void;
}

export interface SvidCache {
  subscribe(selectors: SelectorSet, process?: WorkloadProcess): Subscription;
  /** What a process with these selectors is entitled to, without subscribing. */
  match(selectors: SelectorSet): readonly RegistrationEntry[];
  update(selectors: SelectorSet): WorkloadUpdate;
  /** The step from one state of the holdings to the next; updates are out when it returns. */
  holdingsChanged(now: Holdings): void;
  /** Takes an SVID for an entry; false when the entry is no longer held or has another name by now. */
  put(svid: HeldX509Svid): boolean;
  /** Restores what a former process held, without telling anybody. */
  restore(svids: readonly HeldX509Svid[]): void;
  x509(entryId: string): HeldX509Svid | undefined;
  held(): IterableIterator<HeldX509Svid>;
  entry(entryId: string): RegistrationEntry | undefined;
  isSubscribed(entryId: string): boolean;
  /** A process that is connected and matches the entry, when there is one. */
  onBehalfOf(entryId: string): WorkloadProcess | undefined;
  /** Whether the entry should have an SVID at hand: subscribed, held already, or fetched ahead. */
  isWanted(entry: RegistrationEntry): boolean;
  entries(): IterableIterator<RegistrationEntry>;
  /** Drops what expired; yields when to come back, if ever. */
  sweep(): number | undefined;
  counts(): { readonly entries: number; readonly x509: number; readonly subscriptions: number };
}

interface Subscribed {
  readonly key: string;
  readonly selectors: SelectorSet;
  readonly watch: WatchSource<WorkloadUpdate>;
  /** One for each reference; `undefined` where nobody said. */
  readonly processes: Set<{ readonly process: WorkloadProcess | undefined }>;
}

/** With more changed entries than this, matching every subscription anew is cheaper than asking whom each concerns. */
const fewChanges = 64;

export function createSvidCache(options: SvidCacheOptions): SvidCache {
  const { trustDomain, now, prefetchLimit, onWanted, onChange } = options;
  const index = createEntryIndex();
  const x509 = new Map<string, HeldX509Svid>();
  const subscriptions = new Map<string, Subscribed>();
  const subscribersOf = new Map<string, Set<Subscribed>>();
  let entries: ReadonlyMap<string, RegistrationEntry> = new Map();
  let bundles: ReadonlyMap<TrustDomain, Bundle> = new Map();

  const match = (selectors: SelectorSet): readonly RegistrationEntry[] => {
    const at = now();
    const candidates = [...index.candidates(selectors)].filter((entry) => isEntryLive(entry, at));
    return matchingEntries(selectors, candidates);
  };

  const compose = (matched: readonly RegistrationEntry[], committedAt: number | undefined): WorkloadUpdate => {
    const at = now();
    const identities: X509Identity[] = [];
    const used = new Map<TrustDomain, Bundle>();
    const use = (name: TrustDomain): void => {
      const bundle = bundles.get(name);
      if (bundle !== undefined) used.set(name, bundle);
    };
    use(trustDomain);
    for (const entry of matched) {
      const svid = x509.get(entry.id);
      if (isUsable(svid, entry, at)) identities.push(Object.freeze({ entry, svid }));
      entry.federatesWith.forEach(use);
    }
    return Object.freeze({ entries: matched, identities, bundles: used, committedAt });
  };

  const link = (subscribed: Subscribed, matched: readonly RegistrationEntry[]): void => {
    for (const entry of matched) {
      const set = subscribersOf.get(entry.id);
      if (set === undefined) subscribersOf.set(entry.id, new Set([subscribed]));
      else set.add(subscribed);
    }
  };

  const unlink = (subscribed: Subscribed): void => {
    for (const entry of subscribed.watch.value.entries) {
      const set = subscribersOf.get(entry.id);
      set?.delete(subscribed);
      if (set?.size === 0) subscribersOf.delete(entry.id);
    }
  };

  /** Sets a new update if it says anything new. */
  const refresh = (subscribed: Subscribed, rematch: boolean, committedAt: number | undefined): void => {
    const before = subscribed.watch.value;
    const after = compose(rematch ? match(subscribed.selectors) : before.entries, committedAt);
    if (sameUpdate(before, after)) return;
    if (rematch) {
      unlink(subscribed);
      link(subscribed, after.entries);
    }
    subscribed.watch.set(after);
  };

  const lacking = (some: Iterable<RegistrationEntry>): RegistrationEntry[] =>
    [...some].filter((entry) => {
      const svid = x509.get(entry.id);
      return !isUsable(svid, entry, now()) || svid.entryRevision !== entry.revisionNumber;
    });

  const isWanted = (entry: RegistrationEntry): boolean => {
    if (!isEntryLive(entry, now())) return false;
    if (subscribersOf.has(entry.id)) return true;
    if (entry.disableX509SvidPrefetch) return false;
    // What was fetched ahead stays fetched; places come free as entries go.
    return x509.has(entry.id) ? x509.size <= prefetchLimit : x509.size < prefetchLimit;
  };

  const cache: SvidCache = {
    subscribe(selectors, process) {
      const key = [...selectors].toSorted().join('\0');
      let subscribed = subscriptions.get(key);
      if (subscribed === undefined) {
        const first = compose(match(selectors), undefined);
        subscribed = { key, selectors, watch: createWatch(first), processes: new Set() };
        subscriptions.set(key, subscribed);
        link(subscribed, first.entries);
      }
      const reference = { process };
      subscribed.processes.add(reference);
      const missing = lacking(subscribed.watch.value.entries);
      if (missing.length > 0) onWanted(missing);
      return subscriptionOf(subscribed, reference, release);
    },
    match,
    update: (selectors) => compose(match(selectors), undefined),
    holdingsChanged(holdings) {
      const changed = entries === holdings.entries ? [] : replaceEntries(holdings.entries);
      const bundlesChanged = bundles !== holdings.bundles;
      bundles = holdings.bundles;
      for (const subscribed of subscriptions.values()) {
        const concerned = changed.length > fewChanges || changed.some((entry) => concerns(subscribed, entry));
        if (concerned || bundlesChanged) refresh(subscribed, concerned, holdings.committedAt);
      }
      const missing = lacking(changed.filter((entry) => entries.get(entry.id) === entry && isWanted(entry)));
      if (missing.length > 0) onWanted(missing);
      if (changed.length > 0 || bundlesChanged) onChange();
    },
    put(svid) {
      const entry = entries.get(svid.entryId);
      if (entry === undefined || entry.spiffeId !== svid.spiffeId) return false;
      x509.set(svid.entryId, svid);
      for (const subscribed of subscribersOf.get(svid.entryId) ?? []) refresh(subscribed, false, undefined);
      onChange();
      return true;
    },
    restore(svids) {
      for (const svid of svids) x509.set(svid.entryId, svid);
    },
    x509: (entryId) => x509.get(entryId),
    held: () => x509.values(),
    entry: (entryId) => entries.get(entryId),
    isSubscribed: (entryId) => subscribersOf.has(entryId),
    onBehalfOf(entryId) {
      for (const subscribed of subscribersOf.get(entryId) ?? []) {
        for (const { process } of subscribed.processes) if (process !== undefined) return process;
      }
      return undefined;
    },
    isWanted,
    entries: () => entries.values(),
    sweep() {
      const at = now();
      let next = Number.POSITIVE_INFINITY;
      for (const svid of x509.values()) {
        if (at >= svid.expiresAt) x509.delete(svid.entryId);
        else next = Math.min(next, svid.expiresAt);
      }
      const stale = new Set<Subscribed>();
      for (const subscribed of subscriptions.values()) {
        for (const entry of subscribed.watch.value.entries) {
          if (!isEntryLive(entry, at)) stale.add(subscribed);
          else if (entry.expiresAt !== undefined) next = Math.min(next, entry.expiresAt);
        }
        if (subscribed.watch.value.identities.some((identity) => at >= identity.svid.expiresAt)) stale.add(subscribed);
      }
      for (const subscribed of stale) refresh(subscribed, true, undefined);
      return next === Number.POSITIVE_INFINITY ? undefined : next;
    },
    counts: () => ({ entries: entries.size, x509: x509.size, subscriptions: subscriptions.size }),
  };
  return cache;

  function release(subscribed: Subscribed): void {
    subscriptions.delete(subscribed.key);
    unlink(subscribed);
    subscribed.watch.close();
  }

  /** @returns entries that came, went or changed, each as it is now, or as it was when it went */
  function replaceEntries(next: ReadonlyMap<string, RegistrationEntry>): RegistrationEntry[] {
    const before = entries;
    entries = next;
    const changed: RegistrationEntry[] = [];
    for (const entry of before.values()) {
      if (next.get(entry.id) === entry) continue;
      index.remove(entry);
      changed.push(entry);
      if (!next.has(entry.id)) x509.delete(entry.id);
    }
    for (const entry of next.values()) {
      if (before.get(entry.id) === entry) continue;
      // Entries for other stores than the Workload API are not served on it.
      if (!entry.storeSvid) index.add(entry);
      changed.push(entry);
    }
    return changed;
  }

  function concerns(subscribed: Subscribed, entry: RegistrationEntry): boolean {
    return (
      subscribersOf.get(entry.id)?.has(subscribed) === true ||
      (entry.selectors.length > 0 && isSubset(entry.selectors, subscribed.selectors))
    );
  }
}

function subscriptionOf(
  subscribed: Subscribed,
  reference: { readonly process: WorkloadProcess | undefined },
  onLast: (subscribed: Subscribed) => void,
): Subscription {
  return {
    selectors: subscribed.selectors,
    updates: subscribed.watch,
    close() {
      if (subscribed.processes.delete(reference) && subscribed.processes.size === 0) onLast(subscribed);
    },
  };
}

function sameUpdate(a: WorkloadUpdate, b: WorkloadUpdate): boolean {
  return (
    a.entries.length === b.entries.length &&
    a.entries.every((entry, i) => entry === b.entries[i]) &&
    a.identities.length === b.identities.length &&
    a.identities.every((identity, i) => identity.svid === b.identities[i]?.svid) &&
    a.bundles.size === b.bundles.size &&
    [...a.bundles].every(([name, bundle]) => b.bundles.get(name) === bundle)
  );
}
