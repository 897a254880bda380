import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  federatesWithMatchFromMessage,
  federatesWithMatchToMessage,
  selectorFromMessage,
  selectorMatchFromMessage,
  selectorMatchToMessage,
  selectorToMessage,
  selectorsFromMessages,
  type MatchBehavior,
} from '../../../proto/convert/selector.ts';
import { loadServices } from '../../../proto/load.ts';
import { overTheWire, selectors } from './arbitrary.ts';

const service = 'spire.api.server.entry.v1.Entry';
const { requestType } = loadServices(service)[service].ListEntries;

describe('selectors in messages', () => {
  it('survive the way there and back, colons in the value included', () => {
    fc.assert(
      fc.property(selectors, (selector) => {
        const { type = '', value = '' } = selectorToMessage(selector);
        expect(selectorFromMessage({ type, value })).toBe(selector);
      }),
    );
    expect(selectorToMessage(selectorFromMessage({ type: 'docker', value: 'label:a:b' }))).toEqual({
      type: 'docker',
      value: 'label:a:b',
    });
  });

  it.each([
    [{ type: '', value: 'v' }, 'selector.type.missing', 'missing selector type'],
    [{ type: 'a:b', value: 'v' }, 'selector.type.colon', "selector type contains ':'"],
    [{ type: 'a', value: '' }, 'selector.value.missing', 'missing selector value'],
  ])('refuse %j', (message, reason, text) => {
    expect(() => selectorFromMessage(message)).toThrowError(
      expect.objectContaining({ kind: 'invalid', reason, message: text }),
    );
  });

  it('keep order and repeats, which are for the rules of the entry to judge', () => {
    const list = [{ type: 'b', value: '1' }, { type: 'a', value: '1' }, { type: 'b', value: '1' }];
    expect(selectorsFromMessages(list)).toEqual(['b:1', 'a:1', 'b:1']);
  });
});

describe('match filters', () => {
  it.each<[number, MatchBehavior]>([
    [0, 'exact'],
    [1, 'subset'],
    [2, 'superset'],
    [3, 'any'],
  ])('number %i on the wire is %s', (match, behavior) => {
    const message = { filter: { by_selectors: { selectors: [{ type: 'a', value: '1' }], match } } } as const;
    const received = overTheWire(requestType, message as never).filter?.by_selectors;
    const filter = selectorMatchFromMessage(received!);
    expect(filter.behavior).toBe(behavior);
    expect([...filter.members]).toEqual(['a:1']);
    expect(selectorMatchToMessage(filter)).toEqual(received);
  });

  it('refuse a behavior nobody has named', () => {
    const message = { filter: { by_selectors: { selectors: [{ type: 'a', value: '1' }], match: 4 } } };
    const received = overTheWire(requestType, message as never).filter?.by_selectors;
    expect(() => selectorMatchFromMessage(received!)).toThrowError(
      expect.objectContaining({ kind: 'invalid', reason: 'proto.enum.unknown' }),
    );
  });

  it('refuse an empty set', () => {
    expect(() => selectorMatchFromMessage({ selectors: [], match: 'MATCH_ANY' })).toThrowError(
      expect.objectContaining({ kind: 'invalid', reason: 'proto.match.empty' }),
    );
    expect(() => federatesWithMatchFromMessage({ trust_domains: [], match: 'MATCH_ANY' })).toThrowError(
      expect.objectContaining({ kind: 'invalid', reason: 'proto.match.empty' }),
    );
  });

  it('take trust domains by name or by ID', () => {
    const filter = federatesWithMatchFromMessage({ trust_domains: ['a.org', 'spiffe://b.org'], match: 'MATCH_SUPERSET' });
    expect(filter.behavior).toBe('superset');
    expect([...filter.members]).toEqual(['a.org', 'b.org']);
    expect(federatesWithMatchToMessage(filter)).toEqual({ trust_domains: ['a.org', 'b.org'], match: 'MATCH_SUPERSET' });
  });
});
