/**
 * Unmodified go-spiffe at our bundle endpoint, and our library at one made with go-spiffe, each with an identity of our
 * agent or server.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createBundleSet, fetchBundle, parseBundle, parseSpiffeId, parseTrustDomain } from '../../client/index.ts';
import { createClusterAuthority } from '../help/kubernetes-tls.ts';
import { startRunning, type Running } from '../help/running.ts';
import { type AgentProcess, createSite, freePort, type Site, trustDomain } from '../help/site.ts';
import { buildProgram, withoutGo } from './program.ts';

const serverId = `spiffe://${trustDomain}/spire/server`;
const web = createClusterAuthority('web');
const far = 'far.example';

describe.skipIf(withoutGo !== undefined)(`go-spiffe's federation and ours ${withoutGo ?? ''}`, () => {
  let site: Site;
  let agent: AgentProcess;
  let program: string;
  let port: number;
  let document: string;

  beforeAll(async () => {
    program = buildProgram();
    port = await freePort();
    site = await createSite({ server: `federation: { endpoint: { address: 127.0.0.1, port: ${port}, refresh_hint: 7s } }` });
    await site.startServer();
    await site.writeBundle();
    document = path.join(site.directory, 'bundle.json');
    await writeFile(document, (await site.steeple('bundle', 'show', '--format', 'spiffe')).stdout);
    const { token, agentId } = await site.token();
    await site.entry({ path: '/publisher', parent: agentId, selectors: [`unix:path:${program}`] });
    agent = await site.startAgent('agent', { token });
    await agent.until('sync.connected');
  }, 180_000);
  afterAll(async () => site?.[Symbol.asyncDispose]());

  const go = (...args: readonly string[]): Running =>
    site.own(startRunning([program, ...args], { env: { SPIFFE_ENDPOINT_SOCKET: agent.endpoint } }));
  const fetching = (at: number, id: string): Running =>
    go('fetch-bundle', '-trust-domain', trustDomain, '-url', `https://localhost:${at}/`, '-endpoint-id', id, '-trust', document);

  it('FED-24: go-spiffe fetches our bundle from the server, for its ID alone', async () => {
    const fetched = fetching(port, serverId);
    expect((await fetched.exit).code, fetched.text()).toBe(0);
    expect(fetched.lines.filter(({ event }) => event === 'bundle')).toMatchObject([{ trustDomain, x509: 1, keys: [expect.any(String)], hint: 7 }]);
    const other = fetching(port, `spiffe://${trustDomain}/other`);
    expect((await other.exit).code).toBe(1);
  });

  it('FED-14: go-spiffe fetches our bundle by a certificate of the web', async () => {
    const { certificate, key } = web.issue('bundles', ['localhost']);
    const files = ['web.pem', 'web.key', 'ca.pem'].map((name) => path.join(site.directory, name)) as [string, string, string];
    await writeFile(files[0], certificate);
    await writeFile(files[1], key, { mode: 0o600 });
    await writeFile(files[2], web.ca);
    const at = await freePort();
    const other = await createSite({
      server: `federation: { endpoint: { address: 127.0.0.1, port: ${at}, profile: { type: https_web, certificate_file: ${files[0]}, key_file: ${files[1]} } } }`,
    });
    try {
      await other.startServer();
      const fetched = go('fetch-bundle', '-trust-domain', trustDomain, '-url', `https://localhost:${at}/`, '-trust', files[2]);
      expect((await fetched.exit).code, fetched.text()).toBe(0);
      expect(fetched.lines.find(({ event }) => event === 'bundle')).toMatchObject({ x509: 1, hint: 300 });
    } finally {
      await other[Symbol.asyncDispose]();
    }
  });

  it('FED-25: our library fetches from an endpoint made with go-spiffe', async () => {
    const farDocument = path.join(site.directory, 'far.json');
    const { stdout } = await site.steeple('bundle', 'show', '--format', 'spiffe');
    await writeFile(farDocument, stdout);
    const serving = go('serve-bundle', '-trust-domain', far, '-bundle', farDocument);
    const { port: at } = (await serving.until('serving')) as unknown as { readonly port: number };
    const bundles = createBundleSet(parseBundle(parseTrustDomain(trustDomain), stdout));
    const profile = { type: 'https_spiffe', endpointId: parseSpiffeId(`spiffe://${trustDomain}/publisher`), bundles } as const;
    const fetched = await fetchBundle({ url: `https://127.0.0.1:${at}/any`, trustDomain: parseTrustDomain(far), profile });
    expect(fetched).toMatchObject({ trustDomain: far, x509Authorities: { length: 1 }, jwtAuthorities: { length: 1 } });
    const wrong = { ...profile, endpointId: parseSpiffeId(serverId) };
    await expect(fetchBundle({ url: `https://127.0.0.1:${at}/`, trustDomain: parseTrustDomain(far), profile: wrong })).rejects.toMatchObject({
      reason: 'bundle-fetch.server',
    });
  });
});
