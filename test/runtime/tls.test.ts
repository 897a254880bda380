import { createServer as createPlainServer, connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { connect as connectTls, createServer as createForeignServer } from 'node:tls';
import type { ConnectionOptions, TLSSocket } from 'node:tls';
import { X509Certificate } from 'node:crypto';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../runtime/clock.ts';
import { createRpcClient } from '../../runtime/rpc/call.ts';
import { secureChannel } from '../../runtime/rpc/secure.ts';
import { createRpcServer } from '../../runtime/rpc/serve.ts';
import { checkAgainstBundles, checkServerIs, createTlsClient, createTlsServer } from '../../runtime/tls.ts';
import type { TlsIdentity, TlsServerOptions } from '../../runtime/tls.ts';
import { createWatch } from '../../runtime/watch.ts';
import type { WatchSource } from '../../runtime/watch.ts';
import type { SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId, parseTrustDomain, trustDomainOf } from '../../spiffe/id.ts';
import { parseX509Svid } from '../../spiffe/x509-svid.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import { authorityExtensions, ecPair, forgeCertificate, leafExtensions, nameOf } from '../help/forge.ts';
import type { Pair } from '../help/forge.ts';
import { echo, echoService } from '../help/echo.ts';
import type { EchoPeer } from '../help/echo.ts';

const now = systemClock.now();
const hour = 3_600_000;

interface Authority {
  readonly name: string;
  readonly pair: Pair;
  readonly certificate: Uint8Array;
}

function authority(trustDomain: string, name = trustDomain): Authority {
  const pair = ecPair();
  const certificate = forgeCertificate({
    issuer: nameOf(name),
    subject: nameOf(name),
    spki: pair.spki,
    signer: pair.privateKey,
    extensions: authorityExtensions(`spiffe://${trustDomain}`),
    validity: [now - hour, now + 24 * hour],
  });
  return { name, pair, certificate };
}

function svid(from: Authority, id: string, expiresAt = now + hour): X509Svid {
  const pair = ecPair();
  const leaf = forgeCertificate({
    issuer: nameOf(from.name),
    subject: nameOf('leaf'),
    spki: pair.spki,
    signer: from.pair.privateKey,
    extensions: leafExtensions(id),
    validity: [now - hour, expiresAt],
  });
  return parseX509Svid({ chain: [leaf], pkcs8Key: pair.privateKey.export({ type: 'pkcs8', format: 'der' }) });
}

function identity(own: X509Svid | undefined, bundles: Readonly<Record<string, readonly Authority[]>>): TlsIdentity {
  return {
    svid: own,
    bundles: new Map(
      Object.entries(bundles).map(([trustDomain, authorities]) => [
        parseTrustDomain(trustDomain),
        { x509Authorities: authorities.map(({ certificate }) => ({ certificate, tainted: false })) },
      ]),
    ),
  };
}

const home = authority('example.org');
const other = authority('other.test');
const stranger = authority('example.org', 'example.org');
const serverId = parseSpiffeId('spiffe://example.org/spire/server');
const clientId = parseSpiffeId('spiffe://example.org/spire/agent/a');
const ends: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

interface Listening {
  readonly port: number;
  readonly seen: (string | undefined)[];
  readonly refusals: SpiffeError[];
  readonly sockets: TLSSocket[];
}

async function listen(source: WatchSource<TlsIdentity>, options: Partial<TlsServerOptions> = {}): Promise<Listening> {
  const seen: (string | undefined)[] = [];
  const refusals: SpiffeError[] = [];
  const sockets: TLSSocket[] = [];
  const rpc = createRpcServer<EchoPeer>({ clock: systemClock, services: [echoService()] });
  const tls = createTlsServer({
    identity: source,
    clock: systemClock,
    accept: (socket, peer) => {
      seen.push(peer?.spiffeId);
      sockets.push(socket);
      rpc.inject(socket, { number: seen.length });
    },
    refused: (error) => refusals.push(error),
    ...options,
  });
  const stop = new AbortController();
  const following = tls.follow(stop.signal);
  await new Promise<void>((resolve) => {
    tls.server.listen(0, '127.0.0.1', resolve);
  });
  ends.push(async () => {
    stop.abort();
    await following;
    await rpc.close(50);
    tls.server.close();
  });
  return { port: (tls.server.address() as AddressInfo).port, seen, refusals, sockets };
}

function dial(port: number, source: WatchSource<TlsIdentity>, expected = serverId) {
  const check = checkServerIs(expected, source, systemClock);
  const security = secureChannel(createTlsClient({ identity: source, clock: systemClock, check, serverName: '127.0.0.1' }));
  const client = createRpcClient({ clock: systemClock, address: `127.0.0.1:${port}`, security });
  ends.push(() => client.close());
  return client;
}

const serverSource = (): WatchSource<TlsIdentity> =>
  createWatch(identity(svid(home, serverId), { 'example.org': [home], 'other.test': [other] }));
const until = async (done: () => boolean): Promise<void> => {
  for (let i = 0; i < 400 && !done(); i += 1) await systemClock.sleep(5);
  expect(done()).toBe(true);
};

describe('mutual TLS by SPIFFE ID', () => {
  it('proves both ends, and lets a client without a certificate in as nobody', async () => {
    const listening = await listen(serverSource());
    const agent = dial(listening.port, createWatch(identity(svid(home, clientId), { 'example.org': [home] })));
    const nobody = dial(listening.port, createWatch(identity(undefined, { 'example.org': [home] })));
    const foreign = dial(listening.port, createWatch(identity(svid(other, 'spiffe://other.test/x'), { 'example.org': [home] })));
    expect(await agent.unary(echo.Say, { value: 'hi' })).toMatchObject({ value: '1:hi' });
    await nobody.unary(echo.Say, {});
    await foreign.unary(echo.Say, {});
    expect(listening.seen).toEqual([clientId, undefined, 'spiffe://other.test/x']);
    expect(listening.sockets[0]?.getProtocol()).toBe('TLSv1.3');
  });

  it.each([
    ['T-03: another trust domain’s authority', () => svid(other, clientId), 'x509.path.unknown-authority'],
    ['an unknown authority of the same name', () => svid(stranger, clientId), 'x509.path.'],
    ['an unknown trust domain', () => svid(authority('evil.test'), 'spiffe://evil.test/x'), 'x509.path.unknown-trust-domain'],
    ['an expired SVID', () => svid(home, clientId, now - 60_000), 'x509.path.expired'],
    ['an ID without a path', () => svidOf(home, 'spiffe://example.org'), 'svid.leaf.no-path'],
  ])('a server refuses a client of %s', async (_case, forge, reason) => {
    const listening = await listen(serverSource());
    const client = dial(listening.port, createWatch(identity(forge(), { 'example.org': [home] })));
    await expect(client.unary(echo.Say, {})).rejects.toMatchObject({ kind: 'unavailable' });
    expect(listening.refusals[0]?.reason).toContain(reason);
    expect(listening.seen).toEqual([]);
  });

  it.each([
    ['another ID', () => svid(home, 'spiffe://example.org/workload'), 'tls.peer.unexpected'],
    ['T-03: another trust domain’s authority', () => svid(other, serverId), 'x509.path.unknown-authority'],
    ['an unknown authority of the same name', () => svid(stranger, serverId), 'x509.path.'],
    ['another trust domain', () => svid(other, 'spiffe://other.test/spire/server'), 'tls.peer.unexpected'],
    ['an expired SVID', () => svid(home, serverId, now - 60_000), 'x509.path.expired'],
  ])('T-07: a client refuses a server of %s before it sends a byte', async (_case, forge, reason) => {
    const own = forge();
    const got: Buffer[] = [];
    const foreign = createForeignServer(
      {
        key: own.privateKey.export({ type: 'pkcs8', format: 'pem' }),
        cert: new X509Certificate(own.chain[0]!).toString(),
        ALPNProtocols: ['h2'],
      },
      (socket) => {
        socket.on('error', () => undefined);
        socket.on('data', (bytes: Buffer) => got.push(bytes));
        // What a server sends first must not be acted on either.
        socket.write(Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]));
      },
    );
    await new Promise<void>((resolve) => {
      foreign.listen(0, '127.0.0.1', resolve);
    });
    ends.push(() => void foreign.close());
    const source = createWatch(identity(svid(home, clientId), { 'example.org': [home], 'other.test': [other] }));
    const client = dial((foreign.address() as AddressInfo).port, source);
    const error = (await client.unary(echo.Say, { value: 'secret' }).catch((thrown: unknown) => thrown)) as SpiffeError;
    expect(error).toMatchObject({ kind: 'unavailable', reason: 'rpc.unreachable' });
    expect(error.detail['peerReason']).toContain(reason);
    await systemClock.sleep(30);
    expect(Buffer.concat(got)).toHaveLength(0);
  });

  it('T-09: takes an authority that is no root', async () => {
    const root = authority('example.org', 'root');
    const pair = ecPair();
    const intermediate: Authority = {
      name: 'middle',
      pair,
      certificate: forgeCertificate({
        issuer: nameOf('root'),
        subject: nameOf('middle'),
        spki: pair.spki,
        signer: root.pair.privateKey,
        extensions: authorityExtensions(),
        validity: [now - hour, now + hour],
      }),
    };
    const listening = await listen(createWatch(identity(svid(intermediate, serverId), { 'example.org': [intermediate] })));
    const client = dial(listening.port, createWatch(identity(svid(intermediate, clientId), { 'example.org': [intermediate] })));
    await client.unary(echo.Say, {});
    expect(listening.seen).toEqual([clientId]);
  });
});

it('finds the path through intermediates that the peer sends', async () => {
  const pair = ecPair();
  const middle: Authority = {
    name: 'middle',
    pair,
    certificate: forgeCertificate({
      issuer: nameOf(home.name),
      subject: nameOf('middle'),
      spki: pair.spki,
      signer: home.pair.privateKey,
      extensions: authorityExtensions(),
      validity: [now - hour, now + hour],
    }),
  };
  const through = (id: string): X509Svid => {
    const short = svid(middle, id);
    return { ...short, chain: [...short.chain, middle.certificate] };
  };
  const listening = await listen(createWatch(identity(through(serverId), { 'example.org': [home] })));
  const client = dial(listening.port, createWatch(identity(through(clientId), { 'example.org': [home] })));
  await client.unary(echo.Say, {});
  expect(listening.seen).toEqual([clientId]);
});

describe('a chain that is shown again', () => {
  const clock = { ...systemClock, at: now, now: () => clock.at };
  const shown = svid(home, clientId).chain;
  const source = createWatch(identity(undefined, { 'example.org': [home] }));
  const check = checkAgainstBundles(source, clock, 'client');

  it('is judged at the instant of each time, and by the bundles of it', () => {
    const first = check(shown);
    expect(check(shown.map((der) => Uint8Array.from(der)))).toBe(first);
    clock.at = now + 2 * hour;
    expect(() => check(shown)).toThrow(expect.objectContaining({ reason: 'x509.path.expired' }));
    clock.at = now - 2 * hour;
    expect(() => check(shown)).toThrow(expect.objectContaining({ reason: 'x509.path.not-yet-valid' }));
    clock.at = now;
    expect(check(shown).spiffeId).toBe(clientId);
    source.set(identity(undefined, { 'example.org': [stranger] }));
    expect(() => check(shown)).toThrow(expect.objectContaining({ kind: 'unauthenticated' }));
    source.set(identity(undefined, {}));
    expect(() => check(shown)).toThrow(expect.objectContaining({ reason: 'x509.path.unknown-trust-domain' }));
    source.set(identity(undefined, { 'example.org': [home, stranger] }));
    expect(check(shown).spiffeId).toBe(clientId);
  });

  it('is another one when a byte of it is another, or something is added', () => {
    source.set(identity(undefined, { 'example.org': [home] }));
    check(shown);
    const forged = shown.map((der) => Uint8Array.from(der));
    forged[0]![forged[0]!.length - 1]! ^= 1;
    expect(() => check(forged)).toThrow(expect.objectContaining({ kind: 'unauthenticated' }));
    expect(() => check([...shown, Uint8Array.of(0x30, 0)])).toThrow(expect.objectContaining({ kind: 'invalid' }));
    expect(() => check([])).toThrow(expect.objectContaining({ reason: 'x509.path.empty-chain' }));
  });
});

describe.each(['secp256k1', 'brainpoolP256r1', 'secp224r1'])('a chain with a key on %s, which would end the process if Node were to describe it', (curve) => {
  const through = (id: string): X509Svid => {
    const pair = ecPair(curve);
    const odd: Authority = {
      name: 'odd',
      pair,
      certificate: forgeCertificate({
        issuer: nameOf(home.name),
        subject: nameOf('odd'),
        spki: pair.spki,
        signer: home.pair.privateKey,
        extensions: authorityExtensions(),
        validity: [now - hour, now + hour],
      }),
    };
    const short = svid(odd, id);
    return { ...short, chain: [...short.chain, odd.certificate] };
  };

  it('is refused by a server', async () => {
    const listening = await listen(serverSource());
    const client = dial(listening.port, createWatch(identity(through(clientId), { 'example.org': [home] })));
    await expect(client.unary(echo.Say, {})).rejects.toMatchObject({ kind: 'unavailable' });
    expect(listening.refusals.map(({ reason }) => reason)).toEqual(['x509.path.weak-key']);
  });

  it('is refused by a client', async () => {
    const listening = await listen(createWatch(identity(through(serverId), { 'example.org': [home] })));
    const client = dial(listening.port, createWatch(identity(svid(home, clientId), { 'example.org': [home] })));
    const error = (await client.unary(echo.Say, {}).catch((thrown: unknown) => thrown)) as SpiffeError;
    expect(error.detail['peerReason']).toBe('x509.path.weak-key');
  });
});

describe('rotation', () => {
  it('serves and presents a new SVID on new connections, without a failed call', async () => {
    const server = serverSource();
    const listening = await listen(server);
    const source = createWatch(identity(svid(home, clientId), { 'example.org': [home] }));
    const client = dial(listening.port, source);
    await client.unary(echo.Say, {});
    const open = client.converse(echo.Chat);
    await open.send({ value: '1' });
    await open.responses.next();

    const next = authority('example.org', 'next');
    source.set(identity(svid(next, clientId), { 'example.org': [home, next] }));
    server.set(identity(svid(next, serverId), { 'example.org': [home, next] }));
    await systemClock.sleep(1);
    expect(await client.unary(echo.Say, { value: 'x' })).toMatchObject({ value: '2:x' });
    expect(listening.sockets[1]?.getPeerX509Certificate()?.serialNumber).not.toBe(
      listening.sockets[0]?.getPeerX509Certificate()?.serialNumber,
    );
    await open.send({ value: '2' });
    expect((await open.responses.next()).value).toMatchObject({ value: 're: 2' });
    open.finish();
    expect((await open.responses.next()).done).toBe(true);
    await until(() => listening.sockets[0]?.destroyed === true);

    server.set(identity(svid(next, serverId), { 'example.org': [next] }));
    const late = dial(listening.port, createWatch(identity(svid(home, clientId), { 'example.org': [home, next] })));
    await expect(late.unary(echo.Say, {})).rejects.toMatchObject({ kind: 'unavailable' });
  });

  it('refuses everything while there is no SVID, and recovers', async () => {
    const server = createWatch(identity(undefined, {}));
    const listening = await listen(server);
    const source = createWatch(identity(undefined, { 'example.org': [home] }));
    await expect(dial(listening.port, source).unary(echo.Say, {})).rejects.toMatchObject({ reason: 'rpc.unreachable' });
    server.set(identity(svid(home, serverId), { 'example.org': [home] }));
    await systemClock.sleep(1);
    await dial(listening.port, source).unary(echo.Say, {});
  });
});

describe('what TLS is spoken', () => {
  const raw = (port: number, options: ConnectionOptions): Promise<{ socket: TLSSocket; error: Error | undefined }> =>
    new Promise((resolve) => {
      const socket = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols: ['h2'], ...options });
      socket.once('secureConnect', () => resolve({ socket, error: undefined }));
      socket.once('error', (error) => resolve({ socket, error }));
      socket.on('error', () => undefined);
      ends.push(() => void socket.destroy());
    });

  it.each(['TLSv1.2', 'TLSv1.3'] as const)('T-H04: resumes no session (%s)', async (version) => {
    const listening = await listen(serverSource(), { minVersion: 'TLSv1.2' });
    const first = await raw(listening.port, { maxVersion: version });
    const sessions: Buffer[] = [];
    first.socket.on('session', (session) => sessions.push(session));
    await systemClock.sleep(50);
    const session = sessions.at(-1) ?? first.socket.getSession();
    const second = await raw(listening.port, { maxVersion: version, session: session! });
    expect(second.error).toBeUndefined();
    expect(second.socket.isSessionReused()).toBe(false);
    await until(() => listening.seen.length === 2);
  });

  it('T-B13: speaks 1.3 alone unless told, and h2 alone', async () => {
    const strict = await listen(serverSource());
    expect((await raw(strict.port, { maxVersion: 'TLSv1.2' })).error).toBeDefined();
    const wrong = await raw(strict.port, { ALPNProtocols: ['http/1.1'] });
    if (wrong.error === undefined) await until(() => wrong.socket.destroyed);
    const none = await raw(strict.port, { ALPNProtocols: undefined });
    none.socket.resume();
    await until(() => none.socket.destroyed || none.socket.closed);
    expect(strict.seen).toEqual([]);
    const lenient = await listen(serverSource(), { minVersion: 'TLSv1.2' });
    expect((await raw(lenient.port, { maxVersion: 'TLSv1.2' })).error).toBeUndefined();
    expect((await raw(lenient.port, { maxVersion: 'TLSv1.2', minVersion: 'TLSv1', ciphers: 'AES128-SHA' })).error).toBeDefined();
  });

  it('gives up on a server that never answers the handshake', async () => {
    const held: Socket[] = [];
    const silent = createPlainServer((socket) => held.push(socket));
    await new Promise<void>((resolve) => {
      silent.listen(0, '127.0.0.1', resolve);
    });
    ends.push(() => {
      for (const socket of held) socket.destroy();
      silent.close();
    });
    const socket = connect((silent.address() as AddressInfo).port, '127.0.0.1');
    const source = createWatch(identity(undefined, { 'example.org': [home] }));
    const waits: number[] = [];
    const clock = { ...systemClock, sleep: (ms: number) => Promise.resolve(void waits.push(ms)) };
    const client = createTlsClient({ identity: source, clock, check: checkServerIs(serverId, source, systemClock) });
    await expect(client.handshake(socket)).rejects.toMatchObject({ kind: 'unavailable', reason: 'tls.handshake' });
    expect(waits).toEqual([5_000]);
    expect(socket.destroyed).toBe(true);
  });
});

/** As `svid`, for leaves that one's own side would refuse to hold. */
function svidOf(from: Authority, id: string): X509Svid {
  const good = svid(from, clientId);
  const leaf = forgeCertificate({
    issuer: nameOf(from.name),
    subject: nameOf('leaf'),
    spki: new X509Certificate(good.chain[0]!).publicKey.export({ type: 'spki', format: 'der' }),
    signer: from.pair.privateKey,
    extensions: leafExtensions(id),
    validity: [now - hour, now + hour],
  });
  expect(trustDomainOf(parseSpiffeId(id))).toBe('example.org');
  return { ...good, chain: [leaf] };
}
