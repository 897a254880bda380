import { fileURLToPath } from 'node:url';
import { copyFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildProgram, withoutGo } from '../interop/program.ts';
import { type Running, startRunning } from '../help/running.ts';
import { type AgentProcess, createSite, type Site, trustDomain } from '../help/site.ts';

const workload = fileURLToPath(new URL('../help/wit-workload.ts', import.meta.url));
const idOf = (name: string): string => `spiffe://${trustDomain}/${name}`;

describe('WIT-SVIDs', () => {
  let site: Site;
  let on: AgentProcess;
  let off: AgentProcess;
  let programs: Readonly<Record<'caller' | 'server' | 'go', string>>;

  beforeAll(async () => {
    site = await createSite({
      server: `
authorities: { wit: { ttl: 30s } }
svids: { wit_ttl: 6s }`,
    });
    await site.startServer();
    await site.writeBundle();
    const go = path.join(site.directory, 'bin', 'go');
    if (withoutGo === undefined) await copyFile(buildProgram(), go);
    programs = { caller: await site.program('caller'), server: await site.program('server'), go };
    const agents: AgentProcess[] = [];
    for (const [name, config] of [
      ['on', 'workload: { wit_svids: true }'],
      ['off', ''],
    ] as const) {
      const { token, agentId } = await site.token();
      for (const [path_, file] of Object.entries(programs)) await site.entry({ path: `/${path_}`, parent: agentId, selectors: [`unix:path:${file}`] });
      agents.push(await site.startAgent(name, { token, config }));
    }
    [on, off] = agents as [AgentProcess, AgentProcess];
    for (const agent of agents) await agent.until('sync.connected');
  }, 180_000);
  afterAll(async () => site?.[Symbol.asyncDispose]());

  const run = (who: keyof typeof programs, agent: AgentProcess, ...args: readonly string[]): Running =>
    site.own(startRunning([programs[who], ...(who === 'go' ? [] : [workload]), ...args], { env: { SPIFFE_ENDPOINT_SOCKET: agent.endpoint } }));

  it('WLAPI-29: are unimplemented at an agent that is not told to serve them', async () => {
    const { lines, exit } = run('caller', off, 'fetch');
    await exit;
    expect(lines.map(({ kind, reason }) => [kind, reason])).toEqual(Array(2).fill(['unsupported', 'workload.wit']));
  }, 30_000);

  it.skipIf(withoutGo !== undefined)(`WLAPI-29: and go-spiffe sees that ${withoutGo ?? ''}`, async () => {
    const { lines, exit } = run('go', off, 'wit');
    await exit;
    expect(lines.map(({ event, code }) => [event, code])).toEqual([['bundles', 'Unimplemented'], ['svids', 'Unimplemented']]);
  }, 30_000);

  it('WIT-40: identify a caller to another process, across rotations of token, key and authority, and nobody by less', async () => {
    const serving = run('server', on, 'serve', idOf('caller'));
    const { port } = await serving.until('listening');
    const calling = run('caller', on, 'call', String(port), idOf('server'));
    await calling.until(({ event, tokens, keyIds }) => event === 'presented' && Number(tokens) >= 4 && Number(keyIds) >= 2, { withinMs: 60_000 });
    calling.child.stdin?.end();
    const called = await calling.until('called');
    expect(called, calling.text()).toMatchObject({ failed: 0, statuses: { first: 200, again: 401, elsewhere: 401, bearer: 401, alone: 401 } });
    expect(Number(called['answered'])).toBeGreaterThan(50);
    expect(called['keys']).toBe(called['tokens']);
    serving.child.stdin?.end();
    await serving.exit;
    const reasons = serving.lines.filter(({ event }) => event === 'refused').map(({ reason }) => reason);
    expect(reasons).toEqual(['wit-proof.replayed', 'wit-proof.audience', 'wit-request.missing', 'wit-request.missing']);
  }, 90_000);

  it.skipIf(withoutGo !== undefined)(`WIT-35: are what go-spiffe takes, with their keys, bundles and rotations ${withoutGo ?? ''}`, async () => {
    const running = run('go', on, 'witsource', '-id', idOf('go'), '-updates', '3');
    expect((await running.exit).code, running.text()).toBe(0);
    const wits = running.lines.filter(({ event }) => event === 'wit');
    expect(wits.map(({ id }) => id)).toEqual([idOf('go'), idOf('go'), idOf('go')]);
    expect(Number(wits[0]?.['expiresAt']) - Date.now()).toBeLessThan(6_000);
  }, 60_000);

  it('are on record, each before it was signed, and where it went', async () => {
    const credentials = await site.ask<readonly { readonly kind: string; readonly state: string; readonly spiffe_id: string; readonly id: string }[]>('ledger', 'list', '--kind', 'wit');
    expect(credentials.length).toBeGreaterThanOrEqual(4);
    expect(new Set(credentials.map(({ kind, state }) => `${kind} ${state}`))).toEqual(new Set(['wit issued']));
    const kinds = (await site.ask<readonly { readonly kind: string; readonly state: string }[]>('authority', 'show')).filter(({ state }) => state === 'active').map(({ kind }) => kind);
    expect(kinds.toSorted()).toEqual(['jwt', 'wit', 'x509']);
    const delivered = await site.ask<readonly { readonly subject: string; readonly detail: string | Readonly<Record<string, unknown>> }[]>('audit', 'search', '--type', 'workload.rotated');
    const ids = new Set(credentials.map(({ id }) => id));
    expect(delivered.some(({ detail }) => [...ids].some((id) => JSON.stringify(detail).includes(id)))).toBe(true);
  }, 30_000);
});
