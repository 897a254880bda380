/**
 * `X509Source`: the current X509-SVID and bundles of this workload, kept fresh, and TLS ends that follow them. Fetching
 * is `workload-api.ts`; what a connection is used for is the caller's.
 */
import { connect as connectTcp, type Socket } from 'node:net';
import type { Server, TLSSocket } from 'node:tls';
import { systemClock, type Clock } from '../runtime/clock.ts';
import { createTlsClient, createTlsServer, type PeerCheck, type TlsIdentity, checkAgainstBundles } from '../runtime/tls.ts';
import { createWatch, type Watch, type WatchSource } from '../runtime/watch.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/id.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';
import { type Authorize, requireAuthorized } from './authorize.ts';
import type { X509Context } from './messages.ts';
import { diagnostics, WorkloadApi } from './workload-api.ts';

export interface X509SourceOptions {
  /** Used and not closed; without it the source opens one of its own and closes it. */
  readonly api?: WorkloadApi;
  /** Which of several identities to present; the first, which is the default, unless given. An update for which it throws is refused. */
  readonly pick?: (svids: readonly X509Svid[]) => X509Svid;
  readonly clock?: Clock;
  /** How long to wait for the first update; for ever unless the signal aborts. */
  readonly signal?: AbortSignal;
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

/**
 * Ready once `open` resolved; keeps the last good update when the agent is away. To be closed, or held by `await using`.
 */
export class X509Source implements AsyncDisposable {
  readonly #context: WatchSource<X509Context>;
  readonly #identity: WatchSource<TlsIdentity>;
  readonly #pick: (svids: readonly X509Svid[]) => X509Svid;
  /** Judges validity, and paces what is retried. */
  readonly clock: Clock;
  readonly #stop: AbortController;
  readonly #release: () => Promise<void>;

  private constructor(first: X509Context, parts: SourceParts) {
    this.#pick = parts.pick;
    this.clock = parts.clock;
    this.#stop = parts.stop;
    this.#context = createWatch(first);
    this.#identity = createWatch(identityOf(first, parts.pick));
    const following = this.#follow(parts.updates);
    this.#release = async () => {
      await following;
      parts.release();
    };
  }

  /**
   * Waits for the first update.
   * @throws as `WorkloadApi.watchX509Context`; unavailable `source.aborted` when the signal aborts first
   */
  static async open(options: X509SourceOptions = {}): Promise<X509Source> {
    const api = options.api ?? new WorkloadApi(options.clock === undefined ? {} : { clock: options.clock });
    const release = (): void => {
      if (options.api === undefined) api.close();
    };
    const stop = new AbortController();
    const abort = (): void => stop.abort();
    options.signal?.addEventListener('abort', abort, { once: true });
    try {
      if (options.signal?.aborted === true) abort();
      const updates = api.watchX509Context(stop.signal);
      const first = await updates.next();
      if (first.done === true) throw new SpiffeError('unavailable', 'source.aborted', 'no X509-SVID came before the wait was given up');
      const pick = options.pick ?? firstOf;
      return new X509Source(first.value, { pick, clock: options.clock ?? systemClock, stop, updates, release });
    } catch (error) {
      stop.abort();
      release();
      throw error;
    } finally {
      options.signal?.removeEventListener('abort', abort);
    }
  }

  /** The identity presented now. */
  get svid(): X509Svid {
    return this.#identity.value.svid ?? firstOf(this.#context.value.svids);
  }

  /** What TLS ends made of this source present and trust, now and after each update. */
  get identity(): Watch<TlsIdentity> {
    return this.#identity;
  }

  /** All identities, bundles, and each newer update. */
  get context(): Watch<X509Context> {
    return this.#context;
  }

  /** DER certificates of a trust domain's authorities, if it is known here. */
  bundleFor(trustDomain: TrustDomain): readonly Uint8Array[] | undefined {
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
    tls.follow(this.#stop.signal).catch(() => undefined);
    return tls.server;
  }

  async close(): Promise<void> {
    this.#stop.abort();
    await this.#release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #follow(updates: AsyncIterableIterator<X509Context>): Promise<void> {
    try {
      for await (const context of updates) {
        let identity: TlsIdentity;
        try {
          identity = identityOf(context, this.#pick);
        } catch (error) {
          diagnostics.publish({ event: 'update-refused', error });
          continue;
        }
        this.#identity.set(identity);
        this.#context.set(context);
      }
      this.#context.close();
      this.#identity.close();
    } catch (error) {
      // What is held stays in force; readers of the watch learn why nothing newer comes.
      const reason = error instanceof Error ? error : new Error('the watch ended');
      this.#context.close(reason);
      this.#identity.close();
    }
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

interface SourceParts {
  readonly pick: (svids: readonly X509Svid[]) => X509Svid;
  readonly clock: Clock;
  readonly stop: AbortController;
  readonly updates: AsyncIterableIterator<X509Context>;
  readonly release: () => void;
}

function identityOf(context: X509Context, pick: (svids: readonly X509Svid[]) => X509Svid): TlsIdentity {
  const bundles = new Map(
    [...context.bundles].map(([trustDomain, authorities]) => [
      trustDomain,
      { x509Authorities: authorities.map((certificate) => ({ certificate, tainted: false })) },
    ]),
  );
  return { svid: pick(context.svids), bundles };
}

function firstOf(svids: readonly X509Svid[]): X509Svid {
  const [first] = svids;
  if (first === undefined) throw new SpiffeError('internal', 'source.empty', 'an update without an identity');
  return first;
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
