/**
 * Processes that start, ask once and end: the highest rate at which none fails, and whether those whose executables take
 * long to hash delay the others. What starts them is the compiled load; each is a small static program.
 */
import { spawn, spawnSync } from 'node:child_process';
import { chmod, copyFile, truncate } from 'node:fs/promises';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import type { ProgramLine } from '../interop/program.ts';
import { rounded, type Bench } from './figure.ts';
import { runLoad } from './processes.ts';
import { startAgent, startServer, type AgentWorld } from './world.ts';

const uid = process.getuid?.() ?? 0;
const held = 60;
const probe = 8;

function buildAsk(directory: string): string {
  const target = path.join(directory, 'ask');
  const cwd = fileURLToPath(new URL('../interop/go', import.meta.url));
  const build = spawnSync('go', ['build', '-o', target, './ask'], { cwd, encoding: 'utf8', env: { ...process.env, CGO_ENABLED: '0' } });
  if (build.status !== 0) throw new Error(`go build failed: ${build.error?.message ?? build.stderr}`);
  return target;
}

export const starting: Bench = {
  name: 'starting',
  within: 420,
  async run(report) {
    await using world = await startServer();
    await using agent = await startAgent(world);
    await world.operator.createEntries([{ path: '/bench/web', parent: agent.path, selectors: [`unix:uid:${uid}`] }]);
    const program = buildAsk(world.directory);
    const at = (rate: number, seconds: number): Promise<ProgramLine> => startAtRate(program, agent, rate, seconds);
    await at(20, 5);
    let good = 20;
    let bad = Number.POSITIVE_INFINITY;
    while (bad / good > 1.1) {
      const rate = Number.isFinite(bad) ? (good + bad) / 2 : good * 2;
      if (isHeld(await at(rate, probe), rate)) good = rate;
      else bad = rate;
    }
    for (let rate = good; rate >= 1; rate *= 0.9) {
      const before = agent.agent.cpuSeconds();
      const line = await at(rate, held);
      if (!isHeld(line, rate)) continue;
      report({
        figure: `processes starting and asking, held for ${held} s without a failure`,
        unit: 'per second',
        value: rounded(rate),
        also: {
          startToEndMs: { p50: line['p50'], p99: line['p99'], max: line['max'] },
          agentCorePercent: rounded((100 * (agent.agent.cpuSeconds() - before)) / Number(line['seconds'])),
          agentRssMb: rounded(agent.agent.rss() / 1e6),
        },
      });
      return;
    }
    throw new Error('not even one a second');
  },
};

/** Held is a rate at which all succeed and none is started late for want of processors. */
function isHeld(line: ProgramLine, rate: number): boolean {
  return Number(line['failures']) === 0 && Number(line['perSecond']) >= 0.95 * rate;
}

async function startAtRate(program: string, agent: AgentWorld, rate: number, seconds: number): Promise<ProgramLine> {
  const socket = agent.socket.replace(/^unix:(?:\/\/)?/, '');
  const lines = await runLoad(['spawn', '-program', program, '-socket', socket, '-rate', String(rate), '-for', `${seconds}s`]);
  const line = lines.find(({ event }) => event === 'load');
  if (line === undefined) throw new Error('the load said nothing');
  return line;
}

const giants = 50;

export const hashing: Bench = {
  name: 'hashing',
  within: 120,
  async run(report) {
    await using world = await startServer();
    await using agent = await startAgent(world, { workload: { unix: { hash_limit: 16 * 1024 ** 3 } } });
    await world.operator.createEntries([
      { path: '/bench/web', parent: agent.path, selectors: [`unix:uid:${uid}`] },
      { path: '/bench/giant', parent: agent.path, selectors: [`unix:uid:${uid}`, `unix:sha256:${'0'.repeat(64)}`] },
    ]);
    const small = buildAsk(world.directory);
    const honest = async (): Promise<ProgramLine> => {
      const line = (await runLoad(['load', '-socket', agent.socket, '-mode', 'first-message', '-n', '500'])).find(({ event }) => event === 'load');
      if (line === undefined) throw new Error('the load said nothing');
      return line;
    };
    await honest();
    const quiet = await honest();
    await using stack = new AsyncDisposableStack();
    for (let index = 0; index < giants; index += 1) {
      const file = path.join(world.directory, `giant-${index}`);
      await copyFile(small, file);
      await truncate(file, 8 * 1024 ** 3);
      await chmod(file, 0o755);
      const child = spawn(file, [agent.socket.replace(/^unix:(?:\/\/)?/, '')], { stdio: 'ignore' });
      stack.defer(() => void child.kill('SIGKILL'));
    }
    const line = await honest();
    report({
      figure: `first FetchX509SVID message, from connect, beside ${giants} executables of 8 GB to hash`,
      unit: 'ms',
      aim: 'p99 <= 250',
      distribution: { p50: Number(line['p50']), p90: Number(line['p90']), p99: Number(line['p99']), max: Number(line['max']), n: Number(line['count']) },
      also: { failures: line['failures'], withoutMs: { p50: quiet['p50'], p99: quiet['p99'] }, agentRssMb: rounded(agent.agent.rss() / 1e6) },
    });
  },
};
