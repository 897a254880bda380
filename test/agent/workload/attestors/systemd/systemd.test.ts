import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createAttest, followAttestation } from '../../../../../agent/workload/attest.ts';
import type { WantedSelectors } from '../../../../../agent/workload/attestor.ts';
import { placeOf } from '../../../../../agent/workload/attestors/systemd/place.ts';
import { createSystemdAttestor } from '../../../../../agent/workload/attestors/systemd/systemd.ts';
import type { SystemdAttestor, SystemdAttestorOptions } from '../../../../../agent/workload/attestors/systemd/systemd.ts';
import { parseCgroups, readCgroups } from '../../../../../agent/workload/cgroup.ts';
import type { CgroupLine } from '../../../../../agent/workload/cgroup.ts';
import { systemClock } from '../../../../../runtime/clock.ts';
import type { Clock } from '../../../../../runtime/clock.ts';
import { effectiveUid } from '../../../../../runtime/linux.ts';
import type { Peer } from '../../../../../runtime/peer.ts';
import { composeSelector } from '../../../../../spiffe/selector.ts';
import { createWatch } from '../../../../../runtime/watch.ts';
import type { Watch } from '../../../../../runtime/watch.ts';
import { createTestClock } from '../../../../help/clock.ts';
import { startSystemd, systemdName } from '../../../../help/dbus.ts';
import type { FakeSystemd } from '../../../../help/dbus.ts';
import { fakePeer, peerOfProcess } from '../../../../help/peer.ts';
import type { FakePeer } from '../../../../help/peer.ts';

const forever = new AbortController().signal;
const nothing: WantedSelectors = { asks: () => false };
const nginx = { id: 'nginx.service', fragmentPath: '/usr/lib/systemd/system/nginx.service' };

let directory: string;
let fake: FakeSystemd;
let peer: FakePeer;
/** Where the kernel has the peer. */
let cgroup: string;
let attestors: SystemdAttestor[];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'steeple-systemd-'));
  fake = await startSystemd({ type: 'bus', socketPath: join(directory, 'bus') });
  peer = fakePeer();
  cgroup = '/system.slice/nginx.service';
  fake.units.set(peer.pid, nginx);
  attestors = [];
});
afterEach(async () => {
  await Promise.all(attestors.map((attestor) => attestor.stop()));
  await fake.stop();
  await rm(directory, { recursive: true, force: true });
});

function attestor(clock: Clock = systemClock, more: Partial<SystemdAttestorOptions> = {}): SystemdAttestor {
  const one = createSystemdAttestor({
    clock,
    random: () => 0.5,
    address: { type: 'bus', socketPath: join(directory, 'bus') },
    trustedUid: effectiveUid(),
    cgroupsOf: () => parseCgroups(`0::${cgroup}\n`),
    ...more,
  });
  attestors.push(one);
  return one;
}

interface Facts {
  readonly selectors: readonly string[];
  readonly omitted: Readonly<Record<string, string>>;
  readonly rechecks: readonly Watch<unknown>[];
}

async function attest(one: SystemdAttestor, of: Peer = peer): Promise<Facts> {
  const omitted: Record<string, string> = {};
  const rechecks: Watch<unknown>[] = [];
  const selectors = await one.attest(of, {
    wanted: nothing,
    signal: forever,
    omit: (what, reason) => void (omitted[what] = reason),
    recheck: (watch) => rechecks.push(watch),
  });
  return { selectors, omitted, rechecks };
}

const refused = (kind: string, reason: string): unknown => expect.objectContaining({ kind, reason });

describe('a process of a unit', () => {
  it('has its id and file as SPIRE writes them, and its slices', async () => {
    const { selectors, omitted } = await attest(attestor());
    expect(selectors).toEqual([
      'systemd:id:nginx.service',
      'systemd:fragment_path:/usr/lib/systemd/system/nginx.service',
      'systemd:slice:system.slice',
    ]);
    expect(omitted).toEqual({});
  });

  it('without a file has an empty path, as SPIRE gives it', async () => {
    cgroup = '/init.scope';
    fake.units.set(peer.pid, { id: 'init.scope', fragmentPath: '' });
    expect((await attest(attestor())).selectors).toEqual(['systemd:id:init.scope', 'systemd:fragment_path:']);
  });

  it.each(['relative.service', '/a\nb', '/a\u2028b', `/${'x'.repeat(4_096)}`])('T-A15 keeps its id when its file is %j', async (fragmentPath) => {
    fake.units.set(peer.pid, { ...nginx, fragmentPath: Buffer.from(fragmentPath).toString('latin1') });
    const { selectors, omitted } = await attest(attestor());
    expect(selectors).toEqual(['systemd:id:nginx.service', 'systemd:slice:system.slice']);
    expect(omitted).toEqual({ 'systemd:fragment_path': 'systemd.fragment-path.form' });
  });

  it('of a user’s service manager is of the user, whatever its own unit is called', async () => {
    cgroup = '/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service';
    fake.units.set(peer.pid, { id: 'user@1000.service', fragmentPath: '/usr/lib/systemd/system/user@.service' });
    expect((await attest(attestor())).selectors).toEqual([
      'systemd:id:user@1000.service',
      'systemd:fragment_path:/usr/lib/systemd/system/user@.service',
      'systemd:slice:user.slice',
      'systemd:slice:user-1000.slice',
    ]);
  });

  it('in a container below no unit is in the slice', async () => {
    cgroup = '/kubepods.slice/0123';
    fake.units.set(peer.pid, { id: 'kubepods.slice', fragmentPath: '' });
    expect((await attest(attestor())).selectors).toContain('systemd:id:kubepods.slice');
  });

  it('may be this one, looked at through the kernel', async () => {
    const held = peerOfProcess(process.pid);
    try {
      const { unit } = placeOf(readCgroups(process.pid));
      fake.units.set(process.pid, { id: unit, fragmentPath: '' });
      const one = createSystemdAttestor({
        clock: systemClock,
        random: Math.random,
        address: { type: 'bus', socketPath: join(directory, 'bus') },
        trustedUid: effectiveUid(),
      });
      attestors.push(one);
      expect((await attest(one, held.peer)).selectors).toContain(`systemd:id:${unit}`);
    } finally {
      held.close();
    }
  });
});

describe('what is not believed', () => {
  it('a process in no unit has no selectors', async () => {
    fake.units.clear();
    expect((await attest(attestor())).selectors).toEqual([]);
  });

  it.each([
    ['another unit', '/system.slice/apache.service'],
    ['a unit made up below a user’s manager', '/user.slice/user-1000.slice/user@1000.service/nginx.service'],
    ['a unit made up below a service', '/system.slice/ci.service/nginx.service'],
    ['a container’s group', '/docker/0123'],
    ['a group of another namespace', '/../system.slice/nginx.service'],
    ['no group', '/'],
  ])('T-A07 systemd’s word when the kernel has the process in %s', async (_what, path) => {
    cgroup = path;
    await expect(attest(attestor())).rejects.toEqual(refused('denied', 'systemd.mismatch'));
  });

  it('T-A07 two hierarchies that disagree', async () => {
    const lines = (): readonly CgroupLine[] => parseCgroups('1:name=systemd:/system.slice/nginx.service\n0::/system.slice/apache.service\n');
    await expect(attest(attestor(systemClock, { cgroupsOf: lines }))).rejects.toEqual(refused('denied', 'systemd.cgroup.ambiguous'));
  });

  it.each(['peer.exited', 'peer.image', 'peer.closed'] as const)('T-A01 an answer that came after %s', async (change) => {
    fake.instead.set('GetUnitByPID', (call) => {
      peer.become(change);
      fake.instead.clear();
      return fake.answer(call, 'o', '/org/freedesktop/systemd1/unit/nginx_2eservice');
    });
    await expect(attest(attestor())).rejects.toEqual(refused('denied', change));
  });

  it('T-A01 “no unit”, of a process that is gone', async () => {
    fake.units.clear();
    peer.become('peer.exited');
    await expect(attest(attestor())).rejects.toEqual(refused('denied', 'peer.exited'));
  });

  it('T-A19 a process that died between systemd’s look and ours', async () => {
    const child = spawn('/bin/sleep', ['60'], { stdio: 'ignore' });
    await once(child, 'spawn');
    const pid = child.pid ?? -1;
    const held = peerOfProcess(pid);
    try {
      fake.units.set(pid, nginx);
      const one = attestor(systemClock, { cgroupsOf: readCgroups });
      const exited = once(child, 'exit');
      child.kill('SIGKILL');
      await exited;
      await expect(attest(one, held.peer)).rejects.toEqual(refused('unavailable', 'cgroup.gone'));
    } finally {
      held.close();
    }
  });

  it('T-A14 a socket of somebody else', async () => {
    const one = attestor(systemClock, { trustedUid: effectiveUid() + 1 });
    await expect(attest(one)).rejects.toEqual(refused('denied', 'dbus.untrusted'));
  });
});

describe('while a stream lives', () => {
  async function* follow(one: SystemdAttestor, clock: ReturnType<typeof createTestClock>, signal: AbortSignal): AsyncIterableIterator<string[]> {
    const createdAttest = createAttest({ attestors: [one, { name: 'unix', attest: () => Promise.resolve([composeSelector('unix', 'uid:1000')]) }], clock });
    const wanted = createWatch(nothing);
    for await (const { selectors } of followAttestation({ attest: createdAttest, clock, random: () => 0.5 }, peer, wanted, signal)) yield [...selectors];
  }

  it('a unit’s new file is told at once, and an outage takes nothing away', async () => {
    const clock = createTestClock();
    const one = attestor(clock);
    const stop = new AbortController();
    const seen: string[][] = [];
    const following = (async () => {
      for await (const selectors of follow(one, clock, stop.signal)) seen.push(selectors.filter((selector) => selector.includes('fragment')));
    })();
    await clock.runUntil(() => seen.length === 1, 0);
    fake.units.set(peer.pid, { ...nginx, fragmentPath: '/etc/systemd/system/nginx.service' });
    fake.signal('Reloading', 'b', [true]);
    fake.signal('Reloading', 'b', [false]);
    // Without a jump of the clock: nobody waits for the minute to go by.
    await clock.runUntil(() => seen.length === 2, 0);
    expect(seen).toEqual([['systemd:fragment_path:/usr/lib/systemd/system/nginx.service'], ['systemd:fragment_path:/etc/systemd/system/nginx.service']]);

    const asked = fake.asked('GetUnitByPID');
    fake.instead.set('GetUnitByPID', (call) => {
      fake.hangUp();
      return fake.refuse(call, `${systemdName}.NoUnitForPID`);
    });
    fake.hangUp();
    await clock.runUntil(() => fake.asked('GetUnitByPID') >= asked + 2);
    expect(seen).toHaveLength(2);
    fake.instead.clear();
    fake.units.set(peer.pid, { ...nginx, fragmentPath: '/run/systemd/transient/nginx.service' });
    await clock.runUntil(() => seen.length === 3);
    expect(seen[2]).toEqual(['systemd:fragment_path:/run/systemd/transient/nginx.service']);
    stop.abort(new Error('over'));
    await following;
  });

  it('a process that is moved loses the unit’s selectors within the minute', async () => {
    const clock = createTestClock();
    const one = attestor(clock);
    const stop = new AbortController();
    const seen: string[][] = [];
    const following = (async () => {
      for await (const selectors of follow(one, clock, stop.signal)) seen.push(selectors);
    })();
    await clock.runUntil(() => seen.length === 1);
    const beganAt = clock.monotonic();
    cgroup = '/system.slice/apache.service';
    await clock.runUntil(() => seen.length === 2);
    expect(seen[1]).toEqual(['unix:uid:1000']);
    expect(clock.monotonic() - beganAt).toBeLessThanOrEqual(60_000);
    stop.abort(new Error('over'));
    await following;
  });

  it('hands over a watch that its stop ends', async () => {
    const one = attestor();
    const { rechecks } = await attest(one);
    expect(rechecks).toHaveLength(1);
    await one.stop();
    const values: unknown[] = [];
    for await (const value of rechecks[0]!.values(forever)) values.push(value);
    expect(values).toHaveLength(1);
  });
});

it('T-A19 a thousand attestations in an unsteady world leave no descriptor', async () => {
  const clock = createTestClock();
  const one = attestor(clock);
  await attest(one);
  const before = (await readdir('/proc/self/fd')).length;
  for (let round = 0; round < 1_000; round += 1) {
    if (round % 20 === 10) fake.hangUp();
    if (round % 20 === 15) await clock.advance(10_000);
    cgroup = round % 3 === 0 ? '/elsewhere.service' : '/system.slice/nginx.service';
    await attest(one).catch(() => undefined);
  }
  expect((await readdir('/proc/self/fd')).length).toBeLessThanOrEqual(before);
});
