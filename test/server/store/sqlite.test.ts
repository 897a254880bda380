import { DatabaseSync } from 'node:sqlite';
import { chmod, readdir, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

import { describe, expect, test } from 'vitest';

import { openSqliteStore } from '../../../server/store/sqlite.ts';
import type { CommittedBatch, Store } from '../../../server/store/store.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { createTestClock } from '../../help/clock.ts';
import { agentId, agentOf, draftOf, exampleOrg, intentOf, openTestStore, scopeAt, storePath } from '../../help/store.ts';

const clock = createTestClock();
const at = clock.now();
const scope = scopeAt(at);
const agentPath = '/spire/agent/test/a';

async function entryCount(store: Store): Promise<number> {
  let count = 0;
  await store.loadEntries((batch) => (count += batch.length));
  return count;
}

describe('commits', () => {
  test('listeners hear every change once, in the order of numbers, before the writer is answered', async () => {
    const store = await openTestStore({ path: await storePath() });
    const heard: number[] = [];
    let batches = 0;
    store.subscribe((batch: CommittedBatch) => {
      batches += 1;
      heard.push(...batch.changes.map(({ revision }) => revision));
      expect(store.position.revision).toBe(heard.at(-1));
    });
    const writes = Array.from({ length: 60 }, async (_, index) => {
      const [outcome] = await store.createEntries([draftOf(`/w${index}`, agentPath)], scope);
      if (outcome?.status !== 'done') throw new Error('not created');
      return { heardThen: heard.length };
    });
    const seen = await Promise.all(writes);
    expect(heard).toEqual(Array.from({ length: 60 }, (_, index) => index + 1));
    for (const [index, { heardThen }] of seen.entries()) expect(heardThen).toBeGreaterThan(index);
    expect(batches).toBeLessThan(60);
    expect(await entryCount(store)).toBe(60);
  });

  test('an operation that fails takes nothing of its group with it, and leaves nothing of itself', async () => {
    const store = await openTestStore({ path: await storePath() });
    const heard: CommittedBatch[] = [];
    store.subscribe((batch) => void heard.push(batch));
    const twice = intentOf(at, { id: 'same' });
    const agent = agentOf('a', at);
    const results = await Promise.allSettled([
      store.recordIntents([intentOf(at, { id: 'first' })]),
      store.recordIntents([intentOf(at, { id: 'lost' }), twice, twice]),
      store.admitAgent({ agent, tokenHash: 'unknown', intent: intentOf(at, { id: 'refused' }) }, scope),
      store.admitAgent({ agent, tokenHash: undefined, intent: intentOf(at, { id: 'admitted' }) }, scope),
    ]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'rejected', 'fulfilled']);
    expect(results[1]).toMatchObject({ reason: { kind: 'exists', reason: 'ledger.exists' } });
    expect(results[2]).toMatchObject({ reason: { kind: 'invalid', reason: 'token.unknown' } });
    const recorded = await store.listCredentials({}, 10, '');
    expect(recorded.items.map(({ id }) => id)).toEqual(['admitted', 'first']);
    expect(heard.flatMap(({ changes }) => changes.map(({ revision, noun }) => `${revision} ${noun}`))).toEqual(['1 agent']);
  });

  test('what is asked before close is done, what is asked after is refused', async () => {
    const path = await storePath();
    const store = await openSqliteStore({ path, trustDomain: exampleOrg, clock });
    const last = store.createEntries([draftOf('/web', agentPath)], scope);
    store.recordResults([]);
    await store.close();
    expect(await last).toMatchObject([{ status: 'done' }]);
    await expect(store.pruneEntries(1, scope)).rejects.toMatchObject({ kind: 'unavailable', reason: 'store.closed' });
    expect(await entryCount(await openTestStore({ path }))).toBe(1);
  });

  test('a result rides in the next commit, and without one the intent stands', async () => {
    const path = await storePath();
    const store = await openSqliteStore({ path, trustDomain: exampleOrg, clock });
    await store.recordIntents(['a', 'b', 'c'].map((id) => intentOf(at, { id })));
    store.recordResults([{ id: 'a', outcome: 'issued' }, { id: 'b', outcome: 'failed' }]);
    expect(await store.getCredential('a')).toMatchObject({ state: 'issued' });
    store.recordResults([{ id: 'c', outcome: 'issued' }]);
    await store.close();
    const again = await openTestStore({ path });
    expect((await again.listCredentials({}, 10, '')).items.map(({ state }) => state)).toEqual(['issued', 'failed', 'issued']);
    await again.recordIntents([intentOf(at, { id: 'd' })]);
    expect(await again.getCredential('d')).toMatchObject({ state: 'intent' });
  });
});

describe('opening', () => {
  test('files are the owner’s alone, whatever the umask says', async () => {
    const path = await storePath();
    const store = await openTestStore({ path });
    await store.createEntries([draftOf('/web', agentPath)], scope);
    for (const name of await readdir(dirname(path))) {
      expect((await stat(join(dirname(path), name))).mode & 0o777, name).toBe(0o600);
    }
  });

  test('a directory that others may enter is refused', async () => {
    const path = await storePath();
    await chmod(dirname(path), 0o755);
    await expect(openSqliteStore({ path, trustDomain: exampleOrg, clock })).rejects.toMatchObject({ kind: 'denied', reason: 'files.mode' });
  });

  test('a second server is refused by name, and let in once the first is gone', async () => {
    const path = await storePath();
    const first = await openSqliteStore({ path, trustDomain: exampleOrg, clock });
    await expect(openSqliteStore({ path, trustDomain: exampleOrg, clock })).rejects.toMatchObject({ kind: 'conflict', reason: 'store.in-use' });
    await first.close();
    await openTestStore({ path });
  });

  test('position and content survive; another trust domain is refused', async () => {
    const path = await storePath();
    const store = await openSqliteStore({ path, trustDomain: exampleOrg, clock });
    await store.createEntries([draftOf('/web', agentPath), draftOf('/api', agentPath)], scope);
    const { position } = store;
    await store.close();
    await expect(openSqliteStore({ path, trustDomain: parseTrustDomain('other.org'), clock })).rejects.toMatchObject({
      kind: 'conflict',
      reason: 'store.trust-domain',
    });
    const again = await openTestStore({ path });
    expect(again.position).toEqual(position);
    expect(position.revision).toBe(2);
  });

  test('a newer schema is refused and left as it was', async () => {
    const path = await storePath();
    await (await openSqliteStore({ path, trustDomain: exampleOrg, clock })).close();
    const database = new DatabaseSync(path);
    database.exec("UPDATE meta SET value = '999' WHERE name = 'schema_version'");
    database.close();
    await expect(openSqliteStore({ path, trustDomain: exampleOrg, clock })).rejects.toMatchObject({
      kind: 'conflict',
      reason: 'store.schema.newer',
      detail: { found: 999 },
    });
  });

  test('a store from before relationships gets a place for them, and keeps what it has', async () => {
    const path = await storePath();
    const store = await openSqliteStore({ path, trustDomain: exampleOrg, clock });
    const bundle = composeBundle({ ...emptyBundle(parseTrustDomain('partner.org')), refreshHintSeconds: 7, sequence: 3n });
    await store.writeBundle(bundle, 'set', scope);
    const { position } = store;
    await store.close();
    const database = new DatabaseSync(path);
    database.exec(`DROP TABLE relationship; DELETE FROM counter WHERE name = 'relationship'; ALTER TABLE bundle DROP COLUMN wit_authorities;
      UPDATE meta SET value = '1' WHERE name = 'schema_version'`);
    database.close();
    const again = await openTestStore({ path });
    expect([await again.loadBundles(), await again.loadRelationships(), again.position]).toEqual([[bundle], [], position]);
    const relationship = { trustDomain: bundle.trustDomain, endpointUrl: 'https://partner.org/', profile: { type: 'https_web' } } as const;
    expect(await again.createRelationship(relationship, undefined, scope)).toMatchObject({ row: 1 });
  });

  test('a store from before WIT authorities gets a place for them, and keeps what it has', async () => {
    const path = await storePath();
    const store = await openSqliteStore({ path, trustDomain: exampleOrg, clock });
    const bundle = composeBundle({ ...emptyBundle(parseTrustDomain('partner.org')), refreshHintSeconds: 7, sequence: 3n });
    await store.writeBundle(bundle, 'set', scope);
    await store.close();
    const database = new DatabaseSync(path);
    database.exec("ALTER TABLE bundle DROP COLUMN wit_authorities; UPDATE meta SET value = '2' WHERE name = 'schema_version'");
    database.close();
    const again = await openTestStore({ path });
    expect(await again.loadBundles()).toEqual([bundle]);
  });

  test('a file that is no database is named, with the command that repairs it', async () => {
    const path = await storePath();
    await writeFile(path, 'not a database, but long enough to be taken for the header of one'.repeat(20));
    const error: unknown = await openSqliteStore({ path, trustDomain: exampleOrg, clock }).catch((caught: unknown) => caught);
    expect(error).toMatchObject({ kind: 'internal', reason: 'store.corrupt' });
    expect(String(error)).toContain(path);
    expect(String(error)).toContain('steeple server restore');
  });
});

describe('tokens and agents', () => {
  test('of 200 that spend a token at once, one gets it', async () => {
    const store = await openTestStore({ path: await storePath() });
    await store.createJoinToken({ hash: 'h1', expiresAt: at + 1, agentId: undefined }, scope);
    await expect(store.createJoinToken({ hash: 'h1', expiresAt: at + 1, agentId: undefined }, scope)).rejects.toMatchObject({ reason: 'token.exists' });
    const tries = Array.from({ length: 200 }, (_, index) =>
      store.admitAgent({ agent: agentOf(`n${index}`, at), tokenHash: 'h1', intent: intentOf(at) }, scope),
    );
    const results = await Promise.allSettled(tries);
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    const reasons = results.flatMap((result) => (result.status === 'rejected' ? [(result.reason as { reason: string }).reason] : []));
    expect(new Set(reasons)).toEqual(new Set(['token.unknown']));
    expect(await store.loadAgents()).toHaveLength(1);
    expect((await store.listCredentials({}, 10, '')).items).toHaveLength(1);
  });

  test('an expired token is spent all the same, and that is on record', async () => {
    const store = await openTestStore();
    await store.createJoinToken({ hash: 'h2', expiresAt: at, agentId: undefined }, scope);
    const admission = { agent: agentOf('a', at), tokenHash: 'h2', intent: intentOf(at) };
    await expect(store.admitAgent(admission, scope)).rejects.toMatchObject({ kind: 'invalid', reason: 'token.expired' });
    await expect(store.admitAgent(admission, scope)).rejects.toMatchObject({ kind: 'invalid', reason: 'token.unknown' });
    expect(await store.loadAgents()).toEqual([]);
    const { items } = await store.searchAudit({ type: 'token.expired' }, 10, '');
    expect(items).toMatchObject([{ outcome: 'refused', subject: 'h2' }]);
  });

  test('a token’s alias entry comes with the agent and goes with it', async () => {
    const store = await openTestStore();
    const alias = draftOf('/node', agentPath).spiffeId;
    await store.createJoinToken({ hash: 'h3', expiresAt: at + 1, agentId: alias }, scope);
    await store.admitAgent({ agent: agentOf('a', at), tokenHash: 'h3', intent: intentOf(at) }, scope);
    const entries: unknown[] = [];
    await store.loadEntries((batch) => void entries.push(...batch.map(({ entry }) => entry)));
    expect(entries).toMatchObject([{ spiffeId: alias, parentId: agentId('a'), selectors: [`spiffe_id:${agentId('a')}`] }]);
    await store.deleteAgent(agentId('a'), scope);
    expect(await entryCount(store)).toBe(0);
    expect(await store.loadAgents()).toEqual([]);
  });

  test('a renewed serial waits until it is used; a ban outlasts both', async () => {
    const store = await openTestStore();
    const id = agentId('a');
    await expect(store.renewAgent(id, { serial: '2', expiresAt: at + 9 }, intentOf(at), scope)).rejects.toMatchObject({ kind: 'missing', reason: 'agent.unknown' });
    await store.admitAgent({ agent: agentOf('a', at, { serial: '1' }), tokenHash: undefined, intent: intentOf(at) }, scope);
    const renewed = await store.renewAgent(id, { serial: '2', expiresAt: at + 9 }, intentOf(at), scope);
    expect(renewed).toMatchObject({ serial: '1', pendingSerial: '2', pendingExpiresAt: at + 9 });
    expect(await store.promoteAgent(id, '3', scope)).toMatchObject({ serial: '1', pendingSerial: '2' });
    expect(await store.promoteAgent(id, '2', scope)).toMatchObject({ serial: '2', expiresAt: at + 9, pendingSerial: '' });
    await store.renewAgent(id, { serial: '4', expiresAt: at + 9 }, intentOf(at), scope);
    await store.banAgent(id, scope);
    expect(await store.promoteAgent(id, '4', scope)).toMatchObject({ serial: '', pendingSerial: '' });
    await expect(store.renewAgent(id, { serial: '5', expiresAt: at }, intentOf(at), scope)).rejects.toMatchObject({ kind: 'denied', reason: 'agent.banned' });
    const again = { agent: agentOf('a', at), tokenHash: undefined, intent: intentOf(at) };
    await expect(store.admitAgent(again, scope)).rejects.toMatchObject({ kind: 'denied', reason: 'agent.banned' });
    expect(await store.purgeAgents(at + 1e9, scope)).toEqual([]);
    await store.deleteAgent(id, scope);
    expect(await store.admitAgent(again, scope)).toMatchObject({ serial: '1001' });
  });

  test('purging takes agents whose newest SVID expired, and tells which', async () => {
    const store = await openTestStore();
    for (const [name, fields] of [['old', { expiresAt: at - 2 }], ['renewed', { expiresAt: at - 2 }], ['fresh', {}]] as const) {
      await store.admitAgent({ agent: agentOf(name, at, fields), tokenHash: undefined, intent: intentOf(at) }, scope);
    }
    await store.renewAgent(agentId('renewed'), { serial: '9', expiresAt: at + 9 }, intentOf(at), scope);
    expect(await store.purgeAgents(at, scope)).toEqual([agentId('old')]);
    expect((await store.loadAgents()).map(({ id }) => id)).toEqual([agentId('renewed'), agentId('fresh')]);
  });
});
