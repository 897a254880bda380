/**
 * One waiter that sleeps until an instant or until somebody rings, whichever comes first. What there is to do then, the
 * waiter finds out for itself.
 */
import { abortReason, linkedController, untilAborted } from '../runtime/abort.ts';
import type { Clock } from '../runtime/clock.ts';

export interface Alarm {
  /** Ends the wait that is on, or the next one. */
  ring(): void;
  /** Waits for a wall-clock instant, or for a ring alone when there is none. Rejects with the signal's reason. */
  until(at: number | undefined, signal: AbortSignal): Promise<void>;
  /** Waits a duration on the monotonic clock. Rejects with the signal's reason. */
  after(ms: number, signal: AbortSignal): Promise<void>;
}

const rang = new Error('rang');

export function createAlarm(clock: Clock): Alarm {
  let rung = false;
  let wake: (() => void) | undefined;

  const wait = async (sleep: (signal: AbortSignal) => Promise<void>, signal: AbortSignal): Promise<void> => {
    if (signal.aborted) throw abortReason(signal);
    if (!rung) {
      const nap = linkedController(signal);
      wake = () => nap.abort(rang);
      try {
        await sleep(nap.signal);
      } catch (error) {
        if (signal.aborted) throw abortReason(signal);
        if (error !== rang) throw error;
      } finally {
        wake = undefined;
        nap.unlink();
      }
    }
    rung = false;
  };

  return {
    ring() {
      rung = true;
      wake?.();
    },
    until: (at, signal) =>
      wait((nap) => (at === undefined ? untilAborted(new Promise<never>(() => undefined), nap) : clock.sleepUntil(at, nap)), signal),
    after: (ms, signal) => wait((nap) => clock.sleep(ms, nap), signal),
  };
}
