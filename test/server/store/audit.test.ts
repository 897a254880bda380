import { describe, expect, test } from 'vitest';

import type { AuditEvent } from '../../../server/audit/event.ts';
import type { AuditFilter } from '../../../server/store/store.ts';
import { createTestClock } from '../../help/clock.ts';
import { agentId, openTestStore, storePath } from '../../help/store.ts';

const at = createTestClock().now();

function event(subject: string, fields: Partial<AuditEvent> = {}): AuditEvent {
  return { type: 'workload.attested', at, actor: agentId('a'), call: '', outcome: 'done', reason: '', subject, detail: {}, ...fields };
}

describe('audit', () => {
  const filters: readonly (readonly [string, AuditFilter, readonly string[]])[] = [
    ['type', { type: 'call.denied' }, ['t']],
    ['actor', { actor: 'server' }, ['s']],
    ['subject', { subject: 'o' }, ['o']],
    ['outcome', { outcome: 'refused' }, ['o']],
    ['time', { since: at + 1, until: at + 2 }, ['later']],
    ['newest first', { newestFirst: true, actor: agentId('a') }, ['latest', 'later', 'o', 't']],
  ];
  test.each(filters)('is searched by %s, page by page', async (_name, filter, expected) => {
    const store = await openTestStore();
    await store.recordAudit([
      event('t', { type: 'call.denied' }),
      event('s', { actor: 'server' }),
      event('o', { outcome: 'refused' }),
      event('later', { at: at + 1 }),
      event('latest', { at: at + 2 }),
    ]);
    const found: string[] = [];
    let token = '';
    do {
      const page = await store.searchAudit(filter, 2, token);
      found.push(...page.items.map(({ subject }) => subject));
      token = page.nextToken;
    } while (token !== '');
    expect(found).toEqual(expected);
  });

  test('what an event carries comes back as it was, whatever it holds', async () => {
    const store = await openTestStore({ path: await storePath() });
    const odd = event('"); DROP TABLE audit; --\n\u0000', { reason: "o'clock", detail: { list: ['a\nb', '"'], flag: true, count: 3, text: '\u2028' } });
    await store.recordAudit([odd]);
    expect((await store.searchAudit({ subject: odd.subject }, 10, '')).items).toEqual([{ ...odd, number: 1 }]);
  });

  test('T-J02 a spool is recorded once, in order, and a hole in it is witnessed', async () => {
    const store = await openTestStore();
    const a = agentId('a');
    const numbered = (...numbers: number[]) => numbers.map((sequence) => ({ sequence, event: event(`n${sequence}`) }));
    expect(await store.recordSpool(a, 's1', numbered(1, 2))).toBe(2);
    expect(await store.recordSpool(a, 's1', numbered(1, 2))).toBe(2);
    expect(await store.recordSpool(a, 's1', numbered(3, 2, 1))).toBe(3);
    expect(await store.recordSpool(a, 's2', numbered(1))).toBe(1);
    expect(await store.recordSpool(agentId('b'), 's1', numbered(1))).toBe(1);
    expect(await store.recordSpool(a, 's1', numbered(7))).toBe(7);
    expect(await store.recordSpool(a, 's1', [])).toBe(7);
    const { items } = await store.searchAudit({}, 100, '');
    expect(items.map(({ subject, type }) => (type === 'workload.gap' ? 'gap' : subject))).toEqual(['n1', 'n2', 'n3', 'n1', 'n1', 'gap', 'n7']);
    expect(items[5]).toMatchObject({ subject: a, reason: 'audit.spool.gap', detail: { spool: 's1', from: 4, to: 6, count: 3 } });
  });
});
