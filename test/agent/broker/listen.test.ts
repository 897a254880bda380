import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { brokerApi, type BrokerConnection } from '../../../agent/broker/api.ts';
import { listenForBrokers, type BrokerListener } from '../../../agent/broker/listen.ts';
import { parseAgentConfig } from '../../../agent/config.ts';
import { loadServices } from '../../../proto/load.ts';
import { createRpcClient, type CallOptions, type RpcClient } from '../../../runtime/rpc/call.ts';
import { rpcService } from '../../../runtime/rpc/handlers.ts';
import { secureChannel } from '../../../runtime/rpc/secure.ts';
import { checkServerIs, createTlsClient, type TlsIdentity } from '../../../runtime/tls.ts';
import { createWatch, type WatchSource } from '../../../runtime/watch.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { parseSpiffeId } from '../../../spiffe/id.ts';
import { hourMs, testAuthority, testEntry, trustDomain, type TestAuthority } from '../../help/agent-server.ts';
import { brokerHeader, referenceOf } from '../../help/broker.ts';
import { createBrokered, type Brokered } from '../../help/brokering.ts';
import { freePort } from '../../help/site.ts';

const api = loadServices('spiffe.broker.API')['spiffe.broker.API'];
const agentId = parseSpiffeId('spiffe://example.org/spire/agent/one');
const mesh = 'spiffe://example.org/mesh';

let world: Brokered;
let directory: string;
let port: number;
let identity: WatchSource<TlsIdentity>;
let listener: BrokerListener;
let stop: AbortController;
let running: Promise<unknown>;
let ready: boolean;
let refused: string[];
let clients: RpcClient[];

const identityOf = (id: string | undefined, by: TestAuthority = world.authority, trusts: readonly TestAuthority[] = [world.authority], ttlMs = hourMs): TlsIdentity => ({
  svid: id === undefined ? undefined : by.svid(id, ttlMs),
  bundles: new Map([[trustDomain, composeBundle({ ...emptyBundle(trustDomain), x509Authorities: trusts.map(({ certificate }) => ({ certificate, tainted: false })) })]]),
});

async function listen(limits = ''): Promise<void> {
  const { broker } = parseAgentConfig(`
trust_domain: example.org
broker: { socket_path: ${directory}/broker/broker.sock, listen: { port: ${String(port)} }, callers: [{ spiffe_id: '${mesh}' }], limits: { ${limits} } }`);
  if (broker === undefined) throw new Error('no broker');
  const { clock, options, tokens, subjects } = world;
  listener = await listenForBrokers({
    clock,
    config: broker,
    trustDomain,
    identity,
    services: [rpcService<typeof api, BrokerConnection>(api, brokerApi({ ...options, trustDomain, tokens, subjects, profiles: ['x509', 'jwt'], pidNamespace: 'same' }))],
    isReady: () => ready,
    onCall: () => undefined,
    refused: (caller, _method, error) => refused.push(`${String(caller)} ${error.reason}`),
  });
  running = listener.run(stop.signal).catch(() => undefined);
}

function client(who: TlsIdentity, over: 'unix' | 'tcp' = 'unix', expected = agentId): RpcClient {
  const { clock } = world;
  const watch = createWatch(who);
  const tls = createTlsClient({ identity: watch, clock, check: checkServerIs(expected, watch, clock) });
  const address = over === 'unix' ? `unix:${directory}/broker/broker.sock` : `127.0.0.1:${String(port)}`;
  const made = createRpcClient({ clock, address, security: secureChannel(tls) });
  clients.push(made);
  return made;
}
const token = (from: RpcClient, reference = 'pod:shop/cart-1', options: CallOptions = brokerHeader): Promise<unknown> =>
  from.unary(api.FetchJWTSVID, { reference: referenceOf(reference), audience: ['db'] }, options);
const stream = (from: RpcClient): AsyncIterator<unknown> => from.serverStream(api.SubscribeToX509SVID, { reference: referenceOf('pod:shop/cart-1') }, brokerHeader);

beforeEach(async () => {
  world = createBrokered();
  directory = await mkdtemp(path.join(tmpdir(), 'steeple-broker-'));
  port = await freePort();
  [ready, refused, clients, stop] = [true, [], [], new AbortController()];
  identity = createWatch(identityOf(agentId));
  await world.serve(testEntry('/web', ['a:1']));
  world.know('pod:shop/cart-1', 'a:1');
  world.know(`pid:${String(process.pid)}`, 'a:1');
});
afterEach(async () => {
  for (const one of clients) one.close();
  stop.abort(new Error('the test is over'));
  await running;
  await listener.stop();
  await rm(directory, { recursive: true, force: true });
});

describe.each(['unix', 'tcp'] as const)('over %s', (over) => {
  it('BRKEP-02, BRKEP-04: answers a broker that is on the list', async () => {
    await listen();
    expect(await token(client(identityOf(mesh), over))).toMatchObject({ svids: [{ spiffe_id: 'spiffe://example.org/web' }] });
    expect(listener.connections).toBe(1);
  });

  it('BRKEP-07: is the agent, and nobody else', async () => {
    await listen();
    await expect(token(client(identityOf(mesh), over, parseSpiffeId('spiffe://example.org/spire/agent/two')))).rejects.toMatchObject({ cause: { reason: 'tls.peer.unexpected' } });
  });

  it.each([
    ['BRKEP-09: who shows no certificate', () => identityOf(undefined), 'unauthenticated', 'broker.caller.anonymous'],
    ['BRK-15: who is not on the list', () => identityOf('spiffe://example.org/stranger'), 'denied', 'broker.caller.unknown'],
    ['BRK-15: an agent', () => identityOf(agentId), 'denied', 'broker.caller.unknown'],
  ] as const)('%s is told so', async (_who, who, kind, reason) => {
    await listen();
    await expect(token(client(who(), over))).rejects.toMatchObject({ kind, reason });
    await expect(stream(client(who(), over)).next()).rejects.toMatchObject({ kind, reason });
    expect(listener.connections).toBe(0);
    expect(world.told).toEqual([]);
  });

  it.each([
    ['of another authority', () => identityOf(mesh, testAuthority('other', () => world.clock.now()))],
    ['that has expired', () => identityOf(mesh, world.authority, [world.authority], -1_000)],
  ])('BRKEP-09: an SVID %s gets no connection', async (_which, who) => {
    await listen();
    await expect(token(client(who(), over))).rejects.toMatchObject({ kind: 'unavailable' });
    await expect.poll(() => refused.length).toBeGreaterThan(0);
    expect(listener.connections).toBe(0);
  });
});

it.each([
  ['none', {}],
  ['in capitals', { headers: { 'broker.spiffe.io': 'True' } }],
  ['of another kind', { headers: { 'workload.spiffe.io': 'true' } }],
])('BRKEP-03: a header %s is refused, on calls and on streams', async (_which, options) => {
  await listen();
  const mine = client(identityOf(mesh));
  await expect(token(mine, undefined, options)).rejects.toMatchObject({ kind: 'invalid', reason: 'broker.header' });
  await expect(mine.serverStream(api.SubscribeToX509SVID, { reference: null }, options).next()).rejects.toMatchObject({ reason: 'broker.header' });
  expect(refused).toEqual([`${mesh} broker.header`, `${mesh} broker.header`]);
});

it('BRK-06, T-25: processes can be referred to over the socket alone', async () => {
  await listen();
  const reference = `pid:${String(process.pid)}`;
  await token(client(identityOf(mesh)), reference);
  await expect(token(client(identityOf(mesh), 'tcp'), reference)).rejects.toMatchObject({ kind: 'invalid', reason: 'broker.reference.remote' });
});

it('asks to come back while nothing is known', async () => {
  await listen();
  ready = false;
  await expect(token(client(identityOf(mesh)))).rejects.toMatchObject({ kind: 'unavailable', reason: 'workload.starting' });
});

it('holds a broker to its calls, and another connection of its does not help', async () => {
  await listen('calls_per_caller: 2');
  const open = [stream(client(identityOf(mesh))), stream(client(identityOf(mesh), 'tcp'))];
  await Promise.all(open.map((one) => one.next()));
  await expect(token(client(identityOf(mesh)))).rejects.toMatchObject({ kind: 'limited', reason: 'broker.caller.calls' });
  await open[0]?.return?.();
  await expect.poll(() => token(client(identityOf(mesh))).then(() => 'answered', String)).toBe('answered');
});

describe('a connection outlives its proof', () => {
  const ended = { kind: 'unauthenticated', reason: 'broker.caller.expired' };

  it('not past the expiry of the broker’s SVID', async () => {
    await listen();
    const open = stream(client(identityOf(mesh, world.authority, [world.authority], 60_000)));
    await open.next();
    await world.clock.advance(58_000);
    expect(listener.connections).toBe(1);
    const waiting = open.next();
    waiting.catch(() => undefined);
    await world.clock.advance(4_000);
    await expect(waiting).rejects.toMatchObject(ended);
    await world.clock.advance(1_000);
    await expect.poll(() => listener.connections).toBe(0);
  });

  it('nor the trust in the authority of it', async () => {
    const next = testAuthority('next', () => world.clock.now());
    await listen();
    const [open, other] = [stream(client(identityOf(mesh))), stream(client(identityOf(mesh), 'tcp'))];
    await Promise.all([open.next(), other.next()]);
    // While both are trusted, nothing happens.
    identity.set(identityOf(agentId, next, [world.authority, next]));
    await world.clock.settle();
    expect(listener.connections).toBe(2);
    const waiting = [open.next(), other.next()];
    for (const one of waiting) one.catch(() => undefined);
    identity.set(identityOf(agentId, next, [next]));
    for (const one of waiting) await expect(one).rejects.toMatchObject(ended);
  });
});

it('serves the agent’s newest SVID to new connections', async () => {
  await listen();
  const next = testAuthority('next', () => world.clock.now());
  identity.set(identityOf(agentId, next, [world.authority, next]));
  await world.clock.settle();
  for (const over of ['unix', 'tcp'] as const) await token(client(identityOf(mesh, world.authority, [next]), over));
});

it('the socket is for the agent’s user and group', async () => {
  await listen();
  const [file, folder] = [await stat(`${directory}/broker/broker.sock`), await stat(`${directory}/broker`)];
  expect([file.mode & 0o777, folder.mode & 0o777]).toEqual([0o770, 0o750]);
});

it('is gone when it is stopped, streams and all', async () => {
  await listen();
  const open = stream(client(identityOf(mesh)));
  await open.next();
  const waiting = open.next();
  waiting.catch(() => undefined);
  stop.abort(new Error('stop'));
  await running;
  const stopped = listener.stop();
  await expect(waiting).rejects.toMatchObject({ kind: 'unavailable' });
  await world.clock.advance(1_000);
  await stopped;
  await expect(stat(`${directory}/broker/broker.sock`)).rejects.toMatchObject({ code: 'ENOENT' });
});
