/**
 * Credentials as the texts of the files that programs read: PEM for those that know TLS, bundle documents for those that
 * know SPIFFE. Where files are, and who may read them, is left to whoever writes them.
 */
import type { KeyObject } from 'node:crypto';
import { formatBundleDocument } from './bundle-document.ts';
import type { Bundle } from './bundle.ts';
import { SpiffeError } from './errors.ts';
import type { TrustDomain } from './id.ts';
import { formatPemCertificates } from './pem.ts';

/**
 * - `pem`: the certificates of the own trust domain's authorities.
 * - `pem_federated`: of the federated ones as well. Who reads it and does not look at trust domains takes the word of each
 *   authority for the names of all the others.
 * - `spiffe`: the own trust domain's bundle document [Trust Domain and Bundle 4].
 * - `spiffe_map`: the bundle documents of all, by trust domain, in the form that gRPC reads:
 *   `{"trust_domains": {"example.org": {"keys": […]}}}`.
 */
export const bundleFormats = ['pem', 'pem_federated', 'spiffe', 'spiffe_map'] as const;
export type BundleFormat = (typeof bundleFormats)[number];

/** What is not named is not written. */
export interface CredentialFileNames {
  /** Leaf first. */
  readonly certificate?: string | undefined;
  /** PKCS#8. */
  readonly key?: string | undefined;
  readonly bundle?: string | undefined;
  readonly bundleFormat: BundleFormat;
  /** Certificates and then the key, as HAProxy reads them. */
  readonly combined?: string | undefined;
}

/** For who says nothing else. */
export const usualFileNames = { certificate: 'svid.pem', key: 'key.pem', bundle: 'bundle.pem' } as const;

export interface FileCredentials {
  /** DER, leaf first. */
  readonly chain: readonly Uint8Array[];
  readonly key: KeyObject;
  readonly trustDomain: TrustDomain;
  /** The own trust domain's among them. */
  readonly bundles: ReadonlyMap<TrustDomain, Bundle>;
  /** JWT-SVIDs by the name of their file. */
  readonly tokens: ReadonlyMap<string, string>;
}

export interface CredentialFile {
  readonly name: string;
  readonly content: string;
  /** Whoever reads it can be who it names. */
  readonly secret: boolean;
}

/** @throws unavailable `credential-files.no-bundle` */
export function credentialFiles(names: CredentialFileNames, credentials: FileCredentials): readonly CredentialFile[] {
  const { chain, key, tokens } = credentials;
  const certificates = formatPemCertificates(chain);
  const files: CredentialFile[] = [];
  const add = (name: string | undefined, secret: boolean, content: () => string): void => {
    if (name !== undefined) files.push({ name, content: content(), secret });
  };
  const keyText = (): string => String(key.export({ type: 'pkcs8', format: 'pem' }));
  add(names.certificate, false, () => certificates);
  add(names.key, true, keyText);
  add(names.combined, true, () => `${certificates}${keyText()}`);
  add(names.bundle, false, () => bundleText(names.bundleFormat, credentials));
  for (const [name, token] of tokens) files.push({ name, content: token, secret: true });
  return files;
}

function bundleText(format: BundleFormat, { trustDomain, bundles }: FileCredentials): string {
  const own = bundles.get(trustDomain);
  if (own === undefined) {
    throw new SpiffeError('unavailable', 'credential-files.no-bundle', `there is no bundle of ${trustDomain} yet`);
  }
  const others = [...bundles.values()]
    .filter((bundle) => bundle !== own)
    .toSorted((a, b) => (a.trustDomain < b.trustDomain ? -1 : 1));
  switch (format) {
    case 'pem':
      return authoritiesOf([own]);
    case 'pem_federated':
      return authoritiesOf([own, ...others]);
    case 'spiffe':
      return `${formatBundleDocument(own)}\n`;
    case 'spiffe_map':
      return `{"trust_domains":{${[own, ...others].map(memberOf).join(',')}}}\n`;
  }
}

function authoritiesOf(bundles: readonly Bundle[]): string {
  return formatPemCertificates(bundles.flatMap(({ x509Authorities }) => x509Authorities.map(({ certificate }) => certificate)));
}

function memberOf(bundle: Bundle): string {
  return `${JSON.stringify(bundle.trustDomain)}:${formatBundleDocument(bundle)}`;
}
