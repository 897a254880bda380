/**
 * Bundles and their authorities between messages and domain values, whole or under a mask. Merging, taint and pruning are
 * `spiffe/bundle.ts`.
 */
import {
  composeBundle,
  readJwtAuthority,
  readX509Authority,
  type Bundle,
  type JwtAuthority,
  type X509Authority,
} from '../../spiffe/bundle.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { trustDomainFromText, type TrustDomain } from '../../spiffe/id.ts';
import type { Bundle as BundleMessage, Bundle__Output } from '../gen/spire/api/types/Bundle.ts';
import type { BundleMask__Output } from '../gen/spire/api/types/BundleMask.ts';
import type { JWTKey, JWTKey__Output } from '../gen/spire/api/types/JWTKey.ts';
import type { X509Certificate, X509Certificate__Output } from '../gen/spire/api/types/X509Certificate.ts';
import { integerFromText, optionalInstantFromSeconds, secondsFromInstant } from './scalar.ts';

/** Which parts; absent means all of them. */
export type BundleMaskMessage = BundleMask__Output | null | undefined;

const all: BundleMask__Output = {
  x509_authorities: true,
  jwt_authorities: true,
  refresh_hint: true,
  sequence_number: true,
  wit_authorities: true,
};

/** The trust domain has no mask bit and is always there. */
export function bundleToMessage(bundle: Bundle, mask?: BundleMaskMessage): BundleMessage {
  const message: BundleMessage = { trust_domain: bundle.trustDomain };
  if (mask?.x509_authorities ?? true) message.x509_authorities = bundle.x509Authorities.map(x509AuthorityToMessage);
  if (mask?.jwt_authorities ?? true) message.jwt_authorities = bundle.jwtAuthorities.map(jwtAuthorityToMessage);
  if (mask?.wit_authorities ?? true) message.wit_authorities = bundle.witAuthorities.map(jwtAuthorityToMessage);
  if (mask?.refresh_hint ?? true) message.refresh_hint = bundle.refreshHintSeconds;
  if (mask?.sequence_number ?? true) message.sequence_number = bundle.sequence.toString();
  return message;
}

/**
 * A whole bundle, taint marks included: for what a server says to its agents and operators. Marks from a client are to be
 * dropped by whoever takes the call.
 * @throws invalid `proto.bundle.missing|trust-domain`, `bundle.jwt-authority.key-id-taken`, `proto.integer.range` and as the
 *   authorities below
 */
export function bundleFromMessage(message: Bundle__Output | null | undefined): Bundle {
  if (!message) throw new SpiffeError('invalid', 'proto.bundle.missing', 'missing bundle');
  return composeBundle({
    trustDomain: trustDomainOfBundle(message.trust_domain),
    x509Authorities: message.x509_authorities.map(x509AuthorityFromMessage),
    jwtAuthorities: message.jwt_authorities.map(jwtAuthorityFromMessage),
    witAuthorities: message.wit_authorities.map(jwtAuthorityFromMessage),
    refreshHintSeconds: integerFromText(message.refresh_hint, 'refresh_hint'),
    sequence: BigInt(message.sequence_number),
  });
}

/**
 * The parts of a bundle that an update replaces: those in the mask, or all of them without one. Only these are looked at.
 * @throws invalid as `bundleFromMessage`
 */
export function bundlePartsFromMessage(
  message: Bundle__Output,
  mask: BundleMaskMessage,
): Pick<Bundle, 'trustDomain'> & Partial<Bundle> {
  const { x509_authorities, jwt_authorities, wit_authorities, refresh_hint, sequence_number } = mask ?? all;
  const { trustDomain, ...parts } = bundleFromMessage({
    ...message,
    x509_authorities: x509_authorities ? message.x509_authorities : [],
    jwt_authorities: jwt_authorities ? message.jwt_authorities : [],
    wit_authorities: wit_authorities ? message.wit_authorities : [],
    refresh_hint: refresh_hint ? message.refresh_hint : '0',
  });
  return Object.freeze({
    trustDomain,
    ...(x509_authorities && { x509Authorities: parts.x509Authorities }),
    ...(jwt_authorities && { jwtAuthorities: parts.jwtAuthorities }),
    ...(wit_authorities && { witAuthorities: parts.witAuthorities }),
    ...(refresh_hint && { refreshHintSeconds: parts.refreshHintSeconds }),
    ...(sequence_number && { sequence: parts.sequence }),
  });
}

export function x509AuthorityToMessage(authority: X509Authority): X509Certificate {
  return { asn1: authority.certificate, tainted: authority.tainted };
}

/** @throws invalid `bundle.x509-authority.malformed`, also for two certificates in a row, which would break agents later */
export function x509AuthorityFromMessage(message: X509Certificate__Output): X509Authority {
  return readX509Authority(own(message.asn1), message.tainted);
}

/** Also of a WIT authority: the two messages have the same fields. */
export function jwtAuthorityToMessage(authority: JwtAuthority): JWTKey {
  return {
    public_key: authority.publicKey,
    key_id: authority.keyId,
    expires_at: secondsFromInstant(authority.expiresAt),
    tainted: authority.tainted,
  };
}

/** @throws invalid `bundle.jwt-authority.key-id`, `jwt-key.malformed`, `proto.bundle.public-key`, `proto.instant.range` */
export function jwtAuthorityFromMessage(message: JWTKey__Output): JwtAuthority {
  const expiresAt = optionalInstantFromSeconds(message.expires_at, 'expires_at');
  try {
    const publicKey = own(message.public_key);
    return readJwtAuthority({ keyId: message.key_id, publicKey, expiresAt, tainted: message.tainted });
  } catch (error) {
    // A kind of key nobody here can use is, to whoever sent it, a wrong request and not a method that is missing.
    if (!isSpiffeError(error, 'unsupported')) throw error;
    throw new SpiffeError('invalid', 'proto.bundle.public-key', error.message, { cause: error });
  }
}

function trustDomainOfBundle(text: string): TrustDomain {
  try {
    return trustDomainFromText(text);
  } catch (error) {
    if (!isSpiffeError(error, 'invalid')) throw error;
    throw new SpiffeError('invalid', 'proto.bundle.trust-domain', `trust domain argument is not valid: ${error.message}`, {
      cause: error,
    });
  }
}

/** Decoded bytes are a window on the whole received message, which a kept bundle must not keep alive. */
function own(bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(bytes);
}
