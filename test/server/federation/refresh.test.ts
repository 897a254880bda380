import { describe, expect, it, onTestFinished } from 'vitest';
import type { AuditEvent } from '../../../server/audit/event.ts';
import { createRefresher, type RefresherOptions } from '../../../server/federation/refresh.ts';
import type { CommittedChange, RefreshOutcome, Relationship, RelationshipRecord } from '../../../server/store/store.ts';
import { type Bundle, bundleEquals, composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseSpiffeId, parseTrustDomain, type TrustDomain } from '../../../spiffe/id.ts';
import { createTestClock } from '../../help/clock.ts';
import { createEndpoints } from '../../help/endpoints.ts';

const far = parseTrustDomain('far.example');
const near = parseTrustDomain('near.example');
const minute = 60_000;
const unreachable = new SpiffeError('unavailable', 'bundle-fetch.unreachable', 'nothing is served there');

const urlOf = (name: string): string => `https://${name}/`;
const bundleOf = (name: TrustDomain, sequence: bigint, refreshHintSeconds = 600): Bundle =>
  composeBundle({ ...emptyBundle(name), sequence, refreshHintSeconds });

/** The store's part in it, without threads, so that time can jump. */
function createWorld(options: Partial<RefresherOptions> = {}, turnsAfterCommit = 0) {
  const clock = createTestClock();
  const endpoints = createEndpoints();
  const bundles = new Map<TrustDomain, Bundle>();
  const records = new Map<TrustDomain, RelationshipRecord>();
  const listeners = new Set<(changes: readonly CommittedChange[]) => void>();
  const events: AuditEvent[] = [];
  const told: string[] = [];
  let revision = 0;

  const commit = (change: CommittedChange): void => {
    for (const listener of listeners) listener([change]);
  };
  const setBundle = (bundle: Bundle): void => {
    bundles.set(bundle.trustDomain, bundle);
    commit({ revision: ++revision, noun: 'bundle', id: bundle.trustDomain, bundle });
  };
  const put = (relationship: Relationship, refreshedAt?: number): void => {
    const record = { ...relationship, row: records.size + 1, createdAt: clock.now(), refreshedAt };
    records.set(record.trustDomain, record);
    commit({ revision: ++revision, noun: 'relationship', id: record.trustDomain, relationship: record });
  };
  const store: RefresherOptions['store'] = {
    subscribe(listener) {
      const take = (changes: readonly CommittedChange[]): void => listener({ committedAt: clock.now(), changes });
      listeners.add(take);
      return () => void listeners.delete(take);
    },
    async refreshBundle(relationship, bundle): Promise<RefreshOutcome> {
      const before = bundles.get(relationship.trustDomain);
      if (records.get(relationship.trustDomain)?.endpointUrl !== relationship.endpointUrl) return { status: 'ended' };
      if (before !== undefined && bundle.sequence < before.sequence) throw new SpiffeError('conflict', 'relationship.sequence-behind', 'behind');
      if (before !== undefined && bundleEquals(before, bundle)) return { status: 'unchanged', bundle, before };
      setBundle(bundle);
      for (let turn = 0; turn < turnsAfterCommit; turn += 1) await Promise.resolve();
      return { status: 'changed', bundle, before };
    },
    recordAudit: async (recorded) => void events.push(...recorded),
  };
  const stop = new AbortController();
  let running: Promise<void> | undefined;
  onTestFinished(async () => {
    stop.abort(new Error('test finished'));
    await running;
  });
  const world = {
    clock,
    endpoints,
    bundles,
    events,
    told,
    setBundle,
    put,
    stop,
    get running() {
      return running;
    },
    listeners,
    web: (name: TrustDomain, refreshedAt?: number) => put({ trustDomain: name, endpointUrl: urlOf(name), profile: { type: 'https_web' } }, refreshedAt),
    end(name: TrustDomain): void {
      records.delete(name);
      commit({ revision: ++revision, noun: 'relationship', id: name, relationship: undefined });
    },
    start() {
      const refresher = createRefresher({
        clock,
        random: () => 0,
        relationships: { get: (name) => records.get(name), all: () => [...records.values()] },
        bundles,
        store,
        fetch: endpoints.fetch,
        bounds: { shortestMs: minute, longestMs: 24 * 60 * minute },
        atOnce: 4,
        observe: {
          refreshed: ({ trustDomain }, bundle) => void told.push(`${trustDomain} ${bundle.sequence}`),
          failed: ({ trustDomain }, error, failures) => void told.push(`${trustDomain} ${error.reason} ${failures}`),
        },
        ...options,
      });
      running = refresher.run(stop.signal);
      return refresher;
    },
  };
  return world;
}

describe('createRefresher', () => {
  it('FED-04: fetches at once, then on the hint, which may change', async () => {
    const world = createWorld();
    world.web(far);
    world.endpoints.serve(urlOf(far), bundleOf(far, 1n, 120));
    const refresher = world.start();
    await world.clock.settle();
    expect(world.bundles.get(far)?.sequence).toBe(1n);
    const first = world.clock.now();
    expect(refresher.state(far)).toEqual({ refreshedAt: first, attemptedAt: first, failures: 0, reason: '', nextAt: first + 120_000 });
    world.endpoints.serve(urlOf(far), bundleOf(far, 2n, 600));
    await world.clock.advance(119_999);
    expect(world.endpoints.fetches).toHaveLength(1);
    await world.clock.advance(1);
    expect(world.bundles.get(far)?.sequence).toBe(2n);
    await world.clock.advance(599_999);
    expect(world.endpoints.fetches).toHaveLength(2);
    await world.clock.advance(1);
    expect(world.endpoints.fetches).toHaveLength(3);
  });

  it.each(Array.from({ length: 24 }, (_, turns) => turns))('goes on when its own commit woke it %i turns before the end of the fetch', async (turns) => {
    const world = createWorld({}, turns);
    world.web(far);
    for (let sequence = 1n; sequence < 4n; sequence += 1n) {
      world.endpoints.serve(urlOf(far), bundleOf(far, sequence, 60));
      if (sequence === 1n) world.start();
      else await world.clock.advance(minute);
      await world.clock.settle();
      expect(world.bundles.get(far)?.sequence).toBe(sequence);
    }
  });

  it('FED-26: a failure keeps the last good bundle and waits for the next interval', async () => {
    const world = createWorld();
    world.web(far);
    world.endpoints.serve(urlOf(far), bundleOf(far, 5n, 300));
    const refresher = world.start();
    await world.clock.settle();
    world.endpoints.serve(urlOf(far), unreachable);
    await world.clock.advance(5 * minute);
    expect(refresher.state(far)).toMatchObject({ failures: 1, reason: 'bundle-fetch.unreachable' });
    await world.clock.advance(5 * minute - 1);
    expect(world.endpoints.fetches).toHaveLength(2);
    await world.clock.advance(5 * minute + 1);
    expect(refresher.state(far)).toMatchObject({ failures: 3 });
    expect(world.bundles.get(far)?.sequence).toBe(5n);
    world.endpoints.serve(urlOf(far), bundleOf(far, 6n, 300));
    await world.clock.advance(5 * minute);
    expect(refresher.state(far)).toMatchObject({ failures: 0, reason: '' });
    expect(world.bundles.get(far)?.sequence).toBe(6n);
  });

  it('T-H06: a sequence that goes back is refused, told, and recorded once', async () => {
    const world = createWorld();
    world.web(far);
    world.setBundle(bundleOf(far, 9n, 60));
    world.endpoints.serve(urlOf(far), bundleOf(far, 8n, 60));
    world.start();
    await world.clock.advance(3 * minute);
    expect(world.bundles.get(far)?.sequence).toBe(9n);
    expect(world.told).toEqual([1, 2, 3, 4].map((count) => `far.example relationship.sequence-behind ${count}`));
    expect(world.events).toMatchObject([{ type: 'bundle.refresh-failed', subject: far, outcome: 'refused', reason: 'relationship.sequence-behind' }]);
  });

  it('T-H06: what keeps failing for one reason is recorded once, another reason again', async () => {
    const world = createWorld();
    world.web(far);
    world.start();
    await world.clock.advance(2 * minute);
    world.endpoints.serve(urlOf(far), new SpiffeError('limited', 'bundle-fetch.too-large', 'too large'));
    await world.clock.advance(2 * minute);
    expect(world.events.map(({ reason, outcome }) => [reason, outcome])).toEqual([
      ['bundle-fetch.unreachable', 'failed'],
      ['bundle-fetch.too-large', 'failed'],
    ]);
  });

  it('an error without a reason is one of ours, and goes on as any other', async () => {
    const world = createWorld();
    world.web(far);
    world.endpoints.serve(urlOf(far), new TypeError('a bug'));
    const refresher = world.start();
    await world.clock.settle();
    expect(refresher.state(far)).toMatchObject({ failures: 1, reason: 'relationship.refresh' });
  });

  it('a restart goes on where the last fetch was, and makes up for what was missed', async () => {
    const world = createWorld();
    const now = world.clock.now();
    world.setBundle(bundleOf(far, 1n, 600));
    world.setBundle(bundleOf(near, 1n, 600));
    world.web(far, now - 5 * minute);
    world.web(near, now - 60 * minute);
    const ahead = parseTrustDomain('ahead.example');
    world.setBundle(bundleOf(ahead, 1n, 600));
    world.web(ahead, now + 365 * 24 * 60 * minute);
    world.endpoints.serve(urlOf(far), bundleOf(far, 1n, 600));
    world.endpoints.serve(urlOf(near), bundleOf(near, 1n, 600));
    world.start();
    await world.clock.settle();
    expect(world.endpoints.fetches).toEqual([urlOf(near)]);
    await world.clock.advance(5 * minute);
    expect(world.endpoints.fetches).toEqual([urlOf(near), urlOf(far)]);
    // Written down by a clock that ran ahead.
    await world.clock.advance(5 * minute - 1);
    expect(world.endpoints.fetches).not.toContain(urlOf(ahead));
    await world.clock.advance(1);
    expect(world.endpoints.fetches).toContain(urlOf(ahead));
  });

  it('FED-28: an ended relationship is not asked again, and what is under way is ended', async () => {
    const world = createWorld();
    world.web(far);
    world.endpoints.serve(urlOf(far), bundleOf(far, 1n));
    world.endpoints.hold();
    const refresher = world.start();
    await world.clock.settle();
    expect(world.endpoints.open).toBe(1);
    world.end(far);
    await world.clock.settle();
    expect(world.endpoints.open).toBe(0);
    expect(refresher.state(far)).toBeUndefined();
    await world.clock.advance(60 * minute);
    expect(world.endpoints.fetches).toHaveLength(1);
    expect([world.bundles.size, world.told, world.events]).toEqual([0, [], []]);
  });

  it('one that is new, or has another endpoint, is fetched at once', async () => {
    const world = createWorld();
    world.start();
    await world.clock.advance(minute);
    world.web(far);
    await world.clock.settle();
    expect(world.endpoints.fetches).toEqual([urlOf(far)]);
    world.put({ trustDomain: far, endpointUrl: 'https://elsewhere.example/', profile: { type: 'https_web' } });
    await world.clock.settle();
    expect(world.endpoints.fetches).toEqual([urlOf(far), 'https://elsewhere.example/']);
  });

  it('FED-23: what failed is asked again when the bundle of its endpoint’s trust domain comes', async () => {
    const world = createWorld();
    const endpointId = parseSpiffeId('spiffe://near.example/endpoint');
    world.put({ trustDomain: far, endpointUrl: urlOf(far), profile: { type: 'https_spiffe', endpointId } });
    world.start();
    await world.clock.settle();
    expect(world.endpoints.fetches).toHaveLength(1);
    world.endpoints.serve(urlOf(far), bundleOf(far, 1n));
    world.setBundle(bundleOf(near, 1n));
    await world.clock.settle();
    expect(world.bundles.get(far)?.sequence).toBe(1n);
    // It succeeded, so the next one is no reason.
    world.setBundle(bundleOf(near, 2n));
    await world.clock.settle();
    expect(world.endpoints.fetches).toHaveLength(2);
  });

  it('a thousand relationships: some at a time, each in its turn, none starved by one that hangs', async () => {
    const world = createWorld({ atOnce: 16 });
    const names = Array.from({ length: 1_000 }, (_, index) => parseTrustDomain(`d${index}.example`));
    for (const name of names) {
      world.web(name);
      world.endpoints.serve(urlOf(name), bundleOf(name, 1n, 300));
    }
    const release = world.endpoints.hold();
    world.start();
    await world.clock.settle();
    expect(world.endpoints.open).toBe(16);
    release();
    await world.clock.runUntil(() => world.bundles.size === 1_000, minute);
    expect(world.endpoints.mostOpen).toBe(16);
    expect(world.endpoints.fetches).toHaveLength(1_000);
    await world.clock.advance(5 * minute);
    await world.clock.runUntil(() => world.endpoints.fetches.length === 2_000, minute);
    expect(new Set(world.endpoints.fetches).size).toBe(1_000);
  });

  it('spreads over the interval what was asked for together, never later than the hint', async () => {
    let drawn = 0;
    const world = createWorld({ random: () => (drawn = (drawn + 0.37) % 1) });
    const names = Array.from({ length: 10 }, (_, index) => parseTrustDomain(`d${index}.example`));
    for (const name of names) {
      world.web(name);
      world.endpoints.serve(urlOf(name), bundleOf(name, 1n, 600));
    }
    const refresher = world.start();
    await world.clock.runUntil(() => world.bundles.size === 10, minute);
    const now = world.clock.now();
    const waits = names.map((name) => (refresher.state(name)?.nextAt ?? 0) - now);
    expect(new Set(waits).size).toBe(10);
    expect(Math.max(...waits)).toBeLessThanOrEqual(600_000);
    expect(Math.min(...waits)).toBeGreaterThanOrEqual(540_000);
  });

  it('a wall clock that is set back does not put off what is due', async () => {
    const world = createWorld();
    world.web(far);
    world.endpoints.serve(urlOf(far), bundleOf(far, 1n, 600));
    world.start();
    await world.clock.settle();
    await world.clock.step(-48 * 60 * minute);
    await world.clock.advance(minute);
    expect(world.endpoints.fetches).toHaveLength(2);
  });

  it('the end ends what is under way, and leaves nothing listening', async () => {
    const world = createWorld();
    world.web(far);
    world.endpoints.hold();
    world.start();
    await world.clock.settle();
    world.stop.abort(new Error('stop'));
    await world.running;
    expect([world.endpoints.open, world.listeners.size, world.clock.sleepers]).toEqual([0, 0, 0]);
    expect(world.told).toEqual([]);
  });
});

describe('refresh by hand', () => {
  it('does not join a fetch that began before it was asked, but those who ask meanwhile share one', async () => {
    const world = createWorld();
    world.web(far);
    world.endpoints.serve(urlOf(far), bundleOf(far, 1n));
    const release = world.endpoints.hold();
    const refresher = world.start();
    await world.clock.settle();
    const asked = [refresher.refresh(far), refresher.refresh(far)];
    await world.clock.settle();
    expect(world.endpoints.fetches).toHaveLength(1);
    release();
    await Promise.all(asked);
    expect(world.endpoints.fetches).toHaveLength(2);
  });

  it('tells whoever asked what went wrong, and when the relationship ends meanwhile', async () => {
    const world = createWorld();
    world.web(far);
    const refresher = world.start();
    await world.clock.settle();
    await expect(refresher.refresh(far)).rejects.toMatchObject({ reason: 'bundle-fetch.unreachable' });
    world.endpoints.hold();
    const asked = refresher.refresh(far);
    await world.clock.settle();
    world.end(far);
    await expect(asked).rejects.toMatchObject({ reason: 'relationship.missing' });
    await expect(refresher.refresh(far)).rejects.toMatchObject({ kind: 'missing', reason: 'relationship.missing' });
  });
});
