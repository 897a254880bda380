/**
 * X509-SVIDs: what one is, and the rules its leaf obeys in the order of the standard's sections. Who vouches for it is
 * `x509/verify.ts`.
 */
import { createPrivateKey, createPublicKey, type KeyObject } from 'node:crypto';
import { SpiffeError } from './errors.ts';
import { parseSpiffeId, pathOf, type SpiffeId } from './id.ts';
import {
  hasKeyUsage,
  isSigning,
  parseCertificate,
  splitCertificates,
  type CertificateBody,
} from './x509/certificate.ts';
import { keyUsage, sameBytes } from './x509/names.ts';

/** A credential to present: chain and private key. Frozen; instants are epoch milliseconds. */
export interface X509Svid {
  readonly spiffeId: SpiffeId;
  /** DER, leaf first. */
  readonly chain: readonly Uint8Array[];
  readonly privateKey: KeyObject;
  /** Of the leaf: lower-case hex. */
  readonly serial: string;
  readonly notBeforeAt: number;
  readonly expiresAt: number;
  readonly hint: string;
}

export interface X509SvidBytes {
  /** Certificates in DER, leaf first, in a list or one after the other. */
  readonly chain: Uint8Array | readonly Uint8Array[];
  /** PKCS#8 in DER. */
  readonly pkcs8Key: Uint8Array;
  readonly hint?: string;
}

const leafKeyTypes: ReadonlySet<string | undefined> = new Set(['rsa', 'ec', 'ed25519']);

/**
 * Reads one's own X509-SVID as the Workload API delivers it. The input must not change afterwards.
 * @throws as `splitCertificates`, `parseCertificate`, `checkLeaf`;
 *   invalid `svid.leaf.digital-signature`, `svid.chain.not-authority`, `svid.key.format|type|mismatch`
 */
export function parseX509Svid(bytes: X509SvidBytes): X509Svid {
  const chain = bytes.chain instanceof Uint8Array ? splitCertificates(bytes.chain) : bytes.chain;
  const [leaf, ...signers] = chain.map(parseCertificate);
  if (leaf === undefined) throw new SpiffeError('invalid', 'certificate.none', 'there is no certificate');
  const spiffeId = checkLeaf(leaf);
  // [X509-SVID 4.3]; go-spiffe asks it of one's own SVID, not of a peer's.
  if (!hasKeyUsage(leaf, keyUsage.digitalSignature)) {
    throw new SpiffeError('invalid', 'svid.leaf.digital-signature', 'leaf does not have digitalSignature among its key usages');
  }
  if (!signers.every(isSigning)) {
    throw new SpiffeError('invalid', 'svid.chain.not-authority', 'a certificate above the leaf may not sign certificates');
  }
  const privateKey = readPrivateKey(bytes.pkcs8Key);
  if (!sameBytes(createPublicKey(privateKey).export({ type: 'spki', format: 'der' }), leaf.spki)) {
    throw new SpiffeError('invalid', 'svid.key.mismatch', 'private key does not belong to the leaf');
  }
  return Object.freeze({
    spiffeId,
    chain: Object.freeze([...chain]),
    privateKey,
    serial: leaf.serial.hex,
    notBeforeAt: leaf.notBeforeAt,
    expiresAt: leaf.notAfterAt,
    hint: bytes.hint ?? '',
  });
}

/**
 * The rules that every verifier holds an authenticating leaf to; yields its SPIFFE ID.
 * @throws invalid `svid.leaf.no-uri|many-uris|id|no-path|is-authority|key-cert-sign|crl-sign`
 */
export function checkLeaf(leaf: CertificateBody): SpiffeId {
  const spiffeId = readId(leaf);
  // X509-06 [X509-SVID 3.1, 5.2]
  if (pathOf(spiffeId) === '') {
    throw new SpiffeError('invalid', 'svid.leaf.no-path', 'SPIFFE ID of the leaf has no path: it names a trust domain');
  }
  // X509-26 [X509-SVID 4.1, 5.2]
  if (leaf.isAuthority) throw new SpiffeError('invalid', 'svid.leaf.is-authority', 'leaf is a signing certificate (cA)');
  // X509-27 [X509-SVID 4.3, 5.2]
  if (hasKeyUsage(leaf, keyUsage.keyCertSign)) {
    throw new SpiffeError('invalid', 'svid.leaf.key-cert-sign', 'leaf has keyCertSign among its key usages');
  }
  if (hasKeyUsage(leaf, keyUsage.cRLSign)) {
    throw new SpiffeError('invalid', 'svid.leaf.crl-sign', 'leaf has cRLSign among its key usages');
  }
  return spiffeId;
}

/**
 * The SPIFFE ID of any certificate: its only URI name [X509-SVID 2].
 * @throws invalid `svid.leaf.no-uri|many-uris|id`
 */
export function readId(certificate: CertificateBody): SpiffeId {
  const [uri, second] = certificate.uris;
  // X509-03
  if (uri === undefined) throw new SpiffeError('invalid', 'svid.leaf.no-uri', 'certificate has no URI name');
  // X509-02: even when the others are not SPIFFE IDs.
  if (second !== undefined) throw new SpiffeError('invalid', 'svid.leaf.many-uris', 'certificate has more than one URI name');
  try {
    return parseSpiffeId(uri);
  } catch (cause) {
    // X509-03, X509-08
    throw new SpiffeError('invalid', 'svid.leaf.id', 'URI name of the certificate is not a SPIFFE ID', { cause });
  }
}

function readPrivateKey(pkcs8Key: Uint8Array): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey({ key: Buffer.from(pkcs8Key), format: 'der', type: 'pkcs8' });
  } catch {
    // The cause is left out: nothing of a key belongs in an error.
    throw new SpiffeError('invalid', 'svid.key.format', 'private key is not PKCS#8 in DER');
  }
  if (!leafKeyTypes.has(key.asymmetricKeyType)) {
    throw new SpiffeError('invalid', 'svid.key.type', 'private key is none of RSA, EC and Ed25519');
  }
  return key;
}
