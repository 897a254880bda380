import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createObserver, type Observer } from '../../agent/observe.ts';
import { createHealth, type Health } from '../../runtime/health.ts';
import { createLogger } from '../../runtime/log.ts';
import { createMetrics, type Metrics } from '../../runtime/metrics.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { testAuthority } from '../help/agent-server.ts';
import { createTestClock, type TestClock } from '../help/clock.ts';

const error = new SpiffeError('unavailable', 'rpc.unreachable', 'away');

let clock: TestClock;
let health: Health;
let metrics: Metrics;
let observer: Observer;
let lines: string[];
let heardAt: number | undefined;
let lifeLeft: number;
let stop: AbortController;
let over: Promise<unknown>;

const unmet = (): string[] => health.state.value.unmet.map(({ name }) => name);
const events = (): unknown[] => lines.map((line) => (JSON.parse(line) as { event: unknown }).event);
const connected = (skewMs: number): void => observer.followed({ state: 'connected', version: 2, skewMs, snapshot: true });

beforeEach(() => {
  clock = createTestClock();
  health = createHealth();
  metrics = createMetrics();
  lines = [];
  heardAt = undefined;
  lifeLeft = 1;
  stop = new AbortController();
  const none = (): undefined => undefined;
  observer = createObserver({
    clock,
    log: createLogger({ clock, level: 'debug', format: 'json', write: (line) => lines.push(line) }),
    metrics,
    health,
    read: {
      entries: () => 3,
      x509Svids: () => 2,
      witSvids: () => 0,
      jwtSvids: () => 1,
      streams: () => 0,
      connections: () => 0,
      queued: () => 0,
      spooled: () => 0,
      earliestExpiryAt: () => clock.now() + 60_000,
      leastLifeLeft: () => lifeLeft,
      ownExpiryAt: none,
      heardAt: () => heardAt,
      revision: none,
    },
  });
  over = observer.watchConditions(stop.signal).catch((reason: unknown) => reason);
});

afterEach(async () => {
  stop.abort(new Error('the test is over'));
  await over;
});

function becomeReady(): void {
  const svid = testAuthority('authority', () => clock.now()).svid('spiffe://example.org/spire/agent/x');
  observer.identity({ what: 'attested', identity: { svid, reattestable: false, renewAt: 0 } });
  observer.followed({ state: 'current', position: { epoch: 'e', revision: 1 } });
  observer.listening('/run/api.sock', 1);
}

describe('readiness', () => {
  it('waits for an SVID, for synchronisation and for the socket', () => {
    expect(unmet()).toEqual(['attested', 'synced', 'socket']);
    becomeReady();
    expect(unmet()).toEqual([]);
  });

  it('goes when the agent gives its SVID up', () => {
    becomeReady();
    observer.identity({ what: 'given-up', reason: 'banned', error });
    expect(unmet()).toEqual(['attested']);
  });

  it('goes five minutes after the last sign of life, and comes back with the next', async () => {
    becomeReady();
    heardAt = clock.monotonic();
    await clock.advance(300_000);
    expect(unmet()).toEqual([]);
    await clock.advance(10_000);
    expect(unmet()).toEqual(['sync-age']);
    heardAt = clock.monotonic();
    await clock.advance(5_000);
    expect(unmet()).toEqual([]);
  });

  it('goes when an SVID could not be renewed for long', async () => {
    becomeReady();
    heardAt = clock.monotonic();
    lifeLeft = 0.19;
    await clock.advance(5_000);
    expect(unmet()).toEqual(['expiry']);
    lifeLeft = 0.9;
    await clock.advance(5_000);
    expect(unmet()).toEqual([]);
  });

  it.each([[59_000, []], [61_000, ['clock-skew']], [-61_000, ['clock-skew']]])('with clocks %i ms apart: %j', (skewMs, held) => {
    becomeReady();
    connected(skewMs);
    expect(unmet()).toEqual(held);
    connected(0);
    expect(unmet()).toEqual([]);
  });
});

it.each([[0, 'ok'], [3, 'invalid'], [7, 'denied'], [14, 'unavailable'], [13, 'other']] as const)('a call that ended with %i counts as %s', (code, outcome) => {
  observer.called({ method: '/x', requestId: 'r', code, reason: undefined, ms: 1, incident: undefined, error: undefined, connection: undefined } as never);
  expect(metrics.text()).toContain(`steeple_agent_calls_total{outcome="${outcome}"} 1`);
  expect(events()).toEqual(['call.ended']);
});

it('what cannot be known is not shown as a number', () => {
  const text = metrics.text();
  expect(text).toContain('steeple_agent_entries 3');
  expect(text).toContain('steeple_agent_earliest_expiry_seconds 60');
  expect(text).not.toMatch(/steeple_agent_own_expiry_seconds \d/);
});

it('failures are told with their reason and counted', () => {
  observer.followed({ state: 'broken', error });
  observer.pollFailed(error);
  observer.identity({ what: 'failed', error });
  expect(events()).toEqual(['sync.broken', 'sync.poll-failed', 'identity.failed']);
  expect(lines.every((line) => line.includes('rpc.unreachable'))).toBe(true);
  expect(metrics.text()).toContain('steeple_agent_sync_failures_total 2');
});
