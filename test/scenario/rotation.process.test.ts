import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Running } from '../help/running.ts';
import { type AgentProcess, createSite, type Site, trustDomain } from '../help/site.ts';

interface Authority {
  readonly kind: string;
  readonly id: string;
  readonly state: string;
}

const client = `spiffe://${trustDomain}/client`;
const server = `spiffe://${trustDomain}/server`;
const pairs = 50;

describe('authorities of a minute', () => {
  let site: Site;
  let agents: readonly AgentProcess[];
  let programs: readonly [string, string];

  beforeAll(async () => {
    site = await createSite({
      server: `
authorities: { x509: { ttl: 60s }, jwt: { ttl: 60s } }
svids: { x509_ttl: 20s, agent_ttl: 30s, jwt_ttl: 20s }`,
    });
    await site.startServer();
    await site.writeBundle();
    programs = [await site.program('client'), await site.program('server')];
    const started: AgentProcess[] = [];
    for (const name of ['one', 'two']) {
      const { token, agentId } = await site.token();
      await site.entry({ path: '/client', parent: agentId, selectors: [`unix:path:${programs[0]}`] });
      await site.entry({ path: '/server', parent: agentId, selectors: [`unix:path:${programs[1]}`] });
      started.push(await site.startAgent(name, { token }));
    }
    for (const agent of started) await agent.until('sync.connected');
    agents = started;
  });
  afterAll(async () => site[Symbol.asyncDispose]());

  it(`lets ${pairs} pairs on two nodes talk through two rotations without one failed handshake`, async () => {
    const [first, second] = agents as [AgentProcess, AgentProcess];
    const operators = site.operators('steeple.operator.v1.Operator');
    const authorities = async (): Promise<readonly Authority[]> => {
      const { authorities: listed } = await operators.client.unary(operators.services['steeple.operator.v1.Operator'].ListAuthorities, {});
      return listed.filter(({ kind }) => kind === 'x509');
    };
    const initial = await authorities();
    // Across nodes, so that each end learns of an authority from an agent of its own.
    const talks: { readonly serving: Running; readonly calling: Running }[] = [];
    for (const [there, here] of [
      [first, second],
      [second, first],
    ] as const) {
      const serving = site.workload(programs[1], there, ['serve', client]);
      const { port } = await serving.until('listening');
      talks.push({ serving, calling: site.workload(programs[0], here, ['call', String(port), server, String(pairs / 2), '1500']) });
    }
    for (const { calling } of talks) await calling.until('exchanged');
    const signed = new Set(initial.filter(({ state }) => state === 'active').map(({ id }) => id));
    await expect
      .poll(
        async () => {
          for (const { id, state } of await authorities()) if (state === 'active') signed.add(id);
          return signed.size;
        },
        { timeout: 100_000, interval: 1_000 },
      )
      .toBeGreaterThanOrEqual(3);
    // Until every SVID is signed by the newest.
    await Promise.all(talks.map(({ calling }) => calling.until('svids', { from: calling.lines.length, withinMs: 30_000 })));
    for (const { calling } of talks) calling.child.stdin?.end();
    for (const { calling, serving } of talks) {
      const called = await calling.until('called');
      expect(called, calling.text()).toMatchObject({ failures: 0 });
      expect(called['exchanges']).toBeGreaterThan(pairs * 5);
      expect(called['ownSvids']).toBeGreaterThanOrEqual(4);
      expect(called['serverSvids']).toBeGreaterThanOrEqual(4);
      serving.child.stdin?.end();
      expect((await serving.until('served'))['accepted']).toBeGreaterThanOrEqual(Number(called['exchanges']));
      expect(serving.lines.filter(({ event }) => event === 'refused')).toEqual([]);
    }
    // Nobody had to be waited for in vain.
    const search = await site.ask<readonly unknown[]>('audit', 'search', '--type', 'authority.unconfirmed');
    expect(search).toEqual([]);
  }, 170_000);
});
