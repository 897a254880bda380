import { describe, expect, test } from 'vitest';

import { openSqliteStore } from '../../../server/store/sqlite.ts';
import type { EntryOutcome, Store } from '../../../server/store/store.ts';
import { composeBundle } from '../../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { createTestClock } from '../../help/clock.ts';
import { draftOf, exampleOrg, idOf, openTestStore, scopeAt, storePath } from '../../help/store.ts';

const clock = createTestClock(Date.UTC(2026, 0, 1, 12, 0, 0, 789));
const at = clock.now();
const scope = scopeAt(at);
const parent = '/spire/agent/test/a';
const partner = parseTrustDomain('partner.example');

function done(outcome: EntryOutcome | undefined): RegistrationEntry {
  if (outcome?.status !== 'done') throw new Error(`outcome ${JSON.stringify(outcome)}`);
  return outcome.entry;
}

async function entriesOf(store: Store): Promise<readonly RegistrationEntry[]> {
  const entries: RegistrationEntry[] = [];
  await store.loadEntries((batch) => void entries.push(...batch.map(({ entry }) => entry)));
  return entries;
}

function partnerBundle() {
  return composeBundle({ trustDomain: partner, x509Authorities: [], jwtAuthorities: [], refreshHintSeconds: 300, sequence: 2n ** 63n });
}

describe('entries', () => {
  test('every field comes back as it was given, frozen', async () => {
    const store = await openTestStore({ path: await storePath() });
    await store.writeBundle(partnerBundle(), 'create', scope);
    const fields = {
      id: 'prefix.my-id_1',
      x509SvidTtlSeconds: 61,
      jwtSvidTtlSeconds: 2_147_483_647,
      federatesWith: [partner, exampleOrg],
      dnsNames: ['b.example.org', 'a.example.org'],
      admin: true,
      downstream: true,
      storeSvid: true,
      hint: 'quotes " \\ and \u{1f511}',
      jwtSvidIncludeJti: true,
      forbidCache: true,
      expiresAt: at + 5_000,
    };
    const draft = draftOf('/web', parent, ['k8s:pod:b', 'k8s:"quoted"\\', 'k8s:pod:a'], fields);
    const created = done((await store.createEntries([draft], scope))[0]);
    expect(created).toEqual({ ...draft, createdAt: Math.floor(at / 1000) * 1000, revisionNumber: 0 });
    const [loaded] = await entriesOf(store);
    expect(loaded).toEqual(created);
    expect([created, loaded].every((entry) => Object.isFrozen(entry) && Object.isFrozen(entry?.selectors))).toBe(true);
    expect(created.selectors).toEqual(['k8s:pod:b', 'k8s:"quoted"\\', 'k8s:pod:a']);
  });

  test('each item of a batch is done or refused on its own', async () => {
    const store = await openTestStore();
    const web = draftOf('/web', parent, ['a:1', 'b:2'], { id: 'web' });
    const outcomes = await store.createEntries(
      [
        web,
        draftOf('/web', parent, ['b:2', 'a:1']),
        draftOf('/api', parent, ['a:1'], { id: 'web' }),
        draftOf('/api', parent, ['a:1'], { federatesWith: [partner] }),
        draftOf('/api', parent, ['a:1'], { federatesWith: [exampleOrg] }),
      ],
      scope,
    );
    expect(outcomes.map(({ status }) => status)).toEqual(['done', 'similar', 'refused', 'refused', 'done']);
    expect(outcomes[1]).toMatchObject({ entry: { id: 'web' } });
    expect(outcomes[2]).toMatchObject({ error: { kind: 'exists', reason: 'entry.id.exists' } });
    expect(outcomes[3]).toMatchObject({
      error: { kind: 'internal', reason: 'entry.federated-bundle.missing', message: 'unable to find federated bundle "spiffe://partner.example"' },
    });
    expect(done(outcomes[4]).id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4/);
    expect(store.position.revision).toBe(2);
  });

  test('an update replaces the fields given and counts, whether it changes anything or not', async () => {
    const store = await openTestStore();
    const [first] = await store.createEntries([draftOf('/web', parent, ['a:1']), draftOf('/api', parent, ['a:1'])], scope);
    const { id } = done(first);
    const later = scopeAt(at + 60_000);
    const hinted = done((await store.updateEntries([{ id, fields: { hint: 'blue', spiffeId: idOf('/green') } }], later))[0]);
    expect(hinted).toEqual({ ...done(first), hint: 'blue', spiffeId: idOf('/green'), revisionNumber: 1 });
    expect(done((await store.updateEntries([{ id, fields: {} }], later))[0]).revisionNumber).toBe(2);
    const outcomes = await store.updateEntries(
      [
        { id, fields: { spiffeId: idOf('/api') } },
        { id: 'nobody', fields: {} },
        { id, fields: { selectors: [parseSelector('x:1'), parseSelector('y:1')], storeSvid: true } },
      ],
      later,
    );
    expect(outcomes.map(({ status }) => status)).toEqual(['similar', 'refused', 'refused']);
    expect(outcomes[1]).toMatchObject({ error: { kind: 'missing', reason: 'entry.missing' } });
    expect(outcomes[2]).toMatchObject({ error: { kind: 'invalid', reason: 'entry.store-svid.selector-types' } });
    expect((await entriesOf(store)).find((entry) => entry.id === id)).toMatchObject({ revisionNumber: 2, spiffeId: idOf('/green') });
  });

  test('each change leaves a numbered reference and an event with the number in it', async () => {
    const store = await openTestStore();
    const [web] = await store.createEntries([draftOf('/web', parent, ['a:1'], { id: 'w', expiresAt: at + 10 }), draftOf('/api', parent, ['a:2'], { id: 'a' })], scope);
    await store.updateEntries([{ id: 'a', fields: { hint: 'h' } }, { id: 'a', fields: { parentId: idOf('/other') } }], scope);
    expect(await store.deleteEntries(['a', 'a', 'nobody'], scope)).toEqual([
      { status: 'done', id: 'a' },
      { status: 'missing', id: 'a' },
      { status: 'missing', id: 'nobody' },
    ]);
    expect(await store.pruneEntries(10, scopeAt(at + 9))).toBe(0);
    expect(await store.pruneEntries(10, scopeAt(at + 10))).toBe(1);
    expect((await store.changesSince(0, 100))?.map(({ revision, id, structural }) => [revision, id, structural])).toEqual([
      [1, 'w', false],
      [2, 'a', false],
      [3, 'a', false],
      [4, 'a', true],
      [5, 'a', true],
      [6, 'w', true],
    ]);
    expect(await store.changesSince(4, 1)).toMatchObject([{ revision: 5 }]);
    expect(await store.changesSince(6, 100)).toEqual([]);
    expect(await store.changesSince(7, 100)).toBeUndefined();
    const { items } = await store.searchAudit({}, 100, '');
    expect(items.map(({ number, type, subject, detail }) => [number, type, subject, detail['revision']])).toEqual([
      [1, 'entry.created', 'w', 1],
      [2, 'entry.created', 'a', 2],
      [3, 'entry.updated', 'a', 3],
      [4, 'entry.updated', 'a', 4],
      [5, 'entry.deleted', 'a', 5],
      [6, 'entry.expired', 'w', 6],
    ]);
    expect(items[0]).toMatchObject({ actor: scope.actor, call: scope.call, outcome: 'done', at, detail: { spiffeId: idOf('/web'), parentId: done(web).parentId, selectors: ['a:1'] } });
  });

  test('pruning takes no more than it is told', async () => {
    const store = await openTestStore();
    await store.createEntries(Array.from({ length: 7 }, (_, index) => draftOf(`/w${index}`, parent, ['a:1'], { expiresAt: at + 1 })), scope);
    const later = scopeAt(at + 2);
    expect([await store.pruneEntries(3, later), await store.pruneEntries(3, later), await store.pruneEntries(3, later)]).toEqual([3, 3, 1]);
  });

  test('loading passes over more than one page, in the order of creation', async () => {
    const store = await openTestStore({ path: await storePath() });
    const names = Array.from({ length: 4_500 }, (_, index) => `/w${index}`);
    for (let from = 0; from < names.length; from += 500) {
      await store.createEntries(names.slice(from, from + 500).map((name) => draftOf(name, parent)), scope);
    }
    expect((await entriesOf(store)).map(({ spiffeId }) => spiffeId)).toEqual(names.map(idOf));
  });

  test('a full store is unavailable and undoes the whole operation; with room again it goes on', async () => {
    const path = await storePath();
    const store = await openSqliteStore({ path, trustDomain: exampleOrg, clock, maxBytes: 400_000 });
    const long = 'x'.repeat(2_000);
    const many = Array.from({ length: 200 }, (_, index) => draftOf(`/many${index}`, parent, [`a:${long}${index}`]));
    await store.createEntries([draftOf('/web', parent)], scope);
    const heard: unknown[] = [];
    store.subscribe((batch) => heard.push(batch));
    const [full, small] = await Promise.allSettled([store.createEntries(many, scope), store.pruneEntries(1, scope)]);
    expect(full).toMatchObject({ status: 'rejected', reason: { kind: 'unavailable', reason: 'store.full' } });
    expect(small.status === 'fulfilled' || (small.reason as { reason: string }).reason === 'store.full').toBe(true);
    expect(heard).toEqual([]);
    expect(await store.createEntries([draftOf('/api', parent)], scope)).toMatchObject([{ status: 'done' }]);
    await store.close();
    const again = await openTestStore({ path });
    expect((await entriesOf(again)).map(({ spiffeId }) => spiffeId)).toEqual([idOf('/web'), idOf('/api')]);
    expect(again.position.revision).toBe(2);
    expect((await again.createEntries(many, scope)).every(({ status }) => status === 'done')).toBe(true);
  });
});
