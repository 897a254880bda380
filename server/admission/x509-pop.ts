/**
 * Evidence: possession of the private key of a certificate that a configured authority signed, proved by a signature over
 * fresh nonces of both sides. Everything is bounded, and key types are held against the allowed ones, before any of it is
 * computed with.
 */
import { constants, createHash, createPublicKey, randomBytes, verify, type KeyObject } from 'node:crypto';
import { decodeBase64, encodeBase64 } from '../../spiffe/base64.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { composeSpiffeId, type TrustDomain } from '../../spiffe/id.ts';
import { isJsonArray, isJsonObject, parseJson, type JsonObject, type JsonValue } from '../../spiffe/json.ts';
import { composeSelector, type Selector } from '../../spiffe/selector.ts';
import { hasKeyUsage, maxCertificateBytes, parseCertificate, type Certificate } from '../../spiffe/x509/certificate.ts';
import { curves, keyUsage, type KeyAlgorithm } from '../../spiffe/x509/names.ts';
import { checkPublicKey } from '../../spiffe/x509/public-key.ts';
import { verifyCertificate, type VerifiedPath } from '../../spiffe/x509/verify.ts';
import { commonNameOf } from './common-name.ts';
import type { Verifier } from './verifier.ts';

export interface X509PopOptions {
  /** DER of the authorities whose certificates convince. */
  readonly authorities: readonly Uint8Array[];
}

const type = 'x509pop';
const maxPayloadBytes = 128 * 1024;
const maxResponseBytes = 16 * 1024;
const maxIntermediates = 4;
const nonceBytes = 32;
const sanScheme = `${type}://`;

export function createX509PopVerifier({ authorities }: X509PopOptions): Verifier {
  return {
    type,
    async verify(payload, challenge, { trustDomain, at }) {
      const chain = readChain(payload);
      const keyAlgorithm = checkLeafKey(chain);
      const trusted = checkChain(chain, authorities, at);
      const nonce = randomBytes(nonceBytes);
      const response = await challenge(composeChallenge(keyAlgorithm, nonce));
      const key = createPublicKey({ key: Buffer.from(trusted.leaf.spki), format: 'der', type: 'spki' });
      checkResponse(response, keyAlgorithm, key, nonce);
      return {
        agentId: composeSpiffeId(trustDomain, `/spire/agent/${type}/${fingerprintOf(trusted.leaf.der)}`),
        selectors: selectorsOf(trusted, trustDomain),
        canReattest: true,
        tokenHash: undefined,
      };
    },
  };
}

function readChain(payload: Uint8Array): readonly Uint8Array[] {
  const listed = readObject(payload, maxPayloadBytes, 'attestation data')['certificates'];
  if (!isJsonArray(listed) || listed.length === 0) throw malformed('no certificate to attest');
  if (listed.length > 1 + maxIntermediates) throw malformed(`more than ${maxIntermediates} intermediate certificates`);
  return listed.map((text) => {
    const der = typeof text === 'string' ? decodeBase64(text) : undefined;
    if (der === undefined) throw malformed('certificate is not in base64');
    if (der.length > maxCertificateBytes) throw malformed('certificate is too large');
    return der;
  });
}

/** Only a kind and size of key that is allowed may be computed with. */
function checkLeafKey([leaf]: readonly Uint8Array[]): KeyAlgorithm {
  try {
    return checkPublicKey(parseCertificate(leaf ?? new Uint8Array()).spki);
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw malformed(`unable to use leaf certificate: ${cause.message}`, cause);
  }
}

/** Any extended key usage will do; the key must be there to sign. */
function checkChain(chain: readonly Uint8Array[], authorities: readonly Uint8Array[], at: number): VerifiedPath {
  let trusted: VerifiedPath;
  try {
    trusted = verifyCertificate({ chain, authorities, at });
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    if (cause.kind === 'invalid') throw malformed(`unable to parse certificates: ${cause.message}`, cause);
    throw refused(`certificate verification failed: ${cause.message}`, cause);
  }
  if (!hasKeyUsage(trusted.leaf, keyUsage.digitalSignature)) {
    throw refused('certificate verification failed: leaf is not meant for digital signatures');
  }
  return trusted;
}

function composeChallenge(keyAlgorithm: KeyAlgorithm, nonce: Uint8Array): Uint8Array {
  const posed = { nonce: encodeBase64(nonce) };
  const isRsa = keyAlgorithm === 'RSA';
  return Buffer.from(JSON.stringify({ rsa_signature: isRsa ? posed : null, ecdsa_signature: isRsa ? null : posed }));
}

function checkResponse(response: Uint8Array, keyAlgorithm: KeyAlgorithm, key: KeyObject, nonce: Uint8Array): void {
  const member = keyAlgorithm === 'RSA' ? 'rsa_signature' : 'ecdsa_signature';
  const part = readObject(response, maxResponseBytes, 'challenge response')[member];
  if (!isJsonObject(part)) throw malformed('challenge response lacks the signature that was asked for');
  const theirs = readBytes(part['nonce'], 'nonce', nonceBytes);
  if (theirs.length !== nonceBytes) throw malformed('nonce of the challenge response is not of 32 bytes');
  const message = Buffer.concat([nonce, theirs]);
  const right =
    keyAlgorithm === 'RSA'
      ? verifyRsa(message, key, readBytes(part['signature'], 'signature', 1024))
      : verifyEcdsa(message, key, part, curves[keyAlgorithm].coordinateBytes);
  if (!right) throw refused('challenge response verification failed: the signature does not verify');
}

/** The salt may have any length: SPIRE's agents take the longest. */
function verifyRsa(message: Uint8Array, key: KeyObject, signature: Uint8Array): boolean {
  const padding = constants.RSA_PKCS1_PSS_PADDING;
  return verify('sha256', message, { key, padding, saltLength: constants.RSA_PSS_SALTLEN_AUTO }, signature);
}

/** The digest is SHA-256 whatever the curve. */
function verifyEcdsa(message: Uint8Array, key: KeyObject, part: JsonObject, coordinateBytes: number): boolean {
  const signature = Buffer.alloc(2 * coordinateBytes);
  for (const [index, name] of (['r', 's'] as const).entries()) {
    const value = readBytes(part[name], name, coordinateBytes);
    signature.set(value, (index + 1) * coordinateBytes - value.length);
  }
  return verify('sha256', message, { key, dsaEncoding: 'ieee-p1363' }, signature);
}

function selectorsOf({ leaf, path }: VerifiedPath, trustDomain: TrustDomain): readonly Selector[] {
  const commonName = commonNameOf(leaf.subject);
  const values = [
    ...(commonName === '' ? [] : [`subject:cn:${commonName}`]),
    ...path.slice(1).map((authority) => `ca:fingerprint:${fingerprintOf(authority.der)}`),
    `serialnumber:${leaf.serial.hex}`,
    ...sanValues(leaf, trustDomain),
  ];
  return [...new Set(values)].map((value) => composeSelector(type, value));
}

/** `x509pop://<trust domain>/<key>/<value…>` in the certificate says `san:<key>:<value…>` of the node. */
function sanValues(leaf: Certificate, trustDomain: TrustDomain): readonly string[] {
  const prefix = `${sanScheme}${trustDomain}/`;
  return leaf.uris.flatMap((uri) => {
    if (!uri.startsWith(prefix)) return [];
    const rest = uri.slice(prefix.length);
    const slash = rest.indexOf('/');
    const [key, value] = [rest.slice(0, Math.max(slash, 0)), rest.slice(slash + 1)];
    return key === '' || value === '' ? [] : [`san:${key}:${value}`];
  });
}

/** SHA-1 as a name, not as a proof: the path was verified. */
function fingerprintOf(der: Uint8Array): string {
  return createHash('sha1').update(der).digest('hex');
}

function readObject(bytes: Uint8Array, maxBytes: number, what: string): JsonObject {
  let value: JsonValue;
  try {
    value = parseJson(bytes, { maxBytes, maxDepth: 4, integers: 'number' });
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw malformed(`failed to unmarshal ${what}: ${cause.message}`, cause);
  }
  if (!isJsonObject(value)) throw malformed(`failed to unmarshal ${what}: not an object`);
  return value;
}

function readBytes(value: JsonValue | undefined, name: string, maxBytes: number): Uint8Array {
  const bytes = typeof value === 'string' ? decodeBase64(value) : undefined;
  if (bytes === undefined || bytes.length === 0 || bytes.length > maxBytes) {
    throw malformed(`${name} of the challenge response is missing, too long or not in base64`);
  }
  return bytes;
}

function malformed(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'x509pop.malformed', `nodeattestor(${type}): ${what}`, { cause });
}

function refused(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('denied', 'x509pop.refused', `nodeattestor(${type}): ${what}`, { cause });
}
