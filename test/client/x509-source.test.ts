import { once } from 'node:events';
import { createServer as createTcpServer, type AddressInfo } from 'node:net';
import type { Server, TLSSocket } from 'node:tls';
import { connect as connectTls } from 'node:tls';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type Authorize, connectTls as connectWithTls, createTlsServer, pickHint, type SpiffeId, WorkloadApi, X509Source } from '../../client/index.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { testAuthority } from '../help/agent-server.ts';
import { createTestClock } from '../help/clock.ts';
import { granted, grantedSvid, type ScriptedApi, startWorkloadApi } from '../help/workload-api.ts';

const home = testAuthority('home');
const impostor = testAuthority('home');
const alpha = 'spiffe://example.org/alpha';
const beta = 'spiffe://example.org/beta';

const ends: (() => unknown)[] = [];
let alphaAgent: ScriptedApi;
let betaAgent: ScriptedApi;

beforeEach(async () => {
  [alphaAgent, betaAgent] = await Promise.all([startWorkloadApi(), startWorkloadApi()]);
  ends.push(() => alphaAgent[Symbol.asyncDispose](), () => betaAgent[Symbol.asyncDispose]());
  alphaAgent.x509(granted(home, alpha));
  betaAgent.x509(granted(home, beta));
});

afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

async function open(agent: ScriptedApi, options: Partial<Parameters<typeof X509Source.open>[0]> = {}): Promise<X509Source> {
  const api = new WorkloadApi({ address: agent.address });
  const source = await X509Source.open({ api, ...options });
  ends.push(() => api.close(), () => source.close());
  return source;
}

interface Serving {
  readonly port: number;
  readonly server: Server;
  readonly refused: SpiffeError[];
  readonly peers: SpiffeId[];
}

async function serve(source: X509Source, authorize: Authorize = () => true): Promise<Serving> {
  const refused: SpiffeError[] = [];
  const peers: SpiffeId[] = [];
  const server = createTlsServer(source, { authorize, refused: (error) => void refused.push(error) }, (socket, peer) => {
    socket.on('error', () => undefined);
    if (peer !== undefined) peers.push(peer.spiffeId);
    socket.on('data', (data: Buffer) => socket.write(`echo ${data.toString()}`));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  ends.push(() => server.close());
  return { port: (server.address() as AddressInfo).port, server, refused, peers };
}

async function connect(source: X509Source, port: number, authorize: Authorize = () => true): Promise<TLSSocket> {
  const socket = await connectWithTls(source, { host: '127.0.0.1', port, authorize });
  socket.on('error', () => undefined);
  ends.push(() => socket.destroy());
  return socket;
}

async function ask(socket: TLSSocket): Promise<string> {
  const answer = once(socket, 'data');
  const closed = once(socket, 'close').then(() => ['closed']);
  socket.write('hi');
  return String((await Promise.race([answer, closed]))[0]);
}

const serialOf = (socket: TLSSocket): string => socket.getPeerCertificate().serialNumber.toLowerCase().replace(/^0+/, '');
const waitFor = async (done: () => boolean): Promise<void> => {
  for (let turn = 0; !done(); turn += 1) {
    if (turn > 20_000) throw new Error('it did not come');
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
  }
};

describe('a source', () => {
  it('is ready when open resolves', async () => {
    const source = await open(alphaAgent);
    expect(source.svid.spiffeId).toBe(alpha);
    expect(source.x509BundleFor('example.org' as never)).toEqual([home.certificate]);
    expect(source.x509BundleFor('other.test' as never)).toBeUndefined();
    expect(source.context.value.svids).toHaveLength(1);
  });

  it('WLAPI-32: presents the first identity, or the one that is picked', async () => {
    betaAgent.x509({ svids: [grantedSvid(home, alpha), grantedSvid(home, beta, { hint: 'b' })] });
    expect((await open(betaAgent)).svid.spiffeId).toBe(alpha);
    const picking = await open(betaAgent, { pick: (svids) => svids.find(({ hint }) => hint === 'b') ?? missing() });
    expect(picking.svid.spiffeId).toBe(beta);
    const { peers, port } = await serve(await open(alphaAgent));
    expect(await ask(await connect(picking, port))).toBe('echo hi');
    expect(peers).toEqual([beta]);
  });

  it('WLAPI-33: refuses an update without the identity to be picked, and keeps the last good one', async () => {
    betaAgent.x509({ svids: [grantedSvid(home, beta, { hint: 'b' })] });
    const source = await open(betaAgent, { pick: (svids) => svids.find(({ hint }) => hint === 'b') ?? missing() });
    betaAgent.x509(granted(home, alpha));
    betaAgent.x509({ svids: [grantedSvid(home, alpha), grantedSvid(home, 'spiffe://example.org/b2', { hint: 'b' })] });
    await waitFor(() => source.svid.spiffeId !== beta);
    expect(source.svid.spiffeId).toBe('spiffe://example.org/b2');
  });

  it('WLAPI-21: lets go of what the agent denied for long enough, and takes it up again', async () => {
    const api = new WorkloadApi({ address: alphaAgent.address, backoff: { firstMs: 5, factor: 1, longestMs: 5, jitter: 0 } });
    ends.push(() => api.close());
    const source = await X509Source.open({ api, withdrawAfterMs: 40 });
    ends.push(() => source.close());
    const svid = source.svid;
    alphaAgent.x509(new SpiffeError('denied', 'workload.no-identity', 'no identity issued'));
    const started = performance.now();
    await waitFor(() => (alphaAgent.calls.get('FetchX509SVID') ?? 0) >= 3);
    // The first denials take nothing away.
    if (performance.now() - started < 40) expect(source.svid).toBe(svid);
    await waitFor(() => source.identity.value.svid === undefined);
    expect(performance.now() - started).toBeGreaterThanOrEqual(39);
    expect(() => source.svid).toThrow(expect.objectContaining({ kind: 'denied', reason: 'source.withdrawn' }));
    expect(source.x509BundleFor('example.org' as never)).toBeUndefined();
    expect(source.context.value.svids).toEqual([]);
    alphaAgent.x509(granted(home, alpha));
    await waitFor(() => source.identity.value.svid !== undefined);
    expect(source.svid.spiffeId).toBe(alpha);
  });

  it('WLAPI-21: its TLS ends neither present nor believe what was taken back', async () => {
    const api = new WorkloadApi({ address: alphaAgent.address, backoff: { firstMs: 5, factor: 1, longestMs: 5, jitter: 0 } });
    ends.push(() => api.close());
    const withdrawn = await X509Source.open({ api, withdrawAfterMs: 0 });
    ends.push(() => withdrawn.close());
    const other = await open(betaAgent);
    const [served, calling] = await Promise.all([serve(withdrawn), serve(other)]);
    expect(await ask(await connect(other, served.port))).toBe('echo hi');
    alphaAgent.x509(new SpiffeError('denied', 'workload.no-identity', 'no identity issued'));
    await waitFor(() => withdrawn.identity.value.svid === undefined);
    await expect(connect(other, served.port)).rejects.toMatchObject({ kind: 'unavailable', reason: 'tls.handshake' });
    await expect(connect(withdrawn, calling.port)).rejects.toMatchObject({ reason: 'x509.path.unknown-trust-domain' });
    alphaAgent.x509(granted(home, alpha));
    await waitFor(() => withdrawn.identity.value.svid !== undefined);
    expect(await ask(await connect(other, served.port))).toBe('echo hi');
    expect(await ask(await connect(withdrawn, calling.port))).toBe('echo hi');
    expect(calling.peers).toEqual([alpha]);
  });

  it('keeps what it has while the agent is merely away or troubled, however long', async () => {
    const clock = createTestClock();
    const api = new WorkloadApi({ address: alphaAgent.address, clock, random: () => 0.5 });
    ends.push(() => api.close());
    const source = await X509Source.open({ api, clock });
    ends.push(() => source.close());
    const svid = source.svid;
    alphaAgent.x509(new SpiffeError('unavailable', 'workload.starting', 'starting'));
    await clock.runUntil(() => (alphaAgent.calls.get('FetchX509SVID') ?? 0) >= 12);
    expect(clock.monotonic()).toBeGreaterThan(60_000);
    expect(source.svid).toBe(svid);
  });

  it('WLAPI-33: says what was missing when it gives up waiting for the identity to be picked', async () => {
    await expect(open(alphaAgent, { pick: pickHint('nobody'), signal: AbortSignal.timeout(60) })).rejects.toMatchObject({
      reason: 'source.aborted',
      cause: { kind: 'missing', reason: 'source.pick' },
    });
  });

  it('gives nothing once it is closed', async () => {
    const source = await open(alphaAgent);
    await source.close();
    expect(() => source.svid).toThrow(expect.objectContaining({ reason: 'source.closed' }));
    expect(() => source.x509BundleFor('example.org' as never)).toThrow(expect.objectContaining({ reason: 'source.closed' }));
  });

  it('opens only once there is something, and gives up with its signal', async () => {
    alphaAgent.x509(new SpiffeError('denied', 'workload.no-identity', 'no identity issued'));
    const wait = new AbortController();
    const opening = open(alphaAgent, { signal: wait.signal });
    await waitFor(() => alphaAgent.calls.get('FetchX509SVID') === 1);
    wait.abort();
    await expect(opening).rejects.toMatchObject({ kind: 'unavailable', reason: 'source.aborted' });
    const later = open(alphaAgent);
    alphaAgent.x509(granted(home, alpha));
    expect((await later).svid.spiffeId).toBe(alpha);
  });

  it('follows updates, and keeps the last good one when the agent is away or hostile', async () => {
    const clock = createTestClock();
    const api = new WorkloadApi({ address: alphaAgent.address, clock });
    ends.push(() => api.close());
    const source = await open(alphaAgent, { api });
    const first = source.svid.serial;
    alphaAgent.x509({ svids: [] });
    alphaAgent.drop();
    await clock.runUntil(() => clock.sleepers === 1);
    expect(source.svid.serial).toBe(first);
    alphaAgent.x509(granted(home, alpha));
    await clock.runUntil(() => source.svid.serial !== first);
    expect(source.context.value.svids[0]?.serial).toBe(source.svid.serial);
  });

  it('tells its watchers why nothing newer comes', async () => {
    const source = await open(alphaAgent);
    alphaAgent.x509(new SpiffeError('unsupported', 'workload.off', 'not served'));
    const read = async (): Promise<void> => {
      for await (const _ of source.context.values(new AbortController().signal)) continue;
    };
    await expect(read()).rejects.toMatchObject({ reason: 'workload.off' });
    expect(source.svid.spiffeId).toBe(alpha);
  });

  it('closes twice without harm, and leaves an API that is not its own', async () => {
    const api = new WorkloadApi({ address: alphaAgent.address });
    ends.push(() => api.close());
    const source = await X509Source.open({ api });
    await source.close();
    await source.close();
    expect((await api.fetchX509Context()).svids).toHaveLength(1);
  });
});

describe('mutual TLS', () => {
  it('proves each to the other', async () => {
    const [client, server] = await Promise.all([open(alphaAgent), open(betaAgent)]);
    const { port, peers, refused } = await serve(server, (peer) => peer === alpha);
    const asked: SpiffeId[] = [];
    const socket = await connect(client, port, (peer) => asked.push(peer) > 0);
    expect(await ask(socket)).toBe('echo hi');
    expect([asked, peers, refused]).toEqual([[beta], [alpha], []]);
  });

  it.each<readonly [string, Authorize]>([
    ['returns false', () => false],
    ['forgets to return', (() => undefined) as unknown as Authorize],
    ['is asynchronous', (() => Promise.resolve(true)) as unknown as Authorize],
    ['throws', () => { throw new Error('not you'); }],
  ])('client: leaves a server that its authorize refuses (%s)', async (_how, authorize) => {
    const [client, server] = await Promise.all([open(alphaAgent), open(betaAgent)]);
    const { port, peers } = await serve(server);
    await expect(connect(client, port, authorize)).rejects.toThrow();
    expect(peers).toEqual([]);
  });

  it('client: names the reason of a refusal', async () => {
    const [client, server] = await Promise.all([open(alphaAgent), open(betaAgent)]);
    const { port } = await serve(server);
    await expect(connect(client, port, () => false)).rejects.toMatchObject({ kind: 'denied', reason: 'source.peer.refused' });
    const own = new SpiffeError('denied', 'test.own', 'a reason of its own');
    await expect(connect(client, port, () => { throw own; })).rejects.toMatchObject({ reason: 'test.own' });
  });

  it('server: refuses a wrong identity and says why', async () => {
    const [client, server] = await Promise.all([open(alphaAgent), open(betaAgent)]);
    const { port, peers, refused } = await serve(server, (peer) => peer === beta);
    expect(await ask(await connect(client, port))).toBe('closed');
    await waitFor(() => refused.length === 1);
    expect(refused[0]).toMatchObject({ kind: 'denied', reason: 'source.peer.refused' });
    expect(peers).toEqual([]);
  });

  it('server: refuses a client without an SVID', async () => {
    const { port, peers, refused } = await serve(await open(betaAgent));
    const socket = connectTls({ host: '127.0.0.1', port, rejectUnauthorized: false });
    socket.on('error', () => undefined);
    await once(socket, 'close');
    await waitFor(() => refused.length === 1);
    expect(refused[0]).toMatchObject({ kind: 'unauthenticated' });
    expect(peers).toEqual([]);
  });

  it('X509-28: refuses an SVID of its trust domain that another authority signed, on both ends', async () => {
    const [client, server] = await Promise.all([open(alphaAgent), open(betaAgent)]);
    const before = client.svid.serial;
    alphaAgent.x509({ svids: [grantedSvid(impostor, alpha, { bundle: home.certificate })] });
    await waitFor(() => client.svid.serial !== before);
    const { port, refused } = await serve(server);
    expect(await ask(await connect(client, port)).catch(() => 'refused')).not.toBe('echo hi');
    await waitFor(() => refused.length === 1);
    expect(refused[0]?.kind).toMatch(/^(invalid|unauthenticated)$/);
    const there = await serve(client);
    await expect(connect(server, there.port)).rejects.toSatisfy((error: SpiffeError) => ['invalid', 'unauthenticated'].includes(error.kind));
  });

  it('WLAPI-15: refuses a trust domain without a bundle', async () => {
    const foreign = testAuthority('foreign');
    betaAgent.x509({ svids: [grantedSvid(foreign, 'spiffe://other.test/x', { bundle: foreign.certificate })] });
    const [client, server] = await Promise.all([open(alphaAgent), open(betaAgent)]);
    const { port, refused } = await serve(server);
    await expect(connect(client, port)).rejects.toSatisfy((error: SpiffeError) => ['invalid', 'unauthenticated'].includes(error.kind));
    expect(refused.every(({ kind }) => kind !== 'internal')).toBe(true);
  });

  it('accepts a federated trust domain by its own bundle', async () => {
    const foreign = testAuthority('foreign');
    betaAgent.x509({
      svids: [grantedSvid(foreign, 'spiffe://other.test/x', { bundle: foreign.certificate })],
      federated_bundles: { 'spiffe://example.org': home.certificate },
    });
    alphaAgent.x509({ ...granted(home, alpha), federated_bundles: { 'spiffe://other.test': foreign.certificate } });
    const [client, server] = await Promise.all([open(alphaAgent), open(betaAgent)]);
    const { port, peers } = await serve(server);
    expect(await ask(await connect(client, port, (peer) => peer === 'spiffe://other.test/x'))).toBe('echo hi');
    expect(peers).toEqual([alpha]);
  });

  it('follows rotation on both ends for new connections, and leaves open ones alone', async () => {
    const [client, server] = await Promise.all([open(alphaAgent), open(betaAgent)]);
    const { port } = await serve(server);
    const before = await connect(client, port);
    expect(await ask(before)).toBe('echo hi');
    const [clientSerial, serverSerial] = [client.svid.serial, server.svid.serial];
    alphaAgent.x509(granted(home, alpha));
    betaAgent.x509(granted(home, beta));
    await waitFor(() => client.svid.serial !== clientSerial && server.svid.serial !== serverSerial);
    const after = await connect(client, port);
    expect(await ask(after)).toBe('echo hi');
    expect(serialOf(after)).toBe(server.svid.serial.replace(/^0+/, ''));
    expect(serialOf(before)).toBe(serverSerial.replace(/^0+/, ''));
    expect(await ask(before)).toBe('echo hi');
  });

  it('follows the bundle: what it loses is refused from then on', async () => {
    const [client, server] = await Promise.all([open(alphaAgent), open(betaAgent)]);
    const { port } = await serve(server);
    expect(await ask(await connect(client, port))).toBe('echo hi');
    const next = testAuthority('next');
    alphaAgent.x509({ svids: [grantedSvid(home, alpha, { bundle: next.certificate })] });
    await waitFor(() => !Buffer.from(client.x509BundleFor('example.org' as never)?.[0] ?? []).equals(home.certificate));
    await expect(connect(client, port)).rejects.toSatisfy((error: SpiffeError) => ['invalid', 'unauthenticated'].includes(error.kind));
  });

  it('says that nobody listens, and that the other end speaks no TLS', async () => {
    const client = await open(alphaAgent);
    const plain = createTcpServer((socket) => {
      socket.on('error', () => undefined);
      socket.resume();
      socket.end('SSH-2.0-no\r\n');
    }).listen(0, '127.0.0.1');
    await once(plain, 'listening');
    const { port } = plain.address() as AddressInfo;
    await expect(connect(client, port)).rejects.toMatchObject({ kind: 'unavailable', reason: 'tls.handshake' });
    await new Promise((resolve) => plain.close(resolve));
    await expect(connect(client, port)).rejects.toMatchObject({ kind: 'unavailable', reason: 'source.connect' });
  });
});

function missing(): never {
  throw new SpiffeError('invalid', 'test.pick', 'the identity is missing');
}
