import { once } from 'node:events';
import { Agent, request, type RequestOptions } from 'node:https';
import { createServer as createForeignServer, connect, type ConnectionOptions, type Server, type TLSSocket } from 'node:tls';
import { X509Certificate } from 'node:crypto';
import { afterEach, describe, expect, it } from 'vitest';
import { authorizeAny, authorizeId } from '../../client/authorize.ts';
import { peerOf, tlsDiagnostics, type TlsDecision } from '../../client/tls-peer.ts';
import { connectTls, tlsClientOptions, type SpiffeServer } from '../../client/tls.ts';
import { createTlsServer, type SpiffeClients } from '../../client/tls-server.ts';
import { createHttpsServer } from '../../client/https.ts';
import { systemClock } from '../../runtime/clock.ts';
import type { SpiffeError } from '../../spiffe/errors.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import { hourMs, testAuthority } from '../help/agent-server.ts';
import { abroad, alpha, beta, federated, foreigner, home, homeOnly, identityOf, impostor, intermediate, listen, sourceOf, type TestSource, until, webServer } from '../help/tls-world.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const authorize = authorizeAny();
const client = (): TestSource => sourceOf(home.svid(alpha), federated);

interface Served {
  readonly port: number;
  readonly server: Server;
  readonly source: TestSource;
  readonly peers: (string | undefined)[];
  readonly refused: SpiffeError[];
  readonly got: string[];
}

/** Answers what it is told, in capitals. */
async function serve(source = sourceOf(home.svid(beta), federated), settings: Partial<SpiffeClients> = {}): Promise<Served> {
  const peers: (string | undefined)[] = [];
  const refused: SpiffeError[] = [];
  const got: string[] = [];
  const server = createTlsServer(source, { authorize, refused: (error) => void refused.push(error), ...settings }, (socket, peer) => {
    peers.push(peer?.spiffeId);
    socket.on('data', (data: Buffer) => {
      got.push(data.toString());
      socket.write(data.toString().toUpperCase());
    });
    ends.push(() => socket.destroy());
  });
  ends.push(() => server.close());
  return { port: await listen(server), server, source, peers, refused, got };
}

/** A server that is none of ours, with whatever certificate, and a word for whoever comes. */
async function foreignServer(svid: X509Svid, options: Parameters<typeof createForeignServer>[0] = {}) {
  const got: Buffer[] = [];
  const server = createForeignServer(
    {
      cert: svid.chain.map((der) => new X509Certificate(der).toString()).join(''),
      key: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }),
      ...options,
    },
    (socket) => {
      socket.on('error', () => undefined);
      socket.on('data', (data: Buffer) => got.push(data));
      ends.push(() => socket.destroy());
      socket.write('hello');
    },
  );
  server.on('tlsClientError', () => undefined);
  ends.push(() => server.close());
  return { port: await listen(server), got, server };
}

async function dial(source: TestSource, port: number, settings: Partial<SpiffeServer> = {}): Promise<TLSSocket> {
  const socket = await connectTls(source, { host: '127.0.0.1', port, authorize, ...settings });
  socket.on('error', () => undefined);
  ends.push(() => socket.destroy());
  return socket;
}

/** Through options, and with words that are said before anybody could have checked anything. */
async function dialWith(options: ConnectionOptions, port: number): Promise<{ readonly socket: TLSSocket; readonly said: string }> {
  const socket = connect({ ...options, port, host: '127.0.0.1' });
  ends.push(() => socket.destroy());
  socket.write('secret');
  const [data] = (await Promise.race([once(socket, 'data'), once(socket, 'close').then(() => [''])])) as [Buffer | string];
  return { socket, said: data.toString() };
}

async function ask(socket: TLSSocket, words = 'hi'): Promise<string> {
  socket.write(words);
  const [data] = (await Promise.race([once(socket, 'data'), once(socket, 'close').then(() => ['closed'])])) as [Buffer | string];
  return data.toString();
}

const serialOf = (socket: TLSSocket): string | undefined => socket.getPeerX509Certificate()?.serialNumber.toLowerCase().replace(/^0+/, '');
const serial = (svid: X509Svid): string => svid.serial.replace(/^0+/, '');

describe('connectTls', () => {
  it('proves each to the other and says who is there', async () => {
    const { port, peers } = await serve();
    const socket = await dial(client(), port, { authorize: authorizeId(beta) });
    expect(await ask(socket)).toBe('HI');
    expect(peers).toEqual([alpha]);
    expect(peerOf(socket)).toMatchObject({ spiffeId: beta, trustDomain: 'example.org' });
    expect(peerOf(socket)?.path).toHaveLength(2);
    expect(socket.authorized).toBe(true);
  });

  it.each<readonly [string, () => X509Svid, string]>([
    ['T-03: signed by the authority of another trust domain', () => abroad.svid(beta), 'x509.path.unknown-authority'],
    ['of an authority that only calls itself so', () => impostor.svid(beta), 'x509.path.signature'],
    ['of a trust domain without a bundle', () => abroad.svid('spiffe://elsewhere.test/x'), 'x509.path.unknown-trust-domain'],
    ['that has expired', () => home.svid(beta, -5_000), 'x509.path.expired'],
  ])('T-07: leaves a server %s, and says nothing to it', async (_what, forge, reason) => {
    const { port, got } = await foreignServer(forge());
    await expect(dial(client(), port)).rejects.toMatchObject({ reason });
    await systemClock.sleep(20);
    expect(got).toEqual([]);
  });

  it('leaves a server that authorize does not want, be it by a promise', async () => {
    const { port, got } = await serve();
    for (const refuse of [() => false, () => undefined as never, (async () => true) as never, () => 1 as never]) {
      await expect(dial(client(), port, { authorize: refuse })).rejects.toMatchObject({ kind: 'denied', reason: 'source.peer.refused' });
    }
    await systemClock.sleep(20);
    expect(got).toEqual([]);
  });

  it('wants to be told who is authorized', async () => {
    const settings = { host: '127.0.0.1', port: 1 } as never;
    await expect(connectTls(client(), settings)).rejects.toMatchObject({ kind: 'invalid', reason: 'tls.settings' });
    expect(() => tlsClientOptions(client(), {} as never)).toThrow(expect.objectContaining({ reason: 'tls.settings' }));
    expect(() => createTlsServer(client(), {} as never, () => undefined)).toThrow(expect.objectContaining({ reason: 'tls.settings' }));
    expect(() => createTlsServer(client(), { clients: 'none', authorize } as never, () => undefined)).toThrow(expect.objectContaining({ reason: 'tls.settings' }));
  });

  it('shows nothing of itself when told so, and proves the server all the same', async () => {
    const { port, peers } = await serve(undefined, { clients: 'optional' });
    expect(await ask(await dial(client(), port, { present: false }))).toBe('HI');
    expect(peers).toEqual([undefined]);
    await expect(dial(sourceOf(home.svid(alpha), { 'other.test': [abroad] }), port, { present: false })).rejects.toMatchObject({ reason: 'x509.path.unknown-trust-domain' });
  });

  it('agrees on a protocol, or does not connect', async () => {
    const { port } = await serve(undefined, { protocols: ['steeple/1'] });
    expect((await dial(client(), port, { protocols: ['steeple/1'] })).alpnProtocol).toBe('steeple/1');
    await expect(dial(client(), port, { protocols: ['other/1'] })).rejects.toMatchObject({ reason: 'tls.handshake' });
    const silent = await serve();
    await expect(dial(client(), silent.port, { protocols: ['other/1'] })).rejects.toMatchObject({ reason: 'tls.alpn' });
  });

  it('shows the newest SVID and asks the newest bundle, on both ends', async () => {
    const { port, source: server, peers } = await serve();
    const own = client();
    const before = await dial(own, port);
    const next = home.svid(beta);
    server.identity.set(identityOf(next, federated));
    own.identity.set(identityOf(abroad.svid(foreigner), federated));
    const after = await dial(own, port);
    expect(await ask(after)).toBe('HI');
    expect(serialOf(after)).toBe(serial(next));
    expect(peers).toEqual([alpha, foreigner]);
    own.identity.set(identityOf(abroad.svid(foreigner), { 'other.test': [abroad] }));
    await expect(dial(own, port)).rejects.toMatchObject({ reason: 'x509.path.unknown-trust-domain' });
    expect(await ask(before)).toBe('HI');
  });

  it('follows an authority that is exchanged: trusted before it signs, gone after it signed', async () => {
    const next = testAuthority('next');
    const { port, source: server, refused } = await serve();
    const own = client();
    const both = { 'example.org': [home, next] };
    const steps = [
      [home.svid(beta), home.svid(alpha), both],
      [next.svid(beta), home.svid(alpha), both],
      [next.svid(beta), next.svid(alpha), both],
      [next.svid(beta), next.svid(alpha), { 'example.org': [next] }],
    ] as const;
    const kept = await dial(own, port);
    expect(await ask(kept)).toBe('HI');
    for (const [served, shown, bundles] of steps) {
      server.identity.set(identityOf(served, bundles));
      own.identity.set(identityOf(shown, bundles));
      expect(await ask(await dial(own, port))).toBe('HI');
    }
    const late = await dial(sourceOf(home.svid(alpha), both), port);
    await until(() => refused.length === 1);
    expect(refused[0]).toMatchObject({ reason: 'x509.path.unknown-authority' });
    late.destroy();
    expect(await ask(kept)).toBe('HI');
  });

  it('leaves a connection alone whose SVIDs end, and makes no other with them', async () => {
    const clock = { ...systemClock, at: systemClock.now(), now: () => clock.at };
    const { port } = await serve(sourceOf(home.svid(beta), federated, clock));
    const own = sourceOf(home.svid(alpha), federated, clock);
    const kept = await dial(own, port);
    expect(await ask(kept)).toBe('HI');
    clock.at += 2 * hourMs;
    await expect(dial(own, port)).rejects.toMatchObject({ reason: 'x509.path.expired' });
    expect(await ask(kept)).toBe('HI');
  });

  it('takes a server of the web by its name and roots, and shows it the SVID', async () => {
    const web = webServer();
    const source = sourceOf(home.svid(beta), homeOnly);
    const { port, peers } = await serve(source, { certificate: () => web });
    const known = { host: '127.0.0.1', port, server: 'web', roots: web.root } as const;
    const socket = await connectTls(client(), { ...known, serverName: 'web.example' });
    expect(await ask(socket)).toBe('HI');
    expect(peers).toEqual([alpha]);
    await expect(connectTls(client(), { ...known, serverName: 'other.example' })).rejects.toMatchObject({ reason: 'tls.handshake', detail: { code: 'ERR_TLS_CERT_ALTNAME_INVALID' } });
    await expect(connectTls(client(), { ...known, roots: new X509Certificate(impostor.certificate).toString(), serverName: 'web.example' })).rejects.toMatchObject({ reason: 'tls.handshake' });
    socket.destroy();
  });

  it('tells steeple.tls whom it let in and whom not', async () => {
    const told: TlsDecision[] = [];
    const listener = (decision: unknown): void => void told.push(decision as TlsDecision);
    tlsDiagnostics.subscribe(listener);
    ends.push(() => tlsDiagnostics.unsubscribe(listener));
    const { port } = await serve(undefined, { authorize: authorizeId(alpha) });
    await dial(client(), port);
    await until(() => told.length === 2);
    const stranger = await dial(sourceOf(home.svid(beta)), port);
    await until(() => told.length === 4);
    stranger.destroy();
    const words = told.map(({ role, peer, error }) => `${role} ${peer?.spiffeId ?? error?.reason}`);
    expect(words.slice(0, 2).toSorted()).toEqual([`client ${beta}`, `server ${alpha}`]);
    expect(words.slice(2).toSorted()).toEqual([`client ${beta}`, 'server source.peer.refused']);
  });
});

describe('tlsClientOptions', () => {
  it('proves the server before a word that was written early is sent', async () => {
    const { port, peers } = await serve();
    const { socket, said } = await dialWith(tlsClientOptions(client(), { authorize: authorizeId(beta) }), port);
    expect(said).toBe('SECRET');
    expect([peers, socket.authorized]).toEqual([[alpha], true]);
  });

  it.each<readonly [string, () => X509Svid, Partial<SpiffeServer>, RegExp]>([
    ['another identity', () => home.svid(beta), { authorize: authorizeId(alpha) }, /^source\.peer\.refused$/],
    ['T-03: an authority of another trust domain that is trusted too', () => abroad.svid(beta), {}, /^x509\.path\.unknown-authority$/],
    ['an authority that nobody trusts', () => impostor.svid(beta), {}, /^UNABLE_TO_GET_ISSUER_CERT_LOCALLY$|^CERT_SIGNATURE_FAILURE$/],
    ['an expired SVID', () => home.svid(beta, -5_000), {}, /^CERT_HAS_EXPIRED$/],
  ])('T-07: a server of %s gets no word', async (_what, forge, settings, reason) => {
    const { port, got } = await foreignServer(forge());
    const socket = connect({ ...tlsClientOptions(client(), { authorize, ...settings }), port, host: '127.0.0.1' });
    socket.write('secret');
    const heard: Buffer[] = [];
    socket.on('data', (data: Buffer) => heard.push(data));
    const [error] = (await once(socket, 'error')) as [Error & { reason?: string; code?: string }];
    expect(error.reason ?? error.code).toMatch(reason);
    await systemClock.sleep(20);
    expect([got, heard]).toEqual([[], []]);
  });

  it('follows rotation through copies that were made before', async () => {
    const { port, source: server, peers } = await serve();
    const own = client();
    const copy = { ...tlsClientOptions(own, { authorize }) };
    await dialWith(copy, port);
    own.identity.set(identityOf(abroad.svid(foreigner), federated));
    server.identity.set(identityOf(home.svid(beta), federated));
    expect((await dialWith(copy, port)).said).toBe('SECRET');
    expect(peers).toEqual([alpha, foreigner]);
    const next = abroad.svid(foreigner);
    server.identity.set(identityOf(next, federated));
    expect(serialOf((await dialWith(copy, port)).socket)).toBe(serial(next));
    own.identity.set(identityOf(home.svid(alpha), { 'other.test': [] }));
    const gone = connect({ ...copy, port, host: '127.0.0.1' });
    await expect(once(gone, 'secureConnect')).rejects.toThrow();
  });

  it('T-09: takes an authority that is no root', async () => {
    const middle = intermediate();
    const source = sourceOf(middle.svid(beta), { 'example.org': [middle] });
    const { port } = await serve(source);
    const own = sourceOf(middle.svid(alpha), { 'example.org': [middle] });
    expect((await dialWith(tlsClientOptions(own, { authorize: authorizeId(beta) }), port)).said).toBe('SECRET');
  });

  it('T-08: an https.Agent made of them resumes nothing, and shares nothing with other options', async () => {
    // A server that would resume.
    const svid = home.svid(beta);
    const { port, server } = await foreignServer(svid);
    server.removeAllListeners('secureConnection');
    const reused: boolean[] = [];
    server.on('secureConnection', (socket) => {
      reused.push(socket.isSessionReused());
      socket.on('error', () => undefined);
      socket.on('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok'));
    });
    let asked = 0;
    const agent = new Agent({ ...tlsClientOptions(client(), { authorize: () => (asked += 1) > 0 }), keepAlive: false });
    for (let round = 0; round < 3; round += 1) expect(await fetchText({ port, agent })).toBe('ok');
    expect([reused, asked]).toEqual([[false, false, false], 3]);
    const plain = new Agent({ keepAlive: false, rejectUnauthorized: false, maxVersion: 'TLSv1.2' });
    for (let round = 0; round < 3; round += 1) await fetchText({ port, agent: plain });
    // The trap is real: Node's own agent resumes.
    expect(reused.at(-1)).toBe(true);
  });

  it('keeps connections of the global agent apart by who is authorized', async () => {
    const served = createHttpsServer(sourceOf(home.svid(beta)), { authorize }, (_request, response) => response.end('ok'));
    ends.push(() => served.closeAllConnections(), () => served.close());
    const port = await listen(served);
    expect(await fetchText({ port, ...tlsClientOptions(client(), { authorize }) })).toBe('ok');
    await expect(fetchText({ port, ...tlsClientOptions(client(), { authorize: authorizeId(alpha) }) })).rejects.toMatchObject({ reason: 'source.peer.refused' });
  });
});

function fetchText(options: RequestOptions): Promise<string> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', ...options }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => (text += part));
      response.on('end', () => resolve(text));
    });
    sent.on('error', reject);
    sent.end();
  });
}
