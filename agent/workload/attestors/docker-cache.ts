/**
 * Answers about containers kept by their key, each asked for once however many want it, and the watch that tells when one
 * was dropped. How long an answer is good is the caller's rule; who drops it, and why, too.
 */
import { createWatch } from '../../../runtime/watch.ts';
import type { Watch, WatchSource } from '../../../runtime/watch.ts';

export interface AnswerCacheOptions<T> {
  readonly maxEntries: number;
  readonly maxWeight: number;
  readonly monotonic: () => number;
  readonly weigh: (answer: T) => number;
  /** Asked at every use, with the answer's age in milliseconds. */
  readonly isGood: (answer: T, ageMs: number) => boolean;
}

export interface AnswerCache<T> {
  /** What is kept, or what `ask` resolves with, shared with everybody who asks meanwhile. `ask` must not reject. */
  of(key: string, ask: () => Promise<T>): Promise<T>;
  /** Has another value after each `drop` of this key; closes when the key is forgotten. */
  changes(key: string): Watch<number>;
  /** Also of a question under way, whose answer then goes to those who wait for it and no further. */
  drop(key: string): void;
  /** Drops without a word what `matches`, and all questions under way. */
  dropIf(matches: (answer: T) => boolean): void;
  readonly size: number;
}

interface Entry<T> {
  kept: { readonly answer: T; readonly at: number; readonly weight: number } | undefined;
  asking: Promise<T> | undefined;
  changes: WatchSource<number> | undefined;
}

export function createAnswerCache<T>(options: AnswerCacheOptions<T>): AnswerCache<T> {
  const { maxEntries, maxWeight, monotonic, weigh, isGood } = options;
  /** The one used longest ago comes first. */
  const entries = new Map<string, Entry<T>>();
  let weight = 0;

  const put = (entry: Entry<T>, kept: Entry<T>['kept']): void => {
    weight += (kept?.weight ?? 0) - (entry.kept?.weight ?? 0);
    entry.kept = kept;
  };
  const makeRoom = (): void => {
    for (const [key, entry] of entries) {
      if (entries.size <= maxEntries && weight <= maxWeight) return;
      put(entry, undefined);
      entry.changes?.close();
      entries.delete(key);
    }
  };
  const use = (key: string): Entry<T> => {
    const entry = entries.get(key) ?? { kept: undefined, asking: undefined, changes: undefined };
    entries.delete(key);
    entries.set(key, entry);
    makeRoom();
    return entry;
  };
  const askFor = async (key: string, entry: Entry<T>, ask: () => Promise<T>): Promise<T> => {
    const asking = ask();
    entry.asking = asking;
    const answer = await asking;
    if (entry.asking !== asking) return answer;
    entry.asking = undefined;
    // It may have been forgotten meanwhile.
    if (entries.get(key) === entry) put(entry, { answer, at: monotonic(), weight: weigh(answer) });
    makeRoom();
    return answer;
  };

  return {
    async of(key, ask) {
      const entry = use(key);
      const { kept } = entry;
      if (kept !== undefined && isGood(kept.answer, monotonic() - kept.at)) return kept.answer;
      return entry.asking ?? askFor(key, entry, ask);
    },
    changes(key) {
      const entry = use(key);
      entry.changes ??= createWatch(0);
      return entry.changes;
    },
    drop(key) {
      const entry = entries.get(key);
      if (entry === undefined) return;
      put(entry, undefined);
      entry.asking = undefined;
      entry.changes?.set(entry.changes.value + 1);
    },
    dropIf(matches) {
      for (const entry of entries.values()) {
        entry.asking = undefined;
        if (entry.kept !== undefined && matches(entry.kept.answer)) put(entry, undefined);
      }
    },
    get size() {
      return entries.size;
    },
  };
}
