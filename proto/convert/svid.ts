/**
 * Issued credentials between SPIRE's messages and domain values. Whether a credential is what it says is left to
 * `spiffe/x509-svid.ts` and `spiffe/jwt-svid.ts`; the Workload API has messages of its own.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import type { JWTSVID, JWTSVID__Output } from '../gen/spire/api/types/JWTSVID.ts';
import type { X509SVID, X509SVID__Output } from '../gen/spire/api/types/X509SVID.ts';
import { idFromMessage, idToMessage } from './id.ts';
import { instantFromSeconds, secondsFromInstant } from './scalar.ts';

/** An X509-SVID as its issuer hands it over: no key, nothing verified. */
export interface IssuedX509Svid {
  readonly id: SpiffeId;
  /** DER, leaf first, never empty. */
  readonly certificates: readonly Uint8Array[];
  readonly expiresAt: number;
  readonly hint: string;
}

/** A JWT-SVID as its issuer hands it over: nothing verified. */
export interface IssuedJwtSvid {
  readonly id: SpiffeId;
  /** Compact serialization. */
  readonly token: string;
  readonly issuedAt: number;
  readonly expiresAt: number;
  readonly hint: string;
}

export function x509SvidToMessage(svid: IssuedX509Svid): X509SVID {
  return {
    cert_chain: [...svid.certificates] as Buffer[],
    id: idToMessage(svid.id),
    expires_at: secondsFromInstant(svid.expiresAt),
    hint: svid.hint,
  };
}

/** @throws invalid `proto.svid.missing|chain-empty`, and as `idFromMessage`, `instantFromSeconds` */
export function x509SvidFromMessage(message: X509SVID__Output | null | undefined): IssuedX509Svid {
  if (!message) throw new SpiffeError('invalid', 'proto.svid.missing', 'missing X509-SVID');
  if (message.cert_chain.length === 0) throw new SpiffeError('invalid', 'proto.svid.chain-empty', 'certificate chain is empty');
  return Object.freeze({
    id: idFromMessage(message.id),
    // Copied, because decoded bytes are a window on the whole received message.
    certificates: Object.freeze(message.cert_chain.map((certificate) => Uint8Array.from(certificate))),
    expiresAt: instantFromSeconds(message.expires_at, 'expires_at'),
    hint: message.hint,
  });
}

/** Also of a WIT-SVID: the two messages have the same fields. */
export function jwtSvidToMessage(svid: IssuedJwtSvid): JWTSVID {
  return {
    token: svid.token,
    id: idToMessage(svid.id),
    expires_at: secondsFromInstant(svid.expiresAt),
    issued_at: secondsFromInstant(svid.issuedAt),
    hint: svid.hint,
  };
}

/** @throws invalid `proto.svid.missing|token-empty`, and as `idFromMessage`, `instantFromSeconds` */
export function jwtSvidFromMessage(message: JWTSVID__Output | null | undefined): IssuedJwtSvid {
  if (!message) throw new SpiffeError('invalid', 'proto.svid.missing', 'missing JWT-SVID');
  if (message.token === '') throw new SpiffeError('invalid', 'proto.svid.token-empty', 'token is empty');
  return Object.freeze({
    id: idFromMessage(message.id),
    token: message.token,
    issuedAt: instantFromSeconds(message.issued_at, 'issued_at'),
    expiresAt: instantFromSeconds(message.expires_at, 'expires_at'),
    hint: message.hint,
  });
}
