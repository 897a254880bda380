/**
 * Compact JWS [RFC 7515] of issuers outside, against their key set: the signature, and the instants between which it counts.
 * What the claims must say is left to the callers; what was signed leaves here as claims or not at all.
 */
import type { KeyObject } from 'node:crypto';
import { decodeBase64url } from '../../spiffe/base64.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { isJsonArray, isJsonObject, parseJson, type JsonObject, type JsonValue } from '../../spiffe/json.ts';
import { parseSignatureJwk } from '../../spiffe/jwk.ts';
import { isJwtAlgorithm, jwtAlgorithmFits, verifyJwtSignature, type JwtAlgorithm } from '../../spiffe/jwt-key.ts';

declare const signedBrand: unique symbol;

/** The payload of a token whose signature was checked. Nothing but `verifyJws` makes one. */
export type SignedClaims = JsonObject & { readonly [signedBrand]: true };

/** Keys by key ID. */
export type JwsKeys = ReadonlyMap<string, KeyObject>;

export interface JwsLimits {
  /** The issuer's, so that nobody chooses a weaker one. */
  readonly algorithms: readonly JwtAlgorithm[];
}

export const maxJwsBytes = 32 * 1024;

const maxKeySetBytes = 1024 * 1024;
const maxKeys = 256;
const maxNested = 8;
const headerNames: ReadonlySet<string> = new Set(['alg', 'kid', 'typ', 'x5t']);
/** The end of the year 9999, in seconds. */
const lastSecond = 253_402_300_799;

/**
 * A JSON Web Key Set. Keys meant for encryption, without a key ID, or of a kind that no algorithm of ours fits, are passed over.
 * @throws invalid `jws.keys` when it cannot be read, repeats a key ID, holds a secret, or has no key to use
 */
export function parseKeySet(text: string): JwsKeys {
  const set = readKeySet(text);
  const listed = isJsonObject(set) ? set['keys'] : undefined;
  if (!isJsonArray(listed) || listed.length > maxKeys) throw badKeys('it is no key set');
  const keys = new Map<string, KeyObject>();
  for (const jwk of listed) {
    if (!isJsonObject(jwk)) throw badKeys('it holds something else than keys');
    const keyId = jwk['kid'];
    const key = readKey(jwk);
    if (typeof keyId !== 'string' || keyId === '' || key === undefined) continue;
    if (keys.has(keyId)) throw badKeys('two keys have the same ID');
    keys.set(keyId, key);
  }
  if (keys.size === 0) throw badKeys('it holds no key that can be used');
  return keys;
}

/**
 * The claims of a token that one of these keys signed. Form and algorithm come first, then key and signature, and only then
 * is the payload looked into.
 * @throws invalid `jws.form|algorithm|header|claims`, unauthenticated `jws.key-unknown|signature`
 */
export function verifyJws(token: string, keys: JwsKeys, { algorithms }: JwsLimits): SignedClaims {
  if (token.length > maxJwsBytes) throw new SpiffeError('invalid', 'jws.form', 'token is too long');
  const [header = '', payload = '', signature = '', ...rest] = token.split('.');
  if (rest.length > 0) throw new SpiffeError('invalid', 'jws.form', 'token has not three parts');
  const [headerBytes, payloadBytes, signatureBytes] = [decode(header), decode(payload), decode(signature)];
  const { algorithm, keyId } = readHeader(parseObject(headerBytes, 'jws.form'), algorithms);
  const key = keys.get(keyId);
  if (key === undefined) throw new SpiffeError('unauthenticated', 'jws.key-unknown', 'token is signed with an unknown key');
  if (!verifyJwtSignature(algorithm, key, `${header}.${payload}`, signatureBytes)) {
    throw new SpiffeError('unauthenticated', 'jws.signature', 'token signature is wrong');
  }
  return parseObject(payloadBytes, 'jws.claims') as SignedClaims;
}

/**
 * That the token counts at this instant: its end must be told, its beginning and its issue are checked where they are.
 * @throws invalid `jws.claims`, unauthenticated `jws.expired|not-yet`
 */
export function checkInstants(claims: SignedClaims, at: number, leewayMs: number): void {
  const [end, ...starts] = ['exp', 'nbf', 'iat'].map((name) => readInstant(claims, name));
  if (end === undefined) throw new SpiffeError('invalid', 'jws.claims', 'token missing exp claim');
  if (at >= end + leewayMs) throw new SpiffeError('unauthenticated', 'jws.expired', 'token has expired');
  if (starts.some((start) => start !== undefined && start > at + leewayMs)) {
    throw new SpiffeError('unauthenticated', 'jws.not-yet', 'token is not valid yet');
  }
}

/**
 * Whether the token is meant for this audience.
 * @throws invalid `jws.claims`
 */
export function hasAudience(claims: SignedClaims, audience: string): boolean {
  const named = claims['aud'];
  const listed = isJsonArray(named) ? named : [named];
  if (!listed.every((one) => typeof one === 'string')) {
    throw new SpiffeError('invalid', 'jws.claims', 'token aud claim is not a text or several');
  }
  return listed.includes(audience);
}

function readInstant(claims: SignedClaims, name: string): number | undefined {
  const seconds = claims[name];
  if (seconds === undefined) return undefined;
  if (typeof seconds !== 'number' || !Number.isInteger(seconds) || seconds < 0 || seconds > lastSecond) {
    throw new SpiffeError('invalid', 'jws.claims', `token ${name} claim is not an instant`);
  }
  return seconds * 1000;
}

function readHeader(header: JsonObject, algorithms: readonly JwtAlgorithm[]): { algorithm: JwtAlgorithm; keyId: string } {
  const { alg, kid, typ } = header as { readonly [name in 'alg' | 'kid' | 'typ']?: JsonValue };
  if (!isJwtAlgorithm(alg) || !algorithms.includes(alg)) {
    throw new SpiffeError('invalid', 'jws.algorithm', 'token is signed with an algorithm that is not allowed');
  }
  // Headers that name a key or demand an extension are attacks; a certificate's fingerprint is only passed over.
  if (Object.keys(header).some((name) => !headerNames.has(name))) {
    throw new SpiffeError('invalid', 'jws.header', 'token has a header that is not allowed');
  }
  if ((typ !== undefined && typ !== 'JWT') || typeof kid !== 'string' || kid === '') {
    throw new SpiffeError('invalid', 'jws.header', 'token names no key, or is no JWT');
  }
  return { algorithm: alg, keyId: kid };
}

function decode(part: string): Uint8Array {
  const bytes = part === '' ? undefined : decodeBase64url(part);
  if (bytes === undefined) throw new SpiffeError('invalid', 'jws.form', 'a part of the token is missing or cannot be decoded');
  return bytes;
}

function parseObject(bytes: Uint8Array, reason: 'jws.form' | 'jws.claims'): JsonObject {
  let value: JsonValue | undefined;
  let cause: unknown;
  try {
    value = parseJson(bytes, { maxBytes: maxJwsBytes, maxDepth: maxNested, integers: 'exact' });
  } catch (error) {
    if (!(error instanceof SpiffeError)) throw error;
    cause = error;
  }
  if (isJsonObject(value)) return value;
  const context = cause === undefined ? {} : { cause };
  if (reason === 'jws.form') throw new SpiffeError('invalid', 'jws.form', 'header of the token is not an object', context);
  throw new SpiffeError('invalid', 'jws.claims', 'payload of the token is not an object', context);
}

function readKeySet(text: string): JsonValue {
  try {
    return parseJson(text, { maxBytes: maxKeySetBytes, maxDepth: maxNested, integers: 'number' });
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw badKeys(cause.message, cause);
  }
}

function readKey(jwk: JsonObject): KeyObject | undefined {
  const use = jwk['use'];
  if (use !== undefined && use !== 'sig') return undefined;
  let key: KeyObject | undefined;
  try {
    key = parseSignatureJwk(jwk);
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw badKeys(cause.message, cause);
  }
  if (key === undefined) return undefined;
  const { alg } = jwk as { readonly alg?: JsonValue };
  const fits = isJwtAlgorithm(alg) ? jwtAlgorithmFits(alg, key) : alg === undefined;
  return fits ? key : undefined;
}

function badKeys(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'jws.keys', `key set cannot be used: ${what}`, { cause });
}
