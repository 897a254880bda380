import { createPublicKey } from 'node:crypto';
import { Metadata } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createSvidCache, type SvidCache } from '../../../agent/svids/cache.ts';
import { createDeliveries } from '../../../agent/svids/delivery.ts';
import { generateKeys } from '../../../agent/svids/receive.ts';
import { createWits, type Wits } from '../../../agent/svids/wits.ts';
import { holdingsOf } from '../../../agent/sync/holdings.ts';
import { workloadApi } from '../../../agent/workload/api.ts';
import type { Attestation } from '../../../agent/workload/attest.ts';
import type { Caller } from '../../../agent/workload/caller.ts';
import type { Witness } from '../../../agent/workload/witness.ts';
import type { WITBundlesResponse } from '../../../proto/gen/WITBundlesResponse.ts';
import type { WITSVIDResponse } from '../../../proto/gen/WITSVIDResponse.ts';
import type { CallContext } from '../../../runtime/rpc/handlers.ts';
import { createWatch } from '../../../runtime/watch.ts';
import { composeBundle, emptyBundle, type Bundle } from '../../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseTrustDomain, type TrustDomain } from '../../../spiffe/id.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { parseWitSvid, receiveWitSvid } from '../../../spiffe/wit-svid.ts';
import { testEntry, trustDomain } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';
import { ecPair } from '../../help/forge.ts';
import { fakePeer, type FakePeer } from '../../help/peer.ts';
import { testWitSigner, type TestWitSigner } from '../../help/wit-signer.ts';

type Call = CallContext<Caller>;

interface Methods {
  FetchWITSVID(request: { readonly spiffe_id: string }, call: Call): AsyncGenerator<WITSVIDResponse>;
  FetchWITBundles(request: object, call: Call): AsyncGenerator<WITBundlesResponse>;
}

const other = parseTrustDomain('other.test');
const keyOf = (keyId: string) => ({ keyId, publicKey: ecPair().spki, expiresAt: undefined, tainted: false });
const all = { spiffe_id: '' };

let clock: TestClock;
let signer: TestWitSigner;
let wits: Wits;
let cache: SvidCache;
let bundles: Map<TrustDomain, Bundle>;
let peer: FakePeer;
let stop: AbortController;
let told: string[];
let api: Methods;
let entries: readonly RegistrationEntry[];

const witness: Witness = {
  matched: (_caller, { update }) => void told.push(`matched ${update.entries.length}`),
  delivered: (_caller, { serial }, before) => void told.push(`${before === undefined ? 'delivered' : 'rotated'} ${serial}`),
  updated: () => undefined,
  refused: (_caller, _method, { reason }) => void told.push(`refused ${reason}`),
  closed: () => void told.push('closed'),
};

beforeEach(() => {
  clock = createTestClock();
  signer = testWitSigner(clock);
  entries = [];
  bundles = new Map([[trustDomain, composeBundle({ ...emptyBundle(trustDomain), jwtAuthorities: [keyOf('jwt')], witAuthorities: [keyOf('wit')] })]]);
  peer = fakePeer();
  stop = new AbortController();
  told = [];
  cache = createSvidCache({ trustDomain, now: () => clock.now(), prefetchLimit: 9, onWanted: () => undefined, onChange: () => undefined });
  wits = createWits({ clock, random: () => 0.5, signer, generateKeys, entry: (id) => cache.entry(id), tainted: () => new Set(), onOutcome: () => undefined, onChange: () => undefined });
  wits.run(stop.signal).catch(() => undefined);
  api = workloadApi({
    clock,
    cache,
    freshness: { catchUp: async () => undefined },
    deliveries: createDeliveries(),
    trustDomain,
    holdings: () => holdingsOf({ position: undefined, entries: [], bundles: [], authorities: [] }),
    tokens: { fetch: () => Promise.reject(new Error('not here')) },
    wits,
    witness,
    allowedForeignClaims: new Set(),
    bundlesForAll: false,
  }) as unknown as Methods;
});

afterEach(() => stop.abort(new SpiffeError('unavailable', 'rpc.cancelled', 'the test is over')));

function hold(...held: readonly RegistrationEntry[]): void {
  entries = held;
  cache.holdingsChanged(holdingsOf({ position: undefined, entries, bundles: [...bundles.values()], authorities: [] }));
}

function call(signal = stop.signal): Call {
  const attestation: Attestation = { selectors: new Set(['a:1', 'b:1'].map(parseSelector)), given: new Map(), reports: [], incomplete: false, pending: undefined, rechecks: [] };
  const caller: Caller = { peer, process: { pid: 7, startTime: '1', uid: 1, gid: 1, path: '' }, attested: async () => createWatch(attestation) };
  return { signal, connection: caller, metadata: new Metadata(), method: '/SpiffeWorkloadAPI/FetchWITSVID', requestId: '1', deadlineAt: undefined };
}

async function next<T>(stream: AsyncGenerator<T>): Promise<T> {
  const step = await stream.next();
  if (step.done === true) throw new Error('the stream ended');
  return step.value;
}

const ids = ({ svids = [] }: WITSVIDResponse): (string | undefined)[] => svids.map(({ spiffe_id }) => spiffe_id);
const denied = { kind: 'denied', reason: 'workload.no-identity' };

describe('FetchWITSVID', () => {
  it('WLAPI-06 WLAPI-30 T-21: tells each identity with its token, its key as a JWK, and its hint', async () => {
    hold(testEntry('/web', ['a:1'], { hint: 'inner' }));
    const stream = api.FetchWITSVID(all, call());
    const { svids = [] } = await next(stream);
    expect(svids.map(({ spiffe_id, hint }) => [spiffe_id, hint])).toEqual([['spiffe://example.org/web', 'inner']]);
    const [first] = svids;
    const svid = receiveWitSvid(first?.wit_svid ?? '', first?.wit_svid_key ?? '');
    expect(createPublicKey(svid.privateKey).equals(parseWitSvid(svid.token).confirmation.key)).toBe(true);
    expect(JSON.parse(first?.wit_svid_key ?? '')).toMatchObject({ kty: 'EC', crv: 'P-256', alg: 'ES256', d: expect.any(String) as string });
    // On record once it was taken.
    stream.next().catch(() => undefined);
    await clock.settle();
    expect(told).toEqual(['matched 1', 'delivered jti-1']);
  });

  it('WLAPI-05 WLAPI-24 WLAPI-32: every message is the complete state, the default first', async () => {
    const [web, db] = [testEntry('/web', ['a:1'], { createdAt: 1 }), testEntry('/db', ['b:1'], { createdAt: 2 })];
    hold(web, db);
    const stream = api.FetchWITSVID(all, call());
    const expected = cache.match(new Set(['a:1', 'b:1'].map(parseSelector))).map(({ spiffeId }) => spiffeId);
    expect(ids(await next(stream))).toEqual(expected);
    hold(db);
    expect(ids(await next(stream))).toEqual([db.spiffeId]);
  });

  it('WLAPI-24: tells one identity alone when it is asked for, and denies one that is not there', async () => {
    hold(testEntry('/web', ['a:1']), testEntry('/db', ['b:1']));
    expect(ids(await next(api.FetchWITSVID({ spiffe_id: 'spiffe://example.org/db' }, call())))).toEqual(['spiffe://example.org/db']);
    expect(signer.calls.flat()).toEqual(['spiffe://example.org/db']);
    await expect(next(api.FetchWITSVID({ spiffe_id: 'spiffe://example.org/x' }, call()))).rejects.toMatchObject(denied);
    await expect(next(api.FetchWITSVID({ spiffe_id: 'web' }, call()))).rejects.toMatchObject({ kind: 'invalid', reason: 'workload.spiffe-id' });
    expect(told.slice(-2)).toEqual(['refused workload.spiffe-id', 'closed']);
  });

  it('WLAPI-12: hints that are not empty are there once each', async () => {
    hold(...['/a', '/b', '/c'].map((path) => testEntry(path, ['a:1'], { hint: 'same' })), testEntry('/d', ['a:1'], { hint: 'own' }));
    const { svids = [] } = await next(api.FetchWITSVID(all, call()));
    const hints = svids.map(({ hint }) => hint).filter((hint) => hint !== '');
    expect([hints.length, new Set(hints)]).toEqual([2, new Set(['own', 'same'])]);
  });

  it('WIT-36: sends another token with another key at half of the life', async () => {
    hold(testEntry('/web', ['a:1']));
    const stream = api.FetchWITSVID(all, call());
    const before = await next(stream);
    const rotated = next(stream);
    await clock.advance(301_000);
    const after = await rotated;
    expect(after.svids?.[0]?.wit_svid).not.toBe(before.svids?.[0]?.wit_svid);
    expect(after.svids?.[0]?.wit_svid_key).not.toBe(before.svids?.[0]?.wit_svid_key);
    stream.next().catch(() => undefined);
    await clock.settle();
    expect(told).toEqual(['matched 1', 'delivered jti-1', 'rotated jti-2']);
  });

  it('WLAPI-20 T-23: ends denied when the last identity goes, and for whoever has none', async () => {
    await expect(next(api.FetchWITSVID(all, call()))).rejects.toMatchObject(denied);
    hold(testEntry('/web', ['a:1']));
    const stream = api.FetchWITSVID(all, call());
    await next(stream);
    hold();
    await expect(next(stream)).rejects.toMatchObject(denied);
    expect(told.slice(-2)).toEqual(['refused workload.no-identity', 'closed']);
  });

  it('T-A02: sends nothing to a process that is not the one that connected', async () => {
    hold(testEntry('/web', ['a:1']));
    const stream = api.FetchWITSVID(all, call());
    await next(stream);
    const rotated = next(stream).catch((error: unknown) => error);
    peer.become('peer.exited');
    await clock.advance(301_000);
    expect(await rotated).toMatchObject({ kind: 'denied', reason: 'peer.exited' });
  });

  it('WLAPI-29: is unsupported when the server issues none', async () => {
    signer.refusing = { refused: new SpiffeError('unsupported', 'wit.disabled', 'off') };
    hold(testEntry('/web', ['a:1']));
    await expect(next(api.FetchWITSVID(all, call()))).rejects.toMatchObject({ kind: 'unsupported', reason: 'workload.wit' });
  });

  it('waits for a server that is away, and then says that it is', async () => {
    signer.failing = new SpiffeError('unavailable', 'rpc.unreachable', 'away');
    hold(testEntry('/web', ['a:1']));
    const first = next(api.FetchWITSVID(all, call())).catch((error: unknown) => error);
    await clock.settle();
    await clock.advance(29_000);
    expect(await Promise.race([first, Promise.resolve('waiting')])).toBe('waiting');
    await clock.advance(1_001);
    expect(await first).toMatchObject({ kind: 'unavailable', reason: 'workload.svid-unavailable' });
  });

  it('wants nothing any more once its stream is over', async () => {
    hold(testEntry('/web', ['a:1']));
    const over = new AbortController();
    const stream = api.FetchWITSVID(all, call(over.signal));
    await next(stream);
    over.abort(new SpiffeError('unavailable', 'rpc.cancelled', 'gone'));
    await expect(next(stream)).rejects.toMatchObject({ reason: 'rpc.cancelled' });
    await clock.advance(700_000);
    expect([signer.calls.length, wits.size]).toEqual([1, 0]);
  });
});

describe('FetchWITBundles', () => {
  it('WLAPI-22 WLAPI-31 T-20 T-21: texts of WIT keys alone, of the own trust domain and those federated with', async () => {
    bundles.set(other, composeBundle({ ...emptyBundle(other), jwtAuthorities: [keyOf('foreign-jwt')] }));
    hold(testEntry('/web', ['a:1'], { federatesWith: [other] }));
    const response = await next(api.FetchWITBundles({}, call()));
    const keys = Object.entries(response.bundles ?? {}).map(([name, text]) => [name, (JSON.parse(text) as { keys: { kid: string }[] }).keys.map(({ kid }) => kid)]);
    expect(keys).toEqual([
      ['spiffe://example.org', ['wit']],
      ['spiffe://other.test', []],
    ]);
    await expect(next(api.FetchWITBundles({}, { ...call(), connection: { ...call().connection, attested: async () => createWatch({ selectors: new Set(), given: new Map(), reports: [], incomplete: false, pending: undefined, rechecks: [] }) } }))).rejects.toMatchObject(denied);
  });
});
