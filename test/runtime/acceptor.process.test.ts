import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { AcceptorWorkerData, FromWorker, ToWorker } from '../../runtime/acceptor-worker.ts';
import { bestPeerTier, listenUnix } from '../../runtime/acceptor.ts';
import type { Acceptor, ListenOptions } from '../../runtime/acceptor.ts';
import { systemClock } from '../../runtime/clock.ts';
import { closeDescriptor, effectiveUid, openEventfd, signalEventfd } from '../../runtime/linux.ts';
import type { Peer, PeerTier } from '../../runtime/peer.ts';
import { openSocketFile } from '../../runtime/socket-file.ts';
import { startConnector, startHost, startProgram } from '../help/processes.ts';

const roomy = { connectionsPerUid: 10_000, connectsPerSecondPerUid: 1_000_000, total: 10_000 };
const tiers = ([1, 2, 3] as const).filter((tier) => tier >= bestPeerTier());
const isRoot = effectiveUid() === 0;
const hasSetpriv = spawnSync('setpriv', ['--version'], { stdio: 'ignore' }).status === 0;

/** Scripts in the arguments, since a checkout may not be readable by every user. */
const floodScript = `
  const { connect } = require('node:net');
  const next = () => {
    const socket = connect(process.argv[1]).on('error', () => {}).on('close', next);
    socket.on('connect', () => socket.destroy());
  };
  for (let n = 0; n < 50; n += 1) next();`;
const dialScript = `
  const { connect } = require('node:net');
  const [path, count] = process.argv.slice(1);
  let connected = 0;
  const onConnect = () => { if (++connected === Number(count)) console.log('connected'); };
  for (let n = 0; n < Number(count); n += 1) connect(path).on('error', () => {}).on('connect', onConnect).resume();
  process.stdin.resume().on('end', () => process.exit());`;

let directory: string;
let path: string;
let acceptors: Acceptor[];
let taken: { readonly socket: Socket; readonly peer: Peer }[];
let strays: Set<number>;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'steeple-proc-'));
  await chmod(directory, 0o755);
  path = join(directory, 'a.sock');
  acceptors = [];
  taken = [];
  strays = new Set();
});
afterEach(async () => {
  for (const pid of strays) kill(pid);
  await Promise.all(acceptors.map((acceptor) => acceptor.stop()));
  await rm(directory, { recursive: true, force: true });
});

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It is gone already.
  }
}

function alive(pid: number): boolean {
  return spawnSync('/bin/kill', ['-0', String(pid)], { stdio: 'ignore' }).status === 0;
}

async function listen(tier: PeerTier, more: Partial<ListenOptions> = {}): Promise<Acceptor> {
  const onConnection = (socket: Socket, peer: Peer): void => void taken.push({ socket: socket.resume(), peer });
  const usual = { path, mode: 0o777, backlog: 4096, limits: roomy, clock: systemClock };
  const acceptor = await listenUnix({ ...usual, tier, onConnection, ...more });
  acceptors.push(acceptor);
  return acceptor;
}

async function until(done: () => boolean): Promise<void> {
  while (!done()) await systemClock.sleep(2);
}

async function connector(act: Parameters<typeof startConnector>[1]): ReturnType<typeof startConnector> {
  const program = await startConnector(path, act);
  strays.add(program.pid);
  void program.gone.then(() => strays.delete(program.pid));
  return program;
}

/** The connector's child, which holds the connection after it. */
async function bequeath(program: Awaited<ReturnType<typeof startConnector>>): Promise<number> {
  program.child.stdin?.end();
  const heir = Number((await program.line()).replace('heir ', ''));
  strays.add(heir);
  await program.gone;
  return heir;
}

/** Starts processes until one of them has the number; root of this PID namespace only. */
function takeNumber(pid: number): number {
  for (let attempt = 0; attempt < 200; attempt += 1) {
    writeFileSync('/proc/sys/kernel/ns_last_pid', String(pid - 1));
    const child = spawn('/bin/sleep', ['60'], { stdio: 'ignore' });
    strays.add(child.pid ?? -1);
    if (child.pid === pid) return pid;
    child.kill('SIGKILL');
  }
  throw new Error(`the number ${String(pid)} could not be had`);
}

function canForceNumbers(): boolean {
  try {
    writeFileSync('/proc/sys/kernel/ns_last_pid', String(process.pid));
    return true;
  } catch {
    return false;
  }
}

const forced = canForceNumbers();

describe.each(tiers)('tier %i', (tier) => {
  it('names the process that connected, and ends its connection when it is killed', async () => {
    await listen(tier);
    const program = await connector('hold');
    await until(() => taken.length === 1);
    const { socket, peer } = taken[0]!;
    expect(peer).toMatchObject({ pid: program.pid, tier });
    expect(peer.stillTheSame()).toBe(true);
    program.child.kill('SIGKILL');
    await until(() => peer.signal.aborted && socket.destroyed);
    await program.gone;
    expect(['peer.exited', 'peer.closed']).toContain(peer.stillTheSame());
  });

  it('T-A03 ends the connection when its process exits, though a child still holds it', async () => {
    await listen(tier);
    const program = await connector('bequeath');
    await until(() => taken.length === 1);
    const { socket, peer } = taken[0]!;
    const heir = await bequeath(program);
    await until(() => peer.signal.aborted && socket.destroyed);
    expect(peer.signal.reason).toMatchObject({ reason: 'peer.exited' });
    expect(peer.stillTheSame()).toBe('peer.exited');
    expect(alive(heir)).toBe(true);
  });

  it.each(['exec-other', 'exec-same'] as const)('T-A02 sees %s after accept', async (act) => {
    await listen(tier);
    const program = await connector(act);
    await until(() => taken.length === 1);
    const { peer } = taken[0]!;
    expect(peer.stillTheSame()).toBe(true);
    program.child.stdin?.end();
    await until(() => peer.stillTheSame() !== true);
    expect(peer.stillTheSame()).toBe('peer.image');
    expect(peer.exited()).toBe(false);
    expect(peer.signal.aborted).toBe(false);
  });

  it.skipIf(!forced)('T-A01 a reused number after accept is not the peer (needs to write ns_last_pid)', async () => {
    await listen(tier);
    const program = await connector('bequeath');
    await until(() => taken.length === 1);
    const { socket, peer } = taken[0]!;
    await bequeath(program);
    // Asked before the acceptor's thread can have told.
    expect(peer.stillTheSame()).not.toBe(true);
    takeNumber(program.pid);
    expect(peer.stillTheSame()).not.toBe(true);
    expect(peer.exited()).toBe(true);
    await until(() => socket.destroyed);
  });

  it.skipIf(!forced)('T-A01 a number reused before accept is seen at tier 1 alone (needs to write ns_last_pid)', async () => {
    const { worker, messages, end, open } = await lateWorker(tier);
    const program = await connector('bequeath');
    await bequeath(program);
    takeNumber(program.pid);
    open();
    const told = await nextOf(messages, ['connection', 'refused']);
    if (tier === 1) expect(told).toMatchObject({ kind: 'refused', counts: [{ cause: 'exited', count: 1 }] });
    else expect(told).toMatchObject({ kind: 'connection', pid: program.pid });
    await end(worker());
  });

  it('T-A03 refuses a process that was gone before its connection was taken', async () => {
    const { worker, messages, end, open } = await lateWorker(tier);
    await bequeath(await connector('bequeath'));
    open();
    const told = await nextOf(messages, ['connection', 'refused']);
    expect(told).toMatchObject({ kind: 'refused', counts: [{ cause: 'exited', count: 1 }] });
    await end(worker());
  });

  it('T-A10 stops while it is flooded', async () => {
    const acceptor = await listen(tier, { limits: { ...roomy, connectsPerSecondPerUid: 200 } });
    const attacker = startProgram([process.execPath, '-e', floodScript, path]);
    strays.add(attacker.pid);
    await until(() => acceptor.counters().refused.length > 0);
    await acceptor.stop();
    expect(await acceptor.ended).toBeUndefined();
    expect(taken.every(({ peer }) => peer.signal.aborted)).toBe(true);
    attacker.child.kill('SIGKILL');
    await attacker.gone;
  });
});

/** A socket that listens, whose thread begins to accept only when told. */
async function lateWorker(tier: PeerTier): Promise<{
  readonly messages: FromWorker[];
  open(): void;
  worker(): Worker;
  end(worker: Worker): Promise<void>;
}> {
  const file = await openSocketFile({ path, mode: 0o777, backlog: 16 }, systemClock);
  const wake = openEventfd();
  const messages: FromWorker[] = [];
  let worker: Worker | undefined;
  return {
    messages,
    open() {
      const workerData: AcceptorWorkerData = { listener: file.descriptor, wake, tier, limits: roomy, unseenImage: 'refuse' };
      worker = new Worker(new URL('../../runtime/acceptor-worker.ts', import.meta.url), { workerData, trackUnmanagedFds: false });
      worker.on('message', (message: FromWorker) => messages.push(message));
    },
    worker: () => worker!,
    async end(running) {
      for (const message of messages) if (message.kind === 'connection') closeDescriptor(message.fd);
      const exit = once(running, 'exit');
      running.postMessage({ kind: 'stop' } satisfies ToWorker);
      signalEventfd(wake);
      await exit;
      closeDescriptor(wake);
      file.remove();
    },
  };
}

async function nextOf(messages: readonly FromWorker[], kinds: readonly FromWorker['kind'][]): Promise<FromWorker> {
  let found: FromWorker | undefined;
  await until(() => (found = messages.find((message) => kinds.includes(message.kind))) !== undefined);
  return found!;
}

describe('limits and shortage', () => {
  const deprived = isRoot && hasSetpriv;

  it.skipIf(!isRoot)('T-A09 one user’s flood is refused under its own uid while another is served (needs root)', async () => {
    const limits = { connectionsPerUid: 2, connectsPerSecondPerUid: 1000, total: 100 };
    const acceptor = await listen(bestPeerTier(), { limits });
    const attacker = startProgram([process.execPath, '-e', dialScript, path, '7'], { uid: 4001, gid: 4001 });
    const honest = startProgram([process.execPath, '-e', dialScript, path, '2'], { uid: 4002, gid: 4002 });
    strays.add(attacker.pid).add(honest.pid);
    expect(await attacker.line()).toBe('connected');
    expect(await honest.line()).toBe('connected');
    await until(() => acceptor.counters().refused.some((row) => row.count === 5));
    expect(acceptor.counters().refused).toEqual([{ uid: 4001, cause: 'connections', count: 5 }]);
    expect(taken.map(({ peer }) => peer.uid).toSorted((a, b) => a - b)).toEqual([4001, 4001, 4002, 4002]);
    for (const program of [attacker, honest]) {
      program.child.stdin?.end();
      await program.gone;
    }
    await until(() => acceptor.counters().live === 0);
  });

  it('T-A20 waits without spinning when descriptors run out, and takes up again', async () => {
    const host = await startHost(path, {}, ['/bin/sh', '-c', 'ulimit -n 64; exec "$@"', 'sh']);
    const clients: Socket[] = [];
    for (let n = 0; n < 60; n += 1) clients.push(connect(path).on('error', () => undefined).resume());
    let state = await host.ask();
    while (!host.events.includes('paused')) state = await host.ask();
    const short = state.accepted;
    expect(short).toBeLessThan(60);
    const began = process.hrtime.bigint();
    const cpuBefore = (await host.ask()).cpu;
    await systemClock.sleep(1000);
    const cpuAfter = (await host.ask()).cpu;
    const tookUs = Number(process.hrtime.bigint() - began) / 1000;
    const spentUs = cpuAfter.user + cpuAfter.system - cpuBefore.user - cpuBefore.system;
    expect(spentUs / tookUs).toBeLessThan(0.3);
    expect((await host.ask()).live).toBeGreaterThan(0);
    for (const client of clients.slice(0, 55)) client.destroy();
    while (state.accepted < 60) state = await host.ask();
    expect(host.events).toContain('resumed');
    for (const client of clients) client.destroy();
    while (state.live > 0) state = await host.ask();
    await host.end();
  });

  it.skipIf(!deprived)('T-A21 without CAP_SYS_PTRACE, other users’ processes are refused (needs root, setpriv)', async () => {
    const host = await startHost(path, {}, ['setpriv', '--bounding-set=-sys_ptrace']);
    const stranger = startProgram([process.execPath, '-e', dialScript, path, '3'], { uid: 4001, gid: 4001 });
    strays.add(stranger.pid);
    expect(await stranger.line()).toBe('connected');
    let state = await host.ask();
    while (state.refused[0]?.count !== 3) state = await host.ask();
    expect(state).toMatchObject({ accepted: 0, refused: [{ uid: 4001, cause: 'image-hidden', count: 3 }] });
    stranger.child.stdin?.end();
    await stranger.gone;
    await host.end();
  });

  it('does not keep a process from exiting', async () => {
    const host = await startHost(path);
    await host.end();
    expect(host.child.exitCode).toBe(0);
  });
});
