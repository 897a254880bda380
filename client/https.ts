/**
 * `node:https` with SVIDs: an agent for requests and a server. Both follow rotation; the TLS ends themselves are in
 * `tls.ts` and `tls-server.ts`.
 */
import { Agent, type AgentOptions, createServer, type RequestOptions, type Server } from 'node:https';
import type { RequestListener, ServerOptions } from 'node:http';
import { connect as connectTcp } from 'node:net';
import type { Duplex } from 'node:stream';
import type { TlsClient, TlsIdentity } from '../runtime/tls.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { type TlsClientSettings, tlsClient, type X509TlsSource } from './tls.ts';
import { askedOf, guard, type TlsServerSettings } from './tls-server.ts';

/** Node's settings of an agent, without those of TLS. */
export type PoolOptions = Pick<
  AgentOptions,
  'keepAlive' | 'keepAliveMsecs' | 'maxSockets' | 'maxTotalSockets' | 'maxFreeSockets' | 'scheduling' | 'timeout' | 'localAddress'
>;

/**
 * An agent for `https.request` and everything that takes one (axios, got, node-fetch). Connections are kept alive, but none
 * is used again once the SVID or a bundle changed since it was made. To be destroyed when it is not needed any more.
 * @throws invalid `tls.settings`
 * @example
 * const agent = httpsAgent(source, { authorize: authorizeId(orders) });
 * https.get('https://orders.internal/', { agent }, (response) => response.pipe(process.stdout));
 */
export function httpsAgent(source: X509TlsSource, settings: TlsClientSettings, pool: PoolOptions = {}): Agent {
  return new SpiffeAgent(source, settings, pool);
}

class SpiffeAgent extends Agent {
  readonly #client: TlsClient;
  readonly #source: X509TlsSource;
  readonly #stop = new AbortController();
  /** Under which identity and bundles a connection was made. */
  readonly #madeUnder = new WeakMap<Duplex, TlsIdentity>();
  /** Numbers for them, in the names by which connections are found. */
  readonly #generations = new WeakMap<TlsIdentity, number>();
  readonly #named = new WeakMap<object, number>();
  #generation = 0;

  constructor(source: X509TlsSource, settings: TlsClientSettings, pool: PoolOptions) {
    super({ keepAlive: true, ...pool, maxCachedSessions: 0 });
    this.#source = source;
    this.#client = tlsClient(source, settings);
    // Before Node's own listener, which would give the connection to a request that waits.
    this.prependListener('free', (socket: Duplex) => {
      if (this.#madeUnder.get(socket) !== source.identity.value) socket.destroy();
    });
    // It ends with the source or the agent, and fails only with the source.
    this.#follow().catch(() => undefined);
  }

  /** Connections are looked for under this name: those of another identity or other bundles have another one. */
  override getName(options?: RequestOptions): string {
    const name = super.getName(options);
    // Asked for once more when the socket goes, it has to be the same.
    const generation = (options && this.#named.get(options)) ?? this.#currentGeneration();
    if (options !== undefined) this.#named.set(options, generation);
    return `${name}:${generation}`;
  }

  /** Hands the connection over once the server was proved: there is nothing to hold on to before. */
  override createConnection(options: RequestOptions, tell?: (error: Error | null, socket: Duplex) => void): undefined {
    const { localAddress, socketPath } = options;
    const host = options.host ?? 'localhost';
    const identity = this.#source.identity.value;
    const tcp = connectTcp(
      socketPath === undefined || socketPath === null
        ? { host, port: Number(options.port ?? 443), ...(localAddress !== undefined && { localAddress }) }
        : { path: socketPath },
    );
    const failed = (cause: Error): void => {
      tell?.(new SpiffeError('unavailable', 'source.connect', `cannot connect to ${host}`, { cause }), tcp);
    };
    tcp.setNoDelay(true);
    tcp.once('error', failed);
    tcp.once('connect', () => {
      tcp.removeListener('error', failed);
      this.#client.handshake(tcp, { serverName: options.servername ?? host }).then(
        (socket) => {
          this.#madeUnder.set(socket, identity);
          tell?.(null, socket);
        },
        (error: Error) => tell?.(error, tcp),
      );
    });
  }

  override destroy(): void {
    this.#stop.abort();
    super.destroy();
  }

  #currentGeneration(): number {
    const { value } = this.#source.identity;
    const known = this.#generations.get(value);
    if (known !== undefined) return known;
    this.#generation += 1;
    this.#generations.set(value, this.#generation);
    return this.#generation;
  }

  /** What waits under an older identity is never asked for again. */
  async #follow(): Promise<void> {
    for await (const identity of this.#source.identity.values(this.#stop.signal)) {
      for (const socket of Object.values(this.freeSockets).flat()) {
        if (socket !== undefined && this.#madeUnder.get(socket) !== identity) socket.destroy();
      }
    }
  }
}

/**
 * An HTTPS server, not yet listening. `peerOf(request.socket)` is who asks.
 * @throws invalid `tls.settings`
 * @example
 * const server = createHttpsServer(source, { authorize: authorizeMemberOf(trustDomain) }, express());
 */
export function createHttpsServer(
  source: X509TlsSource,
  settings: TlsServerSettings & { readonly http?: ServerOptions },
  listener?: RequestListener,
): Server {
  const server = createServer({ ...settings.http, ...askedOf(settings) }, listener);
  return guard(server, source, settings);
}
