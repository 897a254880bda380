/**
 * TLS between holders of X509-SVIDs: both ends follow a Watch of their identity and bundles, and check the other end
 * against its own trust domain's authorities with our verifier before a byte of it is used. OpenSSL's own verdict, which
 * knows one pooled trust store and host names, is switched off; who may do what is left to the callers.
 */
import { constants, createHash, X509Certificate } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { isIP } from 'node:net';
import { connect, createSecureContext, createServer } from 'node:tls';
import type { SecureContext, SecureContextOptions, SecureVersion, Server, TLSSocket } from 'node:tls';
import type { Bundle } from '../spiffe/bundle.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/id.ts';
import { trustDomainOf } from '../spiffe/id.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';
import type { Usage, VerifiedPeer } from '../spiffe/x509/verify.ts';
import { verifyPeer } from '../spiffe/x509/verify.ts';
import type { Clock } from './clock.ts';
import type { Watch } from './watch.ts';

/** What one end of TLS stands on at a moment. Set a new object whenever either part changes. */
export interface TlsIdentity {
  /** Without one a client is anonymous, and a server refuses every connection. */
  readonly svid: X509Svid | undefined;
  readonly bundles: ReadonlyMap<TrustDomain, Pick<Bundle, 'x509Authorities'>>;
}

/** DER, leaf first, to whoever it proves; throws to refuse. The socket is the connection, to be marked and not used. */
export type PeerCheck = (chain: readonly Uint8Array[], socket: TLSSocket) => Pick<VerifiedPeer, 'spiffeId'>;

export type TlsVersion = Extract<SecureVersion, 'TLSv1.2' | 'TLSv1.3'>;

/** A handshake that takes longer is given up. */
export const handshakeMs = 5_000;
const grpcProtocols: readonly string[] = ['h2'];
const maxPeerCertificates = 32;
/** Chains that are remembered by one end: what a service hears from again and again. */
const maxFound = 256;
/** Of TLS 1.2 only what has forward secrecy and authenticated encryption; for `node:tls`. */
export const ciphers = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  'ECDHE-ECDSA-AES128-GCM-SHA256',
  'ECDHE-RSA-AES128-GCM-SHA256',
  'ECDHE-ECDSA-AES256-GCM-SHA384',
  'ECDHE-RSA-AES256-GCM-SHA384',
  'ECDHE-ECDSA-CHACHA20-POLY1305',
  'ECDHE-RSA-CHACHA20-POLY1305',
].join(':');

/**
 * Checks a peer of any trust domain that has a bundle, at the instant of the check. What was found of a chain is kept for
 * when it is shown again to the same authorities: then only the time is looked at, which is most of what can change.
 * @throws as `verifyPeer`
 */
export function checkAgainstBundles(
  identity: Watch<TlsIdentity>,
  clock: Clock,
  usage: Usage,
): (chain: readonly Uint8Array[]) => VerifiedPeer {
  const found = new Map<string, { readonly peer: VerifiedPeer; readonly authorities: readonly Uint8Array[] }>();
  const authoritiesFor = (trustDomain: TrustDomain): readonly Uint8Array[] | undefined =>
    authoritiesOf(identity.value.bundles.get(trustDomain));
  return (chain) => {
    const at = clock.now();
    const name = fingerprint(chain);
    const before = found.get(name);
    // A bundle that changed is another list, and whatever it was the chain is then judged anew.
    if (before !== undefined) {
      const { peer, authorities } = before;
      if (authorities === authoritiesFor(trustDomainOf(peer.spiffeId)) && isValidAt(peer, at)) return peer;
    }
    found.delete(name);
    const peer = verifyPeer(chain, authoritiesFor, at, usage);
    const authorities = authoritiesFor(trustDomainOf(peer.spiffeId));
    if (authorities !== undefined) {
      const [oldest] = found.keys();
      if (found.size >= maxFound && oldest !== undefined) found.delete(oldest);
      found.set(name, { peer, authorities });
    }
    return peer;
  };
}

function isValidAt({ path }: VerifiedPeer, at: number): boolean {
  return path.every(({ notBeforeAt, notAfterAt }) => at >= notBeforeAt && at <= notAfterAt);
}

/** Of every byte and of where one certificate ends and the next begins. */
function fingerprint(chain: readonly Uint8Array[]): string {
  const hash = createHash('sha256');
  for (const der of chain) hash.update(`${der.length}:`).update(der);
  return hash.digest('base64');
}

/**
 * Checks that a server is exactly `expected`, by its own trust domain's authorities and no other's.
 * @throws as `verifyPeer`; unauthenticated `tls.peer.unexpected`
 */
export function checkServerIs(
  expected: SpiffeId,
  identity: Watch<TlsIdentity>,
  clock: Clock,
): (chain: readonly Uint8Array[]) => VerifiedPeer {
  const check = checkAgainstBundles(identity, clock, 'server');
  return (chain) => {
    const peer = check(chain);
    if (peer.spiffeId !== expected) {
      throw new SpiffeError('unauthenticated', 'tls.peer.unexpected', `server is ${peer.spiffeId}, not ${expected}`, {
        detail: { expected, found: peer.spiffeId, trustDomain: trustDomainOf(peer.spiffeId) },
      });
    }
    return peer;
  };
}

export interface TlsServerOptions {
  readonly identity: Watch<TlsIdentity>;
  readonly clock: Clock;
  readonly minVersion?: TlsVersion;
  /** Protocols to agree on one of, `h2` unless given; with none there is nothing to agree on. */
  readonly protocols?: readonly string[];
  /** A connection whose handshake is over. `peer` is verified, or undefined when no certificate was sent. Owns the socket. */
  readonly accept: (socket: TLSSocket, peer: VerifiedPeer | undefined) => void;
  /** A connection that was not accepted, and why. The socket is destroyed. */
  readonly refused?: (error: SpiffeError, address: string) => void;
}

export interface TlsServer {
  /** To listen with and to close; the owner does both. */
  readonly server: Server;
  /** Serves each new SVID of the Watch to new connections; ends with the signal. */
  follow(signal: AbortSignal): Promise<void>;
}

/** A TLS server that asks for a client certificate, does not insist on one, and checks the one it gets. */
export function createTlsServer(options: TlsServerOptions): TlsServer {
  const check = checkAgainstBundles(options.identity, options.clock, 'client');
  const minVersion = options.minVersion ?? 'TLSv1.3';
  const protocols = options.protocols ?? grpcProtocols;
  const server = createServer({
    ...secureContextOptions(options.identity.value.svid, minVersion),
    requestCert: true,
    rejectUnauthorized: false,
    ...(protocols.length > 0 && { ALPNProtocols: [...protocols] }),
    handshakeTimeout: handshakeMs,
  });
  const refuse = (socket: TLSSocket, error: unknown): void => {
    const address = socket.remoteAddress ?? '';
    socket.destroy();
    options.refused?.(asRefusal(error), address);
  };
  server.on('secureConnection', (socket) => {
    socket.on('error', () => undefined);
    let peer: VerifiedPeer | undefined;
    try {
      requireProtocol(socket, protocols);
      const chain = peerChain(socket);
      peer = chain.length === 0 ? undefined : check(chain);
    } catch (error) {
      refuse(socket, error);
      return;
    }
    options.accept(socket, peer);
  });
  server.on('tlsClientError', (error, socket) => refuse(socket, error));
  return {
    server,
    async follow(signal) {
      for await (const identity of options.identity.values(signal)) {
        server.setSecureContext(secureContextOptions(identity.svid, minVersion));
      }
    },
  };
}

/** Judges a server as browsers do: by its host name, and by these authorities in PEM, the machine's when absent. */
export interface WebCheck {
  readonly roots: readonly string[] | undefined;
}

export interface TlsClientOptions {
  readonly identity: Watch<TlsIdentity>;
  readonly clock: Clock;
  readonly check: PeerCheck | WebCheck;
  readonly minVersion?: TlsVersion;
  /** As of the server. */
  readonly protocols?: readonly string[];
  /** Host name for SNI; only a WebCheck checks it. Left out of the handshake when it is an address. */
  readonly serverName?: string;
}

/** What differs between connections of one client; else as its options say. */
export interface HandshakeTarget {
  readonly serverName?: string;
  readonly protocols?: readonly string[];
}

/** What a client connection is made of, and the change of which asks for a new one. */
export interface TlsClient {
  /** The identity that `handshake` presents now. */
  readonly identity: TlsIdentity;
  /**
   * Secures a connected socket. Resolves once the server is proved; until then nothing is sent on it, and on failure it
   * is destroyed.
   * @throws what the check throws, invalid `tls.alpn`, unavailable `tls.handshake`
   */
  handshake(socket: Duplex, target?: HandshakeTarget): Promise<TLSSocket>;
}

export function createTlsClient(options: TlsClientOptions): TlsClient {
  const minVersion = options.minVersion ?? 'TLSv1.3';
  const { check } = options;
  const web = typeof check === 'function' ? undefined : check;
  let prepared: { readonly svid: X509Svid | undefined; readonly context: SecureContext } | undefined;
  const context = (): SecureContext => {
    const { svid } = options.identity.value;
    if (web === undefined) return contextOf(svid, minVersion);
    if (prepared === undefined || prepared.svid !== svid) {
      const roots = { ca: web.roots === undefined ? undefined : [...web.roots] };
      prepared = { svid, context: createSecureContext({ ...secureContextOptions(svid, minVersion), ...roots }) };
    }
    return prepared.context;
  };

  return {
    get identity() {
      return options.identity.value;
    },
    async handshake(socket, target = {}) {
      const protocols = target.protocols ?? options.protocols ?? grpcProtocols;
      const serverName = target.serverName ?? options.serverName ?? '';
      const timer = new AbortController();
      const secured = connect({
        socket,
        secureContext: context(),
        ...(web === undefined ? { rejectUnauthorized: false, checkServerIdentity: () => undefined } : { host: serverName }),
        ...(protocols.length > 0 && { ALPNProtocols: [...protocols] }),
        ...(serverName === '' || isIP(serverName) !== 0 ? {} : { servername: serverName }),
      });
      try {
        await new Promise<void>((resolve, reject) => {
          secured.once('secureConnect', resolve);
          secured.once('error', reject);
          secured.once('close', () => reject(new Error('connection was closed')));
          options.clock.sleep(handshakeMs, timer.signal).then(
            () => reject(new Error(`not finished within ${handshakeMs} ms`)),
            () => undefined,
          );
        });
        requireProtocol(secured, protocols);
        if (typeof check === 'function') check(peerChain(secured), secured);
        return secured;
      } catch (error) {
        // A late error of a destroyed socket has nobody left to tell.
        secured.on('error', () => undefined);
        secured.destroy();
        socket.destroy();
        throw asRefusal(error);
      } finally {
        timer.abort();
      }
    },
  };
}

const contexts = new WeakMap<object, Map<TlsVersion, SecureContext>>();
const nobody = {};

/** One for all clients that show the same SVID: making it costs as much as a handshake, and they trust nobody by it. */
function contextOf(svid: X509Svid | undefined, minVersion: TlsVersion): SecureContext {
  const made = contexts.get(svid ?? nobody) ?? new Map<TlsVersion, SecureContext>();
  contexts.set(svid ?? nobody, made);
  const context = made.get(minVersion) ?? createSecureContext(secureContextOptions(svid, minVersion));
  made.set(minVersion, context);
  return context;
}

/** Neither tickets nor session ids, so that every connection is checked against the bundles of its own moment (T-08). */
export function secureContextOptions(svid: X509Svid | undefined, minVersion: TlsVersion): SecureContextOptions {
  return {
    minVersion,
    ciphers,
    honorCipherOrder: true,
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
    // Not the machine's root store: nothing here is decided by OpenSSL, and the server's hint list stays empty.
    ca: [],
    ...(svid === undefined
      ? {}
      : {
          cert: svid.chain.map((certificate) => new X509Certificate(certificate).toString()).join(''),
          key: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }),
        }),
  };
}

export function requireProtocol(socket: TLSSocket, protocols: readonly string[]): void {
  if (protocols.length === 0 || protocols.includes(String(socket.alpnProtocol))) return;
  throw new SpiffeError('invalid', 'tls.alpn', `peer does not speak ${protocols.join(' or ')}`);
}

/**
 * What the peer sent, DER, leaf first and in its order; empty when it sent nothing. To be asked once, as the first thing.
 *
 * Not by `getPeerCertificate`: Node ends the process when it describes a certificate whose key is on a curve that NIST has
 * no name for (seen up to Node 26), and anybody may send one. Up to Node 24 reading the chain takes it from the connection;
 * a client's would then know nothing of its server any more, so that its socket is given the leaf to remember.
 */
export function peerChain(socket: TLSSocket): readonly Uint8Array[] {
  const chain: Uint8Array[] = [];
  const leaf = socket.getPeerX509Certificate();
  for (let next = leaf; next !== undefined && chain.length <= maxPeerCertificates; next = next.issuerCertificate) {
    chain.push(next.raw);
  }
  if (leaf !== undefined && socket.getPeerX509Certificate() === undefined) {
    Object.defineProperties(socket, {
      getPeerX509Certificate: { value: () => leaf },
      getPeerCertificate: { value: () => leaf.toLegacyObject() },
    });
  }
  return chain;
}

/** The DER of a chain as Node gives it: from leaf to issuer, the last one its own. */
export function certificatesOf(leaf: { readonly raw: Buffer; readonly issuerCertificate?: unknown }): readonly Uint8Array[] {
  const chain: Uint8Array[] = [];
  // The type says otherwise, but without a certificate this is an empty object.
  let next: { readonly raw?: Buffer; readonly issuerCertificate?: unknown } | undefined = leaf;
  const seen = new Set<unknown>();
  while (next?.raw !== undefined && !seen.has(next) && chain.length < maxPeerCertificates) {
    seen.add(next);
    chain.push(next.raw);
    next = next.issuerCertificate as typeof next;
  }
  return chain;
}

const authorityLists = new WeakMap<object, readonly Uint8Array[]>();

/** The same list for the same bundle, which lets the verifier keep what it parsed. */
function authoritiesOf(bundle: Pick<Bundle, 'x509Authorities'> | undefined): readonly Uint8Array[] | undefined {
  if (bundle === undefined) return undefined;
  let list = authorityLists.get(bundle);
  if (list === undefined) {
    list = bundle.x509Authorities.map((authority) => authority.certificate);
    authorityLists.set(bundle, list);
  }
  return list;
}

export function asRefusal(error: unknown): SpiffeError {
  if (error instanceof SpiffeError) return error;
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'unknown';
  return new SpiffeError('unavailable', 'tls.handshake', `TLS handshake failed (${code})`, { detail: { code }, cause: error });
}
