/**
 * Waits for what comes through real sockets: the condition is asked again after every turn of the event loop, without sleeping
 * and without a guess how long it takes.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';

/** @throws when it does not come within `limitMs` of real time */
export async function until(done: () => boolean | Promise<boolean>, limitMs = 10_000): Promise<void> {
  const end = performance.now() + limitMs;
  while (!(await done())) {
    if (performance.now() > end) throw new Error('it did not come');
    await nextTurn();
  }
}
