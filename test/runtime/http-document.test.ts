import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { answerWithDocument, jsonDocument, noSuchPage } from '../../runtime/http-document.ts';
import type { DocumentOutcome } from '../../runtime/http-document.ts';

const document = jsonDocument('{"a":1}', { maxAgeSeconds: 60 });
const ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

interface Answer {
  readonly status: number | undefined;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: string;
}

async function served(): Promise<{ readonly outcomes: DocumentOutcome[]; ask(method: string, path: string, headers?: Record<string, string>, body?: string): Promise<Answer> }> {
  const outcomes: DocumentOutcome[] = [];
  const server = createServer((incoming, outgoing) => {
    outcomes.push(answerWithDocument(incoming, outgoing, (path) => (path === '/' ? document : noSuchPage)));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  ends.push(() => new Promise((resolve) => server.close(resolve)));
  const { port } = server.address() as AddressInfo;
  return {
    outcomes,
    ask: (method, path, headers = {}, body) =>
      new Promise((resolve, reject) => {
        const outgoing = request({ host: '127.0.0.1', port, method, path, headers, agent: false }, (incoming) => {
          let text = '';
          incoming.on('data', (piece) => (text += String(piece)));
          incoming.on('end', () => resolve({ status: incoming.statusCode, headers: incoming.headers, body: text }));
        });
        outgoing.on('error', reject);
        outgoing.end(body);
      }),
  };
}

describe('a document', () => {
  it('is sent with what it is and how long it keeps', async () => {
    const { ask, outcomes } = await served();
    const answer = await ask('GET', '/?bust=1');
    expect(answer).toMatchObject({
      status: 200,
      body: '{"a":1}',
      headers: {
        'content-type': 'application/json',
        'content-length': '7',
        'cache-control': 'public, max-age=60',
        'x-content-type-options': 'nosniff',
        etag: document.etag,
      },
    });
    expect(outcomes).toEqual(['sent']);
  });

  it('is described to HEAD', async () => {
    const { ask } = await served();
    expect(await ask('HEAD', '/')).toMatchObject({ status: 200, body: '', headers: { 'content-length': '7', etag: document.etag } });
  });

  it('has the same validator wherever it is made, and another with other bytes', () => {
    expect(jsonDocument('{"a":1}', { maxAgeSeconds: 1 }).etag).toBe(document.etag);
    expect(jsonDocument('{"a":2}', { maxAgeSeconds: 60 }).etag).not.toBe(document.etag);
  });

  it.each([
    [document.etag, 304],
    [`W/${document.etag}`, 304],
    [`"x", ${document.etag}`, 304],
    ['*', 304],
    ['"x"', 200],
    ['', 200],
  ])('is not sent to who has it: %s', async (header, status) => {
    const { ask, outcomes } = await served();
    const answer = await ask('GET', '/', { 'if-none-match': header });
    expect(answer.status).toBe(status);
    expect(answer.body).toBe(status === 304 ? '' : '{"a":1}');
    expect(answer.headers['etag']).toBe(document.etag);
    expect(answer.headers['cache-control']).toBe('public, max-age=60');
    expect(outcomes).toEqual([status === 304 ? 'unchanged' : 'sent']);
  });

  it('is sent whole to who asks for a range', async () => {
    const { ask } = await served();
    expect(await ask('GET', '/', { range: 'bytes=0-0,1-1,2-2' })).toMatchObject({ status: 200, body: '{"a":1}' });
  });
});

describe('anything else', () => {
  it.each([
    ['POST', '/', 405],
    ['PUT', '/', 405],
    ['DELETE', '/nowhere', 405],
    ['OPTIONS', '/', 405],
    ['GET', '/nowhere', 404],
    ['GET', '//', 404],
    ['GET', '/../', 404],
    ['GET', '/%2F', 404],
    ['GET', 'https://example.org/', 404],
  ])('is refused: %s %s', async (method, path, status) => {
    const { ask, outcomes } = await served();
    const answer = await ask(method, path);
    expect(answer.status).toBe(status);
    expect(answer.headers['cache-control']).toBe('no-store');
    expect(answer.headers['allow']).toBe(status === 405 ? 'GET, HEAD' : undefined);
    expect(outcomes).toEqual(['refused']);
  });

  it('that comes with a body is the last of its connection', async () => {
    const { ask } = await served();
    expect((await ask('POST', '/', { connection: 'keep-alive' }, 'body')).headers['connection']).toBe('close');
    expect((await ask('GET', '/', { connection: 'keep-alive' })).headers['connection']).toBe('keep-alive');
  });
});
