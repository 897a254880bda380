/**
 * X509-SVIDs outside of the Workload API: read from files and bytes and written to them, and a peer's chain verified
 * against bundles. The rules are those of `spiffe/`; TLS ends apply them by themselves.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { systemClock } from '../runtime/clock.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { SpiffeId } from '../spiffe/id.ts';
import { formatPemCertificates, parsePemCertificates } from '../spiffe/pem.ts';
import { parseCertificate, splitCertificates } from '../spiffe/x509/certificate.ts';
import { type Usage, verifyPeer } from '../spiffe/x509/verify.ts';
import { parseX509Svid, readId, type X509Svid } from '../spiffe/x509-svid.ts';
import type { X509BundleSource } from './bundle-set.ts';
import { readDocument } from './document.ts';

/** PEM as it is kept in files. */
export interface X509SvidPem {
  /** The chain, leaf first. */
  readonly certificates: string;
  /** PKCS#8, unencrypted: a secret. */
  readonly key: string;
}

/** DER as the Workload API delivers it. */
export interface X509SvidDer {
  /** One certificate after the other, leaf first. */
  readonly certificates: Uint8Array;
  /** PKCS#8, unencrypted: a secret. */
  readonly key: Uint8Array;
}

/** A chain in any of the forms that Node, files and the Workload API have it in, leaf first. */
export type CertificateChain = Uint8Array | readonly Uint8Array[] | readonly X509Certificate[];

/** What a chain is held to. */
export interface VerifyX509SvidOptions {
  /** Who vouches for whom: a source, or a set of bundles. */
  readonly bundles: X509BundleSource;
  /** Epoch milliseconds; now unless given. */
  readonly at?: number;
  /** The role the peer was met in: an extended key usage that excludes it refuses. Neither is asked for unless given. */
  readonly usage?: Usage;
}

/** Whose chain it is, and who vouches for it. */
export interface VerifiedX509Svid {
  readonly spiffeId: SpiffeId;
  /** DER, from the leaf to the authority that vouches for it, both included. */
  readonly path: readonly Uint8Array[];
}

/**
 * Reads one's own X509-SVID from PEM. The key may also be in the older forms that carry RSA or EC in their name.
 * @throws invalid `pem.*`, `svid.*`, `certificate.*`, `der.*`
 */
export function parseX509SvidPem(
  pem: { readonly certificates: string | Uint8Array; readonly key: string | Uint8Array },
  hint = '',
): X509Svid {
  const chain = parsePemCertificates(textOf(pem.certificates));
  return parseX509Svid({ chain, pkcs8Key: pkcs8From(textOf(pem.key)), hint });
}

/**
 * Reads one's own X509-SVID from DER.
 * @throws invalid `svid.*`, `certificate.*`, `der.*`
 */
export function parseX509SvidDer(der: X509SvidDer, hint = ''): X509Svid {
  return parseX509Svid({ chain: Uint8Array.from(der.certificates), pkcs8Key: der.key, hint });
}

/**
 * As `parseX509SvidPem`, from two files.
 * @throws as `parseX509SvidPem`; missing `file.missing`, invalid `file.too-large`, unavailable `file.read`
 */
export async function loadX509Svid(certificateFile: string, keyFile: string): Promise<X509Svid> {
  const [certificates, key] = await Promise.all([readDocument(certificateFile), readDocument(keyFile)]);
  return parseX509SvidPem({ certificates, key });
}

/** For files: the chain, and the key, which is for its owner's eyes only. */
export function formatX509SvidPem(svid: X509Svid): X509SvidPem {
  const key = svid.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
  return { certificates: formatPemCertificates(svid.chain), key };
}

/** As the Workload API delivers it. */
export function formatX509SvidDer(svid: X509Svid): X509SvidDer {
  const key = svid.privateKey.export({ type: 'pkcs8', format: 'der' });
  return { certificates: own(Buffer.concat(svid.chain)), key: own(key) };
}

/**
 * Proves a peer's chain: the leaf obeys the standard, and a path leads from it to an authority of its own trust domain
 * (X509-28). Who it may be is for an `Authorize` to say.
 * @throws invalid `certificate.*`, `der.*`, `svid.leaf.*`, `x509.path.empty-chain|long-chain`; unauthenticated `x509.path.*`
 */
export function verifyX509Svid(chain: CertificateChain, options: VerifyX509SvidOptions): VerifiedX509Svid {
  const { spiffeId, path } = verifyPeer(
    derOf(chain),
    (trustDomain) => options.bundles.x509BundleFor(trustDomain),
    options.at ?? systemClock.now(),
    options.usage,
  );
  return { spiffeId, path: path.map(({ der }) => der) };
}

/**
 * The SPIFFE ID in a certificate, which proves nothing by itself.
 * @throws invalid `certificate.*`, `der.*`, `svid.leaf.no-uri|many-uris|id`
 */
export function spiffeIdOf(certificate: Uint8Array | X509Certificate): SpiffeId {
  return readId(parseCertificate(certificate instanceof X509Certificate ? own(certificate.raw) : certificate));
}

function derOf(chain: CertificateChain): readonly Uint8Array[] {
  if (chain instanceof Uint8Array) return splitCertificates(chain);
  return chain.map((certificate) => (certificate instanceof X509Certificate ? own(certificate.raw) : certificate));
}

function pkcs8From(pem: string): Uint8Array {
  try {
    return createPrivateKey({ key: pem, format: 'pem' }).export({ type: 'pkcs8', format: 'der' });
  } catch {
    // The cause is left out: nothing of a key belongs in an error.
    throw new SpiffeError('invalid', 'svid.key.format', 'private key is not unencrypted PEM');
  }
}

function textOf(pem: string | Uint8Array): string {
  return typeof pem === 'string' ? pem : Buffer.from(pem).toString('latin1');
}

function own(bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(bytes);
}
