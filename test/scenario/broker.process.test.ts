/**
 * A broker gets another process's identities by its number: server, agent, broker and workload are processes, and so is
 * who is not on the list.
 */
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Running, startRunning } from '../help/running.ts';
import { type AgentProcess, createSite, freePort, type Site, trustDomain } from '../help/site.ts';

const brokerProgram = fileURLToPath(new URL('../help/broker.ts', import.meta.url));
/** Which has a number of its own, and is no process. */
async function threadOf(pid: number): Promise<number> {
  const threads = (await readdir(`/proc/${String(pid)}/task`)).map(Number);
  return threads.find((thread) => thread !== pid) ?? -2;
}
const idOf = (name: string): string => `spiffe://${trustDomain}/${name}`;

describe('a broker', () => {
  let site: Site;
  let agent: AgentProcess;
  let agentId: string;
  let socket: string;
  let port: number;
  let programs: Readonly<Record<'mesh' | 'stranger' | 'web', string>>;

  beforeAll(async () => {
    site = await createSite();
    await site.startServer();
    await site.writeBundle();
    const joined = await site.token();
    ({ agentId } = joined);
    programs = { mesh: await site.program('mesh'), stranger: await site.program('stranger'), web: await site.program('web') };
    for (const name of ['mesh', 'stranger', 'web'] as const) {
      await site.entry({ path: `/${name}`, parent: agentId, selectors: [`unix:path:${programs[name]}`], flags: ['--x509-svid-ttl', '8s'] });
    }
    socket = path.join(site.directory, 'agent', 'broker', 'broker.sock');
    port = await freePort();
    const config = `broker: { socket_path: ${socket}, listen: { port: ${port} }, callers: [{ spiffe_id: ${idOf('mesh')} }] }`;
    agent = await site.startAgent('agent', { token: joined.token, config });
    await agent.until('sync.connected');
  });
  afterAll(async () => site?.[Symbol.asyncDispose]());

  const broker = (program: string, address: string, ...asked: readonly string[]): Running =>
    site.own(startRunning([program, brokerProgram, address, agentId, ...asked], { env: { SPIFFE_ENDPOINT_SOCKET: agent.endpoint } }));
  const workload = (): Running => site.own(startRunning([programs.web, '-e', 'process.stdin.resume()']));
  const leave = async (running: Running): Promise<void> => {
    running.child.stdin?.end();
    if (running.child.exitCode === null) await once(running.child, 'exit');
  };

  it('BRK-26, BRK-27: gets SVIDs of a process by its number across a rotation, until the process ends', async () => {
    const web = workload();
    const reference = `pid:${String(web.pid)}`;
    const mesh = broker(programs.mesh, `unix:${socket}`, reference, `token:${reference}`);
    expect(await mesh.until('svids'), mesh.text()).toMatchObject({ reference, svids: [{ spiffeId: idOf('web') }] });
    expect(await mesh.until('tokens')).toMatchObject({ tokens: [idOf('web')] });
    await mesh.until('svids', { from: mesh.lines.findIndex(({ event }) => event === 'svids') + 1 });
    await leave(web);
    const leftAt = Date.now();
    const ended = await mesh.until('refused');
    expect(ended).toMatchObject({ kind: 'missing', reason: 'broker.workload.gone' });
    expect(Number(ended['at']) - leftAt).toBeLessThan(2_000);
    expect((await mesh.exit).code).toBe(0);
    type Event = { readonly type: string; readonly detail: { readonly broker?: string; readonly reference?: string; readonly pid?: number } };
    await expect
      .poll(async () => (await site.ask<readonly Event[]>('audit', 'search', '--limit', '500')).filter(({ detail }) => detail.broker === idOf('mesh')).map(({ type }) => type), { timeout: 10_000 })
      .toEqual(expect.arrayContaining(['workload.attested', 'workload.delivered', 'workload.rotated', 'workload.closed']));
  });

  it('BRK-23, BRK-24: is told that there is no such process, and that one is entitled to nothing', async () => {
    const dead = workload();
    await leave(dead);
    const unregistered = site.own(startRunning(['/bin/sleep', '60']));
    const thread = await threadOf(agent.pid);
    const numbers = [dead.pid, unregistered.pid, thread, 2_147_483_647, -1, 0];
    const mesh = broker(programs.mesh, `unix:${socket}`, ...numbers.map((pid) => `pid:${String(pid)}`));
    await mesh.exit;
    const found = new Map(mesh.lines.map((line) => [line['reference'], `${String(line['kind'])} ${String(line['reason'])}`]));
    expect(Object.fromEntries(found)).toEqual({
      [`pid:${String(dead.pid)}`]: 'missing broker.workload.none',
      [`pid:${String(unregistered.pid)}`]: 'denied workload.no-identity',
      [`pid:${String(thread)}`]: 'missing broker.workload.none',
      'pid:2147483647': 'missing broker.workload.none',
      'pid:-1': 'invalid broker.reference.pid',
      'pid:0': 'invalid broker.reference.pid',
    });
  });

  it('T-25: may not refer to processes over TCP', async () => {
    const web = workload();
    const mesh = broker(programs.mesh, `127.0.0.1:${String(port)}`, `pid:${String(web.pid)}`);
    expect(await mesh.until('refused'), mesh.text()).toMatchObject({ kind: 'invalid', reason: 'broker.reference.remote' });
    await leave(web);
  });

  it('BRK-15: gets nothing when it is not on the list', async () => {
    const web = workload();
    const asked = `pid:${String(web.pid)}`;
    for (const address of [`unix:${socket}`, `127.0.0.1:${String(port)}`]) {
      const stranger = broker(programs.stranger, address, asked);
      expect(await stranger.until('refused'), stranger.text()).toMatchObject({ kind: 'denied', reason: 'broker.caller.unknown' });
      expect(stranger.lines.some(({ event }) => event === 'svids')).toBe(false);
    }
    await leave(web);
  });
});
