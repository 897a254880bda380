/**
 * Calls to a gRPC server: deadline, cancellation and errors of ours, and a new connection when the credentials change.
 * How a connection is secured is left to `runtime/tls.ts`, when to try again to the caller.
 */
import { Client, credentials, Metadata, status as grpcStatus } from '@grpc/grpc-js';
import type { ChannelCredentials, ChannelOptions, ClientDuplexStream, ClientReadableStream } from '@grpc/grpc-js';
import { SpiffeError } from '../../spiffe/errors.ts';
import { abortReason } from '../abort.ts';
import type { Clock } from '../clock.ts';
import { fromStatus } from './status.ts';

/** The part of a loaded method definition that a call needs. */
export interface RpcMethod<Req, Res> {
  readonly path: string;
  readonly requestSerialize: (request: Req) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => Res;
}

/** Where a client's connections get their security from. */
export interface ClientSecurity {
  /** What new connections use. Another object than last time means that existing ones are to be left. */
  current(): ChannelCredentials;
  /** Why the last handshake failed, if it did, since that does not travel through grpc-js. */
  lastFailure(): SpiffeError | undefined;
}

export interface RpcClientOptions {
  readonly clock: Clock;
  /** `host:port`, or `unix:/path` of a socket. */
  readonly address: string;
  /** Without it the connection is plain, as on a Unix socket. */
  readonly security?: ClientSecurity;
  readonly maxReceiveBytes?: number;
  /**
   * False to send no pings: towards a server of the same machine, which cannot go unnoticed, and of gRPC for Go, which cuts
   * whoever pings more than once in five minutes.
   */
  readonly keepalive?: boolean;
}

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** Of the whole call. 30 s for unary calls unless given; streams have none unless given. */
  readonly deadlineMs?: number;
  /** Plain text headers. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** Both directions of a bidirectional stream. */
export interface Conversation<Req, Res> {
  /** Resolves when the request was handed to the connection. */
  send(request: Req): Promise<void>;
  /** No more requests. */
  finish(): void;
  /** To be read to its end or broken off, either of which ends the call. */
  readonly responses: AsyncIterableIterator<Res>;
}

/**
 * All calls throw the SpiffeError that the server threw or the nearest one, unavailable `rpc.deadline` and
 * `rpc.unreachable`, or the reason of the signal.
 */
export interface RpcClient {
  unary<Req, Res>(method: RpcMethod<Req, Res>, request: Req, options?: CallOptions): Promise<Res>;
  /** The call is made when the first value is asked for, and cancelled when the loop over it is left. */
  serverStream<Req, Res>(method: RpcMethod<Req, Res>, request: Req, options?: CallOptions): AsyncIterableIterator<Res>;
  /** The call is made at once. */
  converse<Req, Res>(method: RpcMethod<Req, Res>, options?: CallOptions): Conversation<Req, Res>;
  /** Lets go of the connection; calls in flight are cancelled. */
  close(): void;
}

const unaryDeadlineMs = 30_000;
const defaultMaxReceive = 4 * 1024 * 1024;

/** One channel and how many calls are on it; a retired one closes with its last call. */
interface Line {
  readonly client: Client;
  readonly credentials: ChannelCredentials;
  calls: number;
  retired: boolean;
}

export function createRpcClient(options: RpcClientOptions): RpcClient {
  const plain = credentials.createInsecure();
  const closing = new AbortController();
  let line: Line | undefined;

  const take = (): Line => {
    if (closing.signal.aborted) throw new SpiffeError('unavailable', 'rpc.closed', 'client is closed');
    const wanted = options.security?.current() ?? plain;
    if (line === undefined || line.credentials !== wanted) {
      if (line !== undefined) retire(line);
      line = { client: new Client(options.address, wanted, channelOptions(options)), credentials: wanted, calls: 0, retired: false };
    }
    line.calls += 1;
    return line;
  };
  const release = (used: Line): void => {
    used.calls -= 1;
    if (used.retired && used.calls === 0) used.client.close();
  };
  const retire = (old: Line): void => {
    old.retired = true;
    if (old.calls === 0) old.client.close();
  };

  const failed = (error: unknown, watch: CancelWatch): unknown => {
    if (watch.reason !== undefined) return watch.reason;
    if (!isServiceError(error)) return error;
    const failure = error.code === grpcStatus.UNAVAILABLE ? options.security?.lastFailure() : undefined;
    if (failure !== undefined) {
      return new SpiffeError('unavailable', 'rpc.unreachable', `cannot connect to ${options.address}: ${failure.message}`, {
        detail: { peerReason: failure.reason },
        cause: failure,
      });
    }
    const obstacle = obstacleIn(error);
    if (obstacle !== undefined) {
      return new SpiffeError('unavailable', 'rpc.unreachable', `cannot connect to ${options.address} (${obstacle})`, { cause: error });
    }
    return fromStatus(error);
  };

  return {
    async unary(method, request, callOptions = {}) {
      const watch = watchCancel(options.clock, closing.signal, { deadlineMs: unaryDeadlineMs, ...callOptions });
      const used = take();
      try {
        return await new Promise((resolve, reject) => {
          const call = used.client.makeUnaryRequest(
            method.path,
            method.requestSerialize,
            method.responseDeserialize,
            request,
            metadataOf(callOptions),
            (error, response) => {
              if (error === null && response !== undefined) resolve(response);
              else reject(error ?? new SpiffeError('internal', 'rpc.response.missing', 'server answered nothing'));
            },
          );
          watch.start(() => call.cancel());
        });
      } catch (error) {
        throw failed(error, watch);
      } finally {
        watch.end();
        release(used);
      }
    },

    async *serverStream(method, request, callOptions = {}) {
      const watch = watchCancel(options.clock, closing.signal, callOptions);
      const used = take();
      const call = used.client.makeServerStreamRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        metadataOf(callOptions),
      );
      try {
        watch.start(() => call.cancel());
        yield* read(call);
      } catch (error) {
        throw failed(error, watch);
      } finally {
        watch.end();
        call.cancel();
        release(used);
      }
    },

    converse<Req, Res>(method: RpcMethod<Req, Res>, callOptions: CallOptions = {}): Conversation<Req, Res> {
      const watch = watchCancel(options.clock, closing.signal, callOptions);
      const used = take();
      const call: ClientDuplexStream<Req, Res> = used.client.makeBidiStreamRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        metadataOf(callOptions),
      );
      // Kept for whoever reads the responses: an error event without a listener would end the process.
      let early: unknown;
      call.on('error', (error) => {
        early ??= error;
      });
      const ended = new Promise<void>((resolve) => {
        call.once('close', resolve);
        call.once('error', () => resolve());
      });
      watch.start(() => call.cancel());
      void ended.then(() => {
        watch.end();
        release(used);
      });
      return {
        send: (request) =>
          new Promise((resolve, reject) => {
            if (early !== undefined || call.destroyed) {
              reject(asError(failed(early ?? new SpiffeError('unavailable', 'rpc.cancelled', 'call has ended'), watch)));
              return;
            }
            // Resolved by the error too: what went wrong is told to whoever reads the responses.
            void ended.then(resolve);
            call.write(request, () => resolve());
          }),
        finish: () => {
          call.end();
        },
        responses: (async function* () {
          try {
            if (early !== undefined) throw asError(early);
            yield* read(call);
          } catch (error) {
            throw failed(error, watch);
          } finally {
            call.cancel();
          }
        })(),
      };
    },

    close() {
      if (closing.signal.aborted) return;
      closing.abort(new SpiffeError('unavailable', 'rpc.closed', 'client is closed'));
      if (line !== undefined) retire(line);
      line = undefined;
    },
  };
}

function channelOptions(options: RpcClientOptions): ChannelOptions {
  return {
    'grpc.max_receive_message_length': options.maxReceiveBytes ?? defaultMaxReceive,
    'grpc.keepalive_time_ms': options.keepalive === false ? -1 : 20_000,
    'grpc.keepalive_timeout_ms': 20_000,
    'grpc.enable_retries': 0,
    'grpc.service_config_disable_resolution': 1,
    // No proxy from the environment, and no connection shared with a client of other credentials.
    'grpc.enable_http_proxy': 0,
    'grpc.use_local_subchannel_pool': 1,
    'grpc.enable_channelz': 0,
    'grpc.initial_reconnect_backoff_ms': 200,
    'grpc.min_reconnect_backoff_ms': 200,
    'grpc.max_reconnect_backoff_ms': 5_000,
  };
}

async function* read<Res>(call: ClientReadableStream<Res> | ClientDuplexStream<unknown, Res>): AsyncGenerator<Res, void, undefined> {
  for await (const message of call) yield message as Res;
}

interface CancelWatch {
  /** Why we cancelled the call, if we did. */
  readonly reason: Error | undefined;
  /** Calls `cancel` once when there is reason to. */
  start(cancel: () => void): void;
  end(): void;
}

function watchCancel(clock: Clock, closing: AbortSignal, options: CallOptions): CancelWatch {
  let reason: Error | undefined;
  let cancelCall: (() => void) | undefined;
  const over = new AbortController();
  const stop = (why: Error): void => {
    if (reason !== undefined || over.signal.aborted) return;
    reason = why;
    cancelCall?.();
  };
  const onAbort = (): void => stop(abortReason(options.signal ?? closing));
  const onClose = (): void => stop(abortReason(closing));
  options.signal?.throwIfAborted();
  return {
    get reason() {
      return reason;
    },
    start(cancel) {
      cancelCall = cancel;
      options.signal?.addEventListener('abort', onAbort, { once: true });
      closing.addEventListener('abort', onClose, { once: true });
      if (options.deadlineMs === undefined) return;
      clock.sleep(options.deadlineMs, over.signal).then(
        () => stop(new SpiffeError('unavailable', 'rpc.deadline', `no answer within ${options.deadlineMs} ms`)),
        () => undefined,
      );
    },
    end() {
      over.abort();
      options.signal?.removeEventListener('abort', onAbort);
      closing.removeEventListener('abort', onClose);
    },
  };
}

function metadataOf(options: CallOptions): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(options.headers ?? {})) metadata.set(name, value);
  return metadata;
}

/** The system's code for why no connection came about, which grpc-js only tells in prose; `undefined` for other failures. */
function obstacleIn(error: { readonly code: number; readonly details: string }): string | undefined {
  if (error.code !== grpcStatus.UNAVAILABLE || !error.details.startsWith('No connection established')) return undefined;
  return /\b(E[A-Z]{3,})\b/.exec(error.details)?.[1] ?? 'no connection';
}

function isServiceError(error: unknown): error is { readonly code: number; readonly details: string; readonly metadata?: Metadata } {
  return error instanceof Error && 'code' in error && typeof error.code === 'number' && 'details' in error;
}

function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error('call failed', { cause: error });
}
