import { describe, expect, test } from 'vitest';

import type { AuditEvent } from '../../../server/audit/event.ts';
import type { CredentialFilter } from '../../../server/store/store.ts';
import { createTestClock } from '../../help/clock.ts';
import { agentId, idOf, intentOf, openTestStore, scopeAt, storePath } from '../../help/store.ts';

const at = createTestClock().now();
const scope = scopeAt(at);

function event(subject: string, witnessedAt: number): AuditEvent {
  return { type: 'workload.attested', at: witnessedAt, actor: agentId('a'), call: '', outcome: 'done', reason: '', subject, detail: {} };
}

describe('ledger', () => {
  test('intents are all recorded or none, and come back whole', async () => {
    const store = await openTestStore({ path: await storePath() });
    const intent = intentOf(at, { kind: 'jwt', audience: ['a', '"b"'], entryId: 'e1', agentId: agentId('a'), process: 'pid=1,uid=2,path=/x' });
    await store.recordIntents([intent]);
    expect(await store.getCredential(intent.id)).toEqual({ ...intent, state: 'intent' });
    expect(await store.getCredential('nobody')).toBeUndefined();
    await expect(store.recordIntents([intentOf(at, { id: 'new' }), intent])).rejects.toMatchObject({ kind: 'exists', reason: 'ledger.exists' });
    expect(await store.getCredential('new')).toBeUndefined();
  });

  const filters: readonly (readonly [string, CredentialFilter, readonly string[]])[] = [
    ['kind', { kind: 'jwt' }, ['j']],
    ['SPIFFE ID', { spiffeId: idOf('/api') }, ['s']],
    ['entry', { entryId: 'e1' }, ['both', 'e']],
    ['agent', { agentId: agentId('a') }, ['both', 'a']],
    ['entry and agent', { entryId: 'e1', agentId: agentId('a') }, ['both']],
    ['unexpired', { unexpiredAt: at }, ['both', 'a', 'e', 's', 'j']],
    ['all', {}, ['over', 'both', 'a', 'e', 's', 'j']],
  ];
  test.each(filters)('is searched by %s, page by page', async (_name, filter, expected) => {
    const store = await openTestStore();
    await store.recordIntents([
      intentOf(at, { id: 'j', kind: 'jwt' }),
      intentOf(at, { id: 's', spiffeId: idOf('/api') }),
      intentOf(at, { id: 'e', entryId: 'e1' }),
      intentOf(at, { id: 'a', agentId: agentId('a') }),
      intentOf(at, { id: 'both', entryId: 'e1', agentId: agentId('a') }),
      intentOf(at, { id: 'over', expiresAt: at }),
    ]);
    const found: string[] = [];
    let token = '';
    do {
      const page = await store.listCredentials(filter, 2, token);
      expect(page.items.length).toBeLessThanOrEqual(2);
      found.push(...page.items.map(({ id }) => id));
      token = page.nextToken;
    } while (token !== '');
    expect(found).toEqual(expected);
    await expect(store.listCredentials(filter, 2, '1 OR 1=1')).rejects.toMatchObject({ kind: 'invalid', reason: 'store.page-token' });
  });
});

test('pruning takes a little at a time, keeps what is young, and is itself on record', async () => {
  const store = await openTestStore();
  await store.recordIntents(Array.from({ length: 5 }, (_, index) => intentOf(at, { id: `old${index}`, expiresAt: at - 10 })));
  await store.recordIntents([intentOf(at, { id: 'young' })]);
  await store.recordAudit([event('old', at - 10), event('young', at)]);
  await store.createJoinToken({ hash: 'h', expiresAt: at, agentId: undefined }, scopeAt(at - 5));
  const before = { credentialsExpired: at, auditAt: at - 6 };
  expect(await store.pruneRecords(before, 3, scope)).toEqual({ credentials: 3, events: 1 });
  expect(await store.pruneRecords(before, 3, scope)).toEqual({ credentials: 2, events: 0 });
  expect(await store.pruneRecords(before, 3, scope)).toEqual({ credentials: 0, events: 0 });
  expect((await store.listCredentials({}, 10, '')).items.map(({ id }) => id)).toEqual(['young']);
  const { items } = await store.searchAudit({}, 10, '');
  expect(items.map(({ type }) => type)).toEqual(['workload.attested', 'token.created', 'token.expired', 'record.pruned', 'record.pruned']);
});
