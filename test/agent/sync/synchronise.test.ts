import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createFollower, type FollowStep } from '../../../agent/sync/follow.ts';
import { createHoldings, noHoldings, type HoldingsOwner, type Position } from '../../../agent/sync/holdings.ts';
import { createPoller } from '../../../agent/sync/poll.ts';
import { followAgainMs, synchronise, type Synchronisation } from '../../../agent/sync/synchronise.ts';
import { createWatch, type WatchSource } from '../../../runtime/watch.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { testEntry, trustDomain } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';

const bundle = composeBundle(emptyBundle(trustDomain));
const minuteMs = 60_000;

/** A server that can be polled, and followed as well when it is one of ours; it can become either. */
interface Server {
  canBeFollowed: boolean;
  readonly entries: RegistrationEntry[];
  readonly revision: WatchSource<number>;
  polls: number;
  follows: number;
  asked: number;
}

let clock: TestClock;
let server: Server;
let holdings: HoldingsOwner;
let synchronisation: Synchronisation;
let polling: string[];
let stop: AbortController;
let over: Promise<unknown>;

const at = (revision: number): Position => ({ epoch: 'e', revision });
const paths = (): string[] => [...holdings.value.entries.values()].map(({ spiffeId }) => spiffeId.slice('spiffe://example.org'.length));

function register(path: string): void {
  server.entries.push(testEntry(path, ['a:1']));
  server.revision.set(server.revision.value + 1);
}

async function* followed(signal: AbortSignal): AsyncGenerator<FollowStep> {
  server.follows += 1;
  if (!server.canBeFollowed) throw new SpiffeError('unsupported', 'rpc.unimplemented', 'no such service');
  yield { what: 'welcome', version: 2, serverTimeAt: clock.now(), snapshot: true };
  for await (const revision of server.revision.values(signal)) {
    yield { what: 'snapshot', entries: [...server.entries], bundles: [bundle], authorities: [], last: at(revision) };
  }
}

function begin(canBeFollowed: boolean): void {
  clock = createTestClock();
  server = { canBeFollowed, entries: [], revision: createWatch(1), polls: 0, follows: 0, asked: 0 };
  holdings = createHoldings(noHoldings, () => undefined);
  polling = [];
  stop = new AbortController();
  synchronisation = synchronise({
    clock,
    holdings,
    follower: createFollower({
      clock,
      random: () => 0.5,
      holdings,
      open: (_hello, signal) => ({ steps: followed(signal), confirm: () => undefined }),
      delivered: () => Promise.resolve(),
      onCommand: () => undefined,
      onState: () => undefined,
    }),
    poller: createPoller({
      clock,
      random: () => 0.5,
      trustDomain,
      holdings,
      source: {
        async entries() {
          server.polls += 1;
          return [...server.entries];
        },
        bundle: async () => bundle,
        federatedBundle: async () => undefined,
      },
      onSynced: () => undefined,
      onFailed: () => undefined,
    }),
    async askBehind() {
      server.asked += 1;
      return at(server.revision.value);
    },
    onPolling: (why) => polling.push(why.reason),
  });
  over = synchronisation.run(stop.signal).catch((error: unknown) => error);
}

afterEach(async () => {
  stop.abort(new Error('the test is over'));
  expect(await over).toMatchObject({ message: 'the test is over' });
});

describe('at a server that can be followed', () => {
  beforeEach(() => begin(true));

  it('follows and never polls', async () => {
    register('/a');
    await clock.advance(20 * minuteMs);
    expect(paths()).toEqual(['/a']);
    expect([server.polls, polling]).toEqual([0, []]);
  });

  it('asks where the server is before somebody is denied', async () => {
    await clock.settle();
    await synchronisation.freshness.catchUp();
    expect(server.asked).toBe(1);
  });
});

describe('at a server that cannot be followed', () => {
  beforeEach(() => begin(false));

  it('polls, says so once, and tries to follow again every five minutes', async () => {
    register('/a');
    await clock.advance(4 * minuteMs);
    expect([paths(), server.follows]).toEqual([['/a'], 1]);
    await clock.advance(16 * minuteMs);
    expect([followAgainMs, server.follows]).toEqual([5 * minuteMs, 5]);
    // Trying did not cost a poll: still one every five seconds.
    expect(server.polls).toBeGreaterThanOrEqual(20 * 12);
    expect(polling).toEqual(['rpc.unimplemented']);
  });

  it('follows within five minutes of its becoming one that can be, and polls no more', async () => {
    register('/a');
    await clock.advance(minuteMs);
    server.canBeFollowed = true;
    register('/b');
    await clock.advance(5 * minuteMs);
    expect(holdings.value.position).toEqual(at(server.revision.value));
    const { polls } = server;
    register('/c');
    await clock.settle();
    expect(paths()).toEqual(['/a', '/b', '/c']);
    await clock.advance(20 * minuteMs);
    expect(server.polls).toBe(polls);
    await synchronisation.freshness.catchUp();
    expect(server.asked).toBe(1);
  });

  it('polls again when what it followed cannot be any more, and says so again', async () => {
    await clock.advance(minuteMs);
    server.canBeFollowed = true;
    await clock.advance(5 * minuteMs);
    server.canBeFollowed = false;
    server.revision.close(new SpiffeError('unavailable', 'rpc.unreachable', 'the server was replaced'));
    await clock.advance(minuteMs);
    const { polls } = server;
    server.entries.push(testEntry('/late', ['a:1']));
    await synchronisation.freshness.catchUp();
    expect([paths(), server.polls]).toEqual([['/late'], polls + 1]);
    expect(polling).toEqual(['rpc.unimplemented', 'rpc.unimplemented']);
  });
});
