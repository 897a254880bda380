import { generateKeyPairSync } from 'node:crypto';

import { describe, expect, test } from 'vitest';

import type { CommittedChange } from '../../../server/store/store.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import type { JwtAuthority } from '../../../spiffe/bundle.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { createTestClock } from '../../help/clock.ts';
import { draftOf, exampleOrg, openTestStore, scopeAt, storePath } from '../../help/store.ts';

const at = createTestClock().now();
const scope = scopeAt(at);
const partner = parseTrustDomain('partner.example');
const parent = '/spire/agent/test/a';

function jwtAuthority(keyId: string, expiresAt: number | undefined): JwtAuthority {
  const publicKey = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ type: 'spki', format: 'der' });
  return { keyId, publicKey: new Uint8Array(publicKey), expiresAt, tainted: false };
}

describe('bundles', () => {
  test('the own bundle starts at 0, grows by what it lacks, and counts only when it changes', async () => {
    const store = await openTestStore({ path: await storePath() });
    const one = jwtAuthority('one', at + 1_000);
    expect(await store.appendBundle(exampleOrg, [], [one], scope)).toMatchObject({ sequence: 0n, jwtAuthorities: [one] });
    expect(await store.appendBundle(exampleOrg, [], [one], scope)).toMatchObject({ sequence: 0n });
    expect(store.position.revision).toBe(1);
    const two = jwtAuthority('two', undefined);
    expect(await store.appendBundle(exampleOrg, [], [two, one], scope)).toMatchObject({ sequence: 1n, jwtAuthorities: [one, two] });
    expect(await store.loadBundles()).toEqual([composeBundle({ ...emptyBundle(exampleOrg), jwtAuthorities: [one, two], sequence: 1n })]);
    expect(await store.pruneBundle(exampleOrg, at + 1_001, scope)).toBe(1);
    expect(await store.pruneBundle(exampleOrg, at + 1_001, scope)).toBe(0);
    expect(await store.loadBundles()).toMatchObject([{ sequence: 2n, jwtAuthorities: [two] }]);
  });

  test('WIT authorities are kept apart from those for JWT-SVIDs', async () => {
    const store = await openTestStore({ path: await storePath() });
    const [jwt, wit] = [jwtAuthority('jwt', undefined), jwtAuthority('wit', at + 2_000)];
    await store.stepAuthorities(exampleOrg, { upserts: [], forgotten: [], publish: { x509: [], jwt: [jwt], wit: [wit] }, events: [] }, scope);
    expect(await store.loadBundles()).toMatchObject([{ sequence: 0n, jwtAuthorities: [jwt], witAuthorities: [wit] }]);
    expect(await store.pruneBundle(exampleOrg, at + 2_001, scope)).toBe(1);
    expect(await store.loadBundles()).toMatchObject([{ sequence: 1n, jwtAuthorities: [jwt], witAuthorities: [] }]);
  });

  test('create, update and set each mind what is there', async () => {
    const store = await openTestStore();
    const bundle = composeBundle({ ...emptyBundle(partner), refreshHintSeconds: 10, sequence: 2n ** 64n - 1n });
    await expect(store.writeBundle(bundle, 'update', scope)).rejects.toMatchObject({ kind: 'missing', reason: 'bundle.missing' });
    expect(await store.writeBundle(bundle, 'create', scope)).toEqual(bundle);
    await expect(store.writeBundle(bundle, 'create', scope)).rejects.toMatchObject({ kind: 'exists', reason: 'bundle.exists' });
    expect(await store.writeBundle({ ...bundle, sequence: 5n }, 'set', scope)).toMatchObject({ sequence: 5n });
    expect(await store.writeBundle({ ...bundle, sequence: 99n, refreshHintSeconds: 20 }, 'update', scope)).toMatchObject({ sequence: 6n, refreshHintSeconds: 20 });
    const { revision } = store.position;
    await store.writeBundle({ ...bundle, sequence: 6n, refreshHintSeconds: 20 }, 'set', scope);
    expect(store.position.revision).toBe(revision);
  });

  test.each([
    ['restrict', 'conflict', []],
    ['delete', undefined, ['entry gone', 'bundle gone']],
    ['dissociate', undefined, ['entry ', 'bundle gone']],
  ] as const)('deleting in use: %s', async (how, refusedAs, expected) => {
    const store = await openTestStore();
    await store.writeBundle(emptyBundle(partner), 'create', scope);
    await store.createEntries([draftOf('/web', parent, ['a:1'], { federatesWith: [partner] }), draftOf('/api', parent, ['a:1'])], scope);
    const changes: CommittedChange[] = [];
    store.subscribe((batch) => void changes.push(...batch.changes));
    const deleted = store.deleteBundle(partner, how, scope);
    if (refusedAs === undefined) await deleted;
    else await expect(deleted).rejects.toMatchObject({ kind: refusedAs, reason: 'bundle.in-use' });
    const told = changes.map((change) => {
      if (change.noun === 'entry') return `entry ${change.entry?.federatesWith.join() ?? 'gone'}`;
      return change.noun === 'bundle' && change.bundle === undefined ? 'bundle gone' : change.noun;
    });
    expect(told).toEqual(expected);
    expect(await store.loadBundles()).toHaveLength(refusedAs === undefined ? 0 : 1);
    if (refusedAs === undefined) await expect(store.deleteBundle(partner, how, scope)).rejects.toMatchObject({ reason: 'bundle.missing' });
  });

  test('nothing in use stands in the way of restrict', async () => {
    const store = await openTestStore();
    await store.writeBundle(emptyBundle(partner), 'create', scope);
    await store.createEntries([draftOf('/web', parent, ['a:1'], { id: 'w', federatesWith: [partner] })], scope);
    await store.updateEntries([{ id: 'w', fields: { federatesWith: [] } }], scope);
    await store.deleteBundle(partner, 'restrict', scope);
    expect(await store.loadBundles()).toEqual([]);
  });
});
