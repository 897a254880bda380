import { once } from 'node:events';
import { request } from 'node:https';
import type { Agent, Server } from 'node:https';
import { afterEach, describe, expect, it } from 'vitest';
import { authorizeAny, authorizeId } from '../../client/authorize.ts';
import { createHttpsServer, httpsAgent, type PoolOptions } from '../../client/https.ts';
import type { TlsClientSettings } from '../../client/tls.ts';
import { peerOf } from '../../client/tls-peer.ts';
import { systemClock } from '../../runtime/clock.ts';
import { abroad, alpha, beta, federated, foreigner, home, identityOf, impostor, listen, sourceOf, type TestSource, until } from '../help/tls-world.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const authorize = authorizeAny();

async function serve(source = sourceOf(home.svid(beta), federated)): Promise<{ readonly port: number; readonly server: Server; readonly connections: () => number; readonly source: TestSource }> {
  let connections = 0;
  const server = createHttpsServer(source, { authorize, http: { keepAliveTimeout: 60_000 } }, (incoming, response) => {
    response.end(`${incoming.method} ${incoming.url} ${peerOf(incoming.socket)?.spiffeId}`);
  });
  server.on('secureConnection', () => (connections += 1));
  ends.push(() => server.closeAllConnections(), () => server.close());
  return { port: await listen(server), server, connections: () => connections, source };
}

function agentOf(source: TestSource, settings: Partial<TlsClientSettings> = {}, pool?: PoolOptions): Agent {
  const agent = httpsAgent(source, { authorize, ...settings }, pool);
  ends.push(() => agent.destroy());
  return agent;
}

function ask(agent: Agent, port: number, path = '/'): Promise<string> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, agent, path }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => (text += part));
      response.on('end', () => resolve(text));
    });
    sent.on('error', reject);
    sent.end();
  });
}

const client = (): TestSource => sourceOf(home.svid(alpha), federated);

describe('httpsAgent and createHttpsServer', () => {
  it('know each other, and keep the connection for the next request', async () => {
    const { port, connections } = await serve();
    const agent = agentOf(client(), { authorize: authorizeId(beta) });
    expect(await ask(agent, port, '/a')).toBe(`GET /a ${alpha}`);
    expect(await ask(agent, port, '/b')).toBe(`GET /b ${alpha}`);
    expect(connections()).toBe(1);
  });

  it('make a new connection after rotation, at either end of the wait', async () => {
    const { port, connections, source } = await serve();
    const own = client();
    const agent = agentOf(own);
    expect(await ask(agent, port)).toContain(alpha);
    own.identity.set(identityOf(abroad.svid(foreigner), federated));
    await until(() => Object.values(agent.freeSockets).flat().length === 0);
    expect(await ask(agent, port)).toContain(foreigner);
    // While a request is under way the connection is needed; it is not kept after it.
    const under = ask(agent, port);
    own.identity.set(identityOf(home.svid(alpha), federated));
    await under;
    await systemClock.sleep(10);
    expect(Object.values(agent.freeSockets).flat()).toEqual([]);
    expect(await ask(agent, port)).toContain(alpha);
    source.identity.set(identityOf(home.svid(beta), federated));
    expect(await ask(agent, port)).toContain(alpha);
    expect(connections()).toBe(3);
  });

  it('use no connection to a trust domain whose bundle is gone', async () => {
    const { port } = await serve(sourceOf(abroad.svid(foreigner), federated));
    const own = client();
    const agent = agentOf(own);
    await ask(agent, port);
    own.identity.set(identityOf(home.svid(alpha)));
    await expect(ask(agent, port)).rejects.toMatchObject({ reason: 'x509.path.unknown-trust-domain' });
  });

  it('refuse a server and say why, also many at once', async () => {
    const { port } = await serve(sourceOf(impostor.svid(beta), federated));
    const agent = agentOf(client(), {}, { maxSockets: 2 });
    const answers = await Promise.allSettled(Array.from({ length: 6 }, () => ask(agent, port)));
    expect(answers.map((answer) => (answer.status === 'rejected' ? (answer.reason as { reason: string }).reason : 'answered'))).toEqual(Array(6).fill('x509.path.signature'));
    const right = await serve();
    expect(await ask(agent, right.port)).toContain(alpha);
  });

  it('say that nobody listens', async () => {
    const { port, server } = await serve();
    server.close();
    await once(server, 'close');
    await expect(ask(agentOf(client()), port)).rejects.toMatchObject({ kind: 'unavailable', reason: 'source.connect' });
  });

  it('let the process end: an agent that only waits holds nothing open', async () => {
    const { port } = await serve();
    const agent = agentOf(client());
    await ask(agent, port);
    agent.destroy();
    expect(Object.values(agent.freeSockets).flat().filter((socket) => socket?.destroyed === false)).toEqual([]);
  });
});
