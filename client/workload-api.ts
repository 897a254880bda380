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
import { workloadEndpoint } from './endpoint.ts';
import {
  type JwtBundles,
  jwtBundlesFromMessage,
  jwtSvidsFromMessage,
  type ValidatedToken,
  validatedFromMessage,
  workloadService,
  type WorkloadService,
  type X509Bundles,
  x509BundlesFromMessage,
  type X509Context,
  x509ContextFromMessage,
} from './messages.ts';

/** Attempts to reach the agent again, and messages that were refused, are published here as `{ event, error }`. */
export const diagnostics = channel('steeple.workload-api');

export interface WorkloadApiOptions {
  /** Such as `unix:///run/steeple/agent/public/api.sock`; SPIFFE_ENDPOINT_SOCKET when absent. */
  readonly address?: string;
  readonly clock?: Clock;
  /** In [0, 1); spreads reconnections. */
  readonly random?: () => number;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** 30 s unless given. */
  readonly deadlineMs?: number;
}

export interface JwtRequest {
  /** Who the token is for; at least one. */
  readonly audience: string | readonly string[];
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
  readonly #clock: Clock;
  readonly #random: () => number;

  /** @throws as `workloadEndpoint` */
  constructor(options: WorkloadApiOptions = {}) {
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? Math.random;
    this.#client = createRpcClient({ clock: this.#clock, address: workloadEndpoint(options.address), maxReceiveBytes: 64 * 1024 * 1024 });
  }

  fetchX509Context(options: CallOptions = {}): Promise<X509Context> {
    return this.#first(this.#service.FetchX509SVID, x509ContextFromMessage, options);
  }

  fetchX509Bundles(options: CallOptions = {}): Promise<X509Bundles> {
    return this.#first(this.#service.FetchX509Bundles, x509BundlesFromMessage, options);
  }

  fetchJwtBundles(options: CallOptions = {}): Promise<JwtBundles> {
    return this.#first(this.#service.FetchJWTBundles, jwtBundlesFromMessage, options);
  }

  /** One token for each identity, or for the one that was asked for; never empty. */
  async fetchJwtSvids(request: JwtRequest, options: CallOptions = {}): Promise<readonly JwtSvid[]> {
    const audience = typeof request.audience === 'string' ? [request.audience] : [...request.audience];
    const message = { audience, spiffe_id: request.spiffeId ?? '' };
    return jwtSvidsFromMessage(await this.#client.unary(this.#service.FetchJWTSVID, message, { ...options, headers }));
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
  watchX509Context(signal: AbortSignal): AsyncIterableIterator<X509Context> {
    return this.#watch(this.#service.FetchX509SVID, x509ContextFromMessage, signal);
  }

  /** As `watchX509Context`. */
  watchX509Bundles(signal: AbortSignal): AsyncIterableIterator<X509Bundles> {
    return this.#watch(this.#service.FetchX509Bundles, x509BundlesFromMessage, signal);
  }

  /** As `watchX509Context`. */
  watchJwtBundles(signal: AbortSignal): AsyncIterableIterator<JwtBundles> {
    return this.#watch(this.#service.FetchJWTBundles, jwtBundlesFromMessage, signal);
  }

  /** Ends calls and watches in flight. */
  close(): void {
    this.#client.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #first<Res, T>(method: RpcMethod<object, Res>, read: (message: Res) => T, options: CallOptions): Promise<T> {
    const stream = this.#client.serverStream(method, {}, { deadlineMs: 30_000, ...options, headers });
    for await (const message of stream) return read(message);
    throw new SpiffeError('unavailable', 'workload.stream.empty', 'the agent ended the stream without an answer');
  }

  async *#watch<Res, T>(method: RpcMethod<object, Res>, read: (message: Res) => T, signal: AbortSignal): AsyncIterableIterator<T> {
    let failures = 0;
    while (!signal.aborted) {
      try {
        for await (const message of this.#client.serverStream(method, {}, { signal, headers })) {
          let update: T;
          try {
            update = read(message);
          } catch (error) {
            // The last good update stays in force; the agent sends the next one whole.
            diagnostics.publish({ event: 'message-refused', error });
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
        diagnostics.publish({ event: 'stream-lost', error });
      }
      failures += 1;
      await this.#clock.sleep(backoffMs(failures, this.#random(), reconnect), signal).catch(() => undefined);
    }
  }
}
