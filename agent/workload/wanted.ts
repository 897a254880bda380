/**
 * Which kinds of selectors the held entries ask for, so that costly facts are established only when somebody wants them.
 * A new value comes only when a kind comes or goes, not with every entry.
 */
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import type { Selector } from '../../spiffe/selector.ts';
import { createWatch, type Watch } from '../../runtime/watch.ts';
import type { WantedSelectors } from './attestor.ts';

export interface WantedOwner {
  readonly wanted: Watch<WantedSelectors>;
  /** To be told of each new set of held entries. */
  update(entries: ReadonlyMap<string, RegistrationEntry>): void;
}

export function createWanted(): WantedOwner {
  const watch = createWatch<WantedSelectors>(wantedOf(new Set()));
  let kinds: ReadonlySet<string> = new Set();
  let counted: ReadonlyMap<string, RegistrationEntry> = new Map();
  const counts = new Map<string, number>();

  const count = (entry: RegistrationEntry, by: 1 | -1): void => {
    for (const selector of entry.selectors) {
      const kind = kindOf(selector);
      const now = (counts.get(kind) ?? 0) + by;
      if (now <= 0) counts.delete(kind);
      else counts.set(kind, now);
    }
  };

  return {
    wanted: watch,
    update(entries) {
      if (entries === counted) return;
      for (const entry of counted.values()) if (entries.get(entry.id) !== entry) count(entry, -1);
      for (const entry of entries.values()) if (counted.get(entry.id) !== entry) count(entry, 1);
      counted = entries;
      if (counts.size === kinds.size && [...counts.keys()].every((kind) => kinds.has(kind))) return;
      kinds = new Set(counts.keys());
      watch.set(wantedOf(kinds));
    },
  };
}

/** `type:name:` of `type:name:value`; the whole selector when its value has no name. */
function kindOf(selector: Selector): string {
  const name = selector.indexOf(':', selector.indexOf(':') + 1);
  return name < 0 ? selector : selector.slice(0, name + 1);
}

function wantedOf(kinds: ReadonlySet<string>): WantedSelectors {
  return {
    asks(prefix) {
      if (kinds.has(prefix)) return true;
      for (const kind of kinds) if (kind.startsWith(prefix)) return true;
      return false;
    },
  };
}
