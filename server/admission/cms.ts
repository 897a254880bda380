/**
 * CMS SignedData [RFC 5652 5] as clouds sign their documents: one signer, enclosed content, digests of SHA-256 and better.
 * Whom a signer's certificate speaks for is left to the callers; what was signed leaves here together with it or not at all.
 */
import { constants, createPublicKey, verify } from 'node:crypto';
import { SpiffeError } from '../../spiffe/errors.ts';
import { hasKeyUsage, type Certificate } from '../../spiffe/x509/certificate.ts';
import {
  atEnd,
  contentOf,
  contextTag,
  derTag,
  enter,
  finish,
  oidOf,
  readOptional,
  readTagged,
  readWhole,
  wholeOf,
  type DerElement,
} from '../../spiffe/x509/der.ts';
import { keyUsage, sameBytes } from '../../spiffe/x509/names.ts';
import { checkPublicKey } from '../../spiffe/x509/public-key.ts';
import { checkVersion, dataType, readSigner, type Signer } from './cms-signer.ts';
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

interface Unverified extends Signer {
  readonly content: Uint8Array;
}

export interface CmsForm {
  /** Whether the one form of BER of `cms-streamed.ts` will do, beside DER. */
  readonly streamed: boolean;
}

export const maxSignedDataBytes = 32 * 1024;

const maxCertificates = 8;
const signedDataType = '1.2.840.113549.1.7.2';
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
