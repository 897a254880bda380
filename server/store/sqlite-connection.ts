/**
 * Opens SQLite files the way a store needs them: owner-only, write-ahead, every commit on the disk before it is answered,
 * and in the hands of one server process. What is in them is left to the operations.
 */
import { closeSync, constants, fchmodSync, openSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';

import { SpiffeError } from '../../spiffe/errors.ts';
import { sqliteCode, sqliteFailure } from './sqlite-failure.ts';

export const inMemory = ':memory:';

/** SQLite's own, for files made here. */
const pageBytes = 4_096;

/** Other processes only read or copy, so that a wait this long means something is wrong. */
const busyTimeoutMs = 5_000;

/** @throws unavailable `store.busy|io`, internal `store.corrupt` */
export function openForWriting(path: string, maxBytes?: number): DatabaseSync {
  if (path !== inMemory) createOwnerOnly(path);
  return opened(path, (database) => {
    database.exec(`PRAGMA busy_timeout = ${busyTimeoutMs}`);
    database.exec('PRAGMA journal_mode = WAL');
    database.exec('PRAGMA synchronous = FULL');
    database.exec('PRAGMA foreign_keys = ON');
    database.exec('PRAGMA trusted_schema = OFF');
    database.exec('PRAGMA cache_size = -65536');
    // Keeps the log from growing without end behind a slow reader.
    database.exec('PRAGMA journal_size_limit = 67108864');
    if (maxBytes !== undefined) database.exec(`PRAGMA max_page_count = ${Math.ceil(maxBytes / pageBytes)}`);
  });
}

/** @throws unavailable `store.busy|io`, internal `store.corrupt` */
export function openForReading(path: string): DatabaseSync {
  return opened(
    path,
    (database) => {
      database.exec(`PRAGMA busy_timeout = ${busyTimeoutMs}`);
      database.exec('PRAGMA trusted_schema = OFF');
      database.exec('PRAGMA query_only = ON');
      database.exec('PRAGMA cache_size = -16384');
    },
    true,
  );
}

/**
 * Holds the store for this process until closed or dead, through a lock that the kernel gives up with the process.
 * @throws conflict `store.in-use`
 */
export function holdStore(path: string): DatabaseSync {
  const lockPath = `${path}.lock`;
  createOwnerOnly(lockPath);
  const lock = new DatabaseSync(lockPath);
  try {
    lock.exec('PRAGMA journal_mode = DELETE');
    lock.exec('PRAGMA locking_mode = EXCLUSIVE');
    lock.exec('BEGIN EXCLUSIVE');
    return lock;
  } catch (cause) {
    lock.close();
    if (sqliteCode(cause) !== 5) throw sqliteFailure(cause, lockPath);
    throw new SpiffeError('conflict', 'store.in-use', `${path} is in use by another server process`, { detail: { path } });
  }
}

/** Moves the log into the file, so that the file alone is all there is. */
export function foldLog(database: DatabaseSync): void {
  database.exec('PRAGMA wal_checkpoint(TRUNCATE)');
  database.exec('PRAGMA journal_mode = DELETE');
}

/** SQLite gives its other files the mode of the first. @throws unavailable `store.io` */
export function createOwnerOnly(path: string): void {
  try {
    const file = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
    try {
      fchmodSync(file, 0o600);
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    throw new SpiffeError('unavailable', 'store.io', `${path} cannot be opened`, { cause, detail: { path } });
  }
}

function opened(path: string, settle: (database: DatabaseSync) => void, readOnly = false): DatabaseSync {
  let database: DatabaseSync | undefined;
  try {
    database = new DatabaseSync(path, { readOnly, allowExtension: false });
    settle(database);
    return database;
  } catch (error) {
    database?.close();
    throw sqliteFailure(error, path);
  }
}
