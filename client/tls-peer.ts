/**
 * Who was proved to be at the other end of a TLS connection. The ends in `tls.ts` and `tls-server.ts` leave it on the
 * socket once they let a connection in; everybody else reads it here. Nothing is decided here.
 */
import { channel } from 'node:diagnostics_channel';
import type { TLSSocket } from 'node:tls';
import type { SpiffeError } from '../spiffe/errors.ts';
import { type SpiffeId, type TrustDomain, trustDomainOf } from '../spiffe/id.ts';
import type { VerifiedPeer } from '../spiffe/x509/verify.ts';

/**
 * Every decision over a TLS peer is published here as a `TlsDecision`, while the connection waits: subscribers look, and
 * change nothing.
 */
export const tlsDiagnostics = channel('steeple.tls');

/** What `steeple.tls` tells. `peer` is absent when the other end was refused; `error` when it was let in. */
export interface TlsDecision {
  /** The end that decided: this one. */
  readonly role: 'client' | 'server';
  readonly peer?: TlsPeer;
  readonly error?: SpiffeError;
  /** Of the other end; empty when it is known no more. */
  readonly address: string;
}

/** A proved holder of an X509-SVID. It was valid when the connection was made; open connections outlive it. */
export interface TlsPeer {
  readonly spiffeId: SpiffeId;
  readonly trustDomain: TrustDomain;
  /** When the SVID that was shown ends, in epoch milliseconds. */
  readonly expiresAt: number;
  /** DER, leaf first, up to the authority that vouched for it. */
  readonly path: readonly Uint8Array[];
}

const key = Symbol('steeple.tls.peer');

/**
 * The proved peer of a socket; `undefined` when there is none: another kind of socket, a client that showed no SVID, a
 * web server. Takes what `node:http2` hands out in place of a socket as well.
 * @example
 * const server = createHttpsServer(source, { authorize }, (request, response) => {
 *   response.end(`hello ${peerOf(request.socket)?.spiffeId}`);
 * });
 */
export function peerOf(socket: object): TlsPeer | undefined {
  // A property rather than a WeakMap: HTTP/2 shows a proxy of the socket, which is another object.
  return (socket as { readonly [key]?: TlsPeer })[key];
}

/** For the two ends: remembers whom the verifier and the authorizer let in. */
export function markPeer(socket: TLSSocket, verified: VerifiedPeer): TlsPeer {
  const { spiffeId, leaf, path } = verified;
  const peer: TlsPeer = Object.freeze({
    spiffeId,
    trustDomain: trustDomainOf(spiffeId),
    expiresAt: leaf.notAfterAt,
    path: path.map(({ der }) => der),
  });
  Object.defineProperty(socket, key, { value: peer });
  // Frameworks ask Node's own flag, which says what OpenSSL made of one pooled store; the verdict here is ours.
  socket.authorized = true;
  return peer;
}

/** For the two ends: tells `steeple.tls`, when anybody listens. */
export function tellDecision(decision: TlsDecision): void {
  if (tlsDiagnostics.hasSubscribers) tlsDiagnostics.publish(decision);
}
