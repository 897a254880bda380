import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import type { JsonLimits } from '../../spiffe/json.ts';
import { isJsonArray, isJsonObject, parseJson } from '../../spiffe/json.ts';
import { refusal } from './refusal.ts';

const limits: JsonLimits = { maxBytes: 10_000, maxDepth: 8, integers: 'exact' };

it('reads what JSON.parse reads, as it reads it', () => {
  fc.assert(
    fc.property(fc.json({ maxDepth: 6 }), (text) => {
      const twice = /"__proto__"/.test(text);
      fc.pre(!twice);
      expect(parseJson(text, { ...limits, maxBytes: 1e6, integers: 'number' })).toEqual(JSON.parse(text));
    }),
    { numRuns: 500 },
  );
});

it('accepts no text that JSON.parse refuses', () => {
  const scrap = fc.array(
    fc.constantFrom('{', '}', '[', ']', ',', ':', '"', 'a', '\\', 'u00', '0', '1', '-', '.', 'e', ' ', '\n', 'true', 'null'),
  );
  fc.assert(
    fc.property(scrap, (parts) => {
      const text = parts.join('');
      if (refusal(() => parseJson(text, limits)) === 'accepted') JSON.parse(text);
    }),
    { numRuns: 5000 },
  );
});

it.each<[string, unknown]>([
  ['9007199254740991', 9007199254740991],
  ['9007199254740992', 9007199254740992n],
  ['-9007199254740993', -9007199254740993n],
  ['9007199254740993.0', 9007199254740992],
  ['-0', -0],
  ['1e2', 100],
])('keeps all digits of %s', (text, expected) => {
  expect(parseJson(text, limits)).toBe(expected);
});

it('rounds integers when it is told to', () => {
  expect(parseJson('9007199254740993', { ...limits, integers: 'number' })).toBe(9007199254740992);
});

it('knows no special member names, and freezes all', () => {
  const value = parseJson('{"__proto__":{"a":[1]},"constructor":2}', limits);
  expect(isJsonObject(value) && Object.keys(value)).toEqual(['__proto__', 'constructor']);
  expect(isJsonObject(value) && Object.isFrozen(value) && Object.isFrozen(value['__proto__'])).toBe(true);
  expect(isJsonArray(value)).toBe(false);
});

describe('refuses', () => {
  it.each<[string, string | Uint8Array, string]>([
    ['a member twice', '{"a":1,"b":2,"a":1}', 'json.repeated-member'],
    ['a member twice, once escaped', '{"a":1,"\\u0061":1}', 'json.repeated-member'],
    ['__proto__ twice', '{"__proto__":1,"__proto__":1}', 'json.repeated-member'],
    ['half a character', '"\\udc00"', 'json.encoding'],
    ['half a character as a name', '{"\\ud83d":1}', 'json.encoding'],
    ['bytes that are not UTF-8', Uint8Array.of(0x22, 0xc0, 0xaf, 0x22), 'json.encoding'],
    ['an encoded surrogate', Uint8Array.of(0x22, 0xed, 0xa0, 0x80, 0x22), 'json.encoding'],
    ['a byte order mark', Uint8Array.of(0xef, 0xbb, 0xbf, 0x31), 'json.syntax'],
    ['a control character in a text', '"a\nb"', 'json.syntax'],
    ['depth', `${'['.repeat(9)}${']'.repeat(9)}`, 'json.too-deep'],
    ['depth without end', '['.repeat(9000), 'json.too-deep'],
    ['size', '1'.repeat(10_001), 'json.too-large'],
    ['size in bytes', `"${'é'.repeat(5000)}"`, 'json.too-large'],
    ['a number without end', '9'.repeat(400), 'json.number-range'],
  ])('%s', (_, input, reason) => {
    expect(refusal(() => parseJson(input, limits))).toBe(`invalid ${reason}`);
  });

  it.each([
    '',
    ' ',
    '{',
    '[',
    '"',
    '[1,]',
    '{"a":1,}',
    '{a:1}',
    "'a'",
    '01',
    '+1',
    '1.',
    '.5',
    '1e',
    '0x1',
    'NaN',
    'Infinity',
    'undefined',
    'True',
    'nulll',
    'true false',
    '1 2',
    '[1 2]',
    '{"a" 1}',
    '{"a":}',
    '{1:2}',
    '"\\x"',
    '"\\u12"',
    '"\\',
    '//',
    '/**/1',
    '\u00a01',
    '\f1',
    '-',
    '--1',
  ])('%j', (text) => {
    expect(refusal(() => parseJson(text, limits))).toBe('invalid json.syntax');
  });
});
