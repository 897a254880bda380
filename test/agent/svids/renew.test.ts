import { generateKeyPairSync } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createSvidCache, type SvidCache } from '../../../agent/svids/cache.ts';
import { receiveX509 } from '../../../agent/svids/receive.ts';
import type { KeyPair } from '../../../agent/svids/signer.ts';
import { createRenewal, type Renewal, type RenewalOutcome } from '../../../agent/svids/renew.ts';
import type { Signer, X509Outcome, X509Request } from '../../../agent/svids/signer.ts';
import { holdingsOf, noHoldings, type Holdings } from '../../../agent/sync/holdings.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { testAuthority, testEntry, trustDomain, type TestAuthority } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';

const hourMs = 3_600_000;

/** In the turn it is asked: a test clock cannot wait for the thread pool. */
async function generateKeys(): Promise<KeyPair> {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { publicKey: publicKey.export({ type: 'spki', format: 'der' }), privateKey };
}

let clock: TestClock;
let authority: TestAuthority;
let cache: SvidCache;
let renewal: Renewal;
let holdings: Holdings;
let batches: string[][];
let outcomes: RenewalOutcome[];
let tainted: Set<string>;
let answer: (requests: readonly X509Request[]) => Promise<readonly X509Outcome[]>;
let stop: AbortController;
let over: Promise<unknown>;
let largestBatch: number;

const sign = (requests: readonly X509Request[]): X509Outcome[] =>
  requests.map(({ entry, keys }) => ({ chain: [authority.leaf(entry.spiffeId, keys.publicKey, hourMs)] }));

function hold(...entries: readonly RegistrationEntry[]): void {
  holdings = holdingsOf({ position: undefined, entries, bundles: [], authorities: [] }, holdings);
  cache.holdingsChanged(holdings);
}

beforeEach(() => {
  clock = createTestClock();
  authority = testAuthority('authority', () => clock.now());
  batches = [];
  outcomes = [];
  tainted = new Set();
  holdings = noHoldings;
  largestBatch = 3;
  answer = async (requests) => sign(requests);
  const signer: Signer = {
    get largestBatch() {
      return largestBatch;
    },
    signX509(requests) {
      batches.push(requests.map(({ entry }) => entry.spiffeId.slice('spiffe://example.org'.length)));
      return answer(requests);
    },
    signWit: () => Promise.reject(new Error('not here')),
    signJwt: () => Promise.reject(new Error('not here')),
  };
  cache = createSvidCache({ trustDomain, now: () => clock.now(), prefetchLimit: 100, onWanted: (entries) => renewal.want(entries), onChange: () => undefined });
  renewal = createRenewal({
    clock,
    random: () => 0.5,
    cache,
    signer,
    generateKeys,
    receive: (entry, chain, keys) => receiveX509(entry, chain, keys, { at: clock.now(), jitter: 0.5 }),
    tainted: () => tainted,
    onOutcome: (outcome) => outcomes.push(outcome),
  });
  stop = new AbortController();
  over = renewal.run(stop.signal).catch((error: unknown) => error);
});

afterEach(async () => {
  stop.abort(new Error('the test is over'));
  await over;
});

const until = (holds: () => boolean): Promise<void> => clock.runUntil(holds, 2 * hourMs);

describe('the queue', () => {
  it('signs what appears, in batches no larger than allowed', async () => {
    hold(...['/a', '/b', '/c', '/d'].map((name) => testEntry(name, ['a:1'])));
    await until(() => cache.counts().x509 === 4);
    expect(batches.map((batch) => batch.length)).toEqual([3, 1]);
  });

  it('takes connected workloads first', async () => {
    largestBatch = 1;
    const gate = Promise.withResolvers<void>();
    answer = async (requests) => {
      await gate.promise;
      return sign(requests);
    };
    // Four batches are under way before anybody connects.
    hold(...['/1', '/2', '/3', '/4', '/5', '/6'].map((name) => testEntry(name, ['a:1'])), testEntry('/urgent', ['a:2']));
    await clock.settle();
    await until(() => batches.length === 4);
    cache.subscribe(new Set([parseSelector('a:2')]), undefined);
    // With nothing in hand it does not even wait for one of them.
    await until(() => batches.length === 5);
    expect(batches[4]).toEqual(['/urgent']);
    gate.resolve();
    await until(() => cache.counts().x509 === 7);
  });

  it('renews at half of the life that was left, once', async () => {
    const entry = testEntry('/a', ['a:1']);
    hold(entry);
    await until(() => cache.x509(entry.id) !== undefined);
    const first = cache.x509(entry.id);
    const half = clock.now() + hourMs / 2;
    await clock.advance(hourMs / 2 - 10_000);
    expect(batches.length).toBe(1);
    await until(() => batches.length === 2);
    expect(Math.abs(clock.now() - half)).toBeLessThan(5_000);
    await until(() => cache.x509(entry.id) !== first);
    expect(outcomes.at(-1)?.before).toBe(first);
  });

  it('signs anew when an entry changes, and not when it goes', async () => {
    const entry = testEntry('/a', ['a:1']);
    hold(entry);
    await until(() => cache.counts().x509 === 1);
    hold({ ...entry, revisionNumber: 1, dnsNames: ['a.test'] });
    await until(() => cache.x509(entry.id)?.entryRevision === 1);
    hold();
    await clock.advance(hourMs);
    expect(batches.length).toBe(2);
  });

  it('replaces what a tainted authority signed', async () => {
    const entry = testEntry('/a', ['a:1']);
    hold(entry);
    await until(() => cache.counts().x509 === 1);
    const old = authority;
    authority = testAuthority('next', () => clock.now());
    tainted.add(old.id);
    renewal.rescan();
    await until(() => cache.x509(entry.id)?.authorityId === authority.id);
    await clock.advance(60_000);
    expect(batches.length).toBe(2);
  });

  it('T-G03: follows a wall clock that steps forward, as after a resume', async () => {
    const entry = testEntry('/a', ['a:1']);
    hold(entry);
    await until(() => cache.counts().x509 === 1);
    await clock.step(hourMs - 60_000);
    await until(() => batches.length === 2);
  });
});

describe('a failure', () => {
  it('is tried again after a growing while, and what is held stays', async () => {
    const entry = testEntry('/a', ['a:1']);
    hold(entry);
    await until(() => cache.counts().x509 === 1);
    const first = cache.x509(entry.id);
    const tries: number[] = [];
    answer = async () => {
      tries.push(clock.now());
      throw new SpiffeError('unavailable', 'rpc.unreachable', 'the server is away');
    };
    await until(() => tries.length === 4);
    const waits = tries.slice(1).map((at, i) => at - (tries[i] ?? 0));
    expect(waits).toEqual([500, 1_000, 2_000]);
    expect(cache.x509(entry.id)).toBe(first);
    expect(renewal.lastError(entry.id)?.reason).toBe('rpc.unreachable');
    answer = async (requests) => sign(requests);
    await until(() => cache.x509(entry.id) !== first);
    expect(renewal.lastError(entry.id)).toBeUndefined();
  });

  it('of one entry does not hold up the others of its batch', async () => {
    const [a, b] = [testEntry('/a', ['a:1']), testEntry('/b', ['a:1'])];
    answer = async (requests) =>
      requests.map((request) => (request.entry.id === a.id ? { refused: new SpiffeError('missing', 'issue.not-authorized', 'no') } : sign([request])[0]!));
    hold(a, b);
    await until(() => outcomes.length === 2);
    expect(cache.x509(b.id)).toBeDefined();
    expect(outcomes.find(({ entry }) => entry.id === a.id)?.error?.reason).toBe('issue.not-authorized');
  });

  it('for a former revision does not delay a changed entry', async () => {
    const entry = testEntry('/a', ['a:1']);
    answer = async () => {
      throw new SpiffeError('unavailable', 'rpc.unreachable', 'the server is away');
    };
    hold(entry);
    await until(() => batches.length === 6);
    answer = async (requests) => sign(requests);
    const at = clock.now();
    hold({ ...entry, revisionNumber: 1 });
    await until(() => cache.counts().x509 === 1);
    expect(clock.now()).toBe(at);
  });

  it.each([
    ['svid.received.id', (entry: RegistrationEntry) => testEntry('/somebody-else', []).spiffeId ?? entry],
    ['svid.received.key', undefined],
  ])('is an SVID that is not what was asked for: %s', async (reason, nameOf) => {
    const wrongKeys = await generateKeys();
    answer = async (requests) =>
      requests.map(({ entry, keys }) => ({ chain: [authority.leaf(nameOf === undefined ? entry.spiffeId : String(nameOf(entry)), nameOf === undefined ? wrongKeys.publicKey : keys.publicKey)] }));
    hold(testEntry('/a', ['a:1']));
    await until(() => outcomes.length === 1);
    expect(outcomes[0]?.error?.reason).toBe(reason);
    expect(cache.counts().x509).toBe(0);
  });

  it('is an answer too few', async () => {
    answer = async (requests) => sign(requests).slice(1);
    hold(testEntry('/a', ['a:1']), testEntry('/b', ['a:1']));
    await until(() => outcomes.length >= 2);
    expect(outcomes.filter(({ error }) => error !== undefined).length).toBeGreaterThan(0);
    expect(cache.counts().x509).toBeLessThan(2);
  });
});
