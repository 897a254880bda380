/**
 * The check between a draft and its signature: the body is read back with the parser every verifier uses and held against
 * what the entry, not the request, says it must be. Nothing that was not checked can be assembled into a certificate.
 */
import { dnsNameFault } from '../dns-name.ts';
import { SpiffeError } from '../errors.ts';
import { isAgentId, isMemberOf, isWorkloadId, serverId, trustDomainId, type SpiffeId, type TrustDomain } from '../id.ts';
import { parseCertificateBody, type CertificateBody, type SerialNumber } from './certificate.ts';
import {
  encodeAuthoritySubject,
  encodeLeafSubject,
  leafKeyUsage,
  validityOf,
  type Draft,
  type Issuer,
  type LeafProfile,
} from './draft.ts';
import { encodeBitString, encodeSequence } from './der-writer.ts';
import { unsignedToBigInt } from './der.ts';
import { keyUsage, oid, sameBytes, signatureAlgorithmOf, signatureSchemes, type SignatureAlgorithm } from './names.ts';
import { checkPublicKey, keyIdOf } from './public-key.ts';

declare const checkedBrand: unique symbol;

/** A body that was read back and found right; only `checkDraft` makes one. Its bytes are its own copy. */
export interface CheckedDraft {
  readonly [checkedBrand]: true;
  readonly profile: Draft['profile'];
  /** What is to be signed with `signatureAlgorithm`. Never to be changed. */
  readonly tbs: Uint8Array;
  readonly signatureAlgorithm: SignatureAlgorithm;
  readonly spiffeId: SpiffeId;
  readonly serial: SerialNumber;
  readonly notBeforeAt: number;
  readonly notAfterAt: number;
}

interface CommonExpectation {
  /** The serial number that was recorded, unsigned octets. */
  readonly serial: Uint8Array;
  readonly publicKey: Uint8Array;
  /** The moment of issuing, epoch milliseconds, and how long from then. */
  readonly at: number;
  readonly ttlSeconds: number;
  /** Whole Name, where it is not the profile's own. */
  readonly subject?: Uint8Array;
}

export interface LeafExpectation extends CommonExpectation {
  readonly profile: LeafProfile;
  readonly issuer: Issuer;
  readonly spiffeId: SpiffeId;
  readonly dnsNames: readonly string[];
}

export interface AuthorityExpectation extends CommonExpectation {
  readonly profile: 'authority';
  readonly trustDomain: TrustDomain;
  /** Nothing when it signs itself. */
  readonly issuer?: Issuer;
}

export type Expectation = LeafExpectation | AuthorityExpectation;

/** 64 random bits at least [CA/Browser Forum 7.1]: with 128 drawn, fewer significant ones mean a broken source. */
const minSerial = 1n << 64n;
const leafExtensions: readonly string[] = [
  oid.keyUsage,
  oid.extKeyUsage,
  oid.basicConstraints,
  oid.subjectKeyId,
  oid.authorityKeyId,
  oid.subjectAltName,
];
const selfSignedExtensions: readonly string[] = [oid.keyUsage, oid.basicConstraints, oid.subjectKeyId, oid.subjectAltName];
const signedExtensions = selfSignedExtensions.toSpliced(3, 0, oid.authorityKeyId);

const checked = new WeakSet<CheckedDraft>();

/**
 * Reads a draft back and holds it against the expectation; every difference is a fault of ours.
 * @throws internal `x509.draft.*`, one reason a rule
 */
export function checkDraft(draft: Draft, expectation: Expectation): CheckedDraft {
  // A copy first: whatever the caller does to its buffer, what was checked is what is signed.
  const body = readBack(Uint8Array.from(draft.tbs));
  if (draft.profile !== expectation.profile) {
    throw new SpiffeError('internal', 'x509.draft.profile', 'draft is of another profile');
  }
  checkSerial(body, expectation);
  checkKey(body, expectation);
  checkValidity(body, expectation);
  const isAuthority = expectation.profile === 'authority';
  const spiffeId = isAuthority ? checkAuthority(body, expectation) : checkLeafBody(body, expectation);
  checkNames(body, spiffeId, isAuthority ? [] : expectation.dnsNames);
  const signatureAlgorithm = checkIssuer(body, expectation);
  const { tbs, serial, notBeforeAt, notAfterAt } = body;
  const { profile } = draft;
  const result = Object.freeze({ profile, tbs, signatureAlgorithm, spiffeId, serial, notBeforeAt, notAfterAt }) as CheckedDraft;
  checked.add(result);
  return result;
}

/**
 * The certificate in DER from what was checked and its signature.
 * @throws internal `x509.draft.unchecked|signature`
 */
export function assembleCertificate(draft: CheckedDraft, signature: Uint8Array): Uint8Array {
  if (!checked.has(draft)) throw new SpiffeError('internal', 'x509.draft.unchecked', 'draft was never checked');
  if (signature.length === 0) throw new SpiffeError('internal', 'x509.draft.signature', 'signature is empty');
  return encodeSequence(draft.tbs, signatureSchemes[draft.signatureAlgorithm].identifier, encodeBitString(signature));
}

function readBack(tbs: Uint8Array): CertificateBody {
  try {
    return parseCertificateBody(tbs);
  } catch (cause) {
    throw new SpiffeError('internal', 'x509.draft.unreadable', 'draft cannot be read back', { cause });
  }
}

function checkSerial(body: CertificateBody, expectation: Expectation): void {
  const { number } = body.serial;
  if (number < minSerial || number !== unsignedToBigInt(expectation.serial)) {
    throw new SpiffeError('internal', 'x509.draft.serial', 'serial number is not the recorded one, or has too few random bits');
  }
}

function checkKey(body: CertificateBody, expectation: Expectation): void {
  if (!sameBytes(body.spki, expectation.publicKey)) {
    throw new SpiffeError('internal', 'x509.draft.key', 'public key is not the one asked for');
  }
  if (body.subjectKeyId === undefined || !sameBytes(body.subjectKeyId, keyIdOf(body.spki))) {
    throw new SpiffeError('internal', 'x509.draft.subject-key-id', 'subject key identifier is not that of the key');
  }
}

/** To the second: a certificate that lives one second too long is misissued. */
function checkValidity(body: CertificateBody, { at, ttlSeconds, issuer }: Expectation): void {
  const { notBeforeAt, notAfterAt } = validityOf(at, ttlSeconds, issuer?.notAfterAt);
  if (body.notBeforeAt !== notBeforeAt || body.notAfterAt !== notAfterAt || notAfterAt <= at) {
    throw new SpiffeError('internal', 'x509.draft.validity', 'validity is not what was decided, or over already');
  }
}

/** The rules of a leaf that its entry decides [X509-SVID 3.1, 4.1, 4.3, 4.4]. */
function checkLeafBody(body: CertificateBody, expectation: LeafExpectation): SpiffeId {
  const { spiffeId, issuer, profile } = expectation;
  if (!isMemberOf(spiffeId, issuer.trustDomain)) {
    throw new SpiffeError('internal', 'x509.draft.trust-domain', 'SPIFFE ID is not of the trust domain of the authority');
  }
  if (!mayHave(profile, spiffeId, issuer.trustDomain)) {
    throw new SpiffeError('internal', 'x509.draft.spiffe-id', 'SPIFFE ID is not one that the profile may have');
  }
  if (!sameBytes(body.subject, expectation.subject ?? encodeLeafSubject(expectation.dnsNames))) {
    throw new SpiffeError('internal', 'x509.draft.subject', 'subject is not that of the profile');
  }
  const usage = leafKeyUsage(checkKeyPolicy(body) === 'RSA');
  checkUsage(body, usage, false);
  const purposes = body.extensions.extKeyUsage;
  if (purposes?.critical !== false || purposes.purposes.join() !== [oid.serverAuth, oid.clientAuth].join()) {
    throw new SpiffeError('internal', 'x509.draft.ext-key-usage', 'extended key usage is not server and client authentication');
  }
  checkOrder(body, leafExtensions);
  return spiffeId;
}

/** An agent's ID need not lie under `/spire/agent`, as in SPIRE, but never is the server's; a workload's is none of theirs. */
function mayHave(profile: LeafProfile, spiffeId: SpiffeId, trustDomain: TrustDomain): boolean {
  const isServer = spiffeId === serverId(trustDomain);
  if (profile === 'server') return isServer;
  if (profile === 'agent') return !isServer && (isAgentId(spiffeId) || isWorkloadId(spiffeId));
  return isWorkloadId(spiffeId);
}

function checkAuthority(body: CertificateBody, expectation: AuthorityExpectation): SpiffeId {
  const subject = expectation.subject ?? encodeAuthoritySubject(expectation.serial);
  if (!sameBytes(body.subject, subject)) {
    throw new SpiffeError('internal', 'x509.draft.subject', 'subject is not that of the profile');
  }
  if (expectation.issuer !== undefined && expectation.issuer.trustDomain !== expectation.trustDomain) {
    throw new SpiffeError('internal', 'x509.draft.trust-domain', 'authority is not of the trust domain of its issuer');
  }
  checkKeyPolicy(body);
  checkUsage(body, keyUsage.keyCertSign | keyUsage.cRLSign, true);
  if (body.extensions.extKeyUsage !== undefined) {
    throw new SpiffeError('internal', 'x509.draft.ext-key-usage', 'an authority has no extended key usage');
  }
  checkOrder(body, expectation.issuer === undefined ? selfSignedExtensions : signedExtensions);
  return trustDomainId(expectation.trustDomain);
}

function checkKeyPolicy(body: CertificateBody): ReturnType<typeof checkPublicKey> {
  try {
    return checkPublicKey(body.spki);
  } catch (cause) {
    throw new SpiffeError('internal', 'x509.draft.weak-key', 'public key is not one that may be signed', { cause });
  }
}

function checkUsage(body: CertificateBody, bits: number, isAuthority: boolean): void {
  const { keyUsage: usage, basicConstraints } = body.extensions;
  if (usage?.critical !== true || usage.bits !== bits) {
    throw new SpiffeError('internal', 'x509.draft.key-usage', 'key usage is not that of the profile, or not critical');
  }
  const right = basicConstraints?.critical === true && basicConstraints.isAuthority === isAuthority;
  if (!right || basicConstraints.pathLen !== undefined) {
    throw new SpiffeError('internal', 'x509.draft.basic-constraints', 'basic constraints are not those of the profile');
  }
}

function checkOrder(body: CertificateBody, expected: readonly string[]): void {
  if (body.extensions.order.join() !== expected.join()) {
    throw new SpiffeError('internal', 'x509.draft.extensions', 'extensions are not those of the profile, in its order');
  }
}

/** X509-01: exactly one URI; beside it the entry's DNS names, in their order, and nothing else. */
function checkNames(body: CertificateBody, spiffeId: SpiffeId, dnsNames: readonly string[]): void {
  const names = body.subjectAltName;
  if (names === undefined || names.critical || names.uris.length !== 1 || names.uris[0] !== spiffeId || names.others.length > 0) {
    throw new SpiffeError('internal', 'x509.draft.uri', 'the SPIFFE ID is not the only URI name');
  }
  const same = names.dnsNames.length === dnsNames.length && names.dnsNames.every((name, index) => name === dnsNames[index]);
  if (!same || names.dnsNames.some((name) => dnsNameFault(name) !== undefined)) {
    throw new SpiffeError('internal', 'x509.draft.dns', 'DNS names are not those of the entry');
  }
}

function checkIssuer(body: CertificateBody, expectation: Expectation): SignatureAlgorithm {
  const { issuer } = expectation;
  if (!sameBytes(body.issuer, issuer?.subject ?? body.subject)) {
    throw new SpiffeError('internal', 'x509.draft.issuer', 'issuer is not the name of the authority');
  }
  const keyId = body.authorityKeyId;
  if (issuer === undefined ? keyId !== undefined : keyId === undefined || !sameBytes(keyId, issuer.keyId)) {
    throw new SpiffeError('internal', 'x509.draft.authority-key-id', 'authority key identifier is not that of the authority');
  }
  const algorithm = issuer?.signatureAlgorithm ?? signatureAlgorithmOf[checkPublicKey(body.spki)];
  if (body.signatureAlgorithm !== algorithm) {
    throw new SpiffeError('internal', 'x509.draft.algorithm', 'signature algorithm is not that of the authority');
  }
  return algorithm;
}
