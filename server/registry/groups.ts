/**
 * Many items under one key, at the price of one where a key has but one.
 */

export interface Groups<Item extends object> {
  add(key: string, item: Item): void;
  remove(key: string, item: Item): void;
  /** Not to be kept while the group changes. */
  of(key: string): Iterable<Item>;
  count(key: string): number;
}

export function createGroups<Item extends object>(): Groups<Item> {
  const groups = new Map<string, Item | Set<Item>>();
  return {
    add(key, item) {
      const group = groups.get(key);
      if (group === undefined) groups.set(key, item);
      else if (group instanceof Set) group.add(item);
      else if (group !== item) groups.set(key, new Set([group, item]));
    },
    remove(key, item) {
      const group = groups.get(key);
      if (group === item) {
        groups.delete(key);
      } else if (group instanceof Set) {
        group.delete(item);
        if (group.size === 0) groups.delete(key);
      }
    },
    of(key) {
      const group = groups.get(key);
      if (group === undefined) return [];
      return group instanceof Set ? group : [group];
    },
    count(key) {
      const group = groups.get(key);
      if (group === undefined) return 0;
      return group instanceof Set ? group.size : 1;
    },
  };
}
