/**
 * Evidence: a DevID, whose key this machine's TPM keeps, proved by the TPM's own statements and by answers only it can
 * give. Which DevIDs and TPMs convince, and who they make this node, is the server's.
 */
import { X509Certificate } from 'node:crypto';
import { open } from 'node:fs/promises';
import type { Clock } from '../../runtime/clock.ts';
import type { Secret } from '../../runtime/log.ts';
import {
  hasAnyAttribute,
  hasAttributes,
  objectAttribute,
  readPublicArea,
  readSignature,
  subjectPublicKeyInfo,
  withoutSize,
  type PublicArea,
  type SigningScheme,
} from '../../runtime/tpm/structures.ts';
import { decodeBase64 } from '../../spiffe/base64.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { isJsonObject, parseJson, type JsonValue } from '../../spiffe/json.ts';
import { parsePemCertificates } from '../../spiffe/pem.ts';
import { encodeSequence, encodeUnsigned } from '../../spiffe/x509/der-writer.ts';
import { sameBytes } from '../../spiffe/x509/names.ts';
import type { EvidenceSource } from './evidence.ts';
import { createTpm, type Tpm } from './tpm/command.ts';
import type { NewKey } from './tpm/commands.ts';
import { findTpmDevice, openTpmDevice } from './tpm/device.ts';
import { answerPosed, stateDevid, type DevidKey, type Posed, type TpmPasswords } from './tpm/proof.ts';

export interface TpmDevidOptions {
  readonly clock: Pick<Clock, 'sleep'>;
  /** Path of a character device, or of an emulator's socket; without one, the only TPM in `/dev`. */
  readonly device?: string | undefined;
  readonly devid: {
    /** Path of PEM: the leaf, possibly followed by intermediates. */
    readonly certificate: string;
    /** Paths of what the TPM gave when it made the key, with or without the size in front. */
    readonly privateBlob: string;
    readonly publicBlob: string;
    readonly password?: Secret<string> | undefined;
  };
  readonly ownerPassword?: Secret<string> | undefined;
  readonly endorsementPassword?: Secret<string> | undefined;
  /** Path of PEM or DER; without one, what the TPM itself holds. */
  readonly ekCertificate?: string | undefined;
}

const maxFileBytes = 64 * 1024;
/** Signing what else a server might make of it would lend the key out. */
const nonceBytes = 32;
const maxChallengeBytes = 4096;

/**
 * Files are read again for each attempt, so that a renewed certificate is used; a password the TPM refused is not tried again.
 * @throws (from `produce`) as `openTpmDevice`, `findTpmDevice`, `stateDevid` and `visit`;
 *   unavailable `evidence.tpm-devid.unreadable`, invalid `evidence.tpm-devid.certificate|key|scheme|mismatch`
 */
export function tpmDevidEvidence(options: TpmDevidOptions): EvidenceSource {
  const { devid } = options;
  const passwords: TpmPasswords = {
    owner: passwordOf(options.ownerPassword),
    endorsement: passwordOf(options.endorsementPassword),
    devid: passwordOf(devid.password),
  };
  const guard = createPasswordGuard();
  return {
    type: 'tpm_devid',
    repeatable: true,
    async produce() {
      const chain = parseChain(await readFile(devid.certificate), devid.certificate);
      const key = await readKey(devid.publicBlob, devid.privateBlob);
      const scheme = schemeOf(key.area);
      if (!sameBytes(leafKey(chain, devid.certificate), subjectPublicKeyInfo(key.area.key))) {
        throw new SpiffeError('invalid', 'evidence.tpm-devid.mismatch', 'the DevID key does not belong to the certificate');
      }
      const endorsement = options.ekCertificate === undefined ? undefined : await readCertificate(options.ekCertificate);
      const device = options.device ?? (await findTpmDevice());
      const ask = <T>(work: (tpm: Tpm) => Promise<T>): Promise<T> => guard.during(key, () => visit(device, options.clock, work));
      const statement = await ask((tpm) => stateDevid(tpm, key, passwords, endorsement));
      const payload = {
        DevIDCert: chain.map(base64),
        DevIDPub: base64(key.publicBlob),
        EKCert: base64(statement.endorsementCertificate),
        EKPub: base64(statement.endorsementKey),
        AKPub: base64(statement.attestationKey),
        CertifiedDevID: base64(statement.statement),
        CertificationSignature: base64(statement.signature),
      };
      return {
        payload: Buffer.from(JSON.stringify(payload)),
        async answer(challenge) {
          const posed = parseChallenge(challenge);
          const { signature, activated } = await ask(async (tpm) => {
            const answered = await answerPosed(tpm, statement, posed, passwords, scheme);
            return { ...answered, signature: plainSignature(answered.signature) };
          });
          return Buffer.from(JSON.stringify({ DevID: base64(signature), CredActivation: base64(activated) }));
        },
      };
    },
  };
}

/** @throws what `work` throws; unavailable `evidence.tpm.response` when the TPM's answers make no sense */
async function visit<T>(path: string, clock: Pick<Clock, 'sleep'>, work: (tpm: Tpm) => Promise<T>): Promise<T> {
  const device = await openTpmDevice(path, clock);
  try {
    return await work(createTpm(device, clock));
  } catch (cause) {
    if (!(cause instanceof SpiffeError) || !cause.reason.startsWith('tpm.')) throw cause;
    throw new SpiffeError('unavailable', 'evidence.tpm.response', `the TPM's answer cannot be read: ${cause.message}`, { cause });
  } finally {
    await device.close();
  }
}

/**
 * Keeps from showing the TPM a password twice that it refused once: after a few dozen it would lock everybody out, for
 * hours. Passwords are those of the configuration, so until the key is another one the answer would be the same.
 */
function createPasswordGuard(): { during<T>(key: NewKey, work: () => Promise<T>): Promise<T> } {
  let refusal: { readonly privateBlob: Uint8Array; readonly error: SpiffeError } | undefined;
  return {
    async during(key, work) {
      if (refusal !== undefined && sameBytes(refusal.privateBlob, key.privateBlob)) throw refusal.error;
      try {
        return await work();
      } catch (error) {
        if (isSpiffeError(error, 'denied', 'evidence.tpm.authorization')) refusal = { privateBlob: key.privateBlob, error };
        throw error;
      }
    },
  };
}

async function readKey(publicPath: string, privatePath: string): Promise<DevidKey> {
  const [publicFile, privateFile] = [await readFile(publicPath), await readFile(privatePath)];
  try {
    const publicBlob = withoutSize(publicFile);
    return { publicBlob, privateBlob: withoutSize(privateFile), area: readPublicArea(publicBlob) };
  } catch (cause) {
    const message = `${publicPath} or ${privatePath} is no part of a key that a TPM made`;
    throw new SpiffeError('invalid', 'evidence.tpm-devid.key', message, { cause });
  }
}

/** Servers check with SHA-256, and RSA with the padding of PKCS #1 1.5. Nothing when the key itself says so. */
function schemeOf(area: PublicArea): SigningScheme | undefined {
  const { key, scheme } = area;
  if (!hasAttributes(area, objectAttribute.sign) || hasAnyAttribute(area, objectAttribute.restricted)) {
    const message = 'the DevID key does not sign, or signs only what its TPM states';
    throw new SpiffeError('invalid', 'evidence.tpm-devid.scheme', message);
  }
  const algorithm = key.type === 'rsa' ? 'rsassa' : 'ecdsa';
  if (scheme === undefined) return { algorithm, hash: 'sha256' };
  if (scheme.algorithm !== algorithm || scheme.hash !== 'sha256') {
    const message = 'the DevID key signs in another way than RSASSA or ECDSA with SHA-256';
    throw new SpiffeError('invalid', 'evidence.tpm-devid.scheme', message);
  }
  return undefined;
}

/** @throws invalid `evidence.challenge.malformed` */
function parseChallenge(challenge: Uint8Array): Posed {
  const malformed = (cause?: unknown): SpiffeError =>
    new SpiffeError('invalid', 'evidence.challenge.malformed', 'the challenge is not one for a DevID', { cause });
  let parsed: JsonValue;
  try {
    parsed = parseJson(challenge, { maxBytes: maxChallengeBytes, maxDepth: 4, integers: 'number' });
  } catch (cause) {
    throw malformed(cause);
  }
  const activation = isJsonObject(parsed) ? parsed['CredActivation'] : undefined;
  if (!isJsonObject(parsed) || !isJsonObject(activation)) throw malformed();
  const bytesOf = (value: JsonValue | undefined): Uint8Array => {
    const bytes = typeof value === 'string' ? decodeBase64(value) : undefined;
    if (bytes === undefined || bytes.length === 0) throw malformed();
    return bytes;
  };
  const nonce = bytesOf(parsed['DevID']);
  if (nonce.length !== nonceBytes) throw malformed();
  return { nonce, credential: bytesOf(activation['Credential']), secret: bytesOf(activation['Secret']) };
}

/** RSA's octets, or DER of r and s. */
function plainSignature(bytes: Uint8Array): Uint8Array {
  const { algorithm, parts } = readSignature(bytes);
  return algorithm === 'ecdsa' ? encodeSequence(...parts.map(encodeUnsigned)) : (parts[0] ?? new Uint8Array());
}

function parseChain(text: Buffer, path: string): readonly Uint8Array[] {
  try {
    return parsePemCertificates(text.toString('latin1'));
  } catch (cause) {
    throw unreadableCertificate(path, cause);
  }
}

function leafKey([leaf]: readonly Uint8Array[], path: string): Uint8Array {
  return parseX509(leaf ?? new Uint8Array(), path).publicKey.export({ type: 'spki', format: 'der' });
}

async function readCertificate(path: string): Promise<Uint8Array> {
  return parseX509(await readFile(path), path).raw;
}

function parseX509(certificate: Uint8Array, path: string): X509Certificate {
  try {
    return new X509Certificate(certificate);
  } catch (cause) {
    throw unreadableCertificate(path, cause);
  }
}

function unreadableCertificate(path: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'evidence.tpm-devid.certificate', `${path} holds no readable certificate`, { cause });
}

async function readFile(path: string): Promise<Buffer> {
  try {
    const handle = await open(path);
    try {
      const buffer = Buffer.alloc(maxFileBytes + 1);
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, 0);
      if (bytesRead > maxFileBytes) throw new Error(`more than ${maxFileBytes} bytes`);
      return buffer.subarray(0, bytesRead);
    } finally {
      await handle.close();
    }
  } catch (cause) {
    throw new SpiffeError('unavailable', 'evidence.tpm-devid.unreadable', `${path} cannot be read`, { cause });
  }
}

function passwordOf(secret: Secret<string> | undefined): Uint8Array {
  return Buffer.from(secret?.reveal() ?? '', 'utf8');
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('base64');
}
