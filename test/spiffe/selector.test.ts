import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import type { Selector } from '../../spiffe/selector.ts';
import {
  canonicalSelectors,
  composeSelector,
  isSubset,
  parseSelector,
  selectorType,
  selectorValue,
} from '../../spiffe/selector.ts';
import { refusal } from './refusal.ts';

const set = (...texts: string[]): ReadonlySet<Selector> => new Set(texts.map(parseSelector));

describe('parseSelector', () => {
  it.each([
    ['unix:uid:1000', 'unix', 'uid:1000'],
    ['unix:path:/a b:\n', 'unix', 'path:/a b:\n'],
    ['a::', 'a', ':'],
    ['k8s:pod-label:app:wéb', 'k8s', 'pod-label:app:wéb'],
  ])('splits %j at the first colon', (text, type, value) => {
    const selector = parseSelector(text);
    expect([selector, selectorType(selector), selectorValue(selector)]).toEqual([text, type, value]);
  });

  it.each([
    ['', 'selector.type.missing'],
    [':', 'selector.type.missing'],
    [':value', 'selector.type.missing'],
    ['unix', 'selector.value.missing'],
    ['unix:', 'selector.value.missing'],
  ])('refuses %j', (text, reason) => {
    expect(refusal(() => parseSelector(text))).toBe(`invalid ${reason}`);
  });

  it('refuses a colon in a type of its own', () => {
    expect(refusal(() => composeSelector('a:b', 'c'))).toBe('invalid selector.type.colon');
  });
});

describe('sets', () => {
  it('orders by type, then value, without repeats', () => {
    const texts = ['b:1', 'a:2', 'a!:1', 'a:10', 'b:1'].map(parseSelector);
    expect(canonicalSelectors(texts)).toEqual(['a:10', 'a:2', 'a!:1', 'b:1']);
  });

  it.each([
    [[], true],
    [['a:1'], true],
    [['a:1', 'b:2'], true],
    [['a:1', 'c:3'], false],
    [['A:1'], false],
    [['a:1 '], false],
  ])('%j is a subset of a:1, b:2: %s', (part, expected) => {
    expect(isSubset(part.map(parseSelector), set('a:1', 'b:2'))).toBe(expected);
  });

  it('has one canonical form for each set', () => {
    const selector = fc.constantFrom('a:1', 'a:2', 'b:1', 'ab:1', 'b::').map(parseSelector);
    fc.assert(
      fc.property(fc.array(selector), fc.array(selector), (a, b) => {
        const equal = isSubset(a, new Set(b)) && isSubset(b, new Set(a));
        expect(canonicalSelectors(a).join('\n') === canonicalSelectors(b).join('\n')).toBe(equal);
      }),
    );
  });
});
