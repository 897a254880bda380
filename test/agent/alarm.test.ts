import { expect, it } from 'vitest';
import { createAlarm } from '../../agent/alarm.ts';
import { createTestClock } from '../help/clock.ts';

/** After everything that can run without time moving. */
async function settled(promise: Promise<void>): Promise<string> {
  return Promise.race([promise.then(() => 'over'), new Promise<string>((resolve) => setImmediate(() => resolve('waiting')))]);
}

it.each([
  ['a ring', 'until', undefined],
  ['an instant of the wall clock', 'until', 60_000],
  ['a duration', 'after', 60_000],
] as const)('waits for %s', async (_name, how, ms) => {
  const clock = createTestClock();
  const alarm = createAlarm(clock);
  const { signal } = new AbortController();
  const waiting = how === 'after' ? alarm.after(ms, signal) : alarm.until(ms === undefined ? undefined : clock.now() + ms, signal);
  await clock.advance(59_999);
  expect(await settled(waiting)).toBe('waiting');
  if (ms === undefined) alarm.ring();
  await clock.advance(1);
  expect(await settled(waiting)).toBe('over');
  expect(clock.sleepers).toBe(0);
});

it('a ring ends a wait early and leaves no sleeper behind', async () => {
  const clock = createTestClock();
  const alarm = createAlarm(clock);
  const waiting = alarm.after(60_000, new AbortController().signal);
  alarm.ring();
  await waiting;
  expect(clock.sleepers).toBe(0);
});

it('a ring that nobody waited for ends the next wait, once', async () => {
  const clock = createTestClock();
  const alarm = createAlarm(clock);
  const { signal } = new AbortController();
  alarm.ring();
  alarm.ring();
  await alarm.until(undefined, signal);
  const second = alarm.after(1_000, signal);
  await clock.settle();
  expect(await settled(second)).toBe('waiting');
});

it('follows the wall clock for instants, the monotonic one for durations', async () => {
  const clock = createTestClock();
  const [instant, duration] = [createAlarm(clock), createAlarm(clock)];
  const { signal } = new AbortController();
  const [one, two] = [instant.until(clock.now() + 60_000, signal), duration.after(60_000, signal)];
  await clock.step(60_000);
  expect([await settled(one), await settled(two)]).toEqual(['over', 'waiting']);
});

it('rejects with the signal’s reason, before or during the wait', async () => {
  const clock = createTestClock();
  const alarm = createAlarm(clock);
  const stop = new AbortController();
  const waiting = alarm.after(60_000, stop.signal);
  stop.abort(new Error('stopping'));
  await expect(waiting).rejects.toThrow('stopping');
  await expect(alarm.until(undefined, stop.signal)).rejects.toThrow('stopping');
  expect(clock.sleepers).toBe(0);
});
