/**
 * The last step of issuing: intents made durable, then signatures. Only checked drafts get here; nothing leaves whose
 * intent is not durable, and what became of each is recorded with the next commit.
 */
import type { SpiffeId } from '../../spiffe/id.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { assembleJwtSvid } from '../../spiffe/jwt-svid.ts';
import { assembleCertificate } from '../../spiffe/x509/lint.ts';
import type { Store } from '../store/store.ts';
import type { JwtReady, X509Ready } from './drafts.ts';
import type { KeyStore } from './keys.ts';

/** An X509-SVID as it is handed over: no key. */
export interface IssuedX509Svid {
  readonly id: SpiffeId;
  /** DER, leaf first. */
  readonly certificates: readonly Uint8Array[];
  readonly expiresAt: number;
  readonly hint: string;
}

/** A JWT-SVID, or a WIT-SVID without its key. */
export interface IssuedJwtSvid {
  readonly id: SpiffeId;
  readonly token: string;
  readonly issuedAt: number;
  readonly expiresAt: number;
  readonly hint: string;
}

export type Outcome<T> =
  | { readonly status: 'issued'; readonly svid: T }
  | { readonly status: 'refused'; readonly error: SpiffeError };

export interface SignDeps {
  readonly store: Pick<Store, 'recordIntents' | 'recordResults'>;
  readonly keys: Pick<KeyStore, 'sign'>;
}

/** Signs one by one; to be called only with what is durable already. */
export function signX509(deps: SignDeps, ready: X509Ready, hint: string): Promise<Outcome<IssuedX509Svid>> {
  const { authority, draft, intent } = ready;
  return concluded(deps, intent.id, async () => {
    const signature = await deps.keys.sign(authority.keyName, draft.tbs, 'der');
    const certificates = [assembleCertificate(draft, signature), ...authority.chain];
    return { id: draft.spiffeId, certificates, expiresAt: draft.notAfterAt, hint };
  });
}

/** As `signX509`; for JWT-SVIDs and WIT-SVIDs. */
export function signToken(deps: SignDeps, ready: JwtReady, hint: string): Promise<Outcome<IssuedJwtSvid>> {
  const { authority, signingInput, spiffeId: id, issuedAt, expiresAt, intent } = ready;
  return concluded(deps, intent.id, async () => {
    const signature = await deps.keys.sign(authority.keyName, Buffer.from(signingInput, 'latin1'), 'jose');
    return { id, token: assembleJwtSvid(signingInput, signature), issuedAt, expiresAt, hint };
  });
}

async function concluded<T>(deps: SignDeps, id: string, work: () => Promise<T>): Promise<Outcome<T>> {
  try {
    const svid = await work();
    deps.store.recordResults([{ id, outcome: 'issued' }]);
    return { status: 'issued', svid };
  } catch (cause) {
    deps.store.recordResults([{ id, outcome: 'failed' }]);
    return { status: 'refused', error: signingFailure(cause) };
  }
}

function signingFailure(cause: unknown): SpiffeError {
  if (cause instanceof SpiffeError) return cause;
  return new SpiffeError('unavailable', 'keys.unavailable', 'the signing key cannot be used now', { cause });
}
