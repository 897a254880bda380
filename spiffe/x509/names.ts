/**
 * Object identifiers by name, and the one table of key and signature algorithms that are allowed. Whether a particular
 * public key is good enough is `public-key.ts`.
 */
import { encodeNull, encodeOid, encodeSequence } from './der-writer.ts';

export const oid = {
  ecPublicKey: '1.2.840.10045.2.1',
  rsaEncryption: '1.2.840.113549.1.1.1',
  extensionRequest: '1.2.840.113549.1.9.14',
  commonName: '2.5.4.3',
  serialNumber: '2.5.4.5',
  country: '2.5.4.6',
  organization: '2.5.4.10',
  subjectKeyId: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  nameConstraints: '2.5.29.30',
  certificatePolicies: '2.5.29.32',
  authorityKeyId: '2.5.29.35',
  extKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
  anyExtKeyUsage: '2.5.29.37.0',
} as const;

/** Bits of the keyUsage list as `namedBitsOf` yields them [RFC 5280 4.2.1.3]. */
export const keyUsage = {
  digitalSignature: 1 << 0,
  contentCommitment: 1 << 1,
  keyEncipherment: 1 << 2,
  dataEncipherment: 1 << 3,
  keyAgreement: 1 << 4,
  keyCertSign: 1 << 5,
  cRLSign: 1 << 6,
} as const;

/** Curves a key may lie on: the name node:crypto has for it, and the octets of one coordinate. */
export const curves = {
  'P-256': { oid: '1.2.840.10045.3.1.7', node: 'prime256v1', coordinateBytes: 32 },
  'P-384': { oid: '1.3.132.0.34', node: 'secp384r1', coordinateBytes: 48 },
  'P-521': { oid: '1.3.132.0.35', node: 'secp521r1', coordinateBytes: 66 },
} as const;

export type Curve = keyof typeof curves;

/** Public keys that may appear in what we issue and in who signed it. */
export type KeyAlgorithm = Curve | 'RSA';

export const rsaBits = { min: 2048, max: 8192 } as const;

/** How a signature in a certificate or request is made and checked. */
export interface SignatureScheme {
  /** The whole AlgorithmIdentifier. */
  readonly identifier: Uint8Array;
  /** `asymmetricKeyType` of node:crypto. */
  readonly keyType: 'ec' | 'rsa' | 'ed25519';
  /** First argument of `sign` and `verify` of node:crypto. */
  readonly digest: 'sha256' | 'sha384' | 'sha512' | null;
}

/**
 * Signatures that verify here. SHA-1 and RSA-PSS are absent, Ed25519 is there for authorities of others: SPIFFE allows it,
 * but our own leaves and authorities do not use it, since common TLS stacks refuse such certificates.
 */
export const signatureSchemes = {
  'ecdsa-sha256': { identifier: encodeSequence(encodeOid('1.2.840.10045.4.3.2')), keyType: 'ec', digest: 'sha256' },
  'ecdsa-sha384': { identifier: encodeSequence(encodeOid('1.2.840.10045.4.3.3')), keyType: 'ec', digest: 'sha384' },
  'ecdsa-sha512': { identifier: encodeSequence(encodeOid('1.2.840.10045.4.3.4')), keyType: 'ec', digest: 'sha512' },
  'rsa-sha256': { identifier: rsaIdentifier('1.2.840.113549.1.1.11'), keyType: 'rsa', digest: 'sha256' },
  'rsa-sha384': { identifier: rsaIdentifier('1.2.840.113549.1.1.12'), keyType: 'rsa', digest: 'sha384' },
  'rsa-sha512': { identifier: rsaIdentifier('1.2.840.113549.1.1.13'), keyType: 'rsa', digest: 'sha512' },
  ed25519: { identifier: encodeSequence(encodeOid('1.3.101.112')), keyType: 'ed25519', digest: null },
} as const satisfies Record<string, SignatureScheme>;

export type SignatureAlgorithm = keyof typeof signatureSchemes;

/** What an authority with such a key signs with. */
export const signatureAlgorithmOf = {
  'P-256': 'ecdsa-sha256',
  'P-384': 'ecdsa-sha384',
  'P-521': 'ecdsa-sha512',
  RSA: 'rsa-sha256',
} as const satisfies Record<KeyAlgorithm, SignatureAlgorithm>;

const schemesByIdentifier = Object.entries(signatureSchemes) as readonly (readonly [SignatureAlgorithm, SignatureScheme])[];

/** The algorithm that a whole AlgorithmIdentifier stands for, or nothing when it is not in the table. */
export function signatureAlgorithmFrom(identifier: Uint8Array): SignatureAlgorithm | undefined {
  return schemesByIdentifier.find(([, scheme]) => sameBytes(scheme.identifier, identifier))?.[0];
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i += 1) if (a[i] !== b[i]) return false;
  return true;
}

function rsaIdentifier(dotted: string): Uint8Array {
  return encodeSequence(encodeOid(dotted), encodeNull());
}
