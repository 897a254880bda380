import { beforeEach, describe, expect, it } from 'vitest';
import { createSvidCache, type SvidCache, type WorkloadUpdate } from '../../../agent/svids/cache.ts';
import type { HeldX509Svid } from '../../../agent/svids/held.ts';
import { generateKeys, receiveX509 } from '../../../agent/svids/receive.ts';
import { holdingsOf, noHoldings, type Holdings } from '../../../agent/sync/holdings.ts';
import { composeBundle, emptyBundle, type Bundle } from '../../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { parseSelector, type SelectorSet } from '../../../spiffe/selector.ts';
import { testAuthority, testEntry, trustDomain } from '../../help/agent-server.ts';

const start = Date.UTC(2026, 5, 1);
const authority = testAuthority('authority', () => start);
const other = parseTrustDomain('other.test');
const process = { pid: 7, startTime: '1', uid: 1, gid: 1, path: '/bin/x' };

let now: number;
let wanted: string[];
let cache: SvidCache;
let changes: number;
let holdings: Holdings;

const set = (...texts: string[]): SelectorSet => new Set(texts.map(parseSelector));
const bundleOf = (name = trustDomain, sequence = 1n): Bundle => composeBundle({ ...emptyBundle(name), sequence });
const hold = (entries: readonly RegistrationEntry[], bundles: readonly Bundle[] = [bundleOf()]): void => {
  holdings = holdingsOf({ position: undefined, entries, bundles, authorities: [] }, holdings);
  cache.holdingsChanged(holdings);
};
const names = (update: WorkloadUpdate): string[] => update.identities.map(({ svid }) => svid.spiffeId.slice('spiffe://example.org'.length));

async function sign(entry: RegistrationEntry, ttlMs = 3_600_000): Promise<HeldX509Svid> {
  const keys = await generateKeys();
  return receiveX509(entry, [authority.leaf(entry.spiffeId, keys.publicKey, now - start + ttlMs)], keys, { at: now, jitter: 0.5 });
}

beforeEach(() => {
  now = start;
  wanted = [];
  changes = 0;
  holdings = noHoldings;
  cache = createSvidCache({
    trustDomain,
    now: () => now,
    prefetchLimit: 2,
    onWanted: (entries) => wanted.push(...entries.map(({ id }) => id)),
    onChange: () => (changes += 1),
  });
});

describe('subscriptions', () => {
  it('see entries, SVIDs and bundles as they come and go', async () => {
    const web = testEntry('/web', ['a:1']);
    const subscription = cache.subscribe(set('a:1', 'b:1'), process);
    expect(subscription.updates.value.entries).toEqual([]);
    hold([web]);
    expect(subscription.updates.value.entries).toEqual([web]);
    expect(wanted).toEqual([web.id]);
    expect(names(subscription.updates.value)).toEqual([]);
    cache.put(await sign(web));
    expect(names(subscription.updates.value)).toEqual(['/web']);
    hold([]);
    expect(subscription.updates.value.entries).toEqual([]);
    expect(cache.x509(web.id)).toBeUndefined();
  });

  it('are not told of what does not concern them', async () => {
    const web = testEntry('/web', ['a:1']);
    hold([web]);
    cache.put(await sign(web));
    const subscription = cache.subscribe(set('a:1'), process);
    const before = subscription.updates.value;
    hold([web, testEntry('/db', ['a:2'])]);
    expect(subscription.updates.value).toBe(before);
    hold([web], [bundleOf(), bundleOf(other)]);
    expect(subscription.updates.value).toBe(before);
    hold([web], [bundleOf(trustDomain, 2n)]);
    expect(subscription.updates.value).not.toBe(before);
  });

  it('get the bundles of the trust domains their entries federate with, and no others', () => {
    const web = testEntry('/web', ['a:1'], { federatesWith: [other] });
    hold([web, testEntry('/db', ['a:2'])], [bundleOf(), bundleOf(other), bundleOf(parseTrustDomain('third.test'))]);
    expect([...cache.update(set('a:1')).bundles.keys()]).toEqual([trustDomain, other]);
    expect([...cache.update(set('a:2')).bundles.keys()]).toEqual([trustDomain]);
  });

  it('of the same selectors are one, and last as long as the last of them', () => {
    const web = testEntry('/web', ['a:1']);
    hold([web]);
    const first = cache.subscribe(set('a:1', 'a:2'), process);
    const second = cache.subscribe(set('a:2', 'a:1'), undefined);
    expect(second.updates).toBe(first.updates);
    expect(cache.counts().subscriptions).toBe(1);
    first.close();
    first.close();
    expect(cache.isSubscribed(web.id)).toBe(true);
    expect(cache.onBehalfOf(web.id)).toBeUndefined();
    second.close();
    expect(cache.isSubscribed(web.id)).toBe(false);
    expect(cache.counts().subscriptions).toBe(0);
  });

  it('match every change among many as looking anew would', () => {
    const subscription = cache.subscribe(set('a:1'), process);
    const many = Array.from({ length: 200 }, (_, i) => testEntry(`/w${String(i)}`, [`a:${String(i % 3)}`]));
    hold(many);
    expect(subscription.updates.value.entries).toEqual(cache.match(set('a:1')));
    expect(subscription.updates.value.entries.length).toBe(67);
    hold(many.slice(0, 100));
    expect(subscription.updates.value.entries.length).toBe(33);
  });
});

describe('an SVID', () => {
  it('of the former name of an entry is not handed out', async () => {
    const web = testEntry('/web', ['a:1']);
    hold([web]);
    cache.put(await sign(web));
    const renamed = { ...web, spiffeId: testEntry('/new', []).spiffeId, revisionNumber: 1 };
    hold([renamed]);
    expect(names(cache.update(set('a:1')))).toEqual([]);
    // An answer that was under way for the old name comes too late.
    expect(cache.put(await sign(web))).toBe(false);
    expect(cache.put(await sign(renamed))).toBe(true);
    expect(names(cache.update(set('a:1')))).toEqual(['/new']);
  });

  it('stays in use while its successor is signed for a changed entry', async () => {
    const web = testEntry('/web', ['a:1']);
    const subscription = cache.subscribe(set('a:1'), process);
    hold([web]);
    cache.put(await sign(web));
    wanted.length = 0;
    hold([{ ...web, revisionNumber: 1, dnsNames: ['web.test'] }]);
    expect(wanted).toEqual([web.id]);
    expect(names(subscription.updates.value)).toEqual(['/web']);
  });

  it('is used to its last second and not beyond', async () => {
    const web = testEntry('/web', ['a:1']);
    hold([web]);
    const svid = await sign(web, 60_000);
    cache.put(svid);
    const subscription = cache.subscribe(set('a:1'), process);
    now = svid.expiresAt - 1;
    expect(cache.sweep()).toBe(svid.expiresAt);
    expect(names(subscription.updates.value)).toEqual(['/web']);
    now = svid.expiresAt;
    expect(cache.sweep()).toBeUndefined();
    expect(names(subscription.updates.value)).toEqual([]);
    expect(cache.x509(web.id)).toBeUndefined();
  });
});

describe('entries', () => {
  it('end when they expire, without a word of the server', () => {
    const web = testEntry('/web', ['a:1'], { expiresAt: start + 1_000 });
    hold([web]);
    const subscription = cache.subscribe(set('a:1'), process);
    expect(cache.sweep()).toBe(start + 1_000);
    now = start + 1_000;
    cache.sweep();
    expect(subscription.updates.value.entries).toEqual([]);
    expect(cache.isWanted(web)).toBe(false);
  });

  it('for other stores are not served', () => {
    hold([testEntry('/web', ['a:1'], { storeSvid: true })]);
    expect(cache.match(set('a:1'))).toEqual([]);
  });

  it('are fetched ahead up to the limit, unless they say otherwise; subscribed ones always', async () => {
    const [a, b, c] = [testEntry('/a', ['a:1']), testEntry('/b', ['a:2']), testEntry('/c', ['a:3'])];
    const quiet = testEntry('/quiet', ['a:4'], { disableX509SvidPrefetch: true });
    hold([quiet, a, b, c]);
    expect(wanted).not.toContain(quiet.id);
    cache.put(await sign(a));
    cache.put(await sign(b));
    expect(cache.isWanted(a)).toBe(true);
    expect(cache.isWanted(c)).toBe(false);
    const subscription = cache.subscribe(set('a:3', 'a:4'), process);
    expect(cache.isWanted(c)).toBe(true);
    expect(cache.isWanted(quiet)).toBe(true);
    subscription.close();
    expect(cache.isWanted(quiet)).toBe(false);
  });
});

it('tells what to write down only when there is something new', async () => {
  const web = testEntry('/web', ['a:1']);
  hold([web]);
  const before = changes;
  cache.subscribe(set('a:1'), process).close();
  expect(changes).toBe(before);
  cache.put(await sign(web));
  expect(changes).toBe(before + 1);
});
