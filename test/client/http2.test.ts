import { type ClientHttp2Session, constants } from 'node:http2';
import { request } from 'node:https';
import { afterEach, describe, expect, it } from 'vitest';
import { authorizeAny, authorizeId } from '../../client/authorize.ts';
import { connectHttp2, createHttp2Server } from '../../client/http2.ts';
import { tlsClientOptions } from '../../client/tls.ts';
import { peerOf } from '../../client/tls-peer.ts';
import { abroad, alpha, beta, federated, foreigner, home, identityOf, listen, sourceOf, type TestSource } from '../help/tls-world.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const authorize = authorizeAny();
const client = (): TestSource => sourceOf(home.svid(alpha), federated);

async function serve(source = sourceOf(home.svid(beta), federated)): Promise<{ readonly port: number; readonly sessions: () => number }> {
  let sessions = 0;
  const server = createHttp2Server(source, { authorize, http2: { allowHTTP1: true } }, (incoming, response) => {
    const { session } = 'stream' in incoming && incoming.stream !== undefined ? incoming.stream : { session: undefined };
    response.end(`${incoming.httpVersion} ${peerOf(incoming.socket)?.spiffeId} ${session === undefined ? '' : peerOf(session.socket)?.spiffeId}`.trim());
  });
  server.on('session', () => (sessions += 1));
  ends.push(() => server.close());
  return { port: await listen(server), sessions: () => sessions };
}

async function ask(session: ClientHttp2Session): Promise<string> {
  ends.push(() => session.destroy());
  const stream = session.request({ [constants.HTTP2_HEADER_PATH]: '/' });
  let text = '';
  stream.setEncoding('utf8');
  for await (const part of stream) text += part;
  return text;
}

describe('HTTP/2', () => {
  it('connects, and each end knows the other', async () => {
    const { port } = await serve();
    const session = await connectHttp2(client(), `https://127.0.0.1:${port}`, { authorize: authorizeId(beta) });
    expect(await ask(session)).toBe(`2.0 ${alpha} ${alpha}`);
    expect(peerOf(session.socket)?.spiffeId).toBe(beta);
  });

  it('refuses a server before there is a session', async () => {
    const { port, sessions } = await serve(sourceOf(abroad.svid(beta), federated));
    await expect(connectHttp2(client(), `https://127.0.0.1:${port}`, { authorize })).rejects.toMatchObject({ reason: 'x509.path.unknown-authority' });
    expect(sessions()).toBe(0);
    await expect(connectHttp2(client(), 'http://127.0.0.1', { authorize })).rejects.toMatchObject({ reason: 'tls.url' });
  });

  it('refuses a client before there is a session', async () => {
    const { port, sessions } = await serve();
    const session = await connectHttp2(sourceOf(abroad.svid(alpha), federated), `https://127.0.0.1:${port}`, { authorize });
    session.on('error', () => undefined);
    expect(await ask(session).catch(() => '')).toBe('');
    expect([session.destroyed, sessions()]).toEqual([true, 0]);
  });

  it('shows the newest SVID with the next session', async () => {
    const { port } = await serve();
    const own = client();
    const url = `https://127.0.0.1:${port}`;
    const first = await connectHttp2(own, url, { authorize });
    own.identity.set(identityOf(abroad.svid(foreigner), federated));
    expect(await ask(await connectHttp2(own, url, { authorize }))).toContain(foreigner);
    expect(await ask(first)).toContain(alpha);
  });

  it('speaks HTTP/1.1 where that is allowed', async () => {
    const { port } = await serve();
    const text = await new Promise<string>((resolve, reject) => {
      const sent = request({ host: '127.0.0.1', port, ...tlsClientOptions(client(), { authorize }) }, (response) => {
        response.setEncoding('utf8');
        response.once('data', resolve);
      });
      sent.on('error', reject);
      sent.end();
    });
    expect(text).toBe(`1.1 ${alpha}`);
  });
});
