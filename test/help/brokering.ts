/**
 * What stands behind both APIs on behalf of others, for tests: a real cache of SVIDs, tokens that are texts, a record that is
 * a list of words, and subjects that come and go as the test says.
 */
import type { BrokeringOptions } from '../../agent/broker/stream.ts';
import { gone, type Subject, type Subjects } from '../../agent/broker/subjects.ts';
import { createSvidCache, type SvidCache } from '../../agent/svids/cache.ts';
import { createDeliveries } from '../../agent/svids/delivery.ts';
import type { HeldJwtSvid } from '../../agent/svids/held.ts';
import { generateKeys, receiveX509 } from '../../agent/svids/receive.ts';
import type { TokenRequest, Tokens } from '../../agent/svids/tokens.ts';
import { holdingsOf, noHoldings, type Holdings } from '../../agent/sync/holdings.ts';
import type { Attestation } from '../../agent/workload/attest.ts';
import { createWatch, type WatchSource } from '../../runtime/watch.ts';
import { composeBundle, emptyBundle, type Bundle } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { testAuthority, trustDomain, type TestAuthority } from './agent-server.ts';
import { createTestClock, type TestClock } from './clock.ts';
import { ecPair } from './forge.ts';

export interface Brokered {
  readonly clock: TestClock;
  readonly authority: TestAuthority;
  readonly options: BrokeringOptions;
  readonly tokens: Pick<Tokens, 'fetch'>;
  readonly subjects: Subjects;
  readonly holdings: WatchSource<Holdings>;
  /** What was recorded, oldest first. */
  readonly told: string[];
  /** References that were made and not released. */
  readonly open: Set<string>;
  /** Why no token can be signed. */
  signing: SpiffeError | undefined;
  hold(...entries: readonly RegistrationEntry[]): void;
  holdBundles(...names: readonly TrustDomain[]): void;
  issue(entry: RegistrationEntry): Promise<void>;
  /** Holds them and has SVIDs for all. */
  serve(...entries: readonly RegistrationEntry[]): Promise<void>;
  /** Makes a process or pod known by these selectors: `pid:7`, `pod:shop/cart-1`. */
  know(reference: string, ...selectors: readonly string[]): void;
  /** It ends; with `unseen` nobody is told, and only a look shows it. */
  end(reference: string, unseen?: 'unseen'): void;
}

export function attestationOf(...selectors: readonly string[]): Attestation {
  return { selectors: new Set(selectors.map(parseSelector)), given: new Map(), reports: [], incomplete: false, pending: undefined, rechecks: [] };
}

export function createBrokered(): Brokered {
  const clock = createTestClock();
  const authority = testAuthority('authority', () => clock.now());
  const jwt = ecPair();
  const told: string[] = [];
  const open = new Set<string>();
  const known = new Map<string, { readonly attestations: WatchSource<Attestation>; readonly over: AbortController; ended: boolean }>();
  const cache: SvidCache = createSvidCache({ trustDomain, now: () => clock.now(), prefetchLimit: 9, onWanted: () => undefined, onChange: () => undefined });
  const holdings = createWatch<Holdings>(noHoldings);
  let bundles: readonly Bundle[] = [];
  let held: readonly RegistrationEntry[] = [];

  const set = (): void => {
    holdings.set(holdingsOf({ position: undefined, entries: held, bundles, authorities: [] }, holdings.value));
    cache.holdingsChanged(holdings.value);
  };
  const subjectOf = (reference: string, broker: Subject['behalf']['broker']): Subject => {
    const found = known.get(reference);
    if (found === undefined || found.ended) throw new SpiffeError('missing', 'broker.workload.none', 'there is no workload that this refers to');
    const { attestations, over } = found;
    open.add(reference);
    return {
      behalf: { broker, reference },
      process: undefined,
      signal: over.signal,
      attested: async () => attestations,
      requireStill() {
        if (found.ended) throw gone();
      },
      release: () => void open.delete(reference),
    };
  };

  const all: Brokered = {
    clock,
    authority,
    told,
    open,
    signing: undefined,
    holdings,
    options: {
      clock,
      cache,
      freshness: { catchUp: async () => undefined },
      deliveries: createDeliveries(),
      witness: {
        matched: ({ behalf }, { update }) => told.push(`matched ${String(update.entries.length)} ${String(behalf?.reference)}`),
        delivered: ({ behalf }, svid, before) => told.push(`${before === undefined ? 'delivered' : 'rotated'} ${svid.spiffeId} ${String(behalf?.broker)} ${String(behalf?.reference)}`),
        deliveredToken: ({ behalf }, svid) => told.push(`token ${svid.spiffeId} ${String(behalf?.broker)} ${String(behalf?.reference)}`),
        updated: () => undefined,
        refused: ({ behalf }, _method, error) => told.push(`refused ${error.reason} ${String(behalf?.reference)}`),
        closed: ({ behalf }) => told.push(`closed ${String(behalf?.reference)}`),
      },
    },
    tokens: {
      async fetch({ entry, audience }: TokenRequest): Promise<HeldJwtSvid> {
        if (all.signing !== undefined) throw all.signing;
        const token = `${entry.spiffeId} for ${audience.join(' ')}`;
        return { entryId: entry.id, entryRevision: 0, spiffeId: entry.spiffeId, audience, token, keyId: 'key', issuedAt: clock.now(), expiresAt: clock.now() + 60_000, renewAt: clock.now() };
      },
    },
    subjects: {
      process: (pid, broker) => subjectOf(`pid:${String(pid)}`, broker),
      pod: async ({ key, uid }, broker) => subjectOf(key === undefined ? `uid:${String(uid)}` : `pod:${key.namespace}/${key.name}`, broker),
      selectors: (selectors, broker) => {
        const reference = `selectors:${selectors.join(',')}`;
        if (!known.has(reference)) all.know(reference, ...selectors);
        return subjectOf(reference, broker);
      },
      processes: 0,
    },
    hold(...entries) {
      held = entries;
      set();
    },
    holdBundles(...names) {
      bundles = names.map((name) =>
        composeBundle({
          ...emptyBundle(name),
          x509Authorities: [{ certificate: authority.certificate, tainted: false }],
          jwtAuthorities: [{ keyId: `key-of-${name}`, publicKey: jwt.spki, expiresAt: undefined, tainted: false }],
        }),
      );
      set();
    },
    async issue(entry) {
      const keys = await generateKeys();
      cache.put(receiveX509(entry, [authority.leaf(entry.spiffeId, keys.publicKey)], keys, { at: clock.now(), jitter: 0.5 }));
    },
    async serve(...entries) {
      all.hold(...entries);
      for (const entry of entries) await all.issue(entry);
    },
    know(reference, ...selectors) {
      const found = known.get(reference);
      if (found === undefined) known.set(reference, { attestations: createWatch(attestationOf(...selectors)), over: new AbortController(), ended: false });
      else found.attestations.set(attestationOf(...selectors));
    },
    end(reference, unseen) {
      const found = known.get(reference);
      if (found === undefined) throw new Error(`nothing is known as ${reference}`);
      found.ended = true;
      if (unseen === undefined) found.over.abort(gone());
    },
  };
  all.holdBundles(trustDomain);
  return all;
}
