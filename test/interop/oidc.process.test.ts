/**
 * Parties that know nothing of SPIFFE verify our JWT-SVIDs by OpenID Connect Discovery: `jose`, and a Go library. Server
 * and agent are processes; the server shows its discovery pages with a certificate of a test authority.
 */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { connect } from 'node:tls';
import { createRemoteJWKSet, customFetch, decodeProtectedHeader, jwtVerify } from 'jose';
import { Agent, fetch } from 'undici';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { WorkloadApi } from '../../client/index.ts';
import { createClusterAuthority } from '../help/kubernetes-tls.ts';
import { createSite, freePort, type Site, trustDomain } from '../help/site.ts';
import { buildProgram, withoutGo } from './program.ts';

const audience = 'https://cloud.example';
const subject = `spiffe://${trustDomain}/web`;
const web = createClusterAuthority('web');

describe('tokens of our agent, by OpenID Connect Discovery', () => {
  let site: Site;
  let api: WorkloadApi;
  let issuer: string;
  let dispatcher: Agent;

  beforeAll(async () => {
    const port = await freePort();
    issuer = `https://localhost:${port}`;
    site = await createSite();
    const files = await credentials('first');
    await site.configureServer(`
authorities: { jwt: { ttl: 30s }, absence: 0s }
svids: { jwt_ttl: 10s, jwt_issuer: "${issuer}" }
oidc: { address: 127.0.0.1, port: ${port}, certificate_file: ${files.certificate}, key_file: ${files.key}, issuer: "${issuer}", max_age: 1s }
`);
    await writeFile(path.join(site.directory, 'ca.pem'), web.ca);
    await site.startServer();
    await site.writeBundle();
    const { token, agentId } = await site.token();
    await site.entry({ path: '/web', parent: agentId, selectors: [`unix:uid:${process.getuid?.() ?? 0}`] });
    const agent = await site.startAgent('agent', { token });
    await agent.until('sync.connected');
    api = new WorkloadApi({ address: agent.endpoint });
    dispatcher = new Agent({ connect: { ca: web.ca } });
  }, 120_000);
  afterAll(async () => {
    api?.close();
    await dispatcher?.close();
    await site?.[Symbol.asyncDispose]();
  });

  /** Writes certificate and key in place of those that are there. */
  async function credentials(commonName: string): Promise<{ readonly certificate: string; readonly key: string }> {
    const { certificate, key } = web.issue(commonName, ['localhost']);
    const files = { certificate: path.join(site.directory, 'oidc.pem'), key: path.join(site.directory, 'oidc.key') };
    await writeFile(files.certificate, certificate);
    await writeFile(files.key, key, { mode: 0o600 });
    return files;
  }
  const ask = (url: string): ReturnType<typeof fetch> => fetch(url, { dispatcher });
  /** As a relying party has it: made once, and fetched from when it meets a key it does not know. */
  async function relyingParty(): Promise<ReturnType<typeof createRemoteJWKSet>> {
    const { jwks_uri: jwksUri } = (await (await ask(`${issuer}/.well-known/openid-configuration`)).json()) as { jwks_uri: string };
    const options = { [customFetch]: (url: string) => ask(url) as unknown as Promise<Response>, cooldownDuration: 0 };
    return createRemoteJWKSet(new URL(jwksUri), options);
  }
  const tokenNow = async (): Promise<string> => (await api.fetchJwtSvid({ audience })).token;
  const keyOf = (token: string): string => decodeProtectedHeader(token).kid ?? '';

  it('are accepted by jose, for their audience and issuer alone', async () => {
    const keys = await relyingParty();
    const token = await tokenNow();
    const { payload, protectedHeader } = await jwtVerify(token, keys, { issuer, audience, subject });
    expect(payload).toMatchObject({ iss: issuer, sub: subject, aud: [audience] });
    expect(protectedHeader).toMatchObject({ alg: 'ES256', typ: 'JWT' });
    await expect(jwtVerify(token, keys, { issuer, audience: 'other' })).rejects.toMatchObject({ code: 'ERR_JWT_CLAIM_VALIDATION_FAILED' });
    await expect(jwtVerify(token, keys, { issuer: `${issuer}/`, audience })).rejects.toMatchObject({ code: 'ERR_JWT_CLAIM_VALIDATION_FAILED' });
    const [head, body, signature] = token.split('.');
    const forged = [head, Buffer.from(JSON.stringify({ ...payload, sub: `spiffe://${trustDomain}/admin` })).toString('base64url'), signature].join('.');
    expect(forged).not.toContain(body);
    await expect(jwtVerify(forged, keys, { issuer, audience })).rejects.toMatchObject({ code: 'ERR_JWS_SIGNATURE_VERIFICATION_FAILED' });
  });

  it('are accepted across a rotation, whose new key was shown before it signed, and a new certificate', { timeout: 90_000 }, async () => {
    await credentials('renewed');
    const keys = await relyingParty();
    const before = await tokenNow();
    await jwtVerify(before, keys, { issuer, audience });
    const shownAt = new Map<string, number>();
    let after = before;
    while (keyOf(after) === keyOf(before)) {
      const { keys: shown } = (await (await ask(`${issuer}/keys`)).json()) as { keys: { kid: string; use: string }[] };
      expect(shown.every(({ use }) => use === 'sig')).toBe(true);
      for (const { kid } of shown) if (!shownAt.has(kid)) shownAt.set(kid, Date.now());
      after = await tokenNow();
      await jwtVerify(after, keys, { issuer, audience });
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    const lead = Date.now() - (shownAt.get(keyOf(after)) ?? Date.now());
    // Three times how long the keys may be kept, less how often was looked.
    expect(lead).toBeGreaterThan(2_500);
    const socket = connect({ host: 'localhost', port: Number(new URL(issuer).port), ca: web.ca });
    await once(socket, 'secureConnect');
    expect(socket.getPeerCertificate().subject.CN).toBe('renewed');
    socket.destroy();
  });

  it('have keys that come with validators, and nothing else comes beside them', async () => {
    const first = await ask(`${issuer}/keys`);
    expect(first.headers.get('cache-control')).toBe('public, max-age=1');
    expect(first.headers.get('content-type')).toBe('application/json');
    await first.text();
    const again = await fetch(`${issuer}/keys`, { dispatcher, headers: { 'If-None-Match': first.headers.get('etag') ?? '' } });
    expect([again.status, await again.text()]).toEqual([304, '']);
    const whole = await ask(`${issuer}/`);
    expect(whole.status).toBe(404);
    await whole.text();
  });

  it('are accepted by a library in Go that knows nothing of SPIFFE', { skip: withoutGo !== undefined }, async () => {
    const program = buildProgram('oidc');
    const ca = path.join(site.directory, 'ca.pem');
    const verify = (token: string, ...changed: readonly string[]): Promise<Record<string, unknown>> =>
      new Promise((resolve) => {
        const args = ['-issuer', issuer, '-audience', audience, '-ca', ca, ...changed, token];
        execFile(program, args, (_error, stdout) => resolve(JSON.parse(stdout) as Record<string, unknown>));
      });
    const token = await tokenNow();
    expect(await verify(token)).toEqual({ issuer, subject, audience: [audience] });
    expect(await verify(token, '-audience', 'other')).toHaveProperty('error');
    expect(await verify(`${token.slice(0, -8)}AAAAAAAA`)).toHaveProperty('error');
    const { ca: stranger } = createClusterAuthority('stranger');
    await writeFile(path.join(site.directory, 'stranger.pem'), stranger);
    expect(await verify(token, '-ca', path.join(site.directory, 'stranger.pem'))).toHaveProperty('error');
  });
});
