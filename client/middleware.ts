/**
 * Who makes an HTTP request: the holder of the connection's X509-SVID, or of a JWT-SVID in its Authorization header. For
 * `node:http`, Express and what takes the same middleware, and Fastify; none of them is imported. Proving connections is
 * done by the TLS servers, and tokens come from wherever callers get them.
 */
import { channel } from 'node:diagnostics_channel';
import type { Clock } from '../runtime/clock.ts';
import { systemClock } from '../runtime/clock.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { type SpiffeId, type TrustDomain, trustDomainOf } from '../spiffe/id.ts';
import { type JwtSvidStatement, maxJwtSvidBytes } from '../spiffe/jwt-svid.ts';
import { type Authorize, requireAuthorized } from './authorize.ts';
import type { JwtBundleSource } from './bundle-set.ts';
import { validateJwtSvid } from './jwt-svid.ts';
import { peerOf, type TlsPeer } from './tls-peer.ts';

/** Requests that were refused are published here as `{ error }`; neither tokens nor headers are in it. */
export const callerDiagnostics = channel('steeple.caller');

/** Whoever makes a request, as it was proved. */
export interface Caller {
  readonly spiffeId: SpiffeId;
  readonly trustDomain: TrustDomain;
  /** By what: the connection's SVID, or a token. */
  readonly by: 'x509' | 'jwt';
  /** When that ends, in epoch milliseconds. */
  readonly expiresAt: number;
  /** What the token says, when there is one; not the token. */
  readonly token: JwtSvidStatement | undefined;
  /** Who is at the other end of the connection: another one than the caller when a proxy passes tokens on. */
  readonly peer: TlsPeer | undefined;
}

/** By what a request is judged. */
export interface CallerRules {
  /** Who may call. Asked with every request, after the server's own asked it of the connection. */
  readonly authorize: Authorize;
  /** Tokens count as well, and go before the connection: with one that does not hold a request is refused, whoever sends it. */
  readonly jwt?: {
    /** What this service goes by; of several names a token needs one. */
    readonly audience: string | readonly string[];
    /** A `JwtSource` or a set of bundles. */
    readonly bundles: JwtBundleSource;
    /** How far clocks may differ; 60 unless given. */
    readonly leewaySeconds?: number;
  };
  /** False where only tokens count: whoever connects is then nobody, or a proxy. */
  readonly x509?: boolean;
  /** Lets requests without any credential through as nobody's, whose `callerOf` is undefined. A wrong one is refused all the same. */
  readonly optional?: boolean;
  /** Refuses also when the connection's SVID ended since it was made. Callers must then connect anew in time. */
  readonly unexpired?: boolean;
  readonly clock?: Clock;
  /** A request that was refused, and why. */
  readonly refused?: (error: SpiffeError, request: HttpRequest) => void;
}

/** What is needed of a request; those of `node:http`, `node:http2`, Express and Fastify's `raw` are such. */
export interface HttpRequest {
  readonly rawHeaders: readonly string[];
  readonly socket: object | null;
}

/** What is needed of a response. */
export interface HttpResponse {
  statusCode: number;
  setHeader(name: string, value: string): unknown;
  end(body: string): unknown;
}

/** Fastify's, as far as needed. */
export interface FastifyReply {
  code(status: number): FastifyReply;
  header(name: string, value: string): FastifyReply;
  send(body: unknown): unknown;
}

const callers = new WeakMap<object, Caller>();

/**
 * Who makes this request, once the middleware let it through; `undefined` for nobody, and where no middleware was asked.
 * @param request a request of `node:http`, Express or Fastify
 */
export function callerOf(request: HttpRequest | { readonly raw: HttpRequest }): Caller | undefined {
  return callers.get('raw' in request ? request.raw : request);
}

/**
 * For Express 5 and whatever takes its middleware. Answers 401, 403 or 400 itself, else goes on.
 * @throws invalid `caller.rules`
 * @example
 * app.use(callerMiddleware({ authorize: authorizeMemberOf(trustDomain), jwt: { audience: 'orders', bundles: jwtSource } }));
 * app.get('/', (request, response) => response.send(`hello ${callerOf(request)?.spiffeId}`));
 */
export function callerMiddleware(rules: CallerRules): (request: HttpRequest, response: HttpResponse, next: () => void) => void {
  const identify = identifier(rules);
  return (request, response, next) => {
    const refusal = identify(request);
    if (refusal === undefined) {
      next();
      return;
    }
    response.statusCode = refusal.status;
    for (const [name, value] of Object.entries(refusal.headers)) response.setHeader(name, value);
    response.end(refusal.body);
  };
}

/**
 * For `node:http`, `node:https` and `node:http2`: a listener that is called for those alone who may.
 * @throws invalid `caller.rules`
 * @example
 * createHttpsServer(source, { authorize }, withCaller({ authorize }, (request, response) => {
 *   response.end(`hello ${callerOf(request)?.spiffeId}`);
 * }));
 */
export function withCaller<Request extends HttpRequest, Response extends HttpResponse>(
  rules: CallerRules,
  listener: (request: Request, response: Response) => void,
): (request: Request, response: Response) => void {
  const middleware = callerMiddleware(rules);
  return (request, response) => middleware(request, response, () => listener(request, response));
}

/**
 * For Fastify 5, as an `onRequest` hook: of the whole server, or of the routes it guards.
 * @throws invalid `caller.rules`
 * @example
 * app.addHook('onRequest', callerHook({ authorize: authorizeId(orders) }));
 */
export function callerHook(
  rules: CallerRules,
): (request: { readonly raw: HttpRequest }, reply: FastifyReply, done: () => void) => void {
  const identify = identifier(rules);
  return (request, reply, done) => {
    const refusal = identify(request.raw);
    if (refusal === undefined) {
      done();
      return;
    }
    reply.code(refusal.status);
    for (const [name, value] of Object.entries(refusal.headers)) reply.header(name, value);
    reply.send(refusal.body);
  };
}

interface Refusal {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** Remembers the caller, or says how to refuse. */
function identifier(rules: CallerRules): (request: HttpRequest) => Refusal | undefined {
  const { authorize, jwt, x509 = true } = rules;
  const isForNobody = jwt !== undefined && [jwt.audience].flat().every((name) => name === '');
  if (typeof authorize !== 'function' || (jwt === undefined && !x509) || isForNobody) {
    throw new SpiffeError('invalid', 'caller.rules', 'say who is authorized, and that X509-SVIDs count, or JWT-SVIDs for an audience');
  }
  const challenge = jwt !== undefined;
  return (request) => {
    try {
      const caller = identify(request, rules);
      if (caller === undefined) {
        if (rules.optional === true) return undefined;
        throw new SpiffeError('unauthenticated', 'caller.missing', 'the request carries no credential');
      }
      requireAuthorized(authorize, caller.spiffeId);
      callers.set(request, caller);
      return undefined;
    } catch (thrown) {
      const error =
        thrown instanceof SpiffeError
          ? thrown
          : new SpiffeError('internal', 'caller.failed', 'the caller could not be told', { cause: thrown });
      if (callerDiagnostics.hasSubscribers) callerDiagnostics.publish({ error });
      rules.refused?.(error, request);
      return refusalFor(error, challenge);
    }
  };
}

function identify(request: HttpRequest, rules: CallerRules): Caller | undefined {
  const { jwt, x509 = true, unexpired = false, clock = systemClock } = rules;
  const peer = request.socket === null ? undefined : peerOf(request.socket);
  const token = jwt === undefined ? undefined : bearerToken(request);
  if (jwt !== undefined && token !== undefined) {
    const statement = validateJwtSvid(token, { ...jwt, at: clock.now() });
    const { spiffeId, expiresAt } = statement;
    return Object.freeze({ spiffeId, trustDomain: trustDomainOf(spiffeId), by: 'jwt', expiresAt, token: statement, peer });
  }
  if (!x509 || peer === undefined) return undefined;
  const { spiffeId, trustDomain, expiresAt } = peer;
  if (unexpired && clock.now() > expiresAt) {
    throw new SpiffeError('unauthenticated', 'caller.expired', 'the SVID of the connection has ended since it was made');
  }
  return Object.freeze({ spiffeId, trustDomain, by: 'x509', expiresAt, token: undefined, peer });
}

/**
 * The token of the only Authorization header; `undefined` when there is none, or one of another scheme. Node's own
 * `headers` keeps the first of several and says nothing of the others, of which something in front of us may have checked one.
 */
function bearerToken({ rawHeaders }: HttpRequest): string | undefined {
  const values: string[] = [];
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    if (rawHeaders[at]?.toLowerCase() === 'authorization') values.push(rawHeaders[at + 1] ?? '');
  }
  const [value] = values;
  if (value === undefined) return undefined;
  if (values.length > 1) {
    throw new SpiffeError('invalid', 'caller.authorization', 'the request has several Authorization headers');
  }
  const scheme = /^[^\s,]*/.exec(value)?.[0] ?? '';
  if (scheme.toLowerCase() !== 'bearer') return undefined;
  // One space and one token [RFC 6750 2.1]; longer than any token is not looked into.
  const token = value.length > maxJwtSvidBytes + 16 ? undefined : /^bearer ([\w\-.~+/]+=*)$/i.exec(value)?.[1];
  if (token === undefined) {
    throw new SpiffeError('invalid', 'caller.authorization', 'the Authorization header is not Bearer and one token');
  }
  return token;
}

/** [RFC 6750 3]; without tokens there is no challenge that could be answered, and so no 401 [RFC 9110 15.5.2]. */
function refusalFor(error: SpiffeError, challenge: boolean): Refusal {
  const refusal = (status: number, word: string, bearer?: string): Refusal => ({
    status,
    headers: {
      'content-type': 'application/json',
      'cache-control': 'no-store',
      ...(challenge && bearer !== undefined && { 'www-authenticate': bearer }),
    },
    body: JSON.stringify({ error: word }),
  });
  if (error.kind === 'denied') return refusal(403, 'forbidden');
  if (error.reason === 'caller.authorization') return refusal(400, 'invalid_request', 'Bearer error="invalid_request"');
  if (error.kind === 'unavailable') return refusal(503, 'unavailable');
  if (error.kind !== 'unauthenticated' && error.kind !== 'invalid') return refusal(500, 'internal');
  if (!challenge) return refusal(403, 'forbidden');
  if (error.reason === 'caller.missing' || error.reason === 'caller.expired') return refusal(401, 'unauthenticated', 'Bearer');
  return refusal(401, 'invalid_token', 'Bearer error="invalid_token"');
}
