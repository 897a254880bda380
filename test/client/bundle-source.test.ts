import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BundleSource, type SourceOptions, verifyX509Svid, validateJwtSvid, WorkloadApi } from '../../client/index.ts';
import { createFakeAuthority } from '../../client/testing/authority.ts';
import { FakeWorkloadApi } from '../../client/testing/fake-workload-api.ts';
import { until } from '../help/until.ts';

const other = createFakeAuthority('other.test');
const ends: (() => unknown)[] = [];
let fake: FakeWorkloadApi;

beforeEach(async () => {
  fake = await FakeWorkloadApi.start();
  fake.federate(other.bundle);
  fake.grant('/web');
});

afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
  await fake.close();
});

async function open(options: SourceOptions = {}): Promise<BundleSource> {
  const api = new WorkloadApi({ address: fake.address, backoff: { firstMs: 5, factor: 1, longestMs: 5, jitter: 0 } });
  const source = await BundleSource.open({ api, ...options });
  ends.push(() => api.close(), () => source.close());
  return source;
}

describe('a source of bundles', () => {
  it('is ready with both kinds of authorities of every trust domain', async () => {
    const source = await open();
    expect([...source.bundles.value.keys()]).toEqual(['example.org', 'other.test']);
    expect(source.bundleFor(other.trustDomain)).toMatchObject({ trustDomain: 'other.test', x509Authorities: [{ tainted: false }], jwtAuthorities: [{ tainted: false }] });
    expect(source.bundleFor('nobody.test' as never)).toBeUndefined();
    expect([source.x509BundleFor('nobody.test' as never), source.jwtBundleFor('nobody.test' as never)]).toEqual([undefined, undefined]);
  });

  it('X509-28: vouches for SVIDs by their own trust domain', async () => {
    const source = await open();
    expect(verifyX509Svid(other.x509Svid('/peer').chain, { bundles: source }).spiffeId).toBe('spiffe://other.test/peer');
    expect(() => verifyX509Svid(other.x509Svid('spiffe://example.org/peer').chain, { bundles: source })).toThrow(expect.objectContaining({ kind: 'unauthenticated' }));
    const { token } = other.jwtSvid('/peer', 'me');
    expect(validateJwtSvid(token, { audience: 'me', bundles: source }).spiffeId).toBe('spiffe://other.test/peer');
  });

  it('leaves what did not change the same object', async () => {
    const source = await open();
    const before = source.bundleFor(other.trustDomain);
    const list = source.x509BundleFor(other.trustDomain);
    fake.authority.rotate();
    fake.rotate();
    await until(() => source.x509BundleFor('example.org' as never)?.length === 2 && source.jwtBundleFor('example.org' as never)?.length === 2);
    expect(source.bundleFor(other.trustDomain)).toBe(before);
    expect(source.x509BundleFor(other.trustDomain)).toBe(list);
  });

  it('keeps the last good bundles while the agent is away, and takes newer ones up', async () => {
    const source = await open();
    await fake.suspend();
    expect(source.bundles.value.size).toBe(2);
    fake.federate();
    await fake.resume();
    await until(() => source.bundles.value.size === 1);
  });

  it('WLAPI-21: lets go of what was denied for long enough', async () => {
    const source = await open({ withdrawAfterMs: 0 });
    fake.deny();
    await until(() => source.bundles.value.size === 0);
    expect(source.bundleFor(other.trustDomain)).toBeUndefined();
  });

  it('tells newer ones to those who watch, until it is closed', async () => {
    const source = await open();
    const seen: number[] = [];
    const done = (async () => {
      for await (const bundles of source.bundles.values(new AbortController().signal)) seen.push(bundles.size);
    })();
    await until(() => seen.length === 1);
    fake.federate();
    await until(() => seen.at(-1) === 1);
    await source.close();
    await done;
    expect(() => source.bundleFor(other.trustDomain)).toThrow(expect.objectContaining({ reason: 'source.closed' }));
    expect(() => source.x509BundleFor(other.trustDomain)).toThrow(expect.objectContaining({ reason: 'source.closed' }));
    expect(() => source.jwtBundleFor('nobody.test' as never)).toThrow(expect.objectContaining({ reason: 'source.closed' }));
  });
});
