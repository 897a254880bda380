import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createUnits } from '../../../../../agent/workload/attestors/systemd/units.ts';
import type { Units, UnitsOptions } from '../../../../../agent/workload/attestors/systemd/units.ts';
import { effectiveUid } from '../../../../../runtime/linux.ts';
import { SpiffeError } from '../../../../../spiffe/errors.ts';
import { createTestClock } from '../../../../help/clock.ts';
import type { TestClock } from '../../../../help/clock.ts';
import { objectPathOf, startSystemd, systemdName } from '../../../../help/dbus.ts';
import type { FakeSystemd } from '../../../../help/dbus.ts';

const forever = new AbortController().signal;
const nginx = { id: 'nginx.service', fragmentPath: '/usr/lib/systemd/system/nginx.service' };
const apache = { id: 'apache.service', fragmentPath: '/etc/systemd/system/apache.service' };

let directory: string;
let socketPath: string;
let clock: TestClock;
let fakes: FakeSystemd[];
let all: Units[];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'steeple-units-'));
  socketPath = join(directory, 'bus');
  clock = createTestClock();
  [fakes, all] = [[], []];
});
afterEach(async () => {
  for (const units of all) units.close();
  await Promise.all(fakes.map((fake) => fake.stop()));
  await rm(directory, { recursive: true, force: true });
});

async function systemd(type: 'bus' | 'private' = 'bus'): Promise<FakeSystemd> {
  const fake = await startSystemd({ type, socketPath });
  fake.units.set(1, nginx);
  fake.units.set(2, apache);
  fakes.push(fake);
  return fake;
}

function ask(type: 'bus' | 'private' = 'bus', more: Partial<UnitsOptions> = {}): Units {
  const units = createUnits({
    clock,
    random: () => 0.5,
    address: { type, socketPath },
    trustedUid: effectiveUid(),
    deadlineMs: 1_000,
    ...more,
  });
  all.push(units);
  return units;
}

const refused = (kind: string, reason: string): unknown => expect.objectContaining({ kind, reason });
const failure = (units: Units, pid = 1): Promise<unknown> => units.ofProcess(pid, forever).then(() => 'an answer', (error: unknown) => error);

describe.each(['bus', 'private'] as const)('on a %s socket', (type) => {
  it('units are found by process, and asked what they are once', async () => {
    const fake = await systemd(type);
    const units = ask(type);
    expect(await units.ofProcess(1, forever)).toEqual(nginx);
    expect(await units.ofProcess(1, forever)).toEqual(nginx);
    expect(await units.ofProcess(2, forever)).toEqual(apache);
    expect(await units.ofProcess(3, forever)).toBeUndefined();
    expect([fake.asked('GetUnitByPID'), fake.asked('Get'), fake.asked('Subscribe'), fake.connections]).toEqual([4, 4, 1, 1]);
  });

  it('many who ask at once share the connection and the answers', async () => {
    const fake = await systemd(type);
    const units = ask(type);
    const answers = await Promise.all(Array.from({ length: 300 }, () => units.ofProcess(1, forever)));
    expect(new Set(answers.map((answer) => JSON.stringify(answer)))).toEqual(new Set([JSON.stringify(nginx)]));
    expect([fake.asked('GetUnitByPID'), fake.asked('Get'), fake.asked('Subscribe'), fake.connections]).toEqual([300, 2, 1, 1]);
  });

  it('what is known is forgotten when systemd reads its units anew, and told once it has', async () => {
    const fake = await systemd(type);
    const units = ask(type);
    await units.ofProcess(1, forever);
    const before = units.changes.value;
    fake.signal('Reloading', 'b', [true]);
    await units.ofProcess(1, forever);
    expect([fake.asked('Get'), units.changes.value]).toEqual([4, before]);
    const moved = { ...nginx, fragmentPath: '/etc/systemd/system/nginx.service' };
    fake.units.set(1, moved);
    fake.signal('Reloading', 'b', [false]);
    await clock.runUntil(() => units.changes.value !== before);
    expect(await units.ofProcess(1, forever)).toEqual(moved);
  });

  it('a unit that is removed is forgotten alone', async () => {
    const fake = await systemd(type);
    const units = ask(type);
    await units.ofProcess(1, forever);
    await units.ofProcess(2, forever);
    fake.signal('UnitRemoved', 'so', [nginx.id, objectPathOf(nginx.id)]);
    fake.units.set(1, { ...nginx, fragmentPath: '/run/systemd/transient/nginx.service' });
    expect(await units.ofProcess(1, forever)).toHaveProperty('fragmentPath', '/run/systemd/transient/nginx.service');
    expect(await units.ofProcess(2, forever)).toEqual(apache);
    expect(fake.asked('Get')).toBe(6);
  });
});

describe('what may be believed', () => {
  it('T-A16 nobody else on the bus is heard', async () => {
    const fake = await systemd();
    const units = ask();
    await units.ofProcess(1, forever);
    const before = units.changes.value;
    const manager = `${systemdName}.Manager`;
    fake.signal('Reloading', 'b', [false], { sender: ':1.66', interface: manager });
    fake.signal('UnitRemoved', 'so', [nginx.id, objectPathOf(nginx.id)], { sender: systemdName, interface: manager });
    fake.signal('NameOwnerChanged', 'sss', [systemdName, ':1.1', ''], { sender: ':1.66', interface: 'org.freedesktop.DBus' });
    fake.signal('NameOwnerChanged', 'sss', ['org.example', ':1.4', ''], { sender: 'org.freedesktop.DBus', interface: 'org.freedesktop.DBus' });
    await units.ofProcess(1, forever);
    expect([units.changes.value, fake.asked('Get'), fake.connections]).toEqual([before, 2, 1]);
  });

  it('T-A16 another user’s program is not systemd, whatever its name', async () => {
    const fake = await systemd();
    fake.owner = { uid: effectiveUid() + 1 };
    expect(await failure(ask())).toEqual(refused('denied', 'systemd.untrusted'));
    expect(fake.asked('GetUnitByPID')).toBe(0);
    await clock.runUntil(() => fake.connections === 0);
  });

  it.each<[string, 'GetUnitByPID' | 'Get', string, (string | readonly [string, string])[]]>([
    ['a unit that is a text', 'GetUnitByPID', 's', ['/org/freedesktop/systemd1/unit/nginx_2eservice']],
    ['no unit', 'GetUnitByPID', '', []],
    ['a property that is no variant', 'Get', 's', ['nginx.service']],
    ['a property that is no text', 'Get', 'v', [['o', '/nginx']]],
  ])('T-A16 %s is refused, and not remembered', async (_what, member, signature, body) => {
    const fake = await systemd();
    fake.instead.set(member, (call) => fake.answer(call, signature, ...body));
    const units = ask();
    expect(await failure(units)).toEqual(refused('invalid', 'dbus.type'));
    fake.instead.clear();
    expect(await units.ofProcess(1, forever)).toEqual(nginx);
    expect(fake.connections).toBe(1);
  });

  it.each(['GetUnitByPID', 'Get', 'Subscribe', 'AddMatch', 'GetConnectionUnixUser'])('an error to %s is told by its name', async (member) => {
    const fake = await systemd();
    const name = 'org.freedesktop.DBus.Error.AccessDenied';
    fake.instead.set(member, (call) => fake.refuse(call, name));
    expect(await failure(ask())).toMatchObject({ kind: 'unavailable', reason: 'systemd.refused', detail: { error: name } });
  });
});

describe('when systemd cannot be asked', () => {
  it('on a bus without it, that is said until it is there', async () => {
    const fake = await systemd();
    fake.owner = undefined;
    const units = ask();
    expect(await failure(units)).toEqual(refused('unavailable', 'systemd.absent'));
    fake.owner = { uid: effectiveUid() };
    expect(await failure(units)).toEqual(refused('unavailable', 'systemd.absent'));
    await clock.advance(100);
    expect(await units.ofProcess(1, forever)).toEqual(nginx);
  });

  it('it is tried again ever more slowly', async () => {
    const units = ask();
    const triedAt: number[] = [];
    const beganAt = clock.monotonic();
    let last: unknown;
    while (triedAt.length < 9) {
      const error = await failure(units);
      expect(error).toEqual(refused('unavailable', 'dbus.unreachable'));
      if (error !== last) triedAt.push(clock.monotonic() - beganAt);
      last = error;
      await clock.advance(50);
    }
    expect(triedAt).toEqual([0, 100, 300, 700, 1_500, 3_100, 6_300, 11_300, 16_300]);
  });

  it('a lost connection is told, and made anew when somebody asks', async () => {
    const fake = await systemd();
    const units = ask();
    await units.ofProcess(1, forever);
    const before = units.changes.value;
    fake.units.set(1, { ...nginx, fragmentPath: '' });
    fake.hangUp();
    await clock.runUntil(() => units.changes.value !== before);
    expect(await failure(units)).toEqual(refused('unavailable', 'dbus.broken'));
    expect(fake.connections).toBe(0);
    await clock.advance(100);
    expect(await units.ofProcess(1, forever)).toHaveProperty('fragmentPath', '');
  });

  it('one that breaks again and again is not made anew at once', async () => {
    const fake = await systemd();
    const units = ask();
    fake.instead.set('GetUnitByPID', () => Buffer.from('nonsense'.repeat(3)));
    let made = 0;
    let last: unknown;
    const until = clock.monotonic() + 3_000;
    while (clock.monotonic() < until) {
      const error = await failure(units);
      if (error !== last) made += 1;
      last = error;
      await clock.advance(50);
    }
    expect(made).toBe(5);
  });

  it('one that lasted is made anew soon', async () => {
    const fake = await systemd();
    const units = ask();
    for (let round = 0; round < 6; round += 1) {
      expect(await units.ofProcess(1, forever)).toEqual(nginx);
      await clock.advance(10_000);
      const before = units.changes.value;
      fake.hangUp();
      await clock.runUntil(() => units.changes.value !== before);
      await clock.advance(100);
    }
  });

  it('another owner of the name is found anew', async () => {
    const fake = await systemd();
    const units = ask();
    await units.ofProcess(1, forever);
    const before = units.changes.value;
    fake.signal('NameOwnerChanged', 'sss', [systemdName, ':1.1', ':1.1'], { sender: 'org.freedesktop.DBus', interface: 'org.freedesktop.DBus' });
    await clock.runUntil(() => units.changes.value !== before);
    expect(await failure(units)).toEqual(refused('unavailable', 'systemd.gone'));
    await clock.advance(100);
    expect(await units.ofProcess(1, forever)).toEqual(nginx);
    expect(fake.asked('Subscribe')).toBe(2);
  });

  it('a silent one is given up with the deadline, and nothing waits for ever', async () => {
    const fake = await systemd();
    fake.instead.set('Subscribe', () => undefined);
    const units = ask();
    const outcomes = [failure(units), failure(units, 2)];
    await clock.runUntil(() => fake.asked('Subscribe') === 1, 0);
    await clock.advance(1_000);
    expect(await Promise.all(outcomes)).toEqual([refused('unavailable', 'dbus.deadline'), refused('unavailable', 'dbus.deadline')]);
    expect(clock.sleepers).toBe(0);
  });

  it('who stops waiting leaves the others theirs', async () => {
    const fake = await systemd();
    const units = ask();
    const stop = new AbortController();
    const gone = new SpiffeError('unavailable', 'test.gone', 'gone');
    const leaves = units.ofProcess(1, stop.signal).catch((error: unknown) => error);
    const stays = units.ofProcess(1, forever);
    stop.abort(gone);
    expect(await leaves).toBe(gone);
    expect(await stays).toEqual(nginx);
    expect(fake.connections).toBe(1);
  });
});

it('T-A09 what is remembered is bounded', async () => {
  const fake = await systemd();
  const units = ask();
  const remembered = 4_096;
  for (let pid = 1; pid <= remembered + 1; pid += 1) fake.units.set(pid, { id: `u${String(pid)}.service`, fragmentPath: '' });
  // The stand-in looks for a unit among all of them.
  fake.instead.set('Get', (call) => fake.answer(call, 'v', ['s', call.texts[1] === 'Id' ? call.path : '']));
  await units.ofProcess(1, forever);
  for (let pid = 1; pid <= remembered; pid += 64) await Promise.all(Array.from({ length: 64 }, (_, index) => units.ofProcess(pid + index, forever)));
  await units.ofProcess(1, forever);
  expect(fake.asked('Get')).toBe(2 * remembered);
  await units.ofProcess(remembered + 1, forever);
  await units.ofProcess(1, forever);
  expect(fake.asked('Get')).toBe(2 * remembered + 2);
  await units.ofProcess(2, forever);
  expect(fake.asked('Get')).toBe(2 * remembered + 4);
});

describe('closed', () => {
  it('nobody is left waiting or connected', async () => {
    const fake = await systemd();
    fake.instead.set('GetUnitByPID', () => undefined);
    const units = ask();
    const outcome = failure(units);
    await clock.runUntil(() => fake.asked('GetUnitByPID') === 1);
    units.close();
    expect(await outcome).toEqual(refused('unavailable', 'systemd.closed'));
    expect(await failure(units)).toEqual(refused('unavailable', 'systemd.closed'));
    await clock.runUntil(() => fake.connections === 0);
    expect(clock.sleepers).toBe(0);
  });

  it('while it connects', async () => {
    const fake = await systemd();
    fake.instead.set('AUTH', () => undefined);
    const units = ask();
    const outcome = failure(units);
    await clock.runUntil(() => fake.connections === 1);
    units.close();
    expect(await outcome).toEqual(refused('unavailable', 'systemd.closed'));
    await clock.runUntil(() => fake.connections === 0);
  });

  it('before anybody asked', async () => {
    const units = ask();
    units.close();
    expect(await failure(units)).toEqual(refused('unavailable', 'systemd.closed'));
  });
});
