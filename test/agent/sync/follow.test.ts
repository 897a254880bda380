import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createFollower, silenceMs, type Follower, type FollowCommand, type FollowHello, type FollowState, type FollowStep } from '../../../agent/sync/follow.ts';
import { createHoldings, noHoldings, type HoldingsOwner, type Position } from '../../../agent/sync/holdings.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { createWatch, type WatchSource } from '../../../runtime/watch.ts';
import { testEntry, trustDomain } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';

/** One end of a stream that a test speaks on. */
class Line {
  readonly hello: FollowHello;
  readonly confirmed: number[] = [];
  readonly signal: AbortSignal;
  readonly #steps: FollowStep[] = [];
  readonly #wake: WatchSource<number> = createWatch(0);
  #failure: Error | undefined;

  constructor(hello: FollowHello, signal: AbortSignal) {
    this.hello = hello;
    this.signal = signal;
  }

  say(...steps: readonly FollowStep[]): void {
    this.#steps.push(...steps);
    this.#wake.set(this.#wake.value + 1);
  }

  fail(error: Error): void {
    this.#failure = error;
    this.#wake.set(-1);
  }

  async *read(): AsyncGenerator<FollowStep> {
    for await (const _ of this.#wake.values(this.signal)) {
      for (let step = this.#steps.shift(); step !== undefined; step = this.#steps.shift()) yield step;
      if (this.#failure !== undefined) throw this.#failure;
    }
    throw this.signal.reason;
  }
}

let clock: TestClock;
let lines: Line[];
let holdings: HoldingsOwner;
let follower: Follower;
let states: FollowState[];
let commands: FollowCommand[];
let delivered: PromiseWithResolvers<void> | undefined;
let stop: AbortController;
let over: Promise<unknown>;

const at = (revision: number, epoch = 'e'): Position => ({ epoch, revision });
const welcome = (snapshot: boolean, version = 2): FollowStep => ({ what: 'welcome', version, serverTimeAt: clock.now() + 1_500, snapshot });
const bundle = composeBundle(emptyBundle(trustDomain));
const page = (last: Position | undefined, ...names: readonly string[]): FollowStep => ({
  what: 'snapshot',
  entries: names.map((name) => testEntry(name, ['a:1'])),
  bundles: [bundle],
  authorities: [],
  last,
});
const change = (position: Position, ...names: readonly string[]): FollowStep => ({
  what: 'changes',
  position,
  committedAt: clock.now(),
  steps: names.map((name) => ({ what: 'entry', entry: testEntry(name, ['a:1']) })),
  commands: [],
});
const heartbeat = (position: Position): FollowStep => ({ what: 'heartbeat', serverTimeAt: clock.now(), position });
const paths = (): string[] => [...holdings.value.entries.values()].map(({ spiffeId }) => spiffeId.slice('spiffe://example.org'.length));

async function line(number: number): Promise<Line> {
  await clock.runUntil(() => lines.length > number);
  return lines[number]!;
}

function begin(maxVersion?: number): void {
  follower = createFollower({
    clock,
    random: () => 0.5,
    holdings,
    open(hello, signal) {
      const opened = new Line(hello, signal);
      lines.push(opened);
      return { steps: opened.read(), confirm: (position) => opened.confirmed.push(position.revision) };
    },
    delivered: () => delivered?.promise ?? Promise.resolve(),
    onCommand: (command) => commands.push(command),
    onState: (state) => states.push(state),
    ...(maxVersion === undefined ? {} : { maxVersion }),
  });
  over = follower.run(stop.signal).catch((error: unknown) => error);
}

beforeEach(() => {
  clock = createTestClock();
  lines = [];
  states = [];
  commands = [];
  delivered = undefined;
  holdings = createHoldings(noHoldings, () => undefined);
  stop = new AbortController();
});

afterEach(async () => {
  stop.abort(new Error('the test is over'));
  await over;
});

describe('following', () => {
  it('takes a snapshot of several pages as one, then changes as they commit', async () => {
    begin();
    const first = await line(0);
    expect(first.hello).toEqual({ minVersion: 1, maxVersion: 2, position: undefined });
    first.say(welcome(true), page(undefined, '/a', '/b'));
    await clock.settle();
    expect(paths()).toEqual([]);
    first.say(page(at(3), '/c'));
    await clock.settle();
    expect(paths()).toEqual(['/a', '/b', '/c']);
    first.say(change(at(4), '/d'), change(at(6)));
    await clock.settle();
    expect(paths()).toEqual(['/a', '/b', '/c', '/d']);
    expect(holdings.value.position).toEqual(at(6));
    expect(states[0]).toEqual({ state: 'connected', version: 2, skewMs: 1_500, snapshot: true });
  });

  it('resumes where it was after a break, with a growing delay', async () => {
    begin();
    (await line(0)).say(welcome(true), page(at(3), '/a'));
    await clock.settle();
    const brokenAt = clock.monotonic();
    lines[0]?.fail(new SpiffeError('unavailable', 'rpc.unreachable', 'gone'));
    const second = await line(1);
    expect(clock.monotonic() - brokenAt).toBe(500);
    expect(second.hello.position).toEqual(at(3));
    second.fail(new SpiffeError('unavailable', 'rpc.unreachable', 'gone'));
    const again = clock.monotonic();
    const third = await line(2);
    expect(clock.monotonic() - again).toBe(850);
    third.say(welcome(false), change(at(5), '/b'));
    await clock.settle();
    expect(paths()).toEqual(['/a', '/b']);
  });

  it('confirms a position once it was delivered, and only the newest of several', async () => {
    begin();
    delivered = Promise.withResolvers<void>();
    (await line(0)).say(welcome(true), page(at(3), '/a'));
    await clock.settle();
    lines[0]?.say(change(at(4), '/b'), change(at(5), '/c'));
    await clock.settle();
    expect(lines[0]?.confirmed).toEqual([]);
    delivered.resolve();
    await clock.settle();
    expect(lines[0]?.confirmed).toEqual([3, 5]);
    lines[0]?.say(heartbeat(at(9)));
    await clock.settle();
    expect(holdings.value.position).toEqual(at(9));
    expect(lines[0]?.confirmed).toEqual([3, 5, 9]);
  });

  it('a workload that never reads holds a confirmation back for a minute at most', async () => {
    begin();
    delivered = Promise.withResolvers<void>();
    (await line(0)).say(welcome(true), page(at(3), '/a'));
    await clock.advance(30_000);
    lines[0]?.say(heartbeat(at(3)));
    await clock.advance(29_000);
    expect(lines[0]?.confirmed).toEqual([]);
    await clock.advance(2_000);
    expect(lines[0]?.confirmed).toEqual([3]);
  });

  it('finds a connection that lost its other end within 90 s', async () => {
    begin();
    (await line(0)).say(welcome(true), page(at(3), '/a'));
    await clock.settle();
    for (let i = 0; i < 5; i += 1) {
      await clock.advance(30_000);
      lines[0]?.say(heartbeat(at(3)));
      await clock.settle();
    }
    expect(lines.length).toBe(1);
    expect(silenceMs).toBeLessThanOrEqual(90_000);
    await clock.advance(silenceMs + 1_000);
    expect(states.at(-1)).toMatchObject({ state: 'broken', error: { reason: 'follow.silent' } });
    expect(lines[0]?.signal.aborted).toBe(true);
    await line(1);
  });

  it.each([
    ['goes back', at(2)],
    ['is of another history', at(9, 'f')],
  ])('T-H07: a change whose position %s is not applied, and a snapshot is taken', async (_how, position) => {
    begin();
    (await line(0)).say(welcome(true), page(at(3), '/a'), change(position, '/b'));
    const second = await line(1);
    expect(paths()).toEqual(['/a']);
    expect(second.hello.position).toBeUndefined();
    second.say(welcome(true), page(at(9, 'f'), '/x'));
    await clock.settle();
    expect(paths()).toEqual(['/x']);
    second.fail(new SpiffeError('unavailable', 'rpc.unreachable', 'gone'));
    expect((await line(2)).hello.position).toEqual(at(9, 'f'));
  });

  it.each([
    ['no welcome', [(): FollowStep => heartbeat(at(1))], 'follow.unwelcome'],
    ['changes amid a snapshot', [() => welcome(true), () => page(undefined, '/a'), () => change(at(4), '/b')], 'follow.snapshot-open'],
  ])('breaks the stream at %s', async (_what, steps, reason) => {
    begin();
    (await line(0)).say(...steps.map((step) => step()));
    await line(1);
    expect(states.find(({ state }) => state === 'broken')).toMatchObject({ error: { reason } });
    expect(paths()).toEqual([]);
  });

  it('hands on commands', async () => {
    begin();
    (await line(0)).say(welcome(true), page(at(3)), { what: 'changes', position: at(4), committedAt: 1, steps: [], commands: [{ action: 'banned', reason: 'r' }] });
    await clock.settle();
    expect(commands).toEqual([{ action: 'banned', reason: 'r' }]);
  });

  it('opens anew at once when asked to, and resumes', async () => {
    begin();
    (await line(0)).say(welcome(true), page(at(3), '/a'));
    await clock.settle();
    const before = clock.monotonic();
    follower.reopen();
    await clock.settle();
    expect(lines.length).toBe(2);
    expect(clock.monotonic()).toBe(before);
    expect(lines[1]?.hello.position).toEqual(at(3));
    expect(states.some(({ state }) => state === 'broken')).toBe(false);
  });

  it('speaks version 1 with an older server, and offers no more than it is told to', async () => {
    begin(1);
    const first = await line(0);
    expect(first.hello.maxVersion).toBe(1);
    first.say(welcome(true, 2));
    expect(await over).toMatchObject({ kind: 'unsupported', reason: 'follow.version' });
  });

  it('returns when the server has no such service', async () => {
    begin();
    (await line(0)).fail(new SpiffeError('unsupported', 'peer.unimplemented', 'unknown service'));
    expect(await over).toMatchObject({ kind: 'unsupported' });
  });
});
