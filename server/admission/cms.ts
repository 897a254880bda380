/**
 * CMS SignedData [RFC 5652 5] as clouds sign their documents: one signer, enclosed content, digests of SHA-256 and better.
 * Whom a signer's certificate speaks for is left to the callers; what was signed leaves here together with it or not at all.
 */
import { constants, createPublicKey, hash, verify } from 'node:crypto';
import { SpiffeError } from '../../spiffe/errors.ts';
import { hasKeyUsage, type Certificate } from '../../spiffe/x509/certificate.ts';
import {
  atEnd,
  contentOf,
  contextTag,
  derTag,
  enter,
  finish,
  integerOf,
  oidOf,
  readElement,
  readOptional,
  readTagged,
  readWhole,
  smallIntegerOf,
  timeOf,
  wholeOf,
  type DerCursor,
  type DerElement,
} from '../../spiffe/x509/der.ts';
import { keyUsage, sameBytes } from '../../spiffe/x509/names.ts';
import { checkPublicKey } from '../../spiffe/x509/public-key.ts';
import { derOfStreamed, isStreamed } from './cms-streamed.ts';

declare const signedBrand: unique symbol;

/** What was signed, and the certificate whose key signed it. Nothing but `verifySignedData` makes one. */
export interface SignedContent {
  readonly bytes: Uint8Array;
  readonly signer: Certificate;
  readonly [signedBrand]: true;
}

/** A message that was read and not yet verified: its content stays inside until it is. */
export interface SignedData {
  /** Of the signer's certificate: the whole Name, and the octets of the serial number. */
  readonly issuer: Uint8Array;
  readonly serial: Uint8Array;
  /** DER, in the order they came; anybody may have put them there. */
  readonly enclosed: readonly Uint8Array[];
}

interface Unverified {
  readonly content: Uint8Array;
  readonly digest: Digest;
  /** What the signature covers: the attributes where there are some, else the content. */
  readonly signed: Uint8Array;
  readonly signature: Uint8Array;
}

type Digest = 'sha256' | 'sha384' | 'sha512';

export interface CmsForm {
  /** Whether the one form of BER of `cms-streamed.ts` will do, beside DER. */
  readonly streamed: boolean;
}

export const maxSignedDataBytes = 32 * 1024;

const maxCertificates = 8;
const signedDataType = '1.2.840.113549.1.7.2';
const dataType = '1.2.840.113549.1.7.1';
const attribute = {
  contentType: '1.2.840.113549.1.9.3',
  messageDigest: '1.2.840.113549.1.9.4',
  signingTime: '1.2.840.113549.1.9.5',
  algorithmProtection: '1.2.840.113549.1.9.52',
} as const;
const rsaEncryption = '1.2.840.113549.1.1.1';
/** RSA with PKCS#1 v1.5, the digest named with it. */
const rsaWith: Readonly<Record<string, Digest>> = {
  '1.2.840.113549.1.1.11': 'sha256',
  '1.2.840.113549.1.1.12': 'sha384',
  '1.2.840.113549.1.1.13': 'sha512',
};
/** Azure names the signature algorithm where the digest belongs. */
const digests: Readonly<Record<string, Digest>> = {
  '2.16.840.1.101.3.4.2.1': 'sha256',
  '2.16.840.1.101.3.4.2.2': 'sha384',
  '2.16.840.1.101.3.4.2.3': 'sha512',
  ...rsaWith,
};

const unverified = new WeakMap<SignedData, Unverified>();

/**
 * Takes a message apart; nothing in it is believed yet.
 * @throws invalid `cms.too-large|type|version|digest|content|certificates|revocations|signers|attributes|algorithm`,
 *   `cms.streamed`, `der.*`
 */
export function readSignedData(message: Uint8Array, { streamed }: CmsForm): SignedData {
  if (message.length > maxSignedDataBytes) throw new SpiffeError('invalid', 'cms.too-large', 'signed message is too large');
  const der = streamed && isStreamed(message) ? derOfStreamed(message) : message;
  const info = enter(readWhole(der, derTag.sequence));
  if (oidOf(readTagged(info, derTag.oid)) !== signedDataType) {
    throw new SpiffeError('invalid', 'cms.type', 'message is not signed data');
  }
  const wrapper = readTagged(info, contextTag(0, true));
  finish(info);
  const wrapped = enter(wrapper);
  const fields = enter(readTagged(wrapped, derTag.sequence));
  finish(wrapped);
  checkVersion(fields, 'signed data');
  const digestName = wholeOf(readOnly(readTagged(fields, derTag.set), 'digest'));
  const content = readContent(readTagged(fields, derTag.sequence));
  const enclosed = readEnclosed(readOptional(fields, contextTag(0, true)));
  if (readOptional(fields, contextTag(1, true)) !== undefined) {
    throw new SpiffeError('invalid', 'cms.revocations', 'signed data carries revocations');
  }
  const signerInfos = readTagged(fields, derTag.set);
  finish(fields);
  const signer = readSigner(readOnly(signerInfos, 'signer'), digestName, content);
  const data = Object.freeze({ issuer: signer.issuer, serial: signer.serial, enclosed });
  unverified.set(data, { content, ...signer });
  return data;
}

/** Whether a certificate is the one the message says it is signed with. */
export function isSigner(data: SignedData, certificate: Certificate): boolean {
  return sameBytes(data.issuer, certificate.issuer) && sameBytes(data.serial, certificate.serial.octets);
}

/**
 * Checks the signature with the key of this certificate, which must be the one the message names; whether the certificate
 * is to be believed is for the caller to say.
 * @throws invalid `cms.signer|usage|signature`, `key.*`, unsupported `key.*`
 */
export function verifySignedData(data: SignedData, signer: Certificate): SignedContent {
  const parts = unverified.get(data);
  if (parts === undefined || !isSigner(data, signer)) {
    throw new SpiffeError('invalid', 'cms.signer', 'message is not signed with this certificate');
  }
  if (signer.keyUsage !== undefined && !hasKeyUsage(signer, keyUsage.digitalSignature)) {
    throw new SpiffeError('invalid', 'cms.usage', 'certificate of the signer is not meant for digital signatures');
  }
  const algorithm = checkPublicKey(signer.spki);
  const key = createPublicKey({ key: Buffer.from(signer.spki), format: 'der', type: 'spki' });
  const padding = constants.RSA_PKCS1_PADDING;
  if (algorithm !== 'RSA' || !verify(parts.digest, parts.signed, { key, padding }, parts.signature)) {
    throw new SpiffeError('invalid', 'cms.signature', 'signature of the message does not verify');
  }
  const content: Omit<SignedContent, typeof signedBrand> = { bytes: parts.content, signer };
  return Object.freeze(content) as SignedContent;
}

function checkVersion(fields: DerCursor, what: string): void {
  // Version 1 is of plain data and signers named by issuer and serial number [RFC 5652 5.1, 5.3].
  if (smallIntegerOf(readTagged(fields, derTag.integer)) !== 1) {
    throw new SpiffeError('invalid', 'cms.version', `version of the ${what} is not 1`);
  }
}

/** The one element of a set: with two of them, one could be checked and the other one used. */
function readOnly(set: DerElement, what: 'signer' | 'digest'): DerElement {
  const members = enter(set);
  if (!atEnd(members)) {
    const only = readTagged(members, derTag.sequence);
    if (atEnd(members)) return only;
  }
  if (what === 'signer') throw new SpiffeError('invalid', 'cms.signers', 'message has not exactly one signer');
  throw new SpiffeError('invalid', 'cms.digest', 'message has not exactly one digest algorithm');
}

function readContent(element: DerElement): Uint8Array {
  const fields = enter(element);
  const type = oidOf(readTagged(fields, derTag.oid));
  const wrapper = readOptional(fields, contextTag(0, true));
  if (type !== dataType || wrapper === undefined) {
    throw new SpiffeError('invalid', 'cms.content', 'content is detached, or no plain data');
  }
  finish(fields);
  const inner = enter(wrapper);
  const content = contentOf(readTagged(inner, derTag.octetString));
  finish(inner);
  if (content.length === 0) throw new SpiffeError('invalid', 'cms.content', 'content is empty');
  return content;
}

function readEnclosed(bag: DerElement | undefined): readonly Uint8Array[] {
  if (bag === undefined) return [];
  const members = enter(bag);
  const certificates: Uint8Array[] = [];
  while (!atEnd(members)) {
    if (certificates.length === maxCertificates) {
      throw new SpiffeError('invalid', 'cms.certificates', `more than ${maxCertificates} certificates are enclosed`);
    }
    certificates.push(wholeOf(readTagged(members, derTag.sequence)));
  }
  return certificates;
}

interface Signer extends Omit<Unverified, 'content'> {
  readonly issuer: Uint8Array;
  readonly serial: Uint8Array;
}

function readSigner(element: DerElement, digestName: Uint8Array, content: Uint8Array): Signer {
  const fields = enter(element);
  checkVersion(fields, 'signer');
  const name = enter(readTagged(fields, derTag.sequence));
  const issuer = wholeOf(readTagged(name, derTag.sequence));
  const serial = integerOf(readTagged(name, derTag.integer));
  finish(name);
  const digestElement = readTagged(fields, derTag.sequence);
  if (!sameBytes(wholeOf(digestElement), digestName)) {
    throw new SpiffeError('invalid', 'cms.digest', 'message and signer name different digest algorithms');
  }
  const digest = readDigest(digestElement);
  const attributes = readOptional(fields, contextTag(0, true));
  const algorithm = readTagged(fields, derTag.sequence);
  checkAlgorithm(algorithm, digest);
  const signature = contentOf(readTagged(fields, derTag.octetString));
  if (!atEnd(fields)) {
    throw new SpiffeError('invalid', 'cms.attributes', 'signer has attributes that are not signed');
  }
  const expected = { digest: hash(digest, content, 'buffer'), digestName, algorithm };
  const signed = attributes === undefined ? plain(content) : checkAttributes(attributes, expected);
  return { issuer, serial, digest, signed, signature };
}

/** Signed attributes are a set; content that looks like one could be a set that was signed elsewhere. */
function plain(content: Uint8Array): Uint8Array {
  if (content[0] === derTag.set) {
    throw new SpiffeError('invalid', 'cms.content', 'content without attributes has the form of attributes');
  }
  return content;
}

function readDigest(identifier: DerElement): Digest {
  const digest = digests[readIdentifier(identifier)];
  if (digest === undefined) throw new SpiffeError('invalid', 'cms.digest', 'digest algorithm is not allowed');
  return digest;
}

function checkAlgorithm(identifier: DerElement, digest: Digest): void {
  const name = readIdentifier(identifier);
  if (name !== rsaEncryption && rsaWith[name] !== digest) {
    throw new SpiffeError('invalid', 'cms.algorithm', 'signature algorithm is not allowed, or not for this digest');
  }
}

/** The name in an AlgorithmIdentifier whose parameters are null or absent. */
function readIdentifier(identifier: DerElement): string {
  const fields = enter(identifier);
  const name = oidOf(readTagged(fields, derTag.oid));
  const parameters = readOptional(fields, derTag.null);
  if (!atEnd(fields) || (parameters !== undefined && parameters.end !== parameters.contentStart)) {
    throw new SpiffeError('invalid', 'cms.algorithm', 'an algorithm has parameters that are not allowed');
  }
  return name;
}

interface Expected {
  readonly digest: Uint8Array;
  readonly digestName: Uint8Array;
  readonly algorithm: DerElement;
}

/** What is signed with them: the attributes under the tag of a set [RFC 5652 5.4]. */
function checkAttributes(element: DerElement, expected: Expected): Uint8Array {
  const members = enter(element);
  const values = new Map<string, DerElement>();
  let before: Uint8Array | undefined;
  while (!atEnd(members)) {
    const member = readTagged(members, derTag.sequence);
    const whole = wholeOf(member);
    // In DER the members of a set are in order [X.690 11.6].
    if (before !== undefined && Buffer.compare(before, whole) >= 0) throw badAttributes('are not in order');
    before = whole;
    const fields = enter(member);
    const name = oidOf(readTagged(fields, derTag.oid));
    const set = enter(readTagged(fields, derTag.set));
    finish(fields);
    const value = readElement(set);
    finish(set);
    if (values.has(name)) throw badAttributes('repeat one');
    values.set(name, value);
  }
  checkValues(values, expected);
  const signed = Uint8Array.from(wholeOf(element));
  signed[0] = derTag.set;
  return signed;
}

/** Content type and digest must be there [RFC 5652 11]; time and protection are checked where they are; others tell nothing. */
function checkValues(values: ReadonlyMap<string, DerElement>, { digest, digestName, algorithm }: Expected): void {
  const type = values.get(attribute.contentType);
  if (type?.tag !== derTag.oid || oidOf(type) !== dataType) throw badAttributes('are of another type of content');
  const claimed = values.get(attribute.messageDigest);
  if (claimed?.tag !== derTag.octetString || !sameBytes(contentOf(claimed), digest)) {
    throw badAttributes('are of another content');
  }
  const time = values.get(attribute.signingTime);
  if (time !== undefined) timeOf(time);
  const protection = values.get(attribute.algorithmProtection);
  if (protection !== undefined) checkProtection(protection, digestName, algorithm);
}

/** The digest, and the signature algorithm under tag 1 [RFC 6211]. */
function checkProtection(protection: DerElement, digestName: Uint8Array, algorithm: DerElement): void {
  if (protection.tag !== derTag.sequence) throw badAttributes('protect no algorithms');
  const fields = enter(protection);
  const digest = wholeOf(readTagged(fields, derTag.sequence));
  const signature = contentOf(readTagged(fields, contextTag(1, true)));
  finish(fields);
  if (!sameBytes(digest, digestName) || !sameBytes(signature, contentOf(algorithm))) {
    throw badAttributes('protect other algorithms');
  }
}

function badAttributes(what: string): SpiffeError {
  return new SpiffeError('invalid', 'cms.attributes', `signed attributes ${what}`);
}
