/**
 * The SignerInfo of a CMS message [RFC 5652 5.3]: who signed, with which algorithms, and what exactly the signature covers.
 * Whether it verifies, and whom to believe, is `cms.ts` and its callers.
 */
import { hash } from 'node:crypto';
import { SpiffeError } from '../../spiffe/errors.ts';
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
  smallIntegerOf,
  timeOf,
  wholeOf,
  type DerCursor,
  type DerElement,
} from '../../spiffe/x509/der.ts';
import { sameBytes } from '../../spiffe/x509/names.ts';

export interface Signer {
  /** Of the signer's certificate: the whole Name, and the octets of the serial number. */
  readonly issuer: Uint8Array;
  readonly serial: Uint8Array;
  readonly digest: Digest;
  /** What the signature covers: the attributes where there are some, else the content. */
  readonly signed: Uint8Array;
  readonly signature: Uint8Array;
}

export type Digest = 'sha256' | 'sha384' | 'sha512';

export const dataType = '1.2.840.113549.1.7.1';

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

/**
 * Reads the one signer and holds it against the content and the digest algorithm that the message names.
 * @throws invalid `cms.version|digest|content|attributes|algorithm`, `der.*`
 */
export function readSigner(element: DerElement, digestName: Uint8Array, content: Uint8Array): Signer {
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

/** @throws invalid `cms.version`, `der.*` */
export function checkVersion(fields: DerCursor, what: string): void {
  // Version 1 is of plain data and signers named by issuer and serial number [RFC 5652 5.1, 5.3].
  if (smallIntegerOf(readTagged(fields, derTag.integer)) !== 1) {
    throw new SpiffeError('invalid', 'cms.version', `version of the ${what} is not 1`);
  }
}
