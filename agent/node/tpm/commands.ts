/**
 * The commands an agent needs of a TPM 2.0, one function each [TPM 2.0 Library, part 3]. In which order they prove a node
 * is `tpm-devid.ts`.
 */
import { algorithmId, type SigningScheme } from '../../../runtime/tpm/structures.ts';
import {
  joined,
  openTpm,
  readBytes,
  readRest,
  readSized,
  readU16,
  readU32,
  sized,
  u16,
  u32,
  u8,
} from '../../../runtime/tpm/wire.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import type { Authorization, Tpm } from './command.ts';

/** TPM_RH. */
export const hierarchy = { owner: 0x4000_0001, null: 0x4000_0007, endorsement: 0x4000_000b } as const;

const policySession = 0x01;
const hashCheckTicket = 0x8024;
const nonceBytes = 16;
/** TPMA_NV. */
const nvAttribute = { ownerRead: 1 << 17, authRead: 1 << 18 } as const;
/** Of a certificate: more than any maker writes. */
const maxIndexBytes = 16 * 1024;
/** How much of an index a TPM reads at once, and what it tells that by: TPM_CAP_TPM_PROPERTIES, TPM_PT_NV_BUFFER_MAX. */
const nvChunkBytes = { usual: 512, min: 64, max: 2048 } as const;
const properties = 6;
const nvBufferMax = 0x12c;

const empty = new Uint8Array();
const anyScheme = u16(algorithmId.null);

/** A key in the TPM, to be flushed by whoever loaded it. */
export interface LoadedKey {
  readonly handle: number;
  readonly password: Uint8Array;
}

export interface PrimaryKey extends LoadedKey {
  /** TPMT_PUBLIC. */
  readonly publicArea: Uint8Array;
}

export interface NewKey {
  /** What TPM2B_PRIVATE and TPM2B_PUBLIC hold; only this TPM can use the first. */
  readonly privateBlob: Uint8Array;
  readonly publicBlob: Uint8Array;
}

/** @param password of the new key; every call with one template yields the same key */
export async function createPrimary(
  tpm: Tpm,
  owner: { readonly hierarchy: number; readonly password: Uint8Array },
  template: Uint8Array,
  password: Uint8Array,
): Promise<PrimaryKey> {
  const { handle, parameters } = await tpm.run({
    name: 'CreatePrimary',
    code: 0x131,
    handles: [owner.hierarchy],
    authorizations: [{ password: owner.password }],
    parameters: creation(template, password),
    yieldsHandle: true,
  });
  return { handle, password, publicArea: readSized(parameters) };
}

export async function create(tpm: Tpm, parent: LoadedKey, template: Uint8Array, password: Uint8Array): Promise<NewKey> {
  const { parameters } = await tpm.run({
    name: 'Create',
    code: 0x153,
    handles: [parent.handle],
    authorizations: [parent],
    parameters: creation(template, password),
  });
  const privateBlob = readSized(parameters);
  return { privateBlob, publicBlob: readSized(parameters) };
}

export async function load(tpm: Tpm, parent: LoadedKey, key: NewKey, password: Uint8Array): Promise<LoadedKey> {
  const { handle } = await tpm.run({
    name: 'Load',
    code: 0x157,
    handles: [parent.handle],
    authorizations: [parent],
    parameters: joined(sized(key.privateBlob), sized(key.publicBlob)),
    yieldsHandle: true,
  });
  return { handle, password };
}

export interface Certification {
  /** TPMS_ATTEST. */
  readonly statement: Uint8Array;
  /** TPMT_SIGNATURE. */
  readonly signature: Uint8Array;
}

/** `signer` states that `object` is in this TPM. */
export async function certify(tpm: Tpm, object: LoadedKey, signer: LoadedKey): Promise<Certification> {
  const { parameters } = await tpm.run({
    name: 'Certify',
    code: 0x148,
    handles: [object.handle, signer.handle],
    authorizations: [object, signer],
    parameters: joined(sized(), anyScheme),
  });
  const statement = readSized(parameters);
  return { statement, signature: readRest(parameters) };
}

/** @param scheme for a key without one of its own; yields a TPMT_SIGNATURE */
export async function signDigest(
  tpm: Tpm,
  key: LoadedKey,
  digest: Uint8Array,
  scheme: SigningScheme | undefined,
): Promise<Uint8Array> {
  const chosen = scheme === undefined ? anyScheme : joined(u16(algorithmId[scheme.algorithm]), u16(algorithmId[scheme.hash]));
  const { parameters } = await tpm.run({
    name: 'Sign',
    code: 0x15d,
    handles: [key.handle],
    authorizations: [key],
    // A key that is not restricted signs digests of which the TPM knows nothing.
    parameters: joined(sized(digest), chosen, u16(hashCheckTicket), u32(hierarchy.null), sized()),
  });
  return readRest(parameters);
}

/** The secret in a credential for `object`, which `endorsementKey` opens in a session that satisfies its policy. */
export async function activateCredential(
  tpm: Tpm,
  object: LoadedKey,
  endorsementKey: { readonly handle: number; readonly session: number },
  blob: { readonly credential: Uint8Array; readonly secret: Uint8Array },
): Promise<Uint8Array> {
  const { parameters } = await tpm.run({
    name: 'ActivateCredential',
    code: 0x147,
    handles: [object.handle, endorsementKey.handle],
    authorizations: [object, { session: endorsementKey.session }],
    parameters: joined(sized(blob.credential), sized(blob.secret)),
  });
  return readSized(parameters);
}

/** Yields the handle of a session that only collects what satisfies a policy: neither bound nor salted, it hides nothing. */
export async function startPolicySession(tpm: Tpm, nonce: (bytes: number) => Uint8Array): Promise<number> {
  const { handle } = await tpm.run({
    name: 'StartAuthSession',
    code: 0x176,
    handles: [hierarchy.null, hierarchy.null],
    parameters: joined(sized(nonce(nonceBytes)), sized(), u8(policySession), u16(algorithmId.null), u16(algorithmId.sha256)),
    yieldsHandle: true,
  });
  return handle;
}

/** The session learns that whoever uses it knows the password of `entity`. */
export async function policySecret(tpm: Tpm, entity: number, session: number, authorization: Authorization): Promise<void> {
  await tpm.run({
    name: 'PolicySecret',
    code: 0x151,
    handles: [entity, session],
    authorizations: [authorization],
    parameters: joined(sized(), sized(), sized(), u32(0)),
  });
}

/** A key as only this TPM, until it restarts, takes it back: to be loaded again without its parent. */
export async function saveContext(tpm: Tpm, key: LoadedKey): Promise<Uint8Array> {
  const { parameters } = await tpm.run({ name: 'ContextSave', code: 0x162, handles: [key.handle] });
  return readRest(parameters);
}

export async function loadContext(tpm: Tpm, context: Uint8Array, password: Uint8Array): Promise<LoadedKey> {
  const { handle } = await tpm.run({ name: 'ContextLoad', code: 0x161, parameters: context, yieldsHandle: true });
  return { handle, password };
}

export async function flushContext(tpm: Tpm, handle: number): Promise<void> {
  await tpm.run({ name: 'FlushContext', code: 0x165, parameters: u32(handle) });
}

/**
 * The whole content of an index, read as its owner lets it be read.
 * @throws as `Tpm.run`; invalid `evidence.tpm.index`
 */
export async function readIndex(tpm: Tpm, index: number, ownerPassword: Uint8Array): Promise<Uint8Array> {
  const { parameters } = await tpm.run({ name: 'NV_ReadPublic', code: 0x169, handles: [index] });
  const area = openTpm(readSized(parameters));
  // Index and name algorithm.
  readBytes(area, 6);
  const attributes = readU32(area);
  readSized(area);
  const size = readU16(area);
  if (size > maxIndexBytes) {
    throw new SpiffeError('invalid', 'evidence.tpm.index', 'an index of the TPM holds more than a certificate');
  }
  const byOwner = (attributes & nvAttribute.authRead) === 0 && (attributes & nvAttribute.ownerRead) !== 0;
  const chunkBytes = await readChunkBytes(tpm);
  const chunks: Uint8Array[] = [];
  for (let at = 0; at < size; at += chunkBytes) {
    const length = Math.min(chunkBytes, size - at);
    const chunk = await tpm.run({
      name: 'NV_Read',
      code: 0x14e,
      handles: [byOwner ? hierarchy.owner : index, index],
      authorizations: [{ password: byOwner ? ownerPassword : empty }],
      parameters: joined(u16(length), u16(at)),
    });
    chunks.push(readSized(chunk.parameters));
  }
  return joined(...chunks);
}

async function readChunkBytes(tpm: Tpm): Promise<number> {
  const asked = joined(u32(properties), u32(nvBufferMax), u32(1));
  const { parameters } = await tpm.run({ name: 'GetCapability', code: 0x17a, parameters: asked });
  // Whether there is more, and which capability this is.
  readBytes(parameters, 5);
  if (readU32(parameters) !== 1 || readU32(parameters) !== nvBufferMax) return nvChunkBytes.usual;
  return Math.min(Math.max(readU32(parameters), nvChunkBytes.min), nvChunkBytes.max);
}

/** TPM2B_SENSITIVE_CREATE, TPM2B_PUBLIC, no data of the creator, no registers. */
function creation(template: Uint8Array, password: Uint8Array): Uint8Array {
  return joined(sized(sized(password), sized()), sized(template), sized(), u32(0));
}
