/**
 * Evidence: a DevID, a certified key that a TPM keeps, beside the endorsement of that TPM by its maker. Both paths of
 * certificates are judged here, as are the answers to the two challenges; what the TPM itself states is `residency.ts`.
 */
import { createHash, createPublicKey, randomBytes, timingSafeEqual, verify } from 'node:crypto';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { composeSpiffeId } from '../../../spiffe/id.ts';
import { composeSelector, type Selector } from '../../../spiffe/selector.ts';
import { hasKeyUsage } from '../../../spiffe/x509/certificate.ts';
import { keyUsage, oid, sameBytes } from '../../../spiffe/x509/names.ts';
import { verifyCertificate, type VerifiedPath } from '../../../spiffe/x509/verify.ts';
import { nameOf } from '../../../runtime/tpm/structures.ts';
import { commonNameOf } from '../common-name.ts';
import type { Verifier } from '../verifier.ts';
import { digestBytes, makeCredential } from './credential.ts';
import {
  composeChallenge,
  malformed,
  readEvidence,
  readResponse,
  refused,
  type DevidEvidence,
  type DevidResponse,
} from './evidence.ts';
import { checkClaims, checkStatement, usableKey } from './residency.ts';

export interface TpmDevidOptions {
  /** DER of the authorities whose DevID certificates convince. */
  readonly devidAuthorities: readonly Uint8Array[];
  /** DER of the makers' authorities, those between root and endorsement certificates included: TPMs do not send them. */
  readonly endorsementAuthorities: readonly Uint8Array[];
}

const type = 'tpm_devid';
const nonceBytes = 32;
/** tcg-kp-EKCertificate [TCG EK Credential Profile]. */
const endorsementPurpose = '2.23.133.8.1';

export function createTpmDevidVerifier(options: TpmDevidOptions): Verifier {
  return {
    type,
    async verify(payload, challenge, { trustDomain, at }) {
      const evidence = readEvidence(payload);
      // What costs little comes first, keys that nobody vouched for are not looked into.
      checkClaims(evidence);
      const devid = checkDevid(evidence, options.devidAuthorities, at);
      checkEndorsement(evidence, options.endorsementAuthorities, at);
      checkStatement(evidence);
      const { endorsementKey, attestationKey } = evidence;
      const nonce = randomBytes(nonceBytes);
      const secret = randomBytes(digestBytes[endorsementKey.nameHash]);
      const protectedSecret = makeCredential(endorsementKey, nameOf(attestationKey), secret);
      const response = readResponse(await challenge(composeChallenge(nonce, protectedSecret)));
      checkResponse(response, devid, nonce, secret);
      return {
        agentId: composeSpiffeId(trustDomain, `/spire/agent/${type}/${fingerprintOf(devid.leaf.der)}`),
        selectors: selectorsOf(devid),
        canReattest: true,
        tokenHash: undefined,
      };
    },
  };
}

/** The key that is certified, and the one whose TPM vouches for it, are one. */
function checkDevid({ devidChain, devidKey }: DevidEvidence, authorities: readonly Uint8Array[], at: number): VerifiedPath {
  const devid = findPath('unable to verify DevID signature', devidChain, authorities, at);
  if (devid.leaf.isAuthority) throw refused('DevID certificate is that of an authority');
  if (devid.leaf.keyUsage !== undefined && !hasKeyUsage(devid.leaf, keyUsage.digitalSignature)) {
    throw refused('DevID certificate is not meant for digital signatures');
  }
  if (!sameBytes(devid.leaf.spki, usableKey(devidKey, 'DevID key'))) {
    throw refused('public key in DevID certificate differs from DevID key public blob');
  }
  return devid;
}

function checkEndorsement(evidence: DevidEvidence, authorities: readonly Uint8Array[], at: number): void {
  const { endorsementCertificate, endorsementKey } = evidence;
  const { leaf } = findPath('cannot verify EK signature', [endorsementCertificate], authorities, at);
  // Makers sign other certificates too, for keys that no TPM holds.
  const purposes = leaf.extKeyUsage ?? [endorsementPurpose];
  if (leaf.isAuthority || !purposes.some((one) => one === endorsementPurpose || one === oid.anyExtKeyUsage)) {
    throw refused('cannot verify EK signature: certificate is not that of an endorsement key');
  }
  if (!sameBytes(leaf.spki, usableKey(endorsementKey, 'endorsement key'))) {
    throw refused('public key in EK certificate differs from public key created via EK template');
  }
}

function findPath(what: string, chain: readonly Uint8Array[], authorities: readonly Uint8Array[], at: number): VerifiedPath {
  try {
    return verifyCertificate({ chain, authorities, at });
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    if (cause.kind === 'invalid') throw malformed(`${what}: ${cause.message}`, cause);
    throw refused(`${what}: ${cause.message}`, cause);
  }
}

/** SHA-256 whatever the key, and RSA with the padding of PKCS #1 1.5: what SPIRE's agents ask their TPMs for. */
function checkResponse(response: DevidResponse, { leaf }: VerifiedPath, nonce: Uint8Array, secret: Uint8Array): void {
  const key = createPublicKey({ key: Buffer.from(leaf.spki), format: 'der', type: 'spki' });
  if (!verify('sha256', nonce, key, response.signature)) {
    throw refused('devID challenge verification failed: the signature does not verify');
  }
  if (response.activated.length !== secret.length || !timingSafeEqual(response.activated, secret)) {
    throw refused('credential activation failed: nonces are different');
  }
}

function selectorsOf({ leaf, path }: VerifiedPath): readonly Selector[] {
  const [subject, issuer] = [commonNameOf(leaf.subject), commonNameOf(leaf.issuer)];
  const values = [
    ...(subject === '' ? [] : [`subject:cn:${subject}`]),
    ...(issuer === '' ? [] : [`issuer:cn:${issuer}`]),
    ...path.slice(1).map((authority) => `ca:fingerprint:${fingerprintOf(authority.der)}`),
  ];
  return [...new Set(values)].map((value) => composeSelector(type, value));
}

/** SHA-1 as a name, not as a proof: the path was verified. */
function fingerprintOf(der: Uint8Array): string {
  return createHash('sha1').update(der).digest('hex');
}
