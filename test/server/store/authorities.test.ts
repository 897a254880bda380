import { generateKeyPairSync } from 'node:crypto';

import { describe, expect, test } from 'vitest';

import type { AuthorityRecord, CommittedChange } from '../../../server/store/store.ts';
import type { JwtAuthority } from '../../../spiffe/bundle.ts';
import { createTestClock } from '../../help/clock.ts';
import { exampleOrg, openTestStore, scopeAt, storePath } from '../../help/store.ts';

const at = createTestClock().now();
const scope = scopeAt(at);

function jwtAuthority(keyId: string, expiresAt: number | undefined): JwtAuthority {
  const publicKey = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey.export({ type: 'spki', format: 'der' });
  return { keyId, publicKey: new Uint8Array(publicKey), expiresAt, tainted: false };
}

function authority(id: string, fields: Partial<AuthorityRecord> = {}): AuthorityRecord {
  return {
    kind: 'jwt',
    id,
    owner: 'server-1',
    keyName: `key-${id}`,
    keyType: 'ec-p256',
    state: 'prepared',
    publicKey: new Uint8Array([1, 2, 3]),
    certificate: undefined,
    createdAt: at,
    publishedAt: undefined,
    publishedRevision: undefined,
    activatedAt: undefined,
    notBeforeAt: at,
    expiresAt: at + 1_000,
    ...fields,
  };
}

describe('authorities', () => {
  test('records, bundle and events are one step; publishing says by which revision', async () => {
    const store = await openTestStore({ path: await storePath() });
    const none = { upserts: [], forgotten: [], publish: { x509: [], jwt: [] }, events: [] };
    const bytes = authority('a', { kind: 'x509', certificate: new Uint8Array([9, 8]) });
    expect(await store.stepAuthorities(exampleOrg, { ...none, upserts: [bytes] }, scope)).toEqual([bytes]);
    const key = jwtAuthority('b', at + 1_000);
    const published = authority('b', { publishedAt: at, publicKey: key.publicKey });
    const changes: CommittedChange[] = [];
    store.subscribe((batch) => void changes.push(...batch.changes));
    const event = { type: 'authority.published', at, actor: 'server', call: '', outcome: 'done', reason: '', subject: 'b', detail: {} } as const;
    const step = { ...none, upserts: [published], publish: { x509: [], jwt: [key] }, events: [event] };
    const stored = await store.stepAuthorities(exampleOrg, step, scope);
    const bundleRevision = changes.find(({ noun }) => noun === 'bundle')?.revision;
    expect(stored.find(({ id }) => id === 'b')).toEqual({ ...published, publishedRevision: bundleRevision });
    expect(changes.map(({ noun }) => noun)).toEqual(['bundle', 'authority']);
    // Held by the bundle already: its own change is the witness.
    const again = await store.stepAuthorities(exampleOrg, step, scope);
    expect(again.find(({ id }) => id === 'b')?.publishedRevision).toBe(store.position.revision);
    await store.stepAuthorities(exampleOrg, { ...none, forgotten: ['a', 'nobody'] }, scope);
    expect((await store.loadAuthorities()).map(({ id }) => id)).toEqual(['b']);
    expect((await store.searchAudit({ type: 'authority.published' }, 10, '')).items).toHaveLength(2);
  });
});
