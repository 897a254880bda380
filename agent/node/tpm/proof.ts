/**
 * The two visits to a TPM that prove a node: one gathers what the TPM states of its keys, one answers what the server asked
 * back. Nothing stays loaded in between, however long the server takes. Files and JSON are left to `tpm-devid.ts`.
 */
import { createHash, randomBytes, X509Certificate } from 'node:crypto';
import type { PublicArea, SigningScheme } from '../../../runtime/tpm/structures.ts';
import { contentOf, derTag, openDer, readTagged, wholeOf } from '../../../spiffe/x509/der.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { failedWith, responseCode, type Tpm } from './command.ts';
import {
  activateCredential,
  certify,
  create,
  createPrimary,
  hierarchy,
  load,
  loadContext,
  policySecret,
  readIndex,
  saveContext,
  signDigest,
  startPolicySession,
  type Certification,
  type LoadedKey,
  type NewKey,
} from './commands.ts';
import { holding } from './held.ts';
import { attestationKey, endorsementKeys, storageRoot } from './templates.ts';

/** Octets as the TPM takes them. */
export interface TpmPasswords {
  readonly owner: Uint8Array;
  readonly endorsement: Uint8Array;
  readonly devid: Uint8Array;
}

export interface DevidKey extends NewKey {
  readonly area: PublicArea;
}

/** What a TPM stated, and what it needs to answer for it. */
export interface Statement extends Certification {
  /** TPMT_PUBLIC. */
  readonly attestationKey: Uint8Array;
  readonly endorsementKey: Uint8Array;
  /** DER. */
  readonly endorsementCertificate: Uint8Array;
  readonly contexts: { readonly devid: Uint8Array; readonly attestation: Uint8Array; readonly endorsement: Uint8Array };
  readonly attestationPassword: Uint8Array;
}

type KeyKind = keyof typeof endorsementKeys;

/** Not more octets than a digest of the name algorithm has. */
const randomPassword = (): Uint8Array => randomBytes(32);
const none = new Uint8Array();

/**
 * @param certificate of the endorsement key, where the TPM itself holds none
 * @throws as `Tpm.run`; invalid `evidence.tpm-devid.foreign-key`, `evidence.tpm.index|no-endorsement`
 */
export async function stateDevid(
  tpm: Tpm,
  devidKey: DevidKey,
  passwords: TpmPasswords,
  certificate: Uint8Array | undefined,
): Promise<Statement> {
  return holding(tpm, async ({ hold, release }) => {
    const owner = { hierarchy: hierarchy.owner, password: passwords.owner };
    const parentOf = async (kind: KeyKind): Promise<LoadedKey> => {
      return hold(await createPrimary(tpm, owner, storageRoot[kind], randomPassword()));
    };

    const devidParent = await parentOf(devidKey.area.key.type);
    const devid = hold(await loadDevid(tpm, devidParent, devidKey, passwords.devid));
    await release(devidParent);

    const parent = await parentOf('rsa');
    const attestationPassword = randomPassword();
    const blobs = await create(tpm, parent, attestationKey, attestationPassword);
    const attestation = hold(await load(tpm, parent, blobs, attestationPassword));
    await release(parent);

    const certification = await certify(tpm, devid, attestation);
    const endorsement = await readEndorsement(tpm, certificate, passwords.owner);
    const endorser = { hierarchy: hierarchy.endorsement, password: passwords.endorsement };
    const key = hold(await createPrimary(tpm, endorser, endorsementKeys[endorsement.kind].template, none));
    return {
      ...certification,
      attestationKey: blobs.publicBlob,
      endorsementKey: key.publicArea,
      endorsementCertificate: endorsement.certificate,
      contexts: {
        devid: await saveContext(tpm, devid),
        attestation: await saveContext(tpm, attestation),
        endorsement: await saveContext(tpm, key),
      },
      attestationPassword,
    };
  });
}

export interface Posed {
  readonly nonce: Uint8Array;
  readonly credential: Uint8Array;
  readonly secret: Uint8Array;
}

export interface Answered {
  /** TPMT_SIGNATURE. */
  readonly signature: Uint8Array;
  readonly activated: Uint8Array;
}

/**
 * The credential comes first: whoever cannot make one for this very attestation key gets nothing signed.
 * @throws as `Tpm.run`
 */
export async function answerPosed(
  tpm: Tpm,
  { contexts, attestationPassword }: Statement,
  posed: Posed,
  passwords: TpmPasswords,
  scheme: SigningScheme | undefined,
): Promise<Answered> {
  const activated = await holding(tpm, async ({ hold }) => {
    const attestation = hold(await loadContext(tpm, contexts.attestation, attestationPassword));
    const { handle } = hold(await loadContext(tpm, contexts.endorsement, none));
    const session = hold(await startPolicySession(tpm, randomBytes));
    await policySecret(tpm, hierarchy.endorsement, session, { password: passwords.endorsement });
    return activateCredential(tpm, attestation, { handle, session }, posed);
  });
  const signature = await holding(tpm, async ({ hold }) => {
    const devid = hold(await loadContext(tpm, contexts.devid, passwords.devid));
    return signDigest(tpm, devid, createHash('sha256').update(posed.nonce).digest(), scheme);
  });
  return { signature, activated };
}

async function loadDevid(tpm: Tpm, parent: LoadedKey, key: NewKey, password: Uint8Array): Promise<LoadedKey> {
  try {
    return await load(tpm, parent, key, password);
  } catch (cause) {
    if (!failedWith(cause, responseCode.integrity)) throw cause;
    const message = 'the DevID key was not made under the storage root key of this TPM';
    throw new SpiffeError('invalid', 'evidence.tpm-devid.foreign-key', message, { cause });
  }
}

interface Endorsement {
  readonly kind: KeyKind;
  readonly certificate: Uint8Array;
}

/** RSA where there is a choice: servers of SPIRE know no other. */
async function readEndorsement(tpm: Tpm, given: Uint8Array | undefined, ownerPassword: Uint8Array): Promise<Endorsement> {
  if (given !== undefined) {
    const kind = new X509Certificate(given).publicKey.asymmetricKeyType === 'ec' ? 'ecc' : 'rsa';
    return { kind, certificate: given };
  }
  for (const kind of ['rsa', 'ecc'] as const) {
    try {
      const content = await readIndex(tpm, endorsementKeys[kind].index, ownerPassword);
      return { kind, certificate: firstValue(content) };
    } catch (error) {
      if (!failedWith(error, responseCode.handle)) throw error;
    }
  }
  throw new SpiffeError('invalid', 'evidence.tpm.no-endorsement', 'the TPM holds no certificate of its endorsement key');
}

/** Some makers fill the rest of an index with what is no part of the certificate. */
function firstValue(content: Uint8Array): Uint8Array {
  try {
    const value = readTagged(openDer(content), derTag.sequence);
    if (contentOf(value).length > 0) return wholeOf(value);
  } catch (cause) {
    throw noCertificate(cause);
  }
  throw noCertificate();
}

function noCertificate(cause?: unknown): SpiffeError {
  const message = 'what the TPM holds as certificate of its endorsement key is none';
  return new SpiffeError('invalid', 'evidence.tpm.index', message, { cause });
}
