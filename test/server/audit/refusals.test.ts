import { describe, expect, it } from 'vitest';
import type { AuditEvent } from '../../../server/audit/event.ts';
import { createRefusals } from '../../../server/audit/refusals.ts';
import { createTestClock } from '../../help/clock.ts';

function refusal(actor: string, reason = 'access.denied'): AuditEvent {
  return { type: 'call.denied', at: 1, actor, call: '/x.Y/Z', outcome: 'refused', reason, subject: '', detail: {} };
}

describe('refusals', () => {
  it('T-J04 records a few one by one and the rest as one exact count', async () => {
    const clock = createTestClock();
    const recorded: AuditEvent[] = [];
    const store = { recordAudit: async (events: readonly AuditEvent[]) => void recorded.push(...events) };
    const refusals = createRefusals(store, clock);
    const stop = new AbortController();
    const running = refusals.run(stop.signal);
    for (let i = 0; i < 50_000; i += 1) await refusals.record([refusal('stranger:a')]);
    await refusals.record([refusal('stranger:b')]);
    expect(recorded).toHaveLength(21);
    await clock.advance(10_000);
    const counts = recorded.filter((event) => event.detail['count'] !== undefined);
    expect(counts).toHaveLength(1);
    expect(counts[0]).toMatchObject({ actor: 'stranger:a', detail: { count: 49_980 } });
    stop.abort();
    await running;
  });

  it('T-J04 keeps a bounded number of counters however many callers there are', async () => {
    const clock = createTestClock();
    const recorded: AuditEvent[] = [];
    const store = { recordAudit: async (events: readonly AuditEvent[]) => void recorded.push(...events) };
    const refusals = createRefusals(store, clock);
    const stop = new AbortController();
    const running = refusals.run(stop.signal);
    for (let i = 0; i < 12_000; i += 1) await refusals.record([refusal(`stranger:${i}`)]);
    expect(recorded).toHaveLength(10_000);
    await clock.advance(10_000);
    expect(recorded.at(-1)).toMatchObject({ actor: 'many callers', detail: { count: 2000 } });
    stop.abort();
    await running;
  });
});
