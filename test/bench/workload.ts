/**
 * What workloads see of an agent: the first message, cached tokens, many open streams and a rotation pushed to all of
 * them, and honest callers beside one user's flood. The load is the compiled client.
 */
import { chmod, copyFile } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { buildProgram, type ProgramLine } from '../interop/program.ts';
import { rounded, type Bench, type Distribution } from './figure.ts';
import { runLoad, startLoad } from './processes.ts';
import { startAgent, startServer, type AgentWorld, type ServerWorld } from './world.ts';

const uid = process.getuid?.() ?? 0;
/** Of the flooding process; nobody. */
const floodUid = 65_534;

export const firstMessage: Bench = {
  name: 'first-message',
  within: 90,
  async run(report) {
    await using world = await startServer();
    await using agent = await startAgent(world);
    await world.operator.createEntries([{ path: '/bench/web', parent: agent.path, selectors: [`unix:uid:${uid}`] }]);
    const base = ['load', '-socket', agent.socket, '-mode'];
    // Until the agent has the SVID and the code is compiled.
    await loaded([...base, 'first-message', '-n', '1000']);
    const kept = await loaded([...base, 'first-message', '-keep', '-n', '3000']);
    report({ figure: 'first FetchX509SVID message, attested connection', unit: 'ms', aim: 'p50 <= 1', distribution: fromLoad(kept), also: failuresOf(kept) });
    const fresh = await loaded([...base, 'first-message', '-n', '3000']);
    report({ figure: 'first FetchX509SVID message, from connect', unit: 'ms', aim: 'p50 <= 4', distribution: fromLoad(fresh), also: failuresOf(fresh) });
    await loaded([...base, 'jwt', '-n', '200']);
    const jwt = await loaded([...base, 'jwt', '-n', '3000']);
    report({ figure: 'FetchJWTSVID from the cache', unit: 'ms', distribution: fromLoad(jwt), also: failuresOf(jwt) });
    const many = await loaded([...base, 'jwt', '-n', '20000', '-c', '16']);
    report({
      figure: 'FetchJWTSVID from the cache, 16 at once',
      unit: 'per second',
      value: rounded(Number(many['perSecond'])),
      also: { p50: many['p50'], p99: many['p99'], ...failuresOf(many), agentRssMb: rounded(agent.agent.rss() / 1e6) },
    });
  },
};

const streams = 1_000;
const rotations = 4;
/** Renewed at half of it. */
const streamTtlSeconds = 20;

export const openStreams: Bench = {
  name: 'streams',
  within: 150,
  async run(report) {
    await using world = await startServer();
    await using agent = await startAgent(world);
    await world.operator.createEntries([{ path: '/bench/web', parent: agent.path, selectors: [`unix:uid:${uid}`], ttlSeconds: streamTtlSeconds }]);
    await loaded(['load', '-socket', agent.socket, '-mode', 'first-message', '-n', '10']);
    const before = agent.agent.rss();
    const hold = (streamTtlSeconds / 2) * (rotations + 1);
    await using load = startLoad(['load', '-socket', agent.socket, '-mode', 'streams', '-n', String(streams), '-c', '20', '-for', `${hold}s`]);
    const open = await load.line(({ event }) => event === 'open');
    report({ figure: `${streams} streams opened, each on its connection`, unit: 's', value: rounded(Number(open['seconds'])), also: failuresOf(open) });
    const spreads: number[] = [];
    for (let round = 1; round <= rotations; round += 1) {
      const pushed = await load.line(({ event, round: number }) => event === 'round' && number === round);
      spreads.push(Number(pushed['spread']));
    }
    report({
      figure: `rotation pushed to ${streams} streams, first to last`,
      unit: 'ms',
      value: rounded(Math.max(...spreads)),
      also: { each: spreads },
    });
    report({
      figure: `agent's memory with ${streams} open streams`,
      unit: 'MB',
      aim: '<= 150',
      value: rounded(agent.agent.rss() / 1e6),
      also: { beforeMb: rounded(before / 1e6), bytesPerStream: Math.round((agent.agent.rss() - before) / streams) },
    });
    const held = await load.line(({ event }) => event === 'held');
    if (Number(held['failures']) > 0) throw new Error(`streams ended: ${JSON.stringify(held)}`);
  },
};

export const flood: Bench = {
  name: 'flood',
  within: 120,
  async run(report) {
    const figure = 'honest callers refused beside the flood of another user';
    const aim = '0';
    if (uid !== 0) {
      report({ figure, unit: 'failures', aim, skipped: 'only root can run the flood as another user' });
      return;
    }
    await using world = await startServer();
    await using agent = await startAgent(world, { limited: true });
    await world.operator.createEntries([{ path: '/bench/web', parent: agent.path, selectors: [`unix:uid:${uid}`] }]);
    // Where another user may run it.
    const program = path.join(world.directory, 'flood');
    await copyFile(buildProgram(), program);
    await chmod(program, 0o755);
    await loaded(['load', '-socket', agent.socket, '-mode', 'first-message', '-n', '100']);
    for (const [kind, flags] of [
      ['connecting', []],
      ['connecting and calling', ['-rpc']],
    ] as const) {
      await underFlood(kind, flags, world, agent, program, (line, flooding) =>
        report({
          figure: `${figure} (${kind})`,
          unit: 'failures',
          aim,
          value: Number(line['failures']),
          also: {
            honestCalls: line['count'],
            honestMs: { p50: line['p50'], p99: line['p99'], max: line['max'] },
            floodedConnections: flooding['connections'],
            floodRefused: flooding['failures'],
            ...(Number(line['failures']) > 0 && { failureKinds: line['failureKinds'], firstFailure: line['firstFailure'] }),
            agentRssMb: rounded(agent.agent.rss() / 1e6),
          },
        }),
      );
    }
  },
};

async function underFlood(
  kind: string,
  flags: readonly string[],
  world: ServerWorld,
  agent: AgentWorld,
  program: string,
  told: (honest: ProgramLine, flooding: ProgramLine) => void,
): Promise<void> {
  const flooding = runLoad(['load', '-socket', agent.socket, '-mode', 'churn', '-c', '4', '-for', '12s', ...flags], { uid: floodUid, program, cwd: world.directory });
  const honest = await loaded(['load', '-socket', agent.socket, '-mode', 'first-message', '-n', '300', '-c', '2']);
  const line = (await flooding).find(({ event }) => event === 'load');
  if (line === undefined) throw new Error(`the flood (${kind}) said nothing`);
  told(honest, line);
}

async function loaded(args: readonly string[]): Promise<ProgramLine> {
  const line = (await runLoad(args)).find(({ event }) => event === 'load');
  if (line === undefined) throw new Error('the load said nothing');
  return line;
}

function fromLoad(line: ProgramLine): Distribution {
  const [p50, p90, p99, max, n] = ['p50', 'p90', 'p99', 'max', 'count'].map((name) => Number(line[name]));
  if (p50 === undefined || p90 === undefined || p99 === undefined || max === undefined || n === undefined) throw new Error('no distribution');
  return { p50, p90, p99, max, n };
}

function failuresOf(line: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  return { failures: line['failures'], ...(Number(line['failures']) > 0 && { firstFailure: line['firstFailure'] }) };
}
