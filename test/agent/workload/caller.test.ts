import { beforeEach, expect, it } from 'vitest';
import type { Attestation } from '../../../agent/workload/attest.ts';
import { createCaller, type Caller } from '../../../agent/workload/caller.ts';
import { createWatch, type WatchSource } from '../../../runtime/watch.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { fakePeer, type FakePeer } from '../../help/peer.ts';

const attestation = (...selectors: readonly string[]): Attestation => ({
  selectors: new Set(selectors.map(parseSelector)),
  given: new Map(),
  reports: [],
  incomplete: false,
  pending: undefined, rechecks: [],
});
const { signal } = new AbortController();

let peer: FakePeer;
let attested: WatchSource<Attestation>;
let begun: number;
let failure: Error | undefined;
let told: string[];
let caller: Caller;

beforeEach(() => {
  peer = fakePeer();
  attested = createWatch(attestation('unix:uid:1000'));
  begun = 0;
  failure = undefined;
  told = [];
  caller = createCaller(
    peer,
    async function* follow(_peer, stop) {
      begun += 1;
      if (failure !== undefined) throw failure;
      yield* attested.values(stop);
    },
    (_caller, { selectors }) => told.push([...selectors].join(' ')),
  );
});

it('attests once for all calls of the connection, at the first', async () => {
  expect(begun).toBe(0);
  const [one, two] = await Promise.all([caller.attested(signal), caller.attested(signal)]);
  expect([one === two, begun, told]).toEqual([true, 1, ['unix:uid:1000']]);
});

it('goes on: later attestations are seen by whoever has the watch', async () => {
  const watch = await caller.attested(signal);
  attested.set(attestation('unix:uid:1000', 'unix:path:/bin/web'));
  await expect.poll(() => [...watch.value.selectors]).toEqual(['unix:uid:1000', 'unix:path:/bin/web']);
  expect(told.length).toBe(2);
});

it('names the process for the record, with the path once it is attested', async () => {
  expect(caller.process).toEqual({ pid: peer.pid, uid: 1000, gid: 1000, startTime: '1', path: '' });
  attested.set(attestation('unix:path:/bin/web'));
  await caller.attested(signal);
  expect(caller.process.path).toBe('/bin/web');
});

it('a first attestation that failed is tried again by the next call', async () => {
  failure = new SpiffeError('unavailable', 'attest.failed', 'no attestor answered');
  await expect(caller.attested(signal)).rejects.toMatchObject({ reason: 'attest.failed' });
  failure = undefined;
  await expect(caller.attested(signal)).resolves.toBeDefined();
  expect(begun).toBe(2);
});

it('T-A01: a later attestation that fails ends the watch with its reason', async () => {
  const watch = await caller.attested(signal);
  attested.close(new SpiffeError('denied', 'peer.exited', 'the process that connected has exited'));
  const over = (async () => {
    for await (const _ of watch.values(signal));
  })();
  await expect(over).rejects.toMatchObject({ kind: 'denied', reason: 'peer.exited' });
});

it('does not wait longer than the call', async () => {
  const waiting = createCaller(
    peer,
    async function* never() {
      yield await new Promise<never>(() => undefined);
    },
    () => undefined,
  );
  await expect(waiting.attested(AbortSignal.abort(new SpiffeError('unavailable', 'rpc.cancelled', 'the caller went')))).rejects.toMatchObject({ reason: 'rpc.cancelled' });
});
