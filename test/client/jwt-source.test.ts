import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { JwtSource, type JwtSourceOptions, pickHint, WorkloadApi } from '../../client/index.ts';
import { createFakeAuthority } from '../../client/testing/authority.ts';
import { FakeWorkloadApi } from '../../client/testing/fake-workload-api.ts';
import { until } from '../help/until.ts';

const quick = { firstMs: 5, factor: 1, longestMs: 5, jitter: 0 };
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

async function open(options: JwtSourceOptions = {}): Promise<JwtSource> {
  const api = new WorkloadApi({ address: fake.address, backoff: quick });
  const source = await JwtSource.open({ api, ...options });
  ends.push(() => api.close(), () => source.close());
  return source;
}

describe('a source of JWT-SVIDs', () => {
  it('gives tokens, asked for once', async () => {
    const source = await open();
    const one = await source.fetchJwtSvid({ audience: 'db' });
    expect(one).toMatchObject({ spiffeId: 'spiffe://example.org/web', audience: ['db'] });
    expect(await source.fetchJwtSvid({ audience: 'db' })).toBe(one);
    expect(await source.fetchJwtSvids({ audience: 'db' })).toHaveLength(2);
    expect(fake.calls.get('FetchJWTSVID')).toBe(1);
  });

  it('WLAPI-32, WLAPI-33: gives the first identity\'s, or the picked one\'s, and says when there is none', async () => {
    expect((await (await open({ pick: pickHint('back') })).fetchJwtSvid({ audience: 'db' })).spiffeId).toBe('spiffe://example.org/admin');
    await expect((await open({ pick: pickHint('nobody') })).fetchJwtSvid({ audience: 'db' })).rejects.toMatchObject({ kind: 'missing', reason: 'source.pick' });
  });

  it('WLAPI-28: checks the tokens of others by the bundle of their own trust domain', async () => {
    const source = await open();
    const other = createFakeAuthority('other.test');
    const { token } = other.jwtSvid('/caller', ['db']);
    expect(() => source.validate(token, 'db')).toThrow(expect.objectContaining({ reason: 'jwt-svid.untrusted' }));
    fake.federate(other.bundle);
    await until(() => source.jwtBundleFor(other.trustDomain) !== undefined);
    expect(source.validate(token, ['cache', 'db'])).toMatchObject({ spiffeId: 'spiffe://other.test/caller' });
    expect(() => source.validate(token, 'cache')).toThrow(expect.objectContaining({ reason: 'jwt-svid.audience' }));
    // The federated domain's key does not speak for ours.
    const forged = other.jwtSvid('spiffe://example.org/web', ['db']);
    expect(() => source.validate(forged.token, 'db')).toThrow(expect.objectContaining({ reason: 'jwt-svid.key-unknown' }));
    other.retire();
    other.rotate();
    other.retire();
    fake.federate(other.bundle);
    await until(() => source.bundles.value.get(other.trustDomain)?.[0]?.keyId === other.bundle.jwtAuthorities[0]?.keyId);
    expect(() => source.validate(token, 'db')).toThrow(expect.objectContaining({ reason: 'jwt-svid.key-unknown' }));
  });

  it('WLAPI-09: forgets a trust domain that a later message leaves out', async () => {
    const other = createFakeAuthority('other.test');
    fake.federate(other.bundle);
    const source = await open();
    expect(source.jwtBundleFor(other.trustDomain)).toHaveLength(1);
    fake.federate();
    await until(() => source.jwtBundleFor(other.trustDomain) === undefined);
  });

  it('keeps bundles and tokens while the agent is away', async () => {
    const source = await open();
    const one = await source.fetchJwtSvid({ audience: 'db' });
    await fake.suspend();
    expect(await source.fetchJwtSvid({ audience: 'db' })).toBe(one);
    expect(source.validate(one.token, 'db').spiffeId).toBe(one.spiffeId);
    await expect(source.fetchJwtSvid({ audience: 'other' })).rejects.toMatchObject({ kind: 'unavailable' });
    await fake.resume();
    await until(async () => (await source.fetchJwtSvid({ audience: 'other' }).catch(() => undefined)) !== undefined);
  });

  it('WLAPI-21: lets bundles go when they were denied for long enough, and takes them up again', async () => {
    const source = await open({ withdrawAfterMs: 20 });
    fake.deny();
    await until(() => source.bundles.value.size === 0);
    fake.grant('/web');
    await until(() => source.bundles.value.size === 1);
  });

  it('gives nothing once it is closed', async () => {
    const source = await open();
    await source.close();
    await source.close();
    for (const use of [() => source.fetchJwtSvid({ audience: 'db' }), async () => source.validate('a.b.c', 'db'), async () => source.jwtBundleFor('example.org' as never)]) {
      await expect(use()).rejects.toMatchObject({ kind: 'unavailable', reason: 'source.closed' });
    }
  });

  it('waits for the agent as long as the signal says, and then tells what was wrong', async () => {
    fake.deny();
    const opening = open({ signal: AbortSignal.timeout(60) });
    await expect(opening).rejects.toMatchObject({ kind: 'unavailable', reason: 'source.aborted', cause: { kind: 'denied' } });
  });
});
