/**
 * A node with a DevID and everything it shows: authorities, certificates, keys of a TPM in software, honest evidence and
 * honest answers. Any part can be replaced; what a verifier makes of that is for the tests to say.
 */
import { sign } from 'node:crypto';
import { encodeName } from '../../spiffe/x509/encoded.ts';
import { keyUsage, oid } from '../../spiffe/x509/names.ts';
import { authorityExtensions, ecPair, extension, forgeCertificate, nameOf, type CertificateForm, type Pair } from './forge.ts';
import { areaName, keyAttributes, openCredential, signatureOf, softAttestationKey, softEndorsementKey, softKey, statementOf, type SoftKey } from './tpm.ts';

export interface Authority {
  readonly pair: Pair;
  readonly name: string;
  readonly certificate: Uint8Array;
}

export function authorityCalled(name: string, above?: Authority): Authority {
  const pair = ecPair();
  const form = { spki: pair.spki, subject: nameOf(name), extensions: authorityExtensions() };
  const certificate = forgeCertificate({ signer: (above?.pair ?? pair).privateKey, issuer: nameOf(above?.name ?? name), ...form });
  return { pair, name, certificate };
}

export const spkiOf = (key: SoftKey): Uint8Array => key.publicKey.export({ type: 'spki', format: 'der' });
export const endorsementPurpose = '2.23.133.8.1';

export function devidCertificate(authority: Authority, key: SoftKey, form: Partial<CertificateForm> = {}): Uint8Array {
  return forgeCertificate({
    signer: authority.pair.privateKey,
    issuer: nameOf(authority.name),
    spki: spkiOf(key),
    subject: encodeName([[oid.organization, 'Acme'], [oid.commonName, 'device-1']]),
    extensions: [extension.usage(keyUsage.digitalSignature)],
    ...form,
  });
}

export function endorsementCertificate(authority: Authority, key: SoftKey, form: Partial<CertificateForm> = {}): Uint8Array {
  return forgeCertificate({
    signer: authority.pair.privateKey,
    issuer: nameOf(authority.name),
    spki: spkiOf(key),
    subject: nameOf(''),
    extensions: [extension.purposes(endorsementPurpose), extension.usage(keyUsage.keyEncipherment), extension.names(['tpm'], [], true)],
    ...form,
  });
}

/** The parts as they go into JSON. */
export interface Shown {
  readonly DevIDCert: readonly Uint8Array[];
  readonly DevIDPub: Uint8Array;
  readonly EKCert: Uint8Array;
  readonly EKPub: Uint8Array;
  readonly AKPub: Uint8Array;
  readonly CertifiedDevID: Uint8Array;
  readonly CertificationSignature: Uint8Array;
}

export interface DevidNode {
  readonly devid: SoftKey;
  readonly endorsement: SoftKey;
  readonly attestation: SoftKey;
  readonly shown: Shown;
  /** As its TPM answers; throws where the TPM refuses. */
  answer(challenge: Uint8Array): { readonly DevID: Uint8Array; readonly CredActivation: Uint8Array };
}

export interface DevidWorld {
  readonly devidRoot: Authority;
  readonly devidIssuer: Authority;
  readonly endorsementRoot: Authority;
  node(kinds?: { readonly devid?: Kind; readonly endorsement?: Kind; readonly attestation?: 'rsa' | 'P-256' }): DevidNode;
}

type Kind = 'rsa' | 'P-256' | 'P-384';

export function createDevidWorld(): DevidWorld {
  const devidRoot = authorityCalled('DevID Root');
  const devidIssuer = authorityCalled('DevID Issuer', devidRoot);
  const endorsementRoot = authorityCalled('TPM Maker');
  return {
    devidRoot,
    devidIssuer,
    endorsementRoot,
    node({ devid: devidKind = 'P-256', endorsement: endorsementKind = 'rsa', attestation: attestationKind = 'rsa' } = {}) {
      const scheme = devidKind === 'rsa' ? ([0x0014, 0x000b] as const) : ([0x0018, 0x000b] as const);
      const devid = softKey(devidKind, { attributes: keyAttributes.devid, scheme });
      const endorsement = softEndorsementKey(endorsementKind);
      const attestation = softAttestationKey(attestationKind);
      const statement = statementOf({ name: areaName(devid.area) });
      return {
        devid,
        endorsement,
        attestation,
        shown: {
          DevIDCert: [devidCertificate(devidIssuer, devid), devidIssuer.certificate],
          DevIDPub: devid.area,
          EKCert: endorsementCertificate(endorsementRoot, endorsement),
          EKPub: endorsement.area,
          AKPub: attestation.area,
          CertifiedDevID: statement,
          CertificationSignature: signatureOf(statement, attestation.privateKey),
        },
        answer(challenge) {
          const { nonce, credential, secret } = readChallenge(challenge);
          const activated = openCredential(endorsement, areaName(attestation.area), credential, secret);
          if (activated === undefined) throw new Error('the TPM refuses the credential');
          return { DevID: sign('sha256', nonce, devid.privateKey), CredActivation: activated };
        },
      };
    },
  };
}

export function readChallenge(challenge: Uint8Array): { readonly nonce: Buffer; readonly credential: Buffer; readonly secret: Buffer } {
  const posed = JSON.parse(Buffer.from(challenge).toString()) as { DevID: string; CredActivation: { Credential: string; Secret: string } };
  const bytes = (text: string): Buffer => Buffer.from(text, 'base64');
  return { nonce: bytes(posed.DevID), credential: bytes(posed.CredActivation.Credential), secret: bytes(posed.CredActivation.Secret) };
}

/** As Go writes it: byte strings in base64, `null` for none. */
export function encodeJson(value: object): Buffer {
  const plain = (part: unknown): unknown => {
    if (part instanceof Uint8Array) return part.length === 0 ? null : Buffer.from(part).toString('base64');
    if (Array.isArray(part)) return part.map(plain);
    return part;
  };
  return Buffer.from(JSON.stringify(Object.fromEntries(Object.entries(value).map(([name, part]) => [name, plain(part)]))));
}
