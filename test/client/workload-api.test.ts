import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { WorkloadApi } from '../../client/index.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { testAuthority } from '../help/agent-server.ts';
import { createTestClock, type TestClock } from '../help/clock.ts';
import { granted, noIdentity, type ScriptedApi, startWorkloadApi } from '../help/workload-api.ts';

const home = testAuthority('home');
const alpha = 'spiffe://example.org/alpha';
const beta = 'spiffe://example.org/beta';

let agent: ScriptedApi;
let clock: TestClock;
let api: WorkloadApi;
let stop: AbortController;
let seen: string[];
const onDiagnostic = (message: unknown): void => void seen.push((message as { event: string }).event);

beforeEach(async () => {
  agent = await startWorkloadApi();
  clock = createTestClock();
  api = new WorkloadApi({ address: agent.address, clock, random: () => 0.5 });
  stop = new AbortController();
  seen = [];
  subscribe('steeple.workload-api', onDiagnostic);
});

afterEach(async () => {
  unsubscribe('steeple.workload-api', onDiagnostic);
  stop.abort();
  api.close();
  await agent[Symbol.asyncDispose]();
});

/** Collects what a watch yields, as the identities of each update. */
function collect(): { readonly updates: string[]; readonly done: Promise<unknown> } {
  const updates: string[] = [];
  const done = (async () => {
    for await (const { svids } of api.watchX509Context(stop.signal)) updates.push(svids.map(({ spiffeId }) => spiffeId).join(' '));
  })().then(
    () => 'ended',
    (error: unknown) => error,
  );
  return { updates, done };
}

describe('fetching', () => {
  it('WLEP-04: sends the header, and takes the first message', async () => {
    agent.x509(granted(home, alpha, beta));
    const { svids, bundles } = await api.fetchX509Context();
    expect(svids.map(({ spiffeId }) => spiffeId)).toEqual([alpha, beta]);
    expect([...bundles.keys()]).toEqual(['example.org']);
  });

  it('fetches bundles', async () => {
    agent.x509Bundles({ bundles: { 'spiffe://example.org': home.certificate } });
    agent.jwtBundles({ bundles: { 'spiffe://example.org': Buffer.from('{"keys":[]}') } });
    expect([...(await api.fetchX509Bundles())]).toEqual([['example.org', [home.certificate]]]);
    expect([...(await api.fetchJwtBundles())]).toEqual([['example.org', []]]);
  });

  it('WLEP-15: throws the denial of the agent, at once', async () => {
    await expect(api.fetchX509Context()).rejects.toMatchObject({ kind: 'denied', reason: 'workload.no-identity' });
    expect(agent.calls.get('FetchX509SVID')).toBe(1);
  });

  it('refuses a message that breaks the rules', async () => {
    agent.x509({ svids: [] });
    await expect(api.fetchX509Context()).rejects.toMatchObject({ kind: 'invalid', reason: 'workload.message.malformed' });
  });

  it('asks for tokens by audience and identity, and has tokens checked', async () => {
    const asked: unknown[] = [];
    agent.tokens = (request) => {
      asked.push({ audience: request.audience, id: request.spiffe_id });
      throw noIdentity;
    };
    await expect(api.fetchJwtSvids({ audience: 'db' })).rejects.toMatchObject({ kind: 'denied' });
    await expect(api.fetchJwtSvids({ audience: ['db', 'cache'], spiffeId: alpha as never })).rejects.toMatchObject({ kind: 'denied' });
    expect(asked).toEqual([{ audience: ['db'], id: '' }, { audience: ['db', 'cache'], id: alpha }]);
    await expect(api.validateJwtSvid('a.b.c', 'db')).rejects.toMatchObject({ kind: 'invalid', reason: 'jwt.signature' });
    agent.validate = ({ audience, svid }) => ({ spiffe_id: alpha, claims: { fields: { aud: { stringValue: `${audience} ${svid}`, kind: 'stringValue' } } } });
    expect(await api.validateJwtSvid('a.b.c', 'db')).toEqual({ spiffeId: alpha, claims: { aud: 'db a.b.c' } });
  });

  it('gives up at the deadline and at the signal', async () => {
    agent.validate = () => new Promise(() => undefined) as never;
    const late = api.validateJwtSvid('a.b.c', 'db', { deadlineMs: 2_000 }).catch((error: unknown) => error);
    await clock.runUntil(() => agent.calls.get('ValidateJWTSVID') === 1);
    await clock.advance(2_000);
    expect(await late).toMatchObject({ kind: 'unavailable', reason: 'rpc.deadline' });
    const aborted = new AbortController();
    aborted.abort(new SpiffeError('unavailable', 'test.over', 'over'));
    await expect(api.fetchX509Context({ signal: aborted.signal })).rejects.toMatchObject({ reason: 'test.over' });
  });

  it('says that the agent is away', async () => {
    const nobody = new WorkloadApi({ address: 'unix:///nonexistent/api.sock', clock });
    await expect(nobody.fetchX509Context()).rejects.toMatchObject({ kind: 'unavailable' });
    nobody.close();
  });
});

describe('watching', () => {
  it('WLAPI-05: yields every update whole', async () => {
    agent.x509(granted(home, alpha));
    const { updates, done } = collect();
    await clock.runUntil(() => updates.length === 1);
    agent.x509(granted(home, alpha, beta));
    await clock.runUntil(() => updates.length === 2);
    agent.x509(granted(home, beta));
    await clock.runUntil(() => updates.length === 3);
    expect(updates).toEqual([alpha, `${alpha} ${beta}`, beta]);
    expect(agent.calls.get('FetchX509SVID')).toBe(1);
    stop.abort();
    expect(await done).toBe('ended');
  });

  it('WLAPI-04: comes back when the connection is lost', async () => {
    agent.x509(granted(home, alpha));
    const { updates } = collect();
    await clock.runUntil(() => updates.length === 1);
    agent.drop();
    agent.x509(granted(home, beta));
    await clock.runUntil(() => updates.at(-1) === beta, 60_000);
    expect(seen).toContain('stream-lost');
  });

  it('WLEP-15: tries again while nothing is granted, with growing pauses', async () => {
    const { updates } = collect();
    const started = clock.monotonic();
    const pauses: number[] = [];
    for (let tries = 1; tries <= 6; tries += 1) {
      await clock.runUntil(() => agent.calls.get('FetchX509SVID') === tries && clock.sleepers === 1);
      const before = clock.monotonic();
      await clock.jump();
      pauses.push(Math.round(clock.monotonic() - before));
    }
    expect(pauses).toEqual([250, 425, 722, 1228, 2088, 3550]);
    expect(updates).toEqual([]);
    agent.x509(granted(home, alpha));
    await clock.runUntil(() => updates.length === 1);
    expect(clock.monotonic() - started).toBeLessThan(60_000);
  });

  it('pauses no longer than 15 s, and little again after a success', async () => {
    const { updates } = collect();
    for (let tries = 1; tries <= 14; tries += 1) {
      await clock.runUntil(() => agent.calls.get('FetchX509SVID') === tries && clock.sleepers === 1);
      const before = clock.monotonic();
      await clock.jump();
      expect(clock.monotonic() - before).toBeLessThanOrEqual(15_000);
    }
    agent.x509(granted(home, alpha));
    await clock.runUntil(() => updates.length === 1);
    agent.x509(noIdentity);
    await clock.runUntil(() => clock.sleepers === 1);
    const before = clock.monotonic();
    await clock.jump();
    expect(clock.monotonic() - before).toBe(250);
  });

  it.each([
    ['WLEP-13: InvalidArgument', new SpiffeError('invalid', 'workload.header', 'security header missing')],
    ['WLEP-13: Unimplemented', new SpiffeError('unsupported', 'workload.off', 'not served')],
  ])('does not try again on %s', async (_rule, refusal) => {
    agent.x509(refusal);
    const { done } = collect();
    expect(await done).toMatchObject({ kind: refusal.kind, reason: refusal.reason });
    expect(clock.sleepers).toBe(0);
    expect(agent.calls.get('FetchX509SVID')).toBe(1);
  });

  it.each([
    ['WLEP-14: Unavailable', new SpiffeError('unavailable', 'workload.starting', 'starting')],
    ['load shedding', new SpiffeError('limited', 'workload.busy', 'busy')],
    ['an internal failure', new SpiffeError('internal', 'workload.broken', 'broken')],
  ])('tries again on %s', async (_rule, refusal) => {
    agent.x509(refusal);
    const { updates } = collect();
    await clock.runUntil(() => (agent.calls.get('FetchX509SVID') ?? 0) >= 3);
    agent.x509(granted(home, alpha));
    await clock.runUntil(() => updates.length === 1);
  });

  it('refuses hostile messages and stays on the stream', async () => {
    agent.x509(granted(home, alpha));
    const { updates } = collect();
    await clock.runUntil(() => updates.length === 1);
    agent.x509({ svids: [] });
    await clock.runUntil(() => seen.length === 1);
    agent.x509({ svids: [{ spiffe_id: alpha, x509_svid: Buffer.alloc(100, 0x30), x509_svid_key: Buffer.alloc(3), bundle: Buffer.alloc(1) }] });
    await clock.runUntil(() => seen.length === 2);
    agent.x509(granted(home, beta));
    await clock.runUntil(() => updates.length === 2);
    expect(seen).toEqual(['message-refused', 'message-refused']);
    expect(updates).toEqual([alpha, beta]);
    expect(agent.calls.get('FetchX509SVID')).toBe(1);
  });

  it('ends when the API is closed', async () => {
    agent.x509(granted(home, alpha));
    const { updates, done } = collect();
    await clock.runUntil(() => updates.length === 1);
    api.close();
    expect(await done).toMatchObject({ reason: 'rpc.closed' });
  });

  it('ends with its signal, also while it pauses', async () => {
    const { done } = collect();
    await clock.runUntil(() => clock.sleepers === 1);
    stop.abort();
    expect(await done).toBe('ended');
    expect(clock.sleepers).toBe(0);
  });

  it('watches bundles as it does SVIDs', async () => {
    agent.x509Bundles({ bundles: { 'spiffe://example.org': home.certificate } });
    const watch = api.watchX509Bundles(stop.signal);
    expect([...((await watch.next()).value ?? [])]).toEqual([['example.org', [home.certificate]]]);
    agent.jwtBundles({ bundles: { 'spiffe://example.org': Buffer.from('{"keys":[]}') } });
    const tokens = api.watchJwtBundles(stop.signal);
    expect([...((await tokens.next()).value ?? [])]).toEqual([['example.org', []]]);
    await watch.return?.();
    await tokens.return?.();
  });
});
