import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import express from 'express';
import { afterEach, describe, expect, it } from 'vitest';
import { type BundleEndpoint, bundleHandler, fetchBundle, watchBundle, type WatchBundleOptions } from '../../client/bundle-endpoint.ts';
import { createBundleSet } from '../../client/bundle-set.ts';
import { diagnosticsChannel } from '../../client/workload-api.ts';
import { systemClock } from '../../runtime/clock.ts';
import { type Bundle, bundleEquals } from '../../spiffe/bundle.ts';
import type { SpiffeError } from '../../spiffe/errors.ts';
import { createDomain, credentialsOf, serveEndpoint, type TestEndpoint } from '../help/bundle-endpoint.ts';
import { createTestClock, type TestClock } from '../help/clock.ts';
import { createClusterAuthority } from '../help/kubernetes-tls.ts';

const at = systemClock.now();
const home = createDomain('home.test', at);
const other = createDomain('other.test', at);
const { trustDomain } = home.bundle;
const endpointId = home.id('/spire/server');
const web = createClusterAuthority('web');
const named = web.issue('endpoint', ['127.0.0.1', 'localhost']);
const webTls = { cert: named.certificate, key: named.key };
const profile = { type: 'https_web', ca: web.ca } as const;

const ends: (() => Promise<unknown> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

async function served(...args: Parameters<typeof serveEndpoint>): Promise<TestEndpoint> {
  const endpoint = await serveEndpoint(...args);
  ends.push(async () => endpoint[Symbol.asyncDispose]());
  return endpoint;
}

describe('a handler and a fetch', () => {
  it('FED-01: agree over a certificate of the web', async () => {
    const { url } = await served(webTls, bundleHandler({ bundle: () => home.bundle, refreshHintSeconds: 30 }));
    const bundle = await fetchBundle({ url: url('127.0.0.1', '/any/path?x=y'), trustDomain, profile });
    expect(bundleEquals(bundle, { ...home.bundle, refreshHintSeconds: 30 })).toBe(true);
  });

  it('FED-24: agree over an X509-SVID', async () => {
    const { url } = await served(credentialsOf(home.svid('/spire/server')), bundleHandler({ bundle: () => home.bundle }));
    const bundles = createBundleSet(home.bundle);
    const bundle = await fetchBundle({ url: url('localhost'), trustDomain, profile: { type: 'https_spiffe', endpointId, bundles } });
    expect(bundleEquals(bundle, home.bundle)).toBe(true);
    const unknown = fetchBundle({ url: url('localhost'), trustDomain, profile: { type: 'https_spiffe', endpointId, bundles: createBundleSet(other.bundle) } });
    await expect(unknown).rejects.toMatchObject({ reason: 'bundle-fetch.no-authorities' });
    const someoneElse = { type: 'https_spiffe', endpointId: home.id('/other'), bundles } as const;
    await expect(fetchBundle({ url: url('localhost'), trustDomain, profile: someoneElse })).rejects.toMatchObject({ reason: 'bundle-fetch.server' });
  });

  it('FED-19: agree about the machine’s roots unless others are given', async () => {
    const { url } = await served(webTls, bundleHandler({ bundle: () => home.bundle }));
    await expect(fetchBundle({ url: url('127.0.0.1'), trustDomain })).rejects.toMatchObject({ reason: 'bundle-fetch.server' });
  });

  it('agree within Express, wherever it is mounted', async () => {
    const app = express();
    app.use('/trust/bundle', bundleHandler({ bundle: () => home.bundle }));
    const endpoint = await served(webTls, app);
    expect(bundleEquals(await fetchBundle({ url: endpoint.url('127.0.0.1', '/trust/bundle'), trustDomain, profile }), home.bundle)).toBe(true);
    const elsewhere = fetchBundle({ url: endpoint.url('127.0.0.1', '/'), trustDomain, profile });
    await expect(elsewhere).rejects.toMatchObject({ reason: 'bundle-fetch.status', detail: { status: 404 } });
  });

  it('agree about what is there now', async () => {
    let current: Bundle | undefined;
    const { url } = await served(webTls, bundleHandler({ bundle: () => current }));
    const fetching = (): Promise<Bundle> => fetchBundle({ url: url('127.0.0.1'), trustDomain, profile });
    await expect(fetching()).rejects.toMatchObject({ reason: 'bundle-fetch.status', detail: { status: 503 } });
    current = home.bundle;
    expect((await fetching()).sequence).toBe(7n);
    current = { ...home.bundle, sequence: 8n };
    expect((await fetching()).sequence).toBe(8n);
  });

  it('hold to the caller’s bounds', async () => {
    const { url } = await served(webTls, bundleHandler({ bundle: () => home.bundle }));
    const endpoint: BundleEndpoint = { url: url('127.0.0.1'), trustDomain, profile };
    await expect(fetchBundle(endpoint, { maxBytes: 10 })).rejects.toMatchObject({ reason: 'bundle-fetch.too-large' });
    await expect(fetchBundle(endpoint, { mayConnect: () => false })).rejects.toMatchObject({ reason: 'bundle-fetch.address' });
    await expect(fetchBundle(endpoint, { signal: AbortSignal.abort(new Error('enough')) })).rejects.toThrow('enough');
    await expect(fetchBundle({ ...endpoint, url: 'http://127.0.0.1/' })).rejects.toMatchObject({ reason: 'bundle-endpoint.url' });
  });
});

interface Watching {
  readonly clock: TestClock;
  readonly seen: Bundle[];
  readonly errors: SpiffeError[];
  /** Lets the time until the next fetch pass, and the fetch happen. */
  next(): Promise<void>;
  settled(): Promise<void>;
  end(): Promise<void>;
}

function watch(endpoint: BundleEndpoint, options: WatchBundleOptions = {}): Watching {
  const clock = createTestClock(at);
  const seen: Bundle[] = [];
  const errors: SpiffeError[] = [];
  const life = new AbortController();
  const watching = (async () => {
    for await (const bundle of watchBundle(endpoint, life.signal, { clock, random: () => 0, onError: (error) => errors.push(error), ...options })) seen.push(bundle);
  })();
  // While it fetches, deadlines sleep on the clock too.
  const settled = async (): Promise<void> => {
    for (let round = 0, quiet = 0; quiet < 5 && round < 400; round += 1) {
      await new Promise((resolve) => setTimeout(resolve, 2));
      quiet = clock.sleepers === 1 ? quiet + 1 : 0;
    }
  };
  const end = async (): Promise<void> => {
    life.abort();
    await watching;
  };
  ends.push(end);
  const next = async (): Promise<void> => {
    await clock.jump();
    await settled();
  };
  return { clock, seen, errors, end, settled, next };
}

describe('a watch', () => {
  it('FED-04: fetches by the hint, and tells what is new', async () => {
    let current: Bundle = { ...home.bundle, refreshHintSeconds: 90 };
    const endpoint = await served(webTls, bundleHandler({ bundle: () => current }));
    const watching = watch({ url: endpoint.url('127.0.0.1'), trustDomain, profile });
    await expectSoon(() => watching.seen.length === 1);
    await watching.settled();
    const began = watching.clock.now();
    await watching.next();
    expect(watching.clock.now() - began).toBe(90_000);
    expect(endpoint.asked.length).toBe(2);
    expect(watching.seen.length).toBe(1);
    current = { ...current, sequence: 8n, jwtAuthorities: [] };
    await watching.next();
    expect(watching.seen.map(({ sequence }) => sequence)).toEqual([7n, 8n]);
    await watching.end();
  });

  it.each([
    [0, 300_000],
    [1, 60_000],
    [1_000_000, 86_400_000],
  ])('FED-04: takes a hint of %i s within bounds', async (refreshHintSeconds, expected) => {
    const endpoint = await served(webTls, bundleHandler({ bundle: () => ({ ...home.bundle, refreshHintSeconds }) }));
    const watching = watch({ url: endpoint.url('127.0.0.1'), trustDomain, profile });
    await expectSoon(() => watching.seen.length === 1);
    await watching.settled();
    const began = watching.clock.now();
    await watching.next();
    expect(watching.clock.now() - began).toBe(expected);
  });

  it('FED-26: waits for the next time after a failure, and tells of it', async () => {
    let current = undefined as Bundle | undefined;
    const told: unknown[] = [];
    const listener = (message: unknown): unknown => told.push((message as { event: string }).event);
    subscribe(diagnosticsChannel, listener);
    ends.push(() => void unsubscribe(diagnosticsChannel, listener));
    const endpoint = await served(webTls, bundleHandler({ bundle: () => current }));
    const watching = watch({ url: endpoint.url('127.0.0.1'), trustDomain, profile });
    await expectSoon(() => watching.errors.length === 1);
    await watching.settled();
    const began = watching.clock.now();
    current = home.bundle;
    await watching.next();
    expect(watching.clock.now() - began).toBe(60_000);
    expect(watching.errors.map(({ reason }) => reason)).toEqual(['bundle-fetch.status']);
    expect(watching.seen.length).toBe(1);
    expect(told).toEqual(['fetch-failed']);
  });

  it('FED-05: takes no older bundle in the place of a newer one', async () => {
    let current = home.bundle;
    const endpoint = await served(webTls, bundleHandler({ bundle: () => current }));
    const watching = watch({ url: endpoint.url('127.0.0.1'), trustDomain, profile });
    await expectSoon(() => watching.seen.length === 1);
    await watching.settled();
    current = { ...home.bundle, sequence: 6n, jwtAuthorities: [] };
    await watching.next();
    expect(watching.errors.map(({ reason }) => reason)).toEqual(['bundle-endpoint.sequence-behind']);
    current = { ...home.bundle, sequence: 0n, jwtAuthorities: [] };
    await watching.next();
    expect(watching.seen.map(({ sequence }) => sequence)).toEqual([7n, 0n]);
  });

  it('FED-21, FED-22: proves an endpoint of the trust domain it serves by what it served last', async () => {
    const successor = createDomain('home.test', at);
    const both: Bundle = { ...home.bundle, x509Authorities: [...home.bundle.x509Authorities, ...successor.bundle.x509Authorities] };
    const first = await served(credentialsOf(home.svid('/spire/server')), bundleHandler({ bundle: () => both }));
    const watching = watch({ url: first.url('127.0.0.1'), trustDomain, profile: { type: 'https_spiffe', endpointId, bundles: createBundleSet(home.bundle) } });
    await expectSoon(() => watching.seen.length === 1);
    await watching.settled();
    await first[Symbol.asyncDispose]();
    const second = await served(credentialsOf(successor.svid('/spire/server')), bundleHandler({ bundle: () => successor.bundle }), '127.0.0.1', first.port);
    await watching.next();
    expect(watching.errors).toEqual([]);
    expect(second.asked.length).toBe(1);
    expect(watching.seen.length).toBe(2);
  });

  it('FED-23: proves an endpoint of another trust domain by that one’s bundle alone', async () => {
    const endpoint = await served(credentialsOf(other.svid('/host')), bundleHandler({ bundle: () => home.bundle }));
    const bundles = createBundleSet(other.bundle);
    const watching = watch({ url: endpoint.url('127.0.0.1'), trustDomain, profile: { type: 'https_spiffe', endpointId: other.id('/host'), bundles } });
    await expectSoon(() => watching.seen.length === 1);
    await watching.settled();
    bundles.set(createDomain('other.test', at).bundle);
    await watching.next();
    expect(watching.errors.map(({ reason }) => reason)).toEqual(['bundle-fetch.server']);
  });

  it('ends with the signal while it fetches, and does not begin with a URL that is none', async () => {
    const endpoint = await served(webTls, () => undefined);
    const watching = watch({ url: endpoint.url('127.0.0.1'), trustDomain, profile });
    await expectSoon(() => endpoint.asked.length === 1);
    await watching.end();
    expect(watching.errors).toEqual([]);
    expect(watching.clock.sleepers).toBe(0);
    const refused = watchBundle({ url: 'ftp://x', trustDomain }, new AbortController().signal).next();
    await expect(refused).rejects.toMatchObject({ reason: 'bundle-endpoint.url' });
  });
});

async function expectSoon(done: () => boolean): Promise<void> {
  for (let round = 0; !done(); round += 1) {
    if (round > 1_000) throw new Error('waited too long');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
