/**
 * Credentials for gRPC over `@grpc/grpc-js`, for channels and for servers, and who is calling. They are made of the module
 * that the program itself imports: grpc-js takes only credentials of its own copy. The TLS ends are in `tls.ts` and
 * `tls-server.ts`.
 */
import type * as Grpc from '@grpc/grpc-js';
import type { ChannelCredentials, ServerCredentials } from '@grpc/grpc-js';
import type { TLSSocket } from 'node:tls';
import { handshakeMs, secureContextOptions } from '../runtime/tls.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { type TlsClientSettings, tlsClient, type X509TlsSource } from './tls.ts';
import { peerOf, type TlsPeer } from './tls-peer.ts';
import { admission, askedOf, type TlsServerSettings } from './tls-server.ts';

/** A call as handlers and interceptors have it. */
export interface GrpcCall {
  getAuthContext(): { readonly sslPeerCertificate?: object } | null;
}

/** The part of `@grpc/grpc-js` that is needed: `import * as grpc from '@grpc/grpc-js'` is one. */
export type GrpcModule = Pick<
  typeof Grpc,
  'CallCredentials' | 'ChannelCredentials' | 'ServerCredentials' | 'ServerInterceptingCall' | 'status'
>;

/**
 * Credentials for clients. A channel handshakes with the newest SVID whenever it connects; connections it has live on.
 * `compose` adds call credentials, as with any others.
 * @throws invalid `tls.settings`; unsupported `grpc.version` for a grpc-js before 1.13
 * @example
 * const client = new Greeter('greeter.internal:50051', grpcChannelCredentials(grpc, source, { authorize: authorizeId(greeter) }));
 */
export function grpcChannelCredentials(grpc: GrpcModule, source: X509TlsSource, settings: TlsClientSettings): ChannelCredentials {
  if (typeof grpc.ChannelCredentials.createInsecure()._createSecureConnector !== 'function') throw tooOld();
  const client = tlsClient(source, { ...settings, protocols: ['h2'] });

  class SpiffeChannelCredentials extends grpc.ChannelCredentials {
    override _isSecure(): boolean {
      return true;
    }

    override _equals(other: ChannelCredentials): boolean {
      // Connections are shared between channels whose credentials are equal, and each of these has its own authorize.
      return this === other;
    }

    override _createSecureConnector(
      ...[target, , callCredentials]: Parameters<ChannelCredentials['_createSecureConnector']>
    ): ReturnType<ChannelCredentials['_createSecureConnector']> {
      const calls = callCredentials ?? grpc.CallCredentials.createEmpty();
      const serverName = hostOf(target.path);
      return {
        connect: async (socket) => ({ socket: await client.handshake(socket, { serverName }), secure: true }),
        waitForReady: () => Promise.resolve(),
        getCallCredentials: () => calls,
        destroy: () => undefined,
      };
    }
  }
  return new SpiffeChannelCredentials();
}

/**
 * Credentials for `server.bindAsync`. New connections get the newest SVID; a connection is HTTP/2 only after its client
 * was proved and authorized, and no call is served on one that was not.
 * @throws invalid `tls.settings`; unsupported `grpc.version` for a grpc-js before 1.13
 * @example
 * server.bindAsync('0.0.0.0:50051', grpcServerCredentials(grpc, source, { authorize: authorizeMemberOf(trustDomain) }), done);
 */
export function grpcServerCredentials(grpc: GrpcModule, source: X509TlsSource, settings: TlsServerSettings): ServerCredentials {
  const own = grpc.ServerCredentials.createInsecure();
  if (typeof own._addWatcher !== 'function' || typeof own._getInterceptors !== 'function') throw tooOld();
  const { requestCert, rejectUnauthorized, handshakeTimeout } = askedOf(settings);
  const asked = {
    requestCert: requestCert === true,
    rejectUnauthorized: rejectUnauthorized === true,
    handshakeTimeout: handshakeTimeout ?? handshakeMs,
  };
  const minVersion = settings.minVersion ?? 'TLSv1.2';
  const admit = admission(source, settings);
  const context = () => {
    const { svid } = source.identity.value;
    // Without one grpc-js drops what comes.
    return svid === undefined ? null : secureContextOptions(svid, minVersion);
  };

  class SpiffeServerCredentials extends grpc.ServerCredentials {
    #stop: AbortController | undefined;

    constructor() {
      super({ ...asked, ALPNCallback: stand }, context() ?? undefined);
    }

    override _equals(other: ServerCredentials): boolean {
      return this === other;
    }

    override _addWatcher(watcher: Parameters<ServerCredentials['_addWatcher']>[0]): void {
      super._addWatcher(watcher);
      if (this.#stop !== undefined) return;
      this.#stop = new AbortController();
      // It ends with the source or the server, and fails only with the source.
      this.#follow(this.#stop.signal).catch(() => undefined);
    }

    override _removeWatcher(watcher: Parameters<ServerCredentials['_removeWatcher']>[0]): void {
      super._removeWatcher(watcher);
      if (this.getWatcherCount() > 0) return;
      this.#stop?.abort();
      this.#stop = undefined;
    }

    /** The second fence: were a connection ever to get past the first, nothing would be served on it. */
    override _getInterceptors(): ReturnType<ServerCredentials['_getInterceptors']> {
      return [
        (_method, call) =>
          new grpc.ServerInterceptingCall(call, {
            start(next) {
              const certificate = certificateOf(call);
              const isNobodyServed = settings.clients === 'none' || settings.clients === 'optional';
              const known = certificate === undefined ? isNobodyServed : peers.has(certificate);
              if (known) next();
              else call.sendStatus({ code: grpc.status.UNAUTHENTICATED, details: 'the client was not proved' });
            },
          }),
      ];
    }

    async #follow(signal: AbortSignal): Promise<void> {
      for await (const _identity of source.identity.values(signal)) this.updateSecureContextOptions(context());
    }
  }

  /**
   * The only thing of ours that grpc-js hands on to the server it creates, asked in every handshake of a client that speaks
   * HTTP/2. Node calls it on the socket, whose completion is then let through only for those who may.
   */
  function stand(this: unknown, { protocols }: { readonly protocols: readonly string[] }): string | undefined {
    // Were this no socket, the handshake would fail, and with it every connection: an error, but no door.
    if (!protocols.includes('h2') || !isSocket(this)) return undefined;
    holdBack(this);
    return 'h2';
  }

  function holdBack(socket: TLSSocket): void {
    const emit = socket.emit.bind(socket) as (event: string | symbol, ...values: unknown[]) => boolean;
    const guarded = (event: string | symbol, ...values: unknown[]): boolean => {
      if (event === 'secure') {
        if (!admit(socket)) return true;
        nameCertificate(socket);
      }
      return emit(event, ...values);
    };
    Object.defineProperty(socket, 'emit', { value: guarded });
  }

  return new SpiffeServerCredentials();
}

/**
 * Who makes this call: the proved peer of the connection it came over; `undefined` when there is none, also when the
 * server was bound with other credentials.
 * @param call what a handler gets
 * @example
 * function sayHello(call, done) {
 *   done(null, { message: `hello ${grpcPeer(call)?.spiffeId}` });
 * }
 */
export function grpcPeer(call: GrpcCall): TlsPeer | undefined {
  const certificate = certificateOf(call);
  return certificate === undefined ? undefined : peers.get(certificate);
}

/** By the certificates that proved sockets give out: all that a call lets one see of its connection. */
const peers = new WeakMap<object, TlsPeer>();

function certificateOf(call: GrpcCall): object | undefined {
  return call.getAuthContext()?.sslPeerCertificate;
}

function nameCertificate(socket: TLSSocket): void {
  const peer = peerOf(socket);
  if (peer === undefined) return;
  const look = socket.getPeerCertificate.bind(socket) as (detailed?: boolean) => object;
  // Read once: gRPC asks with every call. What is on another curve is not described, as in `runtime/tls.ts`.
  const leaf = socket.getPeerX509Certificate();
  const { namedCurve } = leaf?.publicKey.asymmetricKeyDetails ?? {};
  const isPlain = namedCurve === undefined || ['prime256v1', 'secp384r1', 'secp521r1'].includes(namedCurve);
  const certificate = leaf === undefined || isPlain ? look() : { raw: leaf.raw };
  peers.set(certificate, peer);
  const known = (detailed?: boolean): object => (detailed === true ? look(true) : certificate);
  Object.defineProperty(socket, 'getPeerCertificate', { value: known });
}

function isSocket(value: unknown): value is TLSSocket {
  return typeof value === 'object' && value !== null && 'getPeerCertificate' in value && 'emit' in value;
}

function hostOf(target: string): string {
  return target.replace(/:\d+$/, '').replace(/^\[(.*)\]$/, '$1');
}

function tooOld(): SpiffeError {
  return new SpiffeError('unsupported', 'grpc.version', 'this version of @grpc/grpc-js is too old: 1.13 is the first');
}
