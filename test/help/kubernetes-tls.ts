/**
 * An authority of a stand-in cluster, and the certificates it gives to servers and clients. Nothing of ours is trusted by it.
 */
import type { KeyObject } from 'node:crypto';
import { encode, encodeSequence } from '../../spiffe/x509/der-writer.ts';
import { contextTag } from '../../spiffe/x509/der.ts';
import { encodeExtension } from '../../spiffe/x509/encoded.ts';
import { keyUsage, oid } from '../../spiffe/x509/names.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { ecPair, extension, forgeCertificate, nameOf } from './forge.ts';

export interface CertificateAndKey {
  /** PEM. */
  readonly certificate: string;
  readonly key: string;
}

export interface ClusterAuthority {
  /** PEM. */
  readonly ca: string;
  /** @param names what a server answers to: DNS names and IPv4 addresses */
  issue(commonName: string, names?: readonly string[]): CertificateAndKey;
}

const validity = [Date.UTC(2020, 0, 1), Date.UTC(2049, 0, 1)] as const;

export function createClusterAuthority(commonName = 'kubernetes-ca'): ClusterAuthority {
  const pair = ecPair();
  const issuer = nameOf(commonName);
  const ca = forgeCertificate({
    signer: pair.privateKey,
    spki: pair.spki,
    issuer,
    subject: issuer,
    validity,
    extensions: [extension.usage(keyUsage.keyCertSign), extension.basic(true), extension.subjectKeyId(pair.spki)],
  });
  return {
    ca: formatPemCertificates([ca]),
    issue(subject, names = []) {
      const own = ecPair();
      const certificate = forgeCertificate({
        signer: pair.privateKey,
        spki: own.spki,
        issuer,
        subject: nameOf(subject),
        validity,
        extensions: [
          extension.usage(keyUsage.digitalSignature),
          extension.purposes(oid.serverAuth, oid.clientAuth),
          extension.basic(false),
          extension.authorityKeyId(pair.spki),
          ...(names.length === 0 ? [] : [encodeExtension(oid.subjectAltName, false, encodeSequence(...names.map(generalName)))]),
        ],
      });
      return { certificate: formatPemCertificates([certificate]), key: pemOf(own.privateKey) };
    },
  };
}

function generalName(name: string): Uint8Array {
  if (/^\d+\.\d+\.\d+\.\d+$/.test(name)) return encode(contextTag(7), Uint8Array.from(name.split('.').map(Number)));
  return encode(contextTag(2), Buffer.from(name, 'ascii'));
}

function pemOf(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }).toString();
}
