import { randomBytes } from 'node:crypto';
import { getEventListeners } from 'node:events';
import { chmodSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { IncomingMessage, RequestListener } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { createServer as createRawServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../runtime/clock.ts';
import { createHttpClient } from '../../runtime/http.ts';
import type { HttpClient, HttpEndpoint } from '../../runtime/http.ts';
import { encodeSequence } from '../../spiffe/x509/der-writer.ts';
import { encodeExtension } from '../../spiffe/x509/encoded.ts';
import { oid } from '../../spiffe/x509/names.ts';
import { createTestClock } from '../help/clock.ts';
import { authorityExtensions, ecPair, forgeCertificate, nameOf } from '../help/forge.ts';
import type { Pair } from '../help/forge.ts';

const hour = 3_600_000;
const now = systemClock.now();
let folder: string;
const ends: (() => Promise<void> | void)[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'http-'));
});
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
  rmSync(folder, { recursive: true });
});

async function listening(server: Server, at: string | number): Promise<Server> {
  const open = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    open.add(socket);
    socket.on('error', () => undefined).on('close', () => open.delete(socket));
  });
  await new Promise<void>((resolve) => (typeof at === 'string' ? server.listen(at, resolve) : server.listen(at, '127.0.0.1', resolve)));
  ends.push(() => {
    for (const socket of open) socket.destroy();
    return new Promise<void>((resolve) => void server.close(() => resolve()));
  });
  return server;
}

function asking(endpoint: HttpEndpoint, clock = systemClock): HttpClient {
  const client = createHttpClient({ clock, endpoint });
  ends.push(() => client.close());
  return client;
}

/** A real HTTP server on a Unix socket. */
async function served(answer: RequestListener): Promise<{ readonly client: HttpClient; readonly server: Server; readonly socketPath: string }> {
  const socketPath = join(folder, 'http.sock');
  const server = await listening(createServer(answer), socketPath);
  return { client: asking({ socketPath }), server, socketPath };
}

/** A server that says what it is told to, HTTP or not, after the head of a question came. */
async function raw(say: (socket: Socket, question: string) => void): Promise<HttpClient> {
  const socketPath = join(folder, 'raw.sock');
  const server = createRawServer((socket) => {
    let seen = '';
    socket.on('data', (piece) => {
      seen += piece.toString('latin1');
      if (!seen.includes('\r\n\r\n')) return;
      say(socket, seen);
      seen = '';
    });
  });
  await listening(server, socketPath);
  return asking({ socketPath });
}

async function textOf(incoming: IncomingMessage): Promise<string> {
  let text = '';
  for await (const piece of incoming) text += String(piece);
  return text;
}

async function linesOf(lines: AsyncIterable<Buffer>): Promise<string[]> {
  const all: string[] = [];
  for await (const line of lines) all.push(line.toString());
  return all;
}

describe('a question', () => {
  it('is answered with status, headers and body', async () => {
    const { client } = await served((incoming, outgoing) => {
      void textOf(incoming).then((text) => {
        outgoing.writeHead(418, { 'X-Kind': 'teapot', 'X-Many': ['a', 'b'] });
        outgoing.end(`${incoming.method} ${incoming.url} ${String(incoming.headers['x-asked'])} ${text}`);
      });
    });
    const answer = await client.request({ method: 'POST', path: '/a?b=c', headers: { 'X-Asked': 'yes' }, body: Buffer.from('body') });
    expect(answer.status).toBe(418);
    expect(answer.headers['x-kind']).toBe('teapot');
    expect(answer.headers['x-many']).toBe('a, b');
    expect(answer.headers['constructor']).toBeUndefined();
    expect(answer.body.toString()).toBe('POST /a?b=c yes body');
  });

  it('leaves nothing on a connection that serves many', async () => {
    const { client } = await served((_incoming, outgoing) => outgoing.end('x'));
    const warnings: Error[] = [];
    const onWarning = (warning: Error): number => warnings.push(warning);
    process.on('warning', onWarning);
    for (let round = 0; round < 30; round += 1) await client.request({ path: '/' });
    await new Promise((resolve) => setTimeout(resolve, 10));
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
  });

  it('follows no redirect', async () => {
    const asked: string[] = [];
    const { client } = await served((incoming, outgoing) => {
      asked.push(incoming.url ?? '');
      outgoing.writeHead(302, { location: '/elsewhere' }).end();
    });
    const answer = await client.request({ path: '/here' });
    expect([answer.status, asked]).toEqual([302, ['/here']]);
  });

  it('shares connections with the next, within a bound', async () => {
    const sockets = new Set<Socket>();
    let most = 0;
    let running = 0;
    const { client } = await served((incoming, outgoing) => {
      sockets.add(incoming.socket);
      most = Math.max(most, (running += 1));
      setTimeout(() => {
        running -= 1;
        outgoing.end('x');
      }, 2);
    });
    const answers = await Promise.all(Array.from({ length: 60 }, () => client.request({ path: '/' })));
    expect(answers.every(({ status }) => status === 200)).toBe(true);
    expect(most).toBeLessThanOrEqual(8);
    expect(sockets.size).toBeLessThanOrEqual(8);
  });

  it('is asked again once when a kept connection turns out closed', async () => {
    let asked = 0;
    const client = await raw((socket) => {
      asked += 1;
      // The first question of each connection is answered, the second finds it closed.
      if (socket.bytesWritten > 0) socket.destroy();
      else socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n');
    });
    await client.request({ path: '/' });
    await expect(client.request({ path: '/' })).resolves.toMatchObject({ status: 200 });
    expect(asked).toBe(3);
  });

  it('that changes something goes over a connection that cannot be stale', async () => {
    const seen: Socket[] = [];
    const { client } = await served((incoming, outgoing) => {
      seen.push(incoming.socket);
      outgoing.end();
    });
    for (const method of ['GET', 'GET', 'POST', 'POST', 'GET'] as const) await client.request({ method, path: '/' });
    expect(seen.map((socket) => seen.indexOf(socket))).toEqual([0, 0, 2, 3, 0]);
  });

  it.each([
    ['a path with a line end', { path: '/a\r\nX: y' }],
    ['a path that is none', { path: 'http://elsewhere/' }],
    ['a header with a line end', { path: '/', headers: { authorization: 'Bearer a\nb' } }],
    ['a header without a name', { path: '/', headers: { '': 'b' } }],
  ])('with %s is not sent', async (_what, request) => {
    const { client } = await served((_incoming, outgoing) => outgoing.end());
    await expect(client.request(request)).rejects.toMatchObject({ kind: 'invalid', reason: 'http.request' });
    await expect(client.stream(request)).rejects.toMatchObject({ kind: 'invalid', reason: 'http.request' });
  });
});

describe('an answer that goes wrong', () => {
  it.each([
    ['silence and a closed connection', (socket: Socket) => socket.end(), 'unavailable', 'http.broken'],
    ['half a head', (socket: Socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Le'), 'unavailable', 'http.broken'],
    ['half a body', (socket: Socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345'), 'unavailable', 'http.broken'],
    ['half a chunk', (socket: Socket) => socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n1234'), 'unavailable', 'http.broken'],
    ['no last chunk', (socket: Socket) => socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n'), 'unavailable', 'http.broken'],
    ['no HTTP', (socket: Socket) => socket.end('SSH-2.0-OpenSSH_9.6\r\n'), 'unavailable', 'http.broken'],
    ['two lengths', (socket: Socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab'), 'unavailable', 'http.broken'],
    ['length and chunks', (socket: Socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'), 'unavailable', 'http.broken'],
    ['another protocol', (socket: Socket) => socket.end('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n'), 'unavailable', 'http.broken'],
    ['an abrupt end', (socket: Socket) => socket.destroy(), 'unavailable', 'http.broken'],
    ['an endless head', (socket: Socket) => socket.write(`HTTP/1.1 200 OK\r\nX: ${'x'.repeat(100_000)}`), 'limited', 'http.too-large'],
    ['a length that is too large', (socket: Socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n'), 'limited', 'http.too-large'],
    ['a body that is too large', (socket: Socket) => socket.write(`HTTP/1.1 200 OK\r\n\r\n${'x'.repeat(1001)}`), 'limited', 'http.too-large'],
  ])('%s', async (_what, say, kind, reason) => {
    const client = await raw(say);
    await expect(client.request({ path: '/', maxBytes: 1000 })).rejects.toMatchObject({ kind, reason });
  });

  it('a body of exactly the bound is taken', async () => {
    const client = await raw((socket) => socket.end(`HTTP/1.1 200 OK\r\n\r\n${'x'.repeat(1000)}`));
    expect((await client.request({ path: '/', maxBytes: 1000 })).body.toString()).toBe('x'.repeat(1000));
  });

  it('a body in the smallest of pieces costs its bytes, not its pieces', async () => {
    const pieces = 50_000;
    const client = await raw((socket) => {
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n');
      socket.end(`${'1\r\nx\r\n'.repeat(pieces)}0\r\n\r\n`);
    });
    const { body } = await client.request({ path: '/', deadlineMs: 15_000 });
    expect(body.equals(Buffer.alloc(pieces, 'x'))).toBe(true);
    expect(body.buffer.byteLength).toBeLessThan(4 * pieces);
  });

  it.each([
    ['a head that never comes', () => undefined],
    ['a body that stalls', (socket: Socket) => void socket.write('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n1')],
    ['only words beforehand', (socket: Socket) => void socket.write('HTTP/1.1 102 Processing\r\n\r\n')],
  ])('%s runs into the deadline, on the injected clock', async (_what, say) => {
    const clock = createTestClock();
    const socketPath = join(folder, 'raw.sock');
    let closed = 0;
    let heard = 0;
    await listening(
      createRawServer((socket) => {
        socket.on('close', () => (closed += 1));
        socket.on('data', () => {
          heard += 1;
          say(socket);
        });
      }),
      socketPath,
    );
    const client = asking({ socketPath }, clock);
    const answer = client.request({ path: '/', deadlineMs: 700 });
    answer.catch(() => undefined);
    await clock.advance(699);
    while (heard === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(clock.sleepers).toBe(1);
    await clock.advance(1);
    await expect(answer).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.deadline' });
    while (closed === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(clock.sleepers).toBe(0);
  });

  it('leaves no wait behind when it is answered', async () => {
    const clock = createTestClock();
    const { socketPath } = await served((_incoming, outgoing) => outgoing.end('x'));
    await asking({ socketPath }, clock).request({ path: '/' });
    expect(clock.sleepers).toBe(0);
  });
});

describe('ending early', () => {
  it('a signal ends a question and its connection with its own reason', async () => {
    let closed = 0;
    const { client } = await served((incoming) => incoming.socket.on('close', () => (closed += 1)));
    const stop = new AbortController();
    const reason = new Error('enough');
    const answer = client.request({ path: '/', signal: stop.signal });
    setTimeout(() => stop.abort(reason), 20);
    await expect(answer).rejects.toBe(reason);
    while (closed === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    await expect(client.request({ path: '/', signal: stop.signal })).rejects.toBe(reason);
  });

  it('one that waits for its turn is never sent', async () => {
    let asked = 0;
    const held: (() => void)[] = [];
    const { client } = await served((_incoming, outgoing) => {
      asked += 1;
      held.push(() => outgoing.end());
    });
    const first = Array.from({ length: 8 }, () => client.request({ path: '/' }));
    while (asked < 8) await new Promise((resolve) => setTimeout(resolve, 1));
    const stop = new AbortController();
    const late = client.request({ path: '/late', signal: stop.signal });
    stop.abort(new Error('enough'));
    await expect(late).rejects.toThrow('enough');
    for (const release of held.splice(0)) release();
    await Promise.all(first);
    const last = client.request({ path: '/' });
    while (held.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    for (const release of held) release();
    await last;
    expect(asked).toBe(9);
  });

  it('closing the client ends what is under way and refuses more', async () => {
    const { client } = await served(() => undefined);
    const answer = client.request({ path: '/' });
    const stream = client.stream({ path: '/' });
    setTimeout(() => client.close(), 20);
    await expect(answer).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.closed' });
    await expect(stream).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.closed' });
    await expect(client.request({ path: '/' })).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.closed' });
  });

  it('leaves no descriptor and no listener behind', async () => {
    const descriptors = (): number => readdirSync('/proc/self/fd').length;
    const { client } = await served((incoming, outgoing) => {
      if (incoming.url === '/stall') outgoing.write('x');
      else if (incoming.url === '/stream') outgoing.write('line\n');
      else outgoing.end('x'.repeat(2000));
    });
    await client.request({ path: '/' });
    const before = descriptors();
    const stop = new AbortController();
    for (let round = 0; round < 20; round += 1) {
      await client.request({ path: '/', signal: stop.signal });
      await expect(client.request({ path: '/', maxBytes: 1999, signal: stop.signal })).rejects.toMatchObject({ reason: 'http.too-large' });
      await expect(client.request({ path: '/stall', deadlineMs: 5, signal: stop.signal })).rejects.toMatchObject({ reason: 'http.deadline' });
      const { lines } = await client.stream({ path: '/stream', signal: stop.signal });
      for await (const line of lines(100)) {
        expect(line.toString()).toBe('line');
        break;
      }
      (await client.stream({ path: '/stream', signal: stop.signal })).close();
    }
    for (let wait = 0; wait < 500 && descriptors() > before + 1; wait += 1) await new Promise((resolve) => setTimeout(resolve, 2));
    expect(descriptors()).toBeLessThanOrEqual(before + 1);
    expect(getEventListeners(stop.signal, 'abort')).toEqual([]);
  });
});

describe('a stream', () => {
  it('yields lines however they are cut', async () => {
    const text = 'one\ntwo\r\n\nthree €\nlast';
    const { client } = await served((_incoming, outgoing) => {
      const bytes = Buffer.from(text);
      void (async () => {
        for (const byte of bytes) {
          outgoing.write(Buffer.of(byte));
          await new Promise((resolve) => setTimeout(resolve, 0));
        }
        outgoing.end();
      })();
    });
    const stream = await client.stream({ path: '/' });
    expect(stream.status).toBe(200);
    expect(await linesOf(stream.lines(100))).toEqual(['one', 'two', '', 'three €', 'last']);
  });

  it('bounds a line, not the stream', async () => {
    const { client } = await served((incoming, outgoing) => {
      for (let line = 0; line < 100; line += 1) outgoing.write(`${'x'.repeat(100)}\n`);
      outgoing.end(incoming.url === '/long' ? 'x'.repeat(101) : '');
    });
    expect((await linesOf((await client.stream({ path: '/' })).lines(100))).length).toBe(100);
    const long = await client.stream({ path: '/long' });
    await expect(linesOf(long.lines(100))).rejects.toMatchObject({ kind: 'limited', reason: 'http.too-large' });
  });

  it('outlives the deadline of its head, and ends with the signal', async () => {
    const clock = createTestClock();
    const { socketPath } = await served((_incoming, outgoing) => void outgoing.write('first\n'));
    const client = asking({ socketPath }, clock);
    const stop = new AbortController();
    const stream = await client.stream({ path: '/', signal: stop.signal, deadlineMs: 50 });
    await clock.advance(hour);
    const lines = stream.lines(100);
    expect(String((await lines.next()).value)).toBe('first');
    const reason = new Error('enough');
    setTimeout(() => stop.abort(reason), 20);
    await expect(lines.next()).rejects.toBe(reason);
  });

  it('that breaks off says so', async () => {
    const client = await raw((socket) => {
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst\n\r\n');
      setTimeout(() => socket.destroy(), 20);
    });
    const lines = (await client.stream({ path: '/' })).lines(100);
    expect(String((await lines.next()).value)).toBe('first');
    await expect(lines.next()).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.broken' });
  });

  it('is read no faster than it is taken', async () => {
    let sent = 0;
    const { client } = await served((_incoming, outgoing) => {
      const block = Buffer.alloc(65_536, 'x');
      block[65_535] = 10;
      const more = (): void => {
        while (outgoing.write(block)) sent += block.length;
        sent += block.length;
      };
      outgoing.on('drain', more).on('error', () => undefined);
      more();
    });
    const lines = (await client.stream({ path: '/' })).lines(100_000);
    await lines.next();
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(sent).toBeLessThan(4 * 1024 * 1024);
    await lines.return?.();
  });

  it('whose head never comes runs into the deadline', async () => {
    const { client } = await served(() => undefined);
    await expect(client.stream({ path: '/', deadlineMs: 20 })).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.deadline' });
  });

  it('does not take the place of questions', async () => {
    const { client } = await served((incoming, outgoing) => (incoming.url === '/stream' ? void outgoing.write('x\n') : outgoing.end('x')));
    const streams = await Promise.all(Array.from({ length: 20 }, () => client.stream({ path: '/stream' })));
    await expect(client.request({ path: '/' })).resolves.toMatchObject({ status: 200 });
    for (const stream of streams) stream.close();
  });
});

describe('a Unix socket', () => {
  it('that is not there, or nobody listens on, is unreachable', async () => {
    const socketPath = join(folder, 'none.sock');
    for (const endpoint of [{ socketPath }, { socketPath, ownerUid: 0 }]) {
      await expect(asking(endpoint).request({ path: '/' })).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.unreachable' });
      await expect(asking(endpoint).stream({ path: '/' })).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.unreachable' });
    }
  });

  it('is asked only when the right user listens', async () => {
    let asked = 0;
    const { socketPath } = await served((_incoming, outgoing) => {
      asked += 1;
      outgoing.end('x'.repeat(100_000));
    });
    chmodSync(socketPath, 0o666);
    const own = process.geteuid!();
    const trusted = asking({ socketPath, ownerUid: own });
    for (let round = 0; round < 3; round += 1) expect((await trusted.request({ path: '/' })).body.length).toBe(100_000);
    await expect(asking({ socketPath, ownerUid: own + 1 }).request({ path: '/' })).rejects.toMatchObject({
      kind: 'unauthenticated',
      reason: 'http.owner',
    });
    expect(asked).toBe(3);
  });
});

describe('TLS', () => {
  const authority = { pair: ecPair(), name: 'authority' };
  const stranger = { pair: ecPair(), name: 'authority' };
  const pem = (der: Uint8Array): string => `-----BEGIN CERTIFICATE-----\n${Buffer.from(der).toString('base64')}\n-----END CERTIFICATE-----\n`;
  const keyOf = (pair: Pair): string => pair.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  const caOf = (from: typeof authority): string =>
    pem(
      forgeCertificate({
        issuer: nameOf(from.name),
        subject: nameOf(from.name),
        spki: from.pair.spki,
        signer: from.pair.privateKey,
        extensions: authorityExtensions(),
        validity: [now - hour, now + hour],
      }),
    );
  const leafPair = ecPair();
  const leaf = (from: typeof authority, address: readonly number[], validity: readonly [number, number] = [now - hour, now + hour]): string =>
    pem(
      forgeCertificate({
        issuer: nameOf(from.name),
        subject: nameOf('leaf'),
        spki: leafPair.spki,
        signer: from.pair.privateKey,
        extensions: [encodeExtension(oid.subjectAltName, false, encodeSequence(Uint8Array.of(0x87, address.length, ...address)))],
        validity,
      }),
    );
  const local = [127, 0, 0, 1];

  async function secure(cert: string, options: object = {}): Promise<string> {
    const server = createSecureServer({ cert, key: keyOf(leafPair), ...options }, (incoming, outgoing) => outgoing.end(incoming.url));
    server.on('tlsClientError', () => undefined);
    await listening(server, 0);
    return `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  it('asks a proved server, below the prefix', async () => {
    const client = asking({ url: `${await secure(leaf(authority, local))}/base/`, ca: caOf(authority) });
    for (let round = 0; round < 3; round += 1) expect((await client.request({ path: '/a?b' })).body.toString()).toBe('/base/a?b');
    expect(await linesOf((await client.stream({ path: '/s' })).lines(100))).toEqual(['/base/s']);
  });

  it('proves the server anew with each connection', async () => {
    const reused: boolean[] = [];
    const server = createSecureServer({ cert: leaf(authority, local), key: keyOf(leafPair) }, (incoming, outgoing) => {
      reused.push((incoming.socket as TLSSocket).isSessionReused());
      outgoing.end('x');
    });
    await listening(server, 0);
    const client = asking({ url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, ca: caOf(authority) });
    for (let round = 0; round < 3; round += 1) await linesOf((await client.stream({ path: '/' })).lines(100));
    expect(reused).toEqual([false, false, false]);
  });

  it.each([
    ['another authority of the same name', () => leaf(stranger, local), {}],
    ['another name', () => leaf(authority, [127, 0, 0, 2]), {}],
    ['an expired certificate', () => leaf(authority, local, [now - 2 * hour, now - hour]), {}],
    ['a certificate of the future', () => leaf(authority, local, [now + hour, now + 2 * hour]), {}],
    ['TLS 1.1', () => leaf(authority, local), { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'ALL:@SECLEVEL=0' }],
    ['a wish for our certificate, which we lack', () => leaf(authority, local), { requestCert: true, rejectUnauthorized: true, maxVersion: 'TLSv1.2' }],
    ['the same later, in TLS 1.3', () => leaf(authority, local), { requestCert: true, rejectUnauthorized: true }],
  ])('asks no server with %s', async (_what, cert, options) => {
    const client = asking({ url: await secure(cert(), options), ca: caOf(authority) });
    const failure = await client.request({ path: '/' }).catch((error: unknown) => error);
    expect(failure).toMatchObject({ kind: 'unauthenticated', reason: 'http.tls' });
  });

  it('does not know our authority by itself', async () => {
    const client = asking({ url: await secure(leaf(authority, local)) });
    await expect(client.request({ path: '/' })).rejects.toMatchObject({ kind: 'unauthenticated', reason: 'http.tls' });
  });

  it('sends no question to what is not TLS, or breaks off before it is proved', async () => {
    const heard: string[] = [];
    const server = createRawServer((socket) => socket.on('data', (piece) => {
      heard.push(piece.toString('latin1'));
      socket.end('HTTP/1.1 400 Bad Request\r\n\r\n');
    }));
    await listening(server, 0);
    const client = asking({ url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, ca: caOf(authority) });
    await expect(client.request({ path: '/secret' })).rejects.toMatchObject({ kind: 'unauthenticated', reason: 'http.tls' });
    expect(heard.join('')).not.toContain('secret');
    const silent = createRawServer((socket) => socket.on('data', () => socket.destroy()));
    await listening(silent, 0);
    const second = asking({ url: `https://127.0.0.1:${(silent.address() as AddressInfo).port}`, ca: caOf(authority) });
    await expect(second.request({ path: '/' })).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.unreachable' });
  });

  it('shows our certificate to a server that asks', async () => {
    const options = { requestCert: true, rejectUnauthorized: true, ca: caOf(authority) };
    const url = await secure(leaf(authority, local), options);
    const client = asking({ url, ca: caOf(authority), certificate: leaf(authority, local), key: keyOf(leafPair) });
    await expect(client.request({ path: '/' })).resolves.toMatchObject({ status: 200 });
  });

  it('nobody listening is unreachable', async () => {
    const server = await listening(createRawServer(), 0);
    const { port } = server.address() as AddressInfo;
    await new Promise<void>((resolve) => void server.close(() => resolve()));
    await expect(asking({ url: `https://127.0.0.1:${port}` }).request({ path: '/' })).rejects.toMatchObject({
      kind: 'unavailable',
      reason: 'http.unreachable',
    });
  });

  it.each([
    ['nothing like a URL', 'kubelet'],
    ['another scheme', 'ftp://127.0.0.1/'],
    ['the clear to elsewhere', 'http://192.0.2.1:10255'],
    ['the clear to a name, which may lead elsewhere', 'http://localhost:10255'],
    ['credentials', 'https://a:b@127.0.0.1/'],
    ['a query', 'https://127.0.0.1/?a'],
  ])('%s is no endpoint', (_what, url) => {
    expect(() => createHttpClient({ clock: systemClock, endpoint: { url } })).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'http.url' }));
  });

  it('unusable credentials are told when the client is made', () => {
    for (const endpoint of [
      { url: 'https://127.0.0.1', certificate: 'no PEM', key: 'no PEM' },
      { url: 'https://127.0.0.1', certificate: leaf(authority, local), key: keyOf(ecPair()) },
      { url: 'https://127.0.0.1', ca: 'no PEM' },
      { url: 'https://127.0.0.1', ca: '' },
    ]) {
      expect(() => createHttpClient({ clock: systemClock, endpoint })).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'http.credentials' }));
    }
  });

  it('the clear serves on this machine', async () => {
    const server = await listening(createServer((_incoming, outgoing) => outgoing.end(randomBytes(3).toString('hex'))), 0);
    const client = asking({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` });
    await expect(client.request({ path: '/' })).resolves.toMatchObject({ status: 200 });
  });
});
