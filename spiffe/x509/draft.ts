/**
 * Draft: an unsigned certificate of one profile, composed piece by piece. Filling many of them fast is `template.ts`, and the
 * check without which none is signed is `lint.ts`.
 */
import { trustDomainId, type SpiffeId, type TrustDomain } from '../id.ts';
import type { Certificate } from './certificate.ts';
import { encodeAuthorityKeyId, encodeBasicConstraints, encodeExtension, encodeName, encodeNames } from './encoded.ts';
import {
  encodeExplicit,
  encodeNamedBits,
  encodeOctetString,
  encodeOid,
  encodeSequence,
  encodeSmallInteger,
  encodeTime,
  encodeUnsigned,
} from './der-writer.ts';
import { unsignedToBigInt } from './der.ts';
import { keyUsage, oid, signatureAlgorithmOf, signatureSchemes, type SignatureAlgorithm } from './names.ts';
import { checkPublicKey, keyIdOf, readPublicKeyInfo } from './public-key.ts';

export type LeafProfile = 'agent' | 'workload' | 'server';
export type Profile = 'authority' | LeafProfile;

/** A to-be-signed body that nobody has checked yet. */
export interface Draft {
  readonly profile: Profile;
  readonly tbs: Uint8Array;
}

/** Who signs: what the certificates below an authority take over from it. */
export interface Issuer {
  readonly trustDomain: TrustDomain;
  /** Whole Name, copied byte for byte. */
  readonly subject: Uint8Array;
  /** Subject key identifier. */
  readonly keyId: Uint8Array;
  /** Nothing below it outlives it. */
  readonly notAfterAt: number;
  readonly signatureAlgorithm: SignatureAlgorithm;
}

export interface LeafFields {
  /** Unsigned big-endian octets, 16 random ones as a rule. */
  readonly serial: Uint8Array;
  readonly notBeforeAt: number;
  readonly notAfterAt: number;
  /** SubjectPublicKeyInfo that `checkPublicKey` accepts. */
  readonly publicKey: Uint8Array;
  readonly spiffeId: SpiffeId;
  /** Kept in this order; the first is also the common name. */
  readonly dnsNames: readonly string[];
  /** Whole Name in place of the profile's, where a caller's is honoured. */
  readonly subject?: Uint8Array;
}

export interface AuthorityFields {
  readonly serial: Uint8Array;
  readonly notBeforeAt: number;
  readonly notAfterAt: number;
  readonly publicKey: Uint8Array;
  readonly trustDomain: TrustDomain;
  /** Whole Name in place of C=US, O=SPIFFE, serialNumber=decimal serial. */
  readonly subject?: Uint8Array;
  /** Who signs it; nothing when it signs itself. */
  readonly issuer?: Issuer;
}

/** How far before the moment of issuing a certificate begins, for peers whose clocks are late. */
export const backdateMs = 10_000;

/**
 * When a certificate issued at `at` begins and ends: whole seconds, never past its issuer.
 * @returns epoch milliseconds
 */
export function validityOf(
  at: number,
  ttlSeconds: number,
  issuerNotAfterAt = Number.POSITIVE_INFINITY,
): { readonly notBeforeAt: number; readonly notAfterAt: number } {
  return {
    notBeforeAt: wholeSecond(at - backdateMs),
    notAfterAt: wholeSecond(Math.min(at + ttlSeconds * 1000, issuerNotAfterAt)),
  };
}

/** An authority's certificate as an issuer. An upstream may have named it otherwise, so the trust domain is said. */
export function issuerFrom(authority: Certificate, trustDomain: TrustDomain): Issuer {
  return Object.freeze({
    trustDomain,
    subject: authority.subject,
    keyId: authority.subjectKeyId ?? keyIdOf(authority.spki),
    notAfterAt: authority.notAfterAt,
    signatureAlgorithm: signatureAlgorithmOf[checkPublicKey(authority.spki)],
  });
}

/**
 * What a leaf's key may do. Every profile demands digitalSignature; RSA adds keyEncipherment. SPIRE also sets keyAgreement,
 * and both for EC keys: an RSA key cannot agree on anything [RFC 3279 2.3.1], and an EC key cannot encipher [RFC 8813 3].
 */
export function leafKeyUsage(isRsa: boolean): number {
  return isRsa ? keyUsage.digitalSignature | keyUsage.keyEncipherment : keyUsage.digitalSignature;
}

/** Extensions that stand before the subject key identifier, and are the same for all leaves with a key of the kind. */
export function encodeLeafConstants(isRsa: boolean): readonly Uint8Array[] {
  return [
    encodeExtension(oid.keyUsage, true, encodeNamedBits(leafKeyUsage(isRsa))),
    encodeExtension(oid.extKeyUsage, false, encodeSequence(encodeOid(oid.serverAuth), encodeOid(oid.clientAuth))),
    encodeExtension(oid.basicConstraints, true, encodeBasicConstraints(false)),
  ];
}

const plainAttributes = [
  [oid.country, 'US'],
  [oid.organization, 'SPIRE'],
] as const;
const plainSubject = encodeName(plainAttributes);

/** C=US, O=SPIRE, and with DNS names the first as CN: what SPIRE's leaves are called. */
export function encodeLeafSubject(dnsNames: readonly string[]): Uint8Array {
  const [commonName] = dnsNames;
  return commonName === undefined ? plainSubject : encodeName([...plainAttributes, [oid.commonName, commonName]]);
}

/**
 * Composes a leaf piece by piece; `template.ts` yields the same bytes faster.
 * @throws invalid `der.*` when the public key is none
 */
export function draftLeaf(profile: LeafProfile, issuer: Issuer, fields: LeafFields): Draft {
  const subject = fields.subject ?? encodeLeafSubject(fields.dnsNames);
  const tbs = encodeBody(issuer.signatureAlgorithm, issuer.subject, fields, subject, [
    ...encodeLeafConstants(isRsaKey(fields.publicKey)),
    encodeExtension(oid.subjectKeyId, false, encodeOctetString(keyIdOf(fields.publicKey))),
    encodeExtension(oid.authorityKeyId, false, encodeAuthorityKeyId(issuer.keyId)),
    encodeExtension(oid.subjectAltName, false, encodeNames(fields.dnsNames, [fields.spiffeId])),
  ]);
  return { profile, tbs };
}

/**
 * Composes an authority, signed by itself or by `issuer`.
 * @throws as `checkPublicKey`
 */
export function draftAuthority(fields: AuthorityFields): Draft {
  const { issuer } = fields;
  const subject = fields.subject ?? encodeAuthoritySubject(fields.serial);
  const algorithm = issuer?.signatureAlgorithm ?? signatureAlgorithmOf[checkPublicKey(fields.publicKey)];
  const tbs = encodeBody(algorithm, issuer?.subject ?? subject, fields, subject, [
    encodeExtension(oid.keyUsage, true, encodeNamedBits(keyUsage.keyCertSign | keyUsage.cRLSign)),
    encodeExtension(oid.basicConstraints, true, encodeBasicConstraints(true)),
    encodeExtension(oid.subjectKeyId, false, encodeOctetString(keyIdOf(fields.publicKey))),
    ...(issuer === undefined ? [] : [encodeExtension(oid.authorityKeyId, false, encodeAuthorityKeyId(issuer.keyId))]),
    encodeExtension(oid.subjectAltName, false, encodeNames([], [trustDomainId(fields.trustDomain)])),
  ]);
  return { profile: 'authority', tbs };
}

/** C=US, O=SPIFFE, serialNumber=decimal serial: each authority gets a name of its own. */
export function encodeAuthoritySubject(serial: Uint8Array): Uint8Array {
  return encodeName([
    [oid.country, 'US'],
    [oid.organization, 'SPIFFE'],
    [oid.serialNumber, unsignedToBigInt(serial).toString()],
  ]);
}

interface BodyFields {
  readonly serial: Uint8Array;
  readonly notBeforeAt: number;
  readonly notAfterAt: number;
  readonly publicKey: Uint8Array;
}

const version3 = encodeExplicit(0, encodeSmallInteger(2));

function encodeBody(
  algorithm: SignatureAlgorithm,
  issuer: Uint8Array,
  fields: BodyFields,
  subject: Uint8Array,
  extensions: readonly Uint8Array[],
): Uint8Array {
  return encodeSequence(
    version3,
    encodeUnsigned(fields.serial),
    signatureSchemes[algorithm].identifier,
    issuer,
    encodeSequence(encodeTime(fields.notBeforeAt), encodeTime(fields.notAfterAt)),
    subject,
    fields.publicKey,
    encodeExplicit(3, encodeSequence(...extensions)),
  );
}

export function isRsaKey(publicKey: Uint8Array): boolean {
  return readPublicKeyInfo(publicKey).algorithm === oid.rsaEncryption;
}

function wholeSecond(at: number): number {
  return Math.floor(at / 1000) * 1000;
}
