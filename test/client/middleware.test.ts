import { createServer, type IncomingMessage, request as httpRequest, type Server } from 'node:http';
import { request as httpsRequest } from 'node:https';
import express from 'express';
import fastify from 'fastify';
import { afterEach, describe, expect, it } from 'vitest';
import { authorizeAny, authorizeId, authorizeOneOf } from '../../client/authorize.ts';
import { createBundleSet } from '../../client/bundle-set.ts';
import { createHttp2Server, connectHttp2 } from '../../client/http2.ts';
import { createHttpsServer, httpsAgent } from '../../client/https.ts';
import { callerDiagnostics, callerHook, callerMiddleware, callerOf, type CallerRules, type HttpRequest, withCaller } from '../../client/middleware.ts';
import { createFakeAuthority } from '../../client/testing/authority.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { createTestClock } from '../help/clock.ts';
import { alpha, beta, federated, home, listen, sourceOf } from '../help/tls-world.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const authorize = authorizeAny();
const tokens = createFakeAuthority('example.org');
const strangers = createFakeAuthority('elsewhere.test');
const jwt = { audience: ['orders', 'orders.internal'], bundles: createBundleSet(tokens.bundle) };
const bearer = (audience: string | readonly string[] = 'orders', identity: string = alpha): string => `Bearer ${tokens.jwtSvid(identity, audience).token}`;

interface Answer {
  readonly status: number;
  readonly body: string;
  readonly challenge: string | undefined;
}

const words = (request: HttpRequest | { readonly raw: HttpRequest }): string => {
  const caller = callerOf(request);
  return `${caller?.by} ${caller?.spiffeId} over ${caller?.peer?.spiffeId}`;
};

/** Sends header lines as they are, several of one name included. */
function ask(port: number, authorization: readonly string[] = [], name = 'authorization'): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = httpRequest({ host: '127.0.0.1', port, agent: false }, (response) => void read(response).then(resolve, reject));
    if (authorization.length > 0) sent.setHeader(name, authorization);
    sent.on('error', reject);
    sent.end();
  });
}

async function read(response: IncomingMessage): Promise<Answer> {
  let body = '';
  for await (const part of response.setEncoding('utf8')) body += part as string;
  return { status: response.statusCode ?? 0, body, challenge: response.headers['www-authenticate'] };
}

const frameworks: readonly (readonly [string, (rules: CallerRules) => Promise<number>])[] = [
  ['node:http', async (rules) => listening(createServer(withCaller(rules, (request, response) => void response.end(words(request)))))],
  ['Express', async (rules) => {
    const app = express();
    app.use(callerMiddleware(rules));
    app.get('/', (request, response) => void response.send(words(request)));
    return listening(createServer(app));
  }],
  ['Fastify', async (rules) => {
    const app = fastify();
    app.addHook('onRequest', callerHook(rules));
    app.get('/', (request) => words(request));
    ends.push(() => app.close());
    await app.listen({ port: 0, host: '127.0.0.1' });
    return (app.server.address() as { port: number }).port;
  }],
];

async function listening(server: Server): Promise<number> {
  ends.push(() => server.closeAllConnections(), () => server.close());
  return listen(server);
}

describe.each(frameworks)('%s', (_name, start) => {
  it('puts the holder of a token on the request, for one of several audiences', async () => {
    const port = await start({ authorize: authorizeId(alpha), jwt });
    const answer = { status: 200, body: `jwt ${alpha} over undefined`, challenge: undefined };
    expect(await ask(port, [bearer()])).toEqual(answer);
    expect(await ask(port, [bearer(['billing', 'orders.internal'])], 'AUTHORIZATION')).toEqual(answer);
    expect(await ask(port, [bearer().replace('Bearer', 'bEARER')])).toEqual(answer);
  });

  it.each<readonly [string, () => readonly string[], number, string | undefined]>([
    ['no credential', () => [], 401, 'Bearer'],
    ['another scheme', () => ['Basic eDp5'], 401, 'Bearer'],
    ['a token for another audience', () => [bearer('billing')], 401, 'Bearer error="invalid_token"'],
    ['a token of an unknown trust domain', () => [`Bearer ${strangers.jwtSvid('/x', 'orders').token}`], 401, 'Bearer error="invalid_token"'],
    ['a token that is over', () => [`Bearer ${tokens.jwtSvid(alpha, 'orders', { ttlSeconds: -120 }).token}`], 401, 'Bearer error="invalid_token"'],
    ['what is no token', () => ['Bearer abc'], 401, 'Bearer error="invalid_token"'],
    ['an identity that is not wanted', () => [bearer('orders', beta)], 403, undefined],
    ['two headers, each of them right', () => [bearer(), bearer()], 400, 'Bearer error="invalid_request"'],
    ['a right header after another scheme', () => ['Basic eDp5', bearer()], 400, 'Bearer error="invalid_request"'],
    ['two tokens in one header', () => [`${bearer()}, ${bearer()}`], 400, 'Bearer error="invalid_request"'],
    ['no token after the scheme', () => ['Bearer'], 400, 'Bearer error="invalid_request"'],
    ['two spaces', () => [bearer().replace(' ', '  ')], 400, 'Bearer error="invalid_request"'],
  ])('refuses %s', async (_what, credentials, status, challenge) => {
    const port = await start({ authorize: authorizeId(alpha), jwt });
    const answer = await ask(port, credentials());
    expect(answer).toMatchObject({ status, challenge });
    expect(answer.body).not.toContain('spiffe');
  });

  it('answers 403 where no token could help', async () => {
    const port = await start({ authorize });
    expect(await ask(port)).toMatchObject({ status: 403, challenge: undefined });
    expect(await ask(port, [bearer()])).toMatchObject({ status: 403 });
  });

  it('lets nobody through as nobody, where that is allowed, and still refuses what is wrong', async () => {
    const port = await start({ authorize, jwt, optional: true });
    expect(await ask(port)).toMatchObject({ status: 200, body: 'undefined undefined over undefined' });
    expect(await ask(port, [bearer('billing')])).toMatchObject({ status: 401 });
  });
});

describe('over mutual TLS', () => {
  const overTls = (port: number, source = sourceOf(home.svid(alpha), federated), authorization?: string): Promise<Answer> => {
    const agent = httpsAgent(source, { authorize });
    ends.push(() => agent.destroy());
    return askWith(agent, port, authorization);
  };
  const askWith = (agent: ReturnType<typeof httpsAgent>, port: number, authorization?: string): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const headers = authorization === undefined ? {} : { authorization };
      const sent = httpsRequest({ host: '127.0.0.1', port, agent, headers }, (response) => void read(response).then(resolve, reject));
      sent.on('error', reject);
      sent.end();
    });
  const serve = async (rules: CallerRules, clients: 'required' | 'optional' = 'required'): Promise<number> => {
    const server = createHttpsServer(sourceOf(home.svid(beta), federated), { authorize, clients }, withCaller(rules, (request, response) => void response.end(words(request))));
    ends.push(() => server.closeAllConnections(), () => server.close());
    return listen(server);
  };

  it('puts the holder of the SVID on the request', async () => {
    const port = await serve({ authorize: authorizeId(alpha) });
    expect(await overTls(port)).toMatchObject({ status: 200, body: `x509 ${alpha} over ${alpha}` });
    expect(await overTls(port, sourceOf(home.svid(beta), federated))).toMatchObject({ status: 403 });
  });

  it('takes a token before the connection, and never the connection in place of a wrong token', async () => {
    const port = await serve({ authorize: authorizeOneOf(alpha, beta), jwt });
    expect(await overTls(port, undefined, bearer('orders', beta))).toMatchObject({ body: `jwt ${beta} over ${alpha}` });
    expect(await overTls(port)).toMatchObject({ body: `x509 ${alpha} over ${alpha}` });
    expect(await overTls(port, undefined, bearer('billing'))).toMatchObject({ status: 401 });
  });

  it('takes tokens alone, where only they count', async () => {
    const port = await serve({ authorize, jwt, x509: false });
    expect(await overTls(port)).toMatchObject({ status: 401, challenge: 'Bearer' });
    expect(await overTls(port, undefined, bearer())).toMatchObject({ status: 200 });
  });

  it('refuses a connection without an SVID where the server allows that', async () => {
    const port = await serve({ authorize }, 'optional');
    expect(await overTls(port, sourceOf(undefined, federated))).toMatchObject({ status: 403 });
    expect(await overTls(port)).toMatchObject({ status: 200 });
  });

  it('refuses an SVID that ended since, only when told so', async () => {
    const clock = createTestClock(Date.now());
    const [strict, lenient] = [await serve({ authorize, clock, unexpired: true }), await serve({ authorize, clock })];
    const agent = httpsAgent(sourceOf(home.svid(alpha), federated), { authorize });
    ends.push(() => agent.destroy());
    expect((await askWith(agent, strict)).status).toBe(200);
    await askWith(agent, lenient);
    await clock.step(2 * 3_600_000);
    expect((await askWith(agent, strict)).status).toBe(403);
    expect((await askWith(agent, lenient)).status).toBe(200);
  });

  it('knows callers over HTTP/2', async () => {
    const server = createHttp2Server(sourceOf(home.svid(beta), federated), { authorize }, withCaller({ authorize, jwt }, (request, response) => void response.end(words(request))));
    ends.push(() => server.close());
    const port = await listen(server);
    const session = await connectHttp2(sourceOf(home.svid(alpha), federated), `https://127.0.0.1:${port}`, { authorize });
    ends.push(() => session.destroy());
    const get = async (headers: Record<string, string> = {}): Promise<string> => {
      const stream = session.request({ ':path': '/', ...headers });
      const [status] = await new Promise<[number]>((resolve) => {
        stream.once('response', (got) => resolve([got[':status'] ?? 0]));
      });
      let text = '';
      for await (const part of stream.setEncoding('utf8')) text += part as string;
      return `${status} ${text}`;
    };
    expect(await get()).toBe(`200 x509 ${alpha} over ${alpha}`);
    expect(await get({ authorization: bearer('orders', beta) })).toBe(`200 jwt ${beta} over ${alpha}`);
    expect(await get({ authorization: bearer('billing') })).toMatch(/^401 /);
  });
});

it('tells why, and never the token', async () => {
  const told: unknown[] = [];
  const heard: unknown[] = [];
  const listener = (message: unknown): void => void heard.push(message);
  callerDiagnostics.subscribe(listener);
  ends.push(() => callerDiagnostics.unsubscribe(listener));
  const port = await listening(createServer(withCaller({ authorize, jwt, refused: (error) => told.push(error) }, () => undefined)));
  const token = bearer('billing');
  await ask(port, [token]);
  await ask(port, [token, token]);
  expect(told).toMatchObject([{ reason: 'jwt-svid.audience' }, { reason: 'caller.authorization' }]);
  expect(heard).toMatchObject([{ error: { reason: 'jwt-svid.audience' } }, { error: { reason: 'caller.authorization' } }]);
  const secret = token.split('.')[2]!;
  for (const error of told as SpiffeError[]) expect(`${error.stack} ${JSON.stringify(error.detail)} ${String(error.cause)}`).not.toContain(secret);
});

it('answers for bundles that cannot be had, and for what should not happen', async () => {
  const closed = { jwtBundleFor: () => { throw new SpiffeError('unavailable', 'source.closed', 'closed'); } };
  const broken = { jwtBundleFor: () => { throw new TypeError('broken'); } };
  const [away, bad] = await Promise.all(
    [closed, broken].map((bundles) => listening(createServer(withCaller({ authorize, jwt: { audience: 'orders', bundles } }, () => undefined)))),
  );
  expect(await ask(away!, [bearer()])).toMatchObject({ status: 503 });
  expect(await ask(bad!, [bearer()])).toMatchObject({ status: 500, body: '{"error":"internal"}' });
});

it.each([
  ['nobody is authorized', { jwt }],
  ['no credential counts', { authorize, x509: false }],
  ['there is no audience', { authorize, jwt: { ...jwt, audience: [] } }],
  ['an audience is empty', { authorize, jwt: { ...jwt, audience: '' } }],
])('refuses rules by which %s', (_what, rules) => {
  for (const make of [callerMiddleware, callerHook]) expect(() => make(rules as CallerRules)).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'caller.rules' }));
});

it('knows no caller of a request that no middleware saw', () => {
  expect(callerOf({ rawHeaders: [], socket: null })).toBeUndefined();
});
