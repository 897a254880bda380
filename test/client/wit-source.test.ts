import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { authorizeAny, createWitVerifier, pickHint, WitSource, type WitSourceOptions, WorkloadApi } from '../../client/index.ts';
import { createFakeAuthority } from '../../client/testing/authority.ts';
import { FakeWorkloadApi } from '../../client/testing/fake-workload-api.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId } from '../../spiffe/id.ts';
import { until } from '../help/until.ts';

const quick = { firstMs: 5, factor: 1, longestMs: 5, jitter: 0 };
const origin = 'https://orders.example.org';
let fake: FakeWorkloadApi;
const ends: (() => unknown)[] = [];

beforeEach(async () => {
  fake = await FakeWorkloadApi.start();
  fake.grant({ identity: '/web', hint: 'front' }, { identity: '/admin', hint: 'back' });
});

afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
  await fake.close();
});

async function open(options: WitSourceOptions = {}): Promise<WitSource> {
  const api = new WorkloadApi({ address: fake.address, backoff: quick });
  const source = await WitSource.open({ api, ...options });
  ends.push(() => api.close(), () => source.close());
  return source;
}

const requestOf = (headers: object, path = '/orders') => ({ rawHeaders: Object.entries(headers).flat() as string[], url: path });

describe('a source of WIT-SVIDs', () => {
  it('is ready when it is open, presents the default, and verifies others', async () => {
    const source = await open();
    expect(source.svid).toMatchObject({ spiffeId: 'spiffe://example.org/web', hint: 'front' });
    expect(source.svids.value).toHaveLength(2);
    const verifier = createWitVerifier({ bundles: source, origin, authorize: authorizeAny() });
    expect(verifier.verify(requestOf(source.headers(`${origin}/orders`))).spiffeId).toBe('spiffe://example.org/web');
  });

  it('WLAPI-24 WLAPI-32 WLAPI-33: presents the one that is picked, or asked for', async () => {
    expect((await open({ pick: pickHint('back') })).svid.spiffeId).toBe('spiffe://example.org/admin');
    const asked = await open({ spiffeId: parseSpiffeId('spiffe://example.org/admin') });
    expect(asked.svids.value.map(({ spiffeId }) => spiffeId)).toEqual(['spiffe://example.org/admin']);
  });

  it('WIT-36: goes over to what is rotated, and verifies by the keys of both', async () => {
    const source = await open();
    const before = source.svid;
    const old = source.headers(`${origin}/orders`);
    fake.rotate();
    await until(() => source.svid !== before);
    expect(source.svid.privateKey.equals(before.privateKey)).toBe(false);
    const verifier = createWitVerifier({ bundles: source, origin, authorize: authorizeAny() });
    expect(verifier.verify(requestOf(old)).spiffeId).toBe(before.spiffeId);
    expect(verifier.verify(requestOf(source.headers(`${origin}/orders`))).spiffeId).toBe(before.spiffeId);
  });

  it('WLAPI-15: knows the WIT authorities of federated trust domains, and forgets them', async () => {
    const other = createFakeAuthority('other.test');
    fake.federate(other.bundle);
    const source = await open();
    await until(() => source.witBundleFor(other.trustDomain)?.length === 1);
    expect(source.witBundleFor(other.trustDomain)?.[0]?.keyId).toBe(other.bundle.witAuthorities[0]?.keyId);
    fake.federate();
    await until(() => source.witBundleFor(other.trustDomain) === undefined);
  });

  it('keeps the last good one while the agent is away', async () => {
    const source = await open();
    const before = source.svid;
    await fake.suspend();
    expect(source.svid).toBe(before);
    await fake.resume();
    fake.rotate();
    await until(() => source.svid !== before);
  });

  it('WLAPI-21: lets go when the agent denies for long enough, and goes on when it grants again', async () => {
    const source = await open({ withdrawAfterMs: 0 });
    fake.refuse(new SpiffeError('denied', 'workload.no-identity', 'no identity issued'));
    await until(() => source.svids.value.length === 0);
    expect(() => source.svid).toThrow(expect.objectContaining({ kind: 'denied', reason: 'source.withdrawn' }) as Error);
    fake.grant({ identity: '/web' });
    await until(() => source.svids.value.length === 1);
    expect(source.svid.spiffeId).toBe('spiffe://example.org/web');
  });

  it('WLAPI-29: cannot be opened where the agent serves none, and says so at once', async () => {
    fake.refuse(new SpiffeError('unsupported', 'workload.wit', 'WIT-SVIDs are not supported'));
    await expect(open()).rejects.toMatchObject({ kind: 'unsupported' });
  });

  it('gives nothing once it is closed', async () => {
    const source = await open();
    await source.close();
    const closed = expect.objectContaining({ kind: 'unavailable', reason: 'source.closed' }) as Error;
    expect(() => source.svid).toThrow(closed);
    expect(() => source.headers(`${origin}/`)).toThrow(closed);
  });
});

describe('the Workload API', () => {
  it('fetches WIT-SVIDs and bundles once', async () => {
    using api = new WorkloadApi({ address: fake.address });
    expect((await api.fetchWitSvid()).spiffeId).toBe('spiffe://example.org/web');
    expect(await api.fetchWitSvids()).toHaveLength(2);
    const spiffeId = parseSpiffeId('spiffe://example.org/admin');
    expect((await api.fetchWitSvid({ spiffeId })).spiffeId).toBe(spiffeId);
    expect([...(await api.fetchWitBundles()).values()].flat().map(({ keyId }) => keyId)).toEqual(fake.authority.bundle.witAuthorities.map(({ keyId }) => keyId));
  });
});
