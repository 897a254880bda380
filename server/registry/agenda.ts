/**
 * Things that fall due, the earliest first: a binary heap. Whether a thing still matters when it is due is asked of
 * whoever put it there.
 */

export interface Agenda<Item> {
  readonly nextAt: number | undefined;
  add(at: number, item: Item): void;
  /** Takes out the earliest, if it is due at the instant. */
  takeDue(now: number): Item | undefined;
}

export function createAgenda<Item>(): Agenda<Item> {
  const heap: { readonly at: number; readonly item: Item }[] = [];

  const earlier = (a: number, b: number): boolean => (heap[a]?.at ?? Infinity) < (heap[b]?.at ?? Infinity);
  const swap = (a: number, b: number): void => {
    const first = heap[a];
    const second = heap[b];
    if (first === undefined || second === undefined) return;
    heap[a] = second;
    heap[b] = first;
  };

  return {
    get nextAt() {
      return heap[0]?.at;
    },
    add(at, item) {
      heap.push({ at, item });
      for (let child = heap.length - 1; child > 0; ) {
        const parent = (child - 1) >> 1;
        if (!earlier(child, parent)) return;
        swap(child, parent);
        child = parent;
      }
    },
    takeDue(now) {
      const first = heap[0];
      if (first === undefined || first.at > now) return undefined;
      const last = heap.pop();
      if (last === undefined || heap.length === 0) return first.item;
      heap[0] = last;
      for (let parent = 0; ; ) {
        const left = 2 * parent + 1;
        const child = earlier(left + 1, left) ? left + 1 : left;
        if (!earlier(child, parent)) return first.item;
        swap(child, parent);
        parent = child;
      }
    },
  };
}
