import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { OutputLine, Running } from '../help/running.ts';
import { type AgentProcess, createSite, type Site, trustDomain } from '../help/site.ts';

interface Svid {
  readonly spiffeId: string;
  readonly serial: string;
  readonly notBeforeAt: number;
  readonly expiresAt: number;
}

const web = `spiffe://${trustDomain}/web`;

describe('the server is away', () => {
  let site: Site;
  let server: Running;
  let agent: AgentProcess;
  let agentId: string;
  let program: string;
  let stranger: string;

  beforeAll(async () => {
    site = await createSite();
    server = await site.startServer();
    await site.writeBundle();
    const joined = await site.token();
    agentId = joined.agentId;
    [program, stranger] = [await site.program('web'), await site.program('stranger')];
    await site.entry({
      path: '/web',
      parent: agentId,
      selectors: [`unix:path:${program}`],
      flags: ['--x509-svid-ttl', '20s', '--jwt-svid-ttl', '60s'],
    });
    agent = await site.startAgent('agent', { token: joined.token });
    await agent.until('sync.connected');
  });
  afterAll(async () => site[Symbol.asyncDispose]());

  const fetch = async (asked = program): Promise<readonly OutputLine[]> => {
    const running = site.workload(asked, agent, ['fetch', 'db']);
    await running.exit;
    return running.lines;
  };
  const newest = (running: Running): Svid => {
    const line = running.lines.findLast(({ event }) => event === 'svids');
    const [svid] = (line?.['svids'] ?? []) as readonly Svid[];
    if (svid === undefined) throw new Error(`no SVID: ${running.text()}`);
    return svid;
  };

  it('serves to the last second while it is away, and renews as soon as it is back', async () => {
    const watching = site.workload(program, agent, ['watch']);
    await watching.until('svids');
    await watching.until('svids', { from: 1, withinMs: 30_000 });
    await server.end('SIGKILL');
    const held = newest(watching);
    // Past half of its life, when it would have been renewed, and short of its end.
    await sleep(Math.max(0, held.notBeforeAt + 0.8 * (held.expiresAt - held.notBeforeAt) - Date.now()));
    const [x509, jwt] = await fetch();
    expect(x509).toMatchObject({ event: 'svids', svids: [{ spiffeId: web, serial: held.serial }] });
    // A token for this audience was never asked for, and nobody is there to sign one.
    expect(jwt).toMatchObject({ event: 'refused', kind: 'unavailable' });
    const before = watching.lines.length;
    server = await site.startServer();
    const back = await watching.until('svids', { from: before, withinMs: 30_000 });
    expect((back['svids'] as readonly Svid[])[0]).toMatchObject({ spiffeId: web });
    expect(newest(watching).serial).not.toBe(held.serial);
    await watching.end();
  });

  it('never serves an SVID past its end, and recovers without a restart', async () => {
    const watching = site.workload(program, agent, ['watch']);
    await watching.until('svids');
    await server.end('SIGKILL');
    const held = newest(watching);
    await sleep(Math.max(0, held.expiresAt - Date.now()) + 1_000);
    const refusals = await fetch();
    expect(refusals).toHaveLength(2);
    for (const line of refusals) expect(line).toMatchObject({ event: 'refused', kind: 'unavailable' });
    const before = watching.lines.length;
    server = await site.startServer();
    const back = await watching.until('svids', { from: before, withinMs: 40_000 });
    const [svid] = back['svids'] as readonly Svid[];
    expect(svid?.expiresAt).toBeGreaterThan(Number(back['at']));
    expect(agent.lines.filter(({ event }) => event === 'identity.attested')).toHaveLength(1);
    await watching.end();
  });

  it('an agent that is killed and started anew serves what it knew, with the server away', async () => {
    const [x509, jwt] = await fetch();
    expect(jwt, JSON.stringify(jwt)).toMatchObject({ event: 'tokens' });
    // The cache is written a moment after a change, not with it.
    await sleep(2_000);
    await server.end('SIGKILL');
    await agent.end('SIGKILL');
    agent = await site.startAgent('agent');
    const [again, token] = await fetch();
    const [held] = (x509?.['svids'] ?? []) as readonly Svid[];
    expect(again).toMatchObject({ event: 'svids', svids: [{ spiffeId: web, serial: held?.serial }] });
    expect(token).toMatchObject({ event: 'tokens', tokens: jwt?.['tokens'] });
    // Nobody it knows, and nobody to ask.
    const refused = await fetch(stranger);
    expect(refused).toHaveLength(2);
    for (const line of refused) expect(line).toMatchObject({ event: 'refused', kind: 'denied', reason: 'workload.no-identity' });
    server = await site.startServer();
    await agent.until('sync.connected', { withinMs: 30_000 });
    expect((await fetch())[0]).toMatchObject({ event: 'svids' });
  });

  it('an agent that starts with nothing remembered asks callers to come back', async () => {
    await server.end('SIGKILL');
    const fresh = await site.startAgent('fresh', { token: 'never-seen-by-anybody-0001' });
    const asking = site.workload(program, fresh, ['fetch']);
    expect(await asking.until('refused')).toMatchObject({ kind: 'unavailable' });
    server = await site.startServer();
    // The token convinces nobody.
    expect((await fresh.exit).code).toBe(4);
  });
});
