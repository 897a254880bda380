/**
 * The bundle of a trust domain as operators have it: certificates in PEM or the SPIFFE bundle document, both ways. Where
 * the text comes from and goes to is the commands' business.
 */
import { type Bundle, composeBundle, emptyBundle, readX509Authority } from '../spiffe/bundle.ts';
import { formatBundleDocument, parseBundleDocument } from '../spiffe/bundle-document.ts';
import type { TrustDomain } from '../spiffe/id.ts';
import { formatPemCertificates, parsePemCertificates } from '../spiffe/pem.ts';

export type BundleFormat = 'pem' | 'spiffe';

/** @throws as `parseBundleDocument`, `parsePemCertificates` and `readX509Authority` */
export function parseBundleText(text: string, format: BundleFormat, trustDomain: TrustDomain): Bundle {
  if (format === 'spiffe') return parseBundleDocument(text, trustDomain);
  const x509Authorities = parsePemCertificates(text).map((certificate) => readX509Authority(certificate));
  return composeBundle({ ...emptyBundle(trustDomain), x509Authorities });
}

export function formatBundleText(bundle: Bundle, format: BundleFormat): string {
  if (format === 'spiffe') return `${formatBundleDocument(bundle)}\n`;
  return formatPemCertificates(bundle.x509Authorities.map(({ certificate }) => certificate));
}
