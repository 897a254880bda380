/**
 * `X509Source`: the current X509-SVID and bundles of this workload, kept fresh, and TLS ends that follow them. Fetching
 * is `workload-api.ts`; what a connection is used for is the caller's.
 */
import { connect as connectTcp, type Socket } from 'node:net';
import type { Server, TLSSocket } from 'node:tls';
import type { Clock } from '../runtime/clock.ts';
import { checkAgainstBundles, createTlsClient, createTlsServer, type PeerCheck, type TlsIdentity } from '../runtime/tls.ts';
import { createWatch, type Watch } from '../runtime/watch.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/id.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';
import { type Authorize, requireAuthorized } from './authorize.ts';
import type { X509BundleSource } from './bundle-set.ts';
import { closeSource, follow, type Following, pickFrom, prepareSource, requireOpen, type SourceOptions, type SourceParts, untilReady } from './follow.ts';
import type { X509Context } from './messages.ts';

export interface X509SourceOptions extends SourceOptions {
  /** Which of several identities to present; the first, which is the default, unless given. An update without it, or for which it throws, is refused. */
  readonly pick?: (svids: readonly X509Svid[]) => X509Svid | undefined;
}

export interface TlsConnectOptions {
  readonly host: string;
  readonly port: number;
  readonly authorize: Authorize;
  readonly signal?: AbortSignal;
  /** For ALPN; none unless given. */
  readonly protocols?: readonly string[];
}

export interface TlsServeOptions {
  readonly authorize: Authorize;
  readonly protocols?: readonly string[];
  /** A connection that was not let in, and why. */
  readonly refused?: (error: SpiffeError, address: string) => void;
}

/** The peer of a connection that a source let in. */
export interface Peer {
  readonly spiffeId: SpiffeId;
}

/** What is presented and trusted when the agent grants nothing. */
const nothing: X509Context = Object.freeze({ svids: Object.freeze([]), bundles: new Map() });

/**
 * Ready once `open` resolved; keeps the last good update when the agent is away or sends what cannot be used, and lets go of
 * it only when the agent said for long enough that nothing is granted. To be closed, or held by `await using`.
 */
export class X509Source implements AsyncDisposable, X509BundleSource {
  /** Judges validity, and paces what is retried. */
  readonly clock: Clock;
  readonly #parts: SourceParts;
  readonly #following: Following;
  readonly #context = createWatch(nothing);
  readonly #identity = createWatch(identityOf(nothing, undefined));

  private constructor(parts: SourceParts, pick: X509SourceOptions['pick']) {
    this.#parts = parts;
    this.clock = parts.clock;
    this.#following = follow(parts, {
      watch: (signal, options) => parts.api.watchX509Context(signal, options),
      accept: (context) => this.#set(context, pickFrom(context.svids, pick)),
      withdraw: () => this.#set(nothing, undefined),
      ended: (error) => {
        this.#context.close(error);
        // TLS ends go on with what they have.
        this.#identity.close();
      },
    });
  }

  /**
   * Waits for the first update that can be used.
   * @throws as `WorkloadApi.watchX509Context`; unavailable `source.aborted` when the signal aborts first, with what it failed
   *   on as its cause
   */
  static async open(options: X509SourceOptions = {}): Promise<X509Source> {
    const parts = prepareSource(options);
    const source = new X509Source(parts, options.pick);
    await untilReady(parts, [source.#following], options.signal);
    return source;
  }

  /**
   * The identity presented now.
   * @throws denied `source.withdrawn` when the agent took it back, unavailable `source.closed`
   */
  get svid(): X509Svid {
    requireOpen(this.#parts);
    const { svid } = this.#identity.value;
    if (svid === undefined) throw new SpiffeError('denied', 'source.withdrawn', 'the agent grants this workload no identity any more');
    return svid;
  }

  /** What TLS ends made of this source present and trust, now and after each update; nothing after a withdrawal. */
  get identity(): Watch<TlsIdentity> {
    return this.#identity;
  }

  /** All identities, bundles, and each newer update; without an identity only after a withdrawal. */
  get context(): Watch<X509Context> {
    return this.#context;
  }

  /** @throws unavailable `source.closed` */
  x509BundleFor(trustDomain: TrustDomain): readonly Uint8Array[] | undefined {
    requireOpen(this.#parts);
    return this.#context.value.bundles.get(trustDomain);
  }

  /**
   * Connects with mutual TLS; resolves once the other end is proved and authorized, before anything is sent.
   * @throws unauthenticated or invalid with the verifier's reason, denied `source.peer.refused`, unavailable `tls.handshake`
   */
  async connect(options: TlsConnectOptions): Promise<TLSSocket> {
    const { host, port, signal } = options;
    const check = this.#check('server', options.authorize);
    const client = createTlsClient({ identity: this.#identity, clock: this.clock, check, serverName: host, protocols: options.protocols ?? [] });
    const socket = await reach(host, port, signal);
    return client.handshake(socket);
  }

  /**
   * A TLS server, not yet listening, that asks every client for an SVID and gives its handler the proved ones. It serves
   * new SVIDs to new connections until the source is closed; listening and closing it are the caller's.
   */
  createServer(options: TlsServeOptions, handle: (socket: TLSSocket, peer: Peer) => void): Server {
    const refused = options.refused ?? (() => undefined);
    const tls = createTlsServer({
      identity: this.#identity,
      clock: this.clock,
      protocols: options.protocols ?? [],
      refused,
      accept(socket, peer) {
        try {
          if (peer === undefined) throw new SpiffeError('unauthenticated', 'source.peer.anonymous', 'the client presents no SVID');
          requireAuthorized(options.authorize, peer.spiffeId);
        } catch (error) {
          const address = socket.remoteAddress ?? '';
          socket.destroy();
          refused(error as SpiffeError, address);
          return;
        }
        handle(socket, { spiffeId: peer.spiffeId });
      },
    });
    // It ends with the source and fails only with it.
    tls.follow(this.#parts.stop.signal).catch(() => undefined);
    return tls.server;
  }

  /** Ends the watch. What TLS ends hold stays until they are closed. */
  close(): Promise<void> {
    return closeSource(this.#parts, [this.#following]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #set(context: X509Context, svid: X509Svid | undefined): void {
    this.#identity.set(identityOf(context, svid));
    this.#context.set(context);
  }

  #check(usage: 'client' | 'server', authorize: Authorize): PeerCheck {
    const verify = checkAgainstBundles(this.#identity, this.clock, usage);
    return (chain) => {
      const peer = verify(chain);
      requireAuthorized(authorize, peer.spiffeId);
      return peer;
    };
  }
}

function identityOf(context: X509Context, svid: X509Svid | undefined): TlsIdentity {
  const bundles = new Map(
    [...context.bundles].map(([trustDomain, authorities]) => [
      trustDomain,
      { x509Authorities: authorities.map((certificate) => ({ certificate, tainted: false })) },
    ]),
  );
  return { svid, bundles };
}

function reach(host: string, port: number, signal: AbortSignal | undefined): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connectTcp({ host, port, ...(signal !== undefined && { signal }) });
    socket.once('connect', () => resolve(socket));
    socket.once('error', (cause) => {
      reject(new SpiffeError('unavailable', 'source.connect', `cannot connect to ${host} port ${port}`, { cause }));
    });
  });
}
