/**
 * A message of DER written in every way that BER has and DER has not, each time in one place, with the values around it
 * fitting. What readers make of it is for the tests to say.
 */
import { derTag } from '../../spiffe/x509/der.ts';
import { encode } from '../../spiffe/x509/der-writer.ts';
import { join } from '../help/forge.ts';

/** A value of DER that can be written wrongly. */
interface Value {
  readonly tag: number;
  readonly content: Uint8Array | readonly Value[];
}

/** How one header is written: its length in more octets than it takes, or not at all. */
export type Length = 'padded by 1' | 'padded by 2' | 'of 5 octets' | 'indefinite';

export const lengths: readonly Length[] = ['padded by 1', 'padded by 2', 'of 5 octets', 'indefinite'];

/** The message once for each of its values and each way to write its length that is not DER; the values around it fit. */
export function* misencoded(message: Uint8Array): Generator<readonly [name: string, message: Uint8Array]> {
  const [tree] = valuesIn(message);
  if (tree === undefined) return;
  const count = sizeOf(tree);
  for (let number = 0; number < count; number += 1) {
    for (const length of lengths) {
      const written = write(tree, { number, length, at: 0 });
      if (written !== undefined) yield [`value ${number} ${length}`, written];
    }
  }
}

/** Each octet string in two pieces. */
export function* segmented(message: Uint8Array): Generator<readonly [name: string, message: Uint8Array]> {
  const [tree] = valuesIn(message);
  if (tree === undefined) return;
  const count = sizeOf(tree);
  for (let number = 0; number < count; number += 1) {
    const target = { number, at: 0, found: false };
    const out = inPieces(tree, target);
    if (target.found) yield [`value ${number} in pieces`, encodeValue(out)];
  }
}

function valuesIn(bytes: Uint8Array): Value[] {
  const values: Value[] = [];
  for (let at = 0; at < bytes.length; ) {
    const tag = bytes[at] ?? 0;
    const first = bytes[at + 1] ?? 0;
    const octets = first < 0x80 ? 0 : first - 0x80;
    let length = first < 0x80 ? first : 0;
    for (let i = 0; i < octets; i += 1) length = length * 256 + (bytes[at + 2 + i] ?? 0);
    const content = bytes.subarray(at + 2 + octets, at + 2 + octets + length);
    values.push({ tag, content: (tag & 0x20) === 0 ? content : valuesIn(content) });
    at += 2 + octets + length;
  }
  return values;
}

function sizeOf({ content }: Value): number {
  return content instanceof Uint8Array ? 1 : content.reduce((sum, value) => sum + sizeOf(value), 1);
}

interface Target {
  readonly number: number;
  readonly length: Length;
  at: number;
}

/** Nothing when the value cannot be written so. */
function write(value: Value, target: Target): Uint8Array | undefined {
  const mine = target.at === target.number;
  target.at += 1;
  const parts = value.content instanceof Uint8Array ? [value.content] : value.content.map((inner) => write(inner, target));
  if (!parts.every((part) => part !== undefined)) return undefined;
  if (!mine) return encode(value.tag, ...parts);
  const content = join(...parts);
  if (target.length === 'indefinite') {
    return value.content instanceof Uint8Array ? undefined : join(Uint8Array.of(value.tag, 0x80), content, Uint8Array.of(0, 0));
  }
  // In short form a length takes no octets of its own.
  const needed = encode(value.tag, content).length - content.length - 2;
  const octets = target.length === 'of 5 octets' ? 5 : needed + (target.length === 'padded by 1' ? 1 : 2);
  const header = Array.from({ length: octets }, (_, i) => Math.floor(content.length / 256 ** (octets - 1 - i)) & 0xff);
  return join(Uint8Array.of(value.tag, 0x80 | octets, ...header), content);
}

/** The tree with the octet string of this number in two pieces; nothing when that value is none. */
function inPieces(value: Value, target: { readonly number: number; at: number; found: boolean }): Value {
  const mine = target.at === target.number;
  target.at += 1;
  const { tag, content } = value;
  if (!(content instanceof Uint8Array)) return { tag, content: content.map((inner) => inPieces(inner, target)) };
  if (!mine || tag !== derTag.octetString) return value;
  target.found = true;
  const middle = content.length >> 1;
  return { tag: tag | 0x20, content: [{ tag, content: content.subarray(0, middle) }, { tag, content: content.subarray(middle) }] };
}

function encodeValue({ tag, content }: Value): Uint8Array {
  return content instanceof Uint8Array ? encode(tag, content) : encode(tag, ...content.map(encodeValue));
}

/** What is inside a constructed value. */
export function partsOf(value: Uint8Array): readonly Uint8Array[] {
  const [outer] = valuesIn(value);
  return outer === undefined || outer.content instanceof Uint8Array ? [] : outer.content.map(encodeValue);
}
