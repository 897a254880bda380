import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto';
import { Metadata } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { delegatedIdentityApi } from '../../../agent/admin/delegated-identity.ts';
import type { Attestation } from '../../../agent/workload/attest.ts';
import type { FetchJWTSVIDsResponse } from '../../../proto/gen/spire/api/agent/delegatedidentity/v1/FetchJWTSVIDsResponse.ts';
import type { SubscribeToJWTBundlesResponse } from '../../../proto/gen/spire/api/agent/delegatedidentity/v1/SubscribeToJWTBundlesResponse.ts';
import type { SubscribeToX509BundlesResponse } from '../../../proto/gen/spire/api/agent/delegatedidentity/v1/SubscribeToX509BundlesResponse.ts';
import type { SubscribeToX509SVIDsResponse } from '../../../proto/gen/spire/api/agent/delegatedidentity/v1/SubscribeToX509SVIDsResponse.ts';
import type { Peer } from '../../../runtime/peer.ts';
import type { CallContext } from '../../../runtime/rpc/handlers.ts';
import { createWatch, type WatchSource } from '../../../runtime/watch.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseSpiffeId, parseTrustDomain } from '../../../spiffe/id.ts';
import { testEntry, trustDomain } from '../../help/agent-server.ts';
import { attestationOf, createBrokered, type Brokered } from '../../help/brokering.ts';
import { fakePeer, type FakePeer } from '../../help/peer.ts';

type Call = CallContext<Peer>;
interface Asked {
  readonly selectors: readonly { readonly type: string; readonly value: string }[];
  readonly pid: number;
}
interface Methods {
  SubscribeToX509SVIDs(request: Asked, call: Call): AsyncGenerator<SubscribeToX509SVIDsResponse>;
  SubscribeToX509Bundles(request: object, call: Call): AsyncGenerator<SubscribeToX509BundlesResponse>;
  SubscribeToJWTBundles(request: object, call: Call): AsyncGenerator<SubscribeToJWTBundlesResponse>;
  FetchJWTSVIDs(request: Asked & { readonly audience: readonly string[] }, call: Call): Promise<FetchJWTSVIDsResponse>;
}

const delegate = parseSpiffeId('spiffe://example.org/delegate');
const other = parseTrustDomain('other.test');
const unauthorized = { kind: 'denied', message: 'caller not configured as an authorized delegate' };
const noIdentity = { kind: 'denied', message: 'no identity issued' };
const own = testEntry('/delegate', ['unix:uid:1000']);

let world: Brokered;
let peer: FakePeer;
let attested: WatchSource<Attestation>;
let stop: AbortController;
/** Each goes on being attested until its connection ends. */
let callers: number;
let api: Methods;

beforeEach(() => {
  world = createBrokered();
  peer = fakePeer();
  attested = createWatch(attestationOf('unix:uid:1000'));
  stop = new AbortController();
  callers = 0;
  const { options, tokens, subjects, holdings } = world;
  api = delegatedIdentityApi({
    ...options,
    tokens,
    subjects,
    holdings,
    delegates: new Set([delegate]),
    callerOf() {
      callers += 1;
      return { peer, process: { pid: 5, startTime: '1', uid: 1000, gid: 1000, path: '' }, attested: async () => attested };
    },
  }) as unknown as Methods;
});
afterEach(() => stop.abort(new SpiffeError('unavailable', 'rpc.cancelled', 'the test is over')));

const call = (): Call => ({ signal: stop.signal, connection: peer, metadata: new Metadata(), method: '/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/Any', requestId: '1', deadlineAt: undefined });
const byPid = (pid: number): Asked => ({ selectors: [], pid });
const bySelectors = (...texts: readonly (readonly [string, string])[]): Asked => ({ selectors: texts.map(([type, value]) => ({ type, value })), pid: 0 });
async function next<T>(stream: AsyncGenerator<T>): Promise<T> {
  const step = await stream.next();
  if (step.done === true) throw new Error('the stream ended');
  return step.value;
}
const paths = ({ x509_svids: svids = [] }: SubscribeToX509SVIDsResponse): (string | undefined)[] => svids.map(({ x509_svid: svid }) => svid?.id?.path);

describe('SubscribeToX509SVIDs', () => {
  it('gives SVIDs with keys of a process, one certificate each, the hint and whom it federates with', async () => {
    world.holdBundles(trustDomain, other);
    await world.serve(own, testEntry('/web', ['a:1'], { hint: 'internal', federatesWith: [other, parseTrustDomain('another.test')] }));
    world.know('pid:7', 'a:1');
    const { x509_svids: svids = [], federates_with: federated } = await next(api.SubscribeToX509SVIDs(byPid(7), call()));
    expect(svids).toMatchObject([{ x509_svid: { id: { trust_domain: 'example.org', path: '/web' }, hint: 'internal' } }]);
    expect(federated).toEqual(['spiffe://another.test', 'spiffe://other.test']);
    const [svid] = svids;
    const key = createPrivateKey({ key: Buffer.from(svid?.x509_svid_key as Uint8Array), format: 'der', type: 'pkcs8' });
    const leaf = new X509Certificate(Buffer.from(svid?.x509_svid?.cert_chain?.[0] as Uint8Array));
    expect(leaf.publicKey.equals(createPublicKey(key))).toBe(true);
    expect(world.told).toContain(`delivered spiffe://example.org/web ${delegate} pid:7`);
  });

  it('gives those of selectors, whether or not anything has them', async () => {
    await world.serve(own, testEntry('/web', ['a:1', 'b:2:3']));
    expect(paths(await next(api.SubscribeToX509SVIDs(bySelectors(['b', '2:3'], ['a', '1'], ['a', '1']), call())))).toEqual(['/web']);
  });

  it('sends an empty list where there is nothing, and what comes later', async () => {
    await world.serve(own);
    const stream = api.SubscribeToX509SVIDs(bySelectors(['a', '1']), call());
    expect(paths(await next(stream))).toEqual([]);
    await world.serve(own, testEntry('/web', ['a:1']));
    expect(paths(await next(stream))).toEqual(['/web']);
    world.hold(own);
    expect(paths(await next(stream))).toEqual([]);
  });

  it('leaves out what lets its holder ask the server for more', async () => {
    const entries = [testEntry('/web', ['a:1']), testEntry('/admin', ['a:1'], { admin: true }), testEntry('/down', ['a:1'], { downstream: true })];
    await world.serve(own, ...entries);
    expect(paths(await next(api.SubscribeToX509SVIDs(bySelectors(['a', '1']), call())))).toEqual(['/web']);
  });

  it('waits for an SVID that is being signed', async () => {
    const web = testEntry('/web', ['a:1']);
    world.hold(own, web);
    const first = next(api.SubscribeToX509SVIDs(bySelectors(['a', '1']), call()));
    await world.clock.settle();
    await world.issue(web);
    expect(paths(await first)).toEqual(['/web']);
  });

  it('ends when the process does', async () => {
    await world.serve(own, testEntry('/web', ['a:1']));
    world.know('pid:7', 'a:1');
    const stream = api.SubscribeToX509SVIDs(byPid(7), call());
    await next(stream);
    world.end('pid:7');
    await expect(next(stream)).rejects.toMatchObject({ kind: 'missing', reason: 'broker.workload.gone' });
    expect(world.open.size).toBe(0);
  });

  it.each([
    ['neither', byPid(0), 'must provide either selectors or non-zero PID, but not both'],
    ['both', { ...bySelectors(['a', '1']), pid: 7 }, 'must provide either selectors or non-zero PID, but not both'],
    ['a selector without a type', bySelectors(['', '1']), 'could not parse provided selectors'],
    ['a selector without a value', bySelectors(['a', '']), 'could not parse provided selectors'],
    ['a type with a colon', bySelectors(['a:b', '1']), 'could not parse provided selectors'],
  ])('refuses %s', async (_what, request, message) => {
    await world.serve(own);
    await expect(next(api.SubscribeToX509SVIDs(request, call()))).rejects.toMatchObject({ kind: 'invalid', message });
    expect(world.told).toEqual([expect.stringMatching(/^refused delegate\.(?:reference|selectors) $/)]);
  });

  it('refuses a process that is not there, on record', async () => {
    await world.serve(own);
    await expect(next(api.SubscribeToX509SVIDs(byPid(7), call()))).rejects.toMatchObject({ reason: 'broker.workload.none' });
    expect(world.told).toEqual(['refused broker.workload.none ']);
  });
});

describe('who may', () => {
  const methods: readonly [string, () => Promise<unknown>][] = [
    ['SubscribeToX509SVIDs', () => next(api.SubscribeToX509SVIDs(bySelectors(['a', '1']), call()))],
    ['SubscribeToX509Bundles', () => next(api.SubscribeToX509Bundles({}, call()))],
    ['SubscribeToJWTBundles', () => next(api.SubscribeToJWTBundles({}, call()))],
    ['FetchJWTSVIDs', () => api.FetchJWTSVIDs({ ...bySelectors(['a', '1']), audience: ['db'] }, call())],
  ];

  it.each(methods)('%s: nobody without an identity', async (_name, ask) => {
    await world.serve(testEntry('/web', ['a:1']));
    await expect(ask()).rejects.toMatchObject(noIdentity);
  });

  it.each(methods)('%s: nobody with another identity, which is on record', async (_name, ask) => {
    await world.serve(testEntry('/other', ['unix:uid:1000']), testEntry('/web', ['a:1']));
    await expect(ask()).rejects.toMatchObject(unauthorized);
    expect(world.told).toEqual(['refused delegate.unauthorized undefined']);
  });

  it.each(methods)('%s: no process that is not the one that connected', async (_name, ask) => {
    await world.serve(own, testEntry('/web', ['a:1']));
    peer.become('peer.image');
    await expect(ask()).rejects.toMatchObject({ kind: 'denied', reason: 'peer.image' });
  });

  it('is asked anew: a stream ends with the delegate’s entry', async () => {
    const web = testEntry('/web', ['a:1']);
    await world.serve(own, web);
    const [svids, bundles] = [api.SubscribeToX509SVIDs(bySelectors(['a', '1']), call()), api.SubscribeToX509Bundles({}, call())];
    await next(svids);
    await next(bundles);
    const waiting = [next(svids), next(bundles)];
    world.hold(web, testEntry('/other', ['unix:uid:1000']));
    for (const one of waiting) await expect(one).rejects.toMatchObject(unauthorized);
    expect(world.open.size).toBe(0);
  });

  it('is attested once for all calls of a connection', async () => {
    await world.serve(own, testEntry('/web', ['a:1']));
    for (let calls = 0; calls < 3; calls += 1) await api.FetchJWTSVIDs({ ...bySelectors(['a', '1']), audience: ['db'] }, call());
    expect(callers).toBe(1);
    peer = fakePeer();
    await api.FetchJWTSVIDs({ ...bySelectors(['a', '1']), audience: ['db'] }, call());
    expect(callers).toBe(2);
  });

  it('and with what is attested of it', async () => {
    await world.serve(own, testEntry('/web', ['a:1']));
    const stream = api.SubscribeToX509SVIDs(bySelectors(['a', '1']), call());
    await next(stream);
    const waiting = next(stream);
    attested.set(attestationOf('unix:uid:1001'));
    await expect(waiting).rejects.toMatchObject(noIdentity);
  });
});

describe('bundles', () => {
  it('are all that the agent knows, and stay in a stream that had them', async () => {
    world.holdBundles(trustDomain, other);
    await world.serve(own);
    const stream = api.SubscribeToX509Bundles({}, call());
    const keysOf = async (): Promise<string[]> => Object.keys((await next(stream)).ca_certificates ?? {}).toSorted();
    expect(await keysOf()).toEqual(['spiffe://example.org', 'spiffe://other.test']);
    world.holdBundles(trustDomain, parseTrustDomain('third.test'));
    expect(await keysOf()).toEqual(['spiffe://example.org', 'spiffe://other.test', 'spiffe://third.test']);
    const jwt = await next(api.SubscribeToJWTBundles({}, call()));
    expect(Object.keys(jwt.bundles ?? {}).toSorted()).toEqual(['spiffe://example.org', 'spiffe://third.test']);
  });
});

describe('FetchJWTSVIDs', () => {
  it('gives one for each identity, each on record', async () => {
    await world.serve(own, testEntry('/web', ['a:1'], { hint: 'x' }), testEntry('/admin', ['a:1'], { admin: true }));
    world.know('pid:7', 'a:1');
    const { svids } = await api.FetchJWTSVIDs({ ...byPid(7), audience: ['db'] }, call());
    expect(svids).toMatchObject([{ token: 'spiffe://example.org/web for db', id: { trust_domain: 'example.org', path: '/web' }, hint: 'x' }]);
    expect(Number(svids?.[0]?.expires_at) - Number(svids?.[0]?.issued_at)).toBe(60);
    expect(world.told).toEqual([`token spiffe://example.org/web ${delegate} pid:7`]);
  });

  it.each([
    ['no audience', { ...bySelectors(['a', '1']), audience: [] }, { kind: 'invalid', message: 'audience must be specified' }],
    ['nobody', { ...bySelectors(['z', '1']), audience: ['db'] }, noIdentity],
    ['only privileged ones', { ...bySelectors(['b', '1']), audience: ['db'] }, noIdentity],
  ])('refuses %s', async (_what, request, expected) => {
    await world.serve(own, testEntry('/web', ['a:1']), testEntry('/admin', ['b:1'], { admin: true }));
    await expect(api.FetchJWTSVIDs(request, call())).rejects.toMatchObject(expected);
  });

  it('says that none can be signed', async () => {
    await world.serve(own, testEntry('/web', ['a:1']));
    world.signing = new SpiffeError('unavailable', 'rpc.deadline', 'away');
    await expect(api.FetchJWTSVIDs({ ...bySelectors(['a', '1']), audience: ['db'] }, call())).rejects.toMatchObject({ kind: 'unavailable', message: 'could not fetch JWT-SVID: away' });
  });
});
