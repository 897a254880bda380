import { afterEach, beforeEach, expect, it } from 'vitest';
import type { NumberedEvent } from '../../../agent/events/event.ts';
import { createReporter, type EventReceiver, type Inventory, type Reporter } from '../../../agent/events/report.ts';
import { memorySpool, type Spool } from '../../../agent/events/spool.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';

let clock: TestClock;
let spool: Spool;
let taken: NumberedEvent[];
let inventories: Inventory[];
let failure: SpiffeError | undefined;
let problems: string[];
let reporter: Reporter;
let stop: AbortController;
let over: Promise<unknown>;

const receiver: EventReceiver = {
  async report(_spool, events, inventory) {
    if (failure !== undefined) throw failure;
    taken.push(...events);
    if (inventory !== undefined) inventories.push(inventory);
    return events.at(-1)?.sequence ?? 0;
  },
};
const of = (uid: number) => ({ pid: 1, startTime: '1', uid, gid: 1, path: '' });

beforeEach(() => {
  clock = createTestClock();
  spool = memorySpool(10_000, () => clock.now());
  taken = [];
  inventories = [];
  problems = [];
  failure = undefined;
  stop = new AbortController();
  reporter = createReporter({ clock, random: () => 0.5, spool, receiver, inventory: Promise.resolve({ kernel: '6' }), perCaller: 10, windowMs: 10_000, onProblem: (error) => problems.push(error.reason) });
  over = reporter.run(stop.signal).catch((error: unknown) => error);
});

afterEach(async () => {
  stop.abort(new Error('the test is over'));
  await over;
});

it('hands events over in order, soon, and the inventory once', async () => {
  reporter.record({ kind: 'attested', process: of(1) });
  reporter.record({ kind: 'delivered', process: of(1), credential: '0a' });
  await clock.advance(1_000);
  expect(taken.map(({ sequence, kind }) => [sequence, kind])).toEqual([[1, 'attested'], [2, 'delivered']]);
  reporter.record({ kind: 'closed', process: of(1) });
  await clock.advance(1_000);
  expect(inventories).toEqual([{ kernel: '6' }]);
  expect(reporter.waiting).toBe(0);
});

it('keeps them while the server is away, and says so once', async () => {
  failure = new SpiffeError('unavailable', 'rpc.unreachable', 'away');
  for (let i = 0; i < 5; i += 1) reporter.record({ kind: 'attested', process: of(i) });
  await clock.advance(120_000);
  expect(reporter.waiting).toBe(5);
  expect(problems).toEqual(['report.failed']);
  failure = undefined;
  await clock.advance(120_000);
  expect(taken.length).toBe(5);
});

it('T-A09: samples the flood of one caller with an exact count, and leaves others alone', async () => {
  for (let i = 0; i < 5_000; i += 1) reporter.record({ kind: 'refused', process: of(1), reason: 'workload.no-identity' });
  for (let i = 0; i < 3; i += 1) reporter.record({ kind: 'refused', process: of(2), reason: 'workload.no-identity' });
  await clock.advance(20_000);
  const mine = taken.filter((event) => event.process?.uid === 1);
  expect(mine.filter(({ kind }) => kind === 'refused').length).toBe(10);
  expect(mine.filter(({ kind }) => kind === 'sampled')).toMatchObject([{ count: 4_990, reason: 'refused: workload.no-identity' }]);
  expect(taken.filter((event) => event.process?.uid === 2).length).toBe(3);
});

it('what a broker causes costs the users it acts for nothing, and of what it is given every single thing is on record', async () => {
  const behalf = (reference: string): { broker: string; reference: string } => ({ broker: 'spiffe://example.org/mesh', reference });
  for (let i = 0; i < 500; i += 1) {
    reporter.record({ kind: 'delivered', process: of(1), ...behalf(`pid:${String(i % 2)}`) });
    reporter.record({ kind: 'refused', process: of(1), reason: 'workload.no-identity', ...behalf(`pid:${String(i % 2)}`) });
  }
  for (let i = 0; i < 3; i += 1) reporter.record({ kind: 'refused', process: of(1), reason: 'workload.no-identity' });
  await clock.advance(20_000);
  expect(taken.filter(({ kind }) => kind === 'delivered').length).toBe(500);
  expect(taken.filter(({ kind, broker }) => kind === 'refused' && broker === '').length).toBe(3);
  const sampled = taken.filter(({ kind }) => kind === 'sampled');
  expect(sampled.map(({ reference, count }) => [reference, count])).toEqual([['pid:0', 245], ['pid:1', 245]]);
});

it('has what was taken on disk when it ends', async () => {
  failure = new SpiffeError('unavailable', 'rpc.unreachable', 'away');
  for (let i = 0; i < 15; i += 1) reporter.record({ kind: 'refused', process: of(1) });
  stop.abort(new Error('stopping'));
  await over;
  expect((await spool.oldest(100)).map(({ kind, count }) => [kind, count])).toEqual([...Array.from({ length: 10 }, () => ['refused', 1]), ['sampled', 5]]);
});

it('keeps nothing for a server that records no events', async () => {
  failure = new SpiffeError('unsupported', 'peer.unimplemented', 'unknown service');
  reporter.record({ kind: 'attested', process: of(1) });
  await clock.advance(5_000);
  reporter.record({ kind: 'attested', process: of(1) });
  await clock.advance(5_000);
  expect([reporter.waiting, problems]).toEqual([0, ['report.unsupported']]);
});

it('records again when the server has become one that takes events, after five minutes at most, and tells it the inventory', async () => {
  failure = new SpiffeError('unsupported', 'peer.unimplemented', 'unknown service');
  reporter.record({ kind: 'attested', process: of(1) });
  await clock.advance(600_000);
  expect(problems).toEqual(['report.unsupported']);
  inventories = [];
  failure = undefined;
  await clock.advance(300_000);
  expect([taken.length, inventories.length]).toEqual([0, 1]);
  reporter.record({ kind: 'delivered', process: of(1) });
  await clock.advance(1_000);
  expect(taken.map(({ kind }) => kind)).toEqual(['delivered']);
});
