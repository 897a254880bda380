/**
 * The client's end of TLS: connections of our own, and options for what insists on making its own. Every handshake takes
 * the newest SVID and bundles, also through copies of the options, and no byte is sent to a server before it is proved.
 * Servers are in `tls-server.ts`; what is kept of connections (agents, pools, channels) is left to their files.
 */
import { randomUUID, X509Certificate } from 'node:crypto';
import { connect as connectTcp, type Socket } from 'node:net';
import { createSecureContext, type ConnectionOptions, type PeerCertificate, type SecureContext, type TLSSocket } from 'node:tls';
import type { Clock } from '../runtime/clock.ts';
import {
  asRefusal,
  certificatesOf,
  checkAgainstBundles,
  createTlsClient,
  secureContextOptions,
  type TlsClient,
  type TlsIdentity,
  type TlsVersion,
} from '../runtime/tls.ts';
import { mapWatch, type Watch } from '../runtime/watch.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import { type Authorize, requireAuthorized } from './authorize.ts';
import { markPeer, tellDecision } from './tls-peer.ts';

/** What TLS stands on: an `X509Source`, or anything else that has both. */
export interface X509TlsSource {
  /** The newest SVID to show, and the newest bundles to check others against. */
  readonly identity: Watch<TlsIdentity>;
  readonly clock: Clock;
}

interface TlsFacts {
  /** TLS 1.2 with the ciphers that have forward secrecy unless given, as go-spiffe has it. */
  readonly minVersion?: TlsVersion;
  /** For ALPN; with some, the other end has to agree on one. */
  readonly protocols?: readonly string[];
}

/** A server that proves a SPIFFE ID. */
export interface SpiffeServer extends TlsFacts {
  /** Who may be at the other end. There is no default: `authorizeAny()` is to be said aloud. */
  readonly authorize: Authorize;
  /** False for a client that shows no SVID of its own; the server is proved all the same. */
  readonly present?: boolean;
}

/** A server with a certificate of the web, to which the client shows its SVID. */
export interface WebServer extends TlsFacts {
  readonly server: 'web';
  /** PEM of the authorities to trust; those that Node trusts when absent. */
  readonly roots?: string | readonly string[];
  readonly present?: boolean;
}

/** What kind of server to expect, and who it may be. */
export type TlsClientSettings = SpiffeServer | WebServer;

/** What `tls.connect` takes, and what keeps agents and connectors from resuming sessions. */
export type NodeTlsClientOptions = ConnectionOptions & { readonly maxCachedSessions: 0 };

/** Where to. */
export type TlsAddress =
  | { readonly host: string; readonly port: number; /** For SNI, when it is not `host`. */ readonly serverName?: string }
  | { readonly path: string; readonly serverName?: string };

/**
 * Connects; resolves once the server is proved and authorized, before anything is sent.
 * @throws what the verifier or `authorize` throw, denied `source.peer.refused`, unavailable `tls.handshake` or
 *   `source.connect`, invalid `tls.alpn`, `tls.settings`
 * @example
 * const socket = await connectTls(source, { host: 'db.internal', port: 5432, authorize: authorizeId(db) });
 */
export async function connectTls(
  source: X509TlsSource,
  options: TlsClientSettings & TlsAddress & { readonly signal?: AbortSignal },
): Promise<TLSSocket> {
  const client = tlsClient(source, options);
  const socket = await reach(options, options.signal);
  return client.handshake(socket, { serverName: options.serverName ?? ('host' in options ? options.host : '') });
}

/**
 * For the other files here: what makes connections of one kind.
 * @throws invalid `tls.settings`
 */
export function tlsClient(source: X509TlsSource, settings: TlsClientSettings): TlsClient {
  const { clock } = source;
  const identity = presented(source.identity, settings);
  const facts = { minVersion: settings.minVersion ?? 'TLSv1.2', protocols: settings.protocols ?? [] } as const;
  if ('server' in settings) {
    const { roots } = settings;
    return createTlsClient({ identity, clock, check: { roots: roots === undefined ? undefined : [roots].flat() }, ...facts });
  }
  const check = serverCheck(source, settings);
  return createTlsClient({ identity, clock, check: (chain, socket) => check(chain, socket), ...facts });
}

/**
 * Options for `tls.connect`, and for drivers that call it with what they were given. They follow rotation however they are
 * copied, never resume a session, and are no part of any pool that other options share.
 *
 * OpenSSL judges first here, by all bundles at once, and what it refuses comes with its code; the verdict that counts is
 * ours, by the bundle of the server's own trust domain. Where a connection can be handed over ready-made, `connectTls` and
 * what stands on it say more of why.
 * @throws invalid `tls.settings`
 * @example
 * const socket = tls.connect({ host, port, ...tlsClientOptions(source, { authorize: authorizeId(server) }) });
 */
export function tlsClientOptions(source: X509TlsSource, settings: TlsClientSettings): NodeTlsClientOptions {
  const protocols = settings.protocols ?? [];
  const check = 'server' in settings ? undefined : serverCheck(source, settings);
  return {
    secureContext: newestContext(source, settings),
    rejectUnauthorized: true,
    // A resumed session is not checked (T-08). An own property wins over what agents put in, whatever its value.
    session: undefined,
    maxCachedSessions: 0,
    // Nothing else reads it at this end, but pools do not share connections between options that differ in it.
    sessionIdContext: randomUUID(),
    ...(protocols.length > 0 && { ALPNProtocols: [...protocols] }),
    ...(check !== undefined && {
      checkServerIdentity(_host: string, certificate: PeerCertificate): Error | undefined {
        try {
          check(certificatesOf(certificate), undefined);
          return undefined;
        } catch (error) {
          // Thrown from inside the handshake it would be nobody's.
          return asRefusal(error);
        }
      },
    }),
  };
}

/** Verifies, authorizes and tells; marks the socket when there is one. */
function serverCheck(source: X509TlsSource, settings: SpiffeServer) {
  const { authorize } = settings;
  // JavaScript callers, and configurations read from somewhere: nobody is authorized by an omission.
  if (typeof authorize !== 'function') {
    throw new SpiffeError('invalid', 'tls.settings', 'say who may be at the other end: authorize is missing');
  }
  const verify = verifierOf(source);
  return (chain: readonly Uint8Array[], socket: TLSSocket | undefined) => {
    const address = socket?.remoteAddress ?? '';
    try {
      const verified = verify(chain);
      requireAuthorized(authorize, verified.spiffeId);
      if (socket !== undefined) tellDecision({ role: 'client', peer: markPeer(socket, verified), address });
      return verified;
    } catch (error) {
      tellDecision({ role: 'client', error: asRefusal(error), address });
      throw error;
    }
  };
}

interface Verifier {
  readonly clock: Clock;
  readonly verify: ReturnType<typeof checkAgainstBundles>;
}

const verifiers = new WeakMap<Watch<TlsIdentity>, Verifier>();

/** One for all connections of a source, which remembers the servers it has seen. */
function verifierOf({ identity, clock }: X509TlsSource): Verifier['verify'] {
  const known = verifiers.get(identity);
  if (known?.clock === clock) return known.verify;
  const verify = checkAgainstBundles(identity, clock, 'server');
  verifiers.set(identity, { clock, verify });
  return verify;
}

function presented(identity: Watch<TlsIdentity>, { present }: TlsClientSettings): Watch<TlsIdentity> {
  return present === false ? mapWatch(identity, ({ bundles }) => ({ svid: undefined, bundles })) : identity;
}

/**
 * A secure context that is always the newest: whatever is asked of it is asked of the one for the identity of the moment.
 * Node asks when a handshake begins, so that options which were copied long ago follow too.
 */
function newestContext(source: X509TlsSource, settings: TlsClientSettings): SecureContext {
  const minVersion = settings.minVersion ?? 'TLSv1.2';
  const identity = presented(source.identity, settings);
  let made: { readonly for: TlsIdentity; readonly context: SecureContext } | undefined;
  const newest = (): SecureContext => {
    const { value } = identity;
    if (made?.for !== value) {
      const options = { ...secureContextOptions(value.svid, minVersion), ...trusted(value, settings) };
      made = { for: value, context: createSecureContext(options) };
    }
    return made.context;
  };
  // What cannot be loaded is told where the options are made.
  newest();
  return new Proxy(Object.create(null) as SecureContext, {
    get: (_target, property) => Reflect.get(newest(), property) as unknown,
    has: (_target, property) => Reflect.has(newest(), property),
    set: () => false,
    defineProperty: () => false,
    deleteProperty: () => false,
  });
}

interface Trusted {
  readonly ca: string[] | undefined;
  readonly allowPartialTrustChain?: true;
}

function trusted(identity: TlsIdentity, settings: TlsClientSettings): Trusted {
  if ('server' in settings) return { ca: settings.roots === undefined ? undefined : [settings.roots].flat() };
  // An authority need not be a root (T-09).
  return { ca: [...identity.bundles.values()].flatMap(authoritiesAsPem), allowPartialTrustChain: true };
}

const namedCurves: ReadonlySet<string> = new Set(['prime256v1', 'secp384r1', 'secp521r1']);
const pems = new WeakMap<object, readonly string[]>();

function authoritiesAsPem(bundle: Pick<Bundle, 'x509Authorities'>): readonly string[] {
  const known = pems.get(bundle);
  if (known !== undefined) return known;
  const pem = bundle.x509Authorities.flatMap(({ certificate }) => {
    try {
      const authority = new X509Certificate(certificate);
      // The verifier takes no others; and Node ends the process when it describes one whose curve has no name.
      const { namedCurve } = authority.publicKey.asymmetricKeyDetails ?? {};
      return namedCurve === undefined || namedCurves.has(namedCurve) ? [authority.toString()] : [];
    } catch {
      // One that cannot be read vouches for nobody, and must not stop the others.
      return [];
    }
  });
  pems.set(bundle, pem);
  return pem;
}

function reach(address: TlsAddress, signal: AbortSignal | undefined): Promise<Socket> {
  const [target, name] = 'path' in address
    ? [{ path: address.path }, address.path] as const
    : [{ host: address.host, port: address.port }, `${address.host} port ${address.port}`] as const;
  return new Promise((resolve, reject) => {
    const socket = connectTcp({ ...target, ...(signal !== undefined && { signal }) });
    socket.once('error', (cause) => {
      reject(new SpiffeError('unavailable', 'source.connect', `cannot connect to ${name}`, { cause }));
    });
    socket.once('connect', () => resolve(socket));
  });
}
