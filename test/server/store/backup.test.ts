import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';

import { expect, test } from 'vitest';

import { backupStore, inspectStore, restoreStore } from '../../../server/store/backup.ts';
import { openSqliteStore } from '../../../server/store/sqlite.ts';
import { createTestClock } from '../../help/clock.ts';
import { draftOf, exampleOrg, idOf, openTestStore, scopeAt, storePath } from '../../help/store.ts';

const clock = createTestClock();
const scope = scopeAt(clock.now());
const parent = '/spire/agent/test/a';

async function filledStore(path: string) {
  const store = await openSqliteStore({ path, trustDomain: exampleOrg, clock });
  await store.createEntries([draftOf('/web', parent), draftOf('/api', parent)], scope);
  return store;
}

test('a backup of a store in use is whole, owner-only, and comes back as another history', async () => {
  const path = await storePath();
  const store = await filledStore(path);
  const facts = await backupStore(path, `${path}.backup`);
  expect(facts).toEqual({ trustDomain: exampleOrg, ...store.position });
  expect((await stat(`${path}.backup`)).mode & 0o777).toBe(0o600);
  expect((await readdir(dirname(path))).filter((name) => name.includes('.backup'))).toEqual([basename(`${path}.backup`)]);
  await store.createEntries([draftOf('/later', parent)], scope);
  await expect(restoreStore(`${path}.backup`, path, { clock, replace: true })).rejects.toMatchObject({ kind: 'conflict', reason: 'store.in-use' });
  await store.close();
  await expect(restoreStore(`${path}.backup`, path, { clock })).rejects.toMatchObject({ kind: 'exists', reason: 'store.exists' });
  const restored = await restoreStore(`${path}.backup`, path, { clock, actor: 'operator:0/1', replace: true });
  expect(restored.epoch).not.toBe(store.position.epoch);
  const again = await openTestStore({ path });
  expect(again.position).toEqual({ epoch: restored.epoch, revision: 2 });
  const ids: string[] = [];
  await again.loadEntries((batch) => void ids.push(...batch.map(({ entry }) => entry.spiffeId)));
  expect(ids).toEqual([idOf('/web'), idOf('/api')]);
  const { items } = await again.searchAudit({ type: 'store.restored' }, 10, '');
  expect(items).toMatchObject([{ actor: 'operator:0/1', detail: { revision: 2, epoch: restored.epoch, replacedEpoch: store.position.epoch } }]);
  expect((await stat(path)).mode & 0o777).toBe(0o600);
});

test('restoring the same backup twice makes two histories', async () => {
  const path = await storePath();
  await (await filledStore(path)).close();
  await backupStore(path, `${path}.backup`);
  const first = await restoreStore(`${path}.backup`, `${path}.1`, { clock });
  const second = await restoreStore(`${path}.backup`, `${path}.2`, { clock });
  expect(first.epoch).not.toBe(second.epoch);
});

test('a backup is never written over, and one that is missing is named', async () => {
  const path = await storePath();
  await (await filledStore(path)).close();
  await writeFile(`${path}.backup`, 'mine');
  await expect(backupStore(path, `${path}.backup`)).rejects.toMatchObject({ kind: 'exists', reason: 'store.backup.exists' });
  expect(await readFile(`${path}.backup`, 'utf8')).toBe('mine');
  await expect(restoreStore(`${path}.nowhere`, path, { clock, replace: true })).rejects.toMatchObject({ kind: 'missing', reason: 'store.missing' });
});

test('T-F05 a damaged backup is refused by name, and the store in its place stays', async () => {
  const path = await storePath();
  await (await filledStore(path)).close();
  await backupStore(path, `${path}.backup`);
  const bytes = await readFile(`${path}.backup`);
  for (let page = 1; page * 4096 < bytes.length; page += 3) bytes.fill(0x5a, page * 4096, page * 4096 + 2048);
  await writeFile(`${path}.backup`, bytes);
  const before = await inspectStore(path);
  await expect(restoreStore(`${path}.backup`, path, { clock, replace: true })).rejects.toMatchObject({ kind: 'internal', reason: 'store.corrupt' });
  expect(await inspectStore(path)).toEqual(before);
});

test('T-F07 a backup of a newer schema is refused', async () => {
  const path = await storePath();
  await (await filledStore(path)).close();
  await backupStore(path, `${path}.backup`);
  const database = new DatabaseSync(`${path}.backup`);
  database.exec("UPDATE meta SET value = '999' WHERE name = 'schema_version'");
  database.close();
  await expect(restoreStore(`${path}.backup`, `${path}.new`, { clock })).rejects.toMatchObject({ kind: 'conflict', reason: 'store.schema.newer' });
});
