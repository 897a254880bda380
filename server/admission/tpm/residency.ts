/**
 * That a DevID key lives in a TPM: its attestation key is one that signs nothing but the TPM's own statements, and one of
 * those names the DevID key. That the attestation key lives in a certain TPM is for a credential to show.
 */
import { constants, createPublicKey, verify } from 'node:crypto';
import { curves, sameBytes } from '../../../spiffe/x509/names.ts';
import { checkPublicKey } from '../../../spiffe/x509/public-key.ts';
import {
  hasAnyAttribute,
  hasAttributes,
  nameOf,
  objectAttribute,
  padded,
  readCertified,
  subjectPublicKeyInfo,
  type PublicArea,
  type TpmSignature,
} from '../../../runtime/tpm/structures.ts';
import { joined } from '../../../runtime/tpm/wire.ts';
import { refused, translated, type DevidEvidence } from './evidence.ts';

const { fixedTpm, fixedParent, sensitiveDataOrigin, restricted, sign, decrypt } = objectAttribute;
/** Made in this TPM, and never to leave it. */
const resident = fixedTpm | fixedParent | sensitiveDataOrigin;

/**
 * What is cheap first; the statement is read once its signature verified.
 * @throws denied `tpm-devid.refused`, invalid `tpm-devid.malformed`
 */
export function checkResidency({ devidKey, attestationKey, statement, signature }: DevidEvidence): void {
  const wrong = (what: string): Error => refused(`cannot verify that DevID is in the same TPM than AK: ${what}`);
  if (!hasAttributes(attestationKey, resident | restricted | sign) || hasAnyAttribute(attestationKey, decrypt)) {
    throw wrong('attestation key is not a restricted signing key that its TPM made and keeps');
  }
  if (!hasAttributes(devidKey, resident | sign) || hasAnyAttribute(devidKey, decrypt | restricted)) {
    throw wrong('DevID key is not a signing key that its TPM made and keeps');
  }
  const { scheme } = attestationKey;
  if (scheme === undefined || scheme.algorithm !== signature.algorithm || scheme.hash !== signature.hash) {
    throw wrong('the certification is not signed in the way of the attestation key');
  }
  const spki = subjectPublicKeyInfoOf(attestationKey, 'attestation key');
  if (!verifyStatement(statement, spki, attestationKey, signature)) throw wrong('the signature of the certification does not verify');
  // Read only now, from the bytes that were signed.
  const { name } = translated('cannot decode certification of the DevID key', () => readCertified(statement));
  if (!sameBytes(name, nameOf(devidKey))) throw wrong('the certification is of another object');
}

/**
 * An endorsement key protects what only its own TPM opens; a certificate says which keys are such.
 * @throws denied `tpm-devid.refused`
 */
export function checkEndorsementKey(key: PublicArea): void {
  const attributes = fixedTpm | fixedParent | sensitiveDataOrigin | restricted | decrypt;
  if (!hasAttributes(key, attributes) || hasAnyAttribute(key, sign) || key.aesBits === undefined) {
    throw refused('endorsement key is not a restricted key for decryption');
  }
}

/** In the form of certificates, with a kind, size and quality of key that may be computed with. */
export function subjectPublicKeyInfoOf(area: PublicArea, what: string): Uint8Array {
  return translated(`cannot use ${what}`, () => {
    const spki = subjectPublicKeyInfo(area.key);
    checkPublicKey(spki);
    return spki;
  });
}

function verifyStatement(statement: Uint8Array, spki: Uint8Array, { key }: PublicArea, signature: TpmSignature): boolean {
  const publicKey = createPublicKey({ key: Buffer.from(spki), format: 'der', type: 'spki' });
  const { algorithm, hash, parts } = signature;
  if ((algorithm === 'ecdsa') !== (key.type === 'ecc')) return false;
  if (key.type === 'ecc') {
    const { coordinateBytes } = curves[key.curve];
    const numbers = translated('cannot decode signature of the certification', () => parts.map((part) => padded(part, coordinateBytes)));
    return verify(hash, statement, { key: publicKey, dsaEncoding: 'ieee-p1363' }, joined(...numbers));
  }
  const [octets = new Uint8Array()] = parts;
  const padding = algorithm === 'rsapss' ? constants.RSA_PKCS1_PSS_PADDING : constants.RSA_PKCS1_PADDING;
  return verify(hash, statement, { key: publicKey, padding }, octets);
}
