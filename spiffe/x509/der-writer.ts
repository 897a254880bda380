/**
 * DER writer: each function yields the finished encoding of one value from the encodings of its parts. It trusts its
 * callers; `der.ts` reads back and checks whatever leaves the house.
 */
import { contextTag, derTag } from './der.ts';

/** One value from the concatenation of its content's parts. */
export function encode(tag: number, ...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const header = headerLength(length);
  const out = new Uint8Array(header + length);
  let at = writeHeader(out, 0, tag, length);
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Octets that tag and length take before a content of `length` octets. */
export function headerLength(length: number): number {
  return length < 0x80 ? 2 : length < 0x100 ? 3 : length < 0x10000 ? 4 : 5;
}

/** Writes tag and length at `at`; yields where the content starts. */
export function writeHeader(out: Uint8Array, at: number, tag: number, length: number): number {
  out[at] = tag;
  if (length < 0x80) {
    out[at + 1] = length;
    return at + 2;
  }
  const octets = headerLength(length) - 2;
  out[at + 1] = 0x80 | octets;
  for (let i = 0; i < octets; i += 1) out[at + 2 + i] = (length >>> (8 * (octets - 1 - i))) & 0xff;
  return at + 2 + octets;
}

export function encodeSequence(...parts: readonly Uint8Array[]): Uint8Array {
  return encode(derTag.sequence, ...parts);
}

export function encodeSet(...parts: readonly Uint8Array[]): Uint8Array {
  return encode(derTag.set, ...parts);
}

/** `[n]` EXPLICIT. */
export function encodeExplicit(number: number, ...parts: readonly Uint8Array[]): Uint8Array {
  return encode(contextTag(number, true), ...parts);
}

export function encodeBoolean(value: boolean): Uint8Array {
  return Uint8Array.of(derTag.boolean, 1, value ? 0xff : 0x00);
}

export function encodeNull(): Uint8Array {
  return Uint8Array.of(derTag.null, 0);
}

/** A non-negative INTEGER from big-endian octets, leading zeros allowed. */
export function encodeUnsigned(octets: Uint8Array): Uint8Array {
  let from = 0;
  while (from < octets.length - 1 && octets[from] === 0) from += 1;
  const magnitude = octets.length === 0 ? Uint8Array.of(0) : octets.subarray(from);
  return (magnitude[0] ?? 0) >= 0x80
    ? encode(derTag.integer, Uint8Array.of(0), magnitude)
    : encode(derTag.integer, magnitude);
}

/** A non-negative INTEGER below 2^31. */
export function encodeSmallInteger(value: number): Uint8Array {
  return encodeUnsigned(Uint8Array.of((value >>> 24) & 0xff, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff));
}

/** From dotted form. */
export function encodeOid(dotted: string): Uint8Array {
  const [root = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  const content: number[] = [];
  for (const arc of [root * 40 + second, ...rest]) {
    const groups = [arc % 128];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) groups.unshift((left % 128) | 0x80);
    content.push(...groups);
  }
  return encode(derTag.oid, Uint8Array.from(content));
}

export function encodeOctetString(...parts: readonly Uint8Array[]): Uint8Array {
  return encode(derTag.octetString, ...parts);
}

/** A bit string of whole octets. */
export function encodeBitString(...parts: readonly Uint8Array[]): Uint8Array {
  return encode(derTag.bitString, Uint8Array.of(0), ...parts);
}

/** A bit list with names, first bit lowest in `bits`, without trailing zeros. */
export function encodeNamedBits(bits: number): Uint8Array {
  const length = bits === 0 ? 0 : 32 - Math.clz32(bits);
  const octets = new Uint8Array(Math.ceil(length / 8));
  for (let i = 0; i < length; i += 1) {
    if ((bits & (1 << i)) !== 0) octets[i >> 3] = (octets[i >> 3] ?? 0) | (0x80 >> (i & 7));
  }
  return encode(derTag.bitString, Uint8Array.of((8 - (length % 8)) % 8), octets);
}

/** Characters of one octet each under `tag`: IA5String and its implicit relatives. */
export function encodeAscii(tag: number, text: string): Uint8Array {
  return encode(tag, Buffer.from(text, 'latin1'));
}

const printableForm = /^[A-Za-z0-9 '()+,\-./:=?]*$/;

/** A directory string as Go chooses its type: PrintableString where the alphabet allows, else UTF8String. */
export function encodeDirectoryString(text: string): Uint8Array {
  return printableForm.test(text)
    ? encode(derTag.printableString, Buffer.from(text, 'latin1'))
    : encode(derTag.utf8String, Buffer.from(text, 'utf8'));
}

/** Whole seconds of an instant in epoch milliseconds, as the Time a certificate holds [RFC 5280 4.1.2.5]. */
export function encodeTime(at: number): Uint8Array {
  const date = new Date(Math.floor(at / 1000) * 1000);
  const year = date.getUTCFullYear();
  const general = year >= 2050;
  const out = new Uint8Array(general ? 17 : 15);
  let end = writeHeader(out, 0, general ? derTag.generalizedTime : derTag.utcTime, out.length - 2);
  const put = (number: number): void => {
    out[end] = 0x30 + Math.floor(number / 10);
    out[end + 1] = 0x30 + (number % 10);
    end += 2;
  };
  if (general) put(Math.floor(year / 100));
  put(year % 100);
  put(date.getUTCMonth() + 1);
  put(date.getUTCDate());
  put(date.getUTCHours());
  put(date.getUTCMinutes());
  put(date.getUTCSeconds());
  out[end] = 0x5a;
  return out;
}
