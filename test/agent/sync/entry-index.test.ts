import fc from 'fast-check';
import { expect, it } from 'vitest';
import { createEntryIndex } from '../../../agent/sync/entry-index.ts';
import { matchingEntries } from '../../../spiffe/authorize.ts';
import { parseSelector, type Selector } from '../../../spiffe/selector.ts';
import { testEntry } from '../../help/agent-server.ts';

const selector = fc.constantFrom('a:1', 'a:2', 'b:long-one', 'b:x', 'c:1:2').map(parseSelector);

it('yields the same matches as looking at every entry, whatever came and went', () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.array(selector, { maxLength: 4 }), fc.boolean()), { maxLength: 20 }),
      fc.array(selector),
      (made, process) => {
        const index = createEntryIndex();
        const entries = made.map(([selectors]) => testEntry('/x', selectors));
        entries.forEach((entry) => index.add(entry));
        entries.forEach((entry, i) => made[i]?.[1] === true && index.remove(entry));
        const left = entries.filter((_, i) => made[i]?.[1] === false);
        const set = new Set<Selector>(process);
        const found = matchingEntries(set, [...index.candidates(set)]);
        expect(found.map(({ id }) => id)).toEqual(matchingEntries(set, left).map(({ id }) => id));
      },
    ),
  );
});

it('an entry without selectors matches nobody', () => {
  const index = createEntryIndex();
  index.add(testEntry('/x', []));
  expect([...index.candidates(new Set([parseSelector('a:1')]))]).toEqual([]);
});
