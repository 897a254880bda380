/**
 * Who may be at the other end: predicates over SPIFFE IDs, and the one place that asks them. Proving that a peer has the
 * ID is done before, by the verifiers.
 */
import { SpiffeError } from '../spiffe/errors.ts';
import { checkPath, isMemberOf, isUnderPath, type SpiffeId, type TrustDomain } from '../spiffe/id.ts';

/**
 * Says whether a proved peer may be at the other end. Only `true` lets it in: a promise, nothing at all and anything
 * thrown refuse, so that a forgotten `return` opens no door.
 */
export type Authorize = (peer: SpiffeId) => boolean;

/** Whoever proved any identity of any trust domain whose bundle is held, federated ones included. */
export function authorizeAny(): Authorize {
  return () => true;
}

/** Exactly this identity. */
export function authorizeId(id: SpiffeId): Authorize {
  return (peer) => peer === id;
}

/** Any of these identities; without one, nobody. */
export function authorizeOneOf(...ids: readonly SpiffeId[]): Authorize {
  const allowed: ReadonlySet<SpiffeId> = new Set(ids);
  return (peer) => allowed.has(peer);
}

/** Every identity of this trust domain and of no other; whole names are compared. */
export function authorizeMemberOf(trustDomain: TrustDomain): Authorize {
  return (peer) => isMemberOf(peer, trustDomain);
}

/**
 * Every identity of the trust domain at this path or below it, by whole segments: `/web` lets in `/web` and `/web/1`,
 * never `/web-admin`.
 * @throws invalid `id.path.*` for a prefix that is no path
 */
export function authorizePath(trustDomain: TrustDomain, prefix: string): Authorize {
  checkPath(prefix);
  return (peer) => isMemberOf(peer, trustDomain) && isUnderPath(peer, prefix);
}

/** Whom all of these let in; without one, nobody. */
export function authorizeAllOf(...all: readonly Authorize[]): Authorize {
  return (peer) => all.length > 0 && all.every((authorize) => isAuthorized(authorize, peer));
}

/** Whom at least one of these lets in; without one, nobody. */
export function authorizeAnyOf(...any: readonly Authorize[]): Authorize {
  return (peer) => any.some((authorize) => isAuthorized(authorize, peer));
}

/** Whom `authorize` lets in, but for those that `except` names. */
export function authorizeExcept(authorize: Authorize, except: Authorize): Authorize {
  // Asked as a person would: what the exception cannot decide is an exception.
  return (peer) => isAuthorized(authorize, peer) && (except(peer) as unknown) === false;
}

/**
 * Asks on behalf of a connection or a call.
 * @throws the SpiffeError that `authorize` threw; else denied `source.peer.refused`, with what it threw as the cause
 */
export function requireAuthorized(authorize: Authorize, peer: SpiffeId): void {
  let cause: unknown;
  try {
    if (isAuthorized(authorize, peer)) return;
  } catch (error) {
    if (error instanceof SpiffeError) throw error;
    cause = error;
  }
  const detail = { spiffeId: peer };
  throw new SpiffeError('denied', 'source.peer.refused', 'the peer is not authorized here', { detail, cause });
}

function isAuthorized(authorize: Authorize, peer: SpiffeId): boolean {
  return (authorize(peer) as unknown) === true;
}
