import { createPrivateKey, createPublicKey, sign, X509Certificate } from 'node:crypto';
import { Metadata } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createSvidCache, type SvidCache } from '../../../agent/svids/cache.ts';
import { createDeliveries } from '../../../agent/svids/delivery.ts';
import { generateKeys, receiveX509 } from '../../../agent/svids/receive.ts';
import type { TokenRequest } from '../../../agent/svids/tokens.ts';
import { holdingsOf, noHoldings, type Holdings } from '../../../agent/sync/holdings.ts';
import { workloadApi, type WorkloadApiOptions } from '../../../agent/workload/api.ts';
import type { Attestation } from '../../../agent/workload/attest.ts';
import type { Caller } from '../../../agent/workload/caller.ts';
import type { Witness } from '../../../agent/workload/witness.ts';
import type { JWTBundlesResponse } from '../../../proto/gen/JWTBundlesResponse.ts';
import type { JWTSVIDRequest__Output } from '../../../proto/gen/JWTSVIDRequest.ts';
import type { JWTSVIDResponse } from '../../../proto/gen/JWTSVIDResponse.ts';
import type { ValidateJWTSVIDRequest__Output } from '../../../proto/gen/ValidateJWTSVIDRequest.ts';
import type { ValidateJWTSVIDResponse } from '../../../proto/gen/ValidateJWTSVIDResponse.ts';
import type { X509BundlesResponse } from '../../../proto/gen/X509BundlesResponse.ts';
import type { X509SVIDResponse } from '../../../proto/gen/X509SVIDResponse.ts';
import type { CallContext } from '../../../runtime/rpc/handlers.ts';
import { createWatch } from '../../../runtime/watch.ts';
import { composeBundle, emptyBundle, type Bundle } from '../../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseTrustDomain, type TrustDomain } from '../../../spiffe/id.ts';
import { assembleJwtSvid, draftJwtSvid } from '../../../spiffe/jwt-svid.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { hourMs, testAuthority, testEntry, trustDomain, type TestAuthority } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';
import { ecPair } from '../../help/forge.ts';
import { fakePeer, type FakePeer } from '../../help/peer.ts';

const other = parseTrustDomain('other.test');
const jwtPair = ecPair();
const strangePair = ecPair();

/** The methods as their shapes are. */
interface Methods {
  FetchX509SVID(request: object, call: Call): AsyncGenerator<X509SVIDResponse>;
  FetchX509Bundles(request: object, call: Call): AsyncGenerator<X509BundlesResponse>;
  FetchJWTBundles(request: object, call: Call): AsyncGenerator<JWTBundlesResponse>;
  FetchJWTSVID(request: JWTSVIDRequest__Output, call: Call): Promise<JWTSVIDResponse>;
  ValidateJWTSVID(request: ValidateJWTSVIDRequest__Output, call: Call): Promise<ValidateJWTSVIDResponse>;
  FetchWITSVID(request: object, call: Call): unknown;
  FetchWITBundles(request: object, call: Call): unknown;
}
type Call = CallContext<Caller>;

let clock: TestClock;
let authority: TestAuthority;
let cache: SvidCache;
let holdings: Holdings;
let bundles: Map<TrustDomain, Bundle>;
let peer: FakePeer;
let stop: AbortController;
let told: string[];
let signing: SpiffeError | undefined;
let api: Methods;

function bundleOf(name: TrustDomain, keyId = `key-of-${name}`, pair = jwtPair): Bundle {
  return composeBundle({
    ...emptyBundle(name),
    x509Authorities: [{ certificate: authority.certificate, tainted: false }],
    jwtAuthorities: [{ keyId, publicKey: pair.spki, expiresAt: undefined, tainted: false }],
  });
}

function hold(...entries: readonly RegistrationEntry[]): void {
  holdings = holdingsOf({ position: undefined, entries, bundles: [...bundles.values()], authorities: [] }, holdings);
  cache.holdingsChanged(holdings);
}

async function issue(entry: RegistrationEntry): Promise<void> {
  const keys = await generateKeys();
  cache.put(receiveX509(entry, [authority.leaf(entry.spiffeId, keys.publicKey)], keys, { at: clock.now(), jitter: 0.5 }));
}

async function serve(...entries: readonly RegistrationEntry[]): Promise<void> {
  hold(...entries);
  for (const entry of entries) await issue(entry);
}

function tokenFor(spiffeId: string, audience: readonly string[], { keyId = `key-of-${trustDomain}`, ageMs = 0, key = jwtPair.privateKey } = {}): string {
  const issuedAt = Math.floor((clock.now() - ageMs) / 1000) * 1000;
  const draft = draftJwtSvid({ spiffeId: spiffeId as RegistrationEntry['spiffeId'], audience, issuedAt, expiresAt: issuedAt + 300_000, keyId, algorithm: 'ES256', jti: undefined });
  return assembleJwtSvid(draft, sign('sha256', Buffer.from(draft), { key, dsaEncoding: 'ieee-p1363' }));
}

const witness: Witness = {
  matched: (_caller, { update }) => told.push(`matched ${update.entries.length}`),
  delivered: (_caller, svid, before) => told.push(`${before === undefined ? 'delivered' : 'rotated'} ${svid.spiffeId}`),
  updated: () => told.push('updated'),
  refused: (_caller, _method, error) => told.push(`refused ${error.reason}`),
  closed: () => told.push('closed'),
};

function build(more: Partial<WorkloadApiOptions> = {}): Methods {
  return workloadApi({
    clock,
    cache,
    freshness: { catchUp: async () => undefined },
    deliveries: createDeliveries(),
    trustDomain,
    holdings: () => holdings,
    tokens: {
      async fetch({ entry, audience }: TokenRequest) {
        if (signing !== undefined) throw signing;
        const token = tokenFor(entry.spiffeId, audience);
        return { entryId: entry.id, entryRevision: 0, spiffeId: entry.spiffeId, audience, token, keyId: 'key', issuedAt: clock.now(), expiresAt: clock.now() + 1, renewAt: clock.now() };
      },
    },
    witness,
    allowedForeignClaims: new Set(['team']),
    bundlesForAll: false,
    ...more,
  }) as unknown as Methods;
}

function call(method = '/SpiffeWorkloadAPI/Any'): Call {
  const attestation: Attestation = { selectors: new Set(['a:1', 'b:1'].map(parseSelector)), given: new Map(), reports: [], incomplete: false, pending: undefined, rechecks: [] };
  const caller: Caller = { peer, process: { pid: 7, startTime: '1', uid: 1, gid: 1, path: '' }, attested: async () => createWatch(attestation) };
  return { signal: stop.signal, connection: caller, metadata: new Metadata(), method, requestId: '1', deadlineAt: undefined };
}

async function next<T>(stream: AsyncGenerator<T>): Promise<T> {
  const step = await stream.next();
  if (step.done === true) throw new Error('the stream ended');
  return step.value;
}

const bytes = (value: unknown): Buffer => Buffer.from(value as Uint8Array);
const ids = ({ svids = [] }: X509SVIDResponse): (string | undefined)[] => svids.map(({ spiffe_id }) => spiffe_id);
const denied = { kind: 'denied', reason: 'workload.no-identity', message: 'no identity issued' };

beforeEach(() => {
  clock = createTestClock();
  authority = testAuthority('authority', () => clock.now());
  holdings = noHoldings;
  bundles = new Map([[trustDomain, bundleOf(trustDomain)]]);
  peer = fakePeer();
  stop = new AbortController();
  told = [];
  signing = undefined;
  cache = createSvidCache({ trustDomain, now: () => clock.now(), prefetchLimit: 9, onWanted: () => undefined, onChange: () => undefined });
  api = build();
});

afterEach(() => stop.abort(new SpiffeError('unavailable', 'rpc.cancelled', 'the test is over')));

describe('FetchX509SVID', () => {
  it('WLAPI-06: the first message comes without time moving', async () => {
    await serve(testEntry('/web', ['a:1']));
    expect(ids(await next(api.FetchX509SVID({}, call())))).toEqual(['spiffe://example.org/web']);
  });

  it('WLAPI-05: every message is the complete state', async () => {
    const [web, db] = [testEntry('/web', ['a:1']), testEntry('/db', ['b:1'])];
    await serve(web);
    const stream = api.FetchX509SVID({}, call());
    await next(stream);
    hold(web, db);
    await issue(db);
    expect(new Set(ids(await next(stream)))).toEqual(new Set(['spiffe://example.org/web', 'spiffe://example.org/db']));
    hold(db);
    expect(ids(await next(stream))).toEqual(['spiffe://example.org/db']);
  });

  it('WLAPI-12: hints that are not empty are there once each, whatever the entries say', async () => {
    await serve(...['/a', '/b', '/c'].map((path) => testEntry(path, ['a:1'], { hint: 'same' })), testEntry('/d', ['a:1'], { hint: 'own' }));
    const { svids = [] } = await next(api.FetchX509SVID({}, call()));
    const hints = svids.map(({ hint }) => hint).filter((hint) => hint !== '');
    expect(hints.length).toBe(2);
    expect(new Set(hints)).toEqual(new Set(['own', 'same']));
  });

  it('WLAPI-17, WLAPI-18: every field is set: leaf first in DER, PKCS#8, the bundle', async () => {
    await serve(testEntry('/web', ['a:1']));
    const { svids = [] } = await next(api.FetchX509SVID({}, call()));
    const [svid] = svids;
    expect(svids.length).toBe(1);
    const leaf = new X509Certificate(bytes(svid?.x509_svid));
    const key = createPrivateKey({ key: bytes(svid?.x509_svid_key), format: 'der', type: 'pkcs8' });
    expect(leaf.subjectAltName).toBe('URI:spiffe://example.org/web');
    expect(leaf.publicKey.equals(createPublicKey(key))).toBe(true);
    expect(leaf.verify(new X509Certificate(bytes(svid?.bundle)).publicKey)).toBe(true);
  });

  it('WLAPI-19: federated bundles are those of others, by their IDs without a slash', async () => {
    bundles.set(other, bundleOf(other));
    bundles.set(parseTrustDomain('third.test'), bundleOf(parseTrustDomain('third.test')));
    await serve(testEntry('/web', ['a:1'], { federatesWith: [other] }));
    const { federated_bundles } = await next(api.FetchX509SVID({}, call()));
    expect(Object.keys(federated_bundles ?? {})).toEqual(['spiffe://other.test']);
  });

  it('a reader that comes back late gets the newest state alone', async () => {
    const web = testEntry('/web', ['a:1']);
    await serve(web);
    const stream = api.FetchX509SVID({}, call());
    await next(stream);
    const seen: Buffer[] = [];
    for (let rotation = 0; rotation < 10; rotation += 1) {
      await issue(web);
      seen.push(Buffer.concat(cache.x509(web.id)?.chain ?? []));
      await clock.settle();
    }
    const { svids = [] } = await next(stream);
    expect(bytes(svids[0]?.x509_svid).equals(seen[9]!)).toBe(true);
    const further = stream.next();
    await clock.settle();
    expect(await Promise.race([further, Promise.resolve('nothing more')])).toBe('nothing more');
    expect(told.filter((line) => line.startsWith('rotated')).length).toBe(1);
    further.catch(() => undefined);
  });

  it('WLAPI-20: is denied when the last identity goes, and says why to the record', async () => {
    const web = testEntry('/web', ['a:1']);
    await serve(web);
    const stream = api.FetchX509SVID({}, call());
    await next(stream);
    hold();
    await expect(next(stream)).rejects.toMatchObject(denied);
    expect(told).toEqual(['matched 1', 'delivered spiffe://example.org/web', 'updated', 'refused workload.no-identity', 'closed']);
  });

  it('puts on record what left, also when the caller hangs up at once', async () => {
    await serve(testEntry('/web', ['a:1']));
    const stream = api.FetchX509SVID({}, call());
    await next(stream);
    expect(told).toContain('delivered spiffe://example.org/web');
    await stream.return(undefined);
  });

  it('waits for a bundle to trust rather than send an identity without one', async () => {
    bundles.clear();
    const web = testEntry('/web', ['a:1']);
    await serve(web);
    const first = api.FetchX509SVID({}, call()).next();
    await clock.settle();
    expect(told).toEqual([]);
    bundles.set(trustDomain, bundleOf(trustDomain));
    hold(web);
    expect((await first).done).toBe(false);
  });
});

describe('WLAPI-20: without an identity', () => {
  it.each([
    ['FetchX509SVID', () => next(api.FetchX509SVID({}, call()))],
    ['FetchX509Bundles', () => next(api.FetchX509Bundles({}, call()))],
    ['FetchJWTBundles', () => next(api.FetchJWTBundles({}, call()))],
    ['FetchJWTSVID', () => api.FetchJWTSVID({ audience: ['db'], spiffe_id: '' }, call())],
  ] as const)('%s is denied', async (_name, ask) => {
    hold(testEntry('/web', ['other:1']));
    await expect(ask()).rejects.toMatchObject(denied);
    expect(told[0]).toBe('refused workload.no-identity');
  });

  it('bundles are given all the same where that is configured', async () => {
    api = build({ bundlesForAll: true });
    hold();
    expect(Object.keys((await next(api.FetchX509Bundles({}, call()))).bundles ?? {})).toEqual(['spiffe://example.org']);
  });
});

describe('T-A02: a process that is not the one that connected', () => {
  const changes = ['peer.image', 'peer.exited', 'peer.closed'] as const;

  it.each(changes)('%s: gets no first message of any method', async (change) => {
    await serve(testEntry('/web', ['a:1']));
    const token = tokenFor('spiffe://example.org/web', ['db']);
    peer.become(change);
    const asks = [
      () => next(api.FetchX509SVID({}, call())),
      () => next(api.FetchX509Bundles({}, call())),
      () => next(api.FetchJWTBundles({}, call())),
      () => api.FetchJWTSVID({ audience: ['db'], spiffe_id: '' }, call()),
      () => api.ValidateJWTSVID({ audience: 'db', svid: token }, call()),
    ];
    for (const ask of asks) await expect(ask()).rejects.toMatchObject({ kind: 'denied', reason: change });
  });

  it.each(changes)('%s: gets no further message of a stream', async (change) => {
    const web = testEntry('/web', ['a:1']);
    await serve(web);
    const stream = api.FetchX509SVID({}, call());
    await next(stream);
    peer.become(change);
    await issue(web);
    await expect(next(stream)).rejects.toMatchObject({ kind: 'denied', reason: change });
  });
});

describe('bundle streams', () => {
  it('WLAPI-22: hold the own trust domain and those federated with', async () => {
    bundles.set(other, bundleOf(other));
    await serve(testEntry('/web', ['a:1'], { federatesWith: [other] }));
    const x509 = await next(api.FetchX509Bundles({}, call()));
    const jwt = await next(api.FetchJWTBundles({}, call()));
    const both = ['spiffe://example.org', 'spiffe://other.test'];
    expect([Object.keys(x509.bundles ?? {}).toSorted(), Object.keys(jwt.bundles ?? {}).toSorted()]).toEqual([both, both]);
    expect(new X509Certificate(bytes(x509.bundles?.['spiffe://example.org'])).raw.equals(Buffer.from(authority.certificate))).toBe(true);
  });

  it('WLAPI-25: a JWT bundle is a JWK Set of JWT-SVID keys alone', async () => {
    await serve(testEntry('/web', ['a:1']));
    const { bundles: sent } = await next(api.FetchJWTBundles({}, call()));
    const { keys } = JSON.parse(bytes(sent?.['spiffe://example.org']).toString()) as { keys: { kid: string; use?: string; x5c?: unknown }[] };
    expect(keys.map(({ kid }) => kid)).toEqual(['key-of-example.org']);
    expect(keys.every(({ x5c }) => x5c === undefined)).toBe(true);
  });

  it('say nothing when what changed is an SVID', async () => {
    const web = testEntry('/web', ['a:1']);
    await serve(web);
    const stream = api.FetchX509Bundles({}, call());
    await next(stream);
    const further = stream.next();
    await issue(web);
    await clock.settle();
    bundles.set(trustDomain, bundleOf(trustDomain, 'rotated'));
    hold(web);
    await clock.settle();
    // The JWT key is not theirs to see, so that change is none either.
    expect(told.filter((line) => line === 'updated').length).toBe(1);
    further.catch(() => undefined);
  });
});

describe('FetchJWTSVID', () => {
  const claimsOf = (token: string | undefined): Record<string, unknown> =>
    JSON.parse(Buffer.from(token?.split('.')[1] ?? '', 'base64url').toString()) as Record<string, unknown>;

  it('WLAPI-23: the audience is the one asked for', async () => {
    await serve(testEntry('/web', ['a:1']));
    const { svids = [] } = await api.FetchJWTSVID({ audience: ['db', 'mail'], spiffe_id: '' }, call());
    expect(claimsOf(svids[0]?.svid)['aud']).toEqual(['db', 'mail']);
  });

  it.each([[[]], [['']], [['', '']]])('WLAPI-10, WLAPI-23: audience %j is refused', async (audience) => {
    await serve(testEntry('/web', ['a:1']));
    await expect(api.FetchJWTSVID({ audience, spiffe_id: '' }, call())).rejects.toMatchObject({ kind: 'invalid', reason: 'workload.audience' });
  });

  it('WLAPI-24: one for each identity, or the one asked for', async () => {
    await serve(testEntry('/web', ['a:1']), testEntry('/db', ['b:1'], { hint: 'db' }), testEntry('/else', ['c:1']));
    const all = await api.FetchJWTSVID({ audience: ['x'], spiffe_id: '' }, call());
    expect(all.svids?.map(({ spiffe_id }) => spiffe_id).toSorted()).toEqual(['spiffe://example.org/db', 'spiffe://example.org/web']);
    const one = await api.FetchJWTSVID({ audience: ['x'], spiffe_id: 'spiffe://example.org/db' }, call());
    expect(one.svids).toMatchObject([{ spiffe_id: 'spiffe://example.org/db', hint: 'db' }]);
    expect(claimsOf(one.svids?.[0]?.svid)['sub']).toBe('spiffe://example.org/db');
  });

  it.each([
    ['of another process', 'spiffe://example.org/else', denied],
    ['of nobody', 'spiffe://example.org/nobody', denied],
    ['that is none', 'example.org/web', { kind: 'invalid', reason: 'workload.spiffe-id' }],
  ])('WLAPI-24: an ID %s is refused', async (_name, spiffe_id, refusal) => {
    await serve(testEntry('/web', ['a:1']), testEntry('/else', ['c:1']));
    await expect(api.FetchJWTSVID({ audience: ['x'], spiffe_id }, call())).rejects.toMatchObject(refusal);
  });

  it('says that it is unavailable when it cannot be signed, whatever the server said', async () => {
    await serve(testEntry('/web', ['a:1']));
    signing = new SpiffeError('denied', 'issue.refused', 'not today');
    await expect(api.FetchJWTSVID({ audience: ['x'], spiffe_id: '' }, call())).rejects.toMatchObject({
      kind: 'unavailable',
      reason: 'workload.jwt-unavailable',
      detail: { because: 'issue.refused' },
    });
  });
});

describe('ValidateJWTSVID', () => {
  const sub = 'spiffe://example.org/web';
  beforeEach(async () => {
    bundles.set(other, bundleOf(other, `key-of-${other}`, strangePair));
    await serve(testEntry('/web', ['a:1'], { federatesWith: [other] }));
  });

  it('WLAPI-26: a right token yields its subject and claims', async () => {
    const { spiffe_id, claims } = await api.ValidateJWTSVID({ audience: 'db', svid: tokenFor(sub, ['db']) }, call());
    expect(spiffe_id).toBe(sub);
    const fields = claims?.fields as Record<string, { stringValue?: string; listValue?: { values: { stringValue: string }[] } }>;
    expect(fields['sub']?.stringValue).toBe(sub);
    expect(fields['aud']?.listValue?.values).toEqual([{ stringValue: 'db' }]);
    expect(Object.keys(fields)).toEqual(expect.arrayContaining(['sub', 'aud', 'exp', 'iat']));
  });

  it('WLAPI-27: of a foreign token only what is defined or allowed is passed on', async () => {
    const svid = tokenFor('spiffe://other.test/x', ['db'], { keyId: `key-of-${other}`, key: strangePair.privateKey });
    const { claims } = await api.ValidateJWTSVID({ audience: 'db', svid }, call());
    expect(Object.keys(claims?.fields ?? {}).toSorted()).toEqual(['aud', 'exp', 'sub']);
  });

  it.each([
    ['without an audience', () => ({ audience: '', svid: tokenFor(sub, ['db']) }), 'workload.audience'],
    ['without a token', () => ({ audience: 'db', svid: '' }), 'workload.svid'],
    ['for another audience', () => ({ audience: 'mail', svid: tokenFor(sub, ['db']) }), 'jwt-svid.audience'],
    ['signed with the key of another trust domain', () => ({ audience: 'db', svid: tokenFor(sub, ['db'], { key: strangePair.privateKey }) }), 'jwt-svid.'],
    ['of a trust domain that is not known', () => ({ audience: 'db', svid: tokenFor('spiffe://third.test/x', ['db']) }), 'jwt-svid.'],
    ['that has expired', () => ({ audience: 'db', svid: tokenFor(sub, ['db'], { ageMs: hourMs }) }), 'jwt-svid.'],
  ])('WLAPI-26: a request %s is invalid', async (_name, request, reason) => {
    const failure: unknown = await api.ValidateJWTSVID(request(), call()).catch((error: unknown) => error);
    expect(failure).toMatchObject({ kind: 'invalid' });
    expect((failure as SpiffeError).reason.startsWith(reason)).toBe(true);
  });
});

it('WLAPI-29: WIT-SVIDs are unsupported', () => {
  for (const method of ['FetchWITSVID', 'FetchWITBundles'] as const) {
    expect(() => api[method]({}, call())).toThrow(expect.objectContaining({ kind: 'unsupported', reason: 'workload.wit' }) as Error);
  }
});
