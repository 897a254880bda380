/**
 * What a node with a DevID sends: its evidence and its response, out of JSON, bounded and each part of its form. Whether
 * any of it is true is `devid.ts` and `residency.ts`.
 */
import { decodeBase64, encodeBase64 } from '../../../spiffe/base64.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { isJsonArray, isJsonObject, parseJson, type JsonObject, type JsonValue } from '../../../spiffe/json.ts';
import { maxCertificateBytes } from '../../../spiffe/x509/certificate.ts';
import { readPublicArea, readSignature, type PublicArea, type TpmSignature } from '../../../runtime/tpm/structures.ts';
import type { ProtectedCredential } from './credential.ts';

export interface DevidEvidence {
  /** DER, leaf first. */
  readonly devidChain: readonly Uint8Array[];
  readonly devidKey: PublicArea;
  readonly endorsementCertificate: Uint8Array;
  readonly endorsementKey: PublicArea;
  readonly attestationKey: PublicArea;
  /** What the attestation key signed; not to be read before the signature verified. */
  readonly statement: Uint8Array;
  readonly signature: TpmSignature;
}

export interface DevidResponse {
  /** Over the nonce: RSA's octets, or DER of r and s. */
  readonly signature: Uint8Array;
  readonly activated: Uint8Array;
}

const maxPayloadBytes = 64 * 1024;
const maxResponseBytes = 4 * 1024;
const maxIntermediates = 4;
const maxPartBytes = 4 * 1024;

/** @throws invalid `tpm-devid.malformed` */
export function readEvidence(payload: Uint8Array): DevidEvidence {
  const data = readObject(payload, maxPayloadBytes, 'attestation data');
  const keyOf = (member: string, what: string): PublicArea =>
    translated(`cannot decode ${what}`, () => readPublicArea(readPart(data, member, what, maxPartBytes)));
  const signed = readPart(data, 'CertificationSignature', 'signature of the certification', maxPartBytes);
  return {
    devidChain: readChain(data['DevIDCert']),
    devidKey: keyOf('DevIDPub', 'DevID key public blob'),
    endorsementCertificate: readPart(data, 'EKCert', 'endorsement certificate', maxCertificateBytes),
    endorsementKey: keyOf('EKPub', 'endorsement key public blob'),
    attestationKey: keyOf('AKPub', 'attestation key public blob'),
    statement: readPart(data, 'CertifiedDevID', 'certification of the DevID key', maxPartBytes),
    signature: translated('cannot decode signature of the certification', () => readSignature(signed)),
  };
}

/** @throws invalid `tpm-devid.malformed` */
export function readResponse(response: Uint8Array): DevidResponse {
  const data = readObject(response, maxResponseBytes, 'challenges response');
  return {
    signature: readPart(data, 'DevID', 'signature of the DevID challenge', 1024),
    activated: readPart(data, 'CredActivation', 'activated credential', 64),
  };
}

export function composeChallenge(nonce: Uint8Array, { credential, secret }: ProtectedCredential): Uint8Array {
  const activation = { Credential: encodeBase64(credential), Secret: encodeBase64(secret) };
  return Buffer.from(JSON.stringify({ DevID: encodeBase64(nonce), CredActivation: activation }));
}

/** An error of ours about what was sent, told in the words of this attestor. */
export function translated<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (cause) {
    if (!(cause instanceof SpiffeError) || cause.reason.startsWith('tpm-devid.')) throw cause;
    throw malformed(`${what}: ${cause.message}`, cause);
  }
}

export function malformed(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'tpm-devid.malformed', `nodeattestor(tpm_devid): ${what}`, { cause });
}

export function refused(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('denied', 'tpm-devid.refused', `nodeattestor(tpm_devid): ${what}`, { cause });
}

function readObject(bytes: Uint8Array, maxBytes: number, what: string): JsonObject {
  const value = translated(`unable to unmarshal ${what}`, () => parseJson(bytes, { maxBytes, maxDepth: 4, integers: 'number' }));
  if (!isJsonObject(value)) throw malformed(`unable to unmarshal ${what}: not an object`);
  return value;
}

function readChain(listed: JsonValue | undefined): readonly Uint8Array[] {
  if (!isJsonArray(listed) || listed.length === 0) throw malformed('no DevID certificate to attest');
  if (listed.length > 1 + maxIntermediates) throw malformed(`more than ${maxIntermediates} intermediate certificates`);
  return listed.map((value) => readBytes(value, 'DevID certificate', maxCertificateBytes));
}

function readPart(data: JsonObject, member: string, what: string, maxBytes: number): Uint8Array {
  return readBytes(data[member], what, maxBytes);
}

function readBytes(value: JsonValue | undefined, what: string, maxBytes: number): Uint8Array {
  // Go writes null for what is empty.
  if (value === undefined || value === null || value === '') throw malformed(`missing ${what}`);
  const bytes = typeof value === 'string' ? decodeBase64(value) : undefined;
  if (bytes === undefined || bytes.length > maxBytes) throw malformed(`${what} is too long or not in base64`);
  return bytes;
}
