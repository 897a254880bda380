import { once } from 'node:events';
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { inspect } from 'node:util';
import { describe, expect, it, onTestFinished } from 'vitest';
import { oidcCiEvidence } from '../../../agent/node/oidc-ci.ts';
import { createTestClock } from '../../help/clock.ts';

async function place(): Promise<string> {
  const directory = await mkdtemp(path.join(tmpdir(), 'steeple-oidc-'));
  onTestFinished(() => rm(directory, { recursive: true }));
  return path.join(directory, 'token');
}

describe('a token in a file', () => {
  it('is shown as it is, and once', async () => {
    const tokenFile = await place();
    const source = oidcCiEvidence({ tokenFile });
    expect([source.type, source.repeatable]).toEqual(['oidc_ci', false]);
    await expect(source.produce()).rejects.toMatchObject({ kind: 'unavailable', reason: 'evidence.oidc-ci.unreadable', detail: { because: 'files.missing' } });
    await writeFile(tokenFile, 'a.b.c-_\n');
    const evidence = await source.produce();
    expect(Buffer.from(evidence.payload).toString()).toBe('{"token":"a.b.c-_"}');
    await expect(evidence.answer(new Uint8Array())).rejects.toMatchObject({ kind: 'denied', reason: 'evidence.challenge.unexpected' });
    const named = await oidcCiEvidence({ tokenFile, trust: 'release' }).produce();
    expect(JSON.parse(Buffer.from(named.payload).toString())).toEqual({ token: 'a.b.c-_', trust: 'release' });
  });

  it.each(['', 'a.b', 'a.b.', 'a.b.c.d', 'a b.c.d', 'a.b.c\na.b.c', '{"value":"a.b.c"}', 'sécret.a.b'])('is refused when it is %j, and never repeated', async (text) => {
    const tokenFile = await place();
    await writeFile(tokenFile, text);
    const error: unknown = await oidcCiEvidence({ tokenFile }).produce().catch((caught: unknown) => caught);
    expect(error).toMatchObject({ kind: 'invalid', reason: 'evidence.oidc-ci.token' });
    if (text !== '') expect(inspect(error)).not.toContain(text);
  });

  it('is not looked for in what has no end', async () => {
    const tokenFile = await place();
    await symlink('/dev/zero', tokenFile);
    await expect(oidcCiEvidence({ tokenFile }).produce()).rejects.toMatchObject({ reason: 'evidence.oidc-ci.unreadable', detail: { because: 'files.not-file' } });
  });
});

describe('a token on request', () => {
  interface Runner {
    readonly url: string;
    readonly requests: IncomingMessage[];
    answer: { status: number; body: string };
  }
  const startRunner = async (): Promise<Runner> => {
    const server = createServer((incoming, response) => {
      runner.requests.push(incoming);
      response.writeHead(runner.answer.status, { 'content-type': 'application/json', location: '/elsewhere' }).end(runner.answer.body);
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    onTestFinished(async () => {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    });
    const runner: Runner = {
      url: `http://127.0.0.1:${String((server.address() as AddressInfo).port)}/job/7/idtoken?api-version=2.0`,
      requests: [],
      answer: { status: 200, body: '{"count":5,"value":"a.b.c"}' },
    };
    return runner;
  };
  type Bearer = { readonly requestToken: string } | { readonly requestTokenFile: string };
  const sourceOf = (requestUrl: string, bearer: Bearer = { requestToken: 'very-secret' }) =>
    oidcCiEvidence({ requestUrl, audience: 'https://steeple.example/a&b', clock: createTestClock(), ...bearer });

  it('is asked for in the words of GitHub’s runner, each time anew', async () => {
    const runner = await startRunner();
    const source = sourceOf(runner.url);
    expect([source.type, source.repeatable]).toEqual(['oidc_ci', true]);
    expect(Buffer.from((await source.produce()).payload).toString()).toBe('{"token":"a.b.c"}');
    runner.answer.body = '{"value":"d.e.f"}';
    expect(Buffer.from((await source.produce()).payload).toString()).toBe('{"token":"d.e.f"}');
    const [asked] = runner.requests;
    expect(asked).toMatchObject({ method: 'GET', url: '/job/7/idtoken?api-version=2.0&audience=https%3A%2F%2Fsteeple.example%2Fa%26b' });
    expect(asked?.headers).toMatchObject({ authorization: 'Bearer very-secret', accept: 'application/json' });
  });

  it('is asked for with what is in a file', async () => {
    const runner = await startRunner();
    const requestTokenFile = await place();
    await writeFile(requestTokenFile, 'from-a-file\n');
    await sourceOf(runner.url, { requestTokenFile }).produce();
    expect(runner.requests[0]?.headers.authorization).toBe('Bearer from-a-file');
  });

  it.each([
    [200, 'no JSON', 'invalid', 'evidence.oidc-ci.token'],
    [200, '{"value":1}', 'invalid', 'evidence.oidc-ci.token'],
    [200, '{"token":"a.b.c"}', 'invalid', 'evidence.oidc-ci.token'],
    [200, 'null', 'invalid', 'evidence.oidc-ci.token'],
    [200, '{"value":"a.b"}', 'invalid', 'evidence.oidc-ci.token'],
    [200, `{"value":"${'a'.repeat(20_000)}.b.c"}`, 'invalid', 'evidence.oidc-ci.token'],
    [200, 'x'.repeat(100_000), 'limited', 'http.too-large'],
    [302, '', 'denied', 'evidence.oidc-ci.request'],
    [401, '', 'denied', 'evidence.oidc-ci.request'],
    [403, '{"message":"very-secret"}', 'denied', 'evidence.oidc-ci.request'],
    [404, '', 'denied', 'evidence.oidc-ci.request'],
    [429, '', 'unavailable', 'oidc-ci.request'],
    [500, '', 'unavailable', 'oidc-ci.request'],
    [503, '', 'unavailable', 'oidc-ci.request'],
  ])('is not had from status %i and %.20s', async (status, body, kind, reason) => {
    const runner = await startRunner();
    runner.answer = { status, body };
    const error: unknown = await sourceOf(runner.url).produce().catch((caught: unknown) => caught);
    expect(error).toMatchObject({ kind, reason });
    expect(inspect(error, { depth: 10 })).not.toContain('very-secret');
    expect(runner.requests).toHaveLength(1);
  });

  it.each([
    ['not a URL', 'evidence.oidc-ci.request-url'],
    ['', 'evidence.oidc-ci.request-url'],
    ['http://pipelines.example/token', 'http.url'],
    ['file:///etc/passwd', 'http.url'],
  ])('is not asked for at %j', async (url, reason) => {
    await expect(sourceOf(url).produce()).rejects.toMatchObject({ kind: 'invalid', reason });
  });

  it.each(['', 'two words', 'a\r\nhost: evil'])('is not asked for with %j', async (requestToken) => {
    const runner = await startRunner();
    await expect(sourceOf(runner.url, { requestToken }).produce()).rejects.toMatchObject({ kind: 'invalid', reason: 'evidence.oidc-ci.token' });
    expect(runner.requests).toEqual([]);
  });

  it('is tried again later where the runner is out of reach', async () => {
    await expect(sourceOf('http://127.0.0.1:1/').produce()).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.unreachable' });
  });
});
