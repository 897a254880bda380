/**
 * Time as the only thing that moves by itself: the wall clock, the monotonic clock, and waiting on either. The only
 * production file that touches timers and the system time.
 */

/**
 * `now` is wall time in epoch milliseconds, for instants that others see. `monotonic` is milliseconds since some fixed
 * point, for durations. Sleeps end early with the signal's reason.
 */
export interface Clock {
  now(): number;
  monotonic(): number;
  /** Waits a duration on the monotonic clock. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** Waits for a wall-clock instant, however long, and plans anew within 5 s when the wall clock steps or the machine resumes. */
  sleepUntil(at: number, signal?: AbortSignal): Promise<void>;
}
