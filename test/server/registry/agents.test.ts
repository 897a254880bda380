import { describe, expect, test } from 'vitest';

import { createAgentIndex, isActive } from '../../../server/registry/agents.ts';
import type { AgentFilter } from '../../../server/registry/agents.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { openTestRegistry } from '../../help/registry.ts';
import { agentId, agentOf, draftOf, scopeAt } from '../../help/store.ts';

const at = 1_000_000;
const idsOf = (agents: readonly { readonly id: string }[]) => agents.map(({ id }) => id.slice(id.lastIndexOf('/') + 1));

function filledIndex() {
  const index = createAgentIndex();
  const agents = [
    agentOf('first', at, { attestationType: 'join_token' }),
    agentOf('banned', at, { serial: '' }),
    agentOf('again', at, { canReattest: true, expiresAt: at + 10 }),
    agentOf('racked', at, { selectors: ['rack:1', 'row:2'].map(parseSelector) }),
  ];
  for (const agent of agents) index.apply({ noun: 'agent', revision: 0, id: agent.id, agent });
  return index;
}

describe('lists [SPIRE contract 5.4]', () => {
  const filters: readonly (readonly [string, AgentFilter, readonly string[]])[] = [
    ['nothing', {}, ['first', 'banned', 'again', 'racked']],
    ['attestation type', { attestationType: 'join_token' }, ['first']],
    ['banned', { banned: true }, ['banned']],
    ['not banned', { banned: false }, ['first', 'again', 'racked']],
    ['re-attestable', { canReattest: true }, ['again']],
    ['expiring', { expiresBefore: at + 11 }, ['again']],
    ['not yet expiring', { expiresBefore: at + 10 }, []],
    ['selectors', { selectors: { members: new Set([parseSelector('rack:1')]), behavior: 'superset' } }, ['racked']],
  ];
  test.each(filters)('filtered by %s, before the page is cut', (_name, filter, expected) => {
    const index = filledIndex();
    expect(idsOf(index.list(filter, 0, '').items)).toEqual(expected);
    expect(index.count(filter)).toBe(expected.length);
    const found: string[] = [];
    for (let page = index.list(filter, 1, ''); page.nextToken !== ''; page = index.list(filter, 1, page.nextToken)) {
      expect(page.items).toHaveLength(1);
      found.push(...idsOf(page.items));
    }
    expect(found).toEqual(expected);
  });

  test('an agent keeps its place while it changes, and goes to the end when it comes anew', () => {
    const index = filledIndex();
    index.apply({ noun: 'agent', revision: 0, id: agentId('first'), agent: agentOf('first', at, { serial: '9' }) });
    index.apply({ noun: 'agent', revision: 0, id: agentId('banned'), agent: undefined });
    index.apply({ noun: 'agent', revision: 0, id: agentId('banned'), agent: agentOf('banned', at) });
    expect(idsOf(index.list({}, 0, '').items)).toEqual(['first', 'again', 'racked', 'banned']);
    expect(() => index.list({}, 1, 'x')).toThrow(expect.objectContaining({ kind: 'internal', reason: 'agents.page-token' }));
  });
});

test.each([
  ['an SVID that lives', {}, true],
  ['one that ends now', { expiresAt: at }, false],
  ['a renewed one not used yet', { expiresAt: at, pendingSerial: '2', pendingExpiresAt: at + 1 }, true],
  ['banned', { serial: '' }, false],
] as const)('active: %s', (_name, fields, expected) => {
  expect(isActive(agentOf('a', at, fields), at)).toBe(expected);
});

describe('what an agent holds [SPIRE contract 6.1]', () => {
  test('aliases are granted by node selectors, follow their change, and end with the agent', async () => {
    const { store, registry, clock, admit } = await openTestRegistry();
    const selectors = ['rack:1', 'row:2'].map(parseSelector);
    await admit('a', { selectors });
    const created = await store.createEntries(
      [
        draftOf('/rack', '/spire/server', ['rack:1'], { id: 'alias' }),
        draftOf('/both', '/spire/server', ['rack:1', 'row:3'], { id: 'no-alias' }),
        draftOf('/web', '/rack', ['a:1'], { id: 'web' }),
        draftOf('/nested', '/web', ['a:1'], { id: 'nested' }),
        draftOf('/not', '/both', ['a:1'], { id: 'not' }),
      ],
      scopeAt(clock.now()),
    );
    expect(created.every(({ status }) => status === 'done')).toBe(true);
    const held = () => registry.holdings.authorizedEntries(agentId('a'), clock.now()).map(({ id }) => id).sort();
    const holds = (id: string) => registry.holdings.heldEntry(agentId('a'), id, clock.now())?.id;
    expect(held()).toEqual(['nested', 'web']);
    expect([holds('web'), holds('nested'), holds('not'), holds('alias'), holds('nobody')]).toEqual(['web', 'nested', undefined, undefined, undefined]);
    await store.updateEntries([{ id: 'no-alias', fields: { selectors: [parseSelector('row:2')] } }], scopeAt(clock.now()));
    expect(held()).toEqual(['nested', 'not', 'web']);
    await admit('a', { selectors: [parseSelector('row:2')] });
    expect(held()).toEqual(['not']);
    await clock.advance(3_600_000);
    expect([held(), holds('not')]).toEqual([[], undefined]);
  });

  test('a circle of parents ends, and belongs to whoever enters it', async () => {
    const { store, registry, clock, admit } = await openTestRegistry();
    await admit('a');
    await store.createEntries(
      [draftOf('/x', '/y', ['a:1'], { id: 'x' }), draftOf('/y', '/x', ['a:1'], { id: 'y' }), draftOf('/z', '/z', ['a:1'], { id: 'z' })],
      scopeAt(clock.now()),
    );
    const holds = (id: string) => registry.holdings.heldEntry(agentId('a'), id, clock.now())?.id;
    expect([holds('x'), holds('y'), holds('z')]).toEqual([undefined, undefined, undefined]);
    await store.createEntries([draftOf('/x', '/spire/agent/test/a', ['a:2'], { id: 'in' })], scopeAt(clock.now()));
    expect([holds('in'), holds('x'), holds('y'), holds('z')]).toEqual(['in', 'x', 'y', undefined]);
  });

  test('an entry is refused at the instant it expires, whether or not anybody noticed', async () => {
    const { store, registry, clock, admit } = await openTestRegistry();
    await admit('a');
    const expiresAt = clock.now() + 1_000;
    await store.createEntries([draftOf('/web', '/spire/agent/test/a', ['a:1'], { id: 'web', expiresAt }), draftOf('/sub', '/web', ['a:1'], { id: 'sub' })], scopeAt(clock.now()));
    const holds = (id: string, now: number) => registry.holdings.heldEntry(agentId('a'), id, now)?.id;
    expect([holds('web', expiresAt - 1), holds('sub', expiresAt - 1)]).toEqual(['web', 'sub']);
    expect([holds('web', expiresAt), holds('sub', expiresAt)]).toEqual([undefined, undefined]);
  });
});
