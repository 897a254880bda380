import { describe, expect, it } from 'vitest';
import { createWatch, mapWatch } from '../../runtime/watch.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

describe('Watch', () => {
  it('yields the current value, then only the newest after a change', async () => {
    const source = createWatch(1);
    const values = source.values(new AbortController().signal);
    expect((await values.next()).value).toBe(1);
    source.set(2);
    source.set(3);
    expect((await values.next()).value).toBe(3);
    const pending = values.next();
    source.set(4);
    expect((await pending).value).toBe(4);
    await values.return?.();
  });

  it('ends waiting readers when the signal aborts, and never starts on an aborted one', async () => {
    const source = createWatch('a');
    const stop = new AbortController();
    const values = source.values(stop.signal);
    await values.next();
    const pending = values.next();
    stop.abort();
    expect((await pending).done).toBe(true);
    expect((await source.values(stop.signal).next()).done).toBe(true);
  });

  it('shows the last value before it ends, and throws what the source failed with', async () => {
    const source = createWatch('a');
    const values = source.values(new AbortController().signal);
    await values.next();
    source.set('b');
    source.close(new SpiffeError('unavailable', 'test.gone', 'gone'));
    source.set('ignored');
    expect((await values.next()).value).toBe('b');
    await expect(values.next()).rejects.toMatchObject({ reason: 'test.gone' });
    expect(source.value).toBe('b');
  });

  it('wakes every reader', async () => {
    const source = createWatch(0);
    const signal = new AbortController().signal;
    const readers = [source.values(signal), source.values(signal), source.values(signal)];
    for (const reader of readers) await reader.next();
    const pending = readers.map((reader) => reader.next());
    source.set(7);
    expect((await Promise.all(pending)).map((result) => result.value)).toEqual([7, 7, 7]);
  });

  it('keeps one listener per reader and no memory per wait', async () => {
    if (globalThis.gc === undefined) {
      const { setFlagsFromString } = await import('node:v8');
      setFlagsFromString('--expose-gc');
    }
    const { runInNewContext } = await import('node:vm');
    const collect = runInNewContext('gc') as () => void;
    const signal = new AbortController().signal;
    const counted = countListeners(signal);
    const source = createWatch(0);
    const values = source.values(signal);
    const turn = async (times: number): Promise<void> => {
      for (let i = 0; i < times; i += 1) {
        const pending = values.next();
        source.set(source.value + 1);
        await pending;
      }
    };
    await values.next();
    await turn(5_000);
    collect();
    const before = process.memoryUsage().heapUsed;
    await turn(100_000);
    collect();
    const grown = process.memoryUsage().heapUsed - before;
    // A reaction left behind per wait is more than 100 bytes: 10 MB here.
    expect(grown).toBeLessThan(3_000_000);
    expect(counted()).toBe(1);
    await values.return?.();
    expect(counted()).toBe(0);
  });

  it('removes its listener when a reader breaks off', async () => {
    const signal = new AbortController().signal;
    const counted = countListeners(signal);
    const source = createWatch(1);
    for await (const value of source.values(signal)) {
      expect(value).toBe(1);
      break;
    }
    expect(counted()).toBe(0);
  });
});

describe('mapWatch', () => {
  it('follows its source and computes once per change', async () => {
    const source = createWatch(1);
    let computed = 0;
    const doubled = mapWatch(source, (value) => {
      computed += 1;
      return value * 2;
    });
    const values = doubled.values(new AbortController().signal);
    expect((await values.next()).value).toBe(2);
    expect(doubled.value).toBe(2);
    source.set(5);
    expect((await values.next()).value).toBe(10);
    expect(doubled.value).toBe(10);
    expect(computed).toBe(2);
  });
});

function countListeners(signal: AbortSignal): () => number {
  const live = new Set<unknown>();
  const add = signal.addEventListener.bind(signal);
  const remove = signal.removeEventListener.bind(signal);
  signal.addEventListener = (type: string, listener: Parameters<typeof add>[1]) => {
    live.add(listener);
    add(type, listener);
  };
  signal.removeEventListener = (type: string, listener: Parameters<typeof remove>[1]) => {
    live.delete(listener);
    remove(type, listener);
  };
  return () => live.size;
}
