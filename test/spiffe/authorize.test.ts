import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import {
  aliasesFor,
  authorizedEntries,
  coveredEntries,
  explainMatch,
  isAlias,
  matchingEntries,
  settleHints,
} from '../../spiffe/authorize.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import type { Selector } from '../../spiffe/selector.ts';

interface Row {
  readonly id: string;
  readonly spiffeId: SpiffeId;
  readonly parentId: SpiffeId;
  readonly selectors: readonly Selector[];
  readonly hint: string;
  readonly createdAt: number;
}

const spiffe = (path: string): SpiffeId => `spiffe://example.org${path}` as SpiffeId;
const agent = spiffe('/spire/agent/a');
const server = spiffe('/spire/server');

function row(id: string, parent: SpiffeId, own: SpiffeId, selectors: string[] = ['a:1'], rest: Partial<Row> = {}): Row {
  return { id, parentId: parent, spiffeId: own, selectors: selectors as unknown as Selector[], hint: '', createdAt: 0, ...rest };
}

const set = (...texts: string[]): ReadonlySet<Selector> => new Set(texts as unknown as Selector[]);
const childrenIn =
  (rows: readonly Row[]) =>
  (parent: SpiffeId): readonly Row[] =>
    rows.filter((r) => r.parentId === parent);
const ids = (rows: Iterable<Row>): string[] => [...rows].map((r) => r.id).toSorted();

describe('authorizedEntries', () => {
  it('takes children of the agent and of its aliases, and theirs in turn', () => {
    const rows = [
      row('direct', agent, spiffe('/web')),
      row('nested', spiffe('/web'), spiffe('/web/worker')),
      row('deeper', spiffe('/web/worker'), spiffe('/web/worker/child')),
      row('of-alias', spiffe('/rack-1'), spiffe('/db')),
      row('elsewhere', spiffe('/spire/agent/b'), spiffe('/other')),
      row('below-elsewhere', spiffe('/other'), spiffe('/other/x')),
      row('alias', server, spiffe('/rack-1')),
    ];
    expect(ids(authorizedEntries([agent, spiffe('/rack-1')], childrenIn(rows)))).toEqual([
      'deeper',
      'direct',
      'nested',
      'of-alias',
    ]);
  });

  it('ends on cycles and yields each entry once', () => {
    const rows = [
      row('in', agent, spiffe('/a')),
      row('a-b', spiffe('/a'), spiffe('/b')),
      row('b-a', spiffe('/b'), spiffe('/a')),
      row('self', spiffe('/b'), spiffe('/b')),
      row('back', spiffe('/b'), agent),
    ];
    expect(ids(authorizedEntries([agent, agent, spiffe('/a')], childrenIn(rows)))).toEqual(['a-b', 'b-a', 'back', 'in', 'self']);
  });

  it('never sends aliases, whatever leads to the server', () => {
    const rows = [row('odd', agent, server), row('alias', server, spiffe('/rack')), row('below', spiffe('/rack'), spiffe('/x'))];
    expect(ids(authorizedEntries([agent], childrenIn(rows)))).toEqual(['odd']);
    expect(ids(authorizedEntries([server], childrenIn(rows)))).toEqual([]);
  });

  it('ignores entries that lead out of the trust domain', () => {
    const evil = 'spiffe://example.org.evil/a' as SpiffeId;
    expect(ids(authorizedEntries([agent], childrenIn([row('out', agent, evil), row('further', evil, spiffe('/x'))])))).toEqual(
      [],
    );
  });

  it('asks for the children of each parent once, and of no more than the caller walks', () => {
    const asked: SpiffeId[] = [];
    const rows = [row('1', agent, spiffe('/a')), row('2', agent, spiffe('/a')), row('3', spiffe('/a'), spiffe('/a'))];
    const walk = authorizedEntries([agent], (parent) => {
      asked.push(parent);
      return childrenIn(rows)(parent);
    });
    walk.next();
    expect(asked).toEqual([agent]);
    expect([...walk]).toHaveLength(2);
    expect(asked).toEqual([agent, spiffe('/a')]);
  });

  it('agrees with a fixed point over all entries', () => {
    const name = fc.constantFrom('/a', '/b', '/c', '/d', '/e', '/spire/server', '/spire/agent/a').map(spiffe);
    const rows = fc
      .array(fc.tuple(name, name), { maxLength: 14 })
      .map((pairs) => pairs.map(([parent, own], n) => row(`e${n}`, parent, own)));
    fc.assert(
      fc.property(rows, fc.subarray(['/a', '/b'].map(spiffe)), (all, aliases) => {
        const held = new Set<Row>();
        for (let before = -1; before !== held.size;) {
          before = held.size;
          const parents = new Set([agent, ...aliases, ...[...held].map((r) => r.spiffeId)]);
          for (const r of all) if (parents.has(r.parentId) && r.parentId !== server) held.add(r);
        }
        expect(ids(authorizedEntries([agent, ...aliases], childrenIn(all)))).toEqual(ids(held));
      }),
      { numRuns: 500 },
    );
  });
});

describe('aliases', () => {
  it.each([
    ['/spire/server', true],
    ['/spire/server/x', false],
    ['/spire/agent/a', false],
  ])('an entry under %s is one: %s', (path, expected) => {
    expect(isAlias({ parentId: spiffe(path) })).toBe(expected);
  });

  it('are granted to agents with all of their selectors, each once', () => {
    const rows = [
      row('1', server, spiffe('/rack'), ['n:1']),
      row('2', server, spiffe('/rack'), ['n:2']),
      row('3', server, spiffe('/both'), ['n:1', 'n:2']),
      row('4', server, spiffe('/no'), ['n:1', 'n:3']),
      row('5', server, spiffe('/everybody'), []),
    ];
    expect(aliasesFor(set('n:1', 'n:2', 'n:9'), rows)).toEqual([spiffe('/rack'), spiffe('/both')]);
  });
});

describe('matchingEntries', () => {
  it('matches exact subsets, ordered by id', () => {
    const rows = [
      row('c', agent, spiffe('/c'), ['a:1']),
      row('a', agent, spiffe('/a'), ['b:2', 'a:1']),
      row('b', agent, spiffe('/b'), ['a:1', 'c:3']),
      row('B', agent, spiffe('/B'), ['a:1']),
      row('e', agent, spiffe('/e'), []),
      row('f', agent, spiffe('/f'), ['A:1']),
    ];
    expect(matchingEntries(set('a:1', 'b:2'), rows).map((r) => r.id)).toEqual(['B', 'a', 'c']);
  });

  it('WLAPI-12: of an equal hint the oldest stays, then the smallest id, in its place', () => {
    const rows = [
      row('d', agent, spiffe('/d'), ['a:1'], { hint: 'x', createdAt: 1000 }),
      row('a', agent, spiffe('/a'), ['a:1'], { hint: 'x', createdAt: 2000 }),
      row('c', agent, spiffe('/c'), ['a:1'], { hint: 'x', createdAt: 1000 }),
      row('b', agent, spiffe('/b'), ['a:1']),
      row('e', agent, spiffe('/e'), ['a:1']),
      row('f', agent, spiffe('/f'), ['z:1'], { hint: 'x', createdAt: 1 }),
    ];
    expect(matchingEntries(set('a:1'), rows).map((r) => r.id)).toEqual(['b', 'c', 'e']);
    expect(coveredEntries(set('a:1'), rows).map((r) => r.id)).toEqual(['a', 'b', 'c', 'd', 'e']);
  });

  it('agrees with a naive oracle', () => {
    const selector = fc.constantFrom('a:1', 'a:2', 'b:1', 'b:2', 'c:1');
    const rows = fc
      .array(fc.tuple(fc.uniqueArray(selector, { maxLength: 4 }), fc.constantFrom('', '', 'x', 'y'), fc.nat(3)), {
        maxLength: 10,
      })
      .chain((list) =>
        fc.shuffledSubarray(list.map(([own, hint, createdAt], n) => row(`${n}`, agent, agent, own, { hint, createdAt }))),
      );
    fc.assert(
      fc.property(rows, fc.uniqueArray(selector), (all, held) => {
        const matched = all.filter((r) => r.selectors.length > 0 && r.selectors.every((s) => (held as readonly string[]).includes(s)));
        const beaten = (r: Row): boolean =>
          r.hint !== '' &&
          matched.some(
            (o) => o !== r && o.hint === r.hint && (o.createdAt < r.createdAt || (o.createdAt === r.createdAt && o.id < r.id)),
          );
        const expected = ids(matched.filter((r) => !beaten(r)));
        expect(matchingEntries(set(...held), all).map((r) => r.id)).toEqual(expected);
      }),
      { numRuns: 500 },
    );
  });

  it('leaves entries without a hint alone', () => {
    const rows = [row('1', agent, spiffe('/a')), row('2', agent, spiffe('/b'))];
    expect(settleHints(rows)).toEqual(rows);
  });
});

describe('explainMatch', () => {
  const rows = [
    row('far', agent, spiffe('/far'), ['x:1', 'x:2', 'x:3']),
    row('near-but-little', agent, spiffe('/nbl'), ['x:9']),
    row('near', agent, spiffe('/near'), ['b:2', 'a:1', 'x:9']),
    row('match', agent, spiffe('/match'), ['a:1']),
  ];

  it('puts what matches first, then what misses least, then what has most', () => {
    const explained = explainMatch(set('a:1', 'b:2'), rows, 3);
    expect(explained.map(({ entry, matched, missing }) => [entry.id, matched, missing])).toEqual([
      ['match', ['a:1'], []],
      ['near', ['a:1', 'b:2'], ['x:9']],
      ['near-but-little', [], ['x:9']],
    ]);
  });
});
