import { generateKeyPairSync } from 'node:crypto';

import { describe, expect, test } from 'vitest';

import type { CommittedChange, EntryOutcome, Relationship } from '../../../server/store/store.ts';
import { type Bundle, composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { parseSpiffeId, parseTrustDomain } from '../../../spiffe/id.ts';
import { createTestClock } from '../../help/clock.ts';
import { draftOf, openTestStore, scopeAt, storePath } from '../../help/store.ts';

const at = createTestClock().now();
const scope = scopeAt(at);
const partner = parseTrustDomain('partner.example');
const byWeb: Relationship = { trustDomain: partner, endpointUrl: 'https://partner.example/bundle', profile: { type: 'https_web' } };
const endpointId = parseSpiffeId('spiffe://partner.example/endpoint');
const bySpiffe: Relationship = { ...byWeb, profile: { type: 'https_spiffe', endpointId } };

function bundleOf(sequence: bigint, ...keyIds: string[]): Bundle {
  const jwtAuthorities = keyIds.map((keyId) => {
    const publicKey = new Uint8Array(generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ type: 'spki', format: 'der' }));
    return { keyId, publicKey, expiresAt: undefined, tainted: false };
  });
  return composeBundle({ ...emptyBundle(partner), jwtAuthorities, sequence });
}

function statusOf(outcomes: readonly EntryOutcome[]): string | undefined {
  const [outcome] = outcomes;
  return outcome?.status === 'refused' ? outcome.error.reason : outcome?.status;
}

describe('relationships', () => {
  test('are kept in the order of creation, with numbered changes and audit events, over a restart', async () => {
    const path = await storePath();
    const store = await openTestStore({ path });
    const changes: CommittedChange[] = [];
    store.subscribe((batch) => void changes.push(...batch.changes));
    const other = { ...bySpiffe, trustDomain: parseTrustDomain('other.example') };
    const first = await store.createRelationship(bySpiffe, undefined, scope);
    const second = await store.createRelationship(other, undefined, scope);
    expect(first).toEqual({ ...bySpiffe, row: 1, createdAt: at, refreshedAt: undefined });
    await expect(store.createRelationship(byWeb, bundleOf(1n), scope)).rejects.toMatchObject({ reason: 'relationship.exists' });
    expect(await store.loadBundles()).toEqual([]);
    const updated = await store.updateRelationship(partner, { profile: { type: 'https_web' } }, undefined, scope);
    expect(updated).toMatchObject(byWeb);
    await store.deleteRelationship(other.trustDomain, scope);
    await expect(store.deleteRelationship(other.trustDomain, scope)).rejects.toMatchObject({ reason: 'relationship.missing' });
    await expect(store.updateRelationship(other.trustDomain, {}, undefined, scope)).rejects.toMatchObject({ reason: 'relationship.missing' });
    expect(changes.map((change) => (change.noun === 'relationship' ? change.relationship : change.noun))).toEqual([first, second, updated, undefined]);
    const { items } = await store.searchAudit({ newestFirst: false }, 10, '');
    expect(items.map(({ type, subject }) => `${type} ${subject}`)).toEqual([
      'relationship.created partner.example',
      'relationship.created other.example',
      'relationship.updated partner.example',
      'relationship.deleted other.example',
    ]);
    expect(items[0]?.detail).toEqual({ endpointUrl: byWeb.endpointUrl, profile: 'https_spiffe', endpointId });
    await store.close();
    const again = await openTestStore({ path });
    expect(await again.loadRelationships()).toEqual([updated]);
    // Numbers are not used twice, so that pages cut by them stay in order.
    expect(await again.createRelationship(other, undefined, scope)).toMatchObject({ row: 3 });
  });

  test('FED-21: a bootstrap bundle is set in the same transaction', async () => {
    const store = await openTestStore();
    const bootstrap = bundleOf(3n, 'a');
    await store.createRelationship(bySpiffe, bootstrap, scope);
    expect(await store.loadBundles()).toEqual([bootstrap]);
    const next = bundleOf(1n, 'b');
    await store.updateRelationship(partner, {}, next, scope);
    expect(await store.loadBundles()).toEqual([next]);
  });
});

describe('a fetched bundle', () => {
  test('FED-07: takes the place of the stored one whole', async () => {
    const store = await openTestStore();
    await store.createRelationship(byWeb, bundleOf(1n, 'a', 'b'), scope);
    const fetched = bundleOf(2n, 'c');
    const outcome = await store.refreshBundle(byWeb, fetched, { ...scope, at: at + 5 });
    expect(outcome).toMatchObject({ status: 'changed', bundle: fetched });
    expect(await store.loadBundles()).toEqual([fetched]);
    expect(await store.loadRelationships()).toMatchObject([{ refreshedAt: at + 5 }]);
  });

  test('T-17: without keys is a revocation, and taken', async () => {
    const store = await openTestStore();
    await store.createRelationship(byWeb, bundleOf(1n, 'a'), scope);
    await store.refreshBundle(byWeb, bundleOf(2n), scope);
    expect(await store.loadBundles()).toEqual([bundleOf(2n)]);
  });

  test('that says nothing new changes nothing but when it was fetched', async () => {
    const store = await openTestStore();
    const bundle = bundleOf(1n, 'a');
    await store.createRelationship(byWeb, bundle, scope);
    const { revision } = store.position;
    expect(await store.refreshBundle(byWeb, bundle, { ...scope, at: at + 9 })).toMatchObject({ status: 'unchanged' });
    expect(store.position.revision).toBe(revision);
    expect(await store.loadRelationships()).toMatchObject([{ refreshedAt: at + 9 }]);
  });

  test.each([
    ['lower', 5n, 4n, 'refused'],
    ['higher', 5n, 6n, 'changed'],
    ['equal, with another content', 5n, 5n, 'changed'],
    ['none', 5n, 0n, 'changed'],
    ['beyond 2^53, lower by one', 2n ** 64n - 1n, 2n ** 64n - 2n, 'refused'],
    ['one, after none', 0n, 1n, 'changed'],
  ] as const)('FED-05: sequence %s', async (_name, stored, fetched, expected) => {
    const store = await openTestStore();
    const before = bundleOf(stored, 'a');
    const after = bundleOf(fetched, 'b');
    await store.createRelationship(byWeb, before, scope);
    const refreshing = store.refreshBundle(byWeb, after, { ...scope, at: at + 5 });
    if (expected === 'refused') {
      await expect(refreshing).rejects.toMatchObject({ kind: 'conflict', reason: 'relationship.sequence-behind' });
      expect(await store.loadBundles()).toEqual([before]);
      expect(await store.loadRelationships()).toMatchObject([{ refreshedAt: undefined }]);
      return;
    }
    expect(await refreshing).toMatchObject({ status: expected });
    const { items } = await store.searchAudit({ type: 'bundle.refreshed' }, 10, '');
    expect(items).toMatchObject([{ subject: partner, detail: { sameSequence: stored === fetched, jwtAuthorities: ['b'] } }]);
  });

  test('FED-06: what an operator set stands until the next one, also with a lower sequence', async () => {
    const store = await openTestStore();
    await store.createRelationship(byWeb, bundleOf(9n, 'a'), scope);
    await store.writeBundle(bundleOf(2n, 'operators'), 'set', scope);
    const fetched = bundleOf(3n, 'b');
    expect(await store.refreshBundle(byWeb, fetched, scope)).toMatchObject({ status: 'changed' });
    expect(await store.loadBundles()).toEqual([fetched]);
  });

  test('FED-05: an operator’s changes do not count as the publisher’s', async () => {
    const store = await openTestStore();
    await store.createRelationship(byWeb, undefined, scope);
    await store.refreshBundle(byWeb, bundleOf(5n, 'a'), scope);
    for (const name of ['x', 'y', 'z']) await store.writeBundle(bundleOf(0n, name), 'update', scope);
    expect(await store.loadBundles()).toMatchObject([{ sequence: 8n }]);
    await expect(store.refreshBundle(byWeb, bundleOf(4n, 'b'), scope)).rejects.toMatchObject({ reason: 'relationship.sequence-behind' });
    expect(await store.refreshBundle(byWeb, bundleOf(6n, 'b'), scope)).toMatchObject({ status: 'changed', bundle: { sequence: 6n } });
  });

  test('FED-05: begins anew after its bundle was deleted', async () => {
    const store = await openTestStore();
    await store.createRelationship(byWeb, bundleOf(9n, 'a'), scope);
    await store.deleteBundle(partner, 'restrict', scope);
    expect(await store.refreshBundle(byWeb, bundleOf(1n, 'b'), scope)).toMatchObject({ status: 'changed' });
  });

  test('FED-28: of a relationship that ended, or has another endpoint now, is dropped', async () => {
    const store = await openTestStore();
    await store.createRelationship(byWeb, undefined, scope);
    await store.updateRelationship(partner, { endpointUrl: 'https://elsewhere.example/' }, undefined, scope);
    expect(await store.refreshBundle(byWeb, bundleOf(1n, 'a'), scope)).toEqual({ status: 'ended' });
    await store.deleteRelationship(partner, scope);
    expect(await store.refreshBundle(byWeb, bundleOf(1n, 'a'), scope)).toEqual({ status: 'ended' });
    expect(await store.loadBundles()).toEqual([]);
  });

  test('FED-07: that names another trust domain than the relationship is dropped', async () => {
    const store = await openTestStore();
    await store.createRelationship(byWeb, undefined, scope);
    const foreign = composeBundle({ ...bundleOf(1n, 'a'), trustDomain: parseTrustDomain('other.example') });
    expect(await store.refreshBundle(byWeb, foreign, scope)).toEqual({ status: 'ended' });
    expect(await store.loadBundles()).toEqual([]);
  });
});

describe('entries', () => {
  const draft = draftOf('/web', '/spire/agent/test/a', ['a:1'], { federatesWith: [partner] });

  test('may name a trust domain whose bundle is still to come, and no other', async () => {
    const store = await openTestStore();
    expect(statusOf(await store.createEntries([draft], scope))).toBe('entry.federated-bundle.missing');
    await store.createRelationship(byWeb, undefined, scope);
    const [created] = await store.createEntries([draft], scope);
    expect(created).toMatchObject({ status: 'done' });
    // Once the relationship is gone it may still be changed, but not come to name more.
    await store.deleteRelationship(partner, scope);
    const id = created?.status === 'done' ? created.entry.id : '';
    expect(statusOf(await store.updateEntries([{ id, fields: { hint: 'x' } }], scope))).toBe('done');
    await expect(store.deleteBundle(partner, 'restrict', scope)).rejects.toMatchObject({ reason: 'bundle.missing' });
    const more = [partner, parseTrustDomain('more.example')];
    expect(statusOf(await store.updateEntries([{ id, fields: { federatesWith: more } }], scope))).toBe('entry.federated-bundle.missing');
    // What never came is ended as what came.
    await store.deleteBundle(partner, 'dissociate', scope);
    expect(await store.updateEntries([{ id, fields: {} }], scope)).toMatchObject([{ status: 'done', entry: { federatesWith: [] } }]);
    await expect(store.deleteBundle(partner, 'dissociate', scope)).rejects.toMatchObject({ reason: 'bundle.missing' });
  });
});
