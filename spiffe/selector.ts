/**
 * Selectors, attested facts written `type:value`, and sets of them with the subset test that decides who is whom.
 * What a selector means is left to the attestor that yields it.
 */
import { SpiffeError } from './errors.ts';

declare const selectorBrand: unique symbol;

/** `type:value`; the type holds no colon, the value may. Compared with `===`. */
export type Selector = string & { readonly [selectorBrand]: true };

export type SelectorSet = ReadonlySet<Selector>;

/**
 * @throws invalid `selector.type.missing|colon`, `selector.value.missing`
 */
export function composeSelector(type: string, value: string): Selector {
  if (type === '') throw new SpiffeError('invalid', 'selector.type.missing', 'missing selector type');
  if (type.includes(':')) throw new SpiffeError('invalid', 'selector.type.colon', "selector type contains ':'");
  if (value === '') throw new SpiffeError('invalid', 'selector.value.missing', 'missing selector value');
  return `${type}:${value}` as Selector;
}

/**
 * Splits at the first colon.
 * @throws invalid as `composeSelector`
 */
export function parseSelector(text: string): Selector {
  const colon = text.indexOf(':');
  return colon < 0 ? composeSelector(text, '') : composeSelector(text.slice(0, colon), text.slice(colon + 1));
}

export function selectorType(selector: Selector): string {
  return selector.slice(0, selector.indexOf(':'));
}

export function selectorValue(selector: Selector): string {
  return selector.slice(selector.indexOf(':') + 1);
}

/** Sorted by type, then value, without repeats. */
export function canonicalSelectors(selectors: Iterable<Selector>): readonly Selector[] {
  return [...new Set(selectors)].toSorted((a, b) => {
    const types = compareText(selectorType(a), selectorType(b));
    return types === 0 ? compareText(selectorValue(a), selectorValue(b)) : types;
  });
}

export function isSubset(part: Iterable<Selector>, whole: SelectorSet): boolean {
  for (const selector of part) if (!whole.has(selector)) return false;
  return true;
}

function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
