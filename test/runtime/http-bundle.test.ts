import type { RequestListener } from 'node:http';
import { createServer as createRawServer } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import { gzipSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../runtime/clock.ts';
import { checkEndpointUrl, fetchBundle } from '../../runtime/http-bundle.ts';
import type { BundleFetch } from '../../runtime/http-bundle.ts';
import { formatBundleDocument } from '../../spiffe/bundle-document.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { bundleEquals } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { createDomain, credentialsOf, serveEndpoint } from '../help/bundle-endpoint.ts';
import type { Domain, TestEndpoint } from '../help/bundle-endpoint.ts';
import { createTestClock } from '../help/clock.ts';
import { createClusterAuthority } from '../help/kubernetes-tls.ts';
import { refusal } from '../spiffe/refusal.ts';

const at = systemClock.now();
const home = createDomain('home.test', at);
const other = createDomain('other.test', at);
const web = createClusterAuthority('web');
const named = web.issue('endpoint', ['bundle.home.test', '127.0.0.1']);
const webTls = { cert: named.certificate, key: named.key };
const endpointId = home.id('/spire/server');

const ends: AsyncDisposable[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end[Symbol.asyncDispose]();
});

async function served(options: Parameters<typeof serveEndpoint>[0], answer: Bundle | RequestListener): Promise<TestEndpoint> {
  const endpoint = await serveEndpoint(options, answer);
  ends.push(endpoint);
  return endpoint;
}

const names: Readonly<Record<string, readonly string[]>> = {
  'bundle.home.test': ['127.0.0.1'],
  'elsewhere.test': ['127.0.0.1'],
  'nowhere.test': [],
};

function webFetch(url: string, more: Partial<BundleFetch> = {}): Promise<Bundle> {
  return fetchBundle({
    url,
    trustDomain: home.bundle.trustDomain,
    profile: { type: 'https_web', ca: web.ca },
    clock: systemClock,
    resolve: (host) => Promise.resolve(names[host] ?? ['127.0.0.1']),
    ...more,
  });
}

function spiffeFetch(url: string, more: Partial<BundleFetch> = {}, from: Domain = home): Promise<Bundle> {
  return webFetch(url, { profile: { type: 'https_spiffe', endpointId, bundle: () => from.bundle }, ...more });
}

async function outcome(fetched: Promise<Bundle>): Promise<string> {
  try {
    await fetched;
    return 'fetched';
  } catch (error) {
    if (error instanceof SpiffeError) return `${error.kind} ${error.reason}`;
    throw error;
  }
}

function redirectTo(location: string | undefined, status = 307): RequestListener {
  return (_incoming, outgoing) => {
    outgoing.writeHead(status, location === undefined ? {} : { Location: location });
    outgoing.end();
  };
}

/** A server that answers with these bytes over TLS, and leaves the connection open. */
async function saying(say: (socket: Socket) => unknown): Promise<{ readonly url: string }> {
  const open = new Set<Socket>();
  const server = createTlsServer(webTls, (socket) => {
    socket.on('error', () => undefined);
    socket.once('data', () => say(socket));
  });
  server.on('connection', (socket: Socket) => {
    open.add(socket);
    socket.on('error', () => undefined);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  ends.push({
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  });
  return { url: `https://bundle.home.test:${(server.address() as AddressInfo).port}/` };
}

describe('checkEndpointUrl', () => {
  it.each([
    ['https://example.org', 'accepted'],
    ['https://example.org:8443/a/b.json?x=y#z', 'accepted'],
    ['https://[2001:db8::1]:8443/', 'accepted'],
    ['https://example.org/@', 'accepted'],
    ['http://example.org', 'invalid bundle-endpoint.url'],
    ['spiffe://example.org', 'invalid bundle-endpoint.url'],
    ['file:///etc/passwd', 'invalid bundle-endpoint.url'],
    ['https://', 'invalid bundle-endpoint.url'],
    ['https:///path', 'invalid bundle-endpoint.url'],
    [' https://example.org', 'invalid bundle-endpoint.url'],
    ['example.org', 'invalid bundle-endpoint.url'],
    ['', 'invalid bundle-endpoint.url'],
    ['https://user@example.org', 'invalid bundle-endpoint.url'],
    ['https://user:pass@example.org', 'invalid bundle-endpoint.url'],
    ['https://:pass@example.org', 'invalid bundle-endpoint.url'],
    ['https://@example.org', 'invalid bundle-endpoint.url'],
    ['https://ex%61mple.org', 'invalid bundle-endpoint.url'],
    ['https:\\\\user@example.org', 'invalid bundle-endpoint.url'],
    [`https://example.org/${'a'.repeat(2048)}`, 'invalid bundle-endpoint.url'],
  ])('FED-12: %s is %s', (text, expected) => {
    expect(refusal(() => checkEndpointUrl(text))).toBe(expected);
  });
});

describe('a bundle', () => {
  it('FED-01, FED-08: is fetched from a web endpoint', async () => {
    const endpoint = await served(webTls, home.bundle);
    const bundle = await webFetch(endpoint.url('bundle.home.test', '/bundle.json?of=home'));
    expect(bundleEquals(bundle, home.bundle)).toBe(true);
    expect(endpoint.asked).toEqual(['GET /bundle.json?of=home']);
  });

  it('FED-08, FED-24: is fetched from an endpoint with an X509-SVID, whatever its host is called', async () => {
    const endpoint = await served(credentialsOf(home.svid('/spire/server')), home.bundle);
    const bundle = await spiffeFetch(endpoint.url('any.name.test'));
    expect(bundleEquals(bundle, home.bundle)).toBe(true);
  });

  it('FED-16: is read whatever the content type says', async () => {
    const endpoint = await served(webTls, (_incoming, outgoing) => {
      outgoing.setHeader('Content-Type', 'text/html');
      outgoing.end(formatBundleDocument(home.bundle));
    });
    expect(await outcome(webFetch(endpoint.url('bundle.home.test')))).toBe('fetched');
  });

  it('asks with the host, for JSON, uncompressed', async () => {
    let headers: unknown;
    const endpoint = await served(webTls, (incoming, outgoing) => {
      ({ headers } = incoming);
      outgoing.end(formatBundleDocument(home.bundle));
    });
    await webFetch(endpoint.url('bundle.home.test'));
    expect(headers).toMatchObject({ host: `bundle.home.test:${endpoint.port}`, accept: 'application/json', 'accept-encoding': 'identity' });
  });
});

describe('the server', () => {
  it.each([
    ['bundle.home.test', 'fetched'],
    ['127.0.0.1', 'fetched'],
    ['elsewhere.test', 'unauthenticated bundle-fetch.server'],
  ])('FED-19: is proved to be %s or not: %s', async (host, expected) => {
    const endpoint = await served(webTls, home.bundle);
    expect(await outcome(webFetch(endpoint.url(host)))).toBe(expected);
    expect(endpoint.asked.length).toBe(expected === 'fetched' ? 1 : 0);
  });

  it('FED-19: of an authority that is not trusted is refused, also where the machine decides', async () => {
    const endpoint = await served(webTls, home.bundle);
    const url = endpoint.url('bundle.home.test');
    expect(await outcome(webFetch(url, { profile: { type: 'https_web' } }))).toBe('unauthenticated bundle-fetch.server');
    const ca = createClusterAuthority('web').ca;
    expect(await outcome(webFetch(url, { profile: { type: 'https_web', ca } }))).toBe('unauthenticated bundle-fetch.server');
    expect(endpoint.asked).toEqual([]);
  });

  it('is not proved by authorities that cannot be read, least of all by those of the machine', async () => {
    const endpoint = await served(webTls, home.bundle);
    expect(await outcome(webFetch(endpoint.url('bundle.home.test'), { profile: { type: 'https_web', ca: '' } }))).toBe('invalid bundle-fetch.ca');
    expect(endpoint.connections).toBe(0);
  });

  it.each([
    ['another ID of the trust domain', () => home.svid('/spire/server/2')],
    ['the same path in another trust domain', () => other.svid('/spire/server')],
    ['the right ID by another authority', () => createDomain('home.test', at).svid('/spire/server')],
  ])('FED-25: with %s is refused', async (_what, svid) => {
    const endpoint = await served(credentialsOf(svid()), home.bundle);
    expect(await outcome(spiffeFetch(endpoint.url('any.test')))).toBe('unauthenticated bundle-fetch.server');
    expect(endpoint.asked).toEqual([]);
  });

  it('FED-10: of the other profile is refused: there is no way back', async () => {
    const asWeb = await served(webTls, home.bundle);
    expect(await outcome(spiffeFetch(asWeb.url('bundle.home.test')))).toBe('unauthenticated bundle-fetch.server');
    const asSpiffe = await served(credentialsOf(home.svid('/spire/server')), home.bundle);
    expect(await outcome(webFetch(asSpiffe.url('bundle.home.test')))).toBe('unauthenticated bundle-fetch.server');
  });

  it('FED-22, FED-23: is proved by the bundle of the moment', async () => {
    const endpoint = await served(credentialsOf(home.svid('/spire/server')), home.bundle);
    let known: Bundle | undefined;
    const fetching = (): Promise<Bundle> =>
      spiffeFetch(endpoint.url('a.test'), { profile: { type: 'https_spiffe', endpointId, bundle: () => known } });
    expect(await outcome(fetching())).toBe('unavailable bundle-fetch.no-authorities');
    expect(endpoint.connections).toBe(0);
    known = home.bundle;
    expect(await outcome(fetching())).toBe('fetched');
    known = createDomain('home.test', at).bundle;
    expect(await outcome(fetching())).toBe('unauthenticated bundle-fetch.server');
  });
});

describe('a redirect', () => {
  it.each([301, 302, 303, 307, 308])('FED-18: of status %i is followed', async (status) => {
    const target = await served(webTls, home.bundle);
    const first = await served(webTls, redirectTo(target.url('127.0.0.1', '/there'), status));
    expect(await outcome(webFetch(first.url('bundle.home.test')))).toBe('fetched');
    expect(target.asked).toEqual(['GET /there']);
  });

  it('FED-18: may be relative', async () => {
    const endpoint = await served(webTls, (incoming, outgoing) => {
      if (incoming.url === '/a/new') outgoing.end(formatBundleDocument(home.bundle));
      else redirectTo('new')(incoming, outgoing);
    });
    expect(await outcome(webFetch(endpoint.url('bundle.home.test', '/a/old')))).toBe('fetched');
  });

  it.each([
    ['http://bundle.home.test/'],
    ['https://user@bundle.home.test/'],
    ['ftp://bundle.home.test/'],
    ['file:///etc/passwd'],
    ['//user:x@bundle.home.test/'],
    ['https://'],
    [undefined],
  ])('FED-12, FED-17, T-24: to %s is refused', async (location) => {
    const endpoint = await served(webTls, redirectTo(location));
    expect(await outcome(webFetch(endpoint.url('bundle.home.test')))).toBe('invalid bundle-fetch.redirect');
    expect(endpoint.connections).toBe(1);
  });

  it('FED-18: leads to a server that is proved as the first was', async () => {
    const stranger = createClusterAuthority('stranger').issue('x', ['127.0.0.1']);
    const target = await served({ cert: stranger.certificate, key: stranger.key }, home.bundle);
    const first = await served(webTls, redirectTo(target.url('127.0.0.1')));
    expect(await outcome(webFetch(first.url('bundle.home.test')))).toBe('unauthenticated bundle-fetch.server');
  });

  it('FED-25: leads to the same SPIFFE ID', async () => {
    const target = await served(credentialsOf(home.svid('/other')), home.bundle);
    const first = await served(credentialsOf(home.svid('/spire/server')), redirectTo(target.url('a.test')));
    expect(await outcome(spiffeFetch(first.url('a.test')))).toBe('unauthenticated bundle-fetch.server');
    const same = await served(credentialsOf(home.svid('/spire/server')), home.bundle);
    const second = await served(credentialsOf(home.svid('/spire/server')), redirectTo(same.url('b.test')));
    expect(await outcome(spiffeFetch(second.url('a.test')))).toBe('fetched');
  });

  it('is followed a few times and no more', async () => {
    const endpoint = await served(webTls, redirectTo('/again'));
    expect(await outcome(webFetch(endpoint.url('bundle.home.test')))).toBe('limited bundle-fetch.redirects');
    expect(endpoint.connections).toBe(6);
  });

  it('T-B06: leads to no address that is denied', async () => {
    const inside = await served(webTls, home.bundle);
    const first = await served(webTls, redirectTo(inside.url('elsewhere.test')));
    const fetched = webFetch(first.url('bundle.home.test'), {
      resolve: (host) => Promise.resolve(host === 'elsewhere.test' ? ['127.0.0.2'] : ['127.0.0.1']),
      mayConnect: (address) => address !== '127.0.0.2',
    });
    expect(await outcome(fetched)).toBe('denied bundle-fetch.address');
    expect(inside.connections).toBe(0);
  });
});

describe('an address', () => {
  it.each([
    ['by name', 'bundle.home.test', ['127.0.0.1']],
    ['wrapped in IPv6', 'bundle.home.test', ['::ffff:127.0.0.1']],
    ['wrapped in IPv6, in hexadecimal', 'bundle.home.test', ['::ffff:7f00:1']],
    ['as the host', '127.0.0.1', []],
    ['as a number', '2130706433', []],
    ['in octal', '0177.0.0.1', []],
    ['short', '127.1', []],
    ['wrapped as the host', '[::ffff:127.0.0.1]', []],
  ])('T-B06: that is denied is not connected to: %s', async (_how, host, addresses) => {
    const endpoint = await served(webTls, home.bundle);
    const judged: string[] = [];
    const fetched = webFetch(endpoint.url(host), {
      resolve: () => Promise.resolve(addresses),
      mayConnect: (address) => {
        judged.push(address);
        return address !== '127.0.0.1';
      },
    });
    expect(await outcome(fetched)).toBe('denied bundle-fetch.address');
    expect(judged).toEqual(['127.0.0.1']);
    expect(endpoint.connections).toBe(0);
  });

  it('T-B06: is the one that was judged, however the name resolves the next time', async () => {
    const endpoint = await served(webTls, home.bundle);
    let asked = 0;
    const fetched = webFetch(endpoint.url('bundle.home.test'), {
      resolve: () => Promise.resolve([(asked += 1) === 1 ? '127.0.0.1' : '169.254.169.254']),
      mayConnect: (address) => address === '127.0.0.1',
    });
    expect(await outcome(fetched)).toBe('fetched');
    expect(asked).toBe(1);
  });

  it('is taken from those that are allowed, and the next one when the first is dead', async () => {
    const endpoint = await served(webTls, home.bundle);
    const closed = createRawServer();
    await new Promise<void>((resolve) => closed.listen(endpoint.port, '127.0.0.3', resolve));
    await new Promise((resolve) => closed.close(resolve));
    const fetched = webFetch(endpoint.url('bundle.home.test'), {
      resolve: () => Promise.resolve(['127.0.0.2', '127.0.0.3', '127.0.0.1']),
      mayConnect: (address) => address !== '127.0.0.2',
    });
    expect(await outcome(fetched)).toBe('fetched');
  });

  it('is needed', async () => {
    expect(await outcome(webFetch('https://nowhere.test/'))).toBe('unavailable bundle-fetch.resolve');
    const failing = webFetch('https://bundle.home.test/', { resolve: () => Promise.reject(new Error('no')) });
    expect(await outcome(failing)).toBe('unavailable bundle-fetch.resolve');
  });

  it('where nobody listens is said to be out of reach', async () => {
    const endpoint = await serveEndpoint(webTls, home.bundle);
    await endpoint[Symbol.asyncDispose]();
    expect(await outcome(webFetch(endpoint.url('bundle.home.test')))).toBe('unavailable bundle-fetch.unreachable');
  });
});

describe('an answer', () => {
  const document = formatBundleDocument(home.bundle);

  it.each<readonly [string, RequestListener, string]>([
    ['404', (_, outgoing) => outgoing.writeHead(404).end(document), 'unavailable bundle-fetch.status'],
    ['304', (_, outgoing) => outgoing.writeHead(304).end(), 'unavailable bundle-fetch.status'],
    ['206', (_, outgoing) => outgoing.writeHead(206).end(document), 'unavailable bundle-fetch.status'],
    ['compressed', (_, outgoing) => outgoing.writeHead(200, { 'Content-Encoding': 'gzip' }).end(gzipSync(document)), 'unsupported bundle-fetch.encoding'],
    ['announced too large', (_, outgoing) => outgoing.writeHead(200, { 'Content-Length': '10000000000' }).write('{'), 'limited bundle-fetch.too-large'],
    ['no JSON', (_, outgoing) => outgoing.end('<html>'), 'invalid json.syntax'],
    ['no bundle', (_, outgoing) => outgoing.end('{}'), 'invalid bundle-document.keys'],
    ['not UTF-8', (_, outgoing) => outgoing.end(Buffer.from('{"keys":[],"x":"\xff"}', 'latin1')), 'invalid json.encoding'],
  ])('that is %s is refused', async (_what, answer, expected) => {
    const endpoint = await served(webTls, answer);
    expect(await outcome(webFetch(endpoint.url('bundle.home.test')))).toBe(expected);
  });

  it('T-B06: without end is cut at the bound', async () => {
    let sent = 0;
    const endpoint = await served(webTls, (_incoming, outgoing) => {
      const piece = Buffer.alloc(65_536, 0x20);
      const more = (): void => {
        if (outgoing.destroyed) return;
        sent += piece.length;
        outgoing.write(piece, () => more());
      };
      more();
    });
    expect(await outcome(webFetch(endpoint.url('bundle.home.test'), { maxBytes: 200_000 }))).toBe('limited bundle-fetch.too-large');
    expect(sent).toBeLessThan(20_000_000);
  });

  it.each([
    ['a head without end', (socket: Socket) => socket.write(`HTTP/1.1 200 OK\r\nX: ${'a'.repeat(100_000)}`), 'limited bundle-fetch.too-large'],
    ['no HTTP', (socket: Socket) => socket.end('SSH-2.0-x\r\n'), 'unavailable bundle-fetch.broken'],
    ['nothing', (socket: Socket) => socket.end(), 'unavailable bundle-fetch.broken'],
    ['half a body', (socket: Socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{'), 'unavailable bundle-fetch.broken'],
    ['an upgrade', (socket: Socket) => socket.write('HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n'), 'unavailable bundle-fetch.broken'],
  ] as const)('of %s is refused', async (_what, say, expected) => {
    const { url } = await saying(say);
    expect(await outcome(webFetch(url))).toBe(expected);
  });
});

describe('time', () => {
  it.each([
    ['of a resolver that is silent', (): Partial<BundleFetch> => ({ resolve: () => new Promise(() => undefined) })],
    ['of a server that says nothing', (): Partial<BundleFetch> => ({})],
  ])('ends %s', async (_what, more) => {
    const clock = createTestClock(at);
    const endpoint = await served(webTls, () => undefined);
    const fetched = outcome(webFetch(endpoint.url('bundle.home.test'), { clock, ...more() }));
    await waitFor(() => more().resolve !== undefined || endpoint.asked.length === 1);
    await clock.advance(14_999);
    await clock.advance(2);
    expect(await fetched).toBe('unavailable bundle-fetch.deadline');
    expect(clock.sleepers).toBe(0);
  });

  it('ends a body that drips, and a redirect that never ends, together', async () => {
    const clock = createTestClock(at);
    const endpoint = await served(webTls, (incoming, outgoing) => {
      if (incoming.url === '/') redirectTo('/drip')(incoming, outgoing);
      else outgoing.write('{');
    });
    const fetched = outcome(webFetch(endpoint.url('bundle.home.test'), { clock, deadlineMs: 3_000 }));
    await waitFor(() => endpoint.asked.length === 2);
    await clock.advance(3_001);
    expect(await fetched).toBe('unavailable bundle-fetch.deadline');
  });

  it('ends when the caller says so, with the reason given', async () => {
    const stop = new AbortController();
    const endpoint = await served(webTls, () => undefined);
    const fetched = webFetch(endpoint.url('bundle.home.test'), { signal: stop.signal });
    await waitFor(() => endpoint.asked.length === 1);
    stop.abort(new Error('enough'));
    await expect(fetched).rejects.toThrow('enough');
    await expect(webFetch(endpoint.url('bundle.home.test'), { signal: stop.signal })).rejects.toThrow('enough');
    expect(endpoint.asked.length).toBe(1);
  });
});

async function waitFor(done: () => boolean): Promise<void> {
  for (let round = 0; !done(); round += 1) {
    if (round > 1_000) throw new Error('waited too long');
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
