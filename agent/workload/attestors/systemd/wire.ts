/**
 * D-Bus messages to bytes and back: header, and bodies of an expected signature, under bounds far below the protocol's.
 * How single values are written is `values.ts`; connections and what is said over them are `dbus.ts`.
 */
import { SpiffeError } from '../../../../spiffe/errors.ts';
import { malformed, padded, Reader, requireType, typeEnd, Writer } from './values.ts';
import type { Variant, WireValue } from './values.ts';

/** Numbers of the header's type byte; any other is to be ignored [D-Bus Message Format]. */
export const messageTypes = { call: 1, return: 2, error: 3, signal: 4 } as const;

/** Do not start the service that is called. */
export const noAutoStart = 2;

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

const version = 1;

/** Header fields that are understood, by their code. */
const fieldNames = ['path', 'interface', 'member', 'errorName', 'replySerial', 'destination', 'sender', 'signature'] as const;
const fieldTypes = ['o', 's', 's', 's', 'u', 's', 's', 'g'];
const unixFdsField = 9;

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
  if (length > longestMessage || fieldsLength > longestFields) {
    throw new SpiffeError('limited', 'dbus.too-large', 'a D-Bus message is larger than allowed');
  }
  return length;
}

function orderOf(head: Buffer): boolean {
  if (head[0] === 0x6c) return true;
  if (head[0] === 0x42) return false;
  throw malformed('byte order');
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
