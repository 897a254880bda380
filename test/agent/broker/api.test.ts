import { Metadata } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { brokerApi, type BrokerApiOptions, type BrokerConnection } from '../../../agent/broker/api.ts';
import { createCallers } from '../../../agent/broker/callers.ts';
import type { BrokerCallerConfig } from '../../../agent/broker/config.ts';
import type { FetchJWTSVIDResponse } from '../../../proto/gen/spiffe/broker/FetchJWTSVIDResponse.ts';
import type { SubscribeToX509BundlesResponse } from '../../../proto/gen/spiffe/broker/SubscribeToX509BundlesResponse.ts';
import type { SubscribeToX509SVIDResponse } from '../../../proto/gen/spiffe/broker/SubscribeToX509SVIDResponse.ts';
import type { WorkloadReference } from '../../../proto/gen/spiffe/broker/WorkloadReference.ts';
import { abortReason } from '../../../runtime/abort.ts';
import type { Peer } from '../../../runtime/peer.ts';
import type { CallContext } from '../../../runtime/rpc/handlers.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseSpiffeId, parseTrustDomain } from '../../../spiffe/id.ts';
import { testEntry, trustDomain } from '../../help/agent-server.ts';
import { referenceOf } from '../../help/broker.ts';
import { createBrokered, type Brokered } from '../../help/brokering.ts';
import { peerOfProcess, type HeldPeer } from '../../help/peer.ts';

type Call = CallContext<BrokerConnection>;
interface Request {
  readonly reference: WorkloadReference | null;
}
interface Methods {
  SubscribeToX509SVID(request: Request, call: Call): AsyncGenerator<SubscribeToX509SVIDResponse>;
  SubscribeToX509Bundles(request: Request, call: Call): AsyncGenerator<SubscribeToX509BundlesResponse>;
  SubscribeToJWTBundles(request: Request, call: Call): AsyncGenerator<SubscribeToX509BundlesResponse>;
  FetchJWTSVID(request: Request & { readonly audience: readonly string[]; readonly spiffe_id: string }, call: Call): Promise<FetchJWTSVIDResponse>;
}

const mesh = parseSpiffeId('spiffe://example.org/mesh');
const other = parseTrustDomain('other.test');
const gone = { kind: 'missing', reason: 'broker.workload.gone' };
const noIdentity = { kind: 'denied', reason: 'workload.no-identity' };

let world: Brokered;
let self: HeldPeer;
let stop: AbortController;
let api: Methods;

function build(more: Partial<BrokerApiOptions> = {}): Methods {
  const { options, tokens, subjects } = world;
  return brokerApi({ ...options, trustDomain, tokens, subjects, profiles: ['x509', 'jwt'], pidNamespace: 'same', ...more }) as unknown as Methods;
}
function call(peer: Peer | undefined = self.peer, more: Partial<BrokerCallerConfig> = {}): Call {
  const caller = createCallers([{ spiffe_id: mesh, references: ['pid', 'kubernetes'], ...more }], trustDomain)(mesh);
  return { signal: stop.signal, connection: { caller, peer }, metadata: new Metadata(), method: '/spiffe.broker.API/Any', requestId: '1', deadlineAt: undefined };
}
const asking = (text: string): Request => ({ reference: referenceOf(text) });
const tokenFor = (text: string, more: { readonly audience?: readonly string[]; readonly spiffe_id?: string } = {}) => ({ ...asking(text), audience: ['db'], spiffe_id: '', ...more });

async function next<T>(stream: AsyncGenerator<T>): Promise<T> {
  const step = await stream.next();
  if (step.done === true) throw new Error('the stream ended');
  return step.value;
}
const ids = ({ svids = [] }: { readonly svids?: readonly { readonly spiffe_id?: string }[] }): (string | undefined)[] => svids.map(({ spiffe_id: id }) => id);

beforeEach(() => {
  world = createBrokered();
  self = peerOfProcess(process.pid);
  stop = new AbortController();
  api = build();
});
afterEach(() => {
  stop.abort(new SpiffeError('unavailable', 'rpc.cancelled', 'the test is over'));
  self.close();
});

describe('SubscribeToX509SVID', () => {
  it.each(['pid:7', 'pod:shop/cart-1'])('BRK-19: the first message for %s comes without time moving, and is complete', async (reference) => {
    const [web, db] = [testEntry('/web', ['a:1']), testEntry('/db', ['a:1'])];
    await world.serve(web, db);
    world.know(reference, 'a:1', 'b:1');
    const stream = api.SubscribeToX509SVID(asking(reference), call());
    const { svids = [] } = await next(stream);
    expect(new Set(svids.map(({ spiffe_id: id }) => id))).toEqual(new Set([web.spiffeId, db.spiffeId]));
    for (const svid of svids) for (const field of [svid.x509_svid, svid.x509_svid_key, svid.bundle]) expect(field?.length).toBeGreaterThan(0);
    world.hold(db);
    expect(ids(await next(stream))).toEqual([db.spiffeId]);
    await stream.return(undefined);
    expect(world.open.size).toBe(0);
  });

  it('BRK-20, BRK-28: federated bundles are those of this workload alone', async () => {
    world.holdBundles(trustDomain, other, parseTrustDomain('third.test'));
    await world.serve(testEntry('/web', ['a:1'], { federatesWith: [other] }));
    world.know('pid:7', 'a:1');
    const { federated_bundles: bundles } = await next(api.SubscribeToX509SVID(asking('pid:7'), call()));
    expect(Object.keys(bundles ?? {})).toEqual(['spiffe://other.test']);
  });

  it('every delivery is on record with who asked for whom', async () => {
    const web = testEntry('/web', ['a:1']);
    await world.serve(web);
    world.know('pid:7', 'a:1');
    const stream = api.SubscribeToX509SVID(asking('pid:7'), call());
    await next(stream);
    await world.issue(web);
    await next(stream);
    world.hold();
    await expect(next(stream)).rejects.toMatchObject(noIdentity);
    expect(world.told).toEqual([
      'matched 1 pid:7',
      `delivered ${web.spiffeId} ${mesh} pid:7`,
      `rotated ${web.spiffeId} ${mesh} pid:7`,
      'refused workload.no-identity pid:7',
      'closed pid:7',
    ]);
  });

  it('BRK-24: a workload that exists and is entitled to nothing', async () => {
    world.know('pid:7', 'a:1');
    await expect(next(api.SubscribeToX509SVID(asking('pid:7'), call()))).rejects.toMatchObject(noIdentity);
    expect(world.open.size).toBe(0);
  });

  it('BRK-26: ends when the workload does, and with its end only', async () => {
    await world.serve(testEntry('/web', ['a:1']), testEntry('/db', ['b:1']));
    world.know('pid:7', 'a:1');
    world.know('pid:8', 'b:1');
    const [seven, eight] = [api.SubscribeToX509SVID(asking('pid:7'), call()), api.SubscribeToX509SVID(asking('pid:8'), call())];
    await next(seven);
    await next(eight);
    const waiting = next(seven);
    world.end('pid:7');
    await expect(waiting).rejects.toMatchObject(gone);
    expect([...world.open]).toEqual(['pid:8']);
    world.hold();
    await expect(next(eight)).rejects.toMatchObject(noIdentity);
  });

  it('BRK-26: sends nothing to one that has ended unseen', async () => {
    const web = testEntry('/web', ['a:1']);
    await world.serve(web);
    world.know('pid:7', 'a:1');
    const stream = api.SubscribeToX509SVID(asking('pid:7'), call());
    await next(stream);
    world.end('pid:7', 'unseen');
    await world.issue(web);
    await expect(next(stream)).rejects.toMatchObject(gone);
    expect(world.told.filter((line) => line.startsWith('rotated'))).toEqual([]);
  });

  it('BRK-16: a broker that is held to identities sees no others, and none by their going', async () => {
    const [web, db] = [testEntry('/web', ['a:1']), testEntry('/db', ['a:1'])];
    await world.serve(web, db);
    world.know('pid:7', 'a:1');
    const narrowed = api.SubscribeToX509SVID(asking('pid:7'), call(self.peer, { spiffe_ids: [web.spiffeId] }));
    expect(ids(await next(narrowed))).toEqual([web.spiffeId]);
    world.hold(db);
    await expect(next(narrowed)).rejects.toMatchObject({ kind: 'denied', reason: 'broker.caller.identity' });
  });

  it('T-25: processes are for the same node, and the same numbers', async () => {
    await world.serve(testEntry('/web', ['a:1']));
    world.know('pid:7', 'a:1');
    const overTcp = { ...call(), connection: { ...call().connection, peer: undefined } };
    await expect(next(api.SubscribeToX509SVID(asking('pid:7'), overTcp))).rejects.toMatchObject({ kind: 'invalid', reason: 'broker.reference.remote' });
    // Whose numbers cannot be told.
    const gonePeer = peerOfProcess(process.pid);
    gonePeer.close();
    await expect(next(api.SubscribeToX509SVID(asking('pid:7'), call(gonePeer.peer)))).rejects.toMatchObject({ kind: 'invalid', reason: 'broker.reference.pid-namespace' });
    expect(ids(await next(build({ pidNamespace: 'any' }).SubscribeToX509SVID(asking('pid:7'), call(gonePeer.peer))))).toEqual(['spiffe://example.org/web']);
    expect(world.told.slice(0, 2)).toEqual(['refused broker.reference.remote ', 'refused broker.reference.pid-namespace ']);
  });

  it('says why a call is over that was broken off', async () => {
    await world.serve(testEntry('/web', ['a:1']));
    world.know('pid:7', 'a:1');
    const stream = api.SubscribeToX509SVID(asking('pid:7'), call());
    await next(stream);
    const waiting = next(stream);
    stop.abort(new SpiffeError('unavailable', 'rpc.cancelled', 'call has ended'));
    await expect(waiting).rejects.toBe(abortReason(stop.signal));
    expect(world.told.filter((line) => line.startsWith('refused'))).toEqual([]);
    expect(world.open.size).toBe(0);
  });
});

describe('bundles', () => {
  it('BRK-28: are the own and those the workload federates with, of either kind', async () => {
    world.holdBundles(trustDomain, other, parseTrustDomain('third.test'));
    await world.serve(testEntry('/web', ['a:1'], { federatesWith: [other] }));
    world.know('pid:7', 'a:1');
    const expected = ['spiffe://example.org', 'spiffe://other.test'];
    const x509 = await next(api.SubscribeToX509Bundles(asking('pid:7'), call()));
    const jwt = await next(api.SubscribeToJWTBundles(asking('pid:7'), call()));
    expect([x509, jwt].map(({ bundles }) => Object.keys(bundles ?? {}))).toEqual([expected, expected]);
    const document = JSON.parse(String(jwt.bundles?.['spiffe://example.org'])) as { readonly keys: readonly { readonly kid?: string }[] };
    expect(document.keys.map(({ kid }) => kid)).toEqual(['key-of-example.org']);
  });

  it('BRK-24: are for workloads with an identity', async () => {
    world.know('pid:7', 'a:1');
    await expect(next(api.SubscribeToX509Bundles(asking('pid:7'), call()))).rejects.toMatchObject(noIdentity);
    await expect(next(api.SubscribeToJWTBundles(asking('pid:7'), call()))).rejects.toMatchObject(noIdentity);
  });
});

describe('FetchJWTSVID', () => {
  beforeEach(async () => {
    await world.serve(testEntry('/web', ['a:1'], { hint: 'one' }), testEntry('/db', ['a:1']));
    world.know('pid:7', 'a:1');
  });

  it('BRK-29: gives one for each identity, each on record', async () => {
    const { svids = [] } = await api.FetchJWTSVID(tokenFor('pid:7', { audience: ['db', ''] }), call());
    expect(svids.map(({ svid }) => String(svid)).toSorted()).toEqual(['spiffe://example.org/db for db', 'spiffe://example.org/web for db']);
    expect(svids.find(({ spiffe_id: id }) => id === 'spiffe://example.org/web')?.hint).toBe('one');
    expect(world.told.filter((line) => line.startsWith('token')).toSorted()).toEqual(['db', 'web'].map((name) => `token spiffe://example.org/${name} ${mesh} pid:7`));
    expect(world.open.size).toBe(0);
  });

  it('BRK-29: or for the one that is asked for', async () => {
    expect(ids(await api.FetchJWTSVID(tokenFor('pid:7', { spiffe_id: 'spiffe://example.org/db' }), call()))).toEqual(['spiffe://example.org/db']);
  });

  it.each([
    ['BRK-21: no audience', tokenFor('pid:7', { audience: [] }), 'invalid', 'workload.audience'],
    ['BRK-21: an empty audience', tokenFor('pid:7', { audience: [''] }), 'invalid', 'workload.audience'],
    ['an ID that is none', tokenFor('pid:7', { spiffe_id: 'web' }), 'invalid', 'workload.spiffe-id'],
    ['BRK-24: another’s ID', tokenFor('pid:7', { spiffe_id: 'spiffe://example.org/mesh' }), 'denied', 'workload.no-identity'],
    ['BRK-23: nobody', tokenFor('pid:8'), 'missing', 'broker.workload.none'],
    ['BRK-16: an audience that is not for the broker', tokenFor('pid:7', { audience: ['db', 'bank'] }), 'denied', 'broker.caller.audience'],
  ])('%s is refused, on record', async (_what, request, kind, reason) => {
    await expect(api.FetchJWTSVID(request, call(self.peer, { audiences: ['db', 'web'] }))).rejects.toMatchObject({ kind, reason });
    expect(world.told.map((line) => line.split(' ', 2).join(' '))).toEqual([`refused ${reason}`]);
    expect(world.open.size).toBe(0);
  });

  it('BRK-26: gives nothing for one that ended while it was signed', async () => {
    const { subjects, tokens } = world;
    const ending: Methods = build({
      subjects,
      tokens: {
        async fetch(request, signal) {
          world.end('pid:7', 'unseen');
          return tokens.fetch(request, signal);
        },
      },
    });
    await expect(ending.FetchJWTSVID(tokenFor('pid:7'), call())).rejects.toMatchObject(gone);
    expect(world.told.filter((line) => line.startsWith('token'))).toEqual([]);
  });
});

it.each([
  ['x509', ['SubscribeToJWTBundles', 'FetchJWTSVID']],
  ['jwt', ['SubscribeToX509SVID', 'SubscribeToX509Bundles']],
] as const)('BRK-01: with %s alone the other profile is not there', async (profile, off) => {
  await world.serve(testEntry('/web', ['a:1']));
  world.know('pid:7', 'a:1');
  const narrow = build({ profiles: [profile] });
  for (const method of off) {
    const ask = async (): Promise<unknown> => {
      const answer = narrow[method](tokenFor('pid:7'), call());
      return 'next' in answer ? answer.next() : answer;
    };
    await expect(ask()).rejects.toMatchObject({ kind: 'unsupported', reason: 'broker.profile' });
    expect(world.told.splice(0)).toEqual(['refused broker.profile ']);
  }
});
