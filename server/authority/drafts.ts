/**
 * From what was granted to something that may be signed, together with the intent that has to be durable before it is:
 * composed, then read back with the code every verifier uses. Recording and signing are `sign.ts`.
 */
import { hash } from 'node:crypto';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import { isJwtAlgorithm, jwtAlgorithmFits, jwtAlgorithmOf, readJwtKey } from '../../spiffe/jwt-key.ts';
import { assembleJwtSvid, draftJwtSvid, parseJwtSvid } from '../../spiffe/jwt-svid.ts';
import { assembleWitSvid, draftWitSvid, parseWitSvid, type Confirmation } from '../../spiffe/wit-svid.ts';
import { backdateMs, validityOf, type LeafProfile } from '../../spiffe/x509/draft.ts';
import { checkDraft, type CheckedDraft } from '../../spiffe/x509/lint.ts';
import { checkPublicKey } from '../../spiffe/x509/public-key.ts';
import type { CredentialIntent } from '../store/store.ts';
import type { ActiveJwt, ActiveX509 } from './active.ts';
import { randomHex, randomSerial, randomTokenId } from './random.ts';

/** What a credential says and why it may, whatever its kind. */
export interface Grant {
  readonly spiffeId: SpiffeId;
  readonly entryId: string;
  readonly agentId: SpiffeId | '';
  readonly decisionId: string;
  readonly reason: string;
  readonly process: string;
  readonly ttlSeconds: number;
}

export interface X509Grant extends Grant {
  readonly profile: LeafProfile;
  /** SubjectPublicKeyInfo, DER: all that is taken from a request. */
  readonly publicKey: Uint8Array;
  readonly dnsNames: readonly string[];
  /** Whole Name, where a caller's is honoured. */
  readonly subject?: Uint8Array;
}

export interface JwtGrant extends Grant {
  readonly audience: readonly string[];
  readonly issuer: string | undefined;
  readonly includeJti: boolean;
}

export interface WitGrant extends Grant {
  /** SubjectPublicKeyInfo, DER: all that is taken from a request, beside how it signs. */
  readonly publicKey: Uint8Array;
  /** How the workload's key proves itself; `''` for what fits it best. */
  readonly algorithm: string;
}

export interface X509Ready {
  readonly kind: 'x509';
  readonly authority: ActiveX509;
  readonly draft: CheckedDraft;
  readonly intent: CredentialIntent;
}

declare const checkedBrand: unique symbol;

/** A signing input that was read back and found right; only `readyJwt` and `readyWit` make one. */
export type CheckedSigningInput = string & { readonly [checkedBrand]: true };

/** A token, of either kind. */
export interface JwtReady {
  readonly kind: 'jwt' | 'wit';
  readonly authority: ActiveJwt;
  readonly spiffeId: SpiffeId;
  readonly signingInput: CheckedSigningInput;
  readonly issuedAt: number;
  readonly expiresAt: number;
  readonly intent: CredentialIntent;
}

const leastJwtLifeMs = 1000;

/**
 * @throws as `checkPublicKey` for a key that may not be signed; unavailable `authority.expired`; internal `x509.draft.*`
 */
export function readyX509(authority: ActiveX509, grant: X509Grant, at: number): X509Ready {
  const { issuer } = authority;
  const { profile, publicKey, spiffeId, dnsNames, ttlSeconds } = grant;
  // First, so that a bad key is its sender's fault and not a fault of ours.
  checkPublicKey(publicKey);
  const { notBeforeAt, notAfterAt } = validityOf(at, ttlSeconds, issuer.notAfterAt);
  if (notAfterAt <= at) throw expired(authority.id);
  const subject = grant.subject === undefined ? {} : { subject: grant.subject };
  const fields = { serial: randomSerial(), publicKey, spiffeId, dnsNames, ...subject };
  const draft = authority.templates[profile].fill({ ...fields, notBeforeAt, notAfterAt });
  const checked = checkDraft(draft, { ...fields, profile, issuer, at, ttlSeconds });
  const intent: CredentialIntent = {
    ...intentOf(grant, at),
    id: checked.serial.hex,
    kind: 'x509',
    authorityId: authority.id,
    notBeforeAt,
    expiresAt: notAfterAt,
    audience: [],
    digest: digestOf(checked.tbs),
  };
  return { kind: 'x509', authority, draft: checked, intent };
}

/**
 * @throws invalid `jwt-svid.audience.missing|too-large`; unavailable `authority.expired`; internal `jwt.draft`
 */
export function readyJwt(authority: ActiveJwt, grant: JwtGrant, at: number): JwtReady {
  const { spiffeId, issuer, ttlSeconds } = grant;
  const audience = grant.audience.filter((name) => name !== '');
  const issuedAt = wholeSecond(at);
  const expiresAt = wholeSecond(Math.min(at + ttlSeconds * 1000, authority.expiresAt));
  if (expiresAt < issuedAt + leastJwtLifeMs) throw expired(authority.id);
  const jti = grant.includeJti ? randomTokenId() : undefined;
  const { id: keyId, algorithm } = authority;
  const text = draftJwtSvid({ spiffeId, audience, issuedAt, expiresAt, keyId, algorithm, jti, issuer });
  const signingInput = checkSigningInput(text, { spiffeId, audience, issuedAt, expiresAt });
  const intent: CredentialIntent = {
    ...intentOf(grant, at),
    id: jti ?? randomHex(16),
    kind: 'jwt',
    authorityId: authority.id,
    notBeforeAt: issuedAt,
    expiresAt,
    audience,
    digest: digestOf(Buffer.from(signingInput, 'latin1')),
  };
  return { kind: 'jwt', authority, spiffeId, signingInput, issuedAt, expiresAt, intent };
}

/**
 * The key is the asker's word, as that of an X509-SVID is; it is read strictly, and what it may not be is refused before
 * anything is composed.
 * @throws invalid `wit.public-key|algorithm`; unavailable `authority.expired`; internal `wit.draft`
 */
export function readyWit(authority: ActiveJwt, grant: WitGrant, at: number): JwtReady {
  const { spiffeId, ttlSeconds } = grant;
  const confirmation = confirmationOf(grant);
  const issuedAt = wholeSecond(at);
  const notBeforeAt = wholeSecond(at - backdateMs);
  const expiresAt = wholeSecond(Math.min(at + ttlSeconds * 1000, authority.expiresAt));
  if (expiresAt < issuedAt + leastJwtLifeMs) throw expired(authority.id);
  const jti = randomTokenId();
  const { id: keyId, algorithm } = authority;
  const said = { spiffeId, confirmation, notBeforeAt, issuedAt, expiresAt, keyId, algorithm, jti };
  const signingInput = checkWitInput(draftWitSvid(said), said);
  const intent: CredentialIntent = {
    ...intentOf(grant, at),
    id: jti,
    kind: 'wit',
    authorityId: authority.id,
    notBeforeAt,
    expiresAt,
    audience: [],
    digest: digestOf(Buffer.from(signingInput, 'latin1')),
  };
  return { kind: 'wit', authority, spiffeId, signingInput, issuedAt, expiresAt, intent };
}

function confirmationOf({ publicKey, algorithm }: WitGrant): Confirmation {
  let key: Confirmation['key'];
  try {
    key = readJwtKey(publicKey);
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw new SpiffeError('invalid', 'wit.public-key', cause.message, { detail: { reason: cause.reason }, cause });
  }
  const chosen = algorithm === '' ? jwtAlgorithmOf(key) : algorithm;
  if (!isJwtAlgorithm(chosen) || !jwtAlgorithmFits(chosen, key)) {
    throw new SpiffeError('invalid', 'wit.algorithm', 'signing algorithm is not allowed, or does not fit the public key');
  }
  return { key, algorithm: chosen };
}

function checkWitInput(text: string, expected: Parameters<typeof draftWitSvid>[0]): CheckedSigningInput {
  const read = parseWitSvid(assembleWitSvid(text, new Uint8Array(1)));
  const names = ['spiffeId', 'notBeforeAt', 'issuedAt', 'expiresAt', 'keyId', 'algorithm', 'jti'] as const;
  const { key, algorithm } = read.confirmation;
  const same = key.equals(expected.confirmation.key) && algorithm === expected.confirmation.algorithm;
  if (!same || names.some((name) => read[name] !== expected[name])) {
    throw new SpiffeError('internal', 'wit.draft', 'WIT-SVID does not say what was decided');
  }
  return text as CheckedSigningInput;
}

interface JwtExpectation {
  readonly spiffeId: SpiffeId;
  readonly audience: readonly string[];
  readonly issuedAt: number;
  readonly expiresAt: number;
}

function checkSigningInput(text: string, expected: JwtExpectation): CheckedSigningInput {
  const read = parseJwtSvid(assembleJwtSvid(text, new Uint8Array(1)));
  const same =
    read.spiffeId === expected.spiffeId &&
    read.issuedAt === expected.issuedAt &&
    read.expiresAt === expected.expiresAt &&
    read.audience.length === expected.audience.length &&
    read.audience.every((name, index) => name === expected.audience[index]);
  if (!same) throw new SpiffeError('internal', 'jwt.draft', 'JWT-SVID does not say what was decided');
  return text as CheckedSigningInput;
}

type Granted = Pick<CredentialIntent, 'spiffeId' | 'entryId' | 'agentId' | 'decisionId' | 'reason' | 'process' | 'at'>;

function intentOf(grant: Grant, at: number): Granted {
  const { spiffeId, entryId, agentId, decisionId, reason, process } = grant;
  return { spiffeId, entryId, agentId, decisionId, reason, process, at };
}

function expired(id: string): SpiffeError {
  return new SpiffeError('unavailable', 'authority.expired', `authority ${id} has expired`, { detail: { authority: id } });
}

function digestOf(bytes: Uint8Array): string {
  return hash('sha256', bytes, 'hex');
}

function wholeSecond(at: number): number {
  return Math.floor(at / 1000) * 1000;
}
