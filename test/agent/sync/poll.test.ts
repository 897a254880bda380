import { afterEach, beforeEach, expect, it } from 'vitest';
import { createHoldings, noHoldings, type HoldingsOwner } from '../../../agent/sync/holdings.ts';
import { createPoller, type Poller } from '../../../agent/sync/poll.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { testEntry, trustDomain } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';

const other = parseTrustDomain('other.test');
const missing = parseTrustDomain('missing.test');

let clock: TestClock;
let holdings: HoldingsOwner;
let poller: Poller;
let entries: readonly RegistrationEntry[];
let polls: number[];
let failure: SpiffeError | undefined;
let failed: string[];
let stop: AbortController;
let over: Promise<unknown>;

beforeEach(() => {
  clock = createTestClock();
  holdings = createHoldings(noHoldings, () => undefined);
  entries = [];
  polls = [];
  failed = [];
  failure = undefined;
  stop = new AbortController();
  poller = createPoller({
    clock,
    random: () => 0.5,
    trustDomain,
    holdings,
    source: {
      async entries() {
        polls.push(clock.monotonic());
        if (failure !== undefined) throw failure;
        return entries;
      },
      bundle: async () => composeBundle(emptyBundle(trustDomain)),
      federatedBundle: async (name) => (name === other ? composeBundle(emptyBundle(other)) : undefined),
    },
    onSynced: () => undefined,
    onFailed: (error) => failed.push(error.reason),
  });
  over = poller.run(stop.signal).catch((error: unknown) => error);
});

afterEach(async () => {
  stop.abort(new Error('the test is over'));
  await over;
});

const gaps = (): number[] => polls.slice(1).map((at, i) => at - (polls[i] ?? 0));

it('fetches entries and the bundles they need, and does without one the server lacks', async () => {
  entries = [testEntry('/a', ['a:1'], { federatesWith: [other, missing, trustDomain] })];
  await clock.advance(5_000);
  expect([...holdings.value.entries.values()]).toEqual(entries);
  expect([...holdings.value.bundles.keys()]).toEqual([trustDomain, other]);
});

it('comes back every five seconds, later and later while it fails, and keeps what it has', async () => {
  entries = [testEntry('/a', ['a:1'])];
  await clock.advance(11_000);
  expect(gaps()).toEqual([5_000, 5_000]);
  failure = new SpiffeError('unavailable', 'rpc.unreachable', 'away');
  await clock.runUntil(() => polls.length === 6);
  expect(gaps().slice(2)).toEqual([5_000, 5_000, 7_500]);
  await clock.advance(3_600_000);
  expect(Math.max(...gaps())).toBe(240_000);
  expect(holdings.value.entries.size).toBe(1);
  expect(failed.every((reason) => reason === 'rpc.unreachable')).toBe(true);
});

it('looks at once for somebody who would be denied, and tells when it has', async () => {
  await clock.settle();
  entries = [testEntry('/a', ['a:1'])];
  await poller.soon();
  expect(polls.length).toBe(2);
  expect(holdings.value.entries.size).toBe(1);
});
