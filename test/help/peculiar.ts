/**
 * `@peculiar/x509` as the oracle: composes the certificates our profiles describe from the same inputs, by code that shares
 * nothing with ours.
 */
import './reflect.ts';
import { webcrypto, type KeyObject } from 'node:crypto';
import * as x509 from '@peculiar/x509';

type Algorithm = { readonly name: string; readonly namedCurve?: string; readonly hash: string };

export const oracle = x509;

export const algorithms = {
  'P-256': { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' },
  'P-384': { name: 'ECDSA', namedCurve: 'P-384', hash: 'SHA-384' },
  RSA: { name: 'RSASSA-PKCS1-v1_5', hash: 'SHA-256' },
} as const satisfies Record<string, Algorithm>;

export interface OracleInput {
  readonly signer: KeyObject;
  readonly signerAlgorithm: keyof typeof algorithms;
  readonly serialHex: string;
  readonly notBeforeAt: number;
  readonly notAfterAt: number;
  readonly issuer: x509.JsonName;
  readonly subject: x509.JsonNameParams;
  /** SubjectPublicKeyInfo and what kind of key it is. */
  readonly spki: Uint8Array;
  readonly spkiAlgorithm: keyof typeof algorithms;
  readonly extensions: readonly x509.Extension[];
}

export async function importSpki(spki: Uint8Array, algorithm: keyof typeof algorithms): Promise<webcrypto.CryptoKey> {
  return await webcrypto.subtle.importKey('spki', spki as Uint8Array<ArrayBuffer>, algorithms[algorithm], true, ['verify']);
}

/** The to-be-signed part as the oracle writes it. */
export async function composeBody(input: OracleInput): Promise<Buffer> {
  const pkcs8 = input.signer.export({ type: 'pkcs8', format: 'der' });
  const algorithm = algorithms[input.signerAlgorithm];
  const signingKey = await webcrypto.subtle.importKey('pkcs8', pkcs8, algorithm, true, ['sign']);
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: input.serialHex,
    issuer: input.issuer,
    subject: new x509.Name(input.subject),
    notBefore: new Date(input.notBeforeAt),
    notAfter: new Date(input.notAfterAt),
    signingAlgorithm: algorithm,
    publicKey: await importSpki(input.spki, input.spkiAlgorithm),
    signingKey,
    extensions: [...input.extensions],
  });
  const raw = Buffer.from(certificate.rawData);
  // Certificate and body both have lengths of two octets at these sizes.
  return raw.subarray(4, 8 + raw.readUInt16BE(6));
}
