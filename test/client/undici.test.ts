import { Agent, fetch as undiciFetch, request } from 'undici';
import { afterEach, describe, expect, it } from 'vitest';
import { authorizeAny, authorizeId } from '../../client/authorize.ts';
import { createHttpsServer } from '../../client/https.ts';
import { peerOf } from '../../client/tls-peer.ts';
import { fetchDispatcher, spiffeFetch, undiciConnector } from '../../client/undici.ts';
import { systemClock } from '../../runtime/clock.ts';
import { abroad, alpha, beta, federated, foreigner, home, identityOf, listen, sourceOf, type TestSource, until } from '../help/tls-world.ts';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
});

const authorize = authorizeAny();
const client = (): TestSource => sourceOf(home.svid(alpha), federated);

async function serve(source = sourceOf(home.svid(beta), federated)): Promise<{ readonly url: string; readonly connections: () => number; readonly slow: () => Promise<void>; readonly release: () => void }> {
  let connections = 0;
  let release: (() => void) | undefined;
  const server = createHttpsServer(source, { authorize, http: { keepAliveTimeout: 60_000 } }, (incoming, response) => {
    const answer = (): void => void response.end(`${incoming.url} ${peerOf(incoming.socket)?.spiffeId}`);
    if (incoming.url === '/slow') release = answer;
    else answer();
  });
  server.on('secureConnection', () => (connections += 1));
  ends.push(() => server.closeAllConnections(), () => server.close());
  return {
    url: `https://127.0.0.1:${await listen(server)}`,
    connections: () => connections,
    slow: () => until(() => release !== undefined),
    release: () => release?.(),
  };
}

type Fetch = (url: string) => Promise<{ text(): Promise<string> }>;

const ways: readonly (readonly [string, (source: TestSource, settings?: { authorize: typeof authorize }) => Fetch])[] = [
  ['fetchDispatcher', (source, settings = { authorize }) => {
    const dispatcher = fetchDispatcher(Agent, source, settings);
    ends.push(() => dispatcher.destroy());
    return (url) => undiciFetch(url, { dispatcher });
  }],
  ['spiffeFetch', (source, settings = { authorize }) => spiffeFetch(source, settings)],
];

describe.each(ways)('%s', (_name, make) => {
  it('fetches from a server that it proved, and keeps the connection', async () => {
    const { url, connections } = await serve();
    const get = make(client(), { authorize: authorizeId(beta) });
    expect(await (await get(`${url}/a`)).text()).toBe(`/a ${alpha}`);
    // A pool takes a connection back only after the last byte was read.
    await systemClock.sleep(20);
    expect(await (await get(`${url}/b`)).text()).toBe(`/b ${alpha}`);
    expect(connections()).toBe(1);
  });

  it('refuses a server and says why', async () => {
    const { url } = await serve(sourceOf(abroad.svid(beta), federated));
    await expect(make(client())(url)).rejects.toMatchObject({ cause: { reason: 'x509.path.unknown-authority' } });
    const right = await serve();
    await expect(make(client(), { authorize: authorizeId(alpha) })(right.url)).rejects.toMatchObject({ cause: { reason: 'source.peer.refused' } });
  });

  it('asks nobody over plain HTTP', async () => {
    await expect(make(client())('http://127.0.0.1:8081/')).rejects.toMatchObject({ cause: { reason: 'tls.url' } });
  });

  it('uses no connection of an older identity, and lets one finish', async () => {
    const { url, connections, slow: underWay, release } = await serve();
    const own = client();
    const get = make(own);
    await (await get(url)).text();
    await systemClock.sleep(20);
    const slow = get(`${url}/slow`);
    await underWay();
    own.identity.set(identityOf(abroad.svid(foreigner), federated));
    expect(await (await get(url)).text()).toContain(foreigner);
    release();
    expect(await (await slow).text()).toContain(alpha);
    own.identity.set(identityOf(abroad.svid(foreigner), { 'other.test': [abroad] }));
    await expect(get(url)).rejects.toMatchObject({ cause: { reason: 'x509.path.unknown-trust-domain' } });
    expect(connections()).toBe(2);
  });
});

describe('undiciConnector', () => {
  it('serves undici’s own agents', async () => {
    const { url } = await serve();
    const dispatcher = new Agent({ connect: undiciConnector(client(), { authorize }) });
    ends.push(() => dispatcher.destroy());
    const { body } = await request(url, { dispatcher });
    expect(await body.text()).toBe(`/ ${alpha}`);
  });
});

it('ends all connections when it is closed', async () => {
  const { url } = await serve();
  const dispatcher = fetchDispatcher(Agent, client(), { authorize });
  await (await undiciFetch(url, { dispatcher })).text();
  await dispatcher.close();
  await expect(undiciFetch(url, { dispatcher })).rejects.toMatchObject({ cause: { code: 'UND_ERR_DESTROYED' } });
});
