import { describe, expect, it } from 'vitest';
import { createBell, openSlot } from '../../../agent/sds/slot.ts';
import { createTestClock } from '../../help/clock.ts';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('a bell', () => {
  it('ends the wait that is on, or the next one, once', async () => {
    const clock = createTestClock();
    const bell = createBell(clock, new AbortController().signal);
    bell.ring();
    await bell.wait(undefined);
    let heard = 0;
    const waiting = bell.wait(undefined).then(() => (heard += 1));
    await turn();
    expect(heard).toBe(0);
    bell.ring();
    await waiting;
  });

  it('rings by itself at an instant, and leaves no sleeper when it was rung before', async () => {
    const clock = createTestClock();
    const bell = createBell(clock, new AbortController().signal);
    const timed = bell.wait(clock.now() + 5_000);
    await clock.advance(5_000);
    await timed;
    const rung = bell.wait(clock.now() + 5_000);
    bell.ring();
    await rung;
    await turn();
    expect(clock.sleepers).toBe(0);
  });

  it('rejects with the signal’s reason', async () => {
    const stop = new AbortController();
    const bell = createBell(createTestClock(), stop.signal);
    const waiting = bell.wait(undefined);
    stop.abort(new Error('over'));
    await expect(waiting).rejects.toThrow('over');
    await expect(bell.wait(undefined)).rejects.toThrow('over');
  });
});

describe('a slot', () => {
  it('asks for the next item when the last was taken, and not before', async () => {
    let asked = 0;
    let rung = 0;
    const slot = openSlot(
      (async function* () {
        for (;;) yield (asked += 1);
      })(),
      () => (rung += 1),
    );
    await turn();
    expect([asked, rung]).toEqual([1, 1]);
    expect([slot.take(), slot.take()]).toEqual([1, undefined]);
    await turn();
    expect([asked, rung, slot.take()]).toEqual([2, 2, 2]);
  });

  it('has ended when its source has and the last item was taken', async () => {
    const slot = openSlot(
      (async function* () {
        yield 1;
      })(),
      () => undefined,
    );
    await turn();
    expect(slot.ended).toBe(false);
    slot.take();
    await turn();
    expect([slot.take(), slot.ended]).toEqual([undefined, true]);
  });

  it('throws what its source failed with, after what came before', async () => {
    const slot = openSlot(
      (async function* () {
        yield 1;
        throw new Error('broken');
      })(),
      () => undefined,
    );
    await turn();
    expect(slot.take()).toBe(1);
    await turn();
    expect(() => slot.take()).toThrow('broken');
  });

  it('tells its source to end', async () => {
    let ended = false;
    const slot = openSlot(
      (async function* () {
        try {
          for (;;) yield 1;
        } finally {
          ended = true;
        }
      })(),
      () => undefined,
    );
    await turn();
    slot.close();
    await turn();
    expect(ended).toBe(true);
  });
});
