import { describe, expect, it } from 'vitest';
import { distance, instant, json, plain, record, table } from '../../cli/print.ts';

/** What a name from elsewhere may try with the terminal it is shown on. */
const hostile: readonly (readonly [string, string])[] = [
  ['colours', '\u001b[31mred\u001b[0m'],
  ['a cleared screen', '\u001b[2J\u001b[H'],
  ['a window title', '\u001b]0;owned\u0007'],
  ['an 8-bit control sequence', '\u009b31m'],
  ['a hyperlink', '\u001b]8;;https://example.org\u001b\\text\u001b]8;;\u001b\\'],
  ['an overwritten line', 'good\rbad'],
  ['further lines', 'a\nb\n'],
  ['erased characters', 'abc\b\b\bxyz'],
  ['reversed text', 'a\u202egnp.exe'],
  ['isolated directions', '\u2066a\u2069'],
  ['invisible characters', 'a\u200bb\ufeff\u2060c\u00ad'],
  ['line separators', 'a\u2028b\u2029c'],
  ['a zero byte', 'a\0b'],
  ['delete', 'a\u007fb'],
  ['half a character', 'a\ud800b'],
  ['tags', 'a\u{e0041}b'],
];

const acting = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u;

describe('text from elsewhere', () => {
  it.each(hostile)('cannot act on a terminal: %s', (_what, text) => {
    expect(plain(text)).not.toMatch(acting);
    expect(table(['A'], [[text]]).slice(0, -1).replace('\n', '')).not.toMatch(acting);
    expect(record([['a', text]]).slice(0, -1)).not.toMatch(acting);
  });

  it('stays readable', () => {
    expect(plain('spiffe://example.org/größe/日本 ✓')).toBe('spiffe://example.org/größe/日本 ✓');
    expect(plain('a\u001bb')).toBe('a\\u001bb');
  });
});

describe('tables', () => {
  it('align columns to their widest cell, and end lines at their last one', () => {
    expect(table(['ID', 'NAME'], [['1', 'long name'], ['1234', 'x']])).toBe('ID    NAME\n1     long name\n1234  x\n');
  });

  it('are nothing without rows', () => {
    expect(table(['ID'], [])).toBe('');
  });
});

describe('records', () => {
  it('align names, list items each on a line, and show what is empty', () => {
    expect(record([['ID', '1'], ['Names', ['a', 'b']], ['None', []], ['Empty', '']])).toBe('ID:    1\nNames: a\n       b\nNone:  -\nEmpty: -\n');
  });
});

describe('JSON', () => {
  it('is one document, with large numbers as text', () => {
    expect(JSON.parse(json({ a: 2n ** 60n, b: [1] }))).toEqual({ a: '1152921504606846976', b: [1] });
    expect(json({}).endsWith('\n')).toBe(true);
  });
});

describe('instants', () => {
  it('are in UTC, or never', () => {
    expect(instant(Date.UTC(2030, 0, 31, 12))).toBe('2030-01-31T12:00:00Z');
    expect(instant(undefined)).toBe('never');
    expect(instant(0)).toBe('never');
  });

  it.each([
    [0, 'in 0s'],
    [119_000, 'in 119s'],
    [120_000, 'in 2m'],
    [-119_000, '119s ago'],
    [7_200_000, 'in 2h'],
    [-172_800_000, '2d ago'],
  ])('%d ms from now is %s', (ms, text) => {
    expect(distance(1_000_000_000 + ms, 1_000_000_000)).toBe(text);
  });
});
