import { once } from 'node:events';
import { connect, createServer, type Server, type TLSSocket } from 'node:tls';
import { afterEach, describe, expect, it } from 'vitest';
import { authorizeAny, authorizeId } from '../../client/authorize.ts';
import { connectTls } from '../../client/tls.ts';
import { peerOf } from '../../client/tls-peer.ts';
import { createTlsServer, secureServer, type SpiffeClients, tlsServerOptions, type TlsServerSettings } from '../../client/tls-server.ts';
import { systemClock } from '../../runtime/clock.ts';
import { secureContextOptions } from '../../runtime/tls.ts';
import type { SpiffeError } from '../../spiffe/errors.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import { abroad, alpha, beta, federated, foreigner, home, identityOf, impostor, listen, sourceOf, type TestSource, until, webServer } from '../help/tls-world.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const authorize = authorizeAny();
const server = (): TestSource => sourceOf(home.svid(beta), federated);
const client = (svid = home.svid(alpha)): TestSource => sourceOf(svid, federated);

interface Served {
  readonly port: number;
  readonly server: Server;
  readonly heard: string[];
  readonly refused: SpiffeError[];
}

function watched(settings: Partial<SpiffeClients> = {}): { readonly settings: SpiffeClients; readonly refused: SpiffeError[] } {
  const refused: SpiffeError[] = [];
  return { settings: { authorize, refused: (error) => void refused.push(error), ...settings }, refused };
}

function hear(made: Server): string[] {
  const heard: string[] = [];
  const listener = (word: string) => (socket: TLSSocket): void => {
    heard.push(`${word} ${peerOf(socket)?.spiffeId}`);
    socket.on('error', () => undefined);
    socket.on('data', (data: Buffer) => heard.push(data.toString()));
    ends.push(() => socket.destroy());
  };
  made.on('secureConnection', listener('late'));
  made.prependListener('secureConnection', listener('first'));
  ends.push(() => made.close());
  return heard;
}

/** As frameworks do it: they are given options, copy them, and have a server. */
async function framework(source: TestSource, settings: Partial<SpiffeClients> = {}, bind = true): Promise<Served> {
  const given = watched(settings);
  const options = tlsServerOptions(source, given.settings);
  const made = createServer({ ...options, highWaterMark: 4_096 });
  const heard = hear(made);
  if (bind) expect(secureServer(made, options)).toBe(made);
  return { server: made, heard, refused: given.refused, port: await listen(made) };
}

/** A client that is none of ours and says at once what it has to say. */
async function foreignClient(port: number, svid?: X509Svid, options = {}, withinMs = 5_000): Promise<string> {
  const socket = connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ...(svid && secureContextOptions(svid, 'TLSv1.2')), ...options });
  let end = 'closed';
  socket.on('error', (error: Error & { code?: string }) => (end = String(error.code)));
  socket.write('early words');
  ends.push(() => socket.destroy());
  const closed = new Promise((resolve) => {
    socket.once('close', resolve);
  });
  return Promise.race([closed.then(() => end), systemClock.sleep(withinMs).then(() => 'open')]);
}

/** Connects, keeps the session, and offers it again. */
async function resumption(port: number, maxVersion: 'TLSv1.2' | 'TLSv1.3', svid = home.svid(alpha)): Promise<{ readonly again: () => Promise<TLSSocket> }> {
  const options = { port, host: '127.0.0.1', maxVersion, rejectUnauthorized: false, ...secureContextOptions(svid, 'TLSv1.2') };
  const sessions: Buffer[] = [];
  const dial = async (more: { readonly session?: Buffer }): Promise<TLSSocket> => {
    const socket = connect({ ...options, ...more });
    socket.on('session', (session) => sessions.push(session));
    socket.on('error', () => undefined);
    ends.push(() => socket.destroy());
    await once(socket, 'secureConnect');
    return socket;
  };
  const first = await dial({});
  await systemClock.sleep(30);
  const session = sessions.at(-1) ?? first.getSession();
  return { again: () => dial(session === undefined ? {} : { session }) };
}

describe('a server made of tlsServerOptions', () => {
  it.each([
    ['with a server name', { servername: 'beta.example' }],
    ['without one, as for an address', {}],
  ])('refuses everybody until it is given to secureServer (%s)', async (_how, options) => {
    const { port, heard, server: made } = await framework(server(), {}, false);
    const failures: (Error & { reason?: string })[] = [];
    made.on('tlsClientError', (error) => failures.push(error));
    expect(await foreignClient(port, home.svid(alpha), options)).not.toBe('open');
    expect(heard).toEqual([]);
    if ('servername' in options) expect(failures[0]).toMatchObject({ reason: 'tls.unsecured' });
  });

  it.each([['beta.example'], [undefined]])('lets in whom it should, under the name %s', async (serverName) => {
    const { port, heard, refused } = await framework(server());
    const socket = await connectTls(client(), { host: '127.0.0.1', port, authorize: authorizeId(beta), ...(serverName !== undefined && { serverName }) });
    ends.push(() => socket.destroy());
    await until(() => heard.length === 2);
    expect([heard, refused]).toEqual([[`first ${alpha}`, `late ${alpha}`], []]);
  });

  it('is told apart from any other options', () => {
    const options = tlsServerOptions(server(), { authorize });
    expect(() => secureServer(createServer(), { ...options })).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'tls.options' }));
  });

  it('follows rotation, and the loss of a bundle', async () => {
    const source = server();
    const { port, heard, refused } = await framework(source);
    const own = client(abroad.svid(foreigner));
    for (let round = 0; round < 3; round += 1) {
      const next = home.svid(beta);
      source.identity.set(identityOf(next, federated));
      const socket = await connectTls(own, { host: '127.0.0.1', port, authorize });
      ends.push(() => socket.destroy());
      expect(socket.getPeerX509Certificate()?.serialNumber.toLowerCase().replace(/^0+/, '')).toBe(next.serial.replace(/^0+/, ''));
    }
    await until(() => heard.length === 6);
    source.identity.set(identityOf(home.svid(beta)));
    expect(await foreignClient(port, abroad.svid(foreigner))).not.toBe('open');
    expect(refused.map(({ reason }) => reason)).toEqual(['x509.path.unknown-trust-domain']);
    expect(heard).toHaveLength(6);
  });
});

describe('before anybody hears of a connection', () => {
  it.each<readonly [string, () => X509Svid | undefined, Partial<SpiffeClients>, string]>([
    ['a client without an SVID', () => undefined, {}, 'source.peer.anonymous'],
    ['T-03: an SVID of another trust domain’s authority', () => abroad.svid(alpha), {}, 'x509.path.unknown-authority'],
    ['an SVID of nobody’s authority', () => impostor.svid(alpha), {}, 'x509.path.signature'],
    ['an SVID that has expired', () => home.svid(alpha, -5_000), {}, 'x509.path.expired'],
    ['an identity that is not wanted', () => home.svid(beta), { authorize: authorizeId(alpha) }, 'source.peer.refused'],
    ['anybody at all when authorize answers with a promise', () => home.svid(beta), { authorize: (async () => true) as never }, 'source.peer.refused'],
    ['a wrong SVID where none is needed', () => abroad.svid(alpha), { clients: 'optional' }, 'x509.path.unknown-authority'],
  ])('T-07: refuses %s, whatever it says', async (_what, forge, settings, reason) => {
    const { port, heard, refused } = await framework(server(), settings);
    for (const maxVersion of ['TLSv1.3', 'TLSv1.2'] as const) {
      expect(await foreignClient(port, forge(), { maxVersion })).not.toBe('open');
    }
    await until(() => refused.length === 2);
    expect(refused.map((error) => error.reason)).toEqual([reason, reason]);
    expect(heard).toEqual([]);
  });

  it('lets a client without an SVID be nobody, where that is allowed', async () => {
    const { port, heard } = await framework(server(), { clients: 'optional' });
    expect(await foreignClient(port, undefined, {}, 200)).toBe('open');
    expect(heard).toEqual(['first undefined', 'late undefined', 'early words', 'early words']);
  });

  it.each(['TLSv1.2', 'TLSv1.3'] as const)('T-08: resumes no session (%s)', async (maxVersion) => {
    const { port } = await framework(server());
    const { again } = await resumption(port, maxVersion);
    const second = await again();
    expect(second.isSessionReused()).toBe(false);
  });

  it('T-08: asks the bundles of the moment when a listener makes sessions resume', async () => {
    const source = server();
    const { port, heard, refused, server: made } = await framework(source);
    const kept = new Map<string, Buffer>();
    made.on('newSession', (id, session, done) => {
      kept.set(id.toString('hex'), session);
      done();
    });
    made.on('resumeSession', (id, done) => done(null, kept.get(id.toString('hex')) ?? null));
    const { again } = await resumption(port, 'TLSv1.2', abroad.svid(foreigner));
    expect((await again()).isSessionReused()).toBe(true);
    await until(() => heard.length === 4);
    source.identity.set(identityOf(home.svid(beta)));
    const third = await again();
    third.resume();
    await until(() => third.closed);
    expect(refused.map(({ reason }) => reason)).toEqual(['x509.path.unknown-trust-domain']);
    expect(heard).toHaveLength(4);
  });

  it('is asked again when a source has no SVID, and recovers', async () => {
    const source = sourceOf(undefined, federated);
    const { port, heard } = await framework(source);
    expect(await foreignClient(port, home.svid(alpha))).not.toBe('open');
    source.identity.set(identityOf(home.svid(beta), federated));
    expect(await foreignClient(port, home.svid(alpha), {}, 200)).toBe('open');
    expect(heard).toContain('early words');
  });
});

describe('createTlsServer', () => {
  it('asks nobody who they are when told so', async () => {
    const peers: unknown[] = [];
    const made = createTlsServer(server(), { clients: 'none' }, (socket, peer) => {
      peers.push(peer);
      socket.end();
    });
    ends.push(() => made.close());
    const port = await listen(made);
    const socket = await connectTls(client(), { host: '127.0.0.1', port, authorize: authorizeId(beta) });
    socket.resume();
    await once(socket, 'end');
    expect(peers).toEqual([undefined]);
  });

  it('follows a certificate of the web, and refuses while it cannot be loaded', async () => {
    let web = webServer();
    const refused: SpiffeError[] = [];
    const settings: TlsServerSettings = { authorize, certificate: () => web, refused: (error) => void refused.push(error) };
    const made = createTlsServer(server(), settings, (socket) => socket.resume());
    ends.push(() => made.close());
    const port = await listen(made);
    const dial = async (): Promise<void> => {
      const socket = await connectTls(client(), { host: '127.0.0.1', port, server: 'web', roots: web.root, serverName: 'web.example' });
      socket.destroy();
    };
    await dial();
    web = webServer();
    await dial();
    web = { ...webServer(), cert: 'no certificate' };
    await expect(dial()).rejects.toMatchObject({ kind: 'unavailable' });
    await until(() => refused.some(({ reason }) => reason === 'tls.handshake'));
    web = webServer();
    await dial();
  });
});
