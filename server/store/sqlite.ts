/**
 * The embedded store: the main thread's side of the threads that write and read an SQLite file. It delivers what was
 * committed before it answers whoever wrote it, and never touches the disk itself.
 */
import { randomBytes } from 'node:crypto';
import { dirname } from 'node:path';

import { ensurePrivateDirectory } from '../../runtime/files.ts';
import type { Clock } from '../../runtime/clock.ts';
import { composeBundle } from '../../spiffe/bundle.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { composeEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import { createSharer, unpackEntries } from './entry-rows.ts';
import type { WorkerSettings } from './messages.ts';
import { receiveOutcomes } from './messages.ts';
import type { KeptRefusal } from './agents.ts';
import type { ReadArguments, ReadName, ReadResult, WriteArguments, WriteName, WriteResult } from './operations.ts';
import { startWorker } from './sqlite-thread.ts';
import type { StoreThread } from './sqlite-thread.ts';
import type { AgentRecord, CommittedBatch, CommittedChange, CredentialResult, EntryOutcome, Position, RefreshOutcome, RelationshipRecord, Store } from './store.ts';

export interface SqliteStoreOptions {
  /** A file in a directory of its own, or `:memory:`. */
  readonly path: string;
  readonly trustDomain: TrustDomain;
  readonly clock: Clock;
  /** The largest the file may grow; beyond it the store is full, as it is when the disk is. */
  readonly maxBytes?: number;
}

/** Rows per message while everything is loaded. */
const loadBatch = 2_000;
const purgeBatch = 200;
/** Results that wait for a commit to ride in; more are written on their own. */
const maxWaitingResults = 4_096;

/**
 * Opens the store, or makes it. Whoever opened it closes it.
 * @throws conflict `store.in-use|schema.newer|trust-domain`, unavailable `store.busy|full|io`, internal `store.corrupt`,
 *   and what `ensurePrivateDirectory` throws
 */
export async function openSqliteStore({ path, trustDomain, clock, maxBytes }: SqliteStoreOptions): Promise<Store> {
  const settings: WorkerSettings = { path, trustDomain, epoch: randomBytes(16).toString('hex'), maxBytes };
  if (path !== ':memory:') await ensurePrivateDirectory(dirname(path));
  const writer = await startWorker('sqlite-writer', settings);
  try {
    // A second connection would see another memory.
    const reader = path === ':memory:' ? writer : await startWorker('sqlite-reader', settings);
    return createStore(writer, reader, clock);
  } catch (error) {
    await writer.close();
    throw error;
  }
}

function createStore(writer: StoreThread, reader: StoreThread, clock: Clock): Store {
  const listeners = new Set<(batch: CommittedBatch) => void>();
  let position: Position = Object.freeze({ epoch: writer.epoch, revision: writer.revision });
  let results: CredentialResult[] = [];

  writer.onBatch((received) => {
    const batch = receiveBatch(received);
    const newest = batch.changes.at(-1);
    if (newest !== undefined) position = Object.freeze({ epoch: position.epoch, revision: newest.revision });
    for (const listener of listeners) listener(batch);
  });

  const flushResults = (): void => {
    if (results.length === 0) return;
    const riding = results;
    results = [];
    // Their loss leaves intents, which count as issued.
    writer.call('recordResults', [riding], clock.now()).catch(() => undefined);
  };
  const write = <N extends WriteName>(name: N, ...given: WriteArguments<N>): Promise<WriteResult<N>> => {
    flushResults();
    return writer.call(name, given, clock.now()) as Promise<WriteResult<N>>;
  };
  const read = <N extends ReadName>(name: N, ...given: ReadArguments<N>): Promise<ReadResult<N>> =>
    reader.call(name, given, clock.now()) as Promise<ReadResult<N>>;
  /** So that the ledger tells what is known, not only what is on the disk. */
  const settleResults = async (): Promise<void> => {
    if (results.length === 0) return;
    const riding = results;
    results = [];
    await writer.call('recordResults', [riding], clock.now());
  };

  return {
    get position() {
      return position;
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
    async loadEntries(onBatch) {
      const at = position;
      const shared = createSharer();
      let waiting = read('loadEntries', 0, loadBatch);
      for (;;) {
        const { packed, lastRow, count } = await waiting;
        if (count === 0) return at;
        // Asked for before this one is unpacked: both threads work.
        waiting = read('loadEntries', lastRow, loadBatch);
        try {
          onBatch(unpackEntries(packed, shared));
        } catch (error) {
          await waiting.catch(() => undefined);
          throw error;
        }
      }
    },
    loadAgents: async () => (await read('loadAgents')).map(freezeAgent),
    loadBundles: async () => (await read('loadBundles')).map(freezeBundle),
    loadAuthorities: () => read('loadAuthorities'),
    changesSince: (revision, limit) => read('changesSince', revision, limit),

    createEntries: async (drafts, scope) => receiveEntries(await write('createEntries', drafts, scope)),
    updateEntries: async (updates, scope) => receiveEntries(await write('updateEntries', updates, scope)),
    deleteEntries: (ids, scope) => write('deleteEntries', ids, scope),
    pruneEntries: (limit, scope) => write('pruneEntries', limit, scope),

    createJoinToken: (token, scope) => write('createJoinToken', token, scope),
    admitAgent: async (admission, scope) => freezeAgent(notRefused(await write('admitAgent', admission, scope))),
    renewAgent: async (id, pending, intent, scope) => freezeAgent(await write('renewAgent', id, pending, intent, scope)),
    promoteAgent: async (id, serial, scope) => freezeAgent(await write('promoteAgent', id, serial, scope)),
    setAgentVersion: (id, version, scope) => write('setAgentVersion', id, version, scope),
    banAgent: (id, scope) => write('banAgent', id, scope),
    deleteAgent: (id, scope) => write('deleteAgent', id, scope),
    async purgeAgents(expiredBefore, scope) {
      const purged: SpiffeId[] = [];
      for (;;) {
        const some = await write('purgeAgents', expiredBefore, purgeBatch, scope);
        purged.push(...some);
        if (some.length < purgeBatch) return purged;
      }
    },

    appendBundle: async (trustDomain, x509, jwt, scope) =>
      freezeBundle(await write('appendBundle', trustDomain, x509, jwt, scope)),
    writeBundle: async (bundle, how, scope) => freezeBundle(await write('writeBundle', bundle, how, scope)),
    deleteBundle: (trustDomain, how, scope) => write('deleteBundle', trustDomain, how, scope),
    pruneBundle: (trustDomain, expiredBefore, scope) => write('pruneBundle', trustDomain, expiredBefore, scope),

    loadRelationships: async () => (await read('loadRelationships')).map(freezeRelationship),
    createRelationship: async (relationship, bundle, scope) =>
      freezeRelationship(await write('createRelationship', relationship, bundle, scope)),
    updateRelationship: async (trustDomain, fields, bundle, scope) =>
      freezeRelationship(await write('updateRelationship', trustDomain, fields, bundle, scope)),
    deleteRelationship: (trustDomain, scope) => write('deleteRelationship', trustDomain, scope),
    refreshBundle: async (relationship, bundle, scope) => freezeRefresh(await write('refreshBundle', relationship, bundle, scope)),

    stepAuthorities: (trustDomain, step, scope) => write('stepAuthorities', trustDomain, step, scope),

    recordIntents: (intents) => write('recordIntents', intents),
    recordResults(added) {
      results.push(...added);
      if (results.length >= maxWaitingResults) flushResults();
    },
    async getCredential(id) {
      await settleResults();
      return read('getCredential', id);
    },
    async listCredentials(filter, pageSize, pageToken) {
      await settleResults();
      return read('listCredentials', filter, pageSize, pageToken);
    },

    recordAudit: (events) => write('recordEvents', events),
    recordSpool: (agentId, spool, events) => write('recordSpool', agentId, spool, events),
    searchAudit: (filter, pageSize, pageToken) => read('searchAudit', filter, pageSize, pageToken),
    pruneRecords: (before, limit, scope) => write('pruneRecords', before, limit, scope),

    async close() {
      flushResults();
      if (reader !== writer) await reader.close();
      await writer.close();
      listeners.clear();
    },
  };
}

/** Frozen again: what crosses threads is a copy. */
function receiveBatch(batch: CommittedBatch): CommittedBatch {
  return Object.freeze({ committedAt: batch.committedAt, changes: Object.freeze(batch.changes.map(receiveChange)) });
}

function receiveChange(change: CommittedChange): CommittedChange {
  switch (change.noun) {
    case 'entry':
      return Object.freeze({ ...change, entry: change.entry === undefined ? undefined : composeEntry(change.entry, change.entry) });
    case 'agent':
      return Object.freeze({ ...change, agent: change.agent === undefined ? undefined : freezeAgent(change.agent) });
    case 'bundle':
      return Object.freeze({ ...change, bundle: change.bundle === undefined ? undefined : freezeBundle(change.bundle) });
    case 'relationship':
      return Object.freeze({ ...change, relationship: change.relationship === undefined ? undefined : freezeRelationship(change.relationship) });
    case 'authority':
      return Object.freeze(change);
  }
}

function receiveEntries(outcomes: readonly EntryOutcome[]): readonly EntryOutcome[] {
  return receiveOutcomes(outcomes).map((outcome) =>
    outcome.status === 'refused' ? outcome : { ...outcome, entry: composeEntry(outcome.entry, outcome.entry) },
  );
}

function freezeAgent(agent: AgentRecord): AgentRecord {
  return Object.freeze({ ...agent, selectors: Object.freeze([...agent.selectors]) });
}

function freezeBundle(bundle: Bundle): Bundle {
  return composeBundle({
    ...bundle,
    x509Authorities: bundle.x509Authorities.map((authority) => Object.freeze({ ...authority })),
    jwtAuthorities: bundle.jwtAuthorities.map((authority) => Object.freeze({ ...authority })),
    witAuthorities: bundle.witAuthorities.map((authority) => Object.freeze({ ...authority })),
  });
}

function freezeRelationship(relationship: RelationshipRecord): RelationshipRecord {
  return Object.freeze({ ...relationship, profile: Object.freeze({ ...relationship.profile }) });
}

function freezeRefresh(outcome: RefreshOutcome): RefreshOutcome {
  if (outcome.status === 'ended') return outcome;
  const { status, bundle, before } = outcome;
  return Object.freeze({ status, bundle: freezeBundle(bundle), before: before === undefined ? undefined : freezeBundle(before) });
}

/** Refusals come as rejections; the type of the operation does not know that the thread turned them. */
function notRefused(result: AgentRecord | KeptRefusal): AgentRecord {
  if ('refusal' in result) throw new SpiffeError('internal', 'store.failed', 'the store failed');
  return result;
}
