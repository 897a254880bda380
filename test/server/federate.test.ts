import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { RequestListener } from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { systemClock } from '../../runtime/clock.ts';
import { createLogger } from '../../runtime/log.ts';
import { createMetrics } from '../../runtime/metrics.ts';
import { openFederation } from '../../server/federate.ts';
import { type FetchConfig, fetchSection } from '../../server/federation/config.ts';
import type { Relationship } from '../../server/store/store.ts';
import { formatBundleDocument } from '../../spiffe/bundle-document.ts';
import { type Bundle, bundleEquals, composeBundle, emptyBundle } from '../../spiffe/bundle.ts';
import { trustDomainOf } from '../../spiffe/id.ts';
import { createDomain, credentialsOf, type Domain, serveEndpoint, type TestEndpoint } from '../help/bundle-endpoint.ts';
import { createClusterAuthority } from '../help/kubernetes-tls.ts';
import { openTestRegistry } from '../help/registry.ts';
import { scopeAt } from '../help/store.ts';

const at = systemClock.now();
const far = createDomain('far.example', at);
const near = createDomain('near.example', at);
const farName = far.bundle.trustDomain;
const scope = scopeAt(at);

async function openWorld(config: Partial<FetchConfig> = { allow_addresses: ['127.0.0.1'] }) {
  const { store, registry } = await openTestRegistry();
  const { relationships, refresher } = await openFederation({
    config: { ...fetchSection.parse({}), ...config },
    clock: systemClock,
    log: createLogger({ clock: systemClock, level: 'error', write: () => undefined }),
    metrics: createMetrics(),
    store,
    bundles: registry.bundles,
  });
  onTestFinished(() => relationships.close());
  return {
    store,
    refresher,
    held: () => registry.bundles.get(farName),
    holds: (bundle: Bundle) => bundleEquals(registry.bundles.get(farName) ?? emptyBundle(farName), bundle),
    create: (relationship: Omit<Relationship, 'trustDomain'>, bundle?: Bundle) => store.createRelationship({ trustDomain: farName, ...relationship }, bundle, scope),
    refresh: () => refresher.refresh(farName).then(() => 'refreshed', (error: { reason: string }) => error.reason),
  };
}

async function served(by: Domain, answer: Bundle | RequestListener, host?: string): Promise<TestEndpoint> {
  const endpoint = await serveEndpoint(credentialsOf(by.svid('/endpoint')), answer, host);
  onTestFinished(() => endpoint[Symbol.asyncDispose]());
  return endpoint;
}

const provedBy = (domain: Domain): Relationship['profile'] => ({ type: 'https_spiffe', endpointId: domain.id('/endpoint') });

describe('fetching by a relationship', () => {
  it('T-B06: connects to nothing on this machine unless told to', async () => {
    const endpoint = await served(far, far.bundle);
    const world = await openWorld({});
    await world.create({ endpointUrl: endpoint.url('localhost'), profile: provedBy(far) }, far.bundle);
    expect(await world.refresh()).toBe('bundle-fetch.address');
    expect(endpoint.connections).toBe(0);
  });

  it('T-B06: nor does a redirect lead it there', async () => {
    const target = await served(far, far.bundle, '127.0.0.2');
    const endpoint = await served(far, (_incoming, outgoing) => void outgoing.writeHead(307, { location: target.url('127.0.0.2') }).end());
    const world = await openWorld();
    await world.create({ endpointUrl: endpoint.url('127.0.0.1'), profile: provedBy(far) }, far.bundle);
    expect(await world.refresh()).toBe('bundle-fetch.address');
    expect([endpoint.asked.length, target.connections]).toEqual([1, 0]);
  });

  it('FED-22: the bootstrap bundle proves the first connection, the latest fetched one those after', async () => {
    const next = createDomain('far.example', at);
    const x509Authorities = [...far.bundle.x509Authorities, ...next.bundle.x509Authorities];
    const both = composeBundle({ ...next.bundle, x509Authorities, sequence: 8n });
    const before = await served(far, both);
    const world = await openWorld();
    await world.create({ endpointUrl: before.url('127.0.0.1'), profile: provedBy(far) }, far.bundle);
    expect(await world.refresh()).toBe('refreshed');
    expect(world.holds(both)).toBe(true);
    // The same endpoint, whose SVID the other authority signed.
    await before[Symbol.asyncDispose]();
    const alone = composeBundle({ ...next.bundle, sequence: 9n });
    const after = await serveEndpoint(credentialsOf(next.svid('/endpoint')), alone, '127.0.0.1', before.port);
    onTestFinished(() => after[Symbol.asyncDispose]());
    expect(await world.refresh()).toBe('refreshed');
    expect(world.holds(alone)).toBe(true);
  });

  it('FED-23: an endpoint of another trust domain is proved by that one’s bundle, which has to be there', async () => {
    const endpoint = await served(near, far.bundle);
    const world = await openWorld();
    await world.create({ endpointUrl: endpoint.url('127.0.0.1'), profile: provedBy(near) });
    expect(await world.refresh()).toBe('bundle-fetch.no-authorities');
    await world.store.writeBundle(near.bundle, 'set', scope);
    expect(await world.refresh()).toBe('refreshed');
    expect(world.holds(far.bundle)).toBe(true);
    // Never merged: the other's authorities are where they were.
    expect(trustDomainOf(near.id('/endpoint'))).not.toBe(world.held()?.trustDomain);
    expect(world.held()?.x509Authorities).toHaveLength(1);
  });

  it('FED-25: another SVID of the same trust domain is not the endpoint', async () => {
    const endpoint = await serveEndpoint(credentialsOf(far.svid('/other')), far.bundle);
    onTestFinished(() => endpoint[Symbol.asyncDispose]());
    const world = await openWorld();
    await world.create({ endpointUrl: endpoint.url('127.0.0.1'), profile: provedBy(far) }, far.bundle);
    expect(await world.refresh()).toBe('bundle-fetch.server');
    expect(endpoint.asked).toEqual([]);
  });

  it('FED-19: authorities of the web are read anew for every fetch', async () => {
    const directory = await mkdtemp(path.join(tmpdir(), 'steeple-federate-'));
    onTestFinished(() => rm(directory, { recursive: true, force: true }));
    const file = path.join(directory, 'web.pem');
    const web = createClusterAuthority('web');
    const { certificate, key } = web.issue('endpoint', ['127.0.0.1']);
    const endpoint = await serveEndpoint({ cert: certificate, key }, far.bundle);
    onTestFinished(() => endpoint[Symbol.asyncDispose]());
    await writeFile(file, createClusterAuthority('another').ca, { mode: 0o600 });
    const world = await openWorld({ allow_addresses: ['127.0.0.1'], web_ca: file });
    await world.create({ endpointUrl: endpoint.url('127.0.0.1'), profile: { type: 'https_web' } });
    expect(await world.refresh()).toBe('bundle-fetch.server');
    await writeFile(file, web.ca);
    expect(await world.refresh()).toBe('refreshed');
    expect(world.holds(far.bundle)).toBe(true);
  });

  const longList = `{"keys":[${Array.from({ length: 1_001 }, () => '{}').join(',')}]}`;
  it.each<[string, string, string]>([
    ['T-H06: an older bundle', formatBundleDocument({ ...far.bundle, sequence: 6n }), 'relationship.sequence-behind'],
    ['T-H06: more keys than anybody has', longList, 'bundle-document.key-count'],
    ['T-H06: more bytes than anybody needs', ' '.repeat(3_000_000), 'bundle-fetch.too-large'],
    ['T-17: no keys at all, said by nobody', '{}', 'bundle-document.keys'],
    ['T-17: a page', '<html>', 'json.syntax'],
  ])('%s is refused, and the last good one kept', async (_name, document, reason) => {
    const endpoint = await served(far, (_incoming, outgoing) => void outgoing.end(document));
    const world = await openWorld();
    await world.create({ endpointUrl: endpoint.url('127.0.0.1'), profile: provedBy(far) }, far.bundle);
    expect(await world.refresh()).toBe(reason);
    expect(world.holds(far.bundle)).toBe(true);
    const { items } = await world.store.searchAudit({ type: 'bundle.refresh-failed' }, 10, '');
    expect(items).toMatchObject([{ subject: farName, reason }]);
  });

  it('T-17: an empty list of keys is a revocation', async () => {
    const endpoint = await served(far, (_incoming, outgoing) => void outgoing.end('{"keys":[],"spiffe_sequence":8}'));
    const world = await openWorld();
    await world.create({ endpointUrl: endpoint.url('127.0.0.1'), profile: provedBy(far) }, far.bundle);
    expect(await world.refresh()).toBe('refreshed');
    expect(world.held()).toMatchObject({ x509Authorities: [], jwtAuthorities: [], sequence: 8n });
  });
});
