import path from 'node:path';
import { copyFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Running, startRunning } from '../help/running.ts';
import { type AgentProcess, createSite, type Site, trustDomain } from '../help/site.ts';
import { buildProgram, withoutGo } from './program.ts';

const idOf = (name: string): string => `spiffe://${trustDomain}/${name}`;
const ours = idOf('ours');
const [web, db] = [idOf('go-web'), idOf('go-db')];

describe.skipIf(withoutGo !== undefined)(`unmodified go-spiffe at our agent ${withoutGo ?? ''}`, () => {
  let site: Site;
  let agent: AgentProcess;
  let programs: Readonly<Record<'web' | 'db' | 'stranger', string>>;
  let ourProgram: string;

  beforeAll(async () => {
    const built = buildProgram();
    site = await createSite();
    await site.startServer();
    await site.writeBundle();
    const { token, agentId } = await site.token();
    const copy = async (name: string): Promise<string> => {
      const file = path.join(site.directory, 'bin', name);
      await copyFile(built, file);
      return file;
    };
    programs = { web: await copy('go-web'), db: await copy('go-db'), stranger: await copy('go-stranger') };
    ourProgram = await site.program('ours');
    for (const [name, file] of [
      ['go-web', programs.web],
      ['go-db', programs.db],
      ['ours', ourProgram],
    ] as const) {
      await site.entry({ path: `/${name}`, parent: agentId, selectors: [`unix:path:${file}`], flags: ['--x509-svid-ttl', '8s', '--jwt-svid-ttl', '60s'] });
    }
    agent = await site.startAgent('agent', { token });
    await agent.until('sync.connected');
  }, 180_000);
  afterAll(async () => site?.[Symbol.asyncDispose]());

  const go = (who: keyof typeof programs, ...args: readonly string[]): Running =>
    site.own(startRunning([programs[who], ...args], { env: { SPIFFE_ENDPOINT_SOCKET: agent.endpoint } }));
  const succeeded = async (running: Running): Promise<Running> => {
    expect((await running.exit).code, running.text()).toBe(0);
    return running;
  };

  it('WLAPI: an X509Source follows rotations', async () => {
    const { lines } = await succeeded(go('web', 'x509source', '-updates', '3', '-for', '60s'));
    const svids = lines.filter(({ event }) => event === 'svid');
    expect(new Set(svids.map((line) => line['id']))).toEqual(new Set([web]));
    expect(new Set(svids.map((line) => line['serial'])).size).toBeGreaterThanOrEqual(3);
  });

  it('WLAPI: a JWTSource fetches tokens and validates them itself; the agent validates them too', async () => {
    const { lines } = await succeeded(go('web', 'jwtsource', '-audience', 'db', '-repeat', '3', '-show'));
    const tokens = lines.filter((line) => typeof line['token'] === 'string');
    expect(tokens).toHaveLength(3);
    const token = String(tokens[0]?.['token']);
    const valid = await succeeded(go('db', 'validate', '-token', token, '-audience', 'db'));
    expect(JSON.stringify(valid.lines)).toContain(web);
    const refused = go('db', 'validate', '-token', token, '-audience', 'mail');
    expect((await refused.exit).code).toBe(1);
    expect(await refused.until('error')).toMatchObject({ code: 'InvalidArgument' });
  });

  it('WLAPI: both bundles, and every update by the watcher', async () => {
    const { lines } = await succeeded(go('web', 'bundles'));
    expect(JSON.stringify(lines)).toContain(trustDomain);
    const watching = go('web', 'watch');
    await watching.until((line) => JSON.stringify(line).includes(web));
    await watching.end();
  });

  it('WLAPI: a process without an entry is refused with PermissionDenied', async () => {
    const refused = go('stranger', 'x509source', '-updates', '1', '-for', '4s', '-within', '3s');
    expect((await refused.exit).code).toBe(1);
    const watching = go('stranger', 'watch');
    const line = await watching.until((told) => JSON.stringify(told).includes('PermissionDenied'));
    expect(JSON.stringify(line)).toContain('PermissionDenied');
    await watching.end();
  });

  it('two processes talk mTLS across rotations without a failed exchange', async () => {
    const server = go('db', 'mtls-server', '-listen', '127.0.0.1:0', '-peer', web, '-for', '40s');
    const { address } = await server.until('listening');
    const { lines } = await succeeded(go('web', 'mtls-client', '-connect', String(address), '-peer', db, '-pairs', '5', '-every', '100ms', '-for', '15s'));
    const done = lines.find(({ event }) => event === 'done');
    expect(done).toMatchObject({ failures: 0 });
    expect(Number(done?.['ownSvids'])).toBeGreaterThanOrEqual(3);
    expect(Number(done?.['peerSvids'])).toBeGreaterThanOrEqual(3);
    await server.end();
  });

  it('our library and go-spiffe talk mTLS, each as either end', async () => {
    const server = go('db', 'mtls-server', '-listen', '127.0.0.1:0', '-peer', ours, '-for', '30s');
    const { address } = await server.until('listening');
    const port = String(address).split(':').at(-1) ?? '';
    const calling = site.workload(ourProgram, agent, ['call', port, db, '2', '200']);
    await calling.until('exchanged');
    calling.child.stdin?.end();
    expect(await calling.until('called')).toMatchObject({ failures: 0 });
    await server.end();
    const serving = site.workload(ourProgram, agent, ['serve', web]);
    const { port: ourPort } = await serving.until('listening');
    await succeeded(go('web', 'mtls-client', '-connect', `127.0.0.1:${String(ourPort)}`, '-peer', ours, '-pairs', '2', '-every', '200ms', '-for', '2s'));
    expect(serving.lines.filter(({ event }) => event === 'refused')).toEqual([]);
  });

  it.each([[[]], [['-v1alpha']]])('lists and describes services by reflection %j', async (flags) => {
    const { lines } = await succeeded(go('web', 'reflect', ...flags));
    expect(JSON.stringify(lines)).toContain('SpiffeWorkloadAPI');
  });
});
