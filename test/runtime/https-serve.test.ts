import { once } from 'node:events';
import { request } from 'node:https';
import { connect as connectPlain } from 'node:net';
import { connect } from 'node:tls';
import type { ConnectionOptions, TLSSocket } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../runtime/clock.ts';
import { openHttpsServer } from '../../runtime/https-serve.ts';
import type { HttpsRefusal, HttpsServerOptions, ServerCredentials } from '../../runtime/https-serve.ts';
import { createWatch } from '../../runtime/watch.ts';
import type { WatchSource } from '../../runtime/watch.ts';
import { createClusterAuthority } from '../help/kubernetes-tls.ts';

const web = createClusterAuthority('web');
const stop: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of stop.splice(0).toReversed()) await end();
});

interface Served {
  readonly port: number;
  readonly credentials: WatchSource<ServerCredentials | undefined>;
  readonly refusals: HttpsRefusal[];
  readonly end: () => Promise<unknown>;
}

async function serve(options: Partial<HttpsServerOptions> = {}): Promise<Served> {
  const credentials = createWatch<ServerCredentials | undefined>(web.issue('one', ['127.0.0.1']));
  const refusals: HttpsRefusal[] = [];
  const server = await openHttpsServer({
    clock: systemClock,
    host: '127.0.0.1',
    port: 0,
    credentials,
    answer: (incoming, outgoing) => outgoing.end(`${incoming.method} ${incoming.url}`),
    refused: (why) => refusals.push(why),
    ...options,
  });
  const life = new AbortController();
  const running = server.run(life.signal);
  const end = (): Promise<unknown> => {
    life.abort();
    return running;
  };
  stop.push(end);
  return { port: server.address.port, credentials, refusals, end };
}

/** Status and body, and whose certificate the server showed. */
function ask(port: number, headers: Record<string, string> = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ host: '127.0.0.1', port, path: '/p?q', ca: web.ca, agent: false, headers }, (incoming) => {
      const { CN } = (incoming.socket as TLSSocket).getPeerCertificate().subject;
      let text = '';
      incoming.on('data', (piece) => (text += String(piece)));
      incoming.on('end', () => resolve(`${incoming.statusCode} ${text} from ${String(CN)}`));
    });
    outgoing.on('error', reject);
    outgoing.end();
  });
}

async function handshake(port: number, options: ConnectionOptions = {}): Promise<TLSSocket> {
  const socket = connect({ host: '127.0.0.1', port, ca: web.ca, ...options });
  socket.on('error', () => undefined);
  await once(socket, 'secureConnect');
  stop.push(() => Promise.resolve(socket.destroy()));
  return socket;
}

async function waitFor(done: () => boolean): Promise<void> {
  for (let round = 0; !done(); round += 1) {
    if (round > 1_000) throw new Error('waited too long');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

describe('an HTTPS server', () => {
  it('FED-15: answers whoever asks, without asking who it is', async () => {
    const { port } = await serve();
    expect(await ask(port)).toBe('200 GET /p?q from one');
    const socket = await handshake(port);
    expect(socket.getProtocol()).toBe('TLSv1.3');
  });

  it('shows a new certificate to new connections', async () => {
    const { port, credentials } = await serve();
    credentials.set(web.issue('two', ['127.0.0.1']));
    await new Promise((resolve) => setImmediate(resolve));
    expect(await ask(port)).toBe('200 GET /p?q from two');
  });

  it('without a certificate answers nobody, and everybody once it has one', async () => {
    const { port, credentials } = await serve();
    credentials.set(undefined);
    await new Promise((resolve) => setImmediate(resolve));
    await expect(ask(port)).rejects.toThrow();
    credentials.set(web.issue('two', ['127.0.0.1']));
    await new Promise((resolve) => setImmediate(resolve));
    expect(await ask(port)).toBe('200 GET /p?q from two');
  });

  it('says where it cannot listen', async () => {
    const { port } = await serve();
    await expect(serve({ port })).rejects.toMatchObject({ kind: 'unavailable', reason: 'https.listen' });
  });

  it('ends what is under way when it ends', async () => {
    const { port, end } = await serve({ answer: () => undefined });
    const asking = ask(port);
    const ended = expect(asking).rejects.toThrow();
    await new Promise((resolve) => setTimeout(resolve, 50));
    await end();
    await ended;
    await expect(ask(port)).rejects.toThrow();
  });

  it('ends what has not finished its handshake as well', async () => {
    const { port, end } = await serve({ bounds: { patienceMs: 600_000 } });
    const plain = connectPlain(port, '127.0.0.1');
    plain.on('error', () => undefined).resume();
    await once(plain, 'connect');
    await end();
  });

  it('promises nobody to read what comes with a question', async () => {
    const { port } = await serve();
    expect(await ask(port, { expect: '100-continue' })).toBe('200 GET /p?q from one');
  });
});

describe('FED-09: TLS', () => {
  it.each([
    ['TLS 1.1', { minVersion: 'TLSv1.1', maxVersion: 'TLSv1.1', ciphers: 'ALL@SECLEVEL=0' }, false],
    ['TLS 1.2', { maxVersion: 'TLSv1.2' }, true],
    ['TLS 1.3', { minVersion: 'TLSv1.3' }, true],
    ['CBC', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA' }, false],
    ['CHACHA20', { maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-CHACHA20-POLY1305' }, true],
    ['P-521', { ecdhCurve: 'secp521r1' }, false],
    ['P-256', { ecdhCurve: 'prime256v1' }, true],
    ['HTTP/2', { ALPNProtocols: ['h2'] }, false],
    ['HTTP/1.1', { ALPNProtocols: ['h2', 'http/1.1'] }, true],
  ] as const)('with %s', async (_what, options, works) => {
    const { port, refusals } = await serve();
    const connecting = handshake(port, options);
    if (works) await connecting;
    else {
      await expect(connecting).rejects.toThrow();
      await waitFor(() => refusals.length === 1);
      expect(refusals).toEqual(['handshake']);
    }
  });

  it('takes up no session', async () => {
    const { port } = await serve();
    const first = await handshake(port, { maxVersion: 'TLSv1.2' });
    const session = first.getSession();
    const second = await handshake(port, { maxVersion: 'TLSv1.2', session });
    expect(second.isSessionReused()).toBe(false);
  });
});

describe('T-H05: a stranger', () => {
  it('holds no more connections than its share', async () => {
    const { port, refusals } = await serve({ bounds: { connectionsPerAddress: 2 } });
    const one = await handshake(port);
    await handshake(port);
    await expect(ask(port)).rejects.toThrow();
    expect(refusals).toEqual(['address']);
    one.destroy();
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await ask(port)).toContain('200');
  });

  it('cannot open more than there may be', async () => {
    const { port, refusals } = await serve({ bounds: { connections: 1 } });
    const plain = connectPlain(port, '127.0.0.1');
    await once(plain, 'connect');
    await expect(ask(port)).rejects.toThrow();
    expect(refusals).toEqual(['connections']);
    plain.destroy();
  });

  it('cannot make the server do handshakes all the time', async () => {
    const { port, refusals } = await serve({ bounds: { connectionsPerSecond: 0.001 }, clock: { ...systemClock, monotonic: () => 0 } });
    await expect(ask(port)).rejects.toThrow();
    expect(refusals).toEqual(['rate']);
  });

  it('cannot ask all the time', async () => {
    const { port, refusals } = await serve({ bounds: { requestsPerSecond: 1 }, clock: { ...systemClock, monotonic: () => 0 } });
    expect([await ask(port), await ask(port)]).toEqual(['200 GET /p?q from one', '200 GET /p?q from one']);
    await expect(ask(port)).rejects.toThrow();
    expect(refusals).toEqual(['rate']);
  });

  it('is told that its head is too large, and no more', async () => {
    const { port } = await serve();
    expect(await ask(port, { 'x-large': 'a'.repeat(10_000) })).toMatch(/^431 /);
  });

  it('that begins and stops is given up: with the handshake, its question, the next one, or reading', async () => {
    const large = 'a'.repeat(16_000_000);
    const { port, refusals } = await serve({ bounds: { patienceMs: 100 }, answer: (incoming, outgoing) => outgoing.end(incoming.url === '/' ? large : 'x') });
    const silent = connectPlain(port, '127.0.0.1');
    const [slow, idle, deaf] = [await handshake(port), await handshake(port), await handshake(port)];
    slow.write('GET / HTTP/1.1\r\nHost: x\r\nX: ');
    slow.resume();
    idle.write('GET /x HTTP/1.1\r\nHost: x\r\n\r\n');
    idle.resume();
    const closed = [silent, slow, idle].map((socket) => once(socket, 'close'));
    deaf.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n');
    deaf.pause();
    await Promise.all(closed);
    expect(refusals).toEqual(['handshake']);
    await new Promise((resolve) => setTimeout(resolve, 400));
    let read = 0;
    deaf.on('data', (piece: Buffer) => (read += piece.length));
    deaf.resume();
    await once(deaf, 'close');
    expect(read).toBeLessThan(large.length);
  });
});
