/**
 * What a TPM says of its objects: public areas, their names, signatures and attestations, as far as keys that sign,
 * certify and protect need it [TPM 2.0 Library, part 2]. Which of their attributes convince is left to whoever judges.
 */
import { createHash } from 'node:crypto';
import { SpiffeError } from '../../spiffe/errors.ts';
import { encodeBitString, encodeNull, encodeOid, encodeSequence, encodeUnsigned } from '../../spiffe/x509/der-writer.ts';
import { curves, oid } from '../../spiffe/x509/names.ts';
import {
  finishTpm,
  joined,
  openTpm,
  readBytes,
  readRest,
  readSized,
  readU16,
  readU32,
  u16,
  u32,
  type TpmCursor,
} from './wire.ts';

/** TPM_ALG_ID. */
export const algorithmId = {
  rsa: 0x0001,
  aes: 0x0006,
  sha256: 0x000b,
  sha384: 0x000c,
  sha512: 0x000d,
  null: 0x0010,
  rsassa: 0x0014,
  rsapss: 0x0016,
  ecdsa: 0x0018,
  ecc: 0x0023,
  cfb: 0x0043,
} as const;

/** TPMA_OBJECT, the bits anybody here asks about or sets. */
export const objectAttribute = {
  fixedTpm: 1 << 1,
  stClear: 1 << 2,
  fixedParent: 1 << 4,
  sensitiveDataOrigin: 1 << 5,
  userWithAuth: 1 << 6,
  adminWithPolicy: 1 << 7,
  noDa: 1 << 10,
  restricted: 1 << 16,
  decrypt: 1 << 17,
  sign: 1 << 18,
} as const;

export type HashName = 'sha256' | 'sha384' | 'sha512';
export type SchemeName = 'rsassa' | 'rsapss' | 'ecdsa';
export type TpmCurve = 'P-256' | 'P-384';

const hashes: Readonly<Record<number, HashName | undefined>> = {
  [algorithmId.sha256]: 'sha256',
  [algorithmId.sha384]: 'sha384',
  [algorithmId.sha512]: 'sha512',
};
const schemes: Readonly<Record<number, SchemeName | undefined>> = {
  [algorithmId.rsassa]: 'rsassa',
  [algorithmId.rsapss]: 'rsapss',
  [algorithmId.ecdsa]: 'ecdsa',
};
/** TPM_ECC_CURVE. */
const curveIds: Readonly<Record<number, TpmCurve | undefined>> = { 0x0003: 'P-256', 0x0004: 'P-384' };
export const curveId = { 'P-256': 0x0003, 'P-384': 0x0004 } as const satisfies Record<TpmCurve, number>;

/** TPM_GENERATED_VALUE: what a TPM writes in front of what it states itself, and never signs for others. */
const generated = 0xff54_4347;
const attestCertify = 0x8017;
const rsaSizes: readonly number[] = [2048, 3072, 4096];
const aesSizes: readonly number[] = [128, 192, 256];
const maxDigestBytes = 64;
/** An algorithm and a digest. */
const maxNameBytes = 2 + maxDigestBytes;
const clockInfoBytes = 17;

export interface SigningScheme {
  readonly algorithm: SchemeName;
  readonly hash: HashName;
}

export type TpmKey =
  | { readonly type: 'rsa'; readonly exponent: number; readonly modulus: Uint8Array }
  /** Coordinates as they stand: some TPMs leave out leading zeros. */
  | { readonly type: 'ecc'; readonly curve: TpmCurve; readonly x: Uint8Array; readonly y: Uint8Array };

/** A TPMT_PUBLIC of an asymmetric key; byte fields are views into what was read. */
export interface PublicArea {
  /** The whole of it, which names are made of. */
  readonly bytes: Uint8Array;
  readonly nameHash: HashName;
  readonly attributes: number;
  readonly authPolicy: Uint8Array;
  /** Bits of the AES key in CFB mode that protects what is under the key; nothing for one that protects nothing. */
  readonly aesBits: number | undefined;
  /** Nothing when whoever signs chooses. */
  readonly scheme: SigningScheme | undefined;
  readonly key: TpmKey;
}

/**
 * Reads a TPMT_PUBLIC: RSA of 2048, 3072 or 4096 bits, P-256 or P-384, nothing else.
 * @throws invalid `tpm.truncated|trailing|size|key`; unsupported `tpm.algorithm`
 */
export function readPublicArea(bytes: Uint8Array): PublicArea {
  const cursor = openTpm(bytes);
  const type = readU16(cursor);
  const nameHash = readHash(cursor);
  const attributes = readU32(cursor);
  const authPolicy = readSized(cursor, maxDigestBytes);
  if (type !== algorithmId.rsa && type !== algorithmId.ecc) throw unsupported('key is neither RSA nor ECC');
  const aesBits = readSymmetric(cursor);
  const scheme = readScheme(cursor);
  const key = type === algorithmId.rsa ? readRsaKey(cursor) : readEccKey(cursor);
  finishTpm(cursor);
  return { bytes, nameHash, attributes, authPolicy, aesBits, scheme, key };
}

/** TPM2B_NAME without its size: the name algorithm, then the digest of the public area. */
export function nameOf(area: PublicArea): Uint8Array {
  const digest = createHash(area.nameHash).update(area.bytes).digest();
  return joined(u16(algorithmId[area.nameHash]), digest);
}

export function hasAttributes(area: PublicArea, bits: number): boolean {
  return (area.attributes & bits) === bits;
}

export function hasAnyAttribute(area: PublicArea, bits: number): boolean {
  return (area.attributes & bits) !== 0;
}

/**
 * The key as certificates hold it: DER SubjectPublicKeyInfo, in the one form that RFC 3279 and RFC 5480 give it.
 * @throws invalid `tpm.key`
 */
export function subjectPublicKeyInfo(key: TpmKey): Uint8Array {
  if (key.type === 'rsa') {
    const content = encodeSequence(encodeUnsigned(key.modulus), encodeUnsigned(u32(key.exponent)));
    return encodeSequence(encodeSequence(encodeOid(oid.rsaEncryption), encodeNull()), encodeBitString(content));
  }
  const identifier = encodeSequence(encodeOid(oid.ecPublicKey), encodeOid(curves[key.curve].oid));
  return encodeSequence(identifier, encodeBitString(pointOf(key)));
}

/** Uncompressed, coordinates in full length. @throws invalid `tpm.key` */
export function pointOf({ curve, x, y }: TpmKey & { readonly type: 'ecc' }): Uint8Array {
  const { coordinateBytes } = curves[curve];
  return joined(Uint8Array.of(4), padded(x, coordinateBytes), padded(y, coordinateBytes));
}

/** TPMT_SIGNATURE; the two numbers of an ECC one stand after one another in full length. */
export interface TpmSignature extends SigningScheme {
  /** As TPMs write them: RSA's octets, or r and s. */
  readonly parts: readonly Uint8Array[];
}

/** @throws invalid `tpm.truncated|trailing|size`; unsupported `tpm.algorithm` */
export function readSignature(bytes: Uint8Array): TpmSignature {
  const cursor = openTpm(bytes);
  const algorithm = schemes[readU16(cursor)];
  if (algorithm === undefined) throw unsupported('signature is of no kind that is known here');
  const hash = readHash(cursor);
  const parts = algorithm === 'ecdsa' ? [readSized(cursor, 48), readSized(cursor, 48)] : [readSized(cursor, 512)];
  finishTpm(cursor);
  return { algorithm, hash, parts };
}

/** What TPM2_Certify states: a key of this name is loaded in the TPM that signs. */
export interface Certified {
  readonly name: Uint8Array;
  readonly qualifiedName: Uint8Array;
  readonly qualifiedSigner: Uint8Array;
  readonly qualifyingData: Uint8Array;
}

/**
 * Reads a TPMS_ATTEST that TPM2_Certify made.
 * @throws invalid `tpm.truncated|trailing|size|attest`
 */
export function readCertified(bytes: Uint8Array): Certified {
  const cursor = openTpm(bytes);
  if (readU32(cursor) !== generated) throw new SpiffeError('invalid', 'tpm.attest', 'statement was not generated by a TPM');
  if (readU16(cursor) !== attestCertify) throw new SpiffeError('invalid', 'tpm.attest', 'statement does not certify an object');
  const qualifiedSigner = readSized(cursor, maxNameBytes);
  const qualifyingData = readSized(cursor, maxNameBytes);
  readBytes(cursor, clockInfoBytes);
  // The version of the firmware.
  readBytes(cursor, 8);
  const name = readSized(cursor, maxNameBytes);
  const qualifiedName = readSized(cursor, maxNameBytes);
  finishTpm(cursor);
  return { name, qualifiedName, qualifiedSigner, qualifyingData };
}

/**
 * The content of a TPM2B that a file holds, whether with its size or without: tools write the one, libraries the other.
 * No content here is so short that its own first two bytes could be taken for the size.
 */
export function withoutSize(bytes: Uint8Array): Uint8Array {
  const cursor = openTpm(bytes);
  if (bytes.length < 2 || readU16(cursor) !== bytes.length - 2) return bytes;
  return readRest(cursor);
}

function readHash(cursor: TpmCursor): HashName {
  const hash = hashes[readU16(cursor)];
  if (hash === undefined) throw unsupported('hash is not SHA-256, SHA-384 or SHA-512');
  return hash;
}

function readSymmetric(cursor: TpmCursor): number | undefined {
  const algorithm = readU16(cursor);
  if (algorithm === algorithmId.null) return undefined;
  const bits = readU16(cursor);
  const mode = readU16(cursor);
  if (algorithm !== algorithmId.aes || !aesSizes.includes(bits) || mode !== algorithmId.cfb) {
    throw unsupported('what is under the key is not protected with AES in CFB mode');
  }
  return bits;
}

function readScheme(cursor: TpmCursor): SigningScheme | undefined {
  const id = readU16(cursor);
  if (id === algorithmId.null) return undefined;
  const algorithm = schemes[id];
  if (algorithm === undefined) throw unsupported('signing scheme is not RSASSA, RSAPSS or ECDSA');
  return { algorithm, hash: readHash(cursor) };
}

function readRsaKey(cursor: TpmCursor): TpmKey {
  const bits = readU16(cursor);
  // Zero stands for the usual one.
  const exponent = readU32(cursor) || 65_537;
  const modulus = readSized(cursor, 512);
  if (!rsaSizes.includes(bits)) throw unsupported('RSA key is not of 2048, 3072 or 4096 bits');
  if (modulus.length !== bits / 8 || (modulus[0] ?? 0) < 0x80) {
    throw new SpiffeError('invalid', 'tpm.key', 'RSA modulus has not the size that its key says');
  }
  return { type: 'rsa', exponent, modulus };
}

function readEccKey(cursor: TpmCursor): TpmKey {
  const curve = curveIds[readU16(cursor)];
  if (curve === undefined) throw unsupported('curve is not P-256 or P-384');
  if (readU16(cursor) !== algorithmId.null) throw unsupported('ECC key names a scheme to derive keys with');
  const { coordinateBytes } = curves[curve];
  return { type: 'ecc', curve, x: readSized(cursor, coordinateBytes), y: readSized(cursor, coordinateBytes) };
}

/** @throws invalid `tpm.key` */
export function padded(number: Uint8Array, length: number): Uint8Array {
  if (number.length === 0 || number.length > length) {
    throw new SpiffeError('invalid', 'tpm.key', 'a number of an ECC key or signature is absent or too long');
  }
  return joined(new Uint8Array(length - number.length), number);
}

function unsupported(message: string): SpiffeError {
  return new SpiffeError('unsupported', 'tpm.algorithm', message);
}
