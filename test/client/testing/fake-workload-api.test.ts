import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeWorkloadApi } from '../../../client/testing/fake-workload-api.ts';
import { createFakeAuthority } from '../../../client/testing/authority.ts';
import { createBundleSet, isSpiffeError, SpiffeError, verifyX509Svid, WorkloadApi, type X509Context } from '../../../client/index.ts';

let fake: FakeWorkloadApi;
let api: WorkloadApi;

beforeEach(async () => {
  fake = await FakeWorkloadApi.start();
  api = new WorkloadApi({ address: fake.address });
});

async function next(updates: AsyncIterableIterator<X509Context>): Promise<X509Context> {
  const { value } = (await updates.next()) as IteratorResult<X509Context, undefined>;
  if (value === undefined) throw new Error('the watch ended');
  return value;
}

afterEach(async () => {
  api.close();
  await fake.close();
});

describe('a fake Workload API', () => {
  it('grants nothing until it is told to, and takes it back', async () => {
    await expect(api.fetchX509Context()).rejects.toMatchObject({ kind: 'denied', reason: 'workload.no-identity' });
    fake.grant('/web');
    expect((await api.fetchX509Svid()).spiffeId).toBe('spiffe://example.org/web');
    fake.deny();
    await expect(api.fetchX509Context()).rejects.toMatchObject({ kind: 'denied' });
    await expect(api.fetchJwtSvid({ audience: 'db' })).rejects.toMatchObject({ kind: 'denied' });
    fake.grant();
    await expect(api.fetchX509Bundles()).rejects.toMatchObject({ kind: 'denied' });
    fake.refuse(new SpiffeError('limited', 'test.busy', 'busy'));
    await expect(api.fetchX509Context()).rejects.toMatchObject({ kind: 'limited', reason: 'test.busy' });
    expect(fake.calls.get('FetchX509SVID')).toBe(4);
  });

  it('grants SVIDs that its bundles vouch for, with hints and lives as asked', async () => {
    fake.grant({ identity: '/web', hint: 'internal', ttlSeconds: 60, jwtTtlSeconds: 30, dnsNames: ['web.test'] }, 'spiffe://example.org/admin');
    const { svids, bundles } = await api.fetchX509Context();
    expect(svids.map(({ spiffeId, hint }) => [spiffeId, hint])).toEqual([['spiffe://example.org/web', 'internal'], ['spiffe://example.org/admin', '']]);
    expect(svids[0]!.expiresAt - Date.now()).toBeLessThanOrEqual(60_000);
    const held = { x509BundleFor: (name: never) => bundles.get(name) };
    for (const svid of svids) expect(verifyX509Svid(svid.chain, { bundles: held }).spiffeId).toBe(svid.spiffeId);
    const [token] = await api.fetchJwtSvids({ audience: ['db', 'cache'] });
    expect(token).toMatchObject({ spiffeId: 'spiffe://example.org/web', hint: 'internal', audience: ['db', 'cache'] });
    expect(token!.expiresAt - Date.now()).toBeLessThanOrEqual(30_000);
  });

  it('gives tokens of an identity that is granted only, and checks tokens as an agent does', async () => {
    fake.grant('/web', '/admin');
    const admin = 'spiffe://example.org/admin' as never;
    expect((await api.fetchJwtSvids({ audience: 'db', spiffeId: admin })).map(({ spiffeId }) => spiffeId)).toEqual([admin]);
    await expect(api.fetchJwtSvids({ audience: 'db', spiffeId: 'spiffe://example.org/root' as never })).rejects.toMatchObject({ kind: 'denied' });
    await expect(api.fetchJwtSvids({ audience: '' })).rejects.toMatchObject({ kind: 'invalid' });
    const { token } = await api.fetchJwtSvid({ audience: 'db' });
    expect(await api.validateJwtSvid(token, 'db')).toMatchObject({ spiffeId: 'spiffe://example.org/web', claims: { aud: ['db'], sub: 'spiffe://example.org/web' } });
    await expect(api.validateJwtSvid(token, 'other')).rejects.toMatchObject({ kind: 'invalid', reason: 'jwt-svid.audience' });
    await expect(api.validateJwtSvid(`${token.slice(0, -8)}AAAAAAAA`, 'db')).rejects.toMatchObject({ kind: 'invalid', reason: 'jwt-svid.signature' });
  });

  it('pushes to open streams: rotated SVIDs, keys and other trust domains', async () => {
    fake.grant('/web');
    const stop = new AbortController();
    const updates = api.watchX509Context(stop.signal);
    const first = (await next(updates));
    fake.rotate();
    const second = (await next(updates));
    expect(second.svids[0]!.spiffeId).toBe(first.svids[0]!.spiffeId);
    expect(second.svids[0]!.serial).not.toBe(first.svids[0]!.serial);
    const other = createFakeAuthority('other.test');
    fake.federate(other.bundle);
    const third = (await next(updates));
    expect([...third.bundles.keys()]).toEqual(['example.org', 'other.test']);
    expect(third.svids[0]!.serial).toBe(second.svids[0]!.serial);
    fake.authority.rotate();
    fake.rotate();
    expect((await next(updates)).bundles.get(fake.authority.trustDomain)).toHaveLength(2);
    fake.authority.retire();
    fake.rotate();
    expect((await next(updates)).bundles.get(fake.authority.trustDomain)).toHaveLength(1);
    expect(fake.calls.get('FetchX509SVID')).toBe(1);
    stop.abort();
  });

  it('goes away, comes back at the same address, and drops who is connected', async () => {
    fake.grant('/web');
    const stop = new AbortController();
    const lost: string[] = [];
    const watch = new WorkloadApi({ address: fake.address, backoff: { firstMs: 5, factor: 1, longestMs: 5, jitter: 0 } });
    const updates = watch.watchX509Context(stop.signal, { onError: ({ kind }) => void lost.push(kind) });
    await next(updates);
    await fake.suspend();
    const coming = next(updates);
    while (lost.length === 0) await new Promise((resolve) => setImmediate(resolve));
    await fake.resume();
    expect((await coming).svids).toHaveLength(1);
    fake.disconnect();
    expect((await next(updates)).svids).toHaveLength(1);
    expect(new Set(lost)).toEqual(new Set(['unavailable']));
    stop.abort();
    watch.close();
  });

  it('listens on the loopback when asked to', async () => {
    const tcp = await FakeWorkloadApi.start({ transport: 'tcp', trustDomain: 'tcp.test' });
    tcp.grant('/web');
    const over = new WorkloadApi({ address: tcp.address });
    expect(tcp.address).toMatch(/^tcp:\/\/127\.0\.0\.1:\d+$/);
    expect((await over.fetchX509Svid()).spiffeId).toBe('spiffe://tcp.test/web');
    over.close();
    await tcp.close();
    await tcp.close();
  });
});

describe('a fake authority', () => {
  const home = createFakeAuthority('example.org');

  it('makes what is over, and what is not', () => {
    const bundles = createBundleSet(home.bundle);
    const over = home.x509Svid('/web', { ttlSeconds: -60 });
    expect(() => verifyX509Svid(over.chain, { bundles })).toThrow(expect.objectContaining({ reason: 'x509.path.expired' }));
    expect(verifyX509Svid(over.chain, { bundles, at: Date.now() - 120_000 }).spiffeId).toBe('spiffe://example.org/web');
    expect(home.jwtSvid('/web', 'db', { ttlSeconds: -120 }).expiresAt).toBeLessThan(Date.now());
    expect(home.witSvid('/web', { hint: 'h' })).toMatchObject({ spiffeId: 'spiffe://example.org/web', hint: 'h' });
  });

  it('forges: an identity of another trust domain, which no bundle vouches for', () => {
    const forged = home.x509Svid('spiffe://other.test/web');
    const bundles = createBundleSet(home.bundle, createFakeAuthority('other.test').bundle);
    const refusal = (() => {
      try {
        return verifyX509Svid(forged.chain, { bundles });
      } catch (error) {
        return error;
      }
    })();
    expect(isSpiffeError(refusal, 'unauthenticated', 'x509.path.unknown-authority')).toBe(true);
  });
});
