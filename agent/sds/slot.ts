/**
 * The newest item of a stream, held until it is taken; the next is asked for only then, so that whoever sends faster than
 * we answer is held back. Waiting is the taker's: it is rung when there is something to take.
 */

export interface Slot<T> {
  /** The item that came, once. @throws what the stream failed with, when nothing is left to take */
  take(): T | undefined;
  readonly ended: boolean;
  /** Takes no more; the stream is told to end. */
  close(): void;
}

/** Starts reading at once. */
export function openSlot<T>(source: AsyncIterable<T>, ring: () => void): Slot<T> {
  let held: { readonly item: T } | undefined;
  let failure: { readonly error: unknown } | undefined;
  let ended = false;
  let closed = false;
  let proceed: () => void = () => undefined;

  const read = async (): Promise<void> => {
    try {
      for await (const item of source) {
        if (closed) return;
        held = { item };
        ring();
        await new Promise<void>((resolve) => {
          proceed = resolve;
        });
        // Closed while it waited.
        if (isClosed()) return;
      }
    } catch (error) {
      failure = { error };
    } finally {
      ended = true;
      ring();
    }
  };
  const isClosed = (): boolean => closed;
  void read();

  return {
    take() {
      if (held !== undefined) {
        const { item } = held;
        held = undefined;
        proceed();
        return item;
      }
      if (failure !== undefined) throw failure.error;
      return undefined;
    },
    get ended() {
      return ended && held === undefined;
    },
    close() {
      closed = true;
      proceed();
    },
  };
}
