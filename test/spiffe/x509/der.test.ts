import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import {
  asciiOf,
  bitStringOf,
  booleanOf,
  checkTree,
  contentOf,
  derTag,
  enter,
  finish,
  integerOf,
  namedBitsOf,
  octetsOf,
  oidOf,
  openDer,
  readElement,
  readOptional,
  readTagged,
  readWhole,
  smallIntegerOf,
  timeOf,
  unsignedToBigInt,
  wholeOf,
  type DerElement,
} from '../../../spiffe/x509/der.ts';
import {
  encode,
  encodeBitString,
  encodeBoolean,
  encodeDirectoryString,
  encodeNamedBits,
  encodeOid,
  encodeSequence,
  encodeSmallInteger,
  encodeTime,
  encodeUnsigned,
} from '../../../spiffe/x509/der-writer.ts';
import { refusal } from '../refusal.ts';

const hex = (text: string): Uint8Array => Buffer.from(text, 'hex');
const element = (bytes: Uint8Array): DerElement => readWhole(bytes, bytes[0] ?? 0);
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');

describe('headers', () => {
  it.each<readonly [why: string, bytes: string, verdict: string]>([
    ['empty content', '0500', 'accepted'],
    ['long form from 128', `048180${'00'.repeat(128)}`, 'accepted'],
    ['nothing', '', 'invalid der.truncated'],
    ['tag alone', '30', 'invalid der.truncated'],
    ['content is missing', '3001', 'invalid der.truncated'],
    ['length is missing', '3082', 'invalid der.truncated'],
    ['half a length', '308201', 'invalid der.truncated'],
    ['long form below 128', '3081007f', 'invalid der.length'],
    ['long form of 127', `04817f${'00'.repeat(127)}`, 'invalid der.length'],
    ['leading zero in the length', `04820080${'00'.repeat(128)}`, 'invalid der.length'],
    ['indefinite', '30800000', 'invalid der.length'],
    ['reserved length ff', '30ff', 'invalid der.length'],
    ['length of five octets', '30850000000001', 'invalid der.length'],
    ['length of 4 GB', '3084ffffffff00', 'invalid der.truncated'],
    ['tag number above 30', '1f2100', 'invalid der.tag'],
    ['end of contents', '0000', 'invalid der.tag'],
    ['trailing byte', '050000', 'invalid der.trailing'],
  ])('%s: %s', (_why, bytes, verdict) => {
    expect(refusal(() => readWhole(hex(bytes), hex(bytes)[0] ?? 0x30))).toBe(verdict);
  });

  it('are limited in size as a whole', () => {
    expect(refusal(() => openDer(new Uint8Array(11), 10))).toBe('invalid der.length');
    expect(refusal(() => openDer(new Uint8Array((1 << 20) + 1)))).toBe('invalid der.length');
  });

  it('are limited in depth', () => {
    let value: Uint8Array = hex('0500');
    for (let depth = 0; depth < 16; depth += 1) value = encodeSequence(value);
    expect(refusal(() => checkTree(element(value)))).toBe('accepted');
    expect(refusal(() => checkTree(element(encodeSequence(value))))).toBe('invalid der.depth');
  });

  it('are read where they stand, without copies, also inside a larger buffer', () => {
    const outer = Buffer.concat([hex('ffff'), encodeSequence(encodeSmallInteger(5), encodeBoolean(true)), hex('ff')]);
    const cursor = openDer(outer.subarray(2, -1));
    const inner = enter(readTagged(cursor, derTag.sequence));
    finish(cursor);
    expect(readOptional(inner, derTag.boolean)).toBeUndefined();
    const number = readElement(inner);
    expect([text(wholeOf(number)), text(contentOf(number))]).toEqual(['020105', '05']);
    expect(contentOf(number).buffer).toBe(outer.buffer);
    expect(booleanOf(readTagged(inner, derTag.boolean))).toBe(true);
    expect(refusal(() => readTagged(inner, derTag.boolean))).toBe('invalid der.truncated');
  });
});

describe('values', () => {
  it.each<readonly [what: string, read: (value: DerElement) => unknown, bytes: string, verdict: string]>([
    ['boolean', booleanOf, '0101ff', 'accepted'],
    ['boolean 01', booleanOf, '010101', 'invalid der.boolean'],
    ['boolean of two', booleanOf, '0102ffff', 'invalid der.boolean'],
    ['boolean of none', booleanOf, '0100', 'invalid der.boolean'],
    ['integer 0', integerOf, '020100', 'accepted'],
    ['integer -1', integerOf, '0201ff', 'accepted'],
    ['integer 128', integerOf, '02020080', 'accepted'],
    ['integer of none', integerOf, '0200', 'invalid der.integer'],
    ['integer with 00 to spare', integerOf, '0202007f', 'invalid der.integer'],
    ['integer with ff to spare', integerOf, '0202ff80', 'invalid der.integer'],
    ['small integer below zero', smallIntegerOf, '0201ff', 'invalid der.integer'],
    ['small integer of five octets', smallIntegerOf, '02050100000000', 'invalid der.integer'],
    ['bits', bitStringOf, '03020780', 'accepted'],
    ['bits, an unused one set', bitStringOf, '03020781', 'invalid der.bit-string'],
    ['bits, 8 unused', bitStringOf, '03020800', 'invalid der.bit-string'],
    ['bits, unused ones of none', bitStringOf, '030101', 'invalid der.bit-string'],
    ['bits without a count', bitStringOf, '0300', 'invalid der.bit-string'],
    ['octets with unused bits', octetsOf, '03020100', 'invalid der.bit-string'],
    ['bit list', namedBitsOf, '03020106', 'accepted'],
    ['bit list of none', namedBitsOf, '030100', 'accepted'],
    ['bit list with a zero at its end', namedBitsOf, '03020006', 'invalid der.bit-string'],
    ['bit list of zeros', namedBitsOf, '03020000', 'invalid der.bit-string'],
    ['bit list of four octets', namedBitsOf, '03050000000001', 'invalid der.bit-string'],
    ['identifier', oidOf, '06032a0304', 'accepted'],
    ['identifier of none', oidOf, '0600', 'invalid der.oid'],
    ['identifier that goes on', oidOf, '06022a86', 'invalid der.oid'],
    ['identifier with a leading 80', oidOf, '06032a8001', 'invalid der.oid'],
    ['identifier with an arc of 80 bits', oidOf, '060d2affffffffffffffffffffff7f', 'invalid der.oid'],
    ['text', asciiOf, '160161', 'accepted'],
    ['text with NUL', asciiOf, '16026100', 'invalid der.text'],
    ['text with DEL', asciiOf, '16017f', 'invalid der.text'],
    ['text with a high bit', asciiOf, '1601e9', 'invalid der.text'],
    ['tree with a constructed string', checkTree, '30042c020c00', 'invalid der.tag'],
    ['tree with a primitive sequence', checkTree, '30021000', 'invalid der.tag'],
    ['tree with a null that is not empty', checkTree, '3003050100', 'invalid der.null'],
    ['tree with a bad integer', checkTree, '300402020001', 'invalid der.integer'],
    ['tree of context tags', checkTree, '3004a0028000', 'accepted'],
  ])('%s', (_what, read, bytes, verdict) => {
    expect(refusal(() => read(element(hex(bytes))))).toBe(verdict);
  });

  it.each([
    ['1.2.840.113549.1.9.14', '06092a864886f70d01090e'],
    ['2.5.29.37.0', '0604551d2500'],
    ['2.999.1', '0603883701'],
    ['0.39', '060127'],
    ['1.39', '06014f'],
    ['2.0', '060150'],
  ])('identifier %s', (dotted, bytes) => {
    expect(oidOf(element(hex(bytes)))).toBe(dotted);
    expect(text(encodeOid(dotted))).toBe(bytes);
  });
});

describe('T-C07 times [RFC 5280 4.1.2.5]', () => {
  const utc = (digits: string): DerElement => element(encode(derTag.utcTime, Buffer.from(digits)));
  const general = (digits: string): DerElement => element(encode(derTag.generalizedTime, Buffer.from(digits)));

  it.each([
    [utc('700101000000Z'), '1970-01-01T00:00:00.000Z'],
    [utc('491231235959Z'), '2049-12-31T23:59:59.000Z'],
    [utc('500101000000Z'), '1950-01-01T00:00:00.000Z'],
    [utc('380119031408Z'), '2038-01-19T03:14:08.000Z'],
    [utc('240229120000Z'), '2024-02-29T12:00:00.000Z'],
    [general('20500101000000Z'), '2050-01-01T00:00:00.000Z'],
    [general('99991231235959Z'), '9999-12-31T23:59:59.000Z'],
  ])('case %#: %s', (value, instant) => {
    expect(new Date(timeOf(value)).toISOString()).toBe(instant);
  });

  it.each([
    utc('2401010000Z'), utc('240101000000+0000'), utc('240101000000'), utc('230229000000Z'), utc('241301000000Z'),
    utc('240001000000Z'), utc('240100000000Z'), utc('240101240000Z'), utc('240101006000Z'), utc('240101000060Z'),
    utc('24010100000aZ'), utc('240101 00000Z'), utc('-40101000000Z'), utc(''), general('20240101000000Z'),
    general('20491231235959Z'), general('20500101000000.0Z'), general('20500101000000'), general('2050010100Z'),
  ])('refuses case %#', (value) => {
    expect(refusal(() => timeOf(value))).toBe('invalid der.time');
  });

  it('come back from what is written, to the second, for any instant to the year 9999', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: Date.UTC(9999, 11, 31) }), (at) => {
        expect(timeOf(element(encodeTime(at)))).toBe(Math.floor(at / 1000) * 1000);
      }),
    );
  });
});

describe('what is written reads back', () => {
  it('for numbers', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (octets) => {
        expect(unsignedToBigInt(integerOf(element(encodeUnsigned(octets))))).toBe(unsignedToBigInt(octets));
      }),
    );
    expect(text(encodeUnsigned(new Uint8Array()))).toBe('020100');
  });

  it('for contents of any length', () => {
    for (const length of [0, 1, 127, 128, 255, 256, 65_535, 65_536, 70_000]) {
      expect(contentOf(element(encode(derTag.octetString, new Uint8Array(length)))).length).toBe(length);
      expect(octetsOf(element(encodeBitString(new Uint8Array(length)))).length).toBe(length);
    }
  });

  it('for bit lists', () => {
    for (let bits = 0; bits < 512; bits += 1) expect(namedBitsOf(element(encodeNamedBits(bits)))).toBe(bits);
  });

  it('for strings, typed as Go types them', () => {
    expect(text(encodeDirectoryString("Az09 '()+,-./:=?"))[1]).toBe('3');
    for (const other of ['*.example', 'a_b', 'a@b', 'a&b', 'é', '"', '<', '\0']) {
      expect([other, text(encodeDirectoryString(other)).slice(0, 2)]).toEqual([other, '0c']);
    }
  });
});
