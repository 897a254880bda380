import { beforeEach, describe, expect, it } from 'vitest';
import { createFreshness } from '../../../agent/sync/freshness.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';

let clock: TestClock;
let asked: AbortSignal[];
let connected: boolean;
let answer: PromiseWithResolvers<void>;

const freshness = () =>
  createFreshness({
    clock,
    ask(signal) {
      asked.push(signal);
      return answer.promise;
    },
    isConnected: () => connected,
  });

beforeEach(() => {
  clock = createTestClock();
  asked = [];
  connected = true;
  answer = Promise.withResolvers<void>();
});

describe('before a denial', () => {
  it('many ask once, and go on when the answer is there', async () => {
    const fresh = freshness();
    let done = 0;
    for (let i = 0; i < 50; i += 1) void fresh.catchUp().then(() => (done += 1));
    await clock.settle();
    expect([asked.length, done]).toEqual([1, 0]);
    answer.resolve();
    await clock.settle();
    expect(done).toBe(50);
    expect(clock.sleepers).toBe(0);
  });

  it('nobody waits longer than a quarter of a second', async () => {
    const startedAt = clock.monotonic();
    let done = false;
    void freshness().catchUp().then(() => (done = true));
    await clock.advance(249);
    expect(done).toBe(false);
    await clock.runUntil(() => done);
    expect(clock.monotonic() - startedAt).toBe(250);
    expect(asked[0]?.aborted).toBe(true);
  });

  it('the server is asked once a second at most', async () => {
    const fresh = freshness();
    answer.resolve();
    await fresh.catchUp();
    await clock.advance(900);
    await fresh.catchUp();
    expect(asked.length).toBe(1);
    await clock.advance(100);
    await fresh.catchUp();
    expect(asked.length).toBe(2);
  });

  it('an answer that fails, or no server, changes nothing', async () => {
    answer.reject(new Error('away'));
    await freshness().catchUp();
    connected = false;
    await freshness().catchUp();
    expect(asked.length).toBe(1);
  });
});
