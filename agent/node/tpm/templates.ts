/**
 * Public areas of the keys an agent asks a TPM for: the storage roots that DevIDs hang from, the endorsement keys their
 * makers certified, the attestation key of one attempt. Each yields the same key as SPIRE's, byte for byte.
 */
import { algorithmId, curveId, objectAttribute } from '../../../runtime/tpm/structures.ts';
import { joined, sized, u16, u32 } from '../../../runtime/tpm/wire.ts';

const { fixedTpm, fixedParent, sensitiveDataOrigin, userWithAuth, adminWithPolicy } = objectAttribute;
const { noDa, restricted, decrypt, sign } = objectAttribute;
const resident = fixedTpm | fixedParent | sensitiveDataOrigin;
const storage = resident | userWithAuth | noDa | restricted | decrypt;
const endorsement = resident | adminWithPolicy | restricted | decrypt;
const attestation = resident | userWithAuth | restricted | sign;

/** PolicySecret of the endorsement hierarchy [TCG EK Credential Profile, PolicyA SHA-256]. */
const endorsementPolicy = Buffer.from('837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa', 'hex');
const none = new Uint8Array();
const aes128 = joined(u16(algorithmId.aes), u16(128), u16(algorithmId.cfb));
const absent = u16(algorithmId.null);
const rsassaSha256 = joined(u16(algorithmId.rsassa), u16(algorithmId.sha256));

/** By the kind of the key below. */
export const storageRoot = {
  rsa: rsaTemplate(storage, none, aes128, absent, 0),
  ecc: eccTemplate(storage, none, 0),
} as const;

/** L-1 and L-2 of the EK Credential Profile, and the indices that hold their certificates. */
export const endorsementKeys = {
  rsa: { template: rsaTemplate(endorsement, endorsementPolicy, aes128, absent, 256), index: 0x01c0_0002 },
  ecc: { template: eccTemplate(endorsement, endorsementPolicy, 32), index: 0x01c0_000a },
} as const;

/** RSA whatever the DevID: servers of SPIRE know no other. */
export const attestationKey = rsaTemplate(attestation, none, absent, rsassaSha256, 0);

/** @param uniqueBytes zeros where the key's own number will stand; they take part in what key comes out */
function rsaTemplate(
  attributes: number,
  policy: Uint8Array,
  symmetric: Uint8Array,
  scheme: Uint8Array,
  uniqueBytes: number,
): Uint8Array {
  const parameters = joined(symmetric, scheme, u16(2048), u32(0));
  return joined(header(algorithmId.rsa, attributes, policy), parameters, sized(new Uint8Array(uniqueBytes)));
}

function eccTemplate(attributes: number, policy: Uint8Array, uniqueBytes: number): Uint8Array {
  const parameters = joined(aes128, absent, u16(curveId['P-256']), absent);
  const coordinate = sized(new Uint8Array(uniqueBytes));
  return joined(header(algorithmId.ecc, attributes, policy), parameters, coordinate, coordinate);
}

function header(type: number, attributes: number, policy: Uint8Array): Uint8Array {
  return joined(u16(type), u16(algorithmId.sha256), u32(attributes), sized(policy));
}
