/**
 * D-Bus messages to bytes and back: header, and bodies of an expected signature, under bounds far below the protocol's.
 * Connections and what is said over them are `dbus.ts`.
 */
import { SpiffeError } from '../../../../spiffe/errors.ts';

/** Numbers of the header's type byte; any other is to be ignored [D-Bus Message Format]. */
export const messageTypes = { call: 1, return: 2, error: 3, signal: 4 } as const;

/** Do not start the service that is called. */
export const noAutoStart = 2;

export interface Variant {
  readonly signature: string;
  readonly value: WireValue;
}

/** Structs, entries of dictionaries and arrays are all arrays; 64-bit numbers are bigint. */
export type WireValue = string | number | bigint | boolean | Variant | readonly WireValue[];

export interface MessageFields {
  readonly path?: string;
  readonly interface?: string;
  readonly member?: string;
  readonly errorName?: string;
  readonly replySerial?: number;
  readonly destination?: string;
  /** Set by the bus, which no sender can deceive; absent where there is no bus. */
  readonly sender?: string;
}

export interface Message extends MessageFields {
  readonly type: number;
  readonly flags: number;
  readonly serial: number;
  /** Of the body; empty without one. */
  readonly signature: string;
  readonly body: Buffer;
  readonly little: boolean;
}

/** The protocol allows 128 MiB; nothing that is asked here comes near this. */
export const longestMessage = 1024 * 1024;
/** Bytes that tell how long a message is. */
export const fixedHeaderBytes = 16;
const longestFields = 16 * 1024;

const deepest = 32;
const version = 1;

/** Header fields that are understood, by their code. */
const fieldNames = ['path', 'interface', 'member', 'errorName', 'replySerial', 'destination', 'sender', 'signature'] as const;
const fieldTypes = ['o', 's', 's', 's', 'u', 's', 's', 'g'];
const unixFdsField = 9;

const alignments: Readonly<Record<string, number>> = {
  y: 1, b: 4, n: 2, q: 2, i: 4, u: 4, x: 8, t: 8, d: 8, s: 4, o: 4, g: 1, v: 1, a: 4, '(': 8, '{': 8,
};

function malformed(what: string): SpiffeError {
  return new SpiffeError('invalid', 'dbus.form', `a D-Bus message is not of its form: ${what}`);
}

/**
 * @param head the first 16 bytes of a message
 * @returns bytes of the whole message
 * @throws invalid `dbus.form`; limited `dbus.too-large`
 */
export function messageLength(head: Buffer): number {
  const little = orderOf(head);
  if (head[3] !== version) throw malformed('version');
  const bodyLength = little ? head.readUInt32LE(4) : head.readUInt32BE(4);
  const fieldsLength = little ? head.readUInt32LE(12) : head.readUInt32BE(12);
  const length = padded(fixedHeaderBytes + fieldsLength, 8) + bodyLength;
  if (length > longestMessage || fieldsLength > longestFields) throw new SpiffeError('limited', 'dbus.too-large', 'a D-Bus message is larger than allowed');
  return length;
}

function orderOf(head: Buffer): boolean {
  if (head[0] === 0x6c) return true;
  if (head[0] === 0x42) return false;
  throw malformed('byte order');
}

function padded(length: number, alignment: number): number {
  return Math.ceil(length / alignment) * alignment;
}

/**
 * Reads the header; the body is left as it is until somebody asks for it.
 * @param bytes one message, as long as `messageLength` says
 * @throws invalid `dbus.form`
 */
export function decodeMessage(bytes: Buffer): Message {
  const little = orderOf(bytes);
  const reader = new Reader(bytes, little, 4);
  const bodyLength = reader.uint32();
  const serial = reader.uint32();
  if (serial === 0) throw malformed('serial');
  const fields: Record<string, WireValue> = {};
  for (const field of reader.array('a(yv)', 1, 0)) {
    const [code, variant] = field as readonly [number, Variant];
    if (code === 0) throw malformed('header field');
    // Descriptors are never agreed on here, so a message that carries some breaks the protocol.
    if (code === unixFdsField && variant.value !== 0) throw malformed('descriptors');
    const name = fieldNames[code - 1];
    if (name === undefined) continue;
    if (variant.signature !== fieldTypes[code - 1] || name in fields) throw malformed(`header field ${name}`);
    fields[name] = variant.value;
  }
  reader.align(8);
  if (reader.at + bodyLength !== bytes.length) throw malformed('length');
  const { signature = '', ...known } = fields as MessageFields & { readonly signature?: string };
  if (signature === '' && bodyLength > 0) throw malformed('body without a signature');
  return { type: bytes[1] ?? 0, flags: bytes[2] ?? 0, serial, ...known, signature, body: bytes.subarray(reader.at), little };
}

/**
 * The values of a body.
 * @param variant the signature of every variant in it
 * @throws invalid `dbus.type` when it is not of these signatures, `dbus.form` when its bytes are not
 */
export function decodeBody(message: Message, signature: string, variant: string): readonly WireValue[] {
  requireType(message.signature, signature);
  const reader = new Reader(message.body, message.little, 0, variant);
  const values: WireValue[] = [];
  for (let at = 0; at < signature.length; at = typeEnd(signature, at, 0)) values.push(reader.value(signature, at, 0));
  if (reader.at !== message.body.length) throw malformed('bytes after the body');
  return values;
}

function requireType(got: string, expected: string): void {
  if (got === expected) return;
  const detail = { expected, got: got.slice(0, 32) };
  throw new SpiffeError('invalid', 'dbus.type', 'a D-Bus message carries values of other types than it should', { detail });
}

/** @returns where the complete type that begins at `at` ends */
function typeEnd(signature: string, at: number, depth: number): number {
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

class Reader {
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

export interface Call extends MessageFields {
  readonly flags: number;
  readonly serial: number;
  readonly signature: string;
  /** Texts and 32-bit numbers: nothing else is ever asked with. */
  readonly body: readonly (string | number)[];
}

/** A method call, little-endian. */
export function encodeCall(call: Call): Buffer {
  const body = new Writer();
  for (const [index, value] of call.body.entries()) body.basic(call.signature[index] ?? '', value);
  const fields = new Writer();
  for (const [index, name] of fieldNames.entries()) {
    const value = call[name];
    if (value === undefined || value === '') continue;
    fields.align(8);
    fields.uint8(index + 1);
    fields.basic('g', fieldTypes[index] ?? '');
    fields.basic(fieldTypes[index] ?? '', value);
  }
  const head = new Writer();
  head.uint8(0x6c);
  head.uint8(messageTypes.call);
  head.uint8(call.flags);
  head.uint8(version);
  head.basic('u', body.length);
  head.basic('u', call.serial);
  head.basic('u', fields.length);
  head.append(fields.bytes());
  head.align(8);
  head.append(body.bytes());
  return head.bytes();
}

class Writer {
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
