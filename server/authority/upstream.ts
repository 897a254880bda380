/**
 * The seam to whoever signs our X.509 authority. What happens to the certificate, and when the next one is asked for, is
 * the business of `slots.ts` and `rotate.ts`.
 */
import type { TrustDomain } from '../../spiffe/id.ts';
import type { StoredKey } from './keys.ts';

export interface CertifyRequest {
  readonly trustDomain: TrustDomain;
  /** In the key store; its private half never leaves it. */
  readonly key: StoredKey;
  readonly at: number;
  /** Wished for; the upstream authority may grant less. */
  readonly expiresAt: number;
}

export interface Upstream {
  /**
   * The certificate of an authority with this key, DER, checked.
   * @throws unavailable `keys.unavailable` or what keeps the upstream authority from signing
   */
  certify(request: CertifyRequest): Promise<Uint8Array>;
}
