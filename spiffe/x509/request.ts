/**
 * Certification requests (PKCS#10): compose, read, check proof of possession. A request is trusted with its public key
 * alone; what names it asks for is read for the few callers that mint from it, and grants nothing by itself.
 */
import { createPublicKey, sign, verify, type KeyObject } from 'node:crypto';
import { SpiffeError } from '../errors.ts';
import {
  atEnd,
  checkTree,
  contextTag,
  derTag,
  enter,
  finish,
  octetsOf,
  oidOf,
  readElement,
  readTagged,
  readWhole,
  smallIntegerOf,
  wholeOf,
  type DerElement,
} from './der.ts';
import {
  encode,
  encodeBitString,
  encodeOid,
  encodeSequence,
  encodeSet,
  encodeSmallInteger,
} from './der-writer.ts';
import { encodeExtension, encodeName, encodeNames } from './encoded.ts';
import { noExtensions, readExtensions, type Extensions } from './extensions.ts';
import {
  oid,
  signatureAlgorithmFrom,
  signatureAlgorithmOf,
  signatureSchemes,
  type KeyAlgorithm,
  type SignatureAlgorithm,
} from './names.ts';
import { checkPublicKey } from './public-key.ts';

/** Byte fields are views into what was parsed. */
export interface CertificateRequest {
  /** The signed part, whole. */
  readonly tbs: Uint8Array;
  /** Whole Name. */
  readonly subject: Uint8Array;
  /** Whole SubjectPublicKeyInfo, known to be acceptable. */
  readonly publicKey: Uint8Array;
  readonly keyAlgorithm: KeyAlgorithm;
  /** Names asked for, as text, in order. */
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  /** Whether names of other forms are asked for: addresses, e-mail, … */
  readonly asksOtherNames: boolean;
  /** Whether it asks to become an authority. */
  readonly asksAuthority: boolean;
  /** Nothing when it is not one that verifies here. */
  readonly signatureAlgorithm: SignatureAlgorithm | undefined;
  readonly signature: Uint8Array;
}

export interface RequestFields {
  /** EC on P-256, P-384 or P-521, or RSA. */
  readonly privateKey: KeyObject;
  /** SubjectPublicKeyInfo of that key, if the caller has it at hand already. */
  readonly publicKey?: Uint8Array;
  /** Whole Name; C=US, O=SPIRE when not given, as SPIRE's agents write. */
  readonly subject?: Uint8Array;
  readonly uris?: readonly string[];
  readonly dnsNames?: readonly string[];
}

export const maxRequestBytes = 64 * 1024;

const defaultSubject = encodeName([
  [oid.country, 'US'],
  [oid.organization, 'SPIRE'],
]);
const version1 = encodeSmallInteger(0);
const extensionRequestOid = encodeOid(oid.extensionRequest);

/**
 * A signed request in DER.
 * @throws as `checkPublicKey`
 */
export function composeRequest(fields: RequestFields): Uint8Array {
  const { privateKey, uris = [], dnsNames = [], subject = defaultSubject } = fields;
  const publicKey = fields.publicKey ?? publicKeyOf(privateKey);
  const algorithm = signatureAlgorithmOf[checkPublicKey(publicKey)];
  const names = uris.length + dnsNames.length;
  const attributes =
    names === 0
      ? []
      : [
          encodeSequence(
            extensionRequestOid,
            encodeSet(encodeSequence(encodeExtension(oid.subjectAltName, false, encodeNames(dnsNames, uris)))),
          ),
        ];
  const tbs = encodeSequence(version1, subject, publicKey, encode(contextTag(0, true), ...attributes));
  const { identifier, digest } = signatureSchemes[algorithm];
  return encodeSequence(tbs, identifier, encodeBitString(sign(digest, tbs, privateKey)));
}

/**
 * Reads a request and holds its key to the key policy; the signature is not looked at.
 * @throws invalid `der.*`, `extension.*`, `request.length|version|attribute.duplicate|attribute.values`, and as `checkPublicKey`
 */
export function parseRequest(der: Uint8Array): CertificateRequest {
  if (der.length > maxRequestBytes) {
    throw new SpiffeError('invalid', 'request.length', `request is longer than ${maxRequestBytes} bytes`);
  }
  const cursor = enter(readWhole(der, derTag.sequence));
  const body = readTagged(cursor, derTag.sequence);
  const identifier = readTagged(cursor, derTag.sequence);
  checkTree(identifier);
  const signature = octetsOf(readTagged(cursor, derTag.bitString));
  finish(cursor);
  const fields = readBody(body);
  const { extensions } = fields;
  return {
    tbs: wholeOf(body),
    subject: fields.subject,
    publicKey: fields.publicKey,
    keyAlgorithm: checkPublicKey(fields.publicKey),
    uris: extensions.subjectAltName?.uris ?? [],
    dnsNames: extensions.subjectAltName?.dnsNames ?? [],
    asksOtherNames: (extensions.subjectAltName?.others.length ?? 0) > 0,
    asksAuthority: extensions.basicConstraints?.isAuthority ?? false,
    signatureAlgorithm: signatureAlgorithmFrom(wholeOf(identifier)),
    signature,
  };
}

/**
 * Whether the sender holds the private key: the request is signed with it [RFC 2986 4.2].
 * @throws unsupported `request.signature-algorithm`; invalid `request.signature`
 */
export function checkProofOfPossession(request: CertificateRequest): void {
  const { signatureAlgorithm } = request;
  const scheme = signatureAlgorithm === undefined ? undefined : signatureSchemes[signatureAlgorithm];
  if (scheme === undefined || scheme.keyType !== (request.keyAlgorithm === 'RSA' ? 'rsa' : 'ec')) {
    throw new SpiffeError('unsupported', 'request.signature-algorithm', 'request is signed with a wrong algorithm');
  }
  const key = createPublicKey({ key: Buffer.from(request.publicKey), format: 'der', type: 'spki' });
  if (!verify(scheme.digest, request.tbs, key, request.signature)) {
    throw new SpiffeError('invalid', 'request.signature', 'request is not signed by the key it carries');
  }
}

function publicKeyOf(privateKey: KeyObject): Uint8Array {
  return createPublicKey(privateKey).export({ type: 'spki', format: 'der' });
}

interface RequestBody {
  readonly subject: Uint8Array;
  readonly publicKey: Uint8Array;
  readonly extensions: Extensions;
}

function readBody(body: DerElement): RequestBody {
  const cursor = enter(body);
  if (smallIntegerOf(readTagged(cursor, derTag.integer)) !== 0) {
    throw new SpiffeError('invalid', 'request.version', 'request is not of version 1');
  }
  const subject = readTagged(cursor, derTag.sequence);
  checkTree(subject);
  const publicKey = wholeOf(readTagged(cursor, derTag.sequence));
  const attributes = readTagged(cursor, contextTag(0, true));
  finish(cursor);
  return { subject: wholeOf(subject), publicKey, extensions: readAttributes(attributes) };
}

function readAttributes(attributes: DerElement): Extensions {
  const list = enter(attributes);
  const seen = new Set<string>();
  let extensions = noExtensions;
  while (!atEnd(list)) {
    const attribute = enter(readTagged(list, derTag.sequence));
    const id = oidOf(readTagged(attribute, derTag.oid));
    if (seen.has(id)) {
      throw new SpiffeError('invalid', 'request.attribute.duplicate', 'an attribute appears twice', { detail: { oid: id } });
    }
    seen.add(id);
    const values = enter(readTagged(attribute, derTag.set));
    finish(attribute);
    const value = readElement(values);
    if (id !== oid.extensionRequest) {
      checkTree(value);
      while (!atEnd(values)) checkTree(readElement(values));
      continue;
    }
    if (!atEnd(values)) {
      throw new SpiffeError('invalid', 'request.attribute.values', 'request for extensions has more than one value');
    }
    if (value.tag !== derTag.sequence) {
      throw new SpiffeError('invalid', 'der.tag', 'request for extensions is not a sequence');
    }
    extensions = readExtensions(value);
  }
  return extensions;
}
