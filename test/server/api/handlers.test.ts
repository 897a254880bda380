import { Metadata } from '@grpc/grpc-js';
import { describe, expect, it } from 'vitest';
import { loadServices } from '../../../proto/load.ts';
import type { CallContext } from '../../../runtime/rpc/handlers.ts';
import { createBudgets, defaultBudgetRates } from '../../../server/api/budget.ts';
import type { Caller, Connection } from '../../../server/api/caller.ts';
import { createGate, type Handlers } from '../../../server/api/handlers.ts';
import type { AuditEvent } from '../../../server/audit/event.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { createTestClock } from '../../help/clock.ts';
import { agentId, agentOf } from '../../help/store.ts';

const { 'steeple.node.v1.Node': service } = loadServices('steeple.node.v1.Node');
const agent = agentOf('a', 0);
const asAgent: Connection = { door: 'tcp', address: '192.0.2.1', identity: { id: agentId('a'), serial: '1001', expiresAt: 1 } };
const stranger: Connection = { door: 'tcp', address: '192.0.2.1', identity: undefined };

function openGate() {
  const clock = createTestClock();
  const recorded: AuditEvent[] = [];
  const seen: Caller[] = [];
  const gate = createGate({
    clock,
    standing: {
      isAdmin: () => false,
      isDownstream: () => false,
      async authorizeAgent({ serial }) {
        if (serial !== '1001') throw new SpiffeError('denied', 'agent.banned', 'agent is banned');
        return agent;
      },
    },
    budgets: createBudgets(clock, () => ({ ...defaultBudgetRates, signing: 3 })),
    record: async (events) => void recorded.push(...events),
  });
  const answer = async (_: unknown, caller: Caller) => {
    seen.push(caller);
    return {};
  };
  const handlers = { Behind: answer, Issue: answer, Report: answer, Follow: () => [] } as unknown as Handlers<'steeple.node.v1.Node'>;
  const { handlers: wired } = gate.service(service, handlers);
  const call = async (name: 'Issue' | 'Report', request: object, connection: Connection) => {
    const context: CallContext<Connection> = {
      signal: new AbortController().signal,
      connection,
      metadata: new Metadata(),
      method: `/steeple.node.v1.Node/${name}`,
      requestId: 'r',
      deadlineAt: undefined,
    };
    await gate.access(context);
    return (wired[name] as (request: object, call: typeof context) => Promise<object>)(request, context);
  };
  return { gate, call, recorded, seen, wired };
}

describe('the gate', () => {
  it('hands the admitted caller to the handler', async () => {
    const { call, seen } = openGate();
    await call('Report', {}, asAgent);
    expect(seen.map(({ role, id }) => [role, id])).toEqual([['agent', agent.id]]);
  });

  it('T-J06 records a refusal before it is answered, and runs nothing', async () => {
    const { call, recorded, seen } = openGate();
    await expect(call('Report', {}, stranger)).rejects.toMatchObject({ kind: 'denied', reason: 'access.denied' });
    expect(recorded).toEqual([
      expect.objectContaining({ type: 'call.denied', actor: 'stranger:192.0.2.1', call: '/steeple.node.v1.Node/Report', outcome: 'refused', reason: 'access.denied' }),
    ]);
    expect(seen).toEqual([]);
  });

  it('spire-wire 5.1: an agent is told the same sentence whatever is wrong, and the reason apart from it', async () => {
    const { call } = openGate();
    const banned: Connection = { ...asAgent, identity: { id: agentId('a'), serial: '9', expiresAt: 1 } };
    await expect(call('Report', {}, banned)).rejects.toMatchObject({
      reason: 'access.agent-banned',
      message: 'authorization denied for method /steeple.node.v1.Node/Report',
    });
  });

  it('T-H02 charges a batch by its items', async () => {
    const { call, recorded, seen } = openGate();
    await expect(call('Issue', { x509: [1, 2], jwt: [3, 4] }, asAgent)).rejects.toMatchObject({ reason: 'access.budget.burst' });
    expect(recorded.map(({ type }) => type)).toEqual(['call.limited']);
    await call('Issue', { x509: [1, 2], jwt: [3] }, asAgent);
    expect(seen).toHaveLength(1);
  });

  it('a call that was not admitted reaches no handler', async () => {
    const { wired } = openGate();
    const handler = wired['Report'] as (request: object, call: object) => Promise<object>;
    await expect(handler({}, { method: '/steeple.node.v1.Node/Report', connection: asAgent })).rejects.toMatchObject({ reason: 'access.not-admitted' });
  });
});
