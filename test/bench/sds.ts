/**
 * What proxies see of an agent: a thousand of them, each with two streams of secrets, and how long a rotation takes until
 * the last one has it. The load is `sds-proxies.ts`.
 */
import process from 'node:process';
import { distributionOf, rounded, type Bench } from './figure.ts';
import { startPart } from './processes.ts';
import { startAgent, startServer } from './world.ts';

const proxies = 1_000;
const rotations = 3;
/** Renewed at half of it. */
const ttlSeconds = 16;

export const sdsPush: Bench = {
  name: 'sds-push',
  within: 120,
  async run(report) {
    await using world = await startServer();
    // The instant of each new SVID is in the log at this level.
    await using agent = await startAgent(world, { logLevel: 'debug' });
    await world.operator.createEntries([{ path: '/bench/proxy', parent: agent.path, selectors: [`unix:uid:${process.getuid?.() ?? 0}`], ttlSeconds }]);
    const before = agent.agent.rss();
    await using load = startPart('sds-proxies.ts', [agent.socket.replace('unix://', ''), String(proxies), String(rotations)]);
    const open = await load.line(({ event }) => event === 'open');
    report({ figure: `${proxies} proxies with 2 streams of secrets each, connected`, unit: 's', value: rounded(Number(open['seconds'])), also: { failures: open['failures'] } });
    const took: number[] = [];
    for (let round = 1; round <= rotations; round += 1) {
      const { times } = (await load.line(({ event, round: number }) => event === 'round' && number === round)) as { times?: readonly number[] };
      if (times === undefined) throw new Error('a round without times');
      const first = Math.min(...times);
      const signed = agent.agent.lines().findLast(({ event, time }) => event === 'svid.signed' && Date.parse(String(time)) <= first);
      if (signed === undefined) throw new Error('a rotation that the agent did not tell of');
      took.push(...times.map((at) => at - Date.parse(String(signed['time']))));
    }
    report({
      figure: `new X509-SVID in the agent to each of ${proxies} proxies having it`,
      unit: 'ms',
      aim: 'p99 <= 500',
      distribution: distributionOf(took),
      also: { rotations },
    });
    report({
      figure: `agent's memory with ${proxies} proxies, ${proxies * 2} streams of secrets`,
      unit: 'MB',
      aim: '<= 250',
      value: rounded(agent.agent.rss() / 1e6),
      also: { beforeMb: rounded(before / 1e6), bytesPerProxy: Math.round((agent.agent.rss() - before) / proxies) },
    });
    const done = await load.line(({ event }) => event === 'done');
    if (Number(done['failures']) > 0) throw new Error(`streams ended: ${JSON.stringify(done)}`);
  },
};
