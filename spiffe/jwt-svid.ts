/**
 * The JWT-SVID: what is signed, and whether a token counts for an audience at an instant, against the bundle of the
 * trust domain it names. Signing, and knowing which token belongs to which workload, are left to others.
 */
import { decodeBase64url, encodeBase64url } from './base64.ts';
import type { Bundle } from './bundle.ts';
import { SpiffeError } from './errors.ts';
import type { SpiffeId, TrustDomain } from './id.ts';
import { parseSpiffeId, trustDomainOf } from './id.ts';
import type { JsonObject, JsonValue } from './json.ts';
import { isJsonArray, isJsonObject, parseJson } from './json.ts';
import { instantOfClaim, isClaimSecond } from './jws.ts';
import type { JwtAlgorithm } from './jwt-key.ts';
import { isJwtAlgorithm, keyOfAuthority, verifyJwtSignature } from './jwt-key.ts';

/** A credential as its holder has it. Instants are epoch milliseconds. */
export interface JwtSvid {
  readonly spiffeId: SpiffeId;
  /** A secret while it lasts: never logged. */
  readonly token: string;
  readonly expiresAt: number;
  /** `undefined` when the issuer did not say. */
  readonly issuedAt: number | undefined;
  readonly audience: readonly string[];
  readonly hint: string;
}

/** What a token was found to say. Instants are epoch milliseconds. */
export interface JwtSvidStatement {
  readonly spiffeId: SpiffeId;
  /** All of the payload, as it was written. */
  readonly claims: JsonObject;
  readonly audience: readonly string[];
  readonly expiresAt: number;
  readonly issuedAt: number | undefined;
}

export interface JwtSvidDraft {
  readonly spiffeId: SpiffeId;
  /** Empty texts are dropped; one must remain. */
  readonly audience: readonly string[];
  /** Epoch milliseconds, cut to whole seconds. */
  readonly issuedAt: number;
  readonly expiresAt: number;
  readonly keyId: string;
  readonly algorithm: JwtAlgorithm;
  readonly jti?: string | undefined;
  readonly issuer?: string | undefined;
}

export interface JwtSvidExpectation {
  /** The bundle of exactly this trust domain, or `undefined` when it is not trusted [Workload API 6.3]. */
  readonly bundleFor: (trustDomain: TrustDomain) => Pick<Bundle, 'trustDomain' | 'jwtAuthorities'> | undefined;
  /** What this validator goes by; of several names the token needs one. */
  readonly audience: string | readonly string[];
  /** Epoch milliseconds. */
  readonly at: number;
  /** How far clocks may differ; 60 if absent, as at SPIRE's agent. */
  readonly leewaySeconds?: number;
}

/** Longer tokens are neither composed nor looked into. */
export const maxJwtSvidBytes = 32_768;

const defaultLeewaySeconds = 60;
const maxNestedClaims = 16;
const headerNames: readonly string[] = ['alg', 'kid', 'typ'];

/**
 * The text to sign: header and payload, encoded and joined [JWT-SVID 2, 3].
 * @throws invalid `jwt-svid.audience.missing`, `jwt-svid.too-large`, `jwt-svid.draft`
 */
export function draftJwtSvid(draft: JwtSvidDraft): string {
  const audience = draft.audience.filter((name) => name !== '');
  if (audience.length === 0) throw new SpiffeError('invalid', 'jwt-svid.audience.missing', 'audience is missing');
  const issuedSecond = Math.floor(draft.issuedAt / 1000);
  const expirySecond = Math.floor(draft.expiresAt / 1000);
  if (draft.keyId === '' || !isClaimSecond(issuedSecond) || !isClaimSecond(expirySecond) || expirySecond <= issuedSecond) {
    throw new SpiffeError('invalid', 'jwt-svid.draft', 'JWT-SVID has no key ID or no lifetime');
  }
  const header = { alg: draft.algorithm, kid: draft.keyId, typ: 'JWT' };
  const payload = {
    aud: audience,
    exp: expirySecond,
    iat: issuedSecond,
    ...(draft.issuer === undefined ? {} : { iss: draft.issuer }),
    ...(draft.jti === undefined ? {} : { jti: draft.jti }),
    sub: draft.spiffeId,
  };
  const text = `${encodeText(JSON.stringify(header))}.${encodeText(JSON.stringify(payload))}`;
  if (text.length > maxJwtSvidBytes - maxSignatureLength) throw tooLarge();
  return text;
}

/** Room for the signature of the longest key, encoded. */
const maxSignatureLength = 1400;

/** The token; the signature is r‖s for EC keys [RFC 7515 7.1]. */
export function assembleJwtSvid(signingInput: string, signature: Uint8Array): string {
  return `${signingInput}.${encodeBase64url(signature)}`;
}

/**
 * Decides whether the token counts. The form and the algorithm come first, then the key and the signature, then what
 * was signed; nothing of a token that fails is kept or told.
 * @throws invalid `jwt-svid.too-large|form|encoding|alg|header|kid|typ|sub|exp|nbf|iat|aud`, `jwt-svid.audience.missing`
 * @throws unauthenticated `jwt-svid.untrusted|key-unknown|signature|audience|expired|not-yet`
 */
export function validateJwtSvid(token: string, expected: JwtSvidExpectation): JwtSvidStatement {
  const names = typeof expected.audience === 'string' ? [expected.audience] : expected.audience;
  if (names.length === 0 || names.includes('')) {
    throw new SpiffeError('invalid', 'jwt-svid.audience.missing', 'audience must be specified');
  }
  const parsed = parseToken(token);
  checkSignature(parsed, expected.bundleFor);
  checkTime(parsed, expected.at, (expected.leewaySeconds ?? defaultLeewaySeconds) * 1000);
  const { spiffeId, claims, audience, expiresAt, issuedAt } = parsed;
  if (!audience.some((name) => names.includes(name))) {
    throw new SpiffeError('unauthenticated', 'jwt-svid.audience', 'token is not meant for this audience');
  }
  return Object.freeze({ spiffeId, claims, audience, expiresAt, issuedAt });
}

/**
 * Reads a token one was given over a trusted channel, to know whose it is and when it ends. Nothing is verified: it
 * proves nothing about whoever sent it.
 * @throws invalid as `validateJwtSvid`
 */
export function parseJwtSvid(token: string, hint = ''): JwtSvid {
  const { spiffeId, audience, expiresAt, issuedAt } = parseToken(token);
  return Object.freeze({ spiffeId, token, expiresAt, issuedAt, audience, hint });
}

/**
 * What a token says, for callers that verified it otherwise: nothing is verified here, neither who signed it nor whether it
 * is over nor whom it is for.
 * @throws invalid as `validateJwtSvid`
 */
export function readJwtSvidUnverified(token: string): JwtSvidStatement {
  const { spiffeId, claims, audience, expiresAt, issuedAt } = parseToken(token);
  return Object.freeze({ spiffeId, claims, audience, expiresAt, issuedAt });
}

interface ParsedToken extends JwtSvidStatement {
  readonly algorithm: JwtAlgorithm;
  readonly keyId: string;
  readonly notBeforeAt: number | undefined;
  readonly signed: string;
  readonly signature: Uint8Array;
}

function parseToken(token: string): ParsedToken {
  if (token.length > maxJwtSvidBytes) throw tooLarge();
  const parts = token.split('.');
  const [header, payload, signatureText] = parts;
  // Five parts are an encrypted token, which no SVID is [JWT-SVID 2].
  if (parts.length !== 3 || header === undefined || payload === undefined || signatureText === undefined) {
    throw new SpiffeError('invalid', 'jwt-svid.form', 'token is not a signed JWT in compact form');
  }
  const { algorithm, keyId } = readHeader(decodeObject(header));
  const claims = decodeObject(payload);
  return {
    algorithm,
    keyId,
    ...readClaims(claims),
    claims,
    signed: `${header}.${payload}`,
    signature: decodePart(signatureText),
  };
}

function readHeader(header: JsonObject): { readonly algorithm: JwtAlgorithm; readonly keyId: string } {
  const { alg, kid, typ } = header as { readonly [name in 'alg' | 'kid' | 'typ']?: JsonValue };
  // Before anything else is looked at [JWT-SVID 2.1, 4].
  if (!isJwtAlgorithm(alg)) {
    throw new SpiffeError('invalid', 'jwt-svid.alg', 'token is signed with an algorithm that is not allowed');
  }
  // No other header is allowed [JWT-SVID 2], and those that name a key or demand an extension are attacks.
  if (Object.keys(header).some((name) => !headerNames.includes(name))) {
    throw new SpiffeError('invalid', 'jwt-svid.header', 'token has a header that is not allowed');
  }
  if (typ !== undefined && typ !== 'JWT' && typ !== 'JOSE') {
    throw new SpiffeError('invalid', 'jwt-svid.typ', 'token type is neither JWT nor JOSE');
  }
  // The standard lets it be absent; everybody's validators do not.
  if (kid === undefined || kid === '') throw new SpiffeError('invalid', 'jwt-svid.kid', 'token header missing key id');
  if (typeof kid !== 'string') throw new SpiffeError('invalid', 'jwt-svid.kid', 'token key id is not a text');
  return { algorithm: alg, keyId: kid };
}

type Statement = Omit<JwtSvidStatement, 'claims'> & Pick<ParsedToken, 'notBeforeAt'>;

function readClaims(claims: JsonObject): Statement {
  const { sub, aud, exp, nbf, iat } = claims as { readonly [name in 'sub' | 'aud' | 'exp' | 'nbf' | 'iat']?: JsonValue };
  if (sub === undefined || sub === '') throw new SpiffeError('invalid', 'jwt-svid.sub', 'token missing subject claim');
  const expiresAt = instantOfClaim(exp);
  if (exp === undefined) throw new SpiffeError('invalid', 'jwt-svid.exp', 'token missing exp claim');
  if (expiresAt === undefined) throw new SpiffeError('invalid', 'jwt-svid.exp', 'token exp claim is not an instant');
  const notBeforeAt = instantOfClaim(nbf);
  if (nbf !== undefined && notBeforeAt === undefined) {
    throw new SpiffeError('invalid', 'jwt-svid.nbf', 'token nbf claim is not an instant');
  }
  const issuedAt = instantOfClaim(iat);
  if (iat !== undefined && issuedAt === undefined) {
    throw new SpiffeError('invalid', 'jwt-svid.iat', 'token iat claim is not an instant');
  }
  return { spiffeId: readSubject(sub), audience: readAudience(aud), expiresAt, notBeforeAt, issuedAt };
}

function readSubject(sub: JsonValue): SpiffeId {
  if (typeof sub !== 'string') throw new SpiffeError('invalid', 'jwt-svid.sub', 'token subject is not a SPIFFE ID');
  try {
    return parseSpiffeId(sub);
  } catch (cause) {
    throw new SpiffeError('invalid', 'jwt-svid.sub', 'token subject is not a SPIFFE ID', { cause });
  }
}

/** One text or several; empty ones name nobody [JWT-SVID 3.2]. */
function readAudience(aud: JsonValue | undefined): readonly string[] {
  const audience: string[] = [];
  for (const name of isJsonArray(aud) ? aud : aud === undefined ? [] : [aud]) {
    if (typeof name !== 'string') throw new SpiffeError('invalid', 'jwt-svid.aud', 'token aud claim is not a text or several');
    if (name !== '') audience.push(name);
  }
  if (audience.length === 0) throw new SpiffeError('invalid', 'jwt-svid.aud', 'token missing aud claim');
  return Object.freeze(audience);
}

function checkSignature(token: ParsedToken, bundleFor: JwtSvidExpectation['bundleFor']): void {
  const trustDomain = trustDomainOf(token.spiffeId);
  const bundle = bundleFor(trustDomain);
  // A bundle of another name would let that trust domain speak for this one [Trust Domain and Bundle 3].
  if (bundle === undefined || bundle.trustDomain !== trustDomain) {
    throw new SpiffeError('unauthenticated', 'jwt-svid.untrusted', 'trust domain of the token is not trusted');
  }
  const authority = bundle.jwtAuthorities.find(({ keyId }) => keyId === token.keyId);
  if (authority === undefined) {
    throw new SpiffeError('unauthenticated', 'jwt-svid.key-unknown', 'token is signed with an unknown key');
  }
  if (!verifyJwtSignature(token.algorithm, keyOfAuthority(authority), token.signed, token.signature)) {
    throw new SpiffeError('unauthenticated', 'jwt-svid.signature', 'token signature is wrong');
  }
}

function checkTime(token: ParsedToken, at: number, leewayMs: number): void {
  if (at >= token.expiresAt + leewayMs) {
    throw new SpiffeError('unauthenticated', 'jwt-svid.expired', 'token has expired');
  }
  for (const start of [token.notBeforeAt, token.issuedAt]) {
    if (start !== undefined && start > at + leewayMs) {
      throw new SpiffeError('unauthenticated', 'jwt-svid.not-yet', 'token is not valid yet');
    }
  }
}

function decodeObject(part: string): JsonObject {
  let value: JsonValue;
  try {
    value = parseJson(decodePart(part), { maxBytes: maxJwtSvidBytes, maxDepth: maxNestedClaims, integers: 'number' });
  } catch (cause) {
    throw new SpiffeError('invalid', 'jwt-svid.encoding', 'token part cannot be decoded', { cause });
  }
  if (!isJsonObject(value)) throw new SpiffeError('invalid', 'jwt-svid.encoding', 'token part cannot be decoded');
  return value;
}

function decodePart(part: string): Uint8Array {
  const bytes = part === '' ? undefined : decodeBase64url(part);
  if (bytes === undefined) throw new SpiffeError('invalid', 'jwt-svid.encoding', 'token part cannot be decoded');
  return bytes;
}

function encodeText(text: string): string {
  return encodeBase64url(Buffer.from(text));
}

function tooLarge(): SpiffeError {
  return new SpiffeError('invalid', 'jwt-svid.too-large', `token is longer than ${maxJwtSvidBytes} bytes`);
}
