import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Metadata } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Caller } from '../../../agent/workload/caller.ts';
import { healthApi } from '../../../agent/workload/health.ts';
import { checkHeader, listenForWorkloads, type WorkloadListener, type WorkloadListenOptions } from '../../../agent/workload/listen.ts';
import { loadServices } from '../../../proto/load.ts';
import { systemClock } from '../../../runtime/clock.ts';
import { createRpcClient, type RpcClient } from '../../../runtime/rpc/call.ts';
import type { CallEnd } from '../../../runtime/rpc/calls.ts';
import { rpcService, type CallContext } from '../../../runtime/rpc/handlers.ts';
import { createWatch } from '../../../runtime/watch.ts';

const services = loadServices('SpiffeWorkloadAPI', 'grpc.health.v1.Health');
const workload = services.SpiffeWorkloadAPI;
const good = { headers: { 'workload.spiffe.io': 'true' } };

let directory: string;
let ready: boolean;
let ends: CallEnd<Caller>[];
let listener: WorkloadListener | undefined;
let clients: RpcClient[];
let running: number;

/** One message, then open until the caller goes. */
async function* open<T>(message: T, call: CallContext<Caller>): AsyncGenerator<T> {
  running += 1;
  try {
    yield message;
    for await (const _ of createWatch(0).values(call.signal));
  } finally {
    running -= 1;
  }
}

const api = {
  FetchX509SVID: (_request: unknown, call: CallContext<Caller>) => open({ svids: [] }, call),
  FetchX509Bundles: (_request: unknown, call: CallContext<Caller>) => open({ bundles: {} }, call),
  FetchJWTBundles: (_request: unknown, call: CallContext<Caller>) => open({ bundles: {} }, call),
  FetchJWTSVID: async () => ({ svids: [] }),
  ValidateJWTSVID: async () => ({ spiffe_id: 'spiffe://example.org/x' }),
  FetchWITSVID: (_request: unknown, call: CallContext<Caller>) => open({ svids: [] }, call),
  FetchWITBundles: (_request: unknown, call: CallContext<Caller>) => open({ bundles: {} }, call),
};

async function listen(limits: Partial<WorkloadListenOptions['limits']> = {}): Promise<void> {
  listener = await listenForWorkloads({
    clock: systemClock,
    path: path.join(directory, 'public', 'api.sock'),
    mode: 0o777,
    backlog: 64,
    limits: { connectionsPerUid: 64, connectsPerSecondPerUid: 1_000, total: 64, callsPerUid: 64, callsPerConnection: 64, ...limits },
    services: [rpcService(workload, api as never), rpcService(services['grpc.health.v1.Health'], healthApi<Caller>(() => ready))],
    callerOf: (peer) => ({ peer, process: { pid: peer.pid, startTime: '', uid: peer.uid, gid: peer.gid, path: '' }, attested: () => Promise.reject(new Error('nobody attests here')) }),
    isReady: () => ready,
    onCall: (end) => ends.push(end),
    onEvent: () => undefined,
  });
}

function connect(): RpcClient {
  const client = createRpcClient({ clock: systemClock, address: `unix:${directory}/public/api.sock` });
  clients.push(client);
  return client;
}

const fetchJwt = (client: RpcClient, options: object = good): Promise<unknown> => client.unary(workload.FetchJWTSVID, { audience: ['x'] }, options);
const first = (client: RpcClient): Promise<unknown> => client.serverStream(workload.FetchX509SVID, {}, good).next();

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'steeple-listen-'));
  ready = true;
  ends = [];
  clients = [];
  running = 0;
});

afterEach(async () => {
  for (const client of clients) client.close();
  await listener?.stop();
  await rm(directory, { recursive: true, force: true });
});

describe('the header', () => {
  const refused = { kind: 'invalid', reason: 'workload.header', message: 'security header missing from request' };

  it.each([
    ['none', undefined, false],
    ['true', 'true', true],
    ['True', 'True', false],
    ['TRUE', 'TRUE', false],
    ['1', '1', false],
    ['false', 'false', false],
    ['two values', 'true, true', false],
    ['a value and another', 'true,false', false],
    ['nothing', '', false],
  ])('T-22, WLEP-05: %s, through the socket, for streams and single calls', async (_name, value, allowed) => {
    await listen();
    const client = connect();
    const options = value === undefined ? {} : { headers: { 'workload.spiffe.io': value } };
    // Twice on the same connection: what was right once says nothing of the next call.
    for (let round = 0; round < 2; round += 1) {
      for (const ask of [() => fetchJwt(client, options), () => client.serverStream(workload.FetchX509SVID, {}, options).next()]) {
        if (allowed) await expect(ask()).resolves.toBeDefined();
        else await expect(ask()).rejects.toMatchObject(refused);
      }
      await expect(fetchJwt(client)).resolves.toBeDefined();
    }
  });

  it.each([
    ['/SpiffeWorkloadAPI/FetchX509SVID', false],
    ['/SpiffeWorkloadAPI/Unknown', false],
    ['/another.Service/Method', false],
    ['/grpc.health.v1.Health/Check', true],
    ['/grpc.reflection.v1.ServerReflection/ServerReflectionInfo', true],
    ['/SpiffeWorkloadAPI/grpc.health.v1', false],
  ])('T-A13: %s is asked for without it', (method, allowed) => {
    const check = (): void => checkHeader({ method, metadata: new Metadata() });
    if (allowed) expect(check).not.toThrow();
    else expect(check).toThrow(expect.objectContaining(refused) as Error);
  });

  it.each([
    ['/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets', [], false],
    ['/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets', ['/envoy.service.secret.v3.'], true],
    ['/SpiffeWorkloadAPI/FetchX509SVID', ['/envoy.service.secret.v3.'], false],
    ['/SpiffeWorkloadAPI/FetchX509SVID', ['/SpiffeWorkloadAPI/'], false],
  ])('SPI-01-008: %s without it where %j may', (method, withoutHeader, allowed) => {
    const check = (): void => checkHeader({ method, metadata: new Metadata() }, withoutHeader);
    if (allowed) expect(check).not.toThrow();
    else expect(check).toThrow(expect.objectContaining(refused) as Error);
  });

  it('two values that were sent apart are not one', () => {
    const metadata = new Metadata();
    metadata.add('workload.spiffe.io', 'true');
    expect(() => checkHeader({ method: '/SpiffeWorkloadAPI/X', metadata })).not.toThrow();
    metadata.add('workload.spiffe.io', 'true');
    expect(() => checkHeader({ method: '/SpiffeWorkloadAPI/X', metadata })).toThrow(expect.objectContaining(refused) as Error);
  });
});

it('asks callers to come back while nothing is known yet, and answers health', async () => {
  ready = false;
  await listen();
  const client = connect();
  await expect(fetchJwt(client)).rejects.toMatchObject({ kind: 'unavailable', reason: 'workload.starting' });
  expect(await client.unary(services['grpc.health.v1.Health'].Check, {})).toEqual({ status: 'NOT_SERVING' });
  ready = true;
  await expect(fetchJwt(client)).resolves.toBeDefined();
});

it('T-A09: one user has so many calls over all its connections, and gets places back as they end', async () => {
  await listen({ callsPerUid: 3 });
  const [one, two] = [connect(), connect()];
  await first(one);
  await first(one);
  await first(two);
  await expect(first(two)).rejects.toMatchObject({ kind: 'unavailable', reason: 'workload.calls-per-user' });
  await expect(fetchJwt(one)).rejects.toMatchObject({ reason: 'workload.calls-per-user' });
  one.close();
  await expect.poll(() => running).toBe(1);
  await expect(first(two)).resolves.toBeDefined();
  await expect(fetchJwt(two)).resolves.toBeDefined();
});

it('what is refused takes no place', async () => {
  await listen({ callsPerUid: 1 });
  const client = connect();
  for (let i = 0; i < 5; i += 1) await expect(fetchJwt(client, {})).rejects.toMatchObject({ reason: 'workload.header' });
  await expect(fetchJwt(client)).resolves.toBeDefined();
});

it('tells of every call how it ended, and counts connections', async () => {
  await listen();
  const client = connect();
  await fetchJwt(client);
  await expect(fetchJwt(client, {})).rejects.toThrow();
  expect(ends.map(({ method, code, reason, connection }) => [method, code, reason ?? '', connection.peer.pid])).toEqual([
    ['/SpiffeWorkloadAPI/FetchJWTSVID', 0, '', process.pid],
    ['/SpiffeWorkloadAPI/FetchJWTSVID', 3, 'workload.header', process.pid],
  ]);
  expect(listener?.connections).toBe(1);
});

it('ends streams as unavailable when it stops, and gives the path up', async () => {
  await listen();
  const stream = connect().serverStream(workload.FetchX509SVID, {}, good);
  await stream.next();
  const over = stream.next().catch((error: unknown) => error);
  await listener?.stop();
  expect(await over).toMatchObject({ kind: 'unavailable' });
  expect(running).toBe(0);
  await listen();
  await expect(fetchJwt(connect())).resolves.toBeDefined();
});
