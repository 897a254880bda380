import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { getPriority, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { bestPeerTier, listenUnix } from '../../runtime/acceptor.ts';
import type { Acceptor, AcceptorEvent, ListenOptions } from '../../runtime/acceptor.ts';
import { systemClock } from '../../runtime/clock.ts';
import type { Peer } from '../../runtime/peer.ts';
import { startHost } from '../help/processes.ts';

const roomy = { connectionsPerUid: 10_000, connectsPerSecondPerUid: 100_000, total: 10_000 };
const uid = process.geteuid?.() ?? -1;

let directory: string;
let path: string;
let acceptors: Acceptor[];
let taken: { readonly socket: Socket; readonly peer: Peer }[];
let events: AcceptorEvent[];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'steeple-acc-'));
  path = join(directory, 'a.sock');
  acceptors = [];
  taken = [];
  events = [];
});
afterEach(async () => {
  await Promise.all(acceptors.map((acceptor) => acceptor.stop()));
  await rm(directory, { recursive: true, force: true });
});

async function listen(more: Partial<ListenOptions> = {}): Promise<Acceptor> {
  const acceptor = await listenUnix({
    path,
    mode: 0o777,
    backlog: 4096,
    limits: roomy,
    clock: systemClock,
    onConnection: (socket, peer) => taken.push({ socket, peer }),
    onEvent: (event) => events.push(event),
    ...more,
  });
  acceptors.push(acceptor);
  return acceptor;
}

async function until(done: () => boolean): Promise<void> {
  while (!done()) await systemClock.sleep(2);
}

function niceness(thread: number): number {
  try {
    return getPriority(thread);
  } catch {
    // It ended meanwhile.
    return Number.POSITIVE_INFINITY;
  }
}

/** CAP_SYS_NICE, of the capabilities in effect. */
function mayBeUrgent(): boolean {
  const effective = /^CapEff:\s+([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  return ((BigInt(`0x${effective}`) >> 23n) & 1n) === 1n;
}

async function dial(): Promise<Socket> {
  const socket = connect(path);
  socket.on('error', () => undefined);
  await once(socket, 'connect');
  return socket;
}

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}

describe('listenUnix', () => {
  const tiers = ([1, 2, 3] as const).filter((tier) => tier >= bestPeerTier());

  it.each(tiers)('tier %i: hands over the connection with who made it', async (tier) => {
    const acceptor = await listen({ tier });
    expect(acceptor.tier).toBe(tier);
    const client = await dial();
    await until(() => taken.length === 1);
    const { socket, peer } = taken[0]!;
    expect(peer).toMatchObject({ pid: process.pid, uid, gid: process.getegid?.(), tier });
    expect(peer.stillTheSame()).toBe(true);
    expect(peer.exited()).toBe(false);
    expect(peer.signal.aborted).toBe(false);
    client.write('question');
    expect(String((await once(socket, 'data'))[0])).toBe('question');
    socket.end('answer');
    expect(String((await once(client, 'data'))[0])).toBe('answer');
    client.destroy();
    await until(() => peer.signal.aborted);
    expect(peer.signal.reason).toMatchObject({ kind: 'unavailable', reason: 'peer.closed' });
    expect(peer.stillTheSame()).toBe('peer.closed');
  });

  it('refuses a better tier than the kernel has', async () => {
    // Every kernel this runs on has some tier, so only the absence of the best can be shown where it is absent.
    if (bestPeerTier() === 1) return;
    await expect(listen({ tier: 1 })).rejects.toMatchObject({ kind: 'unsupported', reason: 'acceptor.tier' });
  });

  it('T-A09 closes what is over the limit of a user, and counts it exactly', async () => {
    const acceptor = await listen({ limits: { ...roomy, connectionsPerUid: 3 } });
    const clients = await Promise.all(Array.from({ length: 10 }, dial));
    await until(() => acceptor.counters().refused.length > 0);
    expect(taken).toHaveLength(3);
    expect(acceptor.counters()).toEqual({ live: 3, accepted: 3, refused: [{ uid, cause: 'connections', count: 7 }] });
    taken[0]!.socket.destroy();
    await until(() => acceptor.counters().live === 2);
    const late = await dial();
    await until(() => taken.length === 4);
    for (const client of [...clients, late]) client.destroy();
  });

  it('T-A10 closes what comes too fast', async () => {
    const acceptor = await listen({ limits: { ...roomy, connectsPerSecondPerUid: 5 } });
    for (let n = 0; n < 50; n += 1) (await dial()).destroy();
    const refused = (): number => acceptor.counters().refused.reduce((sum, one) => sum + one.count, 0);
    await until(() => refused() + taken.length === 50);
    const [row] = acceptor.counters().refused;
    expect(row).toMatchObject({ uid, cause: 'rate' });
    expect(taken.length).toBeGreaterThanOrEqual(5);
    expect(taken.length).toBeLessThan(50);
    expect(events.some((event) => event.kind === 'refused')).toBe(true);
  });

  it('T-A10 takes connections more urgently than other threads work, where that is allowed', async () => {
    const urgent = (): number => readdirSync('/proc/self/task').filter((thread) => niceness(Number(thread)) < niceness(process.pid)).length;
    const allowed = mayBeUrgent();
    const before = urgent();
    const acceptor = await listen();
    expect(urgent() - before).toBe(allowed ? 1 : 0);
    await acceptor.stop();
    expect(urgent()).toBe(before);
  });

  it('T-A19 leaves no descriptor behind after 2,000 connections, kept and refused', async () => {
    const host = await startHost(path, { connectionsPerUid: 4 });
    const before = await host.ask();
    const client = async (): Promise<void> => {
      for (let n = 0; n < 250; n += 1) {
        const socket = connect(path);
        socket.on('error', () => undefined);
        socket.on('connect', () => socket.end());
        socket.resume();
        await once(socket, 'close');
      }
    };
    await Promise.all(Array.from({ length: 8 }, client));
    let after = await host.ask();
    const seen = (): number => after.accepted + after.refused.reduce((sum, row) => sum + row.count, 0);
    while (seen() < 2000 || after.live > 0 || after.descriptors > before.descriptors + 5) after = await host.ask();
    expect(seen()).toBe(2000);
    expect(after.accepted).toBeGreaterThan(0);
    await host.end();
  });

  it('leaves no descriptor and no file behind when it cannot start', async () => {
    await listen({ onConnection: (socket) => void socket.resume() });
    const held = (): number => readdirSync('/proc/self/fd').filter((fd) => linkOf(fd).startsWith(directory)).length;
    const running = held();
    expect(running).toBe(1);
    for (let n = 0; n < 5; n += 1) await expect(listen()).rejects.toMatchObject({ reason: 'acceptor.path.in-use' });
    expect(held()).toBe(running);
    expect(await readdir(directory)).toEqual(['a.sock']);
  });

  it('ends connections, name and thread at stop, however often it is asked', async () => {
    const acceptor = await listen();
    const clients = await Promise.all(Array.from({ length: 20 }, dial));
    await until(() => taken.length === 20);
    const closed = clients.map((client) => once(client.resume(), 'close'));
    await Promise.all([acceptor.stop(), acceptor.stop()]);
    await Promise.all(closed);
    expect(taken.every(({ socket, peer }) => socket.destroyed && peer.signal.aborted)).toBe(true);
    expect(await acceptor.ended).toBeUndefined();
    expect(await readdir(directory)).toEqual([]);
  });

  it('keeps open connections watched after it stopped listening', async () => {
    const acceptor = await listen();
    const client = await dial();
    await until(() => taken.length === 1);
    acceptor.closeListener();
    expect(await readdir(directory)).toEqual([]);
    await expect(dial()).rejects.toMatchObject({ code: 'ENOENT' });
    const { socket, peer } = taken[0]!;
    expect(peer.stillTheSame()).toBe(true);
    client.write('still here');
    expect(String((await once(socket, 'data'))[0])).toBe('still here');
    client.destroy();
    await until(() => peer.signal.aborted);
  });

  it('two sockets in one process know their own connections', async () => {
    const other = join(directory, 'b.sock');
    const onOther: Peer[] = [];
    await listen();
    await listen({ path: other, onConnection: (socket, peer) => void (socket.destroy(), onOther.push(peer)) });
    const client = await dial();
    await until(() => taken.length === 1);
    expect(onOther).toHaveLength(0);
    client.destroy();
  });
});
