import { spawnSync } from 'node:child_process';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { busCall, connectDbus } from '../../../../../agent/workload/attestors/systemd/dbus.ts';
import type { DbusCall, DbusConnection, DbusOptions } from '../../../../../agent/workload/attestors/systemd/dbus.ts';
import type { Message } from '../../../../../agent/workload/attestors/systemd/wire.ts';
import { effectiveUid } from '../../../../../runtime/linux.ts';
import { SpiffeError } from '../../../../../spiffe/errors.ts';
import { createTestClock } from '../../../../help/clock.ts';
import type { TestClock } from '../../../../help/clock.ts';
import { startSystemd, systemdName, wire } from '../../../../help/dbus.ts';
import type { Call, FakeSystemd } from '../../../../help/dbus.ts';

const forever = new AbortController().signal;
const done = new SpiffeError('unavailable', 'test.done', 'done');

let directory: string;
let socketPath: string;
let clock: TestClock;
let signals: Message[];
let fakes: FakeSystemd[];
let connections: DbusConnection[];
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'steeple-dbus-'));
  socketPath = join(directory, 'bus');
  clock = createTestClock();
  [signals, fakes, connections] = [[], [], []];
});
afterEach(async () => {
  for (const connection of connections) connection.close(done);
  await Promise.all(fakes.map((fake) => fake.stop()));
  await rm(directory, { recursive: true, force: true });
});

async function systemd(type: 'bus' | 'private' = 'bus', little = true): Promise<FakeSystemd> {
  const fake = await startSystemd({ type, socketPath, little });
  fakes.push(fake);
  return fake;
}

async function connect(more: Partial<DbusOptions> = {}, signal = forever): Promise<DbusConnection> {
  const all: DbusOptions = {
    clock,
    socketPath,
    bus: true,
    trustedUid: effectiveUid(),
    deadlineMs: 1_000,
    onSignal: (message) => signals.push(message),
    ...more,
  };
  const connection = await connectDbus(all, signal);
  connections.push(connection);
  return connection;
}

const unitOf = (pid: number): DbusCall => ({
  destination: ':1.1',
  path: '/org/freedesktop/systemd1',
  interface: `${systemdName}.Manager`,
  member: 'GetUnitByPID',
  signature: 'u',
  body: [pid],
  answer: 'o',
});

const refused = (kind: string, reason: string): unknown => expect.objectContaining({ kind, reason });
const descriptors = async (): Promise<number> => (await readdir('/proc/self/fd')).length;

describe('connecting', () => {
  it.each([true, false])('authenticates, gets a name from the bus, and calls (little-endian: %s)', async (little) => {
    const fake = await systemd('bus', little);
    fake.units.set(7, { id: 'nginx.service', fragmentPath: '' });
    const connection = await connect();
    expect(await connection.call(unitOf(7), forever)).toEqual({ values: ['/org/freedesktop/systemd1/unit/nginx_2eservice'] });
    expect(await connection.call(unitOf(8), forever)).toEqual({ error: `${systemdName}.NoUnitForPID` });
    expect(fake.asked('Hello')).toBe(1);
    expect(signals.map(({ member }) => member)).toEqual(['NameAcquired']);
  });

  it('gets no name where there is no bus', async () => {
    const fake = await systemd('private');
    fake.units.set(7, { id: 'nginx.service', fragmentPath: '' });
    const connection = await connect({ bus: false });
    expect(await connection.call({ ...unitOf(7), destination: undefined }, forever)).toHaveProperty('values');
    expect(fake.asked('Hello')).toBe(0);
  });

  it('to no socket, or to a file, is refused', async () => {
    await expect(connect()).rejects.toEqual(refused('unavailable', 'dbus.unreachable'));
    await writeFile(socketPath, '');
    await expect(connect()).rejects.toEqual(refused('unavailable', 'dbus.unreachable'));
    await expect(connect({ socketPath: `/${'x'.repeat(200)}` })).rejects.toEqual(refused('unavailable', 'dbus.unreachable'));
  });

  it('T-A14 to another user’s socket is refused before a byte is said', async () => {
    const fake = await systemd();
    await expect(connect({ trustedUid: effectiveUid() + 1 })).rejects.toEqual(refused('denied', 'dbus.untrusted'));
    expect(fake.asked('AUTH') + fake.asked('Hello')).toBe(0);
  });

  it.each([
    ['a refusal', 'REJECTED EXTERNAL\r\n', 'dbus.refused'],
    ['an error', 'ERROR "no"\r\n', 'dbus.refused'],
    ['a challenge', 'DATA\r\n', 'dbus.refused'],
    ['an acceptance without a name', 'OK\r\n', 'dbus.refused'],
    ['more than it was asked for', `OK ${'0'.repeat(32)}\r\nAGREE_UNIX_FD\r\n`, 'dbus.broken'],
    ['a line without end', 'O'.repeat(1_025), 'dbus.broken'],
  ])('to who answers authentication with %s fails', async (_what, line, reason) => {
    const fake = await systemd();
    fake.instead.set('AUTH', () => Buffer.from(line));
    await expect(connect()).rejects.toEqual(refused('unavailable', reason));
  });

  it('to a bus that gives no name fails', async () => {
    const fake = await systemd();
    fake.instead.set('Hello', (call) => fake.refuse({ ...call, destination: 'org.freedesktop.DBus' }, 'org.freedesktop.DBus.Error.LimitsExceeded'));
    await expect(connect()).rejects.toEqual(refused('unavailable', 'dbus.refused'));
  });

  it.each(['AUTH', 'Hello'])('to who is silent after %s ends with its deadline', async (member) => {
    const fake = await systemd();
    fake.instead.set(member, () => undefined);
    const outcome = connect().catch((error: unknown) => error);
    await clock.runUntil(() => fake.connections === 1 && (member === 'AUTH' || fake.asked('Hello') === 1), 0);
    await clock.advance(1_000);
    expect(await outcome).toEqual(refused('unavailable', 'dbus.deadline'));
    await clock.runUntil(() => fake.connections === 0);
    expect(clock.sleepers).toBe(0);
  });

  it('is given up with the signal', async () => {
    const fake = await systemd();
    fake.instead.set('AUTH', () => undefined);
    const stop = new AbortController();
    const outcome = connect({}, stop.signal).catch((error: unknown) => error);
    await clock.runUntil(() => fake.connections === 1, 0);
    stop.abort(done);
    expect(await outcome).toBe(done);
    await clock.runUntil(() => fake.connections === 0);
    expect(clock.sleepers).toBe(0);
  });
});

describe('calls', () => {
  let fake: FakeSystemd;
  let connection: DbusConnection;
  beforeEach(async () => {
    fake = await systemd();
    for (let pid = 1; pid <= 500; pid += 1) fake.units.set(pid, { id: `u${String(pid)}.service`, fragmentPath: '' });
    connection = await connect();
  });
  const pathOf = (pid: number): string => `/org/freedesktop/systemd1/unit/u${String(pid)}_2eservice`;

  it('many at once each get their own answer, whatever its order', async () => {
    const held: Buffer[] = [];
    let most = 0;
    fake.instead.set('GetUnitByPID', (call) => {
      held.push(fake.answer(call, 'o', pathOf(call.number)));
      most = Math.max(most, held.length);
      // Answers come in handfuls, the last first, as soon as all that may be asked at once is asked.
      return call.number === 500 || held.length === 64 ? Buffer.concat(held.splice(0).toReversed()) : undefined;
    });
    const pids = Array.from({ length: 500 }, (_, index) => index + 1);
    const answers = await Promise.all(pids.map((pid) => connection.call(unitOf(pid), forever)));
    expect(answers).toEqual(pids.map((pid) => ({ values: [pathOf(pid)] })));
    expect(most).toBe(64);
    expect(clock.sleepers).toBe(0);
  });

  it('beyond a bound are refused', async () => {
    fake.instead.set('GetUnitByPID', () => undefined);
    const outcomes = Array.from({ length: 64 + 4_096 }, () => connection.call(unitOf(1), forever).catch((error: unknown) => error));
    await expect(connection.call(unitOf(1), forever)).rejects.toEqual(refused('unavailable', 'dbus.busy'));
    connection.close(done);
    expect(new Set(await Promise.all(outcomes))).toEqual(new Set([done]));
    expect(clock.sleepers).toBe(0);
  });

  it('that nobody waits for any more are not asked, and their answers ignored', async () => {
    const held: Call[] = [];
    fake.instead.set('GetUnitByPID', (call) => void held.push(call));
    const stop = new AbortController();
    const given = Array.from({ length: 70 }, () => connection.call(unitOf(1), stop.signal).catch((error: unknown) => error));
    await clock.runUntil(() => held.length === 64);
    stop.abort(done);
    expect(new Set(await Promise.all(given))).toEqual(new Set([done]));
    const outcome = connection.call(unitOf(2), forever);
    fake.instead.delete('GetUnitByPID');
    for (const call of held) fake.send(fake.answer(call, 'o', pathOf(9)));
    expect(await outcome).toEqual({ values: [pathOf(2)] });
    expect(fake.asked('GetUnitByPID')).toBe(65);
    expect(clock.sleepers).toBe(0);
  });

  it('that are not answered end the connection with their deadline', async () => {
    fake.instead.set('GetUnitByPID', () => undefined);
    const outcomes = [1, 2].map((pid) => connection.call(unitOf(pid), forever).catch((error: unknown) => error));
    await clock.advance(999);
    expect(connection.over.aborted).toBe(false);
    await clock.advance(1);
    for (const outcome of await Promise.all(outcomes)) expect(outcome).toEqual(refused('unavailable', 'dbus.deadline'));
    expect(connection.over.reason).toEqual(refused('unavailable', 'dbus.deadline'));
    await expect(connection.call(unitOf(1), forever)).rejects.toEqual(refused('unavailable', 'dbus.deadline'));
  });

  it('that wait their turn have their deadline from then on', async () => {
    const held: Call[] = [];
    fake.instead.set('GetUnitByPID', (call) => void held.push(call));
    const pids = Array.from({ length: 300 }, (_, index) => index + 1);
    const answers = Promise.all(pids.map((pid) => connection.call(unitOf(pid), forever)));
    for (let answered = 0; answered < pids.length; ) {
      await clock.runUntil(() => held.length === Math.min(64, pids.length - answered), 0);
      await clock.advance(900);
      answered += held.length;
      for (const call of held.splice(0)) fake.send(fake.answer(call, 'o', pathOf(call.number)));
    }
    expect(await answers).toEqual(pids.map((pid) => ({ values: [pathOf(pid)] })));
  });

  it('that are answered byte by byte are answered', async () => {
    fake.instead.set('GetUnitByPID', (call) => {
      const bytes = fake.answer(call, 'o', pathOf(1));
      void (async () => {
        for (const byte of bytes) {
          fake.send(Buffer.of(byte));
          await clock.settle();
        }
      })();
      return undefined;
    });
    expect(await connection.call(unitOf(1), forever)).toEqual({ values: [pathOf(1)] });
  });

  it('whose answer stops in the middle end with their deadline', async () => {
    fake.instead.set('GetUnitByPID', (call) => fake.answer(call, 'o', pathOf(1)).subarray(0, -3));
    const outcome = connection.call(unitOf(1), forever).catch((error: unknown) => error);
    await clock.runUntil(() => fake.asked('GetUnitByPID') === 1);
    await clock.advance(1_000);
    expect(await outcome).toEqual(refused('unavailable', 'dbus.deadline'));
  });

  it('whose answer is of another type are refused, and the connection goes on', async () => {
    fake.instead.set('GetUnitByPID', (call) => fake.answer(call, 's', 'x'));
    await expect(connection.call(unitOf(1), forever)).rejects.toEqual(refused('invalid', 'dbus.type'));
    fake.instead.set('GetUnitByPID', (call) => fake.answer(call));
    await expect(connection.call(unitOf(1), forever)).rejects.toEqual(refused('invalid', 'dbus.type'));
    fake.instead.delete('GetUnitByPID');
    expect(await connection.call(unitOf(1), forever)).toHaveProperty('values');
  });

  it.each<[string, (call: Call) => Buffer]>([
    ['a reply to another question', (call) => wire({ fields: [[5, 'u', call.serial + 1000], [7, 's', ':1.1']], signature: 'o', body: ['/forged'] })],
    ['a reply to none', () => wire({ fields: [[7, 's', ':1.1']], signature: 'o', body: ['/forged'] })],
    ['a reply from somebody else on the bus', (call) => wire({ fields: [[5, 'u', call.serial], [7, 's', ':1.66']], signature: 'o', body: ['/forged'] })],
    ['a reply from nobody', (call) => wire({ fields: [[5, 'u', call.serial]], signature: 'o', body: ['/forged'] })],
    ['a reply in the name of the bus', (call) => wire({ fields: [[5, 'u', call.serial], [7, 's', 'org.freedesktop.DBus']], signature: 'o', body: ['/forged'] })],
    ['a message of no known type', (call) => wire({ type: 9, fields: [[5, 'u', call.serial], [7, 's', ':1.1']], signature: 'o', body: ['/forged'] })],
    ['a call to us', (call) => wire({ type: 1, fields: [[5, 'u', call.serial], [1, 'o', '/'], [3, 's', 'Ping'], [7, 's', ':1.1']] })],
  ])('T-A16 are not answered by %s', async (_what, forged) => {
    fake.instead.set('GetUnitByPID', (call) => Buffer.concat([forged(call), fake.answer(call, 'o', pathOf(1))]));
    expect(await connection.call(unitOf(1), forever)).toEqual({ values: [pathOf(1)] });
  });

  it('learn from the bus that the service is gone', async () => {
    fake.owner = undefined;
    expect(await connection.call(unitOf(1), forever)).toEqual({ error: 'org.freedesktop.DBus.Error.ServiceUnknown' });
    expect(await connection.call(busCall('GetNameOwner', 's', systemdName), forever)).toEqual({ error: 'org.freedesktop.DBus.Error.NameHasNoOwner' });
  });

  it.each<[string, (call: Call) => Buffer]>([
    ['bytes that are no message', () => Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')],
    ['a message that is malformed', () => wire({ serial: 0 })],
    ['4 GB announced', () => wire({}).fill(0xff, 4, 8)],
    ['2 MB', (call) => fake.answer(call, 's', 'x'.repeat(2 * 1024 * 1024))],
  ])('T-A16 end the connection at once on %s', async (_what, bytes) => {
    fake.instead.set('GetUnitByPID', bytes);
    await expect(connection.call(unitOf(1), forever)).rejects.toEqual(refused('unavailable', 'dbus.broken'));
    expect(connection.over.aborted).toBe(true);
  });

  it('end with the connection, when the other side closes it', async () => {
    fake.instead.set('GetUnitByPID', () => {
      fake.hangUp();
      return undefined;
    });
    await expect(connection.call(unitOf(1), forever)).rejects.toEqual(refused('unavailable', 'dbus.broken'));
    expect(clock.sleepers).toBe(0);
  });

  it('a large answer within the bound is taken', async () => {
    fake.instead.set('GetUnitByPID', (call) => fake.answer(call, 's', 'x'.repeat(1024 * 1024 - 200)));
    const { values } = (await connection.call({ ...unitOf(1), answer: 's' }, forever)) as { values: string[] };
    expect(values[0]?.length).toBe(1024 * 1024 - 200);
  });
});

it('T-A19 a thousand connections, good and bad, leave no descriptor', async () => {
  const fake = await systemd();
  const before = await descriptors();
  for (let round = 0; round < 200; round += 1) {
    (await connect()).close(done);
    await connect({ trustedUid: effectiveUid() + 1 }).catch(() => undefined);
    await connect({ socketPath: `${socketPath}.gone` }).catch(() => undefined);
    fake.instead.set('AUTH', () => Buffer.from('REJECTED\r\n'));
    await connect().catch(() => undefined);
    fake.instead.set('AUTH', () => Buffer.from('nonsense'.repeat(200)));
    await connect().catch(() => undefined);
    fake.instead.delete('AUTH');
  }
  await clock.runUntil(() => fake.connections === 0);
  expect(await descriptors()).toBeLessThanOrEqual(before);
  expect(clock.sleepers).toBe(0);
});

it('T-A20 without a descriptor left, that is the reason', () => {
  const from = (file: string): string => JSON.stringify(new URL(`../../../../../${file}`, import.meta.url).href);
  const program = `
    import { openSync } from 'node:fs';
    import { connectDbus } from ${from('agent/workload/attestors/systemd/dbus.ts')};
    import { systemClock } from ${from('runtime/clock.ts')};
    const options = { clock: systemClock, socketPath: '/nowhere', bus: true, trustedUid: 0, deadlineMs: 1000, onSignal() {} };
    const told = () => connectDbus(options, new AbortController().signal).catch(({ kind, reason, detail }) => console.log(kind, reason, detail.code));
    await told();
    try { for (;;) openSync('/dev/null'); } catch {}
    await told();`;
  const { stdout } = spawnSync('sh', ['-c', 'ulimit -n 64 && exec "$0" --input-type=module -e "$1"', process.execPath, program], { encoding: 'utf8' });
  expect(stdout).toBe('unavailable dbus.unreachable ENOENT\nunavailable dbus.unreachable EMFILE\n');
});
