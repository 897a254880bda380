/**
 * What answers a method: async functions over requests, and their wiring to grpc-js, with one message in flight per
 * stream so that a slow reader holds its sender back. Connections, bounds and admission are left to `serve.ts`.
 */
import type { Metadata, ServiceDefinition, UntypedServiceImplementation } from '@grpc/grpc-js';
import { SpiffeError } from '../../spiffe/errors.ts';
import { abortReason } from '../abort.ts';

/** One call. `P` is whatever the connection was injected with. */
export interface CallContext<P> {
  /** Aborts when the caller goes, the deadline passes or the server stops; also once the call has ended. */
  readonly signal: AbortSignal;
  readonly connection: P;
  readonly metadata: Metadata;
  /** `/package.Service/Method`. */
  readonly method: string;
  readonly requestId: string;
  /** Epoch milliseconds by the system's clock. */
  readonly deadlineAt: number | undefined;
}

export type Unary<Req, Res, P> = (request: Req, call: CallContext<P>) => Promise<Res>;
export type ServerStream<Req, Res, P> = (request: Req, call: CallContext<P>) => AsyncIterable<Res>;
export type ClientStream<Req, Res, P> = (requests: AsyncIterable<Req>, call: CallContext<P>) => Promise<Res>;
export type Bidi<Req, Res, P> = (requests: AsyncIterable<Req>, call: CallContext<P>) => AsyncIterable<Res>;

type AnyHandler<Req, Res, P> = Unary<Req, Res, P> | ServerStream<Req, Res, P> | ClientStream<Req, Res, P> | Bidi<Req, Res, P>;

type Named<T> = { [K in keyof T as string extends K ? never : K]: T[K] };
type Decoded<M> = M extends { requestDeserialize: (bytes: Buffer) => infer Req } ? Req : never;
type Encodable<M> = M extends { responseSerialize: (value: infer Res) => Buffer } ? Res : never;

/** One function per method of the service `D`; which of the four shapes it must have, its definition says. */
export type ServiceHandlers<D, P> = {
  readonly [K in keyof Named<D>]: AnyHandler<Decoded<Named<D>[K]>, Encodable<Named<D>[K]>, P>;
};

/** A service with its handlers, ready for `createRpcServer`. */
export interface RpcService<P> {
  readonly definition: ServiceDefinition;
  readonly handlers: Readonly<Record<string, AnyHandler<unknown, unknown, P>>>;
}

export function rpcService<D extends ServiceDefinition, P>(definition: D, handlers: ServiceHandlers<D, P>): RpcService<P> {
  return { definition, handlers: handlers as unknown as RpcService<P>['handlers'] };
}

/** What `serve.ts` lends to each call: its context, its way to fail, and notice of a message waiting for its reader. */
export interface CallScope<P> {
  readonly context: CallContext<P>;
  /** Turns what a handler threw into the status to send. */
  fail(error: unknown): FailedStatus;
  writing(active: boolean): void;
  /** A request of a stream was taken; the next may be read. */
  consumed(): void;
}

export interface FailedStatus {
  readonly code: number;
  readonly details: string;
  readonly metadata: Metadata;
}

/** The parts of grpc-js's four call objects that are used here. */
interface WireCall {
  readonly metadata: Metadata;
  readonly request?: Buffer;
  on(event: 'data', listener: (message: Buffer) => void): unknown;
  on(event: 'end' | 'close', listener: () => void): unknown;
  pause(): unknown;
  resume(): unknown;
  write(message: Buffer, done: () => void): unknown;
  end(): unknown;
  emit(event: 'error', status: FailedStatus): unknown;
}

type Respond = (status: FailedStatus | null, message?: Buffer) => void;

/**
 * The definition and implementation to add to a grpc-js server. Messages pass through it as bytes; they are decoded and
 * encoded here, so that bytes which are no message are the caller's fault and not ours.
 * @param scopeOf finds a call's scope by the identity of its metadata; without one the call is refused
 */
export function wireService<P>(
  service: RpcService<P>,
  scopeOf: (metadata: Metadata) => CallScope<P>,
): { definition: ServiceDefinition; implementation: UntypedServiceImplementation } {
  const definition: Record<string, ServiceDefinition[string]> = {};
  const implementation: UntypedServiceImplementation = {};
  for (const [name, method] of Object.entries(service.definition)) {
    const handler = service.handlers[name];
    if (handler === undefined) throw new SpiffeError('internal', 'rpc.handler.missing', `no handler for ${method.path}`);
    const raw = (bytes: Buffer): Buffer => bytes;
    definition[name] = { ...method, requestDeserialize: raw, responseSerialize: raw };
    const codec: Codec = {
      decode: (bytes) => decodeRequest(bytes, method.requestDeserialize),
      encode: (message) => method.responseSerialize(message),
    };
    implementation[name] = (call: unknown, respond: unknown): void => {
      void answer(handler, codec, scopeOf, {
        call: call as WireCall,
        respond: respond as Respond,
        requestStream: method.requestStream,
        responseStream: method.responseStream,
      });
    };
  }
  return { definition, implementation };
}

interface Codec {
  decode(bytes: Buffer): unknown;
  encode(message: unknown): Buffer;
}

interface Wire {
  readonly call: WireCall;
  readonly respond: Respond;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
}

function decodeRequest(bytes: Buffer, deserialize: (bytes: Buffer) => unknown): unknown {
  try {
    return deserialize(bytes);
  } catch (cause) {
    throw new SpiffeError('invalid', 'rpc.request.malformed', 'request cannot be decoded', { cause });
  }
}

async function answer<P>(
  handler: AnyHandler<unknown, unknown, P>,
  codec: Codec,
  scopeOf: (metadata: Metadata) => CallScope<P>,
  wire: Wire,
): Promise<void> {
  const { call } = wire;
  const scope = scopeOf(call.metadata);
  const { signal } = scope.context;
  try {
    const input = wire.requestStream ? readRequests(call, codec, scope) : codec.decode(call.request ?? Buffer.alloc(0));
    // The definition, not the type, says which of the four shapes this handler has.
    const answered = (handler as (input: unknown, context: CallContext<P>) => unknown)(input, scope.context);
    if (!wire.responseStream) {
      const message = codec.encode(await answered);
      wire.respond(null, message);
      return;
    }
    await sendAll(answered as AsyncIterable<unknown>, codec, call, scope);
    call.end();
  } catch (error) {
    // An aborted call fails for the reason it was aborted, whatever its handler made of that.
    const status = scope.fail(signal.aborted ? abortReason(signal) : error);
    if (wire.responseStream) call.emit('error', status);
    else wire.respond(status);
  }
}

async function sendAll<P>(messages: AsyncIterable<unknown>, codec: Codec, call: WireCall, scope: CallScope<P>): Promise<void> {
  const { signal } = scope.context;
  const iterator = messages[Symbol.asyncIterator]();
  let finished = false;
  try {
    for (;;) {
      const next = await raceAbort(signal, () => iterator.next());
      if (next.done === true) {
        finished = true;
        return;
      }
      const bytes = codec.encode(next.value);
      scope.writing(true);
      await raceAbort(signal, () => new Promise<void>((resolve) => void call.write(bytes, resolve)));
      scope.writing(false);
    }
  } finally {
    scope.writing(false);
    // Not awaited: a generator that is itself waiting answers only when that wait ends, which its signal takes care of.
    if (!finished) Promise.resolve(iterator.return?.()).catch(() => undefined);
  }
}

/** As `untilAborted`, but keeps what was thrown as it is. */
function raceAbort<T>(signal: AbortSignal, start: () => Promise<T>): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    if (signal.aborted) {
      reject(abortReason(signal));
      return;
    }
    const onAbort = (): void => reject(abortReason(signal));
    signal.addEventListener('abort', onAbort, { once: true });
    start()
      .then(resolve, reject)
      .finally(() => signal.removeEventListener('abort', onAbort));
  });
}

/** Requests one at a time: the next is read from the wire when the handler asks for it. */
async function* readRequests<P>(call: WireCall, codec: Codec, scope: CallScope<P>): AsyncGenerator {
  const { signal } = scope.context;
  const queue: Buffer[] = [];
  let ended = false;
  let wake: () => void = () => undefined;
  const stir = (): void => wake();
  call.on('data', (message) => {
    queue.push(message);
    call.pause();
    stir();
  });
  call.on('end', () => {
    ended = true;
    stir();
  });
  call.pause();
  signal.addEventListener('abort', stir, { once: true });
  for (;;) {
    if (signal.aborted) throw abortReason(signal);
    const bytes = queue.shift();
    if (bytes !== undefined) {
      scope.consumed();
      yield codec.decode(bytes);
      continue;
    }
    if (ended) return;
    await new Promise<void>((resolve) => {
      wake = resolve;
      call.resume();
    });
  }
}
