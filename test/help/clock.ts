/**
 * A clock for tests: time moves only when told, sleepers wake in the order of their instants, and every jump first lets
 * what is already runnable run. Knows nothing of the code that sleeps on it.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { abortReason } from '../../runtime/abort.ts';
import type { Clock } from '../../runtime/clock.ts';

interface Sleeper {
  readonly order: number;
  /** Monotonic instant at which it wakes, given the wall clock as it stands. */
  dueAt(): number;
  wake(): void;
}

export interface TestClock extends Clock {
  /** How many sleeps are pending. */
  readonly sleepers: number;
  /** Moves both clocks, waking sleepers one after the other at their own instants. */
  advance(ms: number): Promise<void>;
  /** Moves only the wall clock, as an operator or NTP would; sleepers on instants now past wake. */
  step(ms: number): Promise<void>;
  /** Moves to the next sleeper's instant and wakes it; false if nobody sleeps. */
  jump(): Promise<boolean>;
  /** Lets runnable work run, and while `done` is false jumps to the next sleeper. Throws after `limitMs` of test time or when stuck. */
  runUntil(done: () => boolean, limitMs?: number): Promise<void>;
  /** Runs everything that can run without time moving. */
  settle(): Promise<void>;
}

/** Real time that work outside of this thread may take before a test counts as stuck. */
const stuckAfterMs = 5_000;
const settleTurns = 6;

export function createTestClock(startAt: number = Date.UTC(2026, 0, 1, 12)): TestClock {
  let wall = startAt;
  let monotonic = 1_000;
  let order = 0;
  const sleeping = new Set<Sleeper>();

  const settle = async (): Promise<void> => {
    for (let turn = 0; turn < settleTurns; turn += 1) await nextTurn();
  };

  const enter = (dueAt: () => number, signal: AbortSignal | undefined): Promise<void> => {
    if (signal?.aborted === true) return Promise.reject(abortReason(signal));
    if (dueAt() <= monotonic) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        sleeping.delete(sleeper);
        reject(abortReason(signal!));
      };
      const sleeper: Sleeper = {
        order: order++,
        dueAt,
        wake() {
          sleeping.delete(sleeper);
          signal?.removeEventListener('abort', onAbort);
          resolve();
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      sleeping.add(sleeper);
    });
  };

  const next = (): Sleeper | undefined => {
    let first: Sleeper | undefined;
    for (const sleeper of sleeping) {
      if (first === undefined || sleeper.dueAt() < first.dueAt()) first = sleeper;
    }
    return first;
  };

  const moveTo = (instant: number): void => {
    const ms = Math.max(0, instant - monotonic);
    monotonic += ms;
    wall += ms;
  };

  const wakeNext = async (sleeper: Sleeper): Promise<void> => {
    moveTo(sleeper.dueAt());
    sleeper.wake();
    await settle();
  };

  return {
    now: () => wall,
    monotonic: () => monotonic,
    get sleepers() {
      return sleeping.size;
    },
    sleep(ms, signal) {
      const end = monotonic + ms;
      return enter(() => end, signal);
    },
    sleepUntil(at, signal) {
      return enter(() => monotonic + (at - wall), signal);
    },
    settle,
    async advance(ms) {
      await settle();
      const end = monotonic + ms;
      for (let sleeper = next(); sleeper !== undefined && sleeper.dueAt() <= end; sleeper = next()) await wakeNext(sleeper);
      moveTo(end);
      await settle();
    },
    async step(ms) {
      wall += ms;
      for (let sleeper = next(); sleeper !== undefined && sleeper.dueAt() <= monotonic; sleeper = next()) {
        await wakeNext(sleeper);
      }
      await settle();
    },
    async jump() {
      await settle();
      const sleeper = next();
      if (sleeper === undefined) return false;
      await wakeNext(sleeper);
      return true;
    },
    async runUntil(done, limitMs = 86_400_000) {
      const end = monotonic + limitMs;
      // Sockets and worker threads answer after an unknown number of turns, so waiting comes before jumping.
      let patience = 200;
      const stuckAt = performance.now() + stuckAfterMs;
      for (;;) {
        await settle();
        if (done()) return;
        const sleeper = next();
        if (sleeper !== undefined && sleeper.dueAt() <= end && patience < 190) {
          await wakeNext(sleeper);
          patience = 200;
          continue;
        }
        patience -= 1;
        if (patience > 0) continue;
        // Nobody sleeps: what is waited for comes from outside of this thread, which a busy machine may hold up.
        if (performance.now() < stuckAt) await new Promise((resolve) => setTimeout(resolve, 1));
        else throw new Error(`condition not met within ${limitMs} ms of test time, ${sleeping.size} asleep`);
      }
    },
  };
}
