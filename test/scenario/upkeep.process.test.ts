import { cp, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Running } from '../help/running.ts';
import { createSite, type Site, trustDomain } from '../help/site.ts';

const configured = 78;

describe('a server is looked after', () => {
  let site: Site;
  let server: Running;

  beforeEach(async () => {
    site = await createSite();
    server = await site.startServer();
    await site.writeBundle();
  });
  afterEach(async () => site[Symbol.asyncDispose]());

  const errorOf = (running: Running): readonly { readonly reason?: string; readonly message?: string }[] =>
    [running.lines.find(({ event }) => event === 'server.ended')?.['error'] ?? []].flat();
  const keys = (): string => path.join(site.directory, 'server', 'data', 'keys');
  const store = (): string => path.join(site.directory, 'server', 'data', 'store');

  it('is restored from a backup: what was registered later is gone, from agents too, and what was there before works on', async () => {
    const { token, agentId } = await site.token();
    const [early, late] = [await site.program('early'), await site.program('late')];
    await site.entry({ path: '/early', parent: agentId, selectors: [`unix:path:${early}`] });
    const agent = await site.startAgent('agent', { token });
    await agent.until('sync.connected');
    const earlyStream = site.workload(early, agent, ['watch']);
    await earlyStream.until('svids');
    const target = path.join(site.directory, 'backup');
    const backup = await site.steeple('server', 'backup', '--config', site.serverConfig, target);
    expect(backup, backup.stderr).toMatchObject({ code: 0 });
    await site.entry({ path: '/late', parent: agentId, selectors: [`unix:path:${late}`] });
    const lateStream = site.workload(late, agent, ['stream']);
    await lateStream.until('svids');

    const busy = await site.steeple('server', 'restore', '--config', site.serverConfig, '--replace', target);
    expect(busy.code).not.toBe(0);
    expect(busy.stderr).toContain('[store.in-use]');
    expect((await server.end()).code).toBe(0);
    const unasked = await site.steeple('server', 'restore', '--config', site.serverConfig, target);
    expect(unasked.stderr).toContain('[store.exists]');
    const restored = await site.steeple('server', 'restore', '--config', site.serverConfig, '--replace', target);
    expect(restored, restored.stderr).toMatchObject({ code: 0 });
    const before = agent.lines.length;
    server = await site.startServer();
    expect(await agent.until('sync.connected', { from: before, withinMs: 40_000 })).toMatchObject({ kind: 'snapshot' });
    expect(await lateStream.until('refused')).toMatchObject({ kind: 'denied' });
    const asking = site.workload(late, agent, ['fetch']);
    expect(await asking.until('refused')).toMatchObject({ kind: 'denied', reason: 'workload.no-identity' });
    const still = site.workload(early, agent, ['fetch']);
    expect(await still.until('svids')).toMatchObject({ svids: [{ spiffeId: `spiffe://${trustDomain}/early` }] });
    // New changes reach the agent over the new history.
    await site.entry({ path: '/late', parent: agentId, selectors: [`unix:path:${late}`] });
    const again = site.workload(late, agent, ['source']);
    await again.until('svids');
    expect(await site.ask<readonly unknown[]>('audit', 'search', '--type', 'store.restored')).toHaveLength(1);
  });

  it.each([
    ['a key is gone', 'authority.key.missing', async () => rm(keys(), { recursive: true })],
    [
      'the store is gone',
      'authority.key.foreign',
      async () => {
        for (const name of await readdir(store())) await rm(path.join(store(), name), { recursive: true });
      },
    ],
    [
      'keys are of another server',
      'authority.key.',
      async () => {
        const other = await createSite();
        try {
          const stranger = await other.startServer();
          await stranger.end();
          await rename(keys(), `${keys()}.aside`);
          await cp(path.join(other.directory, 'server', 'data', 'keys'), keys(), { recursive: true });
        } finally {
          await other[Symbol.asyncDispose]();
        }
      },
    ],
  ])('refuses to start when %s, and says what to do', async (_what, reason, harm) => {
    await server.end();
    await harm();
    const listed = await readdir(keys()).catch(() => []);
    const refused = site.spawnServer();
    expect((await refused.exit).code).toBe(configured);
    const [error] = errorOf(refused);
    expect(error?.reason, refused.text()).toContain(reason);
    expect(error?.message).toMatch(/restore store and keys from the same backup/);
    // Never healed by a silent new authority.
    expect(await readdir(keys()).catch(() => [])).toEqual(listed);
  });

  it('refuses a second server on its store', async () => {
    const second = site.spawnServer();
    expect((await second.exit).code).toBe(configured);
    expect(errorOf(second)[0]).toMatchObject({ reason: 'store.in-use' });
    expect((await site.steeple('server', 'healthcheck', '--socket', site.socket)).code).toBe(0);
  });

  it('applies what can be applied on SIGHUP, names the rest, and keeps what is in force when the file is not valid', async () => {
    await site.configureServer(`
svids: { x509_ttl: 7m }
log: { level: debug }
record: { audit: 100d }`);
    process.kill(server.pid, 'SIGHUP');
    expect(await server.until('config.reloaded')).toMatchObject({ restart: ['record'] });
    const { token, agentId } = await site.token();
    const program = await site.program('web');
    await site.entry({ path: '/web', parent: agentId, selectors: [`unix:path:${program}`] });
    await server.until((line) => line['level'] === 'debug');
    const agent = await site.startAgent('agent', { token });
    const life = async (): Promise<number> => {
      const [svid] = (await site.workload(program, agent, ['source']).until('svids'))['svids'] as readonly { notBeforeAt: number; expiresAt: number }[];
      return (svid?.expiresAt ?? 0) - Date.now();
    };
    expect(await life()).toBeLessThanOrEqual(7 * 60_000);
    await site.configureServer('svids: { x509_ttl: 400d }\nlimit: {}');
    process.kill(server.pid, 'SIGHUP');
    const { problem } = await server.until('config.refused');
    expect(problem).toHaveLength(2);
    expect(JSON.stringify(problem)).toMatch(/svids\.x509_ttl.*limit|limit.*svids\.x509_ttl/);
    expect((await site.steeple('server', 'validate', '--config', site.serverConfig)).code).toBe(configured);
    const other = await site.program('other');
    await site.entry({ path: '/other', parent: agentId, selectors: [`unix:path:${other}`] });
    const [svid] = (await site.workload(other, agent, ['source']).until('svids'))['svids'] as readonly { expiresAt: number }[];
    expect((svid?.expiresAt ?? 0) - Date.now()).toBeLessThanOrEqual(7 * 60_000);
    expect(server.child.exitCode).toBeNull();
  });

  it('stops in order on SIGTERM, and starts again with the same authorities', async () => {
    const before = (await site.steeple('bundle', 'show')).stdout;
    expect((await server.end()).code).toBe(0);
    server = await site.startServer();
    expect((await site.steeple('bundle', 'show')).stdout).toBe(before);
    expect(before).toContain('BEGIN CERTIFICATE');
  });
});
