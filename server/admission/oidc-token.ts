/**
 * One signed token of an OIDC issuer: its form, its signature and its times, all decided over the very bytes that were
 * signed. Whose job it must be is `oidc-ci.ts`, where the keys come from `issuer-keys.ts`.
 */
import { createHash, type KeyObject } from 'node:crypto';
import { decodeBase64url } from '../../spiffe/base64.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { isJsonArray, isJsonObject, parseJson, type JsonObject, type JsonValue } from '../../spiffe/json.ts';
import { isJwtAlgorithm, jwtAlgorithmFits, verifyJwtSignature, type JwtAlgorithm } from '../../spiffe/jwt-key.ts';

/** A key of an issuer, as its key set describes it. */
export interface IssuerKey {
  readonly keyId: string | undefined;
  /** The only algorithm the key is for, where the set says so. */
  readonly algorithm: JwtAlgorithm | undefined;
  readonly key: KeyObject;
}

/** What somebody sent: good for choosing the issuer whose keys decide, and for nothing else. */
export interface UnverifiedToken {
  readonly claimedIssuer: string;
  readonly keyId: string | undefined;
  readonly algorithm: JwtAlgorithm;
  readonly payload: JsonObject;
  readonly signed: string;
  readonly signature: Uint8Array;
}

declare const verifiedBrand: unique symbol;

/** What an issuer said; `verifyToken` alone makes one. Instants are epoch milliseconds. */
export interface VerifiedToken {
  readonly [verifiedBrand]: true;
  readonly issuer: string;
  readonly subject: string;
  /** As written: an empty list stands for none. */
  readonly audience: readonly string[];
  readonly issuedAt: number;
  readonly expiresAt: number;
  readonly notBeforeAt: number | undefined;
  /**
   * Lower hex SHA-256 of what makes the token this one: issuer and `jti`, or without one the signed text. The signature
   * takes no part, since of some there are two for the same text.
   */
  readonly fingerprint: string;
  readonly claims: JsonObject;
}

export const maxTokenLength = 16 * 1024;

const maxDepth = 8;
/** The end of the year 9999, in seconds. */
const lastSecond = 253_402_300_799;
const leewayMs = 30_000;
/** All others are refused: those that bring or fetch a key, and extensions one would have to understand. */
const headerNames: readonly string[] = ['alg', 'kid', 'typ', 'x5t', 'x5t#S256'];

/** @throws invalid `oidc-ci.malformed`, denied `oidc-ci.algorithm` */
export function parseToken(text: string): UnverifiedToken {
  if (text.length > maxTokenLength) throw malformed('token is too long');
  const parts = text.split('.');
  const [header = '', payload = '', signature = ''] = parts;
  if (parts.length !== 3) throw malformed('token is not a signed JWT in compact form');
  const { algorithm, keyId } = readHeader(readObject(header));
  const claims = readObject(payload);
  return {
    claimedIssuer: textClaim(claims, 'iss'),
    keyId,
    algorithm,
    payload: claims,
    signed: `${header}.${payload}`,
    signature: decodePart(signature),
  };
}

/**
 * @param keys those of the issuer that the token claims, and no other's
 * @throws denied `oidc-ci.key|signature`, invalid `oidc-ci.malformed`
 */
export function verifyToken(token: UnverifiedToken, keys: readonly IssuerKey[]): VerifiedToken {
  const { key } = chooseKey(token, keys);
  if (!verifyJwtSignature(token.algorithm, key, token.signed, token.signature)) {
    throw new SpiffeError('denied', 'oidc-ci.signature', said('the signature of the token is wrong'));
  }
  const { payload, claimedIssuer: issuer } = token;
  const notBeforeAt = payload['nbf'] === undefined ? undefined : instantClaim(payload, 'nbf');
  const told: Omit<VerifiedToken, typeof verifiedBrand> = {
    issuer,
    subject: textClaim(payload, 'sub'),
    audience: audienceOf(payload['aud']),
    issuedAt: instantClaim(payload, 'iat'),
    expiresAt: instantClaim(payload, 'exp'),
    notBeforeAt,
    fingerprint: fingerprintOf(issuer, token),
    claims: payload,
  };
  return told as VerifiedToken;
}

/** @throws denied `oidc-ci.time` */
export function checkTimes(token: VerifiedToken, at: number, maxAgeMs: number): void {
  const { issuedAt, expiresAt, notBeforeAt } = token;
  if (at >= expiresAt + leewayMs) throw new SpiffeError('denied', 'oidc-ci.time', said('the token has expired'));
  if (issuedAt > at + leewayMs || (notBeforeAt ?? 0) > at + leewayMs) {
    throw new SpiffeError('denied', 'oidc-ci.time', said('the token is not valid yet'));
  }
  if (at - issuedAt > maxAgeMs + leewayMs) {
    throw new SpiffeError('denied', 'oidc-ci.time', said('the token was issued too long ago'));
  }
}

function readHeader(header: JsonObject): { readonly algorithm: JwtAlgorithm; readonly keyId: string | undefined } {
  const { alg, kid, typ } = header as { readonly [name in 'alg' | 'kid' | 'typ']?: JsonValue };
  // Before anything else: nothing keyed by a shared secret, nothing unsigned [RFC 8725 3.1].
  if (!isJwtAlgorithm(alg)) {
    throw new SpiffeError('denied', 'oidc-ci.algorithm', said('the token is signed with an algorithm that is not allowed'));
  }
  if (Object.keys(header).some((name) => !headerNames.includes(name))) throw malformed('token has a header that is not allowed');
  // An access token is no identity token.
  if (typ !== undefined && typ !== 'JWT') throw malformed('token is of another type than JWT');
  if (kid !== undefined && (typeof kid !== 'string' || kid === '')) throw malformed('token has a malformed key ID');
  return { algorithm: alg, keyId: kid };
}

function chooseKey({ keyId, algorithm }: UnverifiedToken, keys: readonly IssuerKey[]): IssuerKey {
  if (keyId === undefined && keys.length > 1) {
    throw new SpiffeError('denied', 'oidc-ci.key', said('the token does not say which key it is signed with'));
  }
  const named = keyId === undefined ? keys : keys.filter((each) => each.keyId === keyId);
  const fit = named.filter((each) => (each.algorithm ?? algorithm) === algorithm && jwtAlgorithmFits(algorithm, each.key));
  const [key, ...rest] = fit;
  if (key === undefined) throw new SpiffeError('denied', 'oidc-ci.key', said('the issuer has no such key for this algorithm'));
  if (rest.length > 0) throw new SpiffeError('denied', 'oidc-ci.key', said('the issuer has several keys of that ID'));
  return key;
}

function fingerprintOf(issuer: string, { payload, signed }: UnverifiedToken): string {
  const { jti } = payload as { readonly jti?: JsonValue };
  if (jti !== undefined && typeof jti !== 'string') throw malformed('token has a malformed jti claim');
  const parts = jti === undefined || jti === '' ? [issuer, 'signed', signed] : [issuer, 'jti', jti];
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}

function audienceOf(value: JsonValue | undefined): readonly string[] {
  const audience = isJsonArray(value) ? value : value === undefined ? [] : [value];
  return audience.map((name) => {
    if (typeof name !== 'string') throw malformed('token has a malformed aud claim');
    return name;
  });
}

function textClaim(claims: JsonObject, name: 'iss' | 'sub'): string {
  const value = claims[name];
  if (typeof value !== 'string' || value === '') throw malformed(`token has no ${name} claim`);
  return value;
}

/** Whole seconds. */
function instantClaim(claims: JsonObject, name: 'exp' | 'iat' | 'nbf'): number {
  const value = claims[name];
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value > lastSecond) {
    throw malformed(`token has no ${name} claim that is an instant`);
  }
  return value * 1000;
}

function readObject(part: string): JsonObject {
  let value: JsonValue;
  try {
    value = parseJson(decodePart(part), { maxBytes: maxTokenLength, maxDepth, integers: 'number' });
  } catch (cause) {
    throw malformed('token cannot be decoded', cause);
  }
  if (!isJsonObject(value)) throw malformed('token cannot be decoded');
  return value;
}

function decodePart(part: string): Uint8Array {
  const bytes = part === '' ? undefined : decodeBase64url(part);
  if (bytes === undefined) throw malformed('token cannot be decoded');
  return bytes;
}

function malformed(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'oidc-ci.malformed', said(what), { cause });
}

function said(what: string): string {
  return `nodeattestor(oidc_ci): ${what}`;
}
