/**
 * Bundle documents, key sets and PEM files: what is accepted can be written, and read again as the same.
 */
import { appendAuthorities, bundleEquals, emptyBundle, readX509Authority } from '../../spiffe/bundle.ts';
import { formatBundleDocument, formatJwks, parseBundleDocument, parseJwks } from '../../spiffe/bundle-document.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { formatPemCertificates, parsePemCertificates } from '../../spiffe/pem.ts';
import { bundleCases } from '../vectors/generate-bundles.ts';
import { certificateOf, readAuthorities } from '../vectors/generate-authorities.ts';
import { expected } from './expected.ts';

export const name = 'bundle-document';

const trustDomain = 'example.org' as TrustDomain;

export function corpus(): Uint8Array[] {
  const certificate = certificateOf(readAuthorities().p256);
  return [
    ...bundleCases()
      .map(({ document }) => Buffer.from(document))
      .filter((document) => document.length < 4000),
    Buffer.from(certificate),
    Buffer.from(formatPemCertificates([certificate, certificate])),
  ];
}

export function run(input: Uint8Array): void {
  const bundle = expected(() => parseBundleDocument(input, trustDomain));
  if (bundle !== undefined) {
    const document = expected(() => formatBundleDocument(bundle));
    if (document !== undefined && !bundleEquals(parseBundleDocument(document, trustDomain), bundle)) {
      throw new Error('bundle does not come back as it was');
    }
    if (appendAuthorities(bundle, bundle).changed) throw new Error('bundle lacks what it has');
  }
  const keys = expected(() => parseJwks(input));
  if (
    keys !== undefined &&
    formatJwks({ jwtAuthorities: parseJwks(formatJwks({ jwtAuthorities: keys })) }) !== formatJwks({ jwtAuthorities: keys })
  ) {
    throw new Error('key set does not come back as it was');
  }
  const blocks = expected(() => parsePemCertificates(Buffer.from(input).toString('latin1')));
  if (blocks !== undefined && parsePemCertificates(formatPemCertificates(blocks)).some((der, at) => !same(der, blocks[at]))) {
    throw new Error('PEM does not come back as it was');
  }
  const authority = expected(() => readX509Authority(input));
  if (authority !== undefined) {
    expected(() =>
      formatBundleDocument(
        appendAuthorities(emptyBundle(trustDomain), { x509Authorities: [authority], jwtAuthorities: [] }).bundle,
      ),
    );
  }
}

function same(a: Uint8Array, b: Uint8Array | undefined): boolean {
  return b !== undefined && Buffer.compare(a, b) === 0;
}
