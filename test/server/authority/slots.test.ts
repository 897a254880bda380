import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { agentsThatPoll, planSlots, thoseWhoFetch, type Delivery, type SlotAction, type SlotPolicy } from '../../../server/authority/slots.ts';
import type { AuthorityRecord, AuthorityState } from '../../../server/store/store.ts';

const hour = 3_600_000;
const life = 24 * hour;
const policy: SlotPolicy = { absenceMs: 2 * hour, pollMs: 15_000, graceMs: 60_000 };
const nobody: Delivery = { unconfirmed: () => [], pollers: false };
const away: Delivery = { unconfirmed: (revision) => (revision >= 7 ? ['spiffe://example.org/spire/agent/a'] : []), pollers: false };
const polling: Delivery = { unconfirmed: () => [], pollers: true };

function record(id: string, state: AuthorityState, createdAt: number, fields: Partial<AuthorityRecord> = {}): AuthorityRecord {
  return {
    kind: 'x509',
    id,
    owner: 'server-1',
    keyName: `key-${id}`,
    keyType: 'ec-p256',
    state,
    publicKey: new Uint8Array(),
    certificate: undefined,
    createdAt,
    publishedAt: createdAt,
    publishedRevision: 7,
    activatedAt: state === 'prepared' ? undefined : createdAt,
    notBeforeAt: createdAt,
    expiresAt: createdAt + life,
    ...fields,
  };
}

const unpublished = { publishedAt: undefined, publishedRevision: undefined };
const active = record('a', 'active', 0);
const next = record('b', 'prepared', 12 * hour);

function told(actions: readonly SlotAction[]): readonly string[] {
  return actions.map((action) => {
    switch (action.type) {
      case 'prepare':
        return 'prepare';
      case 'activate':
        return `activate ${action.record.id} for ${action.retired?.id ?? 'none'}${action.unconfirmed.length > 0 ? ` without ${action.unconfirmed.join()}` : ''}`;
      default:
        return `${action.type} ${action.record.id}`;
    }
  });
}

describe('planSlots', () => {
  const rows: readonly {
    readonly name: string;
    readonly records: readonly AuthorityRecord[];
    readonly at: number;
    readonly delivery?: Delivery;
    readonly leadMs?: number;
    readonly due: readonly string[];
    readonly nextAt?: number;
  }[] = [
    { name: 'first start prepares', records: [], at: 0, due: ['prepare'] },
    { name: 'first start publishes before it activates', records: [record('a', 'prepared', 0, unpublished)], at: 0, due: ['publish a'] },
    { name: 'first start activates at once, whoever is away', records: [record('a', 'prepared', 0)], at: 0, delivery: away, due: ['activate a for none'] },
    { name: 'a young one is left alone until half of its life', records: [active], at: 1, due: [], nextAt: 12 * hour },
    { name: 'at half of its life the next is prepared', records: [active], at: 12 * hour, due: ['prepare'] },
    { name: 'what is prepared is published at once', records: [active, record('b', 'prepared', 12 * hour, unpublished)], at: 12 * hour, due: ['publish b'] },
    {
      name: 'a date without a revision is not published',
      records: [active, record('b', 'prepared', 12 * hour, { publishedRevision: undefined })],
      at: 23.9 * hour,
      due: ['publish b'],
    },
    { name: 'confirmed by all, it is activated', records: [active, next], at: 12 * hour, due: ['activate b for a'] },
    { name: 'agents away are waited for', records: [active, next], at: 12 * hour, delivery: away, due: [], nextAt: 14 * hour },
    {
      name: 'for the configured absence at most',
      records: [active, next],
      at: 14 * hour,
      delivery: away,
      due: ['activate b for a without spiffe://example.org/spire/agent/a'],
    },
    {
      name: 'for a sixth of its life at most',
      records: [record('a', 'active', 0, { expiresAt: 60_000 }), record('b', 'prepared', 30_000, { expiresAt: 90_000 })],
      at: 30_000,
      delivery: away,
      due: [],
      nextAt: 40_000,
    },
    {
      name: 'until five sixths of the life of the old one at most',
      records: [active, record('b', 'prepared', 19.5 * hour)],
      at: 19.5 * hour,
      delivery: away,
      due: [],
      nextAt: 20 * hour,
    },
    { name: 'agents that poll take three intervals', records: [active, next], at: 12 * hour, delivery: polling, due: [], nextAt: 12 * hour + 15_000 },
    { name: 'and then count as confirmed', records: [active, next], at: 12 * hour + 15_000, delivery: polling, due: ['activate b for a'] },
    {
      name: 'one that polls beside one that is away',
      records: [active, next],
      at: 12 * hour,
      delivery: { ...away, pollers: true },
      due: [],
      nextAt: 12 * hour + 15_000,
    },
    {
      name: 'a short life does not wait for those that poll',
      records: [record('a', 'active', 0, { expiresAt: 60_000 }), record('b', 'prepared', 30_000, { expiresAt: 90_000 })],
      at: 40_000,
      delivery: polling,
      due: [`activate b for a without ${agentsThatPoll}`],
    },
    { name: 'FED-02: all confirmed, but those who fetch have not had the time', records: [active, next], at: 12 * hour + 899_999, leadMs: 900_000, due: [], nextAt: 12 * hour + 900_000 },
    { name: 'FED-02: those who fetch had the time', records: [active, next], at: 12 * hour + 900_000, leadMs: 900_000, due: ['activate b for a'] },
    { name: 'FED-02: they are waited for longer than agents that are away', records: [active, next], at: 15 * hour, delivery: away, leadMs: 4 * hour, due: [], nextAt: 16 * hour },
    { name: 'FED-02: and no shorter', records: [active, next], at: 16 * hour, delivery: away, leadMs: 4 * hour, due: ['activate b for a without spiffe://example.org/spire/agent/a'] },
    { name: 'FED-02: an authority that ends is replaced, and it is told who was not waited for', records: [active, next], at: 20 * hour, leadMs: 10 * hour, due: [`activate b for a without ${thoseWhoFetch}`] },
    { name: 'one prepared early waits for half of the life of the active one', records: [active, record('b', 'prepared', hour)], at: 2 * hour, due: [], nextAt: 12 * hour },
    { name: 'an expired one is replaced at once', records: [active, next], at: 24 * hour, delivery: away, due: ['activate b for a'] },
    { name: 'an expired one without a next prepares', records: [active], at: 25 * hour, due: ['prepare'] },
    {
      name: 'a prepared one that expired is of no use',
      records: [record('a', 'active', 36 * hour), record('b', 'prepared', 0)],
      at: 37 * hour,
      due: ['forget b'],
    },
    { name: 'it is not activated even when nothing else is there', records: [record('b', 'prepared', 0)], at: 24 * hour, due: ['prepare'] },
    { name: 'an old one stays until its last credential expired', records: [record('o', 'old', 0), record('a', 'active', 20 * hour)], at: 24 * hour, due: [], nextAt: 24 * hour + 60_000 },
    { name: 'and is then forgotten', records: [record('o', 'old', 0), record('a', 'active', 20 * hour)], at: 24 * hour + 60_000, due: ['forget o'] },
    {
      name: 'succession comes before forgetting',
      records: [record('o', 'old', -20 * hour), record('a', 'active', 0)],
      at: 12 * hour,
      due: ['prepare', 'forget o'],
    },
    { name: 'an expired active one is never forgotten', records: [active, record('b', 'prepared', 30 * hour, unpublished)], at: 30 * hour, due: ['publish b'] },
  ];
  it.each(rows)('$name', ({ records, at, delivery = nobody, leadMs = 0, due, nextAt }) => {
    const plan = planSlots(records, at, { ...policy, leadMs }, delivery);
    expect(told(plan.due)).toEqual(due);
    expect(plan.nextAt).toBe(nextAt);
  });

  it('always has one published and valid authority to sign with, whatever the agents do and whenever it is asked', () => {
    const schedule = fc.record({
      lifeMs: fc.integer({ min: 60_000, max: 2 * life }),
      absenceMs: fc.integer({ min: 0, max: 2 * life }),
      leadMs: fc.integer({ min: 0, max: life }),
      /** How late each look comes, and what is known of the agents then. */
      looks: fc.array(fc.record({ lateMs: fc.integer({ min: 0, max: 2_000 }), away: fc.boolean(), pollers: fc.boolean() }), { minLength: 20, maxLength: 60 }),
    });
    fc.assert(
      fc.property(schedule, ({ lifeMs, absenceMs, leadMs, looks }) => {
        const settings = { ...policy, absenceMs, leadMs };
        const world = simulate(lifeMs);
        let at = 1_000_000;
        for (const look of looks) {
          const delivery: Delivery = { unconfirmed: () => (look.away ? ['a'] : []), pollers: look.pollers };
          for (;;) {
            const plan = planSlots(world.records(), at, settings, delivery);
            const [action] = plan.due;
            if (action === undefined) {
              world.check(at);
              expect(plan.nextAt).toBeGreaterThan(at);
              at = (plan.nextAt ?? at) + look.lateMs;
              break;
            }
            world.perform(action, at);
          }
        }
        expect(world.activations).toBeGreaterThan(0);
      }),
      { numRuns: 300 },
    );
  });
});

/** Carries actions out and holds the rules that must hold after each. */
function simulate(lifeMs: number) {
  const records = new Map<string, AuthorityRecord>();
  let made = 0;
  let revision = 0;
  let activations = 0;
  const perform = (action: SlotAction, at: number): void => {
    switch (action.type) {
      case 'prepare': {
        made += 1;
        const id = `authority-${made}`;
        records.set(id, record(id, 'prepared', at, { ...unpublished, expiresAt: at + lifeMs }));
        break;
      }
      case 'publish':
        revision += 1;
        records.set(action.record.id, { ...action.record, publishedAt: at, publishedRevision: revision });
        break;
      case 'activate':
        expect(action.record.publishedRevision).toBeDefined();
        expect(action.record.expiresAt).toBeGreaterThan(at);
        // No gap: the one that leaves still counted.
        if (action.retired !== undefined) expect(action.retired.expiresAt).toBeGreaterThan(at);
        if (action.retired !== undefined) records.set(action.retired.id, { ...action.retired, state: 'old' });
        records.set(action.record.id, { ...action.record, state: 'active', activatedAt: at });
        activations += 1;
        break;
      case 'forget':
        expect(action.record.state).not.toBe('active');
        expect(action.record.expiresAt).toBeLessThan(at);
        records.delete(action.record.id);
    }
    const signing = [...records.values()].filter(({ state }) => state === 'active');
    expect(signing.length).toBe(activations === 0 ? 0 : 1);
  };
  const check = (at: number): void => {
    const [signing] = [...records.values()].filter(({ state }) => state === 'active');
    expect(signing?.publishedAt).toBeDefined();
    expect(signing?.expiresAt).toBeGreaterThan(at);
    expect(signing?.notBeforeAt).toBeLessThanOrEqual(at);
  };
  return {
    records: () => [...records.values()],
    perform,
    check,
    get activations() {
      return activations;
    },
  };
}
