/**
 * That a DevID key lives in a TPM: its attestation key is one that signs nothing but the TPM's own statements, and one of
 * those names the DevID key. That the attestation key lives in a certain TPM is for a credential to show.
 */
import { constants, createPublicKey, verify } from 'node:crypto';
import type { SpiffeError } from '../../../spiffe/errors.ts';
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
  type HashName,
  type PublicArea,
  type TpmSignature,
} from '../../../runtime/tpm/structures.ts';
import { joined } from '../../../runtime/tpm/wire.ts';
import { refused, translated, type DevidEvidence } from './evidence.ts';

const { fixedTpm, fixedParent, sensitiveDataOrigin, userWithAuth, adminWithPolicy, restricted, sign, decrypt } = objectAttribute;
/** Made in this TPM, and never to leave it. */
const resident = fixedTpm | fixedParent | sensitiveDataOrigin;

/** Templates L-1 and L-2, and those from H-1 on, whatever their kind of key [TCG EK Credential Profile 2.x, B.3 and B.4]. */
const low = resident | adminWithPolicy | restricted | decrypt;
const high = low | userWithAuth;
/** PolicyA and PolicyB of the profile. */
const policies = {
  a256: '837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa',
  b256: 'ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0',
  b384: 'b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12',
} as const;
interface EndorsementForm {
  readonly policy: string;
  readonly nameHash: HashName;
  readonly attributes: number;
  readonly aesBits: number;
}
const endorsementForms: readonly EndorsementForm[] = [
  { policy: policies.a256, nameHash: 'sha256', attributes: low, aesBits: 128 },
  { policy: policies.b256, nameHash: 'sha256', attributes: high, aesBits: 128 },
  { policy: policies.b384, nameHash: 'sha384', attributes: high, aesBits: 256 },
];

/**
 * What the keys claim to be; that they are is for signatures and certificates to show.
 * @throws denied `tpm-devid.refused`
 */
export function checkClaims({ devidKey, attestationKey, endorsementKey }: DevidEvidence): void {
  if (!hasAttributes(attestationKey, resident | restricted | sign) || hasAnyAttribute(attestationKey, decrypt)) {
    throw notResident('attestation key is not a restricted signing key that its TPM made and keeps');
  }
  if (!hasAttributes(devidKey, resident | sign) || hasAnyAttribute(devidKey, decrypt | restricted)) {
    throw notResident('DevID key is not a signing key that its TPM made and keeps');
  }
  checkEndorsementKey(endorsementKey);
}

/**
 * The statement is read once its signature verified.
 * @throws denied `tpm-devid.refused`, invalid `tpm-devid.malformed`
 */
export function checkStatement({ devidKey, attestationKey, statement, signature }: DevidEvidence): void {
  const { scheme } = attestationKey;
  if (scheme === undefined || scheme.algorithm !== signature.algorithm || scheme.hash !== signature.hash) {
    throw notResident('the certification is not signed in the way of the attestation key');
  }
  const spki = usableKey(attestationKey, 'attestation key');
  if (!verifyStatement(statement, spki, attestationKey, signature)) {
    throw notResident('the signature of the certification does not verify');
  }
  const { name } = translated('cannot decode certification of the DevID key', () => readCertified(statement));
  if (!sameBytes(name, nameOf(devidKey))) throw notResident('the certification is of another object');
}

/**
 * The certificate speaks for the key alone, so everything else about it is held against the forms that makers certify: a
 * restricted key for decryption, used with leave of the endorsement hierarchy.
 */
function checkEndorsementKey({ attributes, authPolicy, nameHash, scheme, aesBits }: PublicArea): void {
  const policy = Buffer.from(authPolicy).toString('hex');
  const form = endorsementForms.find((one) => one.policy === policy && one.nameHash === nameHash);
  if (form?.attributes !== attributes || form.aesBits !== aesBits || scheme !== undefined) {
    throw refused('endorsement key is of no form that the EK Credential Profile gives');
  }
}

/**
 * In the form of certificates, of a kind, size and quality that may be computed with.
 * @throws invalid `tpm-devid.malformed`
 */
export function usableKey(area: PublicArea, what: string): Uint8Array {
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
    const decode = (): readonly Uint8Array[] => parts.map((part) => padded(part, coordinateBytes));
    const numbers = translated('cannot decode signature of the certification', decode);
    return verify(hash, statement, { key: publicKey, dsaEncoding: 'ieee-p1363' }, joined(...numbers));
  }
  const [octets = new Uint8Array()] = parts;
  const padding = algorithm === 'rsapss' ? constants.RSA_PKCS1_PSS_PADDING : constants.RSA_PKCS1_PADDING;
  return verify(hash, statement, { key: publicKey, padding }, octets);
}

function notResident(what: string): SpiffeError {
  return refused(`cannot verify that DevID is in the same TPM than AK: ${what}`);
}
