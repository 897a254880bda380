import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { request } from 'node:https';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../runtime/clock.ts';
import { fetchBundle } from '../../runtime/http-bundle.ts';
import { createMetrics } from '../../runtime/metrics.ts';
import type { TlsIdentity } from '../../runtime/tls.ts';
import { createWatch } from '../../runtime/watch.ts';
import type { WatchSource } from '../../runtime/watch.ts';
import { parseServerConfig } from '../../server/config.ts';
import { openPages } from '../../server/pages.ts';
import { bundleEquals } from '../../spiffe/bundle.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { createDomain } from '../help/bundle-endpoint.ts';
import { createClusterAuthority } from '../help/kubernetes-tls.ts';
import { freePort } from '../help/site.ts';

const at = systemClock.now();
const home = createDomain('example.org', at);
const serverId = home.id('/spire/server');
const web = createClusterAuthority('web');

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'pages-'));
  const { certificate, key } = web.issue('pages', ['127.0.0.1', 'oidc.example.org', 'elsewhere.test']);
  writeFileSync(join(folder, 'cert.pem'), certificate);
  writeFileSync(join(folder, 'key.pem'), key, { mode: 0o600 });
});
const ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
  rmSync(folder, { recursive: true });
});

interface Shown {
  readonly identity: WatchSource<TlsIdentity>;
  readonly bundle: WatchSource<Bundle>;
  readonly lines: string[];
  readonly metrics: () => string;
}

async function show(text: string): Promise<Shown> {
  const cleanup = new AsyncDisposableStack();
  const identity = createWatch<TlsIdentity>({ svid: home.svid('/spire/server'), bundles: new Map() });
  const bundle = createWatch(home.bundle);
  const metrics = createMetrics();
  const lines: string[] = [];
  const line = (event: string, fields: object = {}): unknown => lines.push(`${event} ${JSON.stringify(fields)}`);
  const log = { debug: line, info: line, warn: line, error: line } as never;
  const config = parseServerConfig(`trust_domain: example.org\n${text}`);
  const tasks = await openPages({ config, clock: systemClock, log, metrics, identity, bundle, cleanup });
  const life = new AbortController();
  const running = Promise.all(Object.values(tasks).map((task) => task(life.signal)));
  ends.push(async () => {
    life.abort();
    await running;
    await cleanup.disposeAsync();
  });
  return { identity, bundle, lines, metrics: () => metrics.text() };
}

function ask(port: number, path: string, host: string): Promise<{ readonly status: number | undefined; readonly body: string }> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ host: '127.0.0.1', port, path, ca: web.ca, agent: false, headers: { Host: host } }, (incoming) => {
      let body = '';
      incoming.on('data', (piece) => (body += String(piece)));
      incoming.on('end', () => resolve({ status: incoming.statusCode, body }));
    });
    outgoing.on('error', reject);
    outgoing.end();
  });
}

const overSpiffe = (url: string, trusted: Bundle = home.bundle): Promise<Bundle> =>
  fetchBundle({
    url,
    trustDomain: home.bundle.trustDomain,
    profile: { type: 'https_spiffe', endpointId: serverId, bundle: () => trusted },
    clock: systemClock,
  });

describe('pages', () => {
  it('are none unless configured', async () => {
    const { lines } = await show('');
    expect(lines).toEqual([]);
  });

  it("FED-24: show the bundle by the server's own SVID, and follow both", async () => {
    const port = await freePort();
    const { identity, bundle, metrics } = await show(`federation: { endpoint: { address: 127.0.0.1, port: ${port}, refresh_hint: 30s } }`);
    const url = `https://127.0.0.1:${port}/`;
    expect(bundleEquals(await overSpiffe(url), { ...home.bundle, refreshHintSeconds: 30 })).toBe(true);
    const next = createDomain('example.org', at);
    bundle.set({ ...next.bundle, sequence: 8n });
    identity.set({ svid: next.svid('/spire/server'), bundles: new Map() });
    await new Promise((resolve) => setImmediate(resolve));
    expect((await overSpiffe(url, next.bundle)).sequence).toBe(8n);
    await expect(overSpiffe(url)).rejects.toMatchObject({ reason: 'bundle-fetch.server' });
    await expect(overSpiffe(`${url}other`, next.bundle)).rejects.toMatchObject({ reason: 'bundle-fetch.status' });
    expect(metrics()).toContain('steeple_server_pages_total{endpoint="bundle",outcome="sent"} 2');
    expect(metrics()).toContain('steeple_server_pages_total{endpoint="bundle",outcome="refused"} 1');
    expect(metrics()).toMatch(/steeple_server_bundle_page_expiry_seconds 3[56]\d\d/);
  });

  it('show the bundle by a certificate of the web', async () => {
    const port = await freePort();
    const profile = `{ type: https_web, certificate_file: ${folder}/cert.pem, key_file: ${folder}/key.pem }`;
    const { lines } = await show(`federation: { endpoint: { address: 127.0.0.1, port: ${port}, profile: ${profile} } }`);
    const bundle = await fetchBundle({
      url: `https://127.0.0.1:${port}/`,
      trustDomain: home.bundle.trustDomain,
      profile: { type: 'https_web', ca: web.ca },
      clock: systemClock,
    });
    expect(bundle.refreshHintSeconds).toBe(300);
    expect(lines).toContain(`page.listening {"name":"bundle","address":"127.0.0.1","port":${port}}`);
    expect(lines).toContainEqual(expect.stringMatching(/^page\.certificate \{"name":"bundle","expiresAt":\d+\}$/));
  });

  it('show who issues tokens and their keys, beside the bundle and nothing of it', async () => {
    const [first, second] = [await freePort(), await freePort()];
    await show(`
svids: { jwt_issuer: "https://oidc.example.org" }
federation: { endpoint: { address: 127.0.0.1, port: ${first} } }
oidc: { address: 127.0.0.1, port: ${second}, certificate_file: ${folder}/cert.pem, key_file: ${folder}/key.pem, issuer: "https://oidc.example.org" }
`);
    const discovery = await ask(second, '/.well-known/openid-configuration', 'oidc.example.org');
    expect(JSON.parse(discovery.body)).toMatchObject({ issuer: 'https://oidc.example.org', jwks_uri: 'https://oidc.example.org/keys' });
    const keys = await ask(second, '/keys', 'oidc.example.org:443');
    expect(JSON.parse(keys.body)).toMatchObject({ keys: [{ kid: 'example.org-1', use: 'sig', alg: 'ES256' }] });
    expect(keys.body).not.toContain('x5c');
    expect((await ask(second, '/', 'oidc.example.org')).status).toBe(404);
    expect((await ask(second, '/keys', 'elsewhere.test')).status).toBe(421);
  });

  it('that cannot be shown stop the start', async () => {
    const port = await freePort();
    await show(`federation: { endpoint: { address: 127.0.0.1, port: ${port} } }`);
    await expect(show(`federation: { endpoint: { address: 127.0.0.1, port: ${port} } }`)).rejects.toMatchObject({ reason: 'https.listen' });
    const profile = `{ type: https_web, certificate_file: ${folder}/cert.pem, key_file: ${folder}/none.pem }`;
    await expect(show(`federation: { endpoint: { address: 127.0.0.1, port: ${port}, profile: ${profile} } }`)).rejects.toMatchObject({ reason: 'files.missing' });
  });
});
