/**
 * All registration entries in memory: by id, by parent, by SPIFFE ID and in the order of their creation. An entry that
 * expired is still listed until it is deleted, but nobody holds it any more. Who holds which is `holdings.ts`.
 */
import { isExpired } from '../../spiffe/entry.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { isMemberOf, serverId, trustDomainOf } from '../../spiffe/id.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { Selector } from '../../spiffe/selector.ts';
import type { CommittedChange, Page, Store, StoredEntry } from '../store/store.ts';
import { createAgenda } from './agenda.ts';
import { createGroups } from './groups.ts';
import { setMatches } from './set-match.ts';
import type { SetMatch } from './set-match.ts';

/** All that are given must hold. */
export interface EntryFilter {
  readonly spiffeId?: SpiffeId;
  readonly parentId?: SpiffeId;
  readonly selectors?: SetMatch<Selector>;
  readonly federatesWith?: SetMatch<TrustDomain>;
  readonly hint?: string;
  readonly downstream?: boolean;
}

/** What became of an entry, as far as it could be held: `undefined` before it was live and after it ceased to be. */
export interface EntryDelta {
  readonly id: string;
  readonly before: RegistrationEntry | undefined;
  readonly after: RegistrationEntry | undefined;
}

type EntryChange = Extract<CommittedChange, { readonly noun: 'entry' }>;

export interface EntryIndex {
  readonly size: number;
  /** How many entries expired and are not deleted yet. */
  readonly expired: number;
  /** When the next entry expires. */
  readonly nextExpiryAt: number | undefined;
  load(store: Pick<Store, 'loadEntries'>, now: () => number): Promise<void>;
  apply(change: EntryChange, now: number): EntryDelta;
  /** Ends what expired by the instant, one entry after the other as the iterator is pulled. */
  expire(now: number): IterableIterator<EntryDelta>;
  get(id: string): RegistrationEntry | undefined;
  /** The entry if it is not expired. */
  getLive(id: string): RegistrationEntry | undefined;
  /** Live ones; not to be kept while entries change. */
  childrenOf(parentId: SpiffeId): Iterable<RegistrationEntry>;
  bySpiffeId(id: SpiffeId): Iterable<RegistrationEntry>;
  /** Live entries that name sets of nodes. */
  aliases(): Iterable<RegistrationEntry>;
  /** In the order of creation. @throws internal `entries.page-token` */
  list(filter: EntryFilter, pageSize: number, pageToken: string): Page<RegistrationEntry>;
  count(filter: EntryFilter): number;
  /**
   * Holds room for so many new entries until the returned function is called.
   * @throws limited `entries.cap`
   */
  reserve(count: number): () => void;
}

interface Place {
  readonly row: number;
  /** `undefined` once deleted. */
  entry: RegistrationEntry | undefined;
  /** A stray is one nobody can hold, whatever the time: its names are of different trust domains. */
  state: 'live' | 'expired' | 'stray';
}

/** Up to this many candidates are sorted rather than all entries walked. */
const fewCandidates = 4_096;

/** @param cap more entries than this are refused, so that memory is not what refuses them */
export function createEntryIndex(trustDomain: TrustDomain, cap: number): EntryIndex {
  const byId = new Map<string, Place>();
  const byParent = createGroups<Place>();
  const byName = createGroups<Place>();
  const agenda = createAgenda<{ readonly place: Place; readonly entry: RegistrationEntry }>();
  const aliasParent = serverId(trustDomain);
  let order: Place[] = [];
  let deleted = 0;
  let expired = 0;
  let reserved = 0;

  const file = (place: Place, entry: RegistrationEntry, now: number): void => {
    place.entry = entry;
    if (isExpired(entry, now)) {
      place.state = 'expired';
      expired += 1;
    } else {
      place.state = isMemberOf(entry.spiffeId, trustDomainOf(entry.parentId)) ? 'live' : 'stray';
      if (entry.expiresAt !== undefined) agenda.add(entry.expiresAt, { place, entry });
    }
    byParent.add(entry.parentId, place);
    byName.add(entry.spiffeId, place);
  };
  const unfile = (place: Place, entry: RegistrationEntry): void => {
    if (place.state === 'expired') expired -= 1;
    byParent.remove(entry.parentId, place);
    byName.remove(entry.spiffeId, place);
  };

  const append = (place: Place): void => {
    const last = order.at(-1);
    if (last === undefined || last.row < place.row) order.push(place);
    else order.splice(firstAfter(order, place.row), 0, place);
  };
  const forget = (place: Place): void => {
    place.entry = undefined;
    deleted += 1;
    if (deleted < 1_024 || deleted * 4 < order.length) return;
    order = order.filter((kept) => kept.entry !== undefined);
    deleted = 0;
  };

  const apply = (change: EntryChange, now: number): EntryDelta => {
    const { id, entry, row } = change;
    const known = byId.get(id);
    const old = known?.entry;
    const before = known?.state === 'live' ? old : undefined;
    if (known !== undefined && old !== undefined) unfile(known, old);
    if (entry === undefined) {
      byId.delete(id);
      if (known !== undefined) forget(known);
      return { id, before, after: undefined };
    }
    const place = known ?? { row, entry: undefined, state: 'stray' };
    if (known === undefined) {
      byId.set(entry.id, place);
      append(place);
    }
    file(place, entry, now);
    return { id, before, after: place.state === 'live' ? entry : undefined };
  };

  function* expire(now: number): IterableIterator<EntryDelta> {
    for (let due = agenda.takeDue(now); due !== undefined; due = agenda.takeDue(now)) {
      const { place, entry } = due;
      if (place.entry !== entry || place.state === 'expired') continue;
      const before = place.state === 'live' ? entry : undefined;
      place.state = 'expired';
      expired += 1;
      yield { id: entry.id, before, after: undefined };
    }
  }

  function* liveOf(places: Iterable<Place>): Generator<RegistrationEntry> {
    for (const { state, entry } of places) if (state === 'live' && entry !== undefined) yield entry;
  }

  /** In order, from the first after the row. */
  const candidates = (filter: EntryFilter, afterRow: number): Iterable<Place> => {
    const { spiffeId, parentId } = filter;
    const named = spiffeId === undefined ? Infinity : byName.count(spiffeId);
    const below = parentId === undefined ? Infinity : byParent.count(parentId);
    if (Math.min(named, below) > fewCandidates) return walkFrom(order, firstAfter(order, afterRow));
    const group = named <= below ? byName.of(spiffeId ?? '') : byParent.of(parentId ?? '');
    return [...group].filter((place) => place.row > afterRow).sort((a, b) => a.row - b.row);
  };

  return {
    get size() {
      return byId.size;
    },
    get expired() {
      return expired;
    },
    get nextExpiryAt() {
      return agenda.nextAt;
    },
    async load(store, now) {
      const add = ({ row, entry }: StoredEntry): void =>
        void apply({ noun: 'entry', revision: 0, id: entry.id, entry, row }, now());
      await store.loadEntries((batch) => batch.forEach(add));
    },
    apply,
    expire,
    get: (id) => byId.get(id)?.entry,
    getLive(id) {
      const place = byId.get(id);
      return place?.state === 'live' ? place.entry : undefined;
    },
    childrenOf: (parentId) => liveOf(byParent.of(parentId)),
    bySpiffeId: (id) => liveOf(byName.of(id)),
    aliases: () => liveOf(byParent.of(aliasParent)),
    list(filter, pageSize, pageToken) {
      const items: RegistrationEntry[] = [];
      let lastRow = 0;
      for (const { row, entry } of candidates(filter, rowFrom(pageToken))) {
        if (entry === undefined || !matches(entry, filter)) continue;
        items.push(entry);
        lastRow = row;
        if (items.length === pageSize) break;
      }
      return { items, nextToken: pageSize > 0 && items.length > 0 ? String(lastRow) : '' };
    },
    count(filter) {
      if (Object.keys(filter).length === 0) return byId.size;
      let counted = 0;
      for (const { entry } of candidates(filter, 0)) if (entry !== undefined && matches(entry, filter)) counted += 1;
      return counted;
    },
    reserve(count) {
      if (byId.size + reserved + count > cap) {
        throw new SpiffeError('limited', 'entries.cap', `the server holds at most ${cap} registration entries`, { detail: { cap } });
      }
      reserved += count;
      return () => {
        reserved -= count;
        count = 0;
      };
    },
  };
}

function matches(entry: RegistrationEntry, filter: EntryFilter): boolean {
  const { spiffeId, parentId, selectors, federatesWith, hint, downstream } = filter;
  if (spiffeId !== undefined && entry.spiffeId !== spiffeId) return false;
  if (parentId !== undefined && entry.parentId !== parentId) return false;
  if (hint !== undefined && entry.hint !== hint) return false;
  if (downstream !== undefined && entry.downstream !== downstream) return false;
  if (selectors !== undefined && !setMatches(entry.selectors, selectors)) return false;
  return federatesWith === undefined || setMatches(entry.federatesWith, federatesWith);
}

function* walkFrom(order: readonly Place[], from: number): Generator<Place> {
  for (let at = from; at < order.length; at += 1) {
    const place = order[at];
    if (place !== undefined) yield place;
  }
}

/** Where the first place behind the row is. */
function firstAfter(order: readonly Place[], row: number): number {
  let low = 0;
  let high = order.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((order[middle]?.row ?? Infinity) <= row) low = middle + 1;
    else high = middle;
  }
  return low;
}

function rowFrom(pageToken: string): number {
  if (pageToken === '') return 0;
  const row = /^[0-9]{1,16}$/.test(pageToken) ? Number(pageToken) : Number.NaN;
  if (!Number.isSafeInteger(row)) throw new SpiffeError('internal', 'entries.page-token', `could not parse token '${pageToken.slice(0, 64)}'`);
  return row;
}
