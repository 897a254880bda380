/**
 * What a stream waits for: a bell that many ring and one hears, and the newest item of a source, held until it is taken.
 * Both are light, because there are thousands of streams.
 */
import { abortReason } from '../../runtime/abort.ts';
import type { Clock } from '../../runtime/clock.ts';

export interface Bell {
  /** Ends the wait that is on, or the next one. */
  readonly ring: () => void;
  /** Waits for a ring, or for a wall-clock instant if there is one. Rejects with the signal's reason. */
  wait(at: number | undefined): Promise<void>;
}

/** @param signal lives no longer than whoever waits */
export function createBell(clock: Pick<Clock, 'sleepUntil'>, signal: AbortSignal): Bell {
  let rung = false;
  let wake: (() => void) | undefined;
  const ring = (): void => {
    rung = true;
    wake?.();
  };
  signal.addEventListener('abort', ring, { once: true });
  return {
    ring,
    async wait(at) {
      if (!rung && !signal.aborted) {
        const nap = at === undefined ? undefined : new AbortController();
        const rang = new Promise<void>((resolve) => {
          wake = resolve;
        });
        if (at !== undefined && nap !== undefined) clock.sleepUntil(at, nap.signal).then(ring, () => undefined);
        await rang;
        wake = undefined;
        nap?.abort();
      }
      rung = false;
      if (signal.aborted) throw abortReason(signal);
    },
  };
}

export interface Slot<T> {
  /** The item that came, once. @throws what the source failed with, when nothing is left to take */
  take(): T | undefined;
  /** The source is at its end, so nothing is left to take. */
  readonly ended: boolean;
  /** Takes no more; the source is told to end. */
  close(): void;
}

/**
 * Starts reading at once; the next item is asked for when the last was taken, so that whoever sends faster than we answer
 * is held back.
 */
export function openSlot<T>(source: AsyncIterable<T>, ring: () => void): Slot<T> {
  const items = source[Symbol.asyncIterator]();
  let held: { readonly item: T } | undefined;
  let failure: { readonly error: unknown } | undefined;
  let ended = false;

  // No async function: its frames and promises would be most of what a waiting stream takes.
  const pull = (): void => {
    items.next().then(
      (step) => {
        if (step.done === true) ended = true;
        else held = { item: step.value };
        ring();
      },
      (error: unknown) => {
        failure = { error };
        ring();
      },
    );
  };
  pull();

  return {
    take() {
      if (held !== undefined) {
        const { item } = held;
        held = undefined;
        pull();
        return item;
      }
      if (failure !== undefined) throw failure.error;
      return undefined;
    },
    get ended() {
      return ended;
    },
    close() {
      // One that is waiting hears of it when its own signal aborts.
      items.return?.().catch(() => undefined);
    },
  };
}
