import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createClock, nextTurn } from '../../runtime/clock.ts';
import { createTestClock } from '../help/clock.ts';

describe('createClock', () => {
  const time = { wall: 1_000_000, monotonic: 0, now: () => time.wall, monotonicNow: () => time.monotonic };
  const source = { now: () => time.wall, monotonic: () => time.monotonic };
  const pass = async (ms: number): Promise<void> => {
    for (let left = ms; left > 0; left -= 1_000) {
      const part = Math.min(left, 1_000);
      time.wall += part;
      time.monotonic += part;
      await vi.advanceTimersByTimeAsync(part);
    }
  };
  const settled = (promise: Promise<unknown>): (() => boolean) => {
    let done = false;
    const set = (): void => {
      done = true;
    };
    promise.then(set, set);
    return () => done;
  };

  beforeEach(() => {
    time.wall = 1_000_000;
    time.monotonic = 0;
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it('sleeps on the monotonic clock, whatever the wall clock does', async () => {
    const done = settled(createClock(source).sleep(10_000));
    time.wall += 3_600_000;
    await pass(9_000);
    expect(done()).toBe(false);
    await pass(1_000);
    expect(done()).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('wakes sleepUntil within 5 s of a step forward, as after a resume', async () => {
    const done = settled(createClock(source).sleepUntil(time.wall + 3_600_000));
    await pass(10_000);
    time.wall += 3_600_000;
    expect(done()).toBe(false);
    await pass(5_000);
    expect(done()).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('waits on when the wall clock steps back', async () => {
    const done = settled(createClock(source).sleepUntil(time.wall + 20_000));
    await pass(1_000);
    time.wall -= 60_000;
    await pass(60_000);
    expect(done()).toBe(false);
    await pass(20_000);
    expect(done()).toBe(true);
  });

  it('wakes all sleepers with one drift check', async () => {
    const clock = createClock(source);
    const sleeps = [1, 2, 3].map((hours) => settled(clock.sleepUntil(time.wall + hours * 3_600_000)));
    expect(vi.getTimerCount()).toBe(4);
    time.wall += 4 * 3_600_000;
    await pass(5_000);
    expect(sleeps.map((done) => done())).toEqual([true, true, true]);
  });

  it('waits longer than a timer can', async () => {
    const done = settled(createClock(source).sleep(2 ** 31 + 5_000));
    time.monotonic += 2 ** 31 - 1;
    await vi.advanceTimersByTimeAsync(2 ** 31 - 1);
    expect(done()).toBe(false);
    time.monotonic += 5_001;
    await vi.advanceTimersByTimeAsync(5_001);
    expect(done()).toBe(true);
  });

  it('ends with the reason of the signal and leaves no timer', async () => {
    const clock = createClock(source);
    const stop = new AbortController();
    const reason = new Error('stopped');
    const sleeps = [clock.sleep(1_000, stop.signal), clock.sleepUntil(time.wall + 9_000, stop.signal)];
    stop.abort(reason);
    for (const sleep of sleeps) await expect(sleep).rejects.toBe(reason);
    await expect(clock.sleep(1, stop.signal)).rejects.toBe(reason);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('does not wait for an instant already past', async () => {
    await createClock(source).sleepUntil(time.wall - 1);
    await createClock(source).sleep(0);
    expect(vi.getTimerCount()).toBe(0);
  });
});

describe('nextTurn', () => {
  it('comes after whatever could run already', async () => {
    const order: string[] = [];
    setImmediate(() => order.push('waiting'));
    await nextTurn();
    order.push('next');
    expect(order).toEqual(['waiting', 'next']);
  });
});

describe('the test clock', () => {
  it('moves only when told and wakes in order', async () => {
    const clock = createTestClock();
    const started = clock.now();
    const woken: string[] = [];
    void clock.sleep(20).then(() => woken.push(`b${clock.now() - started}`));
    void clock.sleep(10).then(() => woken.push(`a${clock.now() - started}`));
    void clock.sleepUntil(started + 30).then(() => woken.push(`c${clock.now() - started}`));
    expect(clock.sleepers).toBe(3);
    await clock.advance(25);
    expect(woken).toEqual(['a10', 'b20']);
    expect(clock.now()).toBe(started + 25);
    expect(await clock.jump()).toBe(true);
    expect(woken).toEqual(['a10', 'b20', 'c30']);
    expect(await clock.jump()).toBe(false);
  });

  it('steps the wall clock apart from the monotonic one', async () => {
    const clock = createTestClock();
    let until = false;
    let slept = false;
    void clock.sleepUntil(clock.now() + 1_000).then(() => (until = true));
    void clock.sleep(1_000).then(() => (slept = true));
    const before = clock.monotonic();
    await clock.step(5_000);
    expect([until, slept, clock.monotonic() - before]).toEqual([true, false, 0]);
  });

  it('runs until a condition holds, however many sleeps that takes', async () => {
    const clock = createTestClock();
    let rounds = 0;
    void (async () => {
      for (;;) {
        await clock.sleep(60_000);
        rounds += 1;
      }
    })();
    await clock.runUntil(() => rounds === 50);
    expect(rounds).toBe(50);
    await expect(clock.runUntil(() => false, 60_000)).rejects.toThrow('condition not met');
  });
});
