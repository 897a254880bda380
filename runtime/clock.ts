/**
 * Time as the only thing that moves by itself: the wall clock, the monotonic clock, and waiting on either. The only
 * production file that touches timers and the system time.
 */
import { abortReason } from './abort.ts';

/**
 * `now` is wall time in epoch milliseconds, for instants that others see. `monotonic` is milliseconds since some fixed
 * point, for durations. Sleeps end early by rejecting with the signal's reason.
 */
export interface Clock {
  now(): number;
  monotonic(): number;
  /** Waits a duration on the monotonic clock. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** Waits for a wall-clock instant, however long, and plans anew within 5 s when the wall clock steps or the machine resumes. */
  sleepUntil(at: number, signal?: AbortSignal): Promise<void>;
}

/** The readings a `Clock` is made of, apart so that tests can step them. */
export interface TimeSource {
  now(): number;
  monotonic(): number;
}

// A longer delay makes setTimeout fire at once.
const longestTimerMs = 2 ** 31 - 1;
const driftCheckMs = 5_000;
// Below this the difference is slewing, which the re-check at the end of each wait absorbs.
const stepMs = 500;

const systemTime: TimeSource = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
};

/**
 * A clock on real timers. A pending sleep keeps the process alive, so that a program which only waits to retry is not
 * taken for finished; whoever stops a task aborts its sleeps. Only the drift check is unreferenced.
 */
export function createClock(time: TimeSource = systemTime, checkMs: number = driftCheckMs): Clock {
  const replans = new Set<() => void>();
  let drift: NodeJS.Timeout | undefined;
  let offset = 0;

  const check = (): void => {
    const next = time.now() - time.monotonic();
    if (Math.abs(next - offset) < stepMs) return;
    offset = next;
    for (const replan of replans) replan();
  };
  const enter = (replan: () => void): void => {
    replans.add(replan);
    if (drift !== undefined) return;
    offset = time.now() - time.monotonic();
    drift = setInterval(check, checkMs);
    drift.unref();
  };
  const leave = (replan: () => void): void => {
    replans.delete(replan);
    if (replans.size > 0 || drift === undefined) return;
    clearInterval(drift);
    drift = undefined;
  };

  /** Waits until `remaining` says zero or less; asks again whenever a timer fires or the wall clock stepped. */
  const wait = (remaining: () => number, watchesWall: boolean, signal?: AbortSignal): Promise<void> =>
    new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        reject(abortReason(signal));
        return;
      }
      let timer: NodeJS.Timeout | undefined;
      const end = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        leave(plan);
      };
      const onAbort = (): void => {
        end();
        reject(signal === undefined ? new Error('aborted') : abortReason(signal));
      };
      const plan = (): void => {
        clearTimeout(timer);
        const ms = remaining();
        if (ms <= 0) {
          end();
          resolve();
          return;
        }
        timer = setTimeout(plan, Math.min(Math.ceil(ms), longestTimerMs));
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      if (watchesWall) enter(plan);
      plan();
    });

  return {
    now: () => time.now(),
    monotonic: () => time.monotonic(),
    sleep(ms, signal) {
      const end = time.monotonic() + ms;
      return wait(() => end - time.monotonic(), false, signal);
    },
    sleepUntil(at, signal) {
      return wait(() => at - time.now(), true, signal);
    },
  };
}

/** The machine's own clock. */
export const systemClock: Clock = createClock();

/** Resolves once everything else that can run has had its turn: for work that would hold the others up if it went on. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
