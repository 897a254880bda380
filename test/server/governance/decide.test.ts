import { describe, expect, it } from 'vitest';
import { createDecisionId, decideIssuance, type Holdings } from '../../../server/governance/decide.ts';
import { composeEntry } from '../../../spiffe/entry.ts';
import { agentId, draftOf } from '../../help/store.ts';

const at = Date.UTC(2026, 0, 1);
const agent = agentId('a');
const entry = composeEntry(draftOf('/web', '/spire/agent/test/a', undefined, { expiresAt: at + 1000 }), { id: 'web', createdAt: at, revisionNumber: 3 });
const holdings: Holdings = { heldEntry: (asking, id) => (asking === agent && id === 'web' ? entry : undefined) };

describe('decideIssuance', () => {
  it('allows an entry that is active and held now, and says why', () => {
    expect(decideIssuance(holdings, { agentId: agent, entryId: 'web', at })).toMatchObject({ allowed: true, reason: 'held-by-agent', entry });
  });

  it.each([
    ['another agent', { agentId: agentId('b'), entryId: 'web', at }],
    ['another entry', { agentId: agent, entryId: 'db', at }],
    ['no entry', { agentId: agent, entryId: '', at }],
    ['an entry that is over', { agentId: agent, entryId: 'web', at: at + 1000 }],
  ])('T-B08: refuses %s with one and the same answer', (_name, input) => {
    expect(decideIssuance(holdings, input)).toMatchObject({
      allowed: false,
      reason: 'entry.not-held',
      error: { kind: 'missing', reason: 'entry.not-held', message: 'entry not found or not authorized', detail: {} },
    });
  });

  it('asks about the instant of the decision', () => {
    const asked: number[] = [];
    const heldEntry: Holdings['heldEntry'] = (_agent, _id, now) => {
      asked.push(now);
      return undefined;
    };
    decideIssuance({ heldEntry }, { agentId: agent, entryId: 'web', at: 42 });
    expect(asked).toEqual([42]);
  });
});

describe('createDecisionId', () => {
  it('sorts by time and never repeats', () => {
    const instants = [0, 1, at, at + 1, Date.UTC(2099, 0, 1)];
    const ids = instants.map(createDecisionId);
    expect(ids.toSorted()).toEqual(ids);
    expect(new Set(Array.from({ length: 1000 }, () => createDecisionId(at))).size).toBe(1000);
  });
});
