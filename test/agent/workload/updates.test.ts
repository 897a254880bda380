import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDeliveries } from '../../../agent/svids/delivery.ts';
import { createSvidCache, type SvidCache } from '../../../agent/svids/cache.ts';
import { generateKeys, receiveX509 } from '../../../agent/svids/receive.ts';
import { holdingsOf, noHoldings, type Holdings } from '../../../agent/sync/holdings.ts';
import { callerUpdates, type CallerUpdate } from '../../../agent/workload/updates.ts';
import type { Attestation } from '../../../agent/workload/attest.ts';
import type { Caller } from '../../../agent/workload/caller.ts';
import { createWatch, type WatchSource } from '../../../runtime/watch.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { testAuthority, testEntry, trustDomain, type TestAuthority } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';
import { fakePeer } from '../../help/peer.ts';

let clock: TestClock;
let authority: TestAuthority;
let cache: SvidCache;
let holdings: Holdings;
let attestations: WatchSource<Attestation>;
let asked: number;
let onAsk: () => void;
let stop: AbortController;

const attested = (selectors: readonly string[], pending?: Promise<void>): Attestation => ({
  selectors: new Set(selectors.map(parseSelector)),
  given: new Map(),
  reports: [],
  incomplete: false,
  rechecks: [],
  pending,
});

function hold(...entries: readonly RegistrationEntry[]): void {
  holdings = holdingsOf({ position: undefined, entries, bundles: [], authorities: [] }, holdings);
  cache.holdingsChanged(holdings);
}

async function sign(entry: RegistrationEntry): Promise<void> {
  const keys = await generateKeys();
  cache.put(receiveX509(entry, [authority.leaf(entry.spiffeId, keys.publicKey)], keys, { at: clock.now(), jitter: 0.5 }));
}

function updates(): AsyncGenerator<CallerUpdate, void> {
  const peer = fakePeer();
  const caller: Caller = { peer, process: { pid: 1, startTime: '1', uid: 1, gid: 1, path: '' }, attested: async () => attestations };
  const freshness = {
    async catchUp() {
      asked += 1;
      onAsk();
    },
  };
  return callerUpdates({ clock, cache, freshness, deliveries: createDeliveries() }, { caller, svids: true }, stop.signal);
}

const paths = ({ value }: IteratorResult<CallerUpdate, void>): string[] => (value?.update.identities ?? []).map(({ svid }) => svid.spiffeId.slice('spiffe://example.org'.length));

beforeEach(() => {
  clock = createTestClock();
  authority = testAuthority('authority', () => clock.now());
  holdings = noHoldings;
  asked = 0;
  onAsk = () => undefined;
  attestations = createWatch(attested(['a:1']));
  stop = new AbortController();
  cache = createSvidCache({ trustDomain, now: () => clock.now(), prefetchLimit: 9, onWanted: () => undefined, onChange: () => undefined });
});

afterEach(() => stop.abort(new SpiffeError('unavailable', 'rpc.cancelled', 'the test is over')));

describe('a first update', () => {
  it('is complete: it waits for the SVID of every identity', async () => {
    const [a, b] = [testEntry('/a', ['a:1']), testEntry('/b', ['a:1'])];
    hold(a, b);
    await sign(b);
    const first = updates().next();
    await clock.advance(1_000);
    await sign(a);
    expect(paths(await first)).toEqual(['/a', '/b']);
  });

  it('goes out with what there is when one SVID is slow', async () => {
    const [a, b] = [testEntry('/a', ['a:1']), testEntry('/b', ['a:1'])];
    hold(a, b);
    await sign(b);
    const stream = updates();
    const first = stream.next();
    await clock.advance(2_000);
    expect(paths(await first)).toEqual(['/b']);
    const second = stream.next();
    await sign(a);
    expect(paths(await second)).toEqual(['/a', '/b']);
  });

  it('is refused as unavailable, not as denied, when nothing can be signed', async () => {
    hold(testEntry('/a', ['a:1']));
    const first = updates().next().catch((error: unknown) => error);
    await clock.advance(30_000);
    expect(await first).toMatchObject({ kind: 'unavailable', reason: 'workload.svid-unavailable' });
    expect(asked).toBe(0);
  });
});

describe('a denial', () => {
  it('comes after the server was asked', async () => {
    await expect(updates().next()).rejects.toMatchObject({ kind: 'denied', reason: 'workload.no-identity' });
    expect(asked).toBe(1);
  });

  it('does not come when the answer brought an entry', async () => {
    const a = testEntry('/a', ['a:1']);
    onAsk = () => hold(a);
    const first = updates().next();
    await clock.settle();
    await sign(a);
    expect(paths(await first)).toEqual(['/a']);
  });

  it('waits for what is still being established, and no longer than ten seconds', async () => {
    const a = testEntry('/a', ['a:1', 'unix:sha256:00']);
    hold(a);
    await sign(a);
    const hashed = Promise.withResolvers<void>();
    attestations = createWatch(attested(['a:1'], hashed.promise));
    const first = updates().next();
    await clock.advance(3_000);
    attestations.set(attested(['a:1', 'unix:sha256:00']));
    hashed.resolve();
    expect(paths(await first)).toEqual(['/a']);

    attestations = createWatch(attested(['a:1'], new Promise(() => undefined)));
    const never = updates().next().catch((error: unknown) => error);
    await clock.advance(10_000);
    expect(await never).toMatchObject({ kind: 'denied' });
  });

  it('ends a stream at once when the last identity goes', async () => {
    const a = testEntry('/a', ['a:1']);
    hold(a);
    await sign(a);
    const stream = updates();
    await stream.next();
    const next = stream.next();
    hold();
    await expect(next).rejects.toMatchObject({ kind: 'denied', reason: 'workload.no-identity' });
    expect(asked).toBe(0);
    expect(cache.counts().subscriptions).toBe(0);
  });
});

describe('a stream', () => {
  it('follows what is attested of its process', async () => {
    const [a, b] = [testEntry('/a', ['a:1']), testEntry('/b', ['b:1'])];
    hold(a, b);
    await sign(a);
    await sign(b);
    const stream = updates();
    expect(paths(await stream.next())).toEqual(['/a']);
    const second = stream.next();
    attestations.set(attested(['a:1', 'b:1']));
    expect(paths(await second)).toEqual(['/a', '/b']);
    expect(cache.counts().subscriptions).toBe(1);
  });

  it('T-A02: ends with why the process is not attested any more', async () => {
    const a = testEntry('/a', ['a:1']);
    hold(a);
    await sign(a);
    const stream = updates();
    await stream.next();
    const next = stream.next();
    attestations.close(new SpiffeError('denied', 'peer.image', 'another program'));
    await expect(next).rejects.toMatchObject({ reason: 'peer.image' });
  });

  it('T-A11: skips to the newest for a slow reader', async () => {
    const a = testEntry('/a', ['a:1']);
    hold(a);
    await sign(a);
    const stream = updates();
    await stream.next();
    const serials = [];
    for (let i = 0; i < 5; i += 1) {
      await sign(a);
      serials.push(cache.x509(a.id)?.serial);
    }
    const next = await stream.next();
    expect(next.value?.update.identities[0]?.svid.serial).toBe(serials.at(-1));
  });
});
