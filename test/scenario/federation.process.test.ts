import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Finished, steeple } from '../help/cli.ts';
import type { Running } from '../help/running.ts';
import { type AgentProcess, createSite, freePort, type Site } from '../help/site.ts';

const [homeDomain, farDomain] = ['example.org', 'far.example'] as const;
const client = `spiffe://${homeDomain}/client`;
const server = `spiffe://${farDomain}/server`;

interface Shown {
  readonly trustDomainBundle?: string;
  readonly state: { readonly pending: boolean; readonly fetchedAt: string | null; readonly failures: number; readonly reason: string };
}

interface World extends AsyncDisposable {
  readonly site: Site;
  readonly endpointPort: number;
  readonly agent: AgentProcess;
  readonly program: string;
  readonly agentId: string;
  /** The bundle document in a file. */
  readonly document: string;
}

/** Commands in this process: there are many, and most are asked again and again. */
const told = (site: Site, ...args: readonly string[]): Promise<Finished> => steeple(args, { env: { STEEPLE_SERVER_SOCKET: site.socket } });

async function ask<T>(site: Site, ...args: readonly string[]): Promise<T> {
  const { code, out, err } = await told(site, ...args, '--output', 'json');
  if (code !== 0) throw new Error(`steeple ${args.join(' ')} exits ${code}: ${err}${out}`);
  return JSON.parse(out) as T;
}

/** A trust domain with a bundle endpoint, an agent, and a program that an entry may know. */
async function openWorld(trustDomain: string): Promise<World> {
  const endpointPort = await freePort();
  const site = await createSite({
    trustDomain,
    server: `
svids: { x509_ttl: 8s }
federation:
  fetch: { shortest: 1s, allow_addresses: [127.0.0.1] }
  endpoint: { address: 127.0.0.1, port: ${endpointPort}, refresh_hint: 1s }`,
  });
  await site.startServer();
  await writeFile(site.bundleFile, (await told(site, 'bundle', 'show')).out);
  const document = path.join(site.directory, 'bundle.json');
  await writeFile(document, (await told(site, 'bundle', 'show', '--format', 'spiffe')).out);
  const { token } = await ask<{ token: string }>(site, 'token', 'generate');
  const agentId = `spiffe://${trustDomain}/spire/agent/join_token/${token}`;
  const [agent, program] = await Promise.all([site.startAgent('agent', { token }), site.program('workload')]);
  await agent.until('sync.connected');
  return { site, endpointPort, agent, program, agentId, document, [Symbol.asyncDispose]: () => site[Symbol.asyncDispose]() };
}

/** A machine that is busy takes its time. */
const soon = { timeout: 20_000, interval: 250 } as const;

describe('two trust domains', () => {
  let home: World;
  let far: World;
  let calling: Running;
  let serving: Running;

  beforeAll(async () => {
    [home, far] = await Promise.all([openWorld(homeDomain), openWorld(farDomain)]);
  }, 120_000);
  afterAll(async () => {
    await home?.[Symbol.asyncDispose]();
    await far?.[Symbol.asyncDispose]();
  });

  const federate = (from: World, to: World, ...more: readonly string[]): Promise<unknown> =>
    ask(
      from.site,
      'federation',
      'create',
      '--trust-domain',
      to.site.trustDomain,
      '--bundle-endpoint-url',
      `https://127.0.0.1:${to.endpointPort}/`,
      '--bundle-endpoint-profile',
      'https_spiffe',
      '--endpoint-spiffe-id',
      `spiffe://${to.site.trustDomain}/spire/server`,
      ...more,
    );
  const register = (world: World, id: string, federatesWith: string): Promise<unknown> => {
    const selector = `unix:path:${world.program}`;
    return ask(world.site, 'entry', 'create', '--spiffe-id', id, '--parent-id', world.agentId, '--selector', selector, '--federates-with', federatesWith);
  };
  const shown = (from: World, to: World): Promise<Shown> => ask<Shown>(from.site, 'federation', 'show', '--trust-domain', to.site.trustDomain);
  const authoritiesIn = (document: string | undefined): number =>
    (JSON.parse(document ?? '{"keys":[]}') as { keys: { use: string }[] }).keys.filter(({ use }) => use === 'x509-svid').length;

  it('an entry is issued without a bundle that is still to come, and completed when it comes', async () => {
    await federate(home, far);
    await register(home, client, farDomain);
    const entries = await ask<readonly { pendingBundles?: readonly string[] }[]>(home.site, 'entry', 'show');
    expect(entries.flatMap(({ pendingBundles = [] }) => pendingBundles)).toEqual([farDomain]);
    const watching = home.site.workload(home.program, home.agent, ['source']);
    // Nothing proves the endpoint before there is a bundle to prove it by.
    expect(await watching.until('svids')).toMatchObject({ svids: [{ spiffeId: client }], authorities: 1 });
    await expect.poll(async () => (await shown(home, far)).state, soon).toMatchObject({ pending: true, reason: 'bundle-fetch.no-authorities' });
    const bootstrap = ['--trust-domain-bundle-path', far.document, '--trust-domain-bundle-format', 'spiffe'];
    await ask(home.site, 'federation', 'update', '--trust-domain', farDomain, ...bootstrap);
    await watching.until((line) => line.event === 'svids' && line['authorities'] === 2);
    await expect.poll(async () => (await shown(home, far)).state, soon).toMatchObject({ pending: false, failures: 0, reason: '' });
    watching.child.stdin?.end();
  }, 60_000);

  it('workloads of the two talk to each other', async () => {
    await federate(far, home, '--trust-domain-bundle-path', home.document, '--trust-domain-bundle-format', 'spiffe');
    await register(far, server, homeDomain);
    serving = far.site.workload(far.program, far.agent, ['serve', client]);
    const { port } = await serving.until('listening');
    calling = home.site.workload(home.program, home.agent, ['call', String(port), server, '2', '100']);
    await calling.until('exchanged');
    await expect.poll(async () => (await shown(far, home)).state, soon).toMatchObject({ pending: false, failures: 0 });
  }, 60_000);

  it('FED-04: an authority that begins to sign is known to the other before, without one failed handshake', async () => {
    const [prepared] = await ask<readonly [{ readonly id: string }]>(far.site, 'authority', 'prepare', '--kind', 'x509');
    const known = async () => {
      const { trustDomainBundle, state } = await shown(home, far);
      return { authorities: authoritiesIn(trustDomainBundle), reason: state.reason };
    };
    await expect.poll(known, soon).toEqual({ authorities: 2, reason: '' });
    await ask(far.site, 'authority', 'activate', '--kind', 'x509', '--id', prepared.id);
    const activeAt = Date.now();
    // Until the other's workload and its endpoint both have what the new one signed.
    await expect
      .poll(
        async () => {
          const { fetchedAt } = (await shown(home, far)).state;
          const issued = await ask<readonly { authorityId: string; spiffeId: string }[]>(far.site, 'ledger', 'list');
          const renewed = issued.filter(({ authorityId }) => authorityId === prepared.id).map(({ spiffeId }) => spiffeId);
          return [renewed.includes(server), Date.parse(fetchedAt ?? '') > activeAt];
        },
        { timeout: 30_000, interval: 500 },
      )
      .toEqual([true, true]);
    const from = calling.lines.length;
    await calling.until('svids', { from });
    expect(calling.lines.filter(({ event }) => event === 'refused'), calling.text()).toEqual([]);
  }, 60_000);

  it('FED-28: after the relationship and its bundle are deleted, the other is refused within seconds', async () => {
    const from = calling.lines.length;
    const endedAt = Date.now();
    const { code, out, err } = await told(home.site, 'federation', 'delete', farDomain, '--bundle', 'dissociate');
    expect([code, out, err]).toEqual([0, 'relationship deleted\nbundle deleted\n', '']);
    const refused = await calling.until('refused', { from });
    expect(refused).toMatchObject({ kind: 'unauthenticated', reason: 'x509.path.unknown-trust-domain' });
    expect(Number(refused['at']) - endedAt).toBeLessThan(5_000);
    const [entry] = await ask<readonly { federatesWith: readonly string[] }[]>(home.site, 'entry', 'show');
    expect(entry?.federatesWith).toEqual([]);
    // The other end goes on: relationships are one-way.
    expect((await shown(far, home)).state).toMatchObject({ pending: false });
    calling.child.stdin?.end();
    serving.child.stdin?.end();
  }, 60_000);
});
