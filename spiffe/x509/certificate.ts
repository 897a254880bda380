/**
 * Certificate bytes to the fields SPIFFE needs, read strictly; whatever is unknown and critical is refused. Whether a
 * certificate is a good SVID is `x509-svid.ts`, whether anyone vouches for it `verify.ts`.
 */
import { SpiffeError } from '../errors.ts';
import {
  atEnd,
  checkTree,
  contextTag,
  derTag,
  enter,
  finish,
  hexOf,
  integerOf,
  octetsOf,
  openDer,
  readElement,
  readOptional,
  readTagged,
  readWhole,
  smallIntegerOf,
  timeOf,
  unsignedToBigInt,
  wholeOf,
  type DerCursor,
  type DerElement,
} from './der.ts';
import { noExtensions, readExtensions, type Extensions, type SubjectAltName } from './extensions.ts';
import { keyUsage, sameBytes, signatureAlgorithmFrom, type SignatureAlgorithm } from './names.ts';

export interface SerialNumber {
  /** Content octets of the INTEGER, big-endian. */
  readonly octets: Uint8Array;
  readonly number: bigint;
  /** Lower case, two digits an octet, without a sign octet: the form of ledgers and of `openssl`. */
  readonly hex: string;
  readonly decimal: string;
}

/** The to-be-signed part. Byte fields are views into what was parsed. */
export interface CertificateBody {
  readonly tbs: Uint8Array;
  readonly serial: SerialNumber;
  /** The whole AlgorithmIdentifier. */
  readonly algorithm: Uint8Array;
  /** Nothing when it is not one that verifies here. */
  readonly signatureAlgorithm: SignatureAlgorithm | undefined;
  /** Whole Names, compared as bytes. */
  readonly issuer: Uint8Array;
  readonly subject: Uint8Array;
  /** Epoch milliseconds, whole seconds; valid through both ends. */
  readonly notBeforeAt: number;
  readonly notAfterAt: number;
  /** The whole SubjectPublicKeyInfo. */
  readonly spki: Uint8Array;
  readonly extensions: Extensions;
  readonly isAuthority: boolean;
  readonly pathLen: number | undefined;
  /** Bits as in `keyUsage` of names.ts; nothing when the extension is absent. */
  readonly keyUsage: number | undefined;
  /** Purposes as dotted identifiers; nothing when the extension is absent. */
  readonly extKeyUsage: readonly string[] | undefined;
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  readonly subjectAltName: SubjectAltName | undefined;
  readonly subjectKeyId: Uint8Array | undefined;
  readonly authorityKeyId: Uint8Array | undefined;
}

export interface Certificate extends CertificateBody {
  readonly der: Uint8Array;
  readonly signature: Uint8Array;
}

export const maxCertificateBytes = 64 * 1024;
const maxChainLength = 64;
/** RFC 5280 4.1.2.2. */
const maxSerialOctets = 20;

/**
 * Reads one certificate; `der` must not change while the result is in use.
 * @throws invalid `der.*`, `extension.*`, `certificate.version|serial|algorithm|validity`;
 *   unsupported `certificate.critical-extension`
 */
export function parseCertificate(der: Uint8Array): Certificate {
  const cursor = enter(readWhole(der, derTag.sequence, maxCertificateBytes));
  const body = readBody(readTagged(cursor, derTag.sequence));
  const outer = wholeOf(readTagged(cursor, derTag.sequence));
  const signature = octetsOf(readTagged(cursor, derTag.bitString));
  finish(cursor);
  if (!sameBytes(outer, body.algorithm)) {
    throw new SpiffeError('invalid', 'certificate.algorithm', 'signed and unsigned signature algorithm differ');
  }
  return { ...body, der, signature };
}

/**
 * Reads a to-be-signed part alone, with the same rules.
 * @throws as `parseCertificate`
 */
export function parseCertificateBody(tbs: Uint8Array): CertificateBody {
  return readBody(readWhole(tbs, derTag.sequence, maxCertificateBytes));
}

/**
 * Cuts concatenated certificates apart without reading what is in them.
 * @throws invalid `der.*`, `certificate.none|too-many`
 */
export function splitCertificates(concatenatedDer: Uint8Array): readonly Uint8Array[] {
  const cursor = openDer(concatenatedDer);
  const certificates: Uint8Array[] = [];
  while (!atEnd(cursor)) {
    if (certificates.length >= maxChainLength) {
      throw new SpiffeError('invalid', 'certificate.too-many', `more than ${maxChainLength} certificates`);
    }
    certificates.push(wholeOf(readTagged(cursor, derTag.sequence)));
  }
  if (certificates.length === 0) throw new SpiffeError('invalid', 'certificate.none', 'there is no certificate');
  return certificates;
}

/** Whether any of `bits` is set; false without the extension. */
export function hasKeyUsage(certificate: CertificateBody, bits: number): boolean {
  return ((certificate.keyUsage ?? 0) & bits) !== 0;
}

/** Whether it may sign certificates: cA and keyCertSign [X509-SVID 3.2, 4.1]. */
export function isSigning(certificate: CertificateBody): boolean {
  return certificate.isAuthority && hasKeyUsage(certificate, keyUsage.keyCertSign);
}

function readBody(element: DerElement): CertificateBody {
  const cursor = enter(element);
  readVersion(cursor);
  const serial = readSerial(integerOf(readTagged(cursor, derTag.integer)));
  const identifier = readTagged(cursor, derTag.sequence);
  checkTree(identifier);
  const algorithm = wholeOf(identifier);
  const issuer = readName(cursor);
  const [notBeforeAt, notAfterAt] = readValidity(cursor);
  const subject = readName(cursor);
  const spki = readTagged(cursor, derTag.sequence);
  checkTree(spki);
  const wrapper = readOptional(cursor, contextTag(3, true));
  // Unique identifiers, tags 1 and 2, end here too: nobody may issue them [RFC 5280 4.1.2.8].
  finish(cursor);
  const extensions = wrapper === undefined ? noExtensions : readWrapped(wrapper);
  const unknown = extensions.unknownCritical[0];
  if (unknown !== undefined) {
    throw new SpiffeError('unsupported', 'certificate.critical-extension', 'certificate has an unknown critical extension', {
      detail: { oid: unknown },
    });
  }
  return {
    tbs: wholeOf(element),
    serial,
    algorithm,
    signatureAlgorithm: signatureAlgorithmFrom(algorithm),
    issuer,
    subject,
    notBeforeAt,
    notAfterAt,
    spki: wholeOf(spki),
    extensions,
    isAuthority: extensions.basicConstraints?.isAuthority ?? false,
    pathLen: extensions.basicConstraints?.pathLen,
    keyUsage: extensions.keyUsage?.bits,
    extKeyUsage: extensions.extKeyUsage?.purposes,
    uris: extensions.subjectAltName?.uris ?? [],
    dnsNames: extensions.subjectAltName?.dnsNames ?? [],
    subjectAltName: extensions.subjectAltName,
    subjectKeyId: extensions.subjectKeyId,
    authorityKeyId: extensions.authorityKeyId,
  };
}

function readVersion(cursor: DerCursor): void {
  const wrapper = readOptional(cursor, contextTag(0, true));
  const inner = wrapper === undefined ? undefined : enter(wrapper);
  const version = inner === undefined ? 0 : smallIntegerOf(readTagged(inner, derTag.integer));
  if (inner !== undefined) finish(inner);
  if (version !== 2) throw new SpiffeError('invalid', 'certificate.version', 'certificate is not of version 3');
}

function readSerial(octets: Uint8Array): SerialNumber {
  if ((octets[0] ?? 0) >= 0x80) throw new SpiffeError('invalid', 'certificate.serial', 'serial number is negative');
  const unsigned = octets.length > 1 && octets[0] === 0 ? octets.subarray(1) : octets;
  if (octets.length > maxSerialOctets) throw new SpiffeError('invalid', 'certificate.serial', 'serial number is too long');
  const number = unsignedToBigInt(unsigned);
  return { octets, number, hex: hexOf(unsigned), decimal: number.toString() };
}

function readName(cursor: DerCursor): Uint8Array {
  const name = readTagged(cursor, derTag.sequence);
  checkTree(name);
  return wholeOf(name);
}

function readValidity(cursor: DerCursor): readonly [number, number] {
  const validity = enter(readTagged(cursor, derTag.sequence));
  const notBeforeAt = timeOf(readElement(validity));
  const notAfterAt = timeOf(readElement(validity));
  finish(validity);
  if (notAfterAt < notBeforeAt) throw new SpiffeError('invalid', 'certificate.validity', 'certificate ends before it begins');
  return [notBeforeAt, notAfterAt];
}

function readWrapped(wrapper: DerElement): Extensions {
  const cursor = enter(wrapper);
  const extensions = readExtensions(readTagged(cursor, derTag.sequence));
  finish(cursor);
  return extensions;
}
