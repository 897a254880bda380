/**
 * JWS in compact form, as tokens and proofs of possession share it: three parts to bytes and objects, and back. What the
 * header and the claims have to say, and whose reason a refusal carries, is left to each kind of token.
 */
import { decodeBase64url, encodeBase64url } from './base64.ts';
import { SpiffeError } from './errors.ts';
import type { JsonObject, JsonValue } from './json.ts';
import { isJsonObject, parseJson } from './json.ts';

export interface CompactJws {
  readonly header: JsonObject;
  readonly claims: JsonObject;
  /** What the signature is over. */
  readonly signed: string;
  readonly signature: Uint8Array;
}

/** Longer tokens are neither composed nor looked into. */
export const maxCompactBytes = 32_768;
/** Room for the signature of the longest key, encoded. */
const maxSignatureLength = 1400;
const maxNested = 16;
/** The end of the year 9999, in seconds. */
const lastSecond = 253_402_300_799;

/** @throws invalid `jws.too-large|form|encoding` */
export function parseCompactJws(token: string): CompactJws {
  if (token.length > maxCompactBytes) throw tooLarge();
  const parts = token.split('.');
  const [header, payload, signature] = parts;
  // Five parts are an encrypted token, which proves nothing about its sender.
  if (parts.length !== 3 || header === undefined || payload === undefined || signature === undefined) {
    throw new SpiffeError('invalid', 'jws.form', 'text is not a signed token in compact form');
  }
  return {
    header: readHeader(header),
    claims: decodeObject(payload),
    signed: `${header}.${payload}`,
    signature: decodePart(signature),
  };
}

/** The text to sign [RFC 7515 5.1]. @throws invalid `jws.too-large` */
export function composeSigningInput(header: object, claims: object): string {
  const text = `${encodeText(JSON.stringify(header))}.${encodeText(JSON.stringify(claims))}`;
  if (text.length > maxCompactBytes - maxSignatureLength) throw tooLarge();
  return text;
}

/** The token; the signature is r‖s for EC keys [RFC 7515 7.1]. */
export function assembleJws(signingInput: string, signature: Uint8Array): string {
  return `${signingInput}.${encodeBase64url(signature)}`;
}

/** Epoch milliseconds of a claim in whole seconds; `undefined` for anything else. */
export function instantOfClaim(value: JsonValue | undefined): number | undefined {
  return typeof value === 'number' && isClaimSecond(value) ? value * 1000 : undefined;
}

export function isClaimSecond(seconds: number): boolean {
  return Number.isInteger(seconds) && seconds >= 0 && seconds <= lastSecond;
}

/** Read headers by their text. All tokens of a key have the same one, and reading it costs as much as reading the claims. */
const headers = new Map<string, JsonObject>();
const keptHeaders = { count: 64, length: 256 } as const;

function readHeader(part: string): JsonObject {
  const known = headers.get(part);
  if (known !== undefined) return known;
  const header = decodeObject(part);
  if (part.length > keptHeaders.length) return header;
  // Whoever fills it with headers of their own makes the others be read again, and no more.
  if (headers.size >= keptHeaders.count) headers.clear();
  // A copy, because what was cut out of a token keeps all of it.
  headers.set(Buffer.from(part).toString(), header);
  return header;
}

function decodeObject(part: string): JsonObject {
  let value: JsonValue;
  try {
    value = parseJson(decodePart(part), { maxBytes: maxCompactBytes, maxDepth: maxNested, integers: 'number' });
  } catch (cause) {
    throw undecodable(cause);
  }
  if (!isJsonObject(value)) throw undecodable();
  return value;
}

function decodePart(part: string): Uint8Array {
  const bytes = part === '' ? undefined : decodeBase64url(part);
  if (bytes === undefined) throw undecodable();
  return bytes;
}

function undecodable(cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'jws.encoding', 'part of the token cannot be decoded', { cause });
}

function encodeText(text: string): string {
  return encodeBase64url(Buffer.from(text));
}

function tooLarge(): SpiffeError {
  return new SpiffeError('invalid', 'jws.too-large', `token is longer than ${maxCompactBytes} bytes`);
}
