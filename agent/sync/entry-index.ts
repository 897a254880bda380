/**
 * Held entries filed by one selector each, so that matching a process costs its selectors and not the entries. The rule
 * itself, every selector of the entry among those of the process, is `spiffe/authorize.ts`.
 */
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import type { Selector, SelectorSet } from '../../spiffe/selector.ts';

export interface EntryIndex {
  /** Every entry that can match the set, and some that do not. */
  candidates(selectors: SelectorSet): Iterable<RegistrationEntry>;
  add(entry: RegistrationEntry): void;
  remove(entry: RegistrationEntry): void;
}

export function createEntryIndex(): EntryIndex {
  const bySelector = new Map<Selector, Map<string, RegistrationEntry>>();

  /** The longest is the least likely to be shared: `unix:path:…` rather than `unix:uid:0`. */
  const fileUnder = (entry: RegistrationEntry): Selector | undefined => {
    let longest = entry.selectors[0];
    for (const selector of entry.selectors) if (longest === undefined || selector.length > longest.length) longest = selector;
    return longest;
  };

  return {
    *candidates(selectors) {
      for (const selector of selectors) yield* bySelector.get(selector)?.values() ?? [];
    },
    add(entry) {
      const key = fileUnder(entry);
      // An entry without selectors would match everybody, so it matches nobody.
      if (key === undefined) return;
      const filed = bySelector.get(key);
      if (filed === undefined) bySelector.set(key, new Map([[entry.id, entry]]));
      else filed.set(entry.id, entry);
    },
    remove(entry) {
      const key = fileUnder(entry);
      const filed = key === undefined ? undefined : bySelector.get(key);
      if (key === undefined || filed === undefined) return;
      filed.delete(entry.id);
      if (filed.size === 0) bySelector.delete(key);
    },
  };
}
