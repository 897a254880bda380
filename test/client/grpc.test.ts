import * as grpc from '@grpc/grpc-js';
import { X509Certificate } from 'node:crypto';
import { afterEach, describe, expect, it } from 'vitest';
import { authorizeAny, authorizeId } from '../../client/authorize.ts';
import { grpcChannelCredentials, grpcPeer, grpcServerCredentials } from '../../client/grpc.ts';
import type { TlsClientSettings } from '../../client/tls.ts';
import type { TlsServerSettings } from '../../client/tls-server.ts';
import type { SpiffeError } from '../../spiffe/errors.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import { echo, type EchoText } from '../help/echo.ts';
import { abroad, alpha, beta, federated, foreigner, home, identityOf, impostor, sourceOf, type TestSource, webServer } from '../help/tls-world.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const authorize = authorizeAny();
const client = (): TestSource => sourceOf(home.svid(alpha), federated);

/** A plain grpc-js server that says who called. */
async function serve(credentials: grpc.ServerCredentials): Promise<number> {
  const server = new grpc.Server();
  server.addService(echo, {
    Say(call: grpc.ServerUnaryCall<EchoText, EchoText>, done: grpc.sendUnaryData<Partial<EchoText>>) {
      done(null, { value: `${call.request.value} ${grpcPeer(call)?.spiffeId} ${call.metadata.get('authorization').join()}`.trim() });
    },
    Count(call: grpc.ServerWritableStream<EchoText, Partial<EchoText>>) {
      call.write({ value: String(grpcPeer(call)?.spiffeId) });
      ends.push(() => call.end());
    },
    Collect: () => undefined,
    Chat: () => undefined,
  });
  ends.push(() => server.forceShutdown());
  return new Promise((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', credentials, (error, port) => (error === null ? resolve(port) : reject(error)));
  });
}

interface Calling {
  say(value?: string): Promise<string>;
  readonly stub: grpc.Client;
}

function dial(port: number, credentials: grpc.ChannelCredentials, options: grpc.ClientOptions = {}): Calling {
  const stub = new grpc.Client(`127.0.0.1:${port}`, credentials, { 'grpc.initial_reconnect_backoff_ms': 20, 'grpc.max_reconnect_backoff_ms': 50, ...options });
  ends.push(() => stub.close());
  return {
    stub,
    say: (value = 'hi') =>
      new Promise((resolve, reject) => {
        const { path, requestSerialize, responseDeserialize } = echo.Say;
        stub.makeUnaryRequest(path, requestSerialize, responseDeserialize, { value }, { deadline: Date.now() + 5_000 }, (error, answer) => {
          if (error === null) resolve((answer as EchoText).value);
          else reject(error);
        });
      }),
  };
}

const spiffeServer = (source = sourceOf(home.svid(beta), federated), settings: Partial<TlsServerSettings> = {}): Promise<number> =>
  serve(grpcServerCredentials(grpc, source, { authorize, ...settings }));
const spiffeClient = (source: TestSource, settings: Partial<TlsClientSettings> = {}): grpc.ChannelCredentials =>
  grpcChannelCredentials(grpc, source, { authorize, ...settings });

const pem = (svid: X509Svid): [Buffer, Buffer] => [
  Buffer.from(svid.privateKey.export({ type: 'pkcs8', format: 'pem' })),
  Buffer.from(svid.chain.map((der) => new X509Certificate(der).toString()).join('')),
];
const roots = Buffer.from(new X509Certificate(home.certificate).toString());

describe('gRPC', () => {
  it('proves both ends, and tells handlers who calls', async () => {
    const port = await spiffeServer(undefined, { authorize: authorizeId(alpha) });
    const call = dial(port, spiffeClient(client(), { authorize: authorizeId(beta) }));
    expect(await call.say()).toBe(`hi ${alpha}`);
    expect(await call.say('again')).toBe(`again ${alpha}`);
  });

  it.each<readonly [string, () => X509Svid | undefined, Partial<TlsServerSettings>, string]>([
    ['an identity that is not wanted', () => home.svid(alpha), { authorize: authorizeId(beta) }, 'source.peer.refused'],
    ['T-03: an authority of another trust domain', () => abroad.svid(alpha), {}, 'x509.path.unknown-authority'],
    ['an authority that only calls itself so', () => impostor.svid(alpha), {}, 'x509.path.signature'],
    ['nobody', () => undefined, {}, 'source.peer.anonymous'],
  ])('a server refuses %s before there is a call', async (_what, forge, settings, reason) => {
    const refused: SpiffeError[] = [];
    const port = await spiffeServer(undefined, { ...settings, refused: (error) => void refused.push(error) });
    await expect(dial(port, spiffeClient(sourceOf(forge(), federated))).say()).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE });
    expect(refused[0]?.reason).toBe(reason);
  });

  it.each<readonly [string, () => X509Svid, RegExp]>([
    ['T-03: an authority of another trust domain', () => abroad.svid(beta), /not signed by an authority of its trust domain/],
    ['an identity that is not wanted', () => home.svid(alpha), /not authorized/],
  ])('T-07: a client leaves a server of %s', async (_what, forge, message) => {
    const port = await spiffeServer(sourceOf(forge(), federated));
    const call = dial(port, spiffeClient(client(), { authorize: authorizeId(beta) }));
    await expect(call.say()).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE, details: expect.stringMatching(message) as string });
  });

  it('follows rotation on both ends, with the next connection', async () => {
    const server = sourceOf(home.svid(beta), federated);
    const port = await spiffeServer(server);
    const own = client();
    const first = dial(port, spiffeClient(own));
    expect(await first.say()).toContain(alpha);
    own.identity.set(identityOf(abroad.svid(foreigner), federated));
    server.identity.set(identityOf(abroad.svid(foreigner), federated));
    await new Promise((resolve) => setImmediate(resolve));
    const next = dial(port, spiffeClient(own, { authorize: authorizeId(foreigner) }));
    expect(await next.say()).toContain(foreigner);
    expect(await first.say()).toContain(alpha);
    server.identity.set(identityOf(abroad.svid(foreigner), { 'other.test': [abroad] }));
    own.identity.set(identityOf(home.svid(alpha), federated));
    await expect(dial(port, spiffeClient(own)).say()).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE });
  });

  it('refuses everybody while there is no SVID, and recovers', async () => {
    const server = sourceOf(undefined, federated);
    const port = await spiffeServer(server);
    const call = dial(port, spiffeClient(client()));
    await expect(call.say()).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE });
    server.identity.set(identityOf(home.svid(beta), federated));
    await expect.poll(() => call.say().catch(() => 'not yet'), { timeout: 5_000 }).toContain(alpha);
  });

  it('takes call credentials with it', async () => {
    const port = await spiffeServer();
    const calls = grpc.credentials.createFromMetadataGenerator((_options, done) => {
      const metadata = new grpc.Metadata();
      metadata.set('authorization', 'Bearer x');
      done(null, metadata);
    });
    expect(await dial(port, spiffeClient(client()).compose(calls)).say()).toBe(`hi ${alpha} Bearer x`);
  });

  it('speaks with plain servers and clients of grpc-js', async () => {
    const [key, chain] = pem(home.svid(beta));
    const plainServer = await serve(grpc.ServerCredentials.createSsl(roots, [{ private_key: key, cert_chain: chain }], true));
    expect(await dial(plainServer, spiffeClient(client(), { authorize: authorizeId(beta) })).say()).toBe('hi undefined');
    const port = await spiffeServer();
    const plain = grpc.credentials.createSsl(roots, ...pem(home.svid(alpha)), { checkServerIdentity: () => undefined });
    expect(await dial(port, plain, { 'grpc.ssl_target_name_override': 'beta' }).say()).toBe(`hi ${alpha}`);
    const nobody = grpc.credentials.createSsl(roots, null, null, { checkServerIdentity: () => undefined });
    await expect(dial(port, nobody, { 'grpc.ssl_target_name_override': 'beta' }).say()).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE });
  });

  it('serves clients without an SVID where that is allowed, as nobody', async () => {
    for (const settings of [{ clients: 'optional' }, { clients: 'none', authorize: undefined }] as const) {
      const server = sourceOf(home.svid(beta), federated);
      const credentials = grpcServerCredentials(grpc, server, (settings.clients === 'none' ? { clients: 'none' } : { authorize, clients: 'optional' }) satisfies TlsServerSettings);
      const port = await serve(credentials);
      expect(await dial(port, spiffeClient(client(), { present: false })).say()).toBe('hi undefined');
    }
  });

  it('shows its SVID to a server of the web', async () => {
    const web = webServer();
    const port = await serve(grpc.ServerCredentials.createSsl(roots, [{ private_key: Buffer.from(web.key), cert_chain: Buffer.from(web.cert) }], true));
    const credentials = grpcChannelCredentials(grpc, client(), { server: 'web', roots: web.root });
    await expect(dial(port, credentials).say()).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE });
  });

  it('names no caller of a server with other credentials', async () => {
    const port = await serve(grpc.ServerCredentials.createInsecure());
    expect(await dial(port, grpc.credentials.createInsecure()).say()).toBe('hi undefined');
  });

  it('refuses a grpc-js that is too old', () => {
    const old = { ...grpc, ChannelCredentials: { createInsecure: () => ({}) }, ServerCredentials: { createInsecure: () => ({}) } } as never;
    for (const make of [grpcChannelCredentials, grpcServerCredentials]) {
      expect(() => make(old, client(), { authorize })).toThrow(expect.objectContaining({ kind: 'unsupported', reason: 'grpc.version' }));
    }
  });
});
