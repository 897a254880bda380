import { copyFile, link, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { loadMessages, loadServices } from '../../../proto/load.ts';
import { systemClock } from '../../../runtime/clock.ts';
import { createRpcClient } from '../../../runtime/rpc/call.ts';
import { runToEnd, type Running, startRunning } from '../../help/running.ts';
import { type AgentProcess, createSite, freePort, type Site, trustDomain } from '../../help/site.ts';
import { envoyConfig, type ProxyOptions } from './config.ts';
import { envoyProgram, withoutEnvoy } from './program.ts';
import { callTls, plainCaller, startForeign, startLoad, startService, type Foreign, type Load, type Service } from './world.ts';

const foreignDomain = 'other.test';
const idOf = (name: string): string => `spiffe://${trustDomain}/${name}`;
const [web, db, nobody] = [idOf('web'), idOf('db'), idOf('nobody')];
/** Renewed at half of it. */
const brief = '8s';
/** Over a restart of the agent, which on a busy machine takes longer than half of the other. */
const long = '120s';
const rotations = 10;
const perSecond = 200;

/** As Envoy's page `/certs` shows them. */
interface Certificates {
  readonly certificates: readonly { readonly cert_chain: readonly { readonly expiration_time: string }[] }[];
}

interface Proxy {
  readonly running: Running;
  readonly adminPort: number;
  readonly inbound: number;
  /** The plain listeners, in the order of the configuration. */
  readonly outbound: readonly number[];
}

describe.skipIf(withoutEnvoy !== undefined)(`what the page about Envoy shows ${withoutEnvoy ?? ''}`, () => {
  it('is a configuration that Envoy takes', async () => {
    const page = await readFile(new URL('../../../docs/envoy.md', import.meta.url), 'utf8');
    const [, shown = ''] = /^```yaml\n(node:.*?)^```$/ms.exec(page) ?? [];
    const directory = await mkdtemp('/tmp/steeple-envoy-');
    try {
      const file = path.join(directory, 'shown.yaml');
      await writeFile(file, shown);
      const { code, stderr, stdout } = await runToEnd([envoyProgram(), '--mode', 'validate', '-c', file]);
      expect(code, stderr + stdout).toBe(0);
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

describe.skipIf(withoutEnvoy !== undefined)(`stock Envoy at our agent's socket ${withoutEnvoy ?? ''}`, () => {
  let site: Site;
  let agent: AgentProcess;
  let entries: readonly string[];
  let services: { readonly web: Service; readonly db: Service };
  let foreign: Foreign;
  let proxies: { readonly web: Proxy; readonly db: Proxy };
  let load: Load;

  beforeAll(async () => {
    site = await createSite();
    await site.startServer();
    await site.writeBundle();
    services = { web: await startService('web'), db: await startService('db') };
    foreign = await startForeign(foreignDomain);
    const bundleFile = path.join(site.directory, 'foreign.pem');
    await writeFile(bundleFile, foreign.bundle);
    const set = await site.steeple('bundle', 'set', '--id', foreignDomain, '--path', bundleFile);
    expect(set.code, set.stderr).toBe(0);
    const { token, agentId } = await site.token();
    const program = async (name: string): Promise<string> => {
      const file = path.join(site.directory, 'bin', name);
      await link(envoyProgram(), file).catch(() => copyFile(envoyProgram(), file));
      return file;
    };
    const programs = { web: await program('envoy-web'), db: await program('envoy-db') };
    const flags = ['--x509-svid-ttl', brief, '--federates-with', `spiffe://${foreignDomain}`];
    entries = [
      await site.entry({ path: '/web', parent: agentId, selectors: [`unix:path:${programs.web}`], flags }),
      await site.entry({ path: '/db', parent: agentId, selectors: [`unix:path:${programs.db}`], flags }),
    ];
    await site.entry({ path: '/stranger', parent: agentId, selectors: [`unix:path:${process.execPath}`] });
    agent = await site.startAgent('agent', { token });
    await agent.until('sync.connected');

    const start = async (name: 'web' | 'db', file: string, options: Omit<ProxyOptions, 'name' | 'adminPort' | 'socket'>): Promise<Proxy> => {
      const adminPort = await freePort();
      const config = path.join(site.directory, `${name}.json`);
      await writeFile(config, JSON.stringify(envoyConfig({ ...options, name, adminPort, socket: agent.socket })));
      const running = site.own(startRunning([file, '-c', config, '--concurrency', '1', '--disable-hot-restart', '--log-level', 'warning']));
      return { running, adminPort, inbound: options.inbound.port, outbound: options.outbound.map(({ port }) => port) };
    };
    const ports: number[] = [];
    for (let count = 0; count < 7; count += 1) ports.push(await freePort());
    const [webIn = 0, dbIn = 0, toDb = 0, toWeb = 0, fromWeb = 0, fromDb = 0, astray = 0] = ports;
    proxies = {
      // One has its names from the configuration's defaults and is told everything each time.
      web: await start('web', programs.web, {
        apiType: 'GRPC',
        svid: 'default',
        audience: 'db',
        inbound: { port: webIn, to: services.web.port, peers: [db, foreign.id], trust: 'ALL' },
        outbound: [
          { port: toDb, to: dbIn, peer: db, trust: 'ROOTCA' },
          { port: fromWeb, to: foreign.port, peer: foreign.id, trust: 'ALL' },
          { port: astray, to: dbIn, peer: nobody, trust: 'ROOTCA' },
        ],
      }),
      // The other has SPIFFE IDs and is told what changed.
      db: await start('db', programs.db, {
        apiType: 'DELTA_GRPC',
        svid: db,
        inbound: { port: dbIn, to: services.db.port, peers: [web, foreign.id], trust: 'ALL' },
        outbound: [
          { port: toWeb, to: webIn, peer: web, trust: `spiffe://${trustDomain}` },
          { port: fromDb, to: foreign.port, peer: foreign.id, trust: `spiffe://${foreignDomain}` },
        ],
      }),
    };
    for (const { adminPort, running } of Object.values(proxies)) {
      const ready = async (): Promise<void> => expect((await fetch(`http://127.0.0.1:${adminPort}/ready`)).status, running.text()).toBe(200);
      await vi.waitFor(ready, { timeout: 30_000, interval: 100 });
    }
  });

  afterAll(async () => {
    await load?.stop();
    await services?.web[Symbol.asyncDispose]();
    await services?.db[Symbol.asyncDispose]();
    await foreign?.[Symbol.asyncDispose]();
    await site?.[Symbol.asyncDispose]();
  });

  const stat = async ({ adminPort }: Proxy, name: RegExp): Promise<readonly (readonly [string, number])[]> => {
    const text = await fetch(`http://127.0.0.1:${adminPort}/stats?filter=${encodeURIComponent(name.source)}`).then((answer) => answer.text());
    return text.split('\n').filter((line) => line !== '').map((line) => [line.slice(0, line.lastIndexOf(': ')), Number(line.slice(line.lastIndexOf(': ') + 2))] as const);
  };

  /** From now on X509-SVIDs live so long; resolves when both proxies have one. */
  const live = async (ttl: string): Promise<void> => {
    for (const id of entries) expect((await site.steeple('entry', 'update', '--id', id, '--x509-svid-ttl', ttl)).code).toBe(0);
    const lasts = async ({ adminPort }: Proxy): Promise<number> => {
      const { certificates } = (await fetch(`http://127.0.0.1:${adminPort}/certs`).then((answer) => answer.json())) as Certificates;
      return Math.min(...certificates.flatMap(({ cert_chain: chain }) => chain.map(({ expiration_time: at }) => Date.parse(at) - Date.now())));
    };
    const isLong = ttl === long;
    for (const proxy of Object.values(proxies)) {
      await expect.poll(async () => (await lasts(proxy)) > 60_000, { timeout: 60_000, interval: 200 }).toBe(isLong);
    }
  };

  it(`SDS: ${perSecond} calls a second across ${rotations} rotations, a restart of the agent and a federated peer, none failed`, async () => {
    const [toDb, webAbroad, astray] = proxies.web.outbound as [number, number, number];
    const [toWeb, dbAbroad] = proxies.db.outbound as [number, number];
    const calls = [plainCaller(toDb), plainCaller(toWeb), plainCaller(toDb), plainCaller(toWeb), plainCaller(webAbroad), plainCaller(dbAbroad)];
    // Once each, by which the compiled paths are warm.
    for (const call of calls) expect(await call()).toBe(200);
    // Each call from abroad is a handshake of this process, which has other things to do: one in twenty.
    const abroad = [() => foreign.call(proxies.web.inbound), () => foreign.call(proxies.db.inbound)];
    load = startLoad([...calls, ...calls, ...calls, ...abroad], perSecond);

    const seen = (service: Service, id: string): number => service.callers.get(id)?.size ?? 0;
    const rotated = (): number => Math.min(seen(services.db, web), seen(services.web, db)) - 1;
    await expect.poll(rotated, { timeout: 60_000, interval: 100 }).toBeGreaterThanOrEqual(rotations / 2);
    await live(long);
    await agent.end();
    agent = await site.startAgent('agent');
    await live(brief);
    await expect.poll(rotated, { timeout: 60_000, interval: 200 }).toBeGreaterThanOrEqual(rotations);
    await load.stop();
    expect(load.failures, proxies.web.running.text() + proxies.db.running.text()).toEqual([]);
    expect(load.done).toBeGreaterThan(perSecond * 20);
    expect([...services.web.callers.keys()].toSorted()).toEqual([db, foreign.id].toSorted());
    expect([...services.db.callers.keys()].toSorted()).toEqual([web, foreign.id].toSorted());
    expect([...foreign.callers].toSorted()).toEqual([db, web].map((id) => `URI:${id}`).toSorted());

    for (const proxy of Object.values(proxies)) {
      const updates = await stat(proxy, /sds\..*update_(?:success|rejected)$/);
      expect(updates.filter(([name, count]) => name.endsWith('rejected') && count > 0)).toEqual([]);
      const svid = updates.find(([name]) => /sds\.(?:default|spiffe.*db)\.update_success$/.test(name));
      expect(svid?.[1]).toBeGreaterThanOrEqual(rotations);
    }
    // The same Envoy, the same secrets, another peer than the configuration says.
    expect(await plainCaller(astray)()).toMatch(/^503 /);
    expect(await stat(proxies.web, /cluster\.peer-2\.ssl\.fail_verify_san/)).toEqual([[expect.any(String), expect.toSatisfy((count: number) => count > 0)]]);
  }, 170_000);

  it('SDS: a token for one audience is put on what leaves', () => {
    const [scheme, token = ''] = services.db.authorization.split(' ');
    expect(scheme).toBe('Bearer');
    const claims = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as Record<string, unknown>;
    expect(claims).toMatchObject({ sub: web });
    expect([claims['aud']].flat()).toEqual(['db']);
  });

  it('SDS: a peer of the same trust domain with another identity is refused', async () => {
    const client = createRpcClient({ clock: systemClock, address: agent.endpoint.replace('unix://', 'unix:') });
    const service = loadServices('envoy.service.secret.v3.SecretDiscoveryService')['envoy.service.secret.v3.SecretDiscoveryService'];
    const secrets = loadMessages('envoy.extensions.transport_sockets.tls.v3.Secret')['envoy.extensions.transport_sockets.tls.v3.Secret'];
    try {
      const { resources } = await client.unary(service.FetchSecrets, { resource_names: ['default'] });
      const { tls_certificate: certificate } = secrets.deserialize(Buffer.from(resources[0]?.value ?? []));
      const cert = String(certificate?.certificate_chain?.inline_bytes);
      const key = String(certificate?.private_key?.inline_bytes);
      for (const { inbound } of Object.values(proxies)) {
        expect(await callTls(inbound, { cert, key })).toMatch(/alert|reset|hang up|EPROTO/i);
        expect(await foreign.call(inbound)).toBe(200);
      }
    } finally {
      client.close();
    }
    expect([...services.web.callers.keys(), ...services.db.callers.keys()]).not.toContain(idOf('stranger'));
  });
});
