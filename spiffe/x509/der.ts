/**
 * Strict DER reader: one encoding per value, definite minimal lengths, bounded depth and size, no copies of the input.
 * What the values mean is left to the callers; writing DER is `der-writer.ts`.
 */
import { SpiffeError } from '../errors.ts';

/** Identifier octets of the types read here; context-specific ones are made with `contextTag`. */
export const derTag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  enumerated: 0x0a,
  utf8String: 0x0c,
  printableString: 0x13,
  teletexString: 0x14,
  ia5String: 0x16,
  utcTime: 0x17,
  generalizedTime: 0x18,
  universalString: 0x1c,
  bmpString: 0x1e,
  sequence: 0x30,
  set: 0x31,
} as const;

/** `[n]` IMPLICIT of a primitive type, or with `constructed` of a constructed one or EXPLICIT. */
export function contextTag(number: number, constructed = false): number {
  return (constructed ? 0xa0 : 0x80) | number;
}

/** One value inside `source`: header from `start`, content from `contentStart`, both up to `end`. */
export interface DerElement {
  readonly source: Uint8Array;
  readonly tag: number;
  readonly start: number;
  readonly contentStart: number;
  readonly end: number;
  readonly depth: number;
}

/** A place in a run of values; only the functions of this file move it. */
export interface DerCursor {
  readonly source: Uint8Array;
  readonly end: number;
  readonly depth: number;
  at: number;
}

/** Deeper than any certificate needs, shallower than any stack. */
const maxDepth = 16;
const defaultMaxBytes = 1 << 20;

/**
 * Starts reading `source`, which must not change while anything read from it is in use.
 * @throws invalid `der.length`
 */
export function openDer(source: Uint8Array, maxBytes = defaultMaxBytes): DerCursor {
  if (source.length > maxBytes) throw new SpiffeError('invalid', 'der.length', `more than ${maxBytes} bytes of DER`);
  return { source, end: source.length, depth: 0, at: 0 };
}

/**
 * The one value that fills `source`.
 * @throws invalid `der.truncated|tag|length|trailing`
 */
export function readWhole(source: Uint8Array, tag: number, maxBytes = defaultMaxBytes): DerElement {
  const cursor = openDer(source, maxBytes);
  const element = readTagged(cursor, tag);
  finish(cursor);
  return element;
}

/** @throws invalid `der.depth` */
export function enter(element: DerElement): DerCursor {
  if (element.depth >= maxDepth) throw new SpiffeError('invalid', 'der.depth', 'DER is nested too deeply');
  return { source: element.source, end: element.end, depth: element.depth + 1, at: element.contentStart };
}

export function atEnd(cursor: DerCursor): boolean {
  return cursor.at >= cursor.end;
}

/** @throws invalid `der.trailing` */
export function finish(cursor: DerCursor): void {
  if (cursor.at < cursor.end) throw new SpiffeError('invalid', 'der.trailing', 'bytes follow the end of a DER value');
}

/** @throws invalid `der.truncated|tag|length` */
export function readElement(cursor: DerCursor): DerElement {
  const { source, end, depth, at: start } = cursor;
  if (start + 2 > end) throw truncated();
  const tag = source[start] ?? 0;
  // Numbers above 30 take more octets, and number 0 of the universal class ends BER's indefinite lengths.
  if ((tag & 0x1f) === 0x1f || tag === 0x00 || tag === 0x20) throw wrongTag(tag);
  const first = source[start + 1] ?? 0;
  let contentStart = start + 2;
  let length = first;
  if (first >= 0x80) {
    const octets = first - 0x80;
    if (octets === 0 || octets > 4) throw badLength();
    if (contentStart + octets > end) throw truncated();
    length = 0;
    for (let i = 0; i < octets; i += 1) length = length * 256 + (source[contentStart + i] ?? 0);
    if (length < 0x80 || length < 256 ** (octets - 1)) throw badLength();
    contentStart += octets;
  }
  if (length > end - contentStart) throw truncated();
  cursor.at = contentStart + length;
  return { source, tag, start, contentStart, end: cursor.at, depth };
}

/** @throws invalid `der.truncated|tag|length` */
export function readTagged(cursor: DerCursor, tag: number): DerElement {
  if (cursor.at < cursor.end && cursor.source[cursor.at] !== tag) throw wrongTag(cursor.source[cursor.at] ?? 0);
  return readElement(cursor);
}

/** The next value when it has this tag, else nothing and the cursor stays. */
export function readOptional(cursor: DerCursor, tag: number): DerElement | undefined {
  return cursor.at < cursor.end && cursor.source[cursor.at] === tag ? readElement(cursor) : undefined;
}

/** Header and content, as a view. */
export function wholeOf(element: DerElement): Uint8Array {
  return element.source.subarray(element.start, element.end);
}

/** Content alone, as a view. */
export function contentOf(element: DerElement): Uint8Array {
  return element.source.subarray(element.contentStart, element.end);
}

/** @throws invalid `der.boolean` */
export function booleanOf(element: DerElement): boolean {
  const value = element.source[element.contentStart];
  if (element.end - element.contentStart !== 1 || (value !== 0x00 && value !== 0xff)) {
    throw new SpiffeError('invalid', 'der.boolean', 'a DER boolean is one octet, 00 or ff');
  }
  return value === 0xff;
}

/**
 * The two's complement content of an INTEGER, minimal.
 * @throws invalid `der.integer`
 */
export function integerOf(element: DerElement): Uint8Array {
  const { source, contentStart, end } = element;
  const first = source[contentStart] ?? 0;
  const second = source[contentStart + 1] ?? 0;
  const padded = end - contentStart > 1 && ((first === 0x00 && second < 0x80) || (first === 0xff && second >= 0x80));
  if (end === contentStart || padded) {
    throw new SpiffeError('invalid', 'der.integer', 'a DER integer has at least one octet and none to spare');
  }
  return source.subarray(contentStart, end);
}

/**
 * A small non-negative INTEGER such as a version.
 * @throws invalid `der.integer`
 */
export function smallIntegerOf(element: DerElement): number {
  const content = integerOf(element);
  if (content.length > 4 || (content[0] ?? 0) >= 0x80) {
    throw new SpiffeError('invalid', 'der.integer', 'integer is negative or too large here');
  }
  let value = 0;
  for (const octet of content) value = value * 256 + octet;
  return value;
}

/** Unsigned big-endian octets as a number without bounds. */
export function unsignedToBigInt(octets: Uint8Array): bigint {
  return octets.length === 0 ? 0n : BigInt(`0x${hexOf(octets)}`);
}

export function hexOf(octets: Uint8Array): string {
  return Buffer.from(octets.buffer, octets.byteOffset, octets.byteLength).toString('hex');
}

/**
 * An object identifier in dotted form.
 * @throws invalid `der.oid`
 */
export function oidOf(element: DerElement): string {
  const { source, contentStart, end } = element;
  if (end === contentStart || end - contentStart > 64 || (source[end - 1] ?? 0) >= 0x80) throw badOid();
  let text = '';
  let arc = 0;
  let fresh = true;
  for (let at = contentStart; at < end; at += 1) {
    const octet = source[at] ?? 0;
    if (fresh && octet === 0x80) throw badOid();
    arc = arc * 128 + (octet & 0x7f);
    if (arc > Number.MAX_SAFE_INTEGER / 128) throw badOid();
    fresh = octet < 0x80;
    if (!fresh) continue;
    if (text === '') {
      const root = Math.min(2, Math.floor(arc / 40));
      text = `${root}.${arc - root * 40}`;
    } else {
      text += `.${arc}`;
    }
    arc = 0;
  }
  return text;
}

export interface BitString {
  readonly unusedBits: number;
  readonly octets: Uint8Array;
}

/**
 * A bit string whose unused bits are zero.
 * @throws invalid `der.bit-string`
 */
export function bitStringOf(element: DerElement): BitString {
  const { source, contentStart, end } = element;
  const unusedBits = source[contentStart] ?? 0;
  const empty = end - contentStart === 1;
  const last = source[end - 1] ?? 0;
  if (end === contentStart || unusedBits > 7 || (empty ? unusedBits !== 0 : (last & ((1 << unusedBits) - 1)) !== 0)) {
    throw new SpiffeError('invalid', 'der.bit-string', 'bit string has a wrong count of unused bits, or sets one of them');
  }
  return { unusedBits, octets: source.subarray(contentStart + 1, end) };
}

/**
 * A bit string of whole octets: a key or a signature.
 * @throws invalid `der.bit-string`
 */
export function octetsOf(element: DerElement): Uint8Array {
  const { unusedBits, octets } = bitStringOf(element);
  if (unusedBits !== 0) throw new SpiffeError('invalid', 'der.bit-string', 'bit string is not made of whole octets');
  return octets;
}

/**
 * A bit list with names, first bit lowest; DER drops trailing zeros [X.690 11.2.2].
 * @throws invalid `der.bit-string`
 */
export function namedBitsOf(element: DerElement): number {
  const { unusedBits, octets } = bitStringOf(element);
  const last = octets[octets.length - 1] ?? 0;
  if (octets.length > 3 || (octets.length > 0 && ((last >> unusedBits) & 1) === 0)) {
    throw new SpiffeError('invalid', 'der.bit-string', 'bit list is too long or ends in zeros');
  }
  let bits = 0;
  for (let i = 0; i < octets.length * 8; i += 1) {
    if (((octets[i >> 3] ?? 0) & (0x80 >> (i & 7))) !== 0) bits |= 1 << i;
  }
  return bits;
}

/**
 * Printable ASCII of an IA5String, however tagged. Control characters are refused although IA5 has them: a NUL inside a
 * name has fooled too many readers.
 * @throws invalid `der.text`
 */
export function asciiOf(element: DerElement): string {
  const { source, contentStart, end } = element;
  for (let at = contentStart; at < end; at += 1) {
    const octet = source[at] ?? 0;
    if (octet < 0x20 || octet > 0x7e) throw new SpiffeError('invalid', 'der.text', 'text is not printable ASCII');
  }
  return Buffer.from(source.buffer, source.byteOffset + contentStart, end - contentStart).toString('latin1');
}

/**
 * A certificate's Time in epoch milliseconds: UTCTime through 2049, GeneralizedTime from 2050, both in UTC with seconds
 * and nothing finer [RFC 5280 4.1.2.5].
 * @throws invalid `der.time|tag`
 */
export function timeOf(element: DerElement): number {
  const general = element.tag === derTag.generalizedTime;
  if (!general && element.tag !== derTag.utcTime) throw wrongTag(element.tag);
  const { source, contentStart, end } = element;
  if (end - contentStart !== (general ? 15 : 13) || source[end - 1] !== 0x5a) throw badTime();
  const pair = (at: number): number => {
    const tens = (source[at] ?? 0) - 0x30;
    const ones = (source[at + 1] ?? 0) - 0x30;
    if (tens < 0 || tens > 9 || ones < 0 || ones > 9) throw badTime();
    return tens * 10 + ones;
  };
  const short = pair(contentStart);
  const year = general ? short * 100 + pair(contentStart + 2) : short < 50 ? 2000 + short : 1900 + short;
  if (general && year < 2050) throw badTime();
  const rest = end - 11;
  const [month, day, hour, minute, second] = [pair(rest), pair(rest + 2), pair(rest + 4), pair(rest + 6), pair(rest + 8)];
  if (month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 59) throw badTime();
  const instant = Date.UTC(year, month - 1, day, hour, minute, second);
  // A 30 February would come out in March.
  if (day > 28 && new Date(instant).getUTCDate() !== day) throw badTime();
  return instant;
}

/**
 * Checks a value that is otherwise only carried along, such as a name: everything in it is DER down to the leaves.
 * @throws invalid `der.*`
 */
export function checkTree(element: DerElement): void {
  if ((element.tag & 0x20) !== 0) {
    if ((element.tag & 0xc0) === 0 && element.tag !== derTag.sequence && element.tag !== derTag.set) throw wrongTag(element.tag);
    const cursor = enter(element);
    while (!atEnd(cursor)) checkTree(readElement(cursor));
    return;
  }
  if ((element.tag & 0xc0) !== 0) return;
  switch (element.tag) {
    case derTag.boolean:
      booleanOf(element);
      return;
    case derTag.integer:
    case derTag.enumerated:
      integerOf(element);
      return;
    case derTag.bitString:
      bitStringOf(element);
      return;
    case derTag.null:
      if (element.end !== element.contentStart) throw new SpiffeError('invalid', 'der.null', 'a DER null is empty');
      return;
    case derTag.oid:
      oidOf(element);
      return;
    case derTag.sequence & ~0x20:
    case derTag.set & ~0x20:
      throw wrongTag(element.tag);
    default:
  }
}

function truncated(): SpiffeError {
  return new SpiffeError('invalid', 'der.truncated', 'DER ends inside a value');
}

function badLength(): SpiffeError {
  return new SpiffeError('invalid', 'der.length', 'length is indefinite, not minimal or too large');
}

function wrongTag(tag: number): SpiffeError {
  return new SpiffeError('invalid', 'der.tag', `unexpected DER tag 0x${tag.toString(16).padStart(2, '0')}`);
}

function badOid(): SpiffeError {
  return new SpiffeError('invalid', 'der.oid', 'object identifier is empty, not minimal or too long');
}

function badTime(): SpiffeError {
  return new SpiffeError('invalid', 'der.time', 'time is not in the one form RFC 5280 allows');
}
