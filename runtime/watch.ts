/**
 * `Watch<T>`: a current value and an async stream of newer ones. Slow readers skip to the newest; what must not be
 * skipped (the entry feed) does not use this.
 */

/** What readers get. */
export interface Watch<T> {
  readonly value: T;
  /**
   * Yields the current value, then each newest one after a change; values that came and went between two reads are
   * skipped. Ends when the signal aborts or the source closes; throws what the source failed with.
   */
  values(signal: AbortSignal): AsyncIterableIterator<T>;
}

/** What the owner holds. */
export interface WatchSource<T> extends Watch<T> {
  set(value: T): void;
  /** Ends all readers after they saw the last value; with an error, they throw it. */
  close(error?: unknown): void;
}

export function createWatch<T>(initial: T): WatchSource<T> {
  let value = initial;
  let version = 0;
  let closed: { readonly error: unknown } | undefined;
  let wake = Promise.withResolvers<void>();

  const stir = (): void => {
    wake.resolve();
    wake = Promise.withResolvers<void>();
  };

  async function* values(signal: AbortSignal): AsyncIterableIterator<T> {
    const aborted = Promise.withResolvers<void>();
    const onAbort = (): void => aborted.resolve();
    if (signal.aborted) return;
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      let seen = -1;
      while (!signal.aborted) {
        if (seen !== version) {
          seen = version;
          yield value;
          continue;
        }
        if (closed !== undefined) {
          if (closed.error !== undefined) throw closed.error;
          return;
        }
        await Promise.race([wake.promise, aborted.promise]);
      }
    } finally {
      signal.removeEventListener('abort', onAbort);
    }
  }

  return {
    get value() {
      return value;
    },
    values,
    set(next: T): void {
      if (closed !== undefined) return;
      value = next;
      version += 1;
      stir();
    },
    close(error?: unknown): void {
      if (closed !== undefined) return;
      closed = { error };
      stir();
    },
  };
}
