/**
 * The entries and bundles this node is entitled to, as of a position: a frozen value and the steps that lead to the next.
 * Where the steps come from is `follow.ts` and `poll.ts`; what follows from them is the business of `svids/`.
 */
import { bundleEquals, type Bundle } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { createWatch, type Watch } from '../../runtime/watch.ts';

/** A place in the server's order of commits; another epoch is another history. */
export interface Position {
  readonly epoch: string;
  /** A whole number below 2^53. */
  readonly revision: number;
}

export type AuthorityState = 'prepared' | 'active' | 'old' | 'tainted' | 'revoked';

/** What the server says of one of its signing authorities. */
export interface AuthorityNotice {
  readonly kind: 'x509' | 'jwt';
  /** Lower hex subject key id for X.509, key id for JWT. */
  readonly id: string;
  readonly state: AuthorityState;
  readonly expiresAt: number;
}

export interface Holdings {
  /** `undefined` before the first synchronisation, and with a server that has no positions. */
  readonly position: Position | undefined;
  readonly entries: ReadonlyMap<string, RegistrationEntry>;
  readonly bundles: ReadonlyMap<TrustDomain, Bundle>;
  /** By `kind/id`. */
  readonly authorities: ReadonlyMap<string, AuthorityNotice>;
  /** When the newest step was committed, by the server's clock; `undefined` when nobody said. */
  readonly committedAt: number | undefined;
}

export type HoldingsStep =
  | { readonly what: 'entry'; readonly entry: RegistrationEntry }
  | { readonly what: 'entry-removed'; readonly id: string }
  | { readonly what: 'bundle'; readonly bundle: Bundle }
  | { readonly what: 'bundle-removed'; readonly trustDomain: TrustDomain }
  | { readonly what: 'authority'; readonly authority: AuthorityNotice }
  /** All entries still held; others are dropped. */
  | { readonly what: 'held'; readonly ids: readonly string[] };

export interface HoldingsSnapshot {
  readonly position: Position | undefined;
  readonly entries: readonly RegistrationEntry[];
  readonly bundles: readonly Bundle[];
  readonly authorities: readonly AuthorityNotice[];
}

export const noHoldings: Holdings = Object.freeze({
  position: undefined,
  entries: new Map(),
  bundles: new Map(),
  authorities: new Map(),
  committedAt: undefined,
});

/** What a snapshot stands for. Values equal to those of `before` keep their identity, so that nothing is redone for them. */
export function holdingsOf(snapshot: HoldingsSnapshot, before: Holdings = noHoldings): Holdings {
  const entries = new Map<string, RegistrationEntry>();
  for (const entry of snapshot.entries) {
    const known = before.entries.get(entry.id);
    entries.set(entry.id, known !== undefined && sameRevision(known, entry) ? known : entry);
  }
  return Object.freeze({
    position: snapshot.position,
    entries,
    bundles: new Map(snapshot.bundles.map((bundle) => [bundle.trustDomain, sameBundle(bundle, before)])),
    authorities: new Map(snapshot.authorities.map((authority) => [authorityKey(authority), authority])),
    committedAt: undefined,
  });
}

/** Whether `a` is at or after `b` in the same history. */
export function isAtLeast(a: Position | undefined, b: Position): boolean {
  return a !== undefined && a.epoch === b.epoch && a.revision >= b.revision;
}

/** The holdings after `steps`, applied as one. */
export function stepped(
  before: Holdings,
  steps: readonly HoldingsStep[],
  at: { readonly position: Position | undefined; readonly committedAt: number | undefined },
): Holdings {
  let { entries, bundles, authorities } = before;
  // Copied only when touched: consumers tell by identity what they need not look at.
  const entriesToChange = (): Map<string, RegistrationEntry> =>
    (entries = entries === before.entries ? new Map(entries) : entries) as Map<string, RegistrationEntry>;
  const bundlesToChange = (): Map<TrustDomain, Bundle> =>
    (bundles = bundles === before.bundles ? new Map(bundles) : bundles) as Map<TrustDomain, Bundle>;
  for (const step of steps) {
    switch (step.what) {
      case 'entry':
        entriesToChange().set(step.entry.id, step.entry);
        break;
      case 'entry-removed':
        if (entries.has(step.id)) entriesToChange().delete(step.id);
        break;
      case 'held': {
        const held = new Set(step.ids);
        for (const id of entries.keys()) if (!held.has(id)) entriesToChange().delete(id);
        break;
      }
      case 'bundle':
        bundlesToChange().set(step.bundle.trustDomain, step.bundle);
        break;
      case 'bundle-removed':
        if (bundles.has(step.trustDomain)) bundlesToChange().delete(step.trustDomain);
        break;
      case 'authority':
        authorities = new Map(authorities).set(authorityKey(step.authority), step.authority);
        break;
    }
  }
  return Object.freeze({ entries, bundles, authorities, ...at });
}

export function authorityKey(authority: Pick<AuthorityNotice, 'kind' | 'id'>): string {
  return `${authority.kind}/${authority.id}`;
}

function sameBundle(bundle: Bundle, before: Holdings): Bundle {
  const known = before.bundles.get(bundle.trustDomain);
  return known !== undefined && bundleEquals(known, bundle) ? known : bundle;
}

function sameRevision(a: RegistrationEntry, b: RegistrationEntry): boolean {
  return a.revisionNumber === b.revisionNumber && a.createdAt === b.createdAt && a.spiffeId === b.spiffeId;
}

/** The holdings of this process: one owner replaces them, everybody else watches. */
export interface HoldingsOwner extends Watch<Holdings> {
  replace(snapshot: HoldingsSnapshot): void;
  apply(
    steps: readonly HoldingsStep[],
    at: { readonly position: Position | undefined; readonly committedAt: number | undefined },
  ): void;
}

/**
 * @param onChange told of each new value before `replace` or `apply` returns, so that what follows from a position is
 * settled by the time the position is confirmed
 */
export function createHoldings(initial: Holdings, onChange: (now: Holdings, before: Holdings) => void): HoldingsOwner {
  const watch = createWatch(initial);
  const advance = (now: Holdings): void => {
    const before = watch.value;
    watch.set(now);
    onChange(now, before);
  };
  return {
    get value() {
      return watch.value;
    },
    values: (signal) => watch.values(signal),
    replace: (snapshot) => advance(holdingsOf(snapshot, watch.value)),
    apply: (steps, at) => advance(stepped(watch.value, steps, at)),
  };
}
