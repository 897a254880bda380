import { describe, expect, it } from 'vitest';
import {
  instantFromSeconds,
  integerFromText,
  namedValue,
  optionalInstantFromSeconds,
  secondsFromInstant,
} from '../../../proto/convert/scalar.ts';

describe('integerFromText', () => {
  it.each([
    ['0', 0],
    ['9007199254740991', 9_007_199_254_740_991],
  ])('%s', (text, value) => {
    expect(integerFromText(text, 'count')).toBe(value);
  });

  it.each(['-1', '9007199254740992', '18446744073709551615', '1.5', 'x'])('refuses %s', (text) => {
    expect(() => integerFromText(text, 'count')).toThrowError(
      expect.objectContaining({ kind: 'invalid', reason: 'proto.integer.range', detail: { field: 'count' } }),
    );
  });
});

describe('instants', () => {
  it('are seconds on the wire and milliseconds here', () => {
    expect(instantFromSeconds('1700000000', 'at')).toBe(1_700_000_000_000);
    expect(secondsFromInstant(1_700_000_000_999)).toBe(1_700_000_000);
  });

  it('tell zero from never where the field says so', () => {
    expect(instantFromSeconds('0', 'at')).toBe(0);
    expect(optionalInstantFromSeconds('0', 'at')).toBeUndefined();
    expect(secondsFromInstant(undefined)).toBe(0);
  });

  it.each(['-1', '8640000000001', '9223372036854775807'])('refuse %s seconds', (text) => {
    expect(() => instantFromSeconds(text, 'at')).toThrowError(
      expect.objectContaining({ kind: 'invalid', reason: 'proto.instant.range' }),
    );
  });
});

describe('namedValue', () => {
  const names = { ONE: 1, TWO: 2 } as const;

  it('looks the name up', () => {
    expect(namedValue(names, 'TWO', 'choice')).toBe(2);
  });

  it.each([7 as never, 'THREE' as never, 'toString' as never])('refuses %s', (name) => {
    expect(() => namedValue(names, name, 'choice')).toThrowError(
      expect.objectContaining({ kind: 'invalid', reason: 'proto.enum.unknown' }),
    );
  });
});
