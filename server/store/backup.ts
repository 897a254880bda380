/**
 * Copies a store while it is in use, and puts a copy back as a new history: agents that remember the old one take a
 * snapshot. Keys are not in the store and not in the backup.
 */
import { randomBytes } from 'node:crypto';
import { rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { backup } from 'node:sqlite';
import type { DatabaseSync } from 'node:sqlite';

import type { Clock } from '../../runtime/clock.ts';
import { ensurePrivateDirectory } from '../../runtime/files.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { recordEvents } from './audit.ts';
import { checkSchema, readFacts, readMeta, writeMeta } from './migrate.ts';
import type { StoreFacts } from './session.ts';
import { createOwnerOnly, foldLog, holdStore, openForReading, openForWriting } from './sqlite-connection.ts';
import { sqliteFailure } from './sqlite-failure.ts';
import { createSqliteSession } from './sqlite-session.ts';

/**
 * Writes a copy of mode 0600, whole or not at all, of a store that a server may be writing.
 * @throws missing `store.missing`, exists `store.backup.exists`, unavailable `store.busy|full|io`, internal `store.corrupt`
 */
export async function backupStore(from: string, to: string): Promise<StoreFacts> {
  await needFile(from);
  if (await isThere(to)) throw new SpiffeError('exists', 'store.backup.exists', `${to} exists already`, { detail: { path: to } });
  const partial = `${to}.partial`;
  await rm(partial, { force: true });
  const source = openForReading(from);
  try {
    createOwnerOnly(partial);
    await copy(source, from, partial);
    const facts = await inspectStore(partial);
    await rename(partial, to);
    return facts;
  } finally {
    source.close();
    // Reading the copy makes files beside it, which hold nothing.
    for (const left of [partial, `${partial}-wal`, `${partial}-shm`]) await rm(left, { force: true });
  }
}

/**
 * Puts a backup in the place of a store, under a new epoch, with an event that says so.
 * @param to must not be in use
 * @throws missing `store.missing`, exists `store.exists` unless `replace`, conflict `store.in-use|schema.newer`,
 *   internal `store.corrupt`, unavailable `store.full|io`
 */
export async function restoreStore(
  from: string,
  to: string,
  { clock, actor = 'server', replace = false }: { readonly clock: Clock; readonly actor?: string; readonly replace?: boolean },
): Promise<StoreFacts> {
  await needFile(from);
  await ensurePrivateDirectory(dirname(to));
  const hold = holdStore(to);
  const partial = `${to}.partial`;
  try {
    if (!replace && (await isThere(to))) {
      throw new SpiffeError('exists', 'store.exists', `${to} exists; to overwrite it, say so with --replace`, { detail: { path: to } });
    }
    await rm(partial, { force: true });
    createOwnerOnly(partial);
    const source = openForReading(from);
    try {
      await copy(source, from, partial);
    } finally {
      source.close();
    }
    const facts = await beginEpoch(partial, from, clock.now(), actor);
    // What the old file's log holds must not be taken for the new one's.
    await rm(`${to}-wal`, { force: true });
    await rm(`${to}-shm`, { force: true });
    await rename(partial, to);
    return facts;
  } finally {
    hold.close();
    await rm(partial, { force: true });
  }
}

/**
 * What a store or backup says of itself, after every page of it was read and found whole.
 * @throws missing `store.missing`, conflict `store.schema.newer`, internal `store.corrupt`
 */
export async function inspectStore(path: string): Promise<StoreFacts> {
  await needFile(path);
  const database = openForReading(path);
  try {
    const session = createSqliteSession(database, path);
    const found = runCheck(database, path);
    if (found !== 'ok') {
      throw new SpiffeError('internal', 'store.corrupt', `${path} is damaged: ${found}`, { detail: { path } });
    }
    checkSchema(Number((await readMeta(session, 'schema_version')) ?? '0'));
    return await readFacts(session);
  } finally {
    database.close();
  }
}

async function beginEpoch(path: string, from: string, at: number, actor: string): Promise<StoreFacts> {
  await inspectStore(path);
  const database = openForWriting(path);
  try {
    const session = createSqliteSession(database, path);
    const before = await readFacts(session);
    const epoch = randomBytes(16).toString('hex');
    database.exec('BEGIN IMMEDIATE');
    await writeMeta(session, 'epoch', epoch);
    const detail = { backup: from, epoch, replacedEpoch: before.epoch, revision: before.revision };
    await recordEvents(session, [
      { type: 'store.restored', at, actor, call: '', outcome: 'done', reason: '', subject: path, detail },
    ]);
    database.exec('COMMIT');
    foldLog(database);
    return await readFacts(session);
  } catch (error) {
    throw sqliteFailure(error, path);
  } finally {
    database.close();
  }
}

async function copy(source: DatabaseSync, from: string, to: string): Promise<void> {
  try {
    await backup(source, to, { rate: 1_000 });
  } catch (error) {
    throw sqliteFailure(error, from);
  }
}

function runCheck(database: DatabaseSync, path: string): string {
  try {
    const row = database.prepare('PRAGMA integrity_check(1)').get();
    return String(row?.['integrity_check'] ?? 'no answer');
  } catch (error) {
    throw sqliteFailure(error, path);
  }
}

async function needFile(path: string): Promise<void> {
  if (await isThere(path)) return;
  throw new SpiffeError('missing', 'store.missing', `${path} does not exist`, { detail: { path } });
}

async function isThere(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isFile();
  } catch {
    return false;
  }
}
