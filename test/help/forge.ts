/**
 * Forges certificates and requests, right or deliberately wrong, from pieces: any field can be replaced by any bytes, and
 * what is forged is signed all the same. Knows no rule; what verifiers make of it is for the tests to say.
 */
import { createPublicKey, generateKeyPairSync, randomBytes, sign, type KeyObject } from 'node:crypto';
import {
  encode,
  encodeBitString,
  encodeExplicit,
  encodeNamedBits,
  encodeOctetString,
  encodeOid,
  encodeSequence,
  encodeSet,
  encodeSmallInteger,
  encodeTime,
  encodeUnsigned,
} from '../../spiffe/x509/der-writer.ts';
import { contextTag } from '../../spiffe/x509/der.ts';
import {
  encodeAuthorityKeyId,
  encodeBasicConstraints,
  encodeExtension,
  encodeName,
  encodeNames,
} from '../../spiffe/x509/encoded.ts';
import { keyUsage, oid, signatureSchemes, type SignatureAlgorithm } from '../../spiffe/x509/names.ts';
import { keyIdOf } from '../../spiffe/x509/public-key.ts';

export interface Pair {
  readonly privateKey: KeyObject;
  readonly spki: Uint8Array;
}

export function ecPair(namedCurve = 'P-256'): Pair {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve });
  return pairFrom(privateKey);
}

export function rsaPair(modulusLength = 2048, publicExponent = 65537): Pair {
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength, publicExponent });
  return pairFrom(privateKey);
}

export function ed25519Pair(): Pair {
  return pairFrom(generateKeyPairSync('ed25519').privateKey);
}

export function pairFrom(privateKey: KeyObject): Pair {
  return { privateKey, spki: createPublicKey(privateKey).export({ type: 'spki', format: 'der' }) };
}

/** `CN=<name>`, or the empty Name. */
export function nameOf(commonName: string): Uint8Array {
  return encodeName(commonName === '' ? [] : [[oid.commonName, commonName]]);
}

export function join(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(Buffer.concat(parts));
}

export interface CertificateForm {
  readonly signer: KeyObject;
  readonly spki: Uint8Array;
  readonly version?: Uint8Array | null;
  /** The whole INTEGER. */
  readonly serial?: Uint8Array;
  readonly algorithm?: Uint8Array;
  readonly outerAlgorithm?: Uint8Array;
  readonly issuer?: Uint8Array;
  readonly subject?: Uint8Array;
  /** The whole Validity, or two instants. */
  readonly validity?: Uint8Array | readonly [number, number];
  readonly extensions?: readonly Uint8Array[] | null;
  /** Put after the extensions, inside what is signed. */
  readonly tail?: Uint8Array;
  readonly signature?: Uint8Array;
}

/** What `signer` signs with by default. */
export function algorithmOf(signer: KeyObject): SignatureAlgorithm {
  if (signer.asymmetricKeyType === 'rsa') return 'rsa-sha256';
  if (signer.asymmetricKeyType === 'ed25519') return 'ed25519';
  const { namedCurve } = signer.asymmetricKeyDetails ?? {};
  return namedCurve === 'secp384r1' ? 'ecdsa-sha384' : namedCurve === 'secp521r1' ? 'ecdsa-sha512' : 'ecdsa-sha256';
}

export function forgeCertificate(form: CertificateForm): Uint8Array {
  const scheme = signatureSchemes[algorithmOf(form.signer)];
  const algorithm = form.algorithm ?? scheme.identifier;
  const { validity = [Date.UTC(2026, 0, 1), Date.UTC(2036, 0, 1)] } = form;
  const tbs = encodeSequence(
    ...(form.version === null ? [] : [form.version ?? encodeExplicit(0, encodeSmallInteger(2))]),
    form.serial ?? encodeUnsigned(randomBytes(16)),
    algorithm,
    form.issuer ?? nameOf('authority'),
    validity instanceof Uint8Array ? validity : encodeSequence(encodeTime(validity[0]), encodeTime(validity[1])),
    form.subject ?? nameOf('leaf'),
    form.spki,
    ...(form.extensions === null ? [] : [encodeExplicit(3, encodeSequence(...(form.extensions ?? [])))]),
    ...(form.tail === undefined ? [] : [form.tail]),
  );
  const signature = form.signature ?? sign(scheme.digest, tbs, form.signer);
  return encodeSequence(tbs, form.outerAlgorithm ?? algorithm, encodeBitString(signature));
}

export const extension = {
  usage: (bits: number, critical = true) => encodeExtension(oid.keyUsage, critical, encodeNamedBits(bits)),
  basic: (isAuthority: boolean) => encodeExtension(oid.basicConstraints, true, encodeBasicConstraints(isAuthority)),
  pathLen: (length: number) =>
    encodeExtension(oid.basicConstraints, true, encodeSequence(Uint8Array.of(1, 1, 0xff), encodeSmallInteger(length))),
  purposes: (...purposes: readonly string[]) => encodeExtension(
    oid.extKeyUsage,
    false,
    encodeSequence(...purposes.map(encodeOid)),
  ),
  names: (dnsNames: readonly string[], uris: readonly string[], critical = false) =>
    encodeExtension(oid.subjectAltName, critical, encodeNames(dnsNames, uris)),
  subjectKeyId: (spki: Uint8Array) => encodeExtension(oid.subjectKeyId, false, encodeOctetString(keyIdOf(spki))),
  authorityKeyId: (spki: Uint8Array) => encodeExtension(oid.authorityKeyId, false, encodeAuthorityKeyId(keyIdOf(spki))),
};

/** The extensions of a right leaf. */
export function leafExtensions(uri: string): readonly Uint8Array[] {
  return [
    extension.usage(keyUsage.digitalSignature),
    extension.purposes(oid.serverAuth, oid.clientAuth),
    extension.basic(false),
    extension.names([], [uri]),
  ];
}

/** The extensions of a right authority. */
export function authorityExtensions(uri = 'spiffe://example.org'): readonly Uint8Array[] {
  return [extension.usage(keyUsage.keyCertSign | keyUsage.cRLSign), extension.basic(true), extension.names([], [uri])];
}

export interface RequestForm {
  readonly signer: KeyObject;
  readonly spki: Uint8Array;
  readonly version?: Uint8Array;
  readonly subject?: Uint8Array;
  /** The whole `[0]`, or what is in it. */
  readonly attributes?: Uint8Array | readonly Uint8Array[];
  /** Put after the attributes, inside what is signed. */
  readonly tail?: Uint8Array;
  readonly algorithm?: Uint8Array;
  readonly digest?: string | null;
  readonly signature?: Uint8Array;
  /** In place of the bit string with the signature. */
  readonly signatureField?: Uint8Array;
}

export function forgeRequest(form: RequestForm): Uint8Array {
  const scheme = signatureSchemes[algorithmOf(form.signer)];
  const { attributes = [] } = form;
  const tbs = encodeSequence(
    form.version ?? encodeSmallInteger(0),
    form.subject ?? nameOf('request'),
    form.spki,
    attributes instanceof Uint8Array ? attributes : encode(contextTag(0, true), ...attributes),
    ...(form.tail === undefined ? [] : [form.tail]),
  );
  const digest = form.digest === undefined ? scheme.digest : form.digest;
  return encodeSequence(
    tbs,
    form.algorithm ?? scheme.identifier,
    form.signatureField ?? encodeBitString(form.signature ?? sign(digest, tbs, form.signer)),
  );
}

/** One attribute with its values. */
export function attribute(id: string, ...values: readonly Uint8Array[]): Uint8Array {
  return encodeSequence(encodeOid(id), encodeSet(...values));
}

/** The attribute that asks for extensions. */
export function asking(...extensions: readonly Uint8Array[]): Uint8Array {
  return attribute(oid.extensionRequest, encodeSequence(...extensions));
}
