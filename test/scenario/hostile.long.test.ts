/**
 * Attacks on a whole agent in this process by real processes beside it, in as many rounds as STEEPLE_ROUNDS says; 4 take
 * 10 to 20 seconds each, and T-A11 as long as a dead reader is borne. Each ends with the same question: does the agent serve
 * those it should, with as much open as before.
 */
import { spawn } from 'node:child_process';
import { readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { chmod, copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { runAgentParts } from '../../agent/agent.ts';
import { parseAgentConfig } from '../../agent/config.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createHealth } from '../../runtime/health.ts';
import { silentLogger } from '../../runtime/log.ts';
import { createMetrics, type Metrics } from '../../runtime/metrics.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { startAgentServer, testEntry, type AgentServer } from '../help/agent-server.ts';
import { startRunning, type Running } from '../help/running.ts';

const rounds = Number(process.env['STEEPLE_ROUNDS'] ?? '4');
const isRoot = process.getuid?.() === 0;
const program = (name: string): string => fileURLToPath(new URL(`../help/${name}`, import.meta.url));
const trustedId = 'spiffe://example.org/trusted';
const lenderId = 'spiffe://example.org/lender';
const honestUid = 41_001;
const hostileUid = 41_002;
const withinMs = 60_000;

let directory: string;
let server: AgentServer;
let metrics: Metrics;
let over: Promise<unknown>;
let endpoint: string;
let trusted: string;
let started: Running[];
let strays: number[];
const cleanups: (() => unknown)[] = [];

function metric(name: string): number {
  return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(metrics.text())?.[1] ?? Number.NaN);
}

const descriptors = (): number => readdirSync('/proc/self/fd').length;

function run(file: string, args: readonly string[], uid?: number): Running {
  const as = uid === undefined ? {} : { uid, gid: uid };
  const running = startRunning([file, ...args], { ...as, env: { SPIFFE_ENDPOINT_SOCKET: endpoint } });
  started.push(running);
  return running;
}

const hostile = (...args: readonly string[]): Running => run(process.execPath, [program('hostile.ts'), ...args]);

/** What this file's own processes are, as long as nobody pretends. */
function lenderEntry(hint: string): RegistrationEntry {
  return testEntry('/lender', [`unix:path:${process.execPath}`, `unix:uid:${String(process.getuid?.())}`], { id: 'lender', hint });
}

/** Lends a connection, and waits until the agent has taken it. */
async function lend(...args: readonly string[]): Promise<{ readonly lender: Running; readonly heir: number }> {
  // Of the round before.
  await expect.poll(() => metric('steeple_agent_connections'), { timeout: withinMs, interval: 5 }).toBe(0);
  const lender = hostile('lend', ...args);
  const { heir } = await lender.until('opened', { withinMs });
  strays.push(Number(heir));
  await lender.until('inherited', { withinMs });
  await expect.poll(() => metric('steeple_agent_connections'), { timeout: withinMs, interval: 5 }).toBe(1);
  return { lender, heir: Number(heir) };
}

const served = (running: Running): unknown[] =>
  running.lines.flatMap(({ event, svids }) => (event === 'svids' ? (svids as { spiffeId: string }[]).map(({ spiffeId }) => spiffeId) : []));

/** Whoever has an identity gets it, nobody is left over, and what was opened is closed. */
async function checkInvariants(baseline: number): Promise<void> {
  const caller = run(process.execPath, [program('workload.ts'), 'fetch', 'db']);
  await caller.until('tokens', { withinMs });
  expect(served(caller)).toEqual([lenderId]);
  await caller.exit;
  await expect.poll(() => metric('steeple_agent_connections'), { timeout: withinMs }).toBe(0);
  expect(metric('steeple_agent_streams')).toBe(0);
  for (const running of started) await running.end('SIGKILL');
  await expect.poll(descriptors, { timeout: 10_000 }).toBeLessThanOrEqual(baseline + 5);
  expect(await Promise.race([over, Promise.resolve('running')])).toBe('running');
}

/** The next process to start has this number, or one that is tried again. */
function takeNumber(pid: number): boolean {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    writeFileSync('/proc/sys/kernel/ns_last_pid', String(pid - 1));
    const child = spawn(trusted, ['60'], { stdio: 'ignore' });
    strays.push(child.pid ?? -1);
    if (child.pid === pid) return true;
    child.kill('SIGKILL');
  }
  return false;
}

function canForceNumbers(): boolean {
  try {
    writeFileSync('/proc/sys/kernel/ns_last_pid', String(process.pid));
    return true;
  } catch {
    return false;
  }
}

beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'steeple-hostile-'));
  await chmod(directory, 0o755);
  cleanups.push(() => rm(directory, { recursive: true, force: true }));
  server = await startAgentServer();
  cleanups.push(() => server[Symbol.asyncDispose]());
  started = [];
  strays = [];
  trusted = path.join(directory, 'trusted');
  await copyFile('/bin/sleep', trusted);
  await chmod(trusted, 0o755);
  await writeFile(path.join(directory, 'bundle.pem'), formatPemCertificates(server.bundle.x509Authorities.map(({ certificate }) => certificate)), { mode: 0o600 });
  server.commit([
    testEntry('/trusted', [`unix:path:${trusted}`]),
    lenderEntry(''),
    testEntry('/honest', [`unix:uid:${honestUid}`]),
  ]);
  const config = parseAgentConfig(`
trust_domain: example.org
server: { address: 127.0.0.1, port: ${server.port} }
data_dir: ${directory}/data
socket_path: ${directory}/public/api.sock
admin_socket_path: ${directory}/private/admin.sock
trust_bundle: { path: ${directory}/bundle.pem }
attestor: { type: join_token, token: a-token-for-tests }
`);
  const stop = new AbortController();
  const health = createHealth();
  metrics = createMetrics();
  over = runAgentParts({ config, version: 'test', clock: systemClock, random: Math.random, log: silentLogger, metrics, health, sealingKey: undefined }, stop.signal).catch((error: unknown) => error);
  cleanups.push(async () => {
    stop.abort(new Error('the test is over'));
    await over;
  });
  endpoint = `unix://${directory}/public/api.sock`;
  await expect.poll(() => metric('steeple_agent_entries'), { timeout: 20_000 }).toBe(3);
  await expect.poll(() => health.state.value.ready, { timeout: 20_000 }).toBe(true);
});

afterEach(async () => {
  for (const running of started) await running.end('SIGKILL');
  for (const pid of strays) {
    try {
      if (pid > 0) process.kill(pid, 'SIGKILL');
    } catch {
      // It is gone already.
    }
  }
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

it.skipIf(!canForceNumbers())('T-A01: a trusted process on the number of the one that connected lends its identity to nobody', async () => {
  const baseline = descriptors();
  let forced = 0;
  for (let round = 0; round < rounds; round += 1) {
    const { lender, heir } = await lend(process.execPath);
    // Before its end, and after.
    const early = round % 2 === 0;
    if (early) process.kill(heir, 'SIGUSR2');
    lender.child.stdin?.end();
    // Its output is open as long as the heir lives.
    await expect.poll(() => lender.child.exitCode, { timeout: withinMs, interval: 2 }).toBe(0);
    if (takeNumber(lender.pid)) forced += 1;
    if (!early) process.kill(heir, 'SIGUSR2');
    await lender.until('ended', { withinMs });
    expect(served(lender)).not.toContain(trustedId);
    if (!early) expect(served(lender)).toEqual([]);
    process.kill(heir, 'SIGKILL');
  }
  expect(forced).toBe(rounds);
  await checkInvariants(baseline);
});

it('T-A02: becoming a trusted program after the connection was taken gets nothing', async () => {
  const baseline = descriptors();
  for (let round = 0; round < rounds; round += 1) {
    const { lender, heir } = await lend(process.execPath, '-', trusted, '60');
    const afterMessage = round % 2 === 1;
    if (afterMessage) {
      process.kill(heir, 'SIGUSR2');
      await lender.until('svids', { withinMs });
    }
    lender.child.stdin?.end();
    await expect.poll(() => imageOf(lender.pid), { timeout: withinMs, interval: 2 }).toBe('trusted');
    const before = served(lender).length;
    process.kill(heir, 'SIGUSR2');
    if (afterMessage) server.commit([lenderEntry(`round ${round}`)]);
    await lender.until('ended', { withinMs });
    expect(served(lender).length).toBe(before);
    expect(served(lender)).not.toContain(trustedId);
    lender.child.kill('SIGKILL');
    process.kill(heir, 'SIGKILL');
  }
  await checkInvariants(baseline);
});

it.skipIf(!isRoot)('T-A03: a descriptor that was passed on is the connector’s, for as long as it lives', async () => {
  const baseline = descriptors();
  for (let round = 0; round < rounds; round += 1) {
    const { lender, heir } = await lend(process.execPath, round % 2 === 0 ? '-' : String(hostileUid));
    process.kill(heir, 'SIGUSR2');
    await lender.until('svids', { withinMs });
    // What the kernel says, and so the record.
    expect(served(lender)).toEqual([lenderId]);
    const endedAt = performance.now();
    lender.child.stdin?.end();
    await lender.until('ended', { withinMs });
    expect(performance.now() - endedAt).toBeLessThan(5_000);
    process.kill(heir, 'SIGKILL');
  }
  const delivered = server.reported.flatMap(({ events }) => events).filter(({ kind }) => kind === 'KIND_DELIVERED');
  expect(new Set(delivered.map(({ process: whose }) => whose?.uid))).toEqual(new Set([process.getuid?.()]));
  await checkInvariants(baseline);
});

it.skipIf(!isRoot)('T-A09, T-A10: a user that floods takes nothing from the others', async () => {
  const baseline = descriptors();
  const floods = Array.from({ length: 2 }, () => run(process.execPath, [program('workload.ts'), 'knock', String(1_500 * rounds), String(hostileUid)]));
  await Promise.all(floods.map((flood) => flood.until('knocking', { withinMs })));
  const honest = run(process.execPath, [program('workload.ts'), 'fetch-often', String(10 * rounds)], honestUid);
  const told = await honest.until('fetched', { withinMs: 10 * withinMs });
  expect(told).toMatchObject({ answered: 10 * rounds, failures: 0 });
  for (const flood of floods) expect(Number((await flood.until('knocked', { withinMs }))['connected'])).toBeGreaterThan(0);
  expect(metric('steeple_agent_connections_refused_total')).toBeGreaterThan(0);
  await checkInvariants(baseline);
});

it('T-A11: readers that never read hold back nobody, and are cut', { timeout: 600_000 }, async () => {
  const baseline = descriptors();
  const count = 25 * rounds;
  const stuck = hostile('streams', String(count));
  await stuck.until('streaming', { withinMs });
  stuck.child.kill('SIGSTOP');
  const reader = run(process.execPath, [program('workload.ts'), 'watch']);
  await reader.until('svids', { withinMs });
  const selectors = [`unix:path:${process.execPath}`, `unix:uid:${String(process.getuid?.())}`];
  const before = process.memoryUsage().external;
  for (let rotation = 1; rotation <= 25 * rounds; rotation += 1) {
    const from = reader.lines.length;
    // Twenty SVIDs with long hints: some 30 kB a message.
    server.commit(Array.from({ length: 20 }, (_, i) => testEntry(`/big-${i}`, selectors, { id: `big-${i}`, hint: `${rotation} ${i} ${'x'.repeat(900)}` })));
    await reader.until(({ event, svids }) => event === 'svids' && (svids as readonly unknown[]).length === 21, { withinMs, from });
  }
  expect(process.memoryUsage().external - before).toBeLessThan(40 * 1024 * 1024);
  // What they did not read fills their windows and no more; then they are cut, and only they.
  await expect.poll(() => metric('steeple_agent_connections'), { timeout: 120_000, interval: 500 }).toBe(1);
  expect(metric('steeple_agent_streams')).toBe(1);
  stuck.child.kill('SIGKILL');
  reader.child.stdin?.end();
  await expect.poll(() => metric('steeple_agent_connections'), { timeout: withinMs }).toBe(0);
  for (const running of started) await running.end('SIGKILL');
  await expect.poll(descriptors, { timeout: 10_000 }).toBeLessThanOrEqual(baseline + 5);
});

it('T-A19: whoever comes and goes leaves nothing behind', async () => {
  const baseline = descriptors();
  const cycles = Array.from({ length: 2 }, () => hostile('cycle', String(50 * rounds)));
  for (const cycle of cycles) expect(await cycle.until('cycled', { withinMs: 10 * withinMs })).toMatchObject({ done: 50 * rounds });
  for (const cycle of cycles) await cycle.exit;
  await sleep(1_000);
  expect(metric('steeple_agent_connections')).toBe(0);
  expect(metric('steeple_agent_streams')).toBe(0);
  await checkInvariants(baseline);
});

function imageOf(pid: number): string {
  try {
    return path.basename(readlinkSync(`/proc/${pid}/exe`));
  } catch {
    return '';
  }
}
