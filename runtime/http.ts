/**
 * Asking a server over HTTP/1.1 and nothing beyond the question: every bound held while reading, no redirects followed,
 * errors translated here once. What the answers mean, and asking again after a failure, are left to the callers.
 */
import { request as requestPlain } from 'node:http';
import type { ClientRequest, Agent, IncomingHttpHeaders, IncomingMessage, RequestOptions } from 'node:http';
import { request as requestSecure } from 'node:https';
import type { Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import type { ErrorContext } from '../spiffe/errors.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { abortReason, linkedController } from './abort.ts';
import type { LinkedController } from './abort.ts';
import type { Clock } from './clock.ts';
import { createHttpRoute } from './http-connect.ts';
import type { HttpEndpoint } from './http-connect.ts';
import { bodyLines, readBody } from './http-body.ts';
import { systemCode } from './linux.ts';

export type { HttpEndpoint } from './http-connect.ts';

export interface HttpRequest {
  readonly method?: 'GET' | 'POST';
  /** With its query, and escaped by the caller. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  /** Ends the exchange, which then rejects with the signal's reason; of a stream also later, for as long as it lasts. */
  readonly signal?: AbortSignal;
  /** For the whole exchange; of a stream until its head is there. 5 s unless given. */
  readonly deadlineMs?: number;
  /** Of the answer's body, 4 MiB unless given; does not bound a stream, which may be endless. */
  readonly maxBytes?: number;
}

export interface HttpAnswer {
  /** Whatever the server said, 3xx included. */
  readonly status: number;
  /** Names in lower case; what came several times is joined with `, `. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

/** An answer whose body is still coming. It holds a connection: read it to its end, leave the iteration, or close it. */
export interface HttpStream {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /**
   * The body's lines without their ends, the last one also where it has none. To be called once.
   * @throws limited `http.too-large` beyond `maxLineBytes`; unavailable `http.broken` when the body stops before its end;
   * the signal's reason
   */
  lines(maxLineBytes: number): AsyncIterableIterator<Buffer>;
  /** The body as it arrives, in place of `lines`. @throws as `lines`, but for the bound, which is the caller's */
  pieces(): AsyncIterableIterator<Buffer>;
  close(): void;
}

/** A few kept connections to one endpoint. Whoever made it closes it, which ends what is under way. */
export interface HttpClient {
  /**
   * @throws unavailable `http.unreachable` (nothing was sent), `http.deadline`, `http.broken` (the connection ended or the
   * answer is no HTTP), `http.closed`; limited `http.too-large`; unauthenticated `http.tls`, `http.owner`; invalid
   * `http.request`; the signal's reason
   */
  request(request: HttpRequest): Promise<HttpAnswer>;
  /** Resolves with the answer's head. @throws as `request` */
  stream(request: HttpRequest): Promise<HttpStream>;
  close(): void;
}

export interface HttpClientOptions {
  readonly clock: Clock;
  readonly endpoint: HttpEndpoint;
}

const DEFAULT_DEADLINE_MS = 5_000;
const DEFAULT_MAX_BYTES = 4 * 1024 * 1024;
const STREAM_PROBE_MS = 30_000;

/** @throws invalid `http.url`, `http.credentials` */
export function createHttpClient(options: HttpClientOptions): HttpClient {
  const { clock } = options;
  const route = createHttpRoute(options.endpoint);
  const never = new AbortController();
  const open = new Set<LinkedController>();
  let closed = false;

  /** What ends an exchange from our side: the caller's signal, the deadline, the client's end. */
  const begin = (signal: AbortSignal | undefined): LinkedController => {
    if (closed) throw new SpiffeError('unavailable', 'http.closed', 'the client was closed');
    const stop = linkedController(signal ?? never.signal);
    open.add(stop);
    return stop;
  };
  const end = (stop: LinkedController): void => {
    open.delete(stop);
    stop.unlink();
  };
  const within = async <T>(stop: LinkedController, deadlineMs: number, work: () => Promise<T>): Promise<T> => {
    const timer = linkedController(stop.signal);
    clock.sleep(deadlineMs, timer.signal).then(
      () => stop.abort(new SpiffeError('unavailable', 'http.deadline', `no answer within ${deadlineMs} ms`)),
      () => undefined,
    );
    try {
      return await work();
    } finally {
      timer.abort(new Error('answered'));
      timer.unlink();
    }
  };
  const ask = async (asked: HttpRequest, agent: Agent, stop: AbortSignal): Promise<IncomingMessage> => {
    const answer = await send(compose(route, asked, agent), asked.body, stop);
    // The server gave up a connection we had kept, before it saw the question.
    return answer ?? (await send(compose(route, asked, route.fresh), asked.body, stop)) ?? Promise.reject(unreachable());
  };

  return {
    async request(asked) {
      const stop = begin(asked.signal);
      try {
        return await within(stop, asked.deadlineMs ?? DEFAULT_DEADLINE_MS, async () => {
          // A question that changes something is not asked twice, and so not on a connection that may be stale.
          const answer = await ask(asked, asked.method === 'POST' ? route.fresh : route.kept, stop.signal);
          const body = await readBody(answer, asked.maxBytes ?? DEFAULT_MAX_BYTES).catch((error: unknown) => {
            throw translate(error, stop.signal);
          });
          return { status: answer.statusCode ?? 0, headers: flatten(answer.headers), body };
        });
      } finally {
        end(stop);
      }
    },
    async stream(asked) {
      const stop = begin(asked.signal);
      try {
        const answer = await within(stop, asked.deadlineMs ?? DEFAULT_DEADLINE_MS, () => ask(asked, route.fresh, stop.signal));
        // A server that vanished without a word is noticed by the kernel.
        answer.socket.setKeepAlive(true, STREAM_PROBE_MS);
        return streamOf(answer, stop, () => end(stop));
      } catch (error) {
        end(stop);
        throw error;
      }
    },
    close() {
      closed = true;
      for (const stop of open) stop.abort(new SpiffeError('unavailable', 'http.closed', 'the client was closed'));
      route.kept.destroy();
      route.fresh.destroy();
    },
  };
}

function streamOf(answer: IncomingMessage, stop: LinkedController, end: () => void): HttpStream {
  const finish = (): void => {
    end();
    answer.destroy();
  };
  answer.once('close', end);
  async function* read(body: AsyncIterable<Buffer>): AsyncIterableIterator<Buffer> {
    try {
      yield* body;
    } catch (error) {
      throw translate(error, stop.signal);
    } finally {
      finish();
    }
  }
  return {
    status: answer.statusCode ?? 0,
    headers: flatten(answer.headers),
    lines: (maxLineBytes) => read(bodyLines(answer, maxLineBytes)),
    pieces: () => read(answer),
    close: finish,
  };
}

function compose(route: ReturnType<typeof createHttpRoute>, asked: HttpRequest, agent: Agent): ClientRequest {
  const { method = 'GET', path, headers = {} } = asked;
  if (!path.startsWith('/')) throw new SpiffeError('invalid', 'http.request', 'the path does not begin with a slash');
  const options: RequestOptions = { ...route.target, method, path: `${route.prefix}${path}`, headers, agent };
  try {
    return route.target.protocol === 'https:' ? requestSecure(options) : requestPlain(options);
  } catch (error) {
    throw new SpiffeError('invalid', 'http.request', 'the path or a header holds what cannot be sent', { cause: error });
  }
}

/** @returns the answer's head; undefined when a kept connection was closed by the server and the question can be repeated */
function send(outgoing: ClientRequest, body: Uint8Array | undefined, stop: AbortSignal): Promise<IncomingMessage | undefined> {
  return new Promise((resolve, reject) => {
    let answer: IncomingMessage | undefined;
    let connected = false;
    const onStop = (): void => {
      (answer ?? outgoing).destroy(abortReason(stop));
      // One that still waits for a connection would learn of it only once it gets one.
      reject(abortReason(stop));
    };
    outgoing.once('socket', (socket) => {
      const isSecure = socket instanceof TLSSocket;
      // TLS counts as connected only once the server is proved, which it was where the connection was used before.
      connected = outgoing.reusedSocket || (!isSecure && !socket.connecting);
      // A kept connection would gather one for each request.
      if (!connected) socket.once(isSecure ? 'secureConnect' : 'connect', () => (connected = true));
    });
    // Stays for good: an error may come after the answer, and nobody else listens.
    outgoing.on('error', (error) => {
      if (outgoing.reusedSocket && !stop.aborted && ['ECONNRESET', 'EPIPE'].includes(systemCode(error) ?? '')) resolve(undefined);
      else reject(connected ? translate(error, stop) : translateUnsent(error, stop, outgoing.socket));
    });
    outgoing.once('response', (incoming) => {
      answer = incoming;
      incoming.on('error', () => undefined);
      resolve(incoming);
    });
    outgoing.once('close', () => {
      stop.removeEventListener('abort', onStop);
      reject(new SpiffeError('unavailable', 'http.broken', 'the connection ended before the answer'));
    });
    stop.addEventListener('abort', onStop, { once: true });
    if (stop.aborted) onStop();
    else outgoing.end(body);
  });
}

/** From what Node and the kernel say to our own words. */
function translate(error: unknown, stop: AbortSignal): Error {
  if (stop.aborted) return abortReason(stop);
  if (error instanceof SpiffeError) return error;
  const code = systemCode(error) ?? 'unknown';
  const context = { detail: { code }, cause: error };
  // A server may refuse our certificate after it was proved itself.
  if (isTlsCode(code)) return new SpiffeError('unauthenticated', 'http.tls', 'the server ended TLS', context);
  if (code === 'HPE_HEADER_OVERFLOW') {
    return new SpiffeError('limited', 'http.too-large', "the answer's head is too large", context);
  }
  return new SpiffeError('unavailable', 'http.broken', 'the connection ended before the answer, or that is no HTTP', context);
}

/** Of failures before there was a connection to send on. */
function translateUnsent(error: unknown, stop: AbortSignal, socket: Socket | null): Error {
  if (stop.aborted || error instanceof SpiffeError) return translate(error, stop);
  const code = systemCode(error) ?? 'unknown';
  const isUnproved = socket instanceof TLSSocket && Boolean(socket.authorizationError);
  if (isUnproved || isTlsCode(code)) {
    return new SpiffeError('unauthenticated', 'http.tls', 'the server could not be proved', { detail: { code }, cause: error });
  }
  return unreachable({ detail: { code }, cause: error });
}

function isTlsCode(code: string): boolean {
  return code === 'EPROTO' || /^ERR_(?:SSL|TLS)_/.test(code);
}

function unreachable(context: ErrorContext = {}): SpiffeError {
  return new SpiffeError('unavailable', 'http.unreachable', 'the server cannot be reached', context);
}

function flatten(headers: IncomingHttpHeaders): Readonly<Record<string, string>> {
  const flat: Record<string, string> = Object.create(null) as Record<string, string>;
  for (const [name, value] of Object.entries(headers)) if (value !== undefined) flat[name] = String(value);
  return flat;
}
