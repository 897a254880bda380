/**
 * From an entry's creation to its SVID in the hand of a workload that is connected, at several sizes of the registry; and
 * what a registry of that size takes to load.
 */
import path from 'node:path';
import { WorkloadApi } from '../../client/index.ts';
import { distributionOf, rounded, type Bench, type Report } from './figure.ts';
import { runPart } from './processes.ts';
import { startAgent, startServer, type AgentWorld, type ServerWorld } from './world.ts';

const rounds = 300;
const warmUp = 30;

/** @param entries there already, under other agents */
export function deliveryBench(name: string, entries: number, within: number): Bench {
  return {
    name,
    within,
    async run(report) {
      await using world = await startServer({ entries });
      await using agent = await startAgent(world);
      const times = await deliveries(world, agent);
      report({
        figure: `entry created to SVID in hand, ${entries} entries`,
        unit: 'ms',
        aim: 'p50 <= 30, p99 <= 100',
        distribution: distributionOf(times),
        also: { serverRssMb: rounded(world.server.rss() / 1e6), serverStartMs: Math.round(world.startMs) },
      });
      if (entries >= 1_000_000) await footprint(world, report);
    },
  };
}

async function deliveries(world: ServerWorld, agent: AgentWorld): Promise<readonly number[]> {
  const uid = `unix:uid:${process.getuid?.() ?? 0}`;
  await world.operator.createEntries([{ path: '/bench/standing', parent: agent.path, selectors: [uid] }]);
  using api = new WorkloadApi({ address: agent.socket });
  const over = new AbortController();
  const updates = api.watchX509Context(over.signal);
  const next = async (holds: (ids: ReadonlySet<string>) => boolean): Promise<void> => {
    for (;;) {
      const { value, done } = await updates.next();
      if (done === true) throw new Error('the watch ended');
      if (holds(new Set(value.svids.map(({ spiffeId }) => spiffeId)))) return;
    }
  };
  try {
    await next((ids) => ids.size === 1);
    const times: number[] = [];
    for (let round = 0; round < warmUp + rounds; round += 1) {
      const began = performance.now();
      const creating = world.operator.createEntries([{ path: `/bench/round-${round}`, parent: agent.path, selectors: [uid] }]);
      await next((ids) => ids.has(`spiffe://example.org/bench/round-${round}`));
      const took = performance.now() - began;
      if (round >= warmUp) times.push(took);
      await world.operator.deleteEntries(await creating);
      await next((ids) => ids.size === 1);
    }
    return times;
  } finally {
    over.abort();
  }
}

/** On the store of the server, which is stopped for it. */
async function footprint(world: ServerWorld, report: Report): Promise<void> {
  const started = await world.server.line(({ event }) => event === 'registry.loaded');
  await world.server.stop();
  const [seen] = await runPart('footprint.ts', [path.join(world.directory, 'server-data', 'store', 'steeple.sqlite')], ['--expose-gc']);
  report({ figure: 'registry loaded, 1000000 entries', unit: 's', aim: '<= 30', value: rounded(Number(started['ms']) / 1000) });
  report({
    figure: 'registry memory for one entry, at 1000000',
    unit: 'bytes',
    aim: '<= 1000',
    value: rounded(Number(seen?.['bytesPerEntry'])),
    also: { rssMb: rounded(Number(seen?.['rss']) / 1e6) },
  });
}
