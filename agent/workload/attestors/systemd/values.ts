/**
 * Values as D-Bus writes them, in either byte order: signatures, alignment, and every type but descriptors, which are
 * never passed. What a message is made of is `wire.ts`.
 */
import { SpiffeError } from '../../../../spiffe/errors.ts';

export interface Variant {
  readonly signature: string;
  readonly value: WireValue;
}

/** Structs, entries of dictionaries and arrays are all arrays; 64-bit numbers are bigint. */
export type WireValue = string | number | bigint | boolean | Variant | readonly WireValue[];

const deepest = 32;

const alignments: Readonly<Record<string, number>> = {
  y: 1, b: 4, n: 2, q: 2, i: 4, u: 4, x: 8, t: 8, d: 8, s: 4, o: 4, g: 1, v: 1, a: 4, '(': 8, '{': 8,
};

export function malformed(what: string): SpiffeError {
  return new SpiffeError('invalid', 'dbus.form', `a D-Bus message is not of its form: ${what}`);
}

export function padded(length: number, alignment: number): number {
  return Math.ceil(length / alignment) * alignment;
}

/** @throws invalid `dbus.type` */
export function requireType(got: string, expected: string): void {
  if (got === expected) return;
  const detail = { expected, got: got.slice(0, 32) };
  throw new SpiffeError('invalid', 'dbus.type', 'a D-Bus message carries values of other types than it should', { detail });
}

/** @returns where the complete type that begins at `at` ends. @throws invalid `dbus.form` */
export function typeEnd(signature: string, at: number, depth: number): number {
  if (depth > deepest) throw malformed('nesting');
  const code = signature[at];
  if (code === 'a') return typeEnd(signature, at + 1, depth + 1);
  if (code === '(' || code === '{') {
    const close = code === '(' ? ')' : '}';
    let inside = at + 1;
    let members = 0;
    while (signature[inside] !== close) {
      inside = typeEnd(signature, inside, depth + 1);
      members += 1;
    }
    const isEntry = code === '{';
    if (isEntry ? members !== 2 || signature[at - 1] !== 'a' || '({av'.includes(signature[at + 1] ?? '') : members === 0) {
      throw malformed('signature');
    }
    return inside + 1;
  }
  // A descriptor ('h') has no place in a connection that passes none.
  if (code === undefined || alignments[code] === undefined) throw malformed('signature');
  return at + 1;
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Reads one value after the other. @throws invalid `dbus.form|type` */
export class Reader {
  at: number;
  readonly #bytes: Buffer;
  readonly #little: boolean;

  /** Looked at before the value, which may be long; undefined when any type will do. */
  readonly #variant: string | undefined;

  constructor(bytes: Buffer, little: boolean, at: number, variant?: string) {
    this.#bytes = bytes;
    this.#little = little;
    this.#variant = variant;
    this.at = at;
  }

  align(alignment: number): void {
    const to = padded(this.at, alignment);
    while (this.at < to) if (this.#bytes[this.#take(1)] !== 0) throw malformed('padding');
  }

  uint32(): number {
    this.align(4);
    const at = this.#take(4);
    return this.#little ? this.#bytes.readUInt32LE(at) : this.#bytes.readUInt32BE(at);
  }

  /** Elements of the complete type that begins at `at`, after the array's own letter. */
  array(signature: string, at: number, depth: number): WireValue[] {
    const length = this.uint32();
    this.align(alignments[signature[at] ?? ''] ?? 1);
    const end = this.at + length;
    if (end > this.#bytes.length) throw malformed('array');
    const items: WireValue[] = [];
    while (this.at < end) items.push(this.value(signature, at, depth + 1));
    if (this.at !== end) throw malformed('array');
    return items;
  }

  /** One value of the complete type that begins at `at`. */
  value(signature: string, at: number, depth: number): WireValue {
    if (depth > deepest) throw malformed('nesting');
    const code = signature[at] ?? '';
    switch (code) {
      case 'a':
        typeEnd(signature, at, depth);
        return this.array(signature, at + 1, depth);
      case '(':
      case '{': {
        const end = typeEnd(signature, at, depth) - 1;
        this.align(8);
        const members: WireValue[] = [];
        for (let inside = at + 1; inside < end; inside = typeEnd(signature, inside, depth)) {
          members.push(this.value(signature, inside, depth + 1));
        }
        return members;
      }
      case 'v': {
        const inner = this.#signature();
        if (this.#variant !== undefined) requireType(inner, this.#variant);
        if (typeEnd(inner, 0, depth) !== inner.length) throw malformed('variant');
        return { signature: inner, value: this.value(inner, 0, depth + 1) };
      }
      case 'g': {
        const inner = this.#signature();
        for (let part = 0; part < inner.length; ) part = typeEnd(inner, part, 0);
        return inner;
      }
      case 's':
        return this.#text(this.uint32());
      case 'o': {
        const path = this.#text(this.uint32());
        if (!/^\/(?:[A-Za-z0-9_]+(?:\/[A-Za-z0-9_]+)*)?$/.test(path)) throw malformed('object path');
        return path;
      }
      case 'b': {
        const flag = this.uint32();
        if (flag > 1) throw malformed('boolean');
        return flag === 1;
      }
      default:
        return this.#number(code);
    }
  }

  #number(code: string): WireValue {
    const [bytes, little] = [this.#bytes, this.#little];
    const size = alignments[code] ?? 0;
    this.align(size);
    const at = this.#take(size);
    switch (code) {
      case 'y':
        return bytes.readUInt8(at);
      case 'n':
        return little ? bytes.readInt16LE(at) : bytes.readInt16BE(at);
      case 'q':
        return little ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at);
      case 'i':
        return little ? bytes.readInt32LE(at) : bytes.readInt32BE(at);
      case 'u':
        return little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at);
      case 'x':
        return little ? bytes.readBigInt64LE(at) : bytes.readBigInt64BE(at);
      case 't':
        return little ? bytes.readBigUInt64LE(at) : bytes.readBigUInt64BE(at);
      case 'd':
        return little ? bytes.readDoubleLE(at) : bytes.readDoubleBE(at);
      default:
        throw malformed('signature');
    }
  }

  #signature(): string {
    return this.#text(this.#bytes[this.#take(1)] ?? 0);
  }

  #text(length: number): string {
    const at = this.#take(length + 1);
    const bytes = this.#bytes.subarray(at, at + length);
    if (bytes.includes(0) || this.#bytes[at + length] !== 0) throw malformed('text');
    try {
      return utf8.decode(bytes);
    } catch {
      throw malformed('text');
    }
  }

  #take(count: number): number {
    const at = this.at;
    if (at + count > this.#bytes.length) throw malformed('end');
    this.at = at + count;
    return at;
  }
}

/** Little-endian. */
export class Writer {
  length = 0;
  readonly #parts: Buffer[] = [];

  bytes(): Buffer {
    return Buffer.concat(this.#parts, this.length);
  }

  append(part: Buffer): void {
    this.#parts.push(part);
    this.length += part.length;
  }

  align(alignment: number): void {
    this.append(Buffer.alloc(padded(this.length, alignment) - this.length));
  }

  uint8(value: number): void {
    this.append(Buffer.of(value));
  }

  /** @param code one of `u`, `s`, `o` and `g` */
  basic(code: string, value: string | number): void {
    if (code === 'g') this.uint8(Buffer.byteLength(String(value)));
    else this.align(4);
    if (code !== 'g') this.append(uint32(typeof value === 'number' ? value : Buffer.byteLength(value)));
    if (typeof value === 'string') this.append(Buffer.from(`${value}\0`));
  }
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}
