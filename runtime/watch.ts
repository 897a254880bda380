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
  close(error?: Error): void;
}

export function createWatch<T>(initial: T): WatchSource<T> {
  let value = initial;
  let version = 0;
  let closed: { readonly error: Error | undefined } | undefined;
  const waiting = new Set<() => void>();

  const stir = (): void => {
    const woken = [...waiting];
    waiting.clear();
    for (const wake of woken) wake();
  };

  async function* values(signal: AbortSignal): AsyncIterableIterator<T> {
    if (signal.aborted) return;
    // One listener per reader and one fresh promise per wait: racing a promise that lives as long as the reader would
    // leave a reaction on it for every change.
    let wake: () => void = () => undefined;
    const onAbort = (): void => {
      waiting.delete(wake);
      wake();
    };
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
        await new Promise<void>((resolve) => {
          wake = resolve;
          waiting.add(resolve);
        });
      }
    } finally {
      signal.removeEventListener('abort', onAbort);
      waiting.delete(wake);
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
    close(error?: Error): void {
      if (closed !== undefined) return;
      closed = { error };
      stir();
    },
  };
}

/**
 * A Watch that is a function of another, computed once per change and only when somebody looks. Lives and ends with its
 * source; `transform` must not throw.
 */
export function mapWatch<A, B>(source: Watch<A>, transform: (value: A) => B): Watch<B> {
  let from: { readonly input: A; readonly output: B } | undefined;
  const mapped = (input: A): B => {
    if (from === undefined || from.input !== input) from = { input, output: transform(input) };
    return from.output;
  };
  return {
    get value() {
      return mapped(source.value);
    },
    async *values(signal: AbortSignal): AsyncIterableIterator<B> {
      for await (const input of source.values(signal)) yield mapped(input);
    },
  };
}
