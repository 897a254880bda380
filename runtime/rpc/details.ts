/**
 * The four small messages that ride in `grpc-status-details-bin`: google.rpc.Status, google.protobuf.Any,
 * google.rpc.ErrorInfo and SPIRE's PermissionDeniedDetails, as bytes. What they say about an error is left to `status.ts`.
 */

/** A google.protobuf.Any. */
export interface StatusDetail {
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

/** A google.rpc.Status. */
export interface RichStatus {
  readonly code: number;
  readonly message: string;
  readonly details: readonly StatusDetail[];
}

/** A google.rpc.ErrorInfo. */
export interface ErrorInfo {
  readonly reason: string;
  readonly domain: string;
  readonly metadata: Readonly<Record<string, string>>;
}

export const errorInfoUrl = 'type.googleapis.com/google.rpc.ErrorInfo';
export const permissionDeniedUrl = 'type.googleapis.com/spire.api.types.PermissionDeniedDetails';

/** In the order of their numbers on the wire. */
export const permissionDeniedReasons = [
  'UNKNOWN',
  'AGENT_EXPIRED',
  'AGENT_NOT_ATTESTED',
  'AGENT_NOT_ACTIVE',
  'AGENT_BANNED',
  'AGENT_MUST_REATTEST',
] as const;

export type PermissionDeniedReason = (typeof permissionDeniedReasons)[number];

const maxDetails = 16;
const maxMetadata = 32;

export function encodeRichStatus(status: RichStatus): Buffer {
  return Buffer.concat([
    ...(status.code === 0 ? [] : [varint(1 << 3), varint(status.code)]),
    ...textField(2, status.message),
    ...status.details.flatMap((detail) =>
      field(3, Buffer.concat([...textField(1, detail.typeUrl), ...field(2, detail.value)])),
    ),
  ]);
}

/** Undefined when the bytes are no such message: details of others never break the error they come with. */
export function decodeRichStatus(bytes: Uint8Array): RichStatus | undefined {
  let code = 0;
  let message = '';
  const details: StatusDetail[] = [];
  for (const part of readFields(bytes)) {
    if (part === undefined) return undefined;
    if (part.number === 1 && typeof part.value === 'number') code = part.value;
    if (part.number === 2 && typeof part.value !== 'number') message = text(part.value);
    if (part.number === 3 && typeof part.value !== 'number') {
      const detail = decodeDetail(part.value);
      if (detail === undefined || details.length === maxDetails) return undefined;
      details.push(detail);
    }
  }
  return { code, message, details };
}

export function encodeErrorInfo(info: ErrorInfo): StatusDetail {
  const entries = Object.entries(info.metadata).flatMap(([key, value]) =>
    field(3, Buffer.concat([...textField(1, key), ...textField(2, value)])),
  );
  const value = Buffer.concat([...textField(1, info.reason), ...textField(2, info.domain), ...entries]);
  return { typeUrl: errorInfoUrl, value };
}

export function decodeErrorInfo(bytes: Uint8Array): ErrorInfo | undefined {
  let reason = '';
  let domain = '';
  const metadata = new Map<string, string>();
  for (const part of readFields(bytes)) {
    if (part === undefined) return undefined;
    if (typeof part.value === 'number') continue;
    if (part.number === 1) reason = text(part.value);
    if (part.number === 2) domain = text(part.value);
    if (part.number === 3) {
      const pair = decodePair(part.value);
      if (pair === undefined || metadata.size === maxMetadata) return undefined;
      metadata.set(pair[0], pair[1]);
    }
  }
  // fromEntries defines properties, so a key named __proto__ is only a key.
  return { reason, domain, metadata: Object.fromEntries(metadata) };
}

export function permissionDeniedDetail(reason: PermissionDeniedReason): StatusDetail {
  const number = permissionDeniedReasons.indexOf(reason);
  return { typeUrl: permissionDeniedUrl, value: number === 0 ? new Uint8Array() : Buffer.from([1 << 3, number]) };
}

/** Numbers of later versions read as `UNKNOWN`. */
export function decodePermissionDenied(bytes: Uint8Array): PermissionDeniedReason | undefined {
  let number = 0;
  for (const part of readFields(bytes)) {
    if (part === undefined) return undefined;
    if (part.number === 1 && typeof part.value === 'number') number = part.value;
  }
  return permissionDeniedReasons[number] ?? 'UNKNOWN';
}

function decodeDetail(bytes: Uint8Array): StatusDetail | undefined {
  let typeUrl = '';
  let value: Uint8Array = new Uint8Array();
  for (const part of readFields(bytes)) {
    if (part === undefined) return undefined;
    if (typeof part.value === 'number') continue;
    if (part.number === 1) typeUrl = text(part.value);
    if (part.number === 2) value = part.value;
  }
  return { typeUrl, value };
}

function decodePair(bytes: Uint8Array): readonly [string, string] | undefined {
  const pair: [string, string] = ['', ''];
  for (const part of readFields(bytes)) {
    if (part === undefined) return undefined;
    if (typeof part.value === 'number') continue;
    if (part.number === 1) pair[0] = text(part.value);
    if (part.number === 2) pair[1] = text(part.value);
  }
  return pair;
}

interface Field {
  readonly number: number;
  readonly value: number | Uint8Array;
}

/** The fields of a message in order; yields `undefined` and ends where the bytes stop being one. */
function* readFields(bytes: Uint8Array): Generator<Field | undefined, void, undefined> {
  let at = 0;
  const readVarint = (): number | undefined => {
    let value = 0;
    for (let shift = 0; shift < 10; shift += 1) {
      const byte = bytes[at];
      if (byte === undefined) return undefined;
      at += 1;
      // Beyond 2^53 precision is lost; no number read here is that large unless it is nonsense.
      value += (byte & 0x7f) * 2 ** (7 * shift);
      if (byte < 0x80) return value;
    }
    return undefined;
  };
  const take = (length: number | undefined): Uint8Array | undefined => {
    if (length === undefined || length > bytes.length - at) return undefined;
    at += length;
    return bytes.subarray(at - length, at);
  };
  while (at < bytes.length) {
    const key = readVarint();
    if (key === undefined || key >= 2 ** 32 || key < 8) {
      yield undefined;
      return;
    }
    const number = Math.floor(key / 8);
    let value: number | Uint8Array | undefined;
    switch (key % 8) {
      case 0:
        value = readVarint();
        break;
      case 1:
        value = take(8);
        break;
      case 2:
        value = take(readVarint());
        break;
      case 5:
        value = take(4);
        break;
      default:
        value = undefined;
    }
    if (value === undefined) {
      yield undefined;
      return;
    }
    // Only these two wire types occur in the messages above; others are unknown fields.
    if (key % 8 === 0 || key % 8 === 2) yield { number, value };
  }
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
}

function textField(number: number, value: string): Uint8Array[] {
  return value === '' ? [] : field(number, Buffer.from(value, 'utf8'));
}

function field(number: number, value: Uint8Array): Uint8Array[] {
  return [varint((number << 3) | 2), varint(value.length), value];
}

function varint(value: number): Uint8Array {
  const out: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 128)) out.push((rest % 128) | 0x80);
  out.push(rest);
  return Uint8Array.from(out);
}
