import { describe, expect, it } from 'vitest';
import { authorizeAgent, type StandingDeps } from '../../../server/admission/standing.ts';
import type { AgentRecord } from '../../../server/store/store.ts';
import { createTestClock } from '../../help/clock.ts';
import { agentOf } from '../../help/store.ts';

const clock = createTestClock();
const now = clock.now();

function standing(record: AgentRecord | undefined, promoted?: Partial<AgentRecord>) {
  const promotions: string[] = [];
  const deps: StandingDeps = {
    clock,
    agents: { get: () => record },
    store: {
      promoteAgent: async (id, serial) => {
        promotions.push(serial);
        return { ...agentOf('a', now), id, serial, ...promoted };
      },
    },
  };
  return { deps, promotions };
}

describe('authorizeAgent', () => {
  const { id } = agentOf('a', now);
  const good = { id, serial: '1001', expiresAt: now };
  const rows: readonly { readonly name: string; readonly record: AgentRecord | undefined; readonly shown: typeof good; readonly reason: string }[] = [
    { name: 'expired comes first', record: undefined, shown: { ...good, expiresAt: now - 1 }, reason: 'agent.expired' },
    { name: 'no record', record: undefined, shown: good, reason: 'agent.not-attested' },
    { name: 'banned', record: agentOf('a', now, { serial: '' }), shown: good, reason: 'agent.banned' },
    { name: 'banned with an empty serial shown', record: agentOf('a', now, { serial: '' }), shown: { ...good, serial: '' }, reason: 'agent.banned' },
    { name: 'an older serial', record: agentOf('a', now, { serial: '2' }), shown: good, reason: 'agent.not-active' },
    { name: 'nothing pending and nothing shown', record: agentOf('a', now), shown: { ...good, serial: '' }, reason: 'agent.not-active' },
  ];
  it.each(rows)('refuses: $name', async ({ record, shown, reason }) => {
    await expect(authorizeAgent(standing(record).deps, shown)).rejects.toMatchObject({ kind: 'denied', reason });
  });

  it('lets the current serial call, to the last millisecond', async () => {
    const record = agentOf('a', now);
    const { deps, promotions } = standing(record);
    expect(await authorizeAgent(deps, good)).toBe(record);
    expect(promotions).toEqual([]);
  });

  it('promotes a pending serial with its first use', async () => {
    const { deps, promotions } = standing(agentOf('a', now, { serial: '1', pendingSerial: '1001' }));
    expect(await authorizeAgent(deps, good)).toMatchObject({ serial: '1001' });
    expect(promotions).toEqual(['1001']);
  });

  it.each([
    ['banned', { serial: '' }, 'agent.banned'],
    ['attested anew', { serial: '7' }, 'agent.not-active'],
  ] as const)('T-B09: refuses an agent that was %s in between', async (_name, promoted, reason) => {
    const { deps } = standing(agentOf('a', now, { serial: '1', pendingSerial: '1001' }), promoted);
    await expect(authorizeAgent(deps, good)).rejects.toMatchObject({ kind: 'denied', reason });
  });
});
