import { describe, expect, it } from 'vitest';
import { defaultRetention, keepPruning } from '../../../server/audit/ledger.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { createTestClock } from '../../help/clock.ts';
import { intentOf, openTestStore } from '../../help/store.ts';

const day = 24 * 3_600_000;

describe('keepPruning', () => {
  it('keeps credentials 30 days past their expiry and events 400 days, in batches until nothing is left', async () => {
    const clock = createTestClock();
    let credentials = 1_200;
    let events = 700;
    const calls: { before: { credentialsExpired: number; auditAt: number }; limit: number; at: number }[] = [];
    const store = {
      pruneRecords: async (before: { credentialsExpired: number; auditAt: number }, limit: number) => {
        calls.push({ before, limit, at: clock.now() });
        const pruned = { credentials: Math.min(limit, credentials), events: Math.min(limit, events) };
        credentials -= pruned.credentials;
        events -= pruned.events;
        return pruned;
      },
    };
    const startAt = clock.now();
    const stop = new AbortController();
    const task = keepPruning({ store, clock, retention: () => defaultRetention, onProblem: () => undefined }, stop.signal);
    await clock.advance(60_000);
    expect([credentials, events]).toEqual([0, 0]);
    expect(calls).toHaveLength(3);
    expect(calls[0]).toMatchObject({ before: { credentialsExpired: startAt - 30 * day, auditAt: startAt - 400 * day } });
    await clock.advance(day);
    expect(calls.length).toBeGreaterThan(100);
    stop.abort();
    await task;
  });

  it('says what failed, tries again later, and says when it is over', async () => {
    const clock = createTestClock();
    const problems: unknown[] = [];
    let failures = 3;
    const busy = new SpiffeError('unavailable', 'store.busy', 'busy');
    const store = {
      pruneRecords: () => {
        failures -= 1;
        return failures >= 0 ? Promise.reject(busy) : Promise.resolve({ credentials: 0, events: 0 });
      },
    };
    const stop = new AbortController();
    const task = keepPruning({ store, clock, retention: () => defaultRetention, onProblem: (problem) => void problems.push(problem) }, stop.signal);
    await clock.advance(3_600_000);
    stop.abort();
    await task;
    expect(problems).toEqual([busy, busy, busy, undefined]);
  });

  it('leaves in the ledger what is younger', async () => {
    const clock = createTestClock();
    const store = await openTestStore({ clock });
    const now = clock.now();
    const old = intentOf(now - 40 * day, { expiresAt: now - 30 * day - 1 });
    const young = intentOf(now - 40 * day, { expiresAt: now - 30 * day + 1000 });
    await store.recordIntents([old, young]);
    const stop = new AbortController();
    const { promise: pruned, resolve } = Promise.withResolvers<void>();
    const watched = {
      pruneRecords: async (...given: Parameters<typeof store.pruneRecords>) => {
        const result = await store.pruneRecords(...given);
        resolve();
        return result;
      },
    };
    const task = keepPruning({ store: watched, clock, retention: () => defaultRetention, onProblem: () => undefined }, stop.signal);
    await pruned;
    stop.abort();
    await task;
    expect(await store.getCredential(old.id)).toBeUndefined();
    expect(await store.getCredential(young.id)).toBeDefined();
    expect((await store.searchAudit({ type: 'record.pruned' }, 10, '')).items).toHaveLength(1);
  });
});
