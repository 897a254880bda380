import { setImmediate as nextTurn } from 'node:timers/promises';

import { describe, expect, test } from 'vitest';

import { createEntryRules } from '../../../server/registry/entries.ts';
import { pruneOnce, runPruning } from '../../../server/registry/prune.ts';
import { createFaultyStore } from '../../help/faults.ts';
import { openTestRegistry } from '../../help/registry.ts';
import { draftOf, exampleOrg, intentOf, scopeAt } from '../../help/store.ts';

const parent = '/spire/agent/test/a';

describe('the rules of entries', () => {
  test('outcomes keep the order of what was asked, over batches and refusals', async () => {
    const { store, registry, clock } = await openTestRegistry();
    const rules = createEntryRules({ trustDomain: exampleOrg, store, entries: registry.entries });
    const drafts = Array.from({ length: 1_100 }, (_, at) => draftOf(`/w${at}`, parent, ['a:1'], { id: `e${at}` }));
    const wrong = { ...draftOf('/wrong', parent), selectors: [] };
    const outcomes = await rules.create([drafts[0]!, wrong, ...drafts.slice(1), wrong], scopeAt(clock.now()));
    expect(outcomes).toHaveLength(1_102);
    expect([outcomes[1], outcomes[1_101]]).toMatchObject(Array(2).fill({ status: 'refused', error: { kind: 'invalid', reason: 'entry.selectors.missing' } }));
    const made = outcomes.flatMap((outcome) => (outcome.status === 'done' ? [outcome.entry.id] : []));
    expect(made).toEqual(drafts.map(({ id }) => id));
    const deleted = await rules.delete(['e5', 'nobody', 'e6'], scopeAt(clock.now()));
    expect(deleted.map(({ status }) => status)).toEqual(['done', 'missing', 'done']);
    expect(registry.entries.size).toBe(1_098);
  });

  test('beyond the cap items are refused with the reason, and what fits is done', async () => {
    const { store, registry, clock } = await openTestRegistry({ maxEntries: 2 });
    const rules = createEntryRules({ trustDomain: exampleOrg, store, entries: registry.entries });
    const create = (...names: string[]) => rules.create(names.map((name) => draftOf(name, parent)), scopeAt(clock.now()));
    expect(await create('/a', '/b', '/c')).toMatchObject(Array(3).fill({ status: 'refused', error: { kind: 'limited', reason: 'entries.cap' } }));
    expect(await create('/a', '/b')).toMatchObject([{ status: 'done' }, { status: 'done' }]);
    expect(await create('/c')).toMatchObject([{ status: 'refused' }]);
  });

  test('room that a failed write had reserved is given back', async () => {
    const { store, registry, clock } = await openTestRegistry({ maxEntries: 1 });
    const faulty = createFaultyStore(store);
    const rules = createEntryRules({ trustDomain: exampleOrg, store: faulty.store, entries: registry.entries });
    faulty.fail({ method: 'createEntries', call: 1, when: 'before' });
    const create = () => rules.create([draftOf('/a', parent)], scopeAt(clock.now()));
    await expect(create()).rejects.toMatchObject({ kind: 'unavailable', reason: 'store.full' });
    expect(await create()).toMatchObject([{ status: 'done' }]);
  });
});

describe('pruning', () => {
  test('goes on until nothing is due, and tries again after a failure', async () => {
    const { store, registry, clock } = await openTestRegistry();
    const faulty = createFaultyStore(store);
    const expiresAt = clock.now() + 1_000;
    const rules = createEntryRules({ trustDomain: exampleOrg, store, entries: registry.entries });
    await rules.create(Array.from({ length: 1_200 }, (_, at) => draftOf(`/w${at}`, parent, ['a:1'], { expiresAt })), scopeAt(clock.now()));
    faulty.fail({ method: 'pruneEntries', call: 2, when: 'before' });
    const failures: string[] = [];
    const stop = new AbortController();
    const options = { store: faulty.store, clock, onFailure: ({ reason }: { reason: string }) => void failures.push(reason) };
    const running = runPruning(options, stop.signal);
    // The store answers in its own time, so the clock is moved again and again rather than once.
    for (let turn = 0; failures.length === 0 || registry.entries.size > 0; turn += 1) {
      await nextTurn();
      if (turn % 20 === 19) await clock.advance(1_000);
    }
    expect(failures).toEqual(['store.full']);
    stop.abort(new Error('enough'));
    await expect(running).rejects.toThrow('enough');
  });

  test('keeps credentials 30 days past their end and no longer', async () => {
    const { store, clock } = await openTestRegistry();
    const signal = new AbortController().signal;
    await store.recordIntents([intentOf(clock.now(), { id: 'c', expiresAt: clock.now() })]);
    await clock.step(30 * 86_400_000);
    await pruneOnce({ store, clock }, signal);
    expect(await store.getCredential('c')).toBeDefined();
    await clock.step(1);
    await pruneOnce({ store, clock }, signal);
    expect(await store.getCredential('c')).toBeUndefined();
  });
});
