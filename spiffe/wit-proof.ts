/**
 * Proof of possession for WIT-SVIDs: the WIMSE Workload Proof Token, made for one target with the key that the WIT-SVID
 * names, and the verdict on both together. How they travel in a request is left to the library.
 */
import { createHash } from 'node:crypto';

import { SpiffeError } from './errors.ts';
import type { JsonObject, JsonValue } from './json.ts';
import { isJsonArray, isJsonObject } from './json.ts';
import { assembleJws, composeSigningInput, instantOfClaim, parseCompactJws } from './jws.ts';
import { signJwtText, verifyJwtSignature } from './jwt-key.ts';
import type { WitStatement, WitSvid, WitTrust } from './wit-svid.ts';
import { checkWitSvid, defaultWitLeewaySeconds } from './wit-svid.ts';

export interface WitProofDraft {
  readonly svid: Pick<WitSvid, 'token' | 'privateKey' | 'algorithm' | 'expiresAt'>;
  /** The URI of the target, without query and fragment. */
  readonly audience: string;
  /** Epoch milliseconds. */
  readonly at: number;
  /** For how long the proof is good; 30 if absent. Never longer than the WIT-SVID. */
  readonly lifeSeconds?: number;
  /** Never used before: 128 random bits. */
  readonly jti: string;
  /** The transaction token that goes with the request. */
  readonly transactionToken?: string | undefined;
}

export interface WitPresented {
  readonly token: string;
  readonly proof: string;
  /** The transaction token that came with the request. */
  readonly transactionToken?: string | undefined;
}

export interface WitProofExpectation extends WitTrust {
  /** The URIs that this request may be meant for, out of what the verifier knows itself to be, never out of the request alone. */
  readonly audience: readonly string[];
  /** Proofs that are good for longer are refused; 300 if absent. */
  readonly longestProofSeconds?: number;
  /**
   * Told of each proof that holds in everything else; false when it was told of it before. Asked last, so that nobody can
   * spend another's proof.
   */
  readonly remember?: (proof: RememberedProof) => boolean;
}

export interface RememberedProof {
  /** Of the WIT-SVID's subject and of the proof: what one workload calls its proofs is no other's business. */
  readonly key: string;
  /** Epoch milliseconds; after it the proof is refused in any case. */
  readonly until: number;
}

const type = 'wpt+jwt';
const defaultLifeSeconds = 30;
const defaultLongestSeconds = 300;
const maxJtiLength = 256;

/**
 * A proof for one request [WIMSE WPT 2].
 * @throws invalid `wit-proof.draft`, unauthenticated `wit-svid.expired`, `jws.too-large`, unsupported `jwt-key.unsupported`
 */
export function composeWitProof(draft: WitProofDraft): string {
  const { svid, audience, at, jti, transactionToken } = draft;
  const life = (draft.lifeSeconds ?? defaultLifeSeconds) * 1000;
  if (audience === '' || audience.includes('?') || audience.includes('#') || jti === '' || !(life >= 1000)) {
    throw new SpiffeError('invalid', 'wit-proof.draft', 'proof has no target, no identifier or no lifetime');
  }
  // The key is not used after the token it belongs to [WIMSE Workload Credentials].
  if (at >= svid.expiresAt) throw new SpiffeError('unauthenticated', 'wit-svid.expired', 'WIT-SVID has expired');
  const input = composeSigningInput(
    { alg: svid.algorithm, typ: type },
    {
      aud: audience,
      exp: Math.ceil(Math.min(at + life, svid.expiresAt) / 1000),
      jti,
      ...(transactionToken === undefined ? {} : { tth: hashOf(transactionToken) }),
      wth: hashOf(svid.token),
    },
  );
  return assembleJws(input, signJwtText(svid.algorithm, svid.privateKey, input));
}

/**
 * Decides whether the sender is who the WIT-SVID says: the token first, then the proof, then whether the proof is for this
 * verifier, this token and this moment, and last whether it is new [WIMSE WPT 3]. The only way from a WIT-SVID to a name.
 * @throws invalid and unauthenticated as `checkWitSvid`; invalid `wit-proof.form|typ|alg|crit|claims`;
 *   unauthenticated `wit-proof.signature|audience|expired|not-yet|life|token|context|replayed`
 */
export function validateWitProof(presented: WitPresented, expected: WitProofExpectation): WitStatement {
  const statement = checkWitSvid(presented.token, expected);
  const { claims, signed, signature, header } = readProof(presented.proof);
  const { key, algorithm } = statement.confirmation;
  checkHeader(header, algorithm);
  if (!verifyJwtSignature(algorithm, key, signed, signature)) {
    throw new SpiffeError('unauthenticated', 'wit-proof.signature', 'proof is not made with the key of the WIT-SVID');
  }
  const { audience, expiresAt, jti } = checkClaims(claims, expected);
  if (!expected.audience.includes(audience)) {
    throw new SpiffeError('unauthenticated', 'wit-proof.audience', 'proof is meant for another target');
  }
  checkHashes(claims, presented);
  const until = expiresAt + leewayMs(expected);
  if (expected.remember?.({ key: `${statement.spiffeId} ${jti}`, until }) === false) {
    throw new SpiffeError('unauthenticated', 'wit-proof.replayed', 'proof was used before');
  }
  return statement;
}

function readProof(proof: string): ReturnType<typeof parseCompactJws> {
  try {
    return parseCompactJws(proof);
  } catch (cause) {
    throw new SpiffeError('invalid', 'wit-proof.form', 'proof is not a signed token in compact form', { cause });
  }
}

function checkHeader(header: JsonObject, algorithm: string): void {
  if (header['typ'] !== type) throw new SpiffeError('invalid', 'wit-proof.typ', `type of the proof is not ${type}`);
  if (header['alg'] !== algorithm) {
    throw new SpiffeError('invalid', 'wit-proof.alg', 'proof is not made with the algorithm that the WIT-SVID names');
  }
  if (header['crit'] !== undefined) throw new SpiffeError('invalid', 'wit-proof.crit', 'proof demands an extension');
}

interface ProofClaims {
  readonly audience: string;
  readonly expiresAt: number;
  readonly jti: string;
}

function checkClaims(claims: JsonObject, expected: WitProofExpectation): ProofClaims {
  const { aud, exp, nbf, jti } = claims as { readonly [name in 'aud' | 'exp' | 'nbf' | 'jti']?: JsonValue };
  const audience = isJsonArray(aud) && aud.length === 1 ? aud[0] : aud;
  const expiresAt = instantOfClaim(exp);
  const notBeforeAt = instantOfClaim(nbf);
  if (typeof audience !== 'string' || audience === '') throw claimFault('has no target');
  if (expiresAt === undefined) throw claimFault('has no expiry');
  if (nbf !== undefined && notBeforeAt === undefined) throw claimFault('has a beginning that is not an instant');
  if (typeof jti !== 'string' || jti === '' || jti.length > maxJtiLength) throw claimFault('has no identifier');
  const leeway = leewayMs(expected);
  if (expected.at >= expiresAt + leeway) {
    throw new SpiffeError('unauthenticated', 'wit-proof.expired', 'proof has expired');
  }
  if (notBeforeAt !== undefined && notBeforeAt > expected.at + leeway) {
    throw new SpiffeError('unauthenticated', 'wit-proof.not-yet', 'proof is not valid yet');
  }
  // Whoever remembers proofs must not be made to remember them for long [WIT-SVID 7.2].
  if (expiresAt > expected.at + leeway + (expected.longestProofSeconds ?? defaultLongestSeconds) * 1000) {
    throw new SpiffeError('unauthenticated', 'wit-proof.life', 'proof is good for longer than is accepted here');
  }
  return { audience, expiresAt, jti };
}

/** What else is in the request is in the proof, and nothing that is not. */
function checkHashes(claims: JsonObject, { token, transactionToken }: WitPresented): void {
  if (claims['wth'] !== hashOf(token)) {
    throw new SpiffeError('unauthenticated', 'wit-proof.token', 'proof belongs to another WIT-SVID');
  }
  const expectedTth = transactionToken === undefined ? undefined : hashOf(transactionToken);
  const others = claims['oth'];
  const noOthers = others === undefined || (isJsonObject(others) && Object.keys(others).length === 0);
  if (claims['tth'] !== expectedTth || !noOthers) {
    throw new SpiffeError('unauthenticated', 'wit-proof.context', 'proof covers other tokens than the request has');
  }
}

function claimFault(what: string): SpiffeError {
  return new SpiffeError('invalid', 'wit-proof.claims', `proof ${what}`);
}

function leewayMs({ leewaySeconds }: WitTrust): number {
  return (leewaySeconds ?? defaultWitLeewaySeconds) * 1000;
}

/** Of the token as it is sent, in ASCII. */
function hashOf(token: string): string {
  return createHash('sha256').update(token, 'latin1').digest('base64url');
}
