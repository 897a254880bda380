import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Running, startRunning } from '../help/running.ts';
import { type AgentProcess, createSite, type Site, trustDomain } from '../help/site.ts';

const heirProgram = fileURLToPath(new URL('../help/heir.ts', import.meta.url));
const web = `spiffe://${trustDomain}/web`;
const unprivileged = process.getuid?.() === 0 ? undefined : 'skipped: needs root';
const withoutReuse = unprivileged ?? (canForce() ? undefined : 'skipped: this kernel does not let the next process number be chosen');

function canForce(): boolean {
  try {
    writeFileSync('/proc/sys/kernel/ns_last_pid', '30000');
    return true;
  } catch {
    return false;
  }
}

/** Starts a command again and again until it has this number; it prints `reused` then. */
const reuse = `
want=$1; shift; tries=0
while [ $tries -lt 20000 ]; do
  echo $((want - 1)) > /proc/sys/kernel/ns_last_pid
  "$@" > /dev/null & got=$!
  if [ $got -eq $want ]; then echo '{"event":"reused"}'; wait $got; exit 0; fi
  kill -9 $got; wait $got 2> /dev/null; tries=$((tries + 1))
done
echo '{"event":"missed"}'`;

describe('who is at the other end', () => {
  let site: Site;
  let agents: ReadonlyMap<number, AgentProcess>;
  let program: string;
  let other: string;

  beforeAll(async () => {
    site = await createSite();
    await site.startServer();
    await site.writeBundle();
    [program, other] = [await site.program('web'), await site.program('other')];
    const started = new Map<number, AgentProcess>();
    for (const tier of [1, 2, 3]) {
      const { token, agentId } = await site.token();
      await site.entry({ path: '/web', parent: agentId, selectors: [`unix:path:${program}`] });
      const agent = await site.startAgent(`agent-${tier}`, { token, config: `workload: { peer_tier: ${tier} }` });
      await agent.until('sync.connected');
      started.set(tier, agent);
    }
    agents = started;
  });
  afterAll(async () => site[Symbol.asyncDispose]());

  const agentOf = (tier: number): AgentProcess => {
    const agent = agents.get(tier);
    if (agent === undefined) throw new Error(`no agent of tier ${tier}`);
    return agent;
  };
  /** A process of the entry's program with a connection that its child, of another program, has as well. */
  const bequeath = async (agent: AgentProcess): Promise<{ readonly parent: Running; readonly pid: number; readonly heir: number }> => {
    const parent = site.own(startRunning([program, heirProgram, 'open', other], { env: { SPIFFE_ENDPOINT_SOCKET: agent.endpoint } }));
    const opened = await parent.until('opened');
    await parent.until('inherited');
    return { parent, pid: Number(opened['pid']), heir: Number(opened['heir']) };
  };
  const leave = async (parent: Running): Promise<void> => {
    parent.child.stdin?.end();
    if (parent.child.exitCode === null) await once(parent.child, 'exit');
  };
  const takeNumber = (pid: number): Promise<Running> => {
    const taken = site.own(startRunning(['/bin/sh', '-c', reuse, 'sh', String(pid), program, '-e', 'setTimeout(() => {}, 60000)']));
    return taken.until((line) => line.event === 'reused' || line.event === 'missed', { withinMs: 60_000 }).then((line) => {
      expect(line.event).toBe('reused');
      return taken;
    });
  };

  it.each([1, 2, 3])('T-A03: a child that inherits the connection loses it with its parent (tier %i)', async (tier) => {
    const { parent, heir } = await bequeath(agentOf(tier));
    process.kill(heir, 'SIGUSR2');
    // Whoever holds a descriptor of a living process speaks for it; that is the kernel's idea of a connection.
    expect(await parent.until('svids')).toMatchObject({ svids: [{ spiffeId: web }] });
    const before = parent.lines.length;
    await leave(parent);
    const leftAt = Date.now();
    const ended = await parent.until('ended', { from: before });
    // 100 ms is the promise; the rest is for a machine that is busy.
    expect(Number(ended['at']) - leftAt).toBeLessThan(2_000);
    process.kill(heir, 'SIGKILL');
  });

  it.skipIf(withoutReuse !== undefined).each([1, 2, 3])(
    `T-A01: a number that was given again, to the same program, does not revive the connection (tier %i) ${withoutReuse ?? ''}`,
    async (tier) => {
      const agent = agentOf(tier);
      const { parent, pid, heir } = await bequeath(agent);
      // The agent has accepted by then, and sees nothing of what comes next before all of it has happened.
      await sleep(500);
      process.kill(agent.pid, 'SIGSTOP');
      await leave(parent);
      const taken = await takeNumber(pid);
      process.kill(heir, 'SIGUSR2');
      await sleep(300);
      process.kill(agent.pid, 'SIGCONT');
      await parent.until('ended');
      expect(parent.lines.some(({ event }) => event === 'svids')).toBe(false);
      process.kill(heir, 'SIGKILL');
      process.kill(pid, 'SIGKILL');
      await taken.exit;
    },
  );

  it.skipIf(withoutReuse !== undefined)(
    `T-A01: nor does it when the process was gone before its connection was accepted (SO_PEERPIDFD) ${withoutReuse ?? ''}`,
    async () => {
      const agent = agentOf(1);
      process.kill(agent.pid, 'SIGSTOP');
      const { parent, pid, heir } = await bequeath(agent);
      await leave(parent);
      const taken = await takeNumber(pid);
      process.kill(heir, 'SIGUSR2');
      await sleep(300);
      process.kill(agent.pid, 'SIGCONT');
      await parent.until('ended');
      expect(parent.lines.some(({ event }) => event === 'svids')).toBe(false);
      process.kill(heir, 'SIGKILL');
      process.kill(pid, 'SIGKILL');
      await taken.exit;
    },
  );

  it.skipIf(unprivileged !== undefined)(
    `T-A09: a flood of connections by one user costs no other user an answer ${unprivileged ?? ''}`,
    async () => {
      const agent = agentOf(1);
      const flood = site.workload(other, agent, ['knock', '8000', '65534']);
      await flood.until('knocking');
      const honest = ['a', 'b'].map(() => site.workload(program, agent, ['fetch-often', '40']));
      for (const running of honest) {
        expect(await running.until('fetched', { withinMs: 60_000 }), running.text()).toMatchObject({ answered: 40, failures: 0 });
      }
      const { connected } = await flood.until('knocked', { withinMs: 60_000 });
      expect(connected).toBeGreaterThan(1_000);
      const refused = await agent.until((line) => line.event === 'socket.refused' && line['uid'] === 65534);
      expect(refused['cause']).toEqual(expect.stringMatching(/rate|connections/));
    },
  );
});
