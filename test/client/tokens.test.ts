import { beforeEach, describe, expect, it } from 'vitest';
import { createFakeAuthority, type FakeAuthority } from '../../client/testing/authority.ts';
import { createTokenCache, type TokenCache, type TokenCacheOptions } from '../../client/tokens.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { JwtSvid } from '../../spiffe/jwt-svid.ts';
import { createTestClock, type TestClock } from '../help/clock.ts';

const denied = new SpiffeError('denied', 'workload.no-identity', 'no identity issued');
const away = new SpiffeError('unavailable', 'rpc.unreachable', 'away');
const db = { audience: 'db' };

let clock: TestClock;
let authority: FakeAuthority;
let asked: string[];
let failed: unknown[];
/** What the agent answers, or how. */
let answer: () => Promise<readonly JwtSvid[]>;

beforeEach(() => {
  clock = createTestClock();
  authority = createFakeAuthority('example.org', clock);
  asked = [];
  failed = [];
  answer = () => Promise.resolve([authority.jwtSvid('/web', 'db', { ttlSeconds: 300 })]);
});

function cache(options: Partial<TokenCacheOptions> = {}): TokenCache {
  return createTokenCache({
    clock,
    random: () => 0.5,
    withdrawAfterMs: 60_000,
    capacity: 10,
    fetch: (request) => {
      asked.push(`${request.spiffeId ?? ''} ${[request.audience].flat().join(',')}`);
      return answer();
    },
    renewalFailed: (error) => void failed.push(error),
    ...options,
  });
}

describe('tokens', () => {
  it('are asked for once and kept', async () => {
    const tokens = cache();
    const first = await tokens.get(db);
    await clock.advance(149_000);
    expect(await tokens.get(db)).toBe(first);
    expect(asked).toHaveLength(1);
  });

  it('are asked for once however many want them at a time', async () => {
    let give: (svids: readonly JwtSvid[]) => void = () => undefined;
    answer = () => new Promise((resolve) => { give = resolve; });
    const tokens = cache();
    const waiting = [tokens.get(db), tokens.get({ audience: ['db'] }), tokens.get(db)];
    give([authority.jwtSvid('/web', 'db')]);
    const [one, two, three] = await Promise.all(waiting);
    expect([two, three]).toEqual([one, one]);
    expect(asked).toHaveLength(1);
  });

  it('differ by audience and identity, but not by the order of audiences', async () => {
    const tokens = cache();
    for (const request of [db, { audience: 'cache' }, { audience: ['a', 'b'] }, { audience: ['b', 'a', 'b'] }, { ...db, spiffeId: 'spiffe://example.org/web' as never }]) {
      await tokens.get(request);
    }
    expect(asked).toEqual([' db', ' cache', ' a,b', 'spiffe://example.org/web db']);
  });

  it('are renewed behind the scenes from half of their life on, and are given out meanwhile', async () => {
    const tokens = cache();
    const first = await tokens.get(db);
    await clock.advance(150_000);
    expect(await tokens.get(db)).toBe(first);
    await clock.settle();
    expect(asked).toHaveLength(2);
    const second = await tokens.get(db);
    expect(second).not.toBe(first);
    await clock.advance(149_000);
    expect(await tokens.get(db)).toBe(second);
    expect(asked).toHaveLength(2);
  });

  it('that an agent had kept itself are renewed at half of what is left', async () => {
    const [old] = [authority.jwtSvid('/web', 'db', { ttlSeconds: 300 })];
    await clock.advance(200_000);
    answer = () => Promise.resolve([old]);
    const tokens = cache();
    await tokens.get(db);
    await clock.advance(49_000);
    await tokens.get(db);
    expect(asked).toHaveLength(1);
    await clock.advance(2_000);
    await tokens.get(db);
    expect(asked).toHaveLength(2);
  });

  it('are given out to the last second while the agent is away, which is asked with growing pauses', async () => {
    const tokens = cache();
    const first = await tokens.get(db);
    answer = () => Promise.reject(away);
    await clock.advance(150_000);
    for (let second = 0; second < 148; second += 1) {
      expect(await tokens.get(db)).toBe(first);
      await clock.advance(1_000);
    }
    expect(failed.length).toBeGreaterThan(3);
    expect(failed.length).toBeLessThan(15);
    expect(new Set(failed)).toEqual(new Set([away]));
    await clock.advance(2_000);
    await expect(tokens.get(db)).rejects.toBe(away);
    answer = () => Promise.resolve([authority.jwtSvid('/web', 'db')]);
    expect(await tokens.get(db)).toHaveLength(1);
  });

  it('WLAPI-21: are let go when the agent has denied them for long enough, and not before', async () => {
    const tokens = cache();
    const first = await tokens.get(db);
    answer = () => Promise.reject(denied);
    await clock.advance(150_000);
    const started = clock.now();
    let dropped: number | undefined;
    while (dropped === undefined && clock.now() - started < 140_000) {
      const outcome: unknown = await tokens.get(db).catch((error: unknown) => error);
      if (outcome === denied) dropped = clock.now() - started;
      else expect(outcome).toBe(first);
      await clock.advance(1_000);
    }
    expect(dropped).toBeGreaterThanOrEqual(60_000);
    expect(dropped).toBeLessThan(120_000);
  });

  it('WLAPI-21: are let go at the first denial when that is asked for', async () => {
    const tokens = cache({ withdrawAfterMs: 0 });
    await tokens.get(db);
    answer = () => Promise.reject(denied);
    await clock.advance(150_000);
    await tokens.get(db);
    await clock.settle();
    await expect(tokens.get(db)).rejects.toBe(denied);
  });

  it('that are over are not taken', async () => {
    answer = () => Promise.resolve([authority.jwtSvid('/web', 'db', { ttlSeconds: -60 })]);
    await expect(cache().get(db)).rejects.toMatchObject({ kind: 'unavailable', reason: 'source.token.expired' });
  });

  it('are waited for no longer than the signal says, without ending it for others', async () => {
    let give: (svids: readonly JwtSvid[]) => void = () => undefined;
    answer = () => new Promise((resolve) => { give = resolve; });
    const tokens = cache();
    const stop = new AbortController();
    const impatient = tokens.get(db, stop.signal).catch((error: unknown) => error);
    const patient = tokens.get(db);
    stop.abort(new Error('enough'));
    expect(await impatient).toMatchObject({ message: 'enough' });
    give([authority.jwtSvid('/web', 'db')]);
    expect(await patient).toHaveLength(1);
  });

  it('are kept for so many requests: the one not asked for the longest makes room', async () => {
    const tokens = cache({ capacity: 2 });
    await tokens.get({ audience: 'a' });
    await tokens.get({ audience: 'b' });
    await tokens.get({ audience: 'a' });
    await tokens.get({ audience: 'c' });
    await tokens.get({ audience: 'a' });
    expect(asked).toEqual([' a', ' b', ' c']);
    await tokens.get({ audience: 'b' });
    expect(asked).toHaveLength(4);
  });
});
