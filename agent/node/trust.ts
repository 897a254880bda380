/**
 * What first contact relies on: a bundle in a file, a pinned hash of an authority, or, if an operator insists, nothing.
 * Once a bundle came over a trusted connection, that one counts and this is over.
 */
import { createHash } from 'node:crypto';
import { parseBundleDocument } from '../../spiffe/bundle-document.ts';
import { composeBundle, emptyBundle, readX509Authority, type Bundle } from '../../spiffe/bundle.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { parsePemCertificates } from '../../spiffe/pem.ts';
import { readTrustedFile } from '../../runtime/files.ts';

export type FirstTrust =
  | { readonly type: 'file'; readonly path: string; readonly format: 'pem' | 'spiffe' }
  /** Lower hex SHA-256 of the DER of an X.509 authority in the server's bundle. */
  | { readonly type: 'pin'; readonly sha256: string }
  | { readonly type: 'insecure' };

const maxBundleBytes = 4 * 1024 * 1024;

/**
 * @throws as `readTrustedFile`; invalid `trust.bundle.unreadable|empty`
 */
export async function readTrustBundle(path: string, format: 'pem' | 'spiffe', trustDomain: TrustDomain): Promise<Bundle> {
  const text = (await readTrustedFile(path, maxBundleBytes)).toString('utf8');
  let bundle: Bundle;
  try {
    bundle =
      format === 'spiffe'
        ? parseBundleDocument(text, trustDomain)
        : composeBundle({
            ...emptyBundle(trustDomain),
            x509Authorities: parsePemCertificates(text).map((der) => readX509Authority(der)),
          });
  } catch (error) {
    if (!isSpiffeError(error)) throw error;
    throw new SpiffeError('invalid', 'trust.bundle.unreadable', `${path}: ${error.message}`, {
      detail: { because: error.reason },
      cause: error,
    });
  }
  if (bundle.x509Authorities.length === 0) {
    throw new SpiffeError('invalid', 'trust.bundle.empty', `${path} holds no X.509 authority`);
  }
  return bundle;
}

/**
 * Of a bundle that anybody may have sent, only what the pin names.
 * @throws denied `trust.pin.mismatch`
 */
export function pinnedBundle(claimed: Bundle, sha256: string): Bundle {
  const x509Authorities = claimed.x509Authorities.filter(({ certificate }) => sha256Of(certificate) === sha256.toLowerCase());
  if (x509Authorities.length === 0) {
    throw new SpiffeError('denied', 'trust.pin.mismatch', 'no authority of the server has the pinned hash', {
      detail: { offered: claimed.x509Authorities.map(({ certificate }) => sha256Of(certificate)).join(' ') },
    });
  }
  return composeBundle({ ...emptyBundle(claimed.trustDomain), x509Authorities });
}

function sha256Of(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
