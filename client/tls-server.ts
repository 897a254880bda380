/**
 * The server's end of TLS for `node:tls`, `node:https` and `node:http2`: each connection is served with the newest SVID,
 * and nobody hears of it before its peer was proved and authorized. Which server, listening and closing are the caller's.
 */
import { createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls';
import {
  asRefusal,
  checkAgainstBundles,
  handshakeMs,
  peerChain,
  secureContextOptions,
  type TlsIdentity,
  type TlsVersion,
} from '../runtime/tls.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { type Authorize, requireAuthorized } from './authorize.ts';
import type { X509TlsSource } from './tls.ts';
import { markPeer, peerOf, tellDecision, type TlsPeer } from './tls-peer.ts';

interface ServerFacts {
  /** TLS 1.2 with the ciphers that have forward secrecy unless given. */
  readonly minVersion?: TlsVersion;
  /** For ALPN on a plain TLS server; HTTP servers know theirs. With some, clients have to agree on one. */
  readonly protocols?: readonly string[];
  /** Presents this certificate of the web in place of the SVID. Asked with every connection, loaded when it is another object. */
  readonly certificate?: () => WebCertificate;
  /** A connection that was not let in, and why. */
  readonly refused?: (error: SpiffeError, address: string) => void;
}

/** PEM. */
export interface WebCertificate {
  readonly cert: string;
  readonly key: string;
}

/** Clients prove a SPIFFE ID. */
export interface SpiffeClients extends ServerFacts {
  /** Who may be at the other end. There is no default: `authorizeAny()` is to be said aloud. */
  readonly authorize: Authorize;
  /** With `optional` a client may show no SVID at all, and is nobody; whoever shows one is held to it. */
  readonly clients?: 'required' | 'optional';
}

/** Clients are not asked who they are. */
export interface AnyClients extends ServerFacts {
  readonly clients: 'none';
}

/** Whom a server lets in. */
export type TlsServerSettings = SpiffeClients | AnyClients;

/** What `secureServer` knows of options that `tlsServerOptions` made. */
interface Bond {
  readonly source: X509TlsSource;
  readonly settings: TlsServerSettings;
  bound: boolean;
}

const bonds = new WeakMap<object, Bond>();

/**
 * Options for a server that something else creates. They are half of it: Node's options have no place where a client is
 * authorized, nor do they follow rotation, so a server made with them refuses every handshake until it is given to
 * `secureServer` together with them.
 * @throws invalid `tls.settings`
 * @example
 * const options = tlsServerOptions(source, { authorize: authorizeMemberOf(trustDomain) });
 * const app = fastify({ https: options });
 * secureServer(app.server, options);
 */
export function tlsServerOptions(source: X509TlsSource, settings: TlsServerSettings): TlsOptions {
  checkSettings(settings);
  const bond: Bond = { source, settings, bound: false };
  const options: TlsOptions = {
    ...askedOf(settings),
    SNICallback(_name, done) {
      if (bond.bound) done(null);
      else done(new SpiffeError('invalid', 'tls.unsecured', 'the server has SPIFFE options, but was never given to secureServer'));
    },
  };
  bonds.set(options, bond);
  return options;
}

/**
 * Makes a server follow the source and let in only whom the settings of its options allow. The options are the object that
 * `tlsServerOptions` gave; the server may have been made of a copy with more in it.
 * @returns the server
 * @throws invalid `tls.options` for options that are not from `tlsServerOptions`
 */
export function secureServer<S extends Server>(server: S, options: TlsOptions): S {
  const bond = bonds.get(options);
  if (bond === undefined) {
    throw new SpiffeError('invalid', 'tls.options', 'secureServer takes the very object that tlsServerOptions gave');
  }
  bond.bound = true;
  return guard(server, bond.source, bond.settings);
}

/**
 * A TLS server, not yet listening, whose handler gets the connections that were let in.
 * @throws invalid `tls.settings`
 * @example
 * const server = createTlsServer(source, { authorize: authorizeAny() }, (socket, peer) => socket.end(`hello ${peer?.spiffeId}`));
 * server.listen(8443);
 */
export function createTlsServer(
  source: X509TlsSource,
  settings: TlsServerSettings,
  handle: (socket: TLSSocket, peer: TlsPeer | undefined) => void,
): Server {
  checkSettings(settings);
  const server = guard(createServer(askedOf(settings)), source, settings);
  server.on('secureConnection', (socket) => {
    // A connection that breaks is the handler's to notice, not the process's to end of.
    socket.on('error', () => undefined);
    handle(socket, peerOf(socket));
  });
  return server;
}

/**
 * For the files of HTTP servers: what such a server is created with, before it is given to `guard`.
 * @throws invalid `tls.settings`
 */
export function askedOf(settings: TlsServerSettings): TlsOptions {
  checkSettings(settings);
  const protocols = settings.protocols ?? [];
  return {
    requestCert: settings.clients !== 'none',
    // Ours is the verdict, and it comes before anybody hears of the connection.
    rejectUnauthorized: false,
    handshakeTimeout: handshakeMs,
    ...(protocols.length > 0 && { ALPNProtocols: [...protocols] }),
  };
}

/** For the files of HTTP servers: stands before every connection of a server that was created with `askedOf`. */
export function guard<S extends Server>(server: S, source: X509TlsSource, settings: TlsServerSettings): S {
  const { certificate, minVersion = 'TLSv1.2' } = settings;
  const admit = admission(source, settings);
  let served: { readonly identity: TlsIdentity; readonly web: WebCertificate | undefined } | undefined;
  const follow = (): void => {
    const identity = source.identity.value;
    const web = certificate?.();
    if (served !== undefined && served.identity.svid === identity.svid && served.web === web) return;
    server.setSecureContext(
      web === undefined
        ? secureContextOptions(identity.svid, minVersion)
        : { ...secureContextOptions(undefined, minVersion), cert: web.cert, key: web.key },
    );
    served = { identity, web };
  };
  follow();

  const emit = server.emit.bind(server) as (event: string | symbol, ...values: unknown[]) => boolean;
  const guarded = (event: string | symbol, ...values: unknown[]): boolean => {
    if (event === 'connection') {
      try {
        follow();
      } catch (error) {
        // What was served before may be somebody else's by now; and an exception here would end the process.
        refuse(settings, error, values[0] as TLSSocket);
        return true;
      }
    }
    if (event === 'secureConnection' && !admit(values[0] as TLSSocket)) return true;
    return emit(event, ...values);
  };
  // Every listener, of whenever, is behind this; one that were added before them could refuse but not keep them from hearing.
  Object.defineProperty(server, 'emit', { value: guarded });
  return server;
}

/** For `guard` and for gRPC: marks and lets in, or refuses and destroys. */
export function admission(source: X509TlsSource, settings: TlsServerSettings): (socket: TLSSocket) => boolean {
  const verify = checkAgainstBundles(source.identity, source.clock, 'client');
  return (socket) => {
    if (settings.clients === 'none') return true;
    const address = socket.remoteAddress ?? '';
    try {
      const chain = peerChain(socket);
      if (chain.length === 0) {
        if (settings.clients === 'optional') return true;
        throw new SpiffeError('unauthenticated', 'source.peer.anonymous', 'the client presents no SVID');
      }
      const verified = verify(chain);
      requireAuthorized(settings.authorize, verified.spiffeId);
      tellDecision({ role: 'server', peer: markPeer(socket, verified), address });
      return true;
    } catch (error) {
      refuse(settings, error, socket);
      return false;
    }
  };
}

function refuse({ refused }: TlsServerSettings, error: unknown, socket: TLSSocket): void {
  const address = socket.remoteAddress ?? '';
  const refusal = asRefusal(error);
  // Of a socket that nobody was told of nobody hears errors.
  socket.on('error', () => undefined);
  socket.destroy();
  tellDecision({ role: 'server', error: refusal, address });
  refused?.(refusal, address);
}

function checkSettings(settings: TlsServerSettings): void {
  if (settings.clients === 'none' ? 'authorize' in settings : typeof settings.authorize !== 'function') {
    throw new SpiffeError('invalid', 'tls.settings', 'a server authorizes its clients, or has clients: none and no authorize');
  }
}
