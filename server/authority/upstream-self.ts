/**
 * An X.509 authority that signs itself. Composed and checked by the same code as everything it will sign.
 */
import { draftAuthority, validityOf } from '../../spiffe/x509/draft.ts';
import { assembleCertificate, checkDraft } from '../../spiffe/x509/lint.ts';
import type { KeyStore } from './keys.ts';
import { randomSerial } from './random.ts';
import type { Upstream } from './upstream.ts';

/** `subject` is a whole Name in place of the profile's own. */
export function createSelfUpstream(keys: Pick<KeyStore, 'sign'>, subject?: Uint8Array): Upstream {
  return {
    async certify({ trustDomain, key, at, expiresAt }) {
      const fields = {
        serial: randomSerial(),
        publicKey: key.publicKey,
        trustDomain,
        ...(subject !== undefined && { subject }),
      };
      const ttlSeconds = (expiresAt - at) / 1000;
      const draft = draftAuthority({ ...fields, ...validityOf(at, ttlSeconds) });
      const checked = checkDraft(draft, { ...fields, profile: 'authority', at, ttlSeconds });
      return assembleCertificate(checked, await keys.sign(key.name, checked.tbs, 'der'));
    },
  };
}
