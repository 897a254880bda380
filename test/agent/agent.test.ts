import { mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { createPublicKey, createPrivateKey, X509Certificate } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { runAgentParts } from '../../agent/agent.ts';
import { parseAgentConfig } from '../../agent/config.ts';
import { loadServices } from '../../proto/load.ts';
import type { X509SVIDResponse__Output } from '../../proto/gen/X509SVIDResponse.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createHealth, type Health } from '../../runtime/health.ts';
import { silentLogger } from '../../runtime/log.ts';
import { createMetrics, type Metrics } from '../../runtime/metrics.ts';
import { createRpcClient, type RpcClient } from '../../runtime/rpc/call.ts';
import { composeBundle } from '../../spiffe/bundle.ts';
import { receiveWitSvid, type WitSvid } from '../../spiffe/wit-svid.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { startAgentServer, testAuthority, testEntry, type AgentServer, type AgentServerOptions } from '../help/agent-server.ts';

const services = loadServices('SpiffeWorkloadAPI', 'steeple.agent.v1.Admin', 'grpc.health.v1.Health');
const workload = services.SpiffeWorkloadAPI;
const header = { headers: { 'workload.spiffe.io': 'true' } };
const mine = [`unix:uid:${String(process.getuid?.())}`];

interface World {
  readonly server: AgentServer;
  readonly directory: string;
  agent(extra?: string): Agent;
}

interface Agent {
  readonly over: Promise<unknown>;
  readonly health: Health;
  readonly metrics: Metrics;
  readonly client: RpcClient;
  readonly admin: RpcClient;
  ready(): Promise<void>;
  listening(): Promise<void>;
  stop(): Promise<number>;
}

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

async function world(options: AgentServerOptions = {}): Promise<World> {
  const server = await startAgentServer(options);
  cleanups.push(async () => server[Symbol.asyncDispose]());
  const directory = await mkdtemp(path.join(tmpdir(), 'steeple-agent-'));
  cleanups.push(() => rm(directory, { recursive: true, force: true }));
  const bundleFile = path.join(directory, 'bundle.pem');
  await writeFile(bundleFile, formatPemCertificates(server.bundle.x509Authorities.map((authority) => authority.certificate)), { mode: 0o600 });
  return {
    server,
    directory,
    agent(extra = '') {
      const config = parseAgentConfig(`
trust_domain: example.org
server: { address: 127.0.0.1, port: ${String(server.port)} }
data_dir: ${directory}/data
socket_path: ${directory}/public/api.sock
admin_socket_path: ${directory}/private/admin.sock
trust_bundle: { path: ${bundleFile} }
attestor: { type: join_token, token: a-token-for-tests }
${extra}`);
      const stop = new AbortController();
      const health = createHealth();
      const metrics = createMetrics();
      const over = runAgentParts(
        { config, version: '0.0.0-test', clock: systemClock, random: Math.random, log: silentLogger, metrics, health, sealingKey: undefined },
        stop.signal,
      ).then(
        () => undefined,
        (error: unknown) => error,
      );
      const client = createRpcClient({ clock: systemClock, address: `unix:${directory}/public/api.sock` });
      const admin = createRpcClient({ clock: systemClock, address: `unix:${directory}/private/admin.sock` });
      const until = async (holds: (unmet: readonly string[]) => boolean): Promise<void> => {
        // Before the conditions are declared, nothing is unmet.
        for await (const { unmet } of health.state.values(AbortSignal.timeout(10_000))) {
          if (metrics.declarations().length > 0 && holds(unmet.map(({ name }) => name))) return;
        }
        throw new Error(`not ready: ${JSON.stringify(health.state.value)}`);
      };
      const agent: Agent = {
        over,
        health,
        metrics,
        client,
        admin,
        ready: () => until((unmet) => unmet.length === 0),
        listening: () => until((unmet) => !unmet.includes('socket')),
        async stop() {
          const startedAt = performance.now();
          client.close();
          admin.close();
          stop.abort(new Error('the test stops the agent'));
          await over;
          return performance.now() - startedAt;
        },
      };
      cleanups.push(() => agent.stop());
      return agent;
    },
  };
}

function stream(agent: Agent): AsyncIterableIterator<X509SVIDResponse__Output> {
  return agent.client.serverStream(workload.FetchX509SVID, {}, header);
}

const witsOn = 'workload: { wit_svids: true }';

/** As the library reads them, which holds each key against its token. */
async function fetchWits(agent: Agent): Promise<readonly WitSvid[]> {
  const { svids } = await next(agent.client.serverStream(workload.FetchWITSVID, {}, header));
  return svids.map(({ wit_svid, wit_svid_key, hint }) => receiveWitSvid(wit_svid, wit_svid_key, hint));
}

async function next<T>(responses: AsyncIterableIterator<T>): Promise<T> {
  const result = await responses.next();
  if (result.done === true) throw new Error('the stream ended');
  return result.value;
}

async function eventually(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 400; i += 1) {
    if (holds()) return;
    await sleep(10);
  }
  throw new Error('it never came about');
}

describe.each(['steeple', 'spire'] as const)('an agent at a %s server', (kind) => {
  it('joins with a token and hands a workload an SVID it can use', async () => {
    const { server, agent: start, directory } = await world({ kind });
    const entry = testEntry('/web', mine);
    server.commit([entry]);
    const agent = start();
    await agent.ready();
    const responses = stream(agent);
    const [svid, ...others] = (await next(responses)).svids;
    expect(others).toEqual([]);
    expect(svid?.spiffe_id).toBe('spiffe://example.org/web');
    const leaf = new X509Certificate(svid?.x509_svid ?? Buffer.alloc(0));
    const key = createPrivateKey({ key: svid?.x509_svid_key ?? Buffer.alloc(0), format: 'der', type: 'pkcs8' });
    expect(leaf.publicKey.equals(createPublicKey(key))).toBe(true);
    expect(leaf.verify(new X509Certificate(svid?.bundle ?? Buffer.alloc(0)).publicKey)).toBe(true);
    // T-A14: everybody may connect, nobody but the owner may read the state.
    expect((await stat(`${directory}/public/api.sock`)).mode & 0o777).toBe(0o777);
    for (const file of await readdir(`${directory}/data`)) expect((await stat(`${directory}/data/${file}`)).mode & 0o077).toBe(0);
    expect(await agent.stop()).toBeLessThan(1_000);
    expect(await agent.over).toBeUndefined();
  });

  it('STAB-03: gives WIT-SVIDs with their keys where it is told to, also after a restart with the server away', async () => {
    const { server, agent: start } = await world({ kind });
    server.commit([testEntry('/web', mine), testEntry('/secret', mine, { forbidCache: true })]);
    const before = start(witsOn);
    await before.ready();
    const first = await fetchWits(before);
    expect(first.map(({ spiffeId }) => spiffeId).toSorted()).toEqual(['spiffe://example.org/secret', 'spiffe://example.org/web']);
    const { bundles } = await next(before.client.serverStream(workload.FetchWITBundles, {}, header));
    expect(JSON.parse(bundles['spiffe://example.org'] ?? '')).toMatchObject({ keys: [{ kid: 'wit-key' }] });
    await before.stop();
    await server.stop();
    const after = start(witsOn);
    await after.listening();
    const { svids } = await next(after.client.serverStream(workload.FetchWITSVID, { spiffe_id: 'spiffe://example.org/web' }, header));
    expect(svids[0]?.wit_svid).toBe(first.find(({ spiffeId }) => spiffeId.endsWith('/web'))?.token);
  });

  it('gives JWT-SVIDs from the cache and validates them', async () => {
    const { server, agent: start } = await world({ kind });
    server.commit([testEntry('/web', mine)]);
    const agent = start();
    await agent.ready();
    const fetch = (): Promise<string> => agent.client.unary(workload.FetchJWTSVID, { audience: ['db'] }, header).then(({ svids }) => svids[0]?.svid ?? '');
    const token = await fetch();
    await server.stop();
    expect(await fetch()).toBe(token);
    const valid = await agent.client.unary(workload.ValidateJWTSVID, { audience: 'db', svid: token }, header);
    expect(valid.spiffe_id).toBe('spiffe://example.org/web');
    expect(valid.claims?.fields['aud']?.listValue?.values.map((value) => value.stringValue)).toEqual(['db']);
    await expect(agent.client.unary(workload.ValidateJWTSVID, { audience: 'mail', svid: token }, header)).rejects.toMatchObject({
      kind: 'invalid',
      reason: 'jwt-svid.audience',
    });
  });
});

describe('an agent with a delivery', () => {
  it('writes files of what its entry grants, for whoever cannot ask, and leaves them over a restart without the server', async () => {
    const { server, agent: start, directory } = await world();
    const place = path.join(directory, 'web');
    const delivery = `deliveries: [{ name: web, directory: ${place}, jwt: [{ file: db.jwt, audience: [db] }] }]`;
    const status = async (agent: Agent): Promise<readonly string[]> =>
      (await agent.admin.unary(services['steeple.agent.v1.Admin'].GetStatus, {})).unmet_conditions;
    // No process gets it, whatever is true of it.
    server.commit([testEntry('/web', ['delivery:web']), testEntry('/other', [...mine, 'delivery:web'])]);
    const agent = start(delivery);
    await agent.ready();
    await expect(next(stream(agent))).rejects.toMatchObject({ reason: 'workload.no-identity' });
    await expect.poll(() => status(agent), { timeout: 10_000 }).toEqual([]);
    const read = (name: string): Promise<string> => readFile(path.join(place, name), 'utf8');
    const leaf = new X509Certificate(await read('svid.pem'));
    expect(leaf.subjectAltName).toBe('URI:spiffe://example.org/web');
    expect(leaf.checkPrivateKey(createPrivateKey(await read('key.pem')))).toBe(true);
    expect((await read('db.jwt')).split('.')).toHaveLength(3);
    await expect.poll(() => server.reported.flatMap(({ events }) => events).filter(({ spiffe_id: id }) => `URI:${id}` === leaf.subjectAltName).length, { timeout: 10_000 }).toBeGreaterThan(1);
    const generation = await readlink(path.join(place, 'current'));
    await agent.stop();
    await server.stop();
    const again = start(delivery);
    await again.listening();
    await expect.poll(async () => (await status(again)).filter((line) => line.startsWith('delivery')), { timeout: 10_000 }).toEqual([]);
    expect(await readlink(path.join(place, 'current'))).toBe(generation);
  });

  it('says in its status that nobody grants it anything, and is ready for all others', async () => {
    const { agent: start, directory } = await world();
    const agent = start(`deliveries: [{ name: web, directory: ${directory}/web }]`);
    await agent.ready();
    const unmet = async (): Promise<readonly string[]> =>
      (await agent.admin.unary(services['steeple.agent.v1.Admin'].GetStatus, {})).unmet_conditions;
    await expect.poll(unmet, { timeout: 10_000 }).toEqual(['delivery web: no entry grants it an identity']);
  });
});

describe('an agent that follows', () => {
  it('brings an entry made after the stream was opened, and takes it away again', async () => {
    const { server, agent: start } = await world();
    const web = testEntry('/web', mine);
    server.commit([web]);
    const agent = start();
    await agent.ready();
    const responses = stream(agent);
    await next(responses);
    const db = testEntry('/db', mine, { hint: 'db' });
    server.commit([db]);
    expect((await next(responses)).svids.map(({ spiffe_id, hint }) => [spiffe_id, hint])).toEqual([
      ['spiffe://example.org/web', ''],
      ['spiffe://example.org/db', 'db'],
    ]);
    server.commit([], [web.id]);
    expect((await next(responses)).svids.map(({ spiffe_id }) => spiffe_id)).toEqual(['spiffe://example.org/db']);
    // WLAPI-20
    server.commit([], [db.id]);
    await expect(next(responses)).rejects.toMatchObject({ kind: 'denied', reason: 'workload.no-identity', message: 'no identity issued' });
  });

  it.each([
    ['issues none', { wit: 'off' }],
    ['is older than WIT-SVIDs', { wit: 'unknown' }],
  ] as const)('WLAPI-29: has no WIT-SVIDs where the server %s, and X509-SVIDs all the same', async (_what, options) => {
    const { server, agent: start } = await world(options);
    server.commit([testEntry('/web', mine)]);
    const agent = start(witsOn);
    await agent.ready();
    await expect(fetchWits(agent)).rejects.toMatchObject({ kind: 'unsupported', reason: 'workload.wit' });
    expect((await next(stream(agent))).svids).toHaveLength(1);
  });

  it('confirms a position only after it was delivered', async () => {
    const { server, agent: start } = await world();
    server.commit([testEntry('/web', mine)]);
    const agent = start();
    await agent.ready();
    const responses = stream(agent);
    await next(responses);
    const second = testAuthority('second');
    server.setBundle(composeBundle({ ...server.bundle, x509Authorities: [...server.bundle.x509Authorities, { certificate: second.certificate, tainted: false }], sequence: 2n }));
    const update = await next(responses);
    expect(update.svids[0]?.bundle.length).toBe(server.bundle.x509Authorities.reduce((sum, { certificate }) => sum + certificate.length, 0));
    const asked = responses.next();
    await eventually(() => server.confirmed.includes(3));
    asked.catch(() => undefined);
  });

  it('asks the server before it denies, so that a registration of a moment ago counts', async () => {
    const { server, agent: start } = await world();
    const agent = start();
    await agent.ready();
    server.stall();
    server.commit([testEntry('/web', mine)]);
    // Not before it was asked: on a busy machine the change would else be there before the question.
    const asked = eventually(() => server.calls.get('/steeple.node.v1.Node/Behind') === 1).finally(() => server.release());
    const [first] = await Promise.all([next(stream(agent)), asked]);
    expect(first.svids.map(({ spiffe_id }) => spiffe_id)).toEqual(['spiffe://example.org/web']);
  });

  it('denies at once when nothing is registered and the server is away', async () => {
    const { server, agent: start } = await world();
    const agent = start();
    await agent.ready();
    await server.stop();
    await expect(next(stream(agent))).rejects.toMatchObject({ kind: 'denied', reason: 'workload.no-identity' });
  });

  it('renews an SVID before it ends', async () => {
    const { server, agent: start } = await world({ workloadTtlMs: 3_000 });
    server.commit([testEntry('/web', mine)]);
    const agent = start();
    await agent.ready();
    const responses = stream(agent);
    const first = await next(responses);
    const second = await next(responses);
    expect(second.svids[0]?.x509_svid.equals(first.svids[0]?.x509_svid ?? Buffer.alloc(0))).toBe(false);
  });

  it('serves what it knew after a restart with the server away', async () => {
    const { server, agent: start } = await world();
    const secret = testEntry('/secret', mine, { forbidCache: true, hint: 'secret' });
    server.commit([testEntry('/web', mine), secret]);
    const before = start();
    await before.ready();
    const first = (await next(stream(before))).svids.find(({ spiffe_id }) => spiffe_id === 'spiffe://example.org/web');
    const token = await before.client.unary(workload.FetchJWTSVID, { audience: ['db'], spiffe_id: 'spiffe://example.org/web' }, header);
    await before.stop();
    await server.stop();
    const after = start();
    await after.listening();
    const again = await next(stream(after));
    expect(again.svids.map(({ spiffe_id }) => spiffe_id)).toEqual(['spiffe://example.org/web']);
    expect(again.svids[0]?.x509_svid.equals(first?.x509_svid ?? Buffer.alloc(0))).toBe(true);
    const kept = await after.client.unary(workload.FetchJWTSVID, { audience: ['db'], spiffe_id: 'spiffe://example.org/web' }, header);
    expect(kept.svids[0]?.svid).toBe(token.svids[0]?.svid);
  });

  it('ends for good when it is banned, and remembers nothing', async () => {
    const { server, agent: start, directory } = await world();
    server.commit([testEntry('/web', mine)]);
    const agent = start();
    await agent.ready();
    server.commitChange({ command: { action: 'ACTION_BANNED', reason: 'seen elsewhere' } });
    expect(await agent.over).toMatchObject({ kind: 'denied', reason: 'identity.banned' });
    expect(await readdir(`${directory}/data/cache`)).toEqual([]);
    expect(await readdir(`${directory}/data`)).not.toContain('agent.json');
  });

  it.each(['AGENT_NOT_ATTESTED', 'AGENT_EXPIRED', 'AGENT_BANNED'] as const)('gives up when its calls are refused with %s', async (reason) => {
    const { server, agent: start } = await world();
    const agent = start();
    await agent.ready();
    server.refuseAgents(reason);
    await server.stop();
    await server.start();
    expect(await agent.over).toMatchObject({ reason: reason === 'AGENT_BANNED' ? 'identity.banned' : 'identity.must-rejoin' });
  });

  it('reports what it witnessed, numbered, with the process it concerned', async () => {
    const { server, agent: start } = await world();
    const entry = testEntry('/web', mine);
    server.commit([entry]);
    const agent = start();
    await agent.ready();
    await next(stream(agent));
    const events = (): readonly { kind: string | number; entry_id: string; process: { pid: number } | null; sequence: string }[] => server.reported.flatMap((report) => report.events);
    await eventually(() => events().some(({ kind }) => kind === 'KIND_DELIVERED'));
    expect(events().map(({ sequence }) => Number(sequence))).toEqual(events().map((_, i) => i + 1));
    expect(events().filter(({ kind }) => kind === 'KIND_DELIVERED')).toMatchObject([{ entry_id: entry.id, process: { pid: process.pid } }]);
    expect(server.reported.find(({ inventory }) => inventory !== null)?.inventory?.facts['agent_version']).toBe('0.0.0-test');
  });

  it('says how it is, and why a process gets nothing', async () => {
    const { server, agent: start } = await world();
    server.commit([testEntry('/web', mine), testEntry('/other', ['unix:uid:4242424', ...mine])]);
    const agent = start();
    await agent.ready();
    const admin = services['steeple.agent.v1.Admin'];
    const status = await agent.admin.unary(admin.GetStatus, {});
    expect(status).toMatchObject({ agent_id: 'spiffe://example.org/spire/agent/join_token/a-token-for-tests', entries: '2', revision: '2', unmet_conditions: [] });
    const explanation = await agent.admin.unary(admin.Explain, { pid: process.pid });
    expect(explanation.matches.map(({ spiffe_id }) => spiffe_id)).toEqual(['spiffe://example.org/web']);
    expect(explanation.closest).toMatchObject([{ spiffe_id: 'spiffe://example.org/other', missing_selectors: ['unix:uid:4242424'] }]);
  });
});

describe('the security header', () => {
  it.each([
    ['none', undefined],
    ['another value', 'True'],
    ['another value', 'false'],
    ['two values', 'true, true'],
  ])('WLEP-05: %s is refused on every method', async (_name, value) => {
    const { agent: start } = await world();
    const agent = start();
    await agent.ready();
    const options = value === undefined ? {} : { headers: { 'workload.spiffe.io': value } };
    const refused = { kind: 'invalid', reason: 'workload.header', message: 'security header missing from request' };
    for (const method of [workload.FetchX509SVID, workload.FetchX509Bundles, workload.FetchJWTBundles, workload.FetchWITSVID, workload.FetchWITBundles]) {
      await expect(next(agent.client.serverStream(method as typeof workload.FetchX509SVID, {}, options))).rejects.toMatchObject(refused);
    }
    await expect(agent.client.unary(workload.FetchJWTSVID, { audience: ['db'] }, options)).rejects.toMatchObject(refused);
    await expect(agent.client.unary(workload.ValidateJWTSVID, { audience: 'db', svid: 'x' }, options)).rejects.toMatchObject(refused);
    // Health is asked by tools that do not know the header.
    expect(await agent.client.unary(services['grpc.health.v1.Health'].Check, {}, options)).toEqual({ status: 'SERVING' });
  });
});

describe('first contact', () => {
  it('T-B14: another authority than the configured one is not spoken to', async () => {
    const { directory, agent: start } = await world();
    await writeFile(`${directory}/bundle.pem`, formatPemCertificates([testAuthority('impostor').certificate]), { mode: 0o600 });
    const agent = start();
    await sleep(300);
    expect(agent.health.state.value.unmet.map(({ name }) => name)).toContain('attested');
    expect(await readdir(`${directory}/data`)).not.toContain('agent.json');
  });
});

describe('secret discovery', () => {
  const sds = loadServices('envoy.service.secret.v3.SecretDiscoveryService')['envoy.service.secret.v3.SecretDiscoveryService'];
  const given = { names: ['default'] };
  const refused = { kind: 'invalid', reason: 'workload.header' };

  /** What a proxy gets on each socket, without the header unless `headers` has it. */
  const answers = async (config: string, headers: Readonly<Record<string, string>> = {}): Promise<{ readonly shared: unknown; readonly own: unknown }> => {
    const { server, agent: start, directory } = await world();
    server.commit([testEntry('/web', mine)]);
    const agent = start(config.replaceAll('DIR', directory));
    await agent.ready();
    const ask = async (client: RpcClient): Promise<unknown> => {
      try {
        const { resources } = await client.unary(sds.FetchSecrets, { resource_names: ['default'] }, { headers, deadlineMs: 5_000 });
        return { names: resources.map(({ value }) => Buffer.from(value as Uint8Array).subarray(2, 9).toString()) };
      } catch (error) {
        return error;
      }
    };
    const client = createRpcClient({ clock: systemClock, address: `unix:${directory}/sds/sds.sock` });
    try {
      return { shared: await ask(agent.client), own: await ask(client) };
    } finally {
      client.close();
    }
  };

  it.each([
    ['as it comes', '', given, { kind: 'unavailable' }],
    ['on both sockets', 'sds: { socket_path: DIR/sds/sds.sock }', given, given],
    ['on one of its own', 'sds: { socket_path: DIR/sds/sds.sock, on_workload_socket: false }', { kind: 'unsupported' }, given],
    ['off', 'sds: { enabled: false, socket_path: DIR/sds/sds.sock }', { kind: 'unsupported' }, { kind: 'unavailable' }],
    ['with the header asked for', 'sds: { require_header: true, socket_path: DIR/sds/sds.sock }', refused, refused],
  ])('SPI-01-008: is answered without the header, %s', async (_what, config, shared, own) => {
    expect(await answers(config)).toMatchObject({ shared, own });
  });

  it('SPI-01-008: is answered with the header where it is asked for', async () => {
    expect(await answers('sds: { require_header: true, socket_path: DIR/sds/sds.sock }', header.headers)).toMatchObject({ shared: given, own: given });
  });
});
