import { describe, expect, test } from 'vitest';

import { createEntryIndex } from '../../../server/registry/index.ts';
import type { EntryFilter, EntryIndex } from '../../../server/registry/index.ts';
import { composeEntry } from '../../../spiffe/entry.ts';
import type { EntryDraft, RegistrationEntry } from '../../../spiffe/entry.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { draftOf, exampleOrg, idOf } from '../../help/store.ts';

const now = 1_000_000;
const parent = '/spire/agent/test/a';
const one = parseTrustDomain('one.example');
const two = parseTrustDomain('two.example');

function entryOf(id: string, path: string, fields: Partial<EntryDraft> = {}, parentPath = parent): RegistrationEntry {
  return composeEntry(draftOf(path, parentPath, ['a:1'], fields), { id, createdAt: 0, revisionNumber: 0 });
}

function put(index: EntryIndex, row: number, entry: RegistrationEntry, at = now) {
  return index.apply({ noun: 'entry', revision: row, id: entry.id, entry, row }, at);
}

function take(index: EntryIndex, id: string) {
  return index.apply({ noun: 'entry', revision: 0, id, entry: undefined, row: 0 }, now);
}

const idsOf = (entries: Iterable<RegistrationEntry>): string[] => [...entries].map(({ id }) => id);

function pages(index: EntryIndex, filter: EntryFilter, size: number): string[][] {
  const found: string[][] = [];
  let token = '';
  do {
    const page = index.list(filter, size, token);
    found.push(idsOf(page.items));
    token = page.nextToken;
  } while (token !== '');
  return found;
}

describe('look-ups', () => {
  test('an entry is found by id, parent and SPIFFE ID, and where it was no more after it moved', () => {
    const index = createEntryIndex(exampleOrg, 10);
    const web = entryOf('web', '/web');
    put(index, 1, web);
    put(index, 2, entryOf('web2', '/web', { hint: 'second' }));
    expect(idsOf(index.childrenOf(web.parentId))).toEqual(['web', 'web2']);
    expect(idsOf(index.bySpiffeId(web.spiffeId))).toEqual(['web', 'web2']);
    const moved = entryOf('web', '/green', {}, '/other');
    expect(put(index, 1, moved)).toEqual({ id: 'web', before: web, after: moved });
    expect(idsOf(index.childrenOf(web.parentId))).toEqual(['web2']);
    expect(idsOf(index.bySpiffeId(web.spiffeId))).toEqual(['web2']);
    expect(idsOf(index.childrenOf(idOf('/other')))).toEqual(['web']);
    expect(take(index, 'web')).toEqual({ id: 'web', before: moved, after: undefined });
    expect(take(index, 'web')).toEqual({ id: 'web', before: undefined, after: undefined });
    expect([index.get('web'), index.size, [...index.childrenOf(idOf('/other'))]]).toEqual([undefined, 1, []]);
  });

  test('aliases are what hangs directly below the server', () => {
    const index = createEntryIndex(exampleOrg, 10);
    put(index, 1, entryOf('alias', '/rack', {}, '/spire/server'));
    put(index, 2, entryOf('no-alias', '/rack', {}, '/spire/server/below'));
    expect(idsOf(index.aliases())).toEqual(['alias']);
  });

  test('the cap refuses with its reason, counts what is on its way, and gives room back', () => {
    const index = createEntryIndex(exampleOrg, 3);
    put(index, 1, entryOf('a', '/a'));
    const release = index.reserve(2);
    expect(() => index.reserve(1)).toThrow(expect.objectContaining({ kind: 'limited', reason: 'entries.cap' }));
    release();
    release();
    put(index, 2, entryOf('b', '/b'));
    expect(() => index.reserve(2)).toThrow(expect.objectContaining({ reason: 'entries.cap' }));
    index.reserve(1)();
  });
});

describe('expiry', () => {
  test('entries end at their instant, each once, the earliest first, and stay listed until they are deleted', () => {
    const index = createEntryIndex(exampleOrg, 10);
    const ends = [30, 10, 20, 50, 40].map((ms) => entryOf(`at${ms}`, `/at${ms}`, { expiresAt: now + ms }));
    for (const [row, entry] of ends.entries()) put(index, row + 1, entry);
    expect(index.nextExpiryAt).toBe(now + 10);
    expect([...index.expire(now + 9)]).toEqual([]);
    expect([...index.expire(now + 30)].map(({ id, before, after }) => [id, before?.id, after])).toEqual([
      ['at10', 'at10', undefined],
      ['at20', 'at20', undefined],
      ['at30', 'at30', undefined],
    ]);
    expect([...index.expire(now + 30)]).toEqual([]);
    expect(idsOf(index.childrenOf(idOf(parent))).sort()).toEqual(['at40', 'at50']);
    expect([index.size, index.expired, index.getLive('at10'), index.get('at10')?.id]).toEqual([5, 3, undefined, 'at10']);
    expect(index.list({}, 0, '').items).toHaveLength(5);
    take(index, 'at10');
    expect(index.expired).toBe(2);
  });

  test('an entry whose end was moved ends at the new one; one that is over comes back with a later end', () => {
    const index = createEntryIndex(exampleOrg, 10);
    put(index, 1, entryOf('web', '/web', { expiresAt: now + 10 }));
    put(index, 1, entryOf('web', '/web', { expiresAt: now + 100 }));
    expect([...index.expire(now + 99)]).toEqual([]);
    expect([...index.expire(now + 100)].map(({ id }) => id)).toEqual(['web']);
    const again = put(index, 1, entryOf('web', '/web', { expiresAt: now + 300 }), now + 200);
    expect([again.before, again.after?.id, index.expired]).toEqual([undefined, 'web', 0]);
    expect(put(index, 2, entryOf('late', '/late', { expiresAt: now }), now).after).toBeUndefined();
  });
});

describe('lists [SPIRE contract 12]', () => {
  const made: readonly (readonly [string, string, Partial<EntryDraft>])[] = [
    ['s1', '/s', { selectors: ['a:1'].map(parseSelector) }],
    ['s12', '/s', { selectors: ['a:1', 'a:2'].map(parseSelector) }],
    ['s123', '/s', { selectors: ['a:1', 'a:2', 'a:3'].map(parseSelector) }],
    ['s4', '/s', { selectors: ['a:4'].map(parseSelector) }],
    ['f1', '/f', { federatesWith: [one] }],
    ['f12', '/f', { federatesWith: [one, two], hint: 'blue' }],
    ['down', '/d', { downstream: true }],
  ];
  const members = (...names: string[]) => new Set(names.map(parseSelector));
  const filters: readonly (readonly [string, EntryFilter, readonly string[]])[] = [
    ['nothing', {}, ['s1', 's12', 's123', 's4', 'f1', 'f12', 'down']],
    ['exact selectors', { selectors: { members: members('a:2', 'a:1'), behavior: 'exact' } }, ['s12']],
    ['a subset', { selectors: { members: members('a:1', 'a:2'), behavior: 'subset' } }, ['s1', 's12', 'f1', 'f12', 'down']],
    ['a superset', { selectors: { members: members('a:1', 'a:2'), behavior: 'superset' } }, ['s12', 's123']],
    ['any', { selectors: { members: members('a:3', 'a:4'), behavior: 'any' } }, ['s123', 's4']],
    ['exact federation', { federatesWith: { members: new Set([one]), behavior: 'exact' } }, ['f1']],
    ['federation subset, the empty one not', { federatesWith: { members: new Set([one, two]), behavior: 'subset' } }, ['f1', 'f12']],
    ['hint', { hint: 'blue' }, ['f12']],
    ['downstream', { downstream: true }, ['down']],
    ['SPIFFE ID', { spiffeId: idOf('/f') }, ['f1', 'f12']],
    ['SPIFFE ID and hint', { spiffeId: idOf('/f'), hint: 'blue' }, ['f12']],
    ['parent', { parentId: idOf('/nowhere') }, []],
  ];
  test.each(filters)('filtered by %s, before the page is cut', (_name, filter, expected) => {
    const index = createEntryIndex(exampleOrg, 100);
    for (const [row, [id, path, fields]] of made.entries()) put(index, row + 1, entryOf(id, path, fields));
    expect(idsOf(index.list(filter, 0, '').items)).toEqual(expected);
    expect(index.list(filter, 0, '').nextToken).toBe('');
    expect(index.count(filter)).toBe(expected.length);
    const cut = pages(index, filter, 2);
    expect(cut.flat()).toEqual(expected);
    // A page with items always has a token, so an empty one ends the list.
    expect(cut.at(-1)).toEqual([]);
    expect(cut.slice(0, -1).every((page) => page.length > 0)).toBe(true);
  });

  test('what is added or deleted meanwhile moves nothing, however much is deleted', () => {
    const index = createEntryIndex(exampleOrg, 10_000);
    for (let row = 1; row <= 6_000; row += 1) put(index, row, entryOf(`e${row}`, `/w${row % 7}`));
    const first = index.list({}, 100, '');
    for (let row = 1; row <= 5_000; row += 1) if (row % 10 !== 0) take(index, `e${row}`);
    put(index, 6_001, entryOf('e6001', '/new'));
    const rest = index.list({}, 0, first.nextToken).items;
    const expected = Array.from({ length: 6_001 }, (_, at) => at + 1).filter((row) => row > 100 && (row > 5_000 || row % 10 === 0));
    expect(idsOf(rest)).toEqual(expected.map((row) => `e${row}`));
    expect(idsOf(index.list({ parentId: idOf(parent) }, 3, '5').items)).toEqual(['e10', 'e20', 'e30']);
  });

  test.each(['x', '-1', '1.5', '99999999999999999', ' 1'])('a token that is not ours is refused: %j', (token) => {
    expect(() => createEntryIndex(exampleOrg, 1).list({}, 1, token)).toThrow(expect.objectContaining({ kind: 'internal', reason: 'entries.page-token' }));
  });
});
