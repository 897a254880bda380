/**
 * X.509-SVIDs signed and durably recorded by one server: through our own lean call in batches, and through SPIRE's call
 * with a certificate request for each. The load is the compiled client, over mutual TLS as an agent.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { rounded, type Bench } from './figure.ts';
import { runLoad } from './processes.ts';
import { startServer } from './world.ts';

interface IssueSettings {
  readonly name: string;
  readonly mode: 'issue' | 'sign';
  readonly aim: string;
  readonly batch: number;
  readonly connections: number;
}

const heldEntries = 1_000;
const seconds = 15;
const warmUpSeconds = 4;

export function issueBench({ name, mode, aim, batch, connections }: IssueSettings): Bench {
  return {
    name,
    within: 120,
    async run(report) {
      await using world = await startServer();
      const { token, agent } = await world.operator.createToken();
      const ids = await world.operator.createEntries(
        Array.from({ length: heldEntries }, (_, index) => ({ path: `/bench/${index}`, parent: agent, selectors: [`unix:uid:${index}`] })),
      );
      const list = path.join(world.directory, 'entries');
      await writeFile(list, ids.join('\n'));
      const common = ['-server', world.address, '-bundle', world.bundleFile, '-entries', `@${list}`, '-batch', String(batch), '-c', String(connections)];
      const svid = path.join(world.directory, 'agent-svid');
      await runLoad(['spireload', '-mode', mode, '-join-token', token, '-keep-svid', svid, '-for', `${warmUpSeconds}s`, ...common]);
      const before = world.server.threadSeconds();
      const lines = await runLoad(['spireload', '-mode', mode, '-cert', `${svid}.pem`, '-key', `${svid}.key`, '-for', `${seconds}s`, ...common]);
      const load = lines.find(({ event }) => event === 'load');
      if (load === undefined) throw new Error('the load said nothing');
      const signed = Number(load['signed']);
      const used = Object.entries(world.server.threadSeconds()).map(([name, spent]) => [name, spent - (before[name] ?? 0)] as const);
      report({
        figure: `X509-SVIDs signed and recorded, ${mode === 'issue' ? 'our call' : "SPIRE's call"}`,
        unit: 'per second',
        aim,
        value: rounded(Number(load['signedPerSecond'])),
        also: {
          batch,
          connections,
          refused: load['refused'],
          failures: load['failures'],
          batchMs: { p50: load['p50'], p99: load['p99'] },
          /** Processor time of the server for each, by thread. */
          usEachByThread: Object.fromEntries(used.filter(([, spent]) => spent > 0.05).map(([name, spent]) => [name, rounded((spent * 1e6) / signed)])),
          serverCores: rounded(used.reduce((sum, [, spent]) => sum + spent, 0) / Number(load['seconds'])),
          serverRssMb: rounded(world.server.rss() / 1e6),
        },
      });
    },
  };
}
