/**
 * Credentials as TPM2_ActivateCredential opens them: a secret that only the TPM with a certain endorsement key gives away,
 * and only while it holds an object of a certain name [TPM 2.0 Library, part 1, 11.4.10 and 24]. Whether key and name
 * belong to anyone is judged before.
 */
import {
  constants,
  createCipheriv,
  createECDH,
  createHash,
  createHmac,
  createPublicKey,
  publicEncrypt,
  randomBytes,
} from 'node:crypto';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { curves } from '../../../spiffe/x509/names.ts';
import { pointOf, subjectPublicKeyInfo, type HashName, type PublicArea, type TpmCurve } from '../../../runtime/tpm/structures.ts';
import { joined, sized, u32 } from '../../../runtime/tpm/wire.ts';

/** Both without the size in front of them: a TPMS_ID_OBJECT, and what a TPM2B_ENCRYPTED_SECRET holds. */
export interface ProtectedCredential {
  readonly credential: Uint8Array;
  readonly secret: Uint8Array;
}

export const digestBytes = { sha256: 32, sha384: 48, sha512: 64 } as const satisfies Record<HashName, number>;

/**
 * @param name of the object that has to be loaded beside the endorsement key
 * @param secret not longer than a digest of the endorsement key's name algorithm
 * @throws invalid `tpm-devid.endorsement-key`
 */
export function makeCredential(endorsementKey: PublicArea, name: Uint8Array, secret: Uint8Array): ProtectedCredential {
  const { nameHash, aesBits } = endorsementKey;
  if (aesBits === undefined || secret.length > digestBytes[nameHash]) {
    throw new SpiffeError('invalid', 'tpm-devid.endorsement-key', 'endorsement key cannot protect a credential');
  }
  const { seed, encrypted } = shareSeed(endorsementKey);
  const encryptionKey = kdfa({ hash: nameHash, key: seed, label: 'STORAGE', contextU: name, bits: aesBits });
  const cipher = createCipheriv(`aes-${aesBits}-cfb`, encryptionKey, new Uint8Array(16));
  const identity = joined(cipher.update(sized(secret)), cipher.final());
  const macKey = kdfa({ hash: nameHash, key: seed, label: 'INTEGRITY', bits: digestBytes[nameHash] * 8 });
  const mac = createHmac(nameHash, macKey).update(identity).update(name).digest();
  return { credential: joined(sized(mac), identity), secret: encrypted };
}

function shareSeed({ key, nameHash }: PublicArea): { readonly seed: Uint8Array; readonly encrypted: Uint8Array } {
  if (key.type === 'ecc') return agreeOnSeed(nameHash, key.curve, pointOf(key), key.x);
  const publicKey = createPublicKey({ key: Buffer.from(subjectPublicKeyInfo(key)), format: 'der', type: 'spki' });
  const seed = randomBytes(digestBytes[nameHash]);
  const padding = constants.RSA_PKCS1_OAEP_PADDING;
  const encrypted = publicEncrypt({ key: publicKey, padding, oaepHash: nameHash, oaepLabel: Buffer.from('IDENTITY\0') }, seed);
  return { seed, encrypted };
}

/** Annex C.6.4: one pass of Diffie-Hellman with a key of this one use; what is sent is its public point. */
function agreeOnSeed(
  hash: HashName,
  curve: TpmCurve,
  theirs: Uint8Array,
  theirX: Uint8Array,
): { readonly seed: Uint8Array; readonly encrypted: Uint8Array } {
  const { node, coordinateBytes } = curves[curve];
  const ecdh = createECDH(node);
  const ours = ecdh.generateKeys();
  const ourX = ours.subarray(1, 1 + coordinateBytes);
  const z = ecdh.computeSecret(theirs);
  const seed = kdfe({ hash, z, label: 'IDENTITY', partyU: ourX, partyV: theirX, bits: digestBytes[hash] * 8 });
  return { seed, encrypted: joined(sized(ourX), sized(ours.subarray(1 + coordinateBytes))) };
}

const none = new Uint8Array();

export interface KdfaInput {
  readonly hash: HashName;
  readonly key: Uint8Array;
  /** Without the zero that ends it. */
  readonly label: string;
  readonly contextU?: Uint8Array;
  readonly contextV?: Uint8Array;
  readonly bits: number;
}

/** SP 800-108 in counter mode with HMAC [part 1, 11.4.10.2]. */
export function kdfa({ hash, key, label, contextU = none, contextV = none, bits }: KdfaInput): Uint8Array {
  return derive(hash, bits, (counter) =>
    createHmac(hash, key).update(u32(counter)).update(`${label}\0`).update(contextU).update(contextV).update(u32(bits)).digest(),
  );
}

export interface KdfeInput {
  readonly hash: HashName;
  /** The x coordinate of the shared point. */
  readonly z: Uint8Array;
  readonly label: string;
  readonly partyU: Uint8Array;
  readonly partyV: Uint8Array;
  readonly bits: number;
}

/** SP 800-56A's single step with a hash [part 1, 11.4.10.3]. */
export function kdfe({ hash, z, label, partyU, partyV, bits }: KdfeInput): Uint8Array {
  return derive(hash, bits, (counter) =>
    createHash(hash).update(u32(counter)).update(z).update(`${label}\0`).update(partyU).update(partyV).digest(),
  );
}

/** For whole octets; a TPM would mask the bits of a broken first one. */
function derive(hash: HashName, bits: number, block: (counter: number) => Uint8Array): Uint8Array {
  const blocks = Array.from({ length: Math.ceil(bits / 8 / digestBytes[hash]) }, (_, index) => block(index + 1));
  return joined(...blocks).subarray(0, bits / 8);
}
