import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RpcClient } from '../../runtime/rpc/call.ts';
import { isSpiffeError } from '../../spiffe/errors.ts';
import { connectNode, followTo, joinNode } from '../help/node.ts';
import { type AgentProcess, createSite, type Site } from '../help/site.ts';

describe('nodes and their standing', () => {
  let site: Site;

  beforeAll(async () => {
    site = await createSite();
    await site.startServer();
    await site.writeBundle();
  });
  afterAll(async () => site[Symbol.asyncDispose]());

  const joinedAgent = async (name: string): Promise<{ readonly agent: AgentProcess; readonly agentId: string; readonly program: string }> => {
    const { token, agentId } = await site.token();
    const program = await site.program(name);
    await site.entry({ path: `/${name}`, parent: agentId, selectors: [`unix:path:${program}`] });
    const agent = await site.startAgent(name, { token });
    await agent.until('sync.connected');
    return { agent, agentId, program };
  };

  it.each([
    ['ban', 3, 'identity.banned'],
    ['evict', 4, 'identity.must-rejoin'],
  ])('%s: ends the streams of its workloads at once, and the agent for good', async (verb, code, reason) => {
    const { agent, agentId, program } = await joinedAgent(verb);
    const stream = site.workload(program, agent, ['stream']);
    await stream.until('svids');
    const done = site.steeple('agent', verb, '--spiffe-id', agentId);
    const [{ code: said }, ended, exit] = await Promise.all([done, stream.until('refused'), agent.exit]);
    expect(said).toBe(0);
    expect(exit.code, agent.text()).toBe(code);
    expect(agent.lines.find(({ event }) => event === 'agent.ended')?.['error']).toContainEqual(expect.objectContaining({ reason }));
    // The command comes back when the server has acted; the agent's end is not waited for any longer than that.
    expect(Number(ended['at'])).toBeLessThan(Date.now());
    // Nothing is left that a later start could serve from.
    expect(await readdir(path.join(agent.directory, 'data', 'cache'))).toEqual([]);
    expect(await readdir(path.join(agent.directory, 'data'))).not.toContain('agent.json');
    const [event] = await site.ask<readonly { actor: string; subject: string }[]>('audit', 'search', '--type', `agent.${verb === 'ban' ? 'banned' : 'evicted'}`);
    expect(event).toMatchObject({ subject: agentId, actor: expect.stringMatching(/^operator:\d+\/\d+$/) as string });
  });

  it('T-B: of 200 nodes that come with one token at once, exactly one is let in', async () => {
    const { token, agentId } = await site.token();
    const outcomes = await Promise.allSettled(Array.from({ length: 200 }, () => joinNode(site, token)));
    const admitted = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value.svid.spiffeId] : []));
    expect(admitted).toEqual([agentId]);
    const kinds = new Set(outcomes.flatMap((outcome) => (outcome.status === 'rejected' ? [(outcome.reason as { kind: string }).kind] : [])));
    // Refused for the token or for the rate, and never for something that broke.
    for (const kind of kinds) expect(['invalid', 'denied', 'unauthenticated', 'limited', 'missing']).toContain(kind);
    const { client, services } = site.operators('steeple.operator.v1.Operator');
    const { events } = await client.unary(services['steeple.operator.v1.Operator'].SearchAudit, { type: 'agent.attested', subject: agentId, page_size: 100 });
    expect(events).toHaveLength(1);
  });

  describe('the follow stream of version 2 and the one before', () => {
    let client: RpcClient | undefined;
    let agentId: string;

    beforeAll(async () => {
      const joined = await site.token();
      agentId = joined.agentId;
      // Failures of others on this machine keep its address out for a while.
      const admission = await untilAdmitted(() => joinNode(site, joined.token));
      client = connectNode(site, admission);
      await site.entry({ path: '/first', parent: agentId, selectors: ['unix:uid:1'] });
    });
    afterAll(() => client?.close());

    const connected = (): RpcClient => {
      if (client === undefined) throw new Error('not connected');
      return client;
    };
    const revisionNow = async (): Promise<number> => {
      const { client: operators, services } = site.operators('steeple.operator.v1.Operator');
      return Number((await operators.unary(services['steeple.operator.v1.Operator'].GetStatus, {})).revision);
    };

    it('resumes for version 2 and gives only what changed', async () => {
      const first = await followTo(connected(), { minVersion: 1, maxVersion: 2 }, await revisionNow());
      expect(first).toMatchObject({ version: 2, snapshot: true, entries: ['/first'] });
      const made = await site.entry({ path: '/second', parent: agentId, selectors: ['unix:uid:2'] });
      const next = await followTo(connected(), { minVersion: 1, maxVersion: 2, position: first.position }, await revisionNow());
      expect(next).toMatchObject({ version: 2, snapshot: false, entries: ['/second'] });
      expect(next.drops(made)).toBe(false);
      await site.steeple('entry', 'delete', '--id', made);
      const last = await followTo(connected(), { minVersion: 2, maxVersion: 2, position: next.position }, await revisionNow());
      expect(last).toMatchObject({ snapshot: false, entries: [] });
      expect(last.drops(made)).toBe(true);
    });

    it('gives version 1 a snapshot whatever position it names', async () => {
      const first = await followTo(connected(), { minVersion: 1, maxVersion: 1 }, await revisionNow());
      const next = await followTo(connected(), { minVersion: 1, maxVersion: 1, position: first.position }, await revisionNow());
      for (const followed of [first, next]) expect(followed).toMatchObject({ version: 1, snapshot: true, entries: ['/first'] });
    });

    it('takes the highest version that both know, and refuses when there is none', async () => {
      expect(await followTo(connected(), { minVersion: 1, maxVersion: 99 }, 0)).toMatchObject({ version: 2 });
      await expect(followTo(connected(), { minVersion: 3, maxVersion: 9 }, 0)).rejects.toMatchObject({ kind: 'unsupported' });
    });

    it('takes a position of another history for no position', async () => {
      const position = { epoch: 'another-history', revision: '1' };
      expect(await followTo(connected(), { minVersion: 1, maxVersion: 2, position }, 0)).toMatchObject({ snapshot: true, entries: ['/first'] });
    });
  });
});


/** An agent, too, tries again as long as it is told that it is too much at the moment. */
async function untilAdmitted<T>(join: () => Promise<T>): Promise<T> {
  for (let tries = 0; ; tries += 1) {
    try {
      return await join();
    } catch (error) {
      if (!isSpiffeError(error, 'limited') || tries > 100) throw error;
      await sleep(1_000);
    }
  }
}
