/**
 * The WIT-SVID, a token that is worth nothing without the key it names: what is signed, and what a verifier checks of it
 * before it looks at the proof of possession. Whoever presents one is known only after `wit-proof.ts`.
 */
import type { KeyObject } from 'node:crypto';
import { createPrivateKey, createPublicKey } from 'node:crypto';

import type { Bundle, JwtAuthority } from './bundle.ts';
import { SpiffeError } from './errors.ts';
import type { SpiffeId, TrustDomain } from './id.ts';
import { parseSpiffeId, trustDomainOf } from './id.ts';
import type { JsonObject, JsonValue } from './json.ts';
import { isJsonObject, parseJson } from './json.ts';
import { formatJwk, parseSignatureJwk } from './jwk.ts';
import { assembleJws, composeSigningInput, instantOfClaim, isClaimSecond, parseCompactJws } from './jws.ts';
import type { JwtAlgorithm } from './jwt-key.ts';
import { isJwtAlgorithm, jwtAlgorithmFits, keyOfAuthority, verifyJwtSignature } from './jwt-key.ts';

/** The public key that a WIT-SVID is bound to, and the one algorithm it proves itself with [WIT-SVID 3.2]. */
export interface Confirmation {
  readonly key: KeyObject;
  readonly algorithm: JwtAlgorithm;
}

/** A credential as its holder has it. Instants are epoch milliseconds. Frozen. */
export interface WitSvid {
  readonly spiffeId: SpiffeId;
  /** Never sent without a proof made with `privateKey`, and never as a bearer token [WIT-SVID 5]. */
  readonly token: string;
  readonly privateKey: KeyObject;
  readonly algorithm: JwtAlgorithm;
  readonly expiresAt: number;
  /** `undefined` when the issuer did not say. */
  readonly issuedAt: number | undefined;
  readonly hint: string;
}

/** What a WIT-SVID says. Nothing here tells who presented it. Instants are epoch milliseconds. */
export interface WitStatement {
  readonly spiffeId: SpiffeId;
  /** All of the payload, as it was written. */
  readonly claims: JsonObject;
  readonly confirmation: Confirmation;
  readonly expiresAt: number;
  readonly issuedAt: number | undefined;
}

export interface WitSvidDraft {
  readonly spiffeId: SpiffeId;
  readonly confirmation: Confirmation;
  /** Epoch milliseconds, cut to whole seconds. */
  readonly notBeforeAt: number;
  readonly issuedAt: number;
  readonly expiresAt: number;
  /** Of the authority that signs. */
  readonly keyId: string;
  readonly algorithm: JwtAlgorithm;
  readonly jti?: string | undefined;
}

export interface WitTrust {
  /** The bundle of exactly this trust domain, or `undefined` when it is not trusted. */
  readonly bundleFor: (trustDomain: TrustDomain) => Pick<Bundle, 'trustDomain' | 'witAuthorities'> | undefined;
  /** Epoch milliseconds. */
  readonly at: number;
  /** How far clocks may differ, both ways; 60 if absent. */
  readonly leewaySeconds?: number;
  /** Refuse what says `nbf` and is good for longer than this [WIT-SVID 3.5]. */
  readonly longestLifeSeconds?: number;
  /** What was found before: a caller presents one WIT-SVID with every request for as long as it lasts. */
  readonly known?: KnownWits;
}

/** WIT-SVIDs whose signature was found right, and by which key: neither is found out twice. Everything else is. */
export interface KnownWits {
  get(token: string): KnownWit | undefined;
  set(token: string, known: KnownWit): void;
}

export interface KnownWit {
  readonly parsed: ParsedWit;
  readonly signedBy: JwtAuthority;
}

export const defaultWitLeewaySeconds = 60;
const type = 'wit+jwt';

/**
 * The text to sign: of headers and claims those that are asked for and no other. No audience, because the proof has one,
 * and no issuer, so that nobody takes it for a token of OpenID Connect [WIT-SVID 2, 3].
 * @throws invalid `wit-svid.draft`, `jws.too-large`
 */
export function draftWitSvid(draft: WitSvidDraft): string {
  const { spiffeId, confirmation, keyId, algorithm, jti } = draft;
  const notBefore = Math.floor(draft.notBeforeAt / 1000);
  const issued = Math.floor(draft.issuedAt / 1000);
  const expiry = Math.floor(draft.expiresAt / 1000);
  if (keyId === '' || ![notBefore, issued, expiry].every(isClaimSecond) || expiry <= issued || expiry <= notBefore) {
    throw new SpiffeError('invalid', 'wit-svid.draft', 'WIT-SVID has no key ID or no lifetime');
  }
  return composeSigningInput(
    { alg: algorithm, kid: keyId, typ: type },
    {
      cnf: { jwk: { ...formatJwk(publicHalf(confirmation.key)), alg: confirmation.algorithm } },
      exp: expiry,
      iat: issued,
      ...(jti === undefined ? {} : { jti }),
      nbf: notBefore,
      sub: spiffeId,
    },
  );
}

/** A key that is private would take its secret into the token. */
function publicHalf(key: KeyObject): KeyObject {
  return key.type === 'private' ? createPublicKey(key) : key;
}

/** The token; the signature is r‖s for EC keys [RFC 7515 7.1]. */
export function assembleWitSvid(signingInput: string, signature: Uint8Array): string {
  return assembleJws(signingInput, signature);
}

/** Of a token that was read but is not believed yet. */
export interface ParsedWit extends WitStatement {
  readonly algorithm: JwtAlgorithm;
  readonly keyId: string;
  readonly notBeforeAt: number | undefined;
  readonly jti: string | undefined;
  readonly signed: string;
  readonly signature: Uint8Array;
}

/**
 * Reads a token one was given over a trusted channel, to know whose it is, which key it names and when it ends. Nothing is
 * verified.
 * @throws invalid `wit-svid.alg|crit|kid|typ|sub|aud|exp|nbf|iat|jti|cnf`, and as `parseCompactJws`
 */
export function parseWitSvid(token: string): ParsedWit {
  const { header, claims, signed, signature } = parseCompactJws(token);
  return { ...readHeader(header), ...readClaims(claims), claims, signed, signature };
}

/**
 * The first half of the verdict: form, trust domain, signature, time. The second, without which nobody is identified, is
 * the proof; only `wit-proof.ts` calls this.
 * @throws invalid as `parseWitSvid`; unauthenticated `wit-svid.untrusted|key-unknown|signature|expired|not-yet|life`
 */
export function checkWitSvid(token: string, trust: WitTrust): WitStatement {
  const known = trust.known?.get(token);
  const parsed = known?.parsed ?? parseWitSvid(token);
  const authority = authorityOf(parsed, trust.bundleFor);
  if (known?.signedBy !== authority) {
    if (!verifyJwtSignature(parsed.algorithm, keyOfAuthority(authority), parsed.signed, parsed.signature)) {
      throw new SpiffeError('unauthenticated', 'wit-svid.signature', 'signature of the WIT-SVID is wrong');
    }
    trust.known?.set(token, { parsed, signedBy: authority });
  }
  checkTime(parsed, trust);
  const { spiffeId, claims, confirmation, expiresAt, issuedAt } = parsed;
  return { spiffeId, claims, confirmation, expiresAt, issuedAt };
}

/**
 * A credential as the Workload API hands it over.
 * @param key the private key as JWK text [Workload API 7.1]
 * @throws invalid `wit-svid.key`, and as `parseWitSvid`
 */
export function receiveWitSvid(token: string, key: string, hint = ''): WitSvid {
  const { spiffeId, confirmation, expiresAt, issuedAt } = parseWitSvid(token);
  const privateKey = parsePrivateJwk(key);
  if (!createPublicKey(privateKey).equals(confirmation.key)) {
    throw new SpiffeError('invalid', 'wit-svid.key', 'private key is not that of the WIT-SVID');
  }
  return Object.freeze({ spiffeId, token, privateKey, algorithm: confirmation.algorithm, expiresAt, issuedAt, hint });
}

/** The private key as JWK text, with its algorithm. To be handed to its holder and nobody else. */
export function formatPrivateJwk(key: KeyObject, algorithm: JwtAlgorithm): string {
  return JSON.stringify({ ...key.export({ format: 'jwk' }), alg: algorithm });
}

function parsePrivateJwk(text: string): KeyObject {
  try {
    const jwk = parseJson(text, { maxBytes: 16_384, maxDepth: 2, integers: 'number' });
    if (isJsonObject(jwk) && (jwk['kty'] === 'EC' || jwk['kty'] === 'RSA')) {
      return createPrivateKey({ key: { ...jwk }, format: 'jwk' });
    }
  } catch {
    // Without the cause: it may quote the key.
  }
  throw new SpiffeError('invalid', 'wit-svid.key', 'private key of the WIT-SVID cannot be read');
}

type Header = Pick<ParsedWit, 'algorithm' | 'keyId'>;

/** Unknown headers are ignored, and with them every one that would bring a key along [WIT-SVID 2.4]. */
function readHeader(header: JsonObject): Header {
  const { alg, kid, typ, crit } = header as { readonly [name in 'alg' | 'kid' | 'typ' | 'crit']?: JsonValue };
  if (!isJwtAlgorithm(alg)) {
    throw new SpiffeError('invalid', 'wit-svid.alg', 'WIT-SVID is signed with an algorithm that is not allowed');
  }
  if (typ !== type) throw new SpiffeError('invalid', 'wit-svid.typ', `token type is not ${type}`);
  // No extension is known here [RFC 7515 4.1.11].
  if (crit !== undefined) throw new SpiffeError('invalid', 'wit-svid.crit', 'WIT-SVID demands an extension');
  if (typeof kid !== 'string' || kid === '') throw new SpiffeError('invalid', 'wit-svid.kid', 'WIT-SVID has no key ID');
  return { algorithm: alg, keyId: kid };
}

type ClaimName = 'sub' | 'aud' | 'exp' | 'nbf' | 'iat' | 'jti' | 'cnf';
type Claims = Pick<ParsedWit, 'spiffeId' | 'confirmation' | 'expiresAt' | 'notBeforeAt' | 'issuedAt' | 'jti'>;

function readClaims(claims: JsonObject): Claims {
  const { sub, aud, exp, nbf, iat, jti, cnf } = claims as { readonly [name in ClaimName]?: JsonValue };
  const spiffeId = readSubject(sub);
  // With an audience it would be taken for a bearer token [WIT-SVID 3.8].
  if (aud !== undefined) throw new SpiffeError('invalid', 'wit-svid.aud', 'WIT-SVID has an audience');
  const expiresAt = instantOfClaim(exp);
  if (expiresAt === undefined) throw new SpiffeError('invalid', 'wit-svid.exp', 'WIT-SVID has no expiry');
  const notBeforeAt = instantOfClaim(nbf);
  if (nbf !== undefined && notBeforeAt === undefined) {
    throw new SpiffeError('invalid', 'wit-svid.nbf', 'nbf of the WIT-SVID is not an instant');
  }
  const issuedAt = instantOfClaim(iat);
  if (iat !== undefined && issuedAt === undefined) {
    throw new SpiffeError('invalid', 'wit-svid.iat', 'iat of the WIT-SVID is not an instant');
  }
  if (jti !== undefined && typeof jti !== 'string') {
    throw new SpiffeError('invalid', 'wit-svid.jti', 'jti of the WIT-SVID is not a text');
  }
  return { spiffeId, confirmation: readConfirmation(cnf), expiresAt, notBeforeAt, issuedAt, jti };
}

function readSubject(sub: JsonValue | undefined): SpiffeId {
  if (typeof sub !== 'string') throw new SpiffeError('invalid', 'wit-svid.sub', 'WIT-SVID has no subject');
  try {
    return parseSpiffeId(sub);
  } catch (cause) {
    throw new SpiffeError('invalid', 'wit-svid.sub', 'subject of the WIT-SVID is not a SPIFFE ID', { cause });
  }
}

/** One public key, and how it signs [WIT-SVID 3.2, RFC 7800 3.1, 3.2]. */
function readConfirmation(cnf: JsonValue | undefined): Confirmation {
  if (!isJsonObject(cnf)) throw new SpiffeError('invalid', 'wit-svid.cnf', 'WIT-SVID names no key');
  const jwk = cnf['jwk'];
  if (!isJsonObject(jwk) || cnf['jwe'] !== undefined || cnf['jku'] !== undefined) {
    throw new SpiffeError('invalid', 'wit-svid.cnf', 'WIT-SVID does not name exactly one key');
  }
  let key: KeyObject | undefined;
  try {
    key = parseSignatureJwk(jwk);
  } catch (cause) {
    throw new SpiffeError('invalid', 'wit-svid.cnf', 'key of the WIT-SVID is not a public key that can be read', { cause });
  }
  const algorithm = jwk['alg'];
  if (key === undefined || !isJwtAlgorithm(algorithm) || !jwtAlgorithmFits(algorithm, key)) {
    throw new SpiffeError('invalid', 'wit-svid.cnf', 'key of the WIT-SVID has no algorithm that is allowed and fits it');
  }
  return { key, algorithm };
}

function authorityOf(token: ParsedWit, bundleFor: WitTrust['bundleFor']): JwtAuthority {
  const trustDomain = trustDomainOf(token.spiffeId);
  const bundle = bundleFor(trustDomain);
  // A bundle of another name would let that trust domain speak for this one [Trust Domain and Bundle 3].
  if (bundle === undefined || bundle.trustDomain !== trustDomain) {
    throw new SpiffeError('unauthenticated', 'wit-svid.untrusted', 'trust domain of the WIT-SVID is not trusted');
  }
  const authority = bundle.witAuthorities.find(({ keyId }) => keyId === token.keyId);
  if (authority === undefined) {
    throw new SpiffeError('unauthenticated', 'wit-svid.key-unknown', 'WIT-SVID is signed with an unknown key');
  }
  return authority;
}

/** The instant of issue is no bound [WIT-SVID 3.6]. */
function checkTime({ expiresAt, notBeforeAt }: ParsedWit, trust: WitTrust): void {
  const leewayMs = (trust.leewaySeconds ?? defaultWitLeewaySeconds) * 1000;
  if (trust.at >= expiresAt + leewayMs) {
    throw new SpiffeError('unauthenticated', 'wit-svid.expired', 'WIT-SVID has expired');
  }
  if (notBeforeAt === undefined) return;
  if (notBeforeAt > trust.at + leewayMs) {
    throw new SpiffeError('unauthenticated', 'wit-svid.not-yet', 'WIT-SVID is not valid yet');
  }
  if (trust.longestLifeSeconds !== undefined && expiresAt - notBeforeAt > trust.longestLifeSeconds * 1000) {
    throw new SpiffeError('unauthenticated', 'wit-svid.life', 'WIT-SVID is good for longer than is accepted here');
  }
}
