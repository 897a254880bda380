/**
 * A CI job and its agent: the runner gives a token on request, the server finds the issuer's keys by discovery, and what
 * the job's agent serves is decided by claims. Server, agents and workload are processes; runner and issuer are here.
 */
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createOidcSigner, jobClaims, type OidcServer, serveOidc } from '../help/oidc.ts';
import { type AgentProcess, createSite, type Site, trustDomain } from '../help/site.ts';

const deploy = `spiffe://${trustDomain}/deploy`;

describe('a job of a CI system', () => {
  const signer = createOidcSigner('key-1');
  /** Every token the runner gave, oldest first. */
  const given: string[] = [];
  let ci: OidcServer;
  let runner: Server;
  let site: Site;
  let agent: AgentProcess;
  let claims: Record<string, unknown> = {};

  const request = (): string =>
    `attestor: { type: oidc_ci, request: { url: 'http://127.0.0.1:${(runner.address() as AddressInfo).port}/idtoken?v=1', audience: steeple, token: runner-secret } }`;
  const shownFrom = async (name: string, token: string): Promise<string> => {
    const file = path.join(site.directory, `${name}.jwt`);
    await writeFile(file, token, { mode: 0o600 });
    return `attestor: { type: oidc_ci, token_file: ${file} }`;
  };
  const refusalsOf = async (): Promise<readonly string[]> => {
    const events = await site.ask<readonly { reason: string }[]>('audit', 'search', '--type', 'agent.refused');
    return events.map(({ reason }) => reason);
  };

  beforeAll(async () => {
    ci = await serveOidc(signer.jwk);
    runner = createServer((incoming, response) => {
      const audience = new URL(incoming.url ?? '/', 'http://runner').searchParams.get('audience');
      if (incoming.headers.authorization !== 'Bearer runner-secret') {
        response.writeHead(403).end();
        return;
      }
      const token = signer.sign(jobClaims(ci.issuer, Date.now(), { ...claims, aud: audience, jti: `token-${given.length}` }));
      given.push(token);
      response.end(JSON.stringify({ value: token }));
    });
    runner.listen(0, '127.0.0.1');
    await once(runner, 'listening');
    site = await createSite();
    await writeFile(path.join(site.directory, 'ci-ca.pem'), ci.ca);
    await site.configureServer(`attestors:
  - type: oidc_ci
    trusts:
      - name: release
        issuer: ${ci.issuer}
        audience: steeple
        subject: 'repo:octo-org/octo-repo:ref:refs/heads/main'
        claims: { job_workflow_ref: 'octo-org/octo-repo/.github/workflows/release.yml@refs/heads/main' }
        ca: ${site.directory}/ci-ca.pem
`);
    await site.startServer();
    await site.writeBundle();
    agent = await site.startAgent('job', { config: request() });
  });
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]();
    await ci?.[Symbol.asyncDispose]();
    runner?.close();
    runner?.closeAllConnections();
  });

  it('G-10: gets what entries give to its workflow', async () => {
    await agent.until('sync.connected');
    const alias = `spiffe://${trustDomain}/ci/release`;
    await site.entry({
      path: '/ci/release',
      parent: `spiffe://${trustDomain}/spire/server`,
      selectors: ['oidc_ci:trust:release', 'oidc_ci:repository:octo-org/octo-repo', 'oidc_ci:event_name:push'],
      flags: ['--node'],
    });
    const program = await site.program('deploy');
    await site.entry({ path: '/deploy', parent: alias, selectors: [`unix:path:${program}`] });
    const step = site.workload(program, agent, ['watch']);
    expect(await step.until('svids'), agent.text()).toMatchObject({ svids: [{ spiffeId: deploy }] });
    const [joined] = await site.ask<readonly { id: string; canReattest: boolean }[]>('agent', 'list');
    expect(joined?.id).toMatch(new RegExp(`^spiffe://${trustDomain}/spire/agent/oidc_ci/release/[0-9a-f]{64}$`));
  });

  it('G-10: is no second agent by the token that the first has used', async () => {
    const replayed = await site.startAgent('replayed', { config: await shownFrom('replayed', given[0] ?? '') });
    expect((await replayed.exit).code, replayed.text()).toBe(4);
    expect(await refusalsOf()).toContain('agent.already-attested');
    expect(await site.ask<readonly unknown[]>('agent', 'list')).toHaveLength(1);
  });

  it('G-10: is none of the trusted ones when it runs for a pull request', async () => {
    claims = { sub: 'repo:octo-org/octo-repo:pull_request', event_name: 'pull_request', ref: 'refs/pull/7/merge' };
    const fork = await site.startAgent('fork', { config: request() });
    expect((await fork.exit).code, fork.text()).toBe(4);
    claims = { event_name: 'pull_request_target' };
    const target = await site.startAgent('target', { config: request() });
    expect((await target.exit).code, target.text()).toBe(4);
    expect(await refusalsOf()).toEqual(expect.arrayContaining(['oidc-ci.subject', 'oidc-ci.event']));
  });

  it('shows its tokens to nobody who reads along', async () => {
    const audit = (await site.steeple('audit', 'search', '--output', 'json')).stdout;
    for (const token of given) expect(`${agent.text()}${audit}`).not.toContain(token.split('.')[2]);
    expect(agent.text()).not.toContain('runner-secret');
  });
});
