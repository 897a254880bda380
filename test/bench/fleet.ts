/**
 * Many agents before one server: all attesting at once from behind one address, and all following while nothing happens.
 * The agents are the compiled client's, which speaks their protocol and keeps no workloads.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { rounded, type Bench } from './figure.ts';
import { idleCost, runLoad, startLoad } from './processes.ts';
import { startServer, type ServerWorld } from './world.ts';

const agents = 1_000;
const idleMs = 60_000;

export const attesting: Bench = {
  name: 'attest',
  within: 90,
  async run(report) {
    await using world = await startServer();
    const tokens = await tokensFile(world);
    const lines = await runLoad(['spireload', '-mode', 'attest', '-server', world.address, '-bundle', world.bundleFile, '-tokens', tokens, '-c', '32']);
    const load = lines.find(({ event }) => event === 'load');
    if (load === undefined) throw new Error('the load said nothing');
    report({
      figure: `${agents} agents attested by join token behind one address`,
      unit: 's',
      aim: '<= 15',
      value: rounded(Number(load['seconds'])),
      also: { attested: load['count'], failures: load['failures'], ms: { p50: load['p50'], p99: load['p99'], max: load['max'] } },
    });
  },
};

export const idleAgents: Bench = {
  name: 'idle',
  within: 240,
  async run(report) {
    await using world = await startServer();
    const tokens = await tokensFile(world);
    const before = world.server.rss();
    const args = ['-server', world.address, '-bundle', world.bundleFile, '-tokens', tokens, '-c', '32', '-settle', '5s', '-for', `${idleMs / 1000}s`];
    await using load = startLoad(['spireload', '-mode', 'follow', ...args]);
    await load.line(({ event }) => event === 'settled');
    const { cpuPercent, rss } = await idleCost(world.server, idleMs - 2_000);
    const idle = await load.line(({ event }) => event === 'idle');
    if (Number(idle['failures']) > 0) throw new Error(`streams ended: ${JSON.stringify(idle)}`);
    const minutes = Number(idle['seconds']) / 60;
    report({
      figure: `bytes of an idle following agent, both ways, TLS included`,
      unit: 'bytes per minute',
      aim: '<= 1000',
      value: rounded(Number(idle['bytes']) / agents / minutes),
      also: { agents, readPerMinute: rounded(Number(idle['read']) / agents / minutes), writtenPerMinute: rounded(Number(idle['written']) / agents / minutes) },
    });
    report({ figure: `server with ${agents} idle following agents`, unit: 'percent of a core', value: rounded(cpuPercent) });
    report({
      figure: `server's memory with ${agents} idle following agents`,
      unit: 'MB',
      value: rounded(rss / 1e6),
      also: { beforeMb: rounded(before / 1e6), bytesPerAgent: Math.round((rss - before) / agents) },
    });
  },
};

async function tokensFile(world: ServerWorld): Promise<string> {
  const tokens: string[] = [];
  for (let from = 0; from < agents; from += 50) {
    tokens.push(...(await Promise.all(Array.from({ length: 50 }, () => world.operator.createToken()))).map(({ token }) => token));
  }
  const file = path.join(world.directory, 'tokens');
  await writeFile(file, tokens.join('\n'));
  return file;
}
