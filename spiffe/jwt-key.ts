/**
 * Keys that may sign JWT-SVIDs, and which signature algorithms fit each: the closed table of the standard
 * [JWT-SVID 2.1], which WIT-SVIDs share. Private keys are left to whoever keeps them.
 */
import type { KeyObject } from 'node:crypto';
import { constants, createPublicKey, sign, verify } from 'node:crypto';

import { SpiffeError } from './errors.ts';

export const jwtAlgorithms = ['RS256', 'RS384', 'RS512', 'ES256', 'ES384', 'ES512', 'PS256', 'PS384', 'PS512'] as const;

export type JwtAlgorithm = (typeof jwtAlgorithms)[number];

/** Wide enough for any key in use, narrow enough that one verification stays short. */
const rsaBits = { min: 2048, max: 8192 } as const;
const maxRsaExponent = 0xffff_ffffn;

interface Profile {
  readonly hash: 'sha256' | 'sha384' | 'sha512';
  readonly form: 'rsa' | 'rsa-pss' | 'ec';
  /** Of EC: the only curve, and the length of r‖s in bytes [RFC 7518 3.4]. */
  readonly curve?: string;
  readonly signatureLength?: number;
}

const profiles: Readonly<Record<JwtAlgorithm, Profile>> = {
  RS256: { hash: 'sha256', form: 'rsa' },
  RS384: { hash: 'sha384', form: 'rsa' },
  RS512: { hash: 'sha512', form: 'rsa' },
  PS256: { hash: 'sha256', form: 'rsa-pss' },
  PS384: { hash: 'sha384', form: 'rsa-pss' },
  PS512: { hash: 'sha512', form: 'rsa-pss' },
  ES256: { hash: 'sha256', form: 'ec', curve: 'prime256v1', signatureLength: 64 },
  ES384: { hash: 'sha384', form: 'ec', curve: 'secp384r1', signatureLength: 96 },
  ES512: { hash: 'sha512', form: 'ec', curve: 'secp521r1', signatureLength: 132 },
};

export function isJwtAlgorithm(text: unknown): text is JwtAlgorithm {
  return jwtAlgorithms.some((algorithm) => algorithm === text);
}

/**
 * Reads a SubjectPublicKeyInfo in the only encoding we would write ourselves.
 * @throws invalid `jwt-key.malformed`, unsupported `jwt-key.unsupported`
 */
export function readJwtKey(spki: Uint8Array): KeyObject {
  let key: KeyObject;
  try {
    key = createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' });
  } catch (cause) {
    throw new SpiffeError('invalid', 'jwt-key.malformed', 'public key cannot be read', { cause });
  }
  checkJwtKey(key);
  // Compressed points, explicit curves, bytes behind the end: written anew from the key's numbers, they look different.
  const plain = createPublicKey({ key: key.export({ format: 'jwk' }), format: 'jwk' });
  if (Buffer.compare(plain.export({ format: 'der', type: 'spki' }), spki) !== 0) {
    throw new SpiffeError('invalid', 'jwt-key.malformed', 'public key is not in its canonical encoding');
  }
  return key;
}

/** @throws unsupported `jwt-key.unsupported` for a key that none of the nine algorithms fits */
export function checkJwtKey(key: KeyObject): void {
  if (!jwtAlgorithms.some((algorithm) => jwtAlgorithmFits(algorithm, key))) {
    throw new SpiffeError('unsupported', 'jwt-key.unsupported', 'public key is of a kind or size not allowed for JWT-SVIDs');
  }
}

/** Whether a signature of this algorithm may be checked with this public key. */
export function jwtAlgorithmFits(algorithm: JwtAlgorithm, key: KeyObject): boolean {
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  const profile = profiles[algorithm];
  if (profile.form === 'ec') return type === 'ec' && details?.namedCurve === profile.curve;
  if (type !== 'rsa') return false;
  const bits = details?.modulusLength ?? 0;
  const exponent = details?.publicExponent ?? 0n;
  return bits >= rsaBits.min && bits <= rsaBits.max && exponent >= 3n && exponent <= maxRsaExponent && exponent % 2n === 1n;
}

/** The algorithm that SVIDs signed with this key use: of RSA always RS256. @throws unsupported `jwt-key.unsupported` */
export function jwtAlgorithmOf(key: KeyObject): JwtAlgorithm {
  const found = (['ES256', 'ES384', 'ES512', 'RS256'] as const).find((algorithm) => jwtAlgorithmFits(algorithm, key));
  if (found === undefined) {
    throw new SpiffeError('unsupported', 'jwt-key.unsupported', 'public key is of a kind or size not allowed for JWT-SVIDs');
  }
  return found;
}

const keys = new WeakMap<{ readonly publicKey: Uint8Array }, KeyObject>();

/**
 * Of an authority: decoding a key costs as much as using it, so it is done once for each.
 * @throws as `readJwtKey`
 */
export function keyOfAuthority(authority: { readonly publicKey: Uint8Array }): KeyObject {
  const known = keys.get(authority);
  if (known !== undefined) return known;
  const key = readJwtKey(authority.publicKey);
  keys.set(authority, key);
  return key;
}

/** A signature as JOSE has it. @throws unsupported `jwt-key.unsupported` when the algorithm does not fit the key */
export function signJwtText(algorithm: JwtAlgorithm, key: KeyObject, signed: string): Uint8Array {
  if (!jwtAlgorithmFits(algorithm, key)) {
    throw new SpiffeError('unsupported', 'jwt-key.unsupported', 'private key does not fit the algorithm');
  }
  const { hash, form } = profiles[algorithm];
  const data = Buffer.from(signed, 'latin1');
  if (form === 'ec') return sign(hash, data, { key, dsaEncoding: 'ieee-p1363' });
  if (form === 'rsa') return sign(hash, data, { key, padding: constants.RSA_PKCS1_PADDING });
  return sign(hash, data, { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST });
}

/** True when the signature is right; a key that does not fit, or a signature of another length, makes it wrong. */
export function verifyJwtSignature(algorithm: JwtAlgorithm, key: KeyObject, signed: string, signature: Uint8Array): boolean {
  if (!jwtAlgorithmFits(algorithm, key)) return false;
  const { hash, form, signatureLength } = profiles[algorithm];
  const data = Buffer.from(signed, 'latin1');
  if (form === 'ec') {
    return signature.length === signatureLength && verify(hash, data, { key, dsaEncoding: 'ieee-p1363' }, signature);
  }
  // The salt is as long as the hash [RFC 7518 3.5].
  if (form === 'rsa') return verify(hash, data, { key, padding: constants.RSA_PKCS1_PADDING }, signature);
  const pss = { padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST };
  return verify(hash, data, { key, ...pss }, signature);
}
