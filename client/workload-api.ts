/**
 * The Workload API from a workload's side: fetch once, or watch for as long as you like. Watches reconnect by themselves;
 * what to do with what they yield is left to sources and callers.
 */
import { channel } from 'node:diagnostics_channel';
import { systemClock } from '../runtime/clock.ts';
import { backoffMs, type BackoffPolicy } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import { createRpcClient, type RpcClient, type RpcMethod } from '../runtime/rpc/call.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { SpiffeId } from '../spiffe/id.ts';
import type { JwtSvid } from '../spiffe/jwt-svid.ts';
import type { WitSvid } from '../spiffe/wit-svid.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';
import { workloadEndpoint } from './endpoint.ts';
import {
  type JwtBundles,
  jwtBundlesFromMessage,
  jwtSvidsFromMessage,
  type ValidatedToken,
  validatedFromMessage,
  type WitBundles,
  witBundlesFromMessage,
  witSvidsFromMessage,
  workloadService,
  type WorkloadService,
  type X509Bundles,
  x509BundlesFromMessage,
  type X509Context,
  x509ContextFromMessage,
} from './messages.ts';

/** What the library has to tell besides what it returns and throws. It writes nothing anywhere by itself. */
export interface Diagnostic {
  /**
   * `stream-lost`: a watch lost its stream, or did not get one, and tries again; `message-refused`: a message broke the
   * rules, and what was held stays; `update-refused`: a source could not use an update; `withdrawn`: a source let go of what
   * the agent no longer grants; `restored`: the agent grants it again; `renewal-failed`: a token that is still good could
   * not be renewed; `fetch-failed`: a watched bundle endpoint gave no bundle.
   */
  readonly event: 'stream-lost' | 'message-refused' | 'update-refused' | 'withdrawn' | 'restored' | 'renewal-failed' | 'fetch-failed';
  readonly error?: unknown;
}

/** The diagnostics channel on which the library publishes each `Diagnostic`, for `node:diagnostics_channel`. */
export const diagnosticsChannel = 'steeple.workload-api';

const diagnostics = channel(diagnosticsChannel);

/** For the sources. */
export function publishDiagnostic(message: Diagnostic): void {
  diagnostics.publish(message);
}

/** Where the agent is, and how it is waited for. */
export interface WorkloadApiOptions {
  /** Such as `unix:///run/steeple/agent/public/api.sock`; SPIFFE_ENDPOINT_SOCKET when absent. */
  readonly address?: string;
  readonly clock?: Clock;
  /** In [0, 1); spreads reconnections. */
  readonly random?: () => number;
  /** How long to wait before a watch tries again: 250 ms, growing by 1.7 up to 15 s, spread by a fifth, unless given. */
  readonly backoff?: BackoffPolicy;
}

/** What a watch tells besides updates. */
export interface WatchOptions {
  /** Told why a stream was lost or refused, before the watch tries again; it must not throw. */
  readonly onError?: (error: SpiffeError) => void;
}

/** Bounds of one call. */
export interface CallOptions {
  readonly signal?: AbortSignal;
  /** 30 s unless given. */
  readonly deadlineMs?: number;
}

/** Which tokens are asked for. */
export interface JwtRequest {
  /** Who the token is for; at least one. */
  readonly audience: string | readonly string[];
  /** One of the workload's identities; all of them when absent. */
  readonly spiffeId?: SpiffeId;
}

/** Which WIT-SVIDs are asked for. */
export interface WitRequest {
  /** One of the workload's identities; all of them when absent. */
  readonly spiffeId?: SpiffeId;
}

const headers = { 'workload.spiffe.io': 'true' };
const reconnect: BackoffPolicy = { firstMs: 250, factor: 1.7, longestMs: 15_000, jitter: 0.2 };

/**
 * A connection to the agent, made when first used. To be closed, or held by `using`. All calls throw the SpiffeError of
 * the agent: denied when it grants nothing, unavailable when it cannot be reached, and the reasons of `messages.ts`.
 */
export class WorkloadApi implements Disposable {
  readonly #client: RpcClient;
  readonly #service: WorkloadService = workloadService();
  /** Of its deadlines and pauses. */
  readonly clock: Clock;
  readonly #random: () => number;
  readonly #backoff: BackoffPolicy;

  /** @throws as `workloadEndpoint` */
  constructor(options: WorkloadApiOptions = {}) {
    this.clock = options.clock ?? systemClock;
    this.#random = options.random ?? Math.random;
    this.#backoff = options.backoff ?? reconnect;
    this.#client = createRpcClient({ clock: this.clock, address: workloadEndpoint(options.address), maxReceiveBytes: 64 * 1024 * 1024 });
  }

  /** The default identity: the first [Workload API 8]. */
  async fetchX509Svid(options: CallOptions = {}): Promise<X509Svid> {
    return firstOf((await this.fetchX509Context(options)).svids);
  }

  /** All identities, and the bundles that go with them. */
  fetchX509Context(options: CallOptions = {}): Promise<X509Context> {
    return this.#first(this.#service.FetchX509SVID, x509ContextFromMessage, options);
  }

  /** X.509 authorities of one's own trust domain and of federated ones. */
  fetchX509Bundles(options: CallOptions = {}): Promise<X509Bundles> {
    return this.#first(this.#service.FetchX509Bundles, x509BundlesFromMessage, options);
  }

  /** JWT authorities of one's own trust domain and of federated ones. */
  fetchJwtBundles(options: CallOptions = {}): Promise<JwtBundles> {
    return this.#first(this.#service.FetchJWTBundles, jwtBundlesFromMessage, options);
  }

  /** A token of the default identity, or of the one that was asked for. */
  async fetchJwtSvid(request: JwtRequest, options: CallOptions = {}): Promise<JwtSvid> {
    return firstOf(await this.fetchJwtSvids(request, options));
  }

  /** One token for each identity, or for the one that was asked for; never empty. */
  async fetchJwtSvids(request: JwtRequest, options: CallOptions = {}): Promise<readonly JwtSvid[]> {
    const audience = typeof request.audience === 'string' ? [request.audience] : [...request.audience];
    const message = { audience, spiffe_id: request.spiffeId ?? '' };
    return jwtSvidsFromMessage(await this.#client.unary(this.#service.FetchJWTSVID, message, { ...options, headers }), audience);
  }

  /** A WIT-SVID of the default identity, or of the one that was asked for. @throws unsupported where the agent serves none */
  async fetchWitSvid(request: WitRequest = {}, options: CallOptions = {}): Promise<WitSvid> {
    return firstOf(await this.fetchWitSvids(request, options));
  }

  /** As `fetchWitSvid`, one for each identity; never empty. */
  fetchWitSvids(request: WitRequest = {}, options: CallOptions = {}): Promise<readonly WitSvid[]> {
    return this.#first(this.#service.FetchWITSVID, witSvidsFromMessage, options, witMessage(request));
  }

  /** WIT authorities of one's own trust domain and of federated ones. @throws unsupported where the agent serves none */
  fetchWitBundles(options: CallOptions = {}): Promise<WitBundles> {
    return this.#first(this.#service.FetchWITBundles, witBundlesFromMessage, options);
  }

  /** Has the agent check a token that somebody presented. @throws invalid when it does not hold */
  async validateJwtSvid(token: string, audience: string, options: CallOptions = {}): Promise<ValidatedToken> {
    const message = { svid: token, audience };
    return validatedFromMessage(await this.#client.unary(this.#service.ValidateJWTSVID, message, { ...options, headers }));
  }

  /**
   * Every update from now on, the current one first. Lost connections are made again with growing pauses, also while
   * nothing is granted yet; the watch ends with the signal, and throws only what trying again cannot mend: invalid and
   * unsupported.
   */
  watchX509Context(signal: AbortSignal, options: WatchOptions = {}): AsyncIterableIterator<X509Context> {
    return this.#watch(this.#service.FetchX509SVID, x509ContextFromMessage, signal, options);
  }

  /** As `watchX509Context`. */
  watchX509Bundles(signal: AbortSignal, options: WatchOptions = {}): AsyncIterableIterator<X509Bundles> {
    return this.#watch(this.#service.FetchX509Bundles, x509BundlesFromMessage, signal, options);
  }

  /** As `watchX509Context`. */
  watchJwtBundles(signal: AbortSignal, options: WatchOptions = {}): AsyncIterableIterator<JwtBundles> {
    return this.#watch(this.#service.FetchJWTBundles, jwtBundlesFromMessage, signal, options);
  }

  /** As `watchX509Context`; of one identity alone when it is asked for. */
  watchWitSvids(signal: AbortSignal, options: WatchOptions & WitRequest = {}): AsyncIterableIterator<readonly WitSvid[]> {
    return this.#watch(this.#service.FetchWITSVID, witSvidsFromMessage, signal, options, witMessage(options));
  }

  /** As `watchX509Context`. */
  watchWitBundles(signal: AbortSignal, options: WatchOptions = {}): AsyncIterableIterator<WitBundles> {
    return this.#watch(this.#service.FetchWITBundles, witBundlesFromMessage, signal, options);
  }

  /** Ends calls and watches in flight. */
  close(): void {
    this.#client.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #first<Res, T>(method: RpcMethod<object, Res>, read: (message: Res) => T, options: CallOptions, request: object = {}): Promise<T> {
    const stream = this.#client.serverStream(method, request, { deadlineMs: 30_000, ...options, headers });
    for await (const message of stream) return read(message);
    throw new SpiffeError('unavailable', 'workload.stream.empty', 'the agent ended the stream without an answer');
  }

  async *#watch<Res, T>(
    method: RpcMethod<object, Res>,
    read: (message: Res) => T,
    signal: AbortSignal,
    options: WatchOptions,
    request: object = {},
  ): AsyncIterableIterator<T> {
    let failures = 0;
    while (!signal.aborted) {
      try {
        for await (const message of this.#client.serverStream(method, request, { signal, headers })) {
          let update: T;
          try {
            update = read(message);
          } catch (error) {
            // The last good update stays in force; the agent sends the next one whole.
            publishDiagnostic({ event: 'message-refused', error });
            options.onError?.(asSpiffeError(error));
            continue;
          }
          failures = 0;
          yield update;
        }
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof SpiffeError && (error.kind === 'invalid' || error.kind === 'unsupported' || error.reason === 'rpc.closed')) {
          throw error;
        }
        publishDiagnostic({ event: 'stream-lost', error });
        options.onError?.(asSpiffeError(error));
      }
      failures += 1;
      await this.clock.sleep(backoffMs(failures, this.#random(), this.#backoff), signal).catch(() => undefined);
    }
  }
}

function witMessage({ spiffeId }: WitRequest): object {
  return { spiffe_id: spiffeId ?? '' };
}

/** Messages without one were refused before. */
function firstOf<T>(items: readonly T[]): T {
  const [first] = items;
  if (first === undefined) throw new SpiffeError('internal', 'source.empty', 'an update without an identity');
  return first;
}

function asSpiffeError(error: unknown): SpiffeError {
  if (error instanceof SpiffeError) return error;
  return new SpiffeError('internal', 'workload.failed', 'the call failed unexpectedly', { cause: error });
}
