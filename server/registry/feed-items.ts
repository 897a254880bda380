/**
 * What a follow stream carries, as domain values: a welcome, pages of a snapshot, numbered changes, heartbeats; and how
 * it is cut to sizes that messages can have. When each is sent is `feed.ts`.
 */
import type { Bundle } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { Position } from '../store/store.ts';
import type { AuthorityNotice } from './authorities.ts';

export type CommandAction = 'renew' | 'banned' | 'evicted';

export type FeedChange =
  | { readonly what: 'entry'; readonly entry: RegistrationEntry }
  | { readonly what: 'entry-removed'; readonly id: string }
  | { readonly what: 'bundle'; readonly bundle: Bundle }
  | { readonly what: 'bundle-removed'; readonly trustDomain: TrustDomain }
  | { readonly what: 'authority'; readonly authority: AuthorityNotice }
  | { readonly what: 'command'; readonly action: CommandAction; readonly reason: string }
  /** All entries still held; others are dropped. */
  | { readonly what: 'held'; readonly ids: readonly string[] };

export interface WelcomeItem {
  readonly what: 'welcome';
  readonly version: number;
  readonly serverTimeAt: number;
  /** True: pages of a snapshot follow. False: the agent's position is resumed. */
  readonly snapshot: boolean;
}

export interface SnapshotItem {
  readonly what: 'snapshot';
  readonly entries: readonly RegistrationEntry[];
  readonly bundles: readonly Bundle[];
  readonly authorities: readonly AuthorityNotice[];
  /** On the last page, what the whole snapshot stands for. */
  readonly last: Position | undefined;
}

export interface ChangesItem {
  readonly what: 'changes';
  readonly position: Position;
  readonly committedAt: number;
  readonly changes: readonly FeedChange[];
}

export interface HeartbeatItem {
  readonly what: 'heartbeat';
  readonly serverTimeAt: number;
  readonly position: Position;
}

export type FeedItem = WelcomeItem | SnapshotItem | ChangesItem | HeartbeatItem;

const maxEntries = 500;
const maxWeight = 1_048_576;

interface Snapshot {
  readonly entries: readonly RegistrationEntry[];
  readonly bundles: readonly Bundle[];
  readonly authorities: readonly AuthorityNotice[];
  readonly position: Position;
}

/** Pages of at most 500 entries and about 1 MiB, made as they are pulled; at least one. */
export function* snapshotPages({ entries, bundles, authorities, position }: Snapshot): Generator<SnapshotItem> {
  const parts: (RegistrationEntry | Bundle)[][] = [...cut<RegistrationEntry | Bundle>([...bundles, ...entries], weightOf)];
  const last = parts.pop() ?? [];
  let notices = authorities;
  for (const part of parts) {
    yield pageOf(part, notices, undefined);
    notices = [];
  }
  yield pageOf(last, notices, position);
}

/** Changes cut alike; the parts before the last keep the position that came before them, so that a broken run starts over. */
export function* changesItems(
  changes: readonly FeedChange[],
  committedAt: number,
  before: Position,
  position: Position,
): Generator<ChangesItem> {
  const parts = [...cut(changes, changeWeight)];
  const last = parts.pop() ?? [];
  for (const part of parts) yield { what: 'changes', position: before, committedAt, changes: part };
  yield { what: 'changes', position, committedAt, changes: last };
}

function* cut<Item>(items: readonly Item[], weigh: (item: Item) => number): Generator<Item[]> {
  let part: Item[] = [];
  let weight = 0;
  for (const item of items) {
    const added = weigh(item);
    if (part.length > 0 && (part.length >= maxEntries || weight + added > maxWeight)) {
      yield part;
      part = [];
      weight = 0;
    }
    part.push(item);
    weight += added;
  }
  if (part.length > 0) yield part;
}

function pageOf(
  part: readonly (RegistrationEntry | Bundle)[],
  authorities: readonly AuthorityNotice[],
  last: Position | undefined,
): SnapshotItem {
  const entries: RegistrationEntry[] = [];
  const bundles: Bundle[] = [];
  for (const item of part) {
    if ('parentId' in item) entries.push(item);
    else bundles.push(item);
  }
  return { what: 'snapshot', entries, bundles, authorities, last };
}

/** Roughly the bytes it takes in a message. */
function weightOf(item: RegistrationEntry | Bundle): number {
  if ('parentId' in item) {
    let weight = 80 + item.id.length + item.spiffeId.length + item.parentId.length + item.hint.length * 3;
    for (const texts of [item.selectors, item.dnsNames, item.federatesWith]) {
      for (const text of texts) weight += 8 + text.length * 3;
    }
    return weight;
  }
  let weight = 64 + item.trustDomain.length;
  for (const { certificate } of item.x509Authorities) weight += 12 + certificate.length;
  for (const { keyId, publicKey } of [...item.jwtAuthorities, ...item.witAuthorities]) weight += 24 + keyId.length * 3 + publicKey.length;
  return weight;
}

function changeWeight(change: FeedChange): number {
  switch (change.what) {
    case 'entry':
      return weightOf(change.entry);
    case 'bundle':
      return weightOf(change.bundle);
    case 'held':
      return change.ids.reduce((weight, id) => weight + id.length + 3, 0);
    case 'entry-removed':
    case 'bundle-removed':
    case 'authority':
    case 'command':
      return 128;
  }
}
