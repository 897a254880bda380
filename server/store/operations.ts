/**
 * Every operation of the store by name: what a message may ask a worker for. Each runs inside a transaction that the
 * worker begins and ends.
 */
import { admitAgent, banAgent, deleteAgent, loadAgents, promoteAgent, purgeAgents, renewAgent, setAgentVersion } from './agents.ts';
import { recordEvents, recordSpool, searchAudit } from './audit.ts';
import { loadAuthorities, stepAuthorities } from './authorities.ts';
import { appendBundle, deleteBundle, loadBundles, pruneBundle, writeBundle } from './bundles.ts';
import { changesSince } from './changes.ts';
import { createEntries, deleteEntries, loadEntries, pruneEntries, updateEntries } from './entries.ts';
import { getCredential, listCredentials, pruneRecords, recordIntents, recordResults } from './ledger.ts';
import { readFacts } from './migrate.ts';
import {
  createRelationship,
  deleteRelationship,
  loadRelationships,
  refreshBundle,
  updateRelationship,
} from './relationships.ts';
import type { Session, Transaction } from './session.ts';
import { createJoinToken } from './tokens.ts';

type AnyArguments = readonly never[];
export type ReadOperation = (session: Session, ...given: AnyArguments) => Promise<unknown>;
export type WriteOperation = (transaction: Transaction, ...given: AnyArguments) => Promise<unknown>;

export const readOperations = {
  readFacts,
  loadEntries,
  loadAgents,
  loadBundles,
  loadAuthorities,
  loadRelationships,
  changesSince,
  getCredential,
  listCredentials,
  searchAudit,
} satisfies Record<string, ReadOperation>;

/** Of those that know no transaction, as they change nothing that is numbered. */
const onSession =
  <Given extends readonly unknown[], Result>(work: (session: Session, ...given: Given) => Promise<Result>) =>
  (transaction: Transaction, ...given: Given): Promise<Result> =>
    work(transaction.session, ...given);

export const writeOperations = {
  createEntries,
  updateEntries,
  deleteEntries,
  pruneEntries,
  createJoinToken,
  admitAgent,
  renewAgent,
  promoteAgent,
  setAgentVersion,
  banAgent,
  deleteAgent,
  purgeAgents,
  appendBundle,
  writeBundle,
  deleteBundle,
  pruneBundle,
  createRelationship,
  updateRelationship,
  deleteRelationship,
  refreshBundle,
  stepAuthorities,
  recordIntents: onSession(recordIntents),
  recordResults: onSession(recordResults),
  recordEvents: onSession(recordEvents),
  recordSpool: (transaction: Transaction, ...[agentId, spool, events]: SpoolArguments) =>
    recordSpool(transaction.session, agentId, spool, events, transaction.at),
  pruneRecords,
} satisfies Record<string, WriteOperation>;

type SpoolArguments = [agentId: string, spool: string, events: Parameters<typeof recordSpool>[3]];

export type ReadName = keyof typeof readOperations;
export type WriteName = keyof typeof writeOperations;

type After<F> = F extends (first: never, ...rest: infer Rest) => unknown ? Rest : never;
type Result<F> = F extends (...given: never) => Promise<infer R> ? R : never;

export type ReadArguments<N extends ReadName> = After<(typeof readOperations)[N]>;
export type ReadResult<N extends ReadName> = Result<(typeof readOperations)[N]>;
export type WriteArguments<N extends WriteName> = After<(typeof writeOperations)[N]>;
export type WriteResult<N extends WriteName> = Result<(typeof writeOperations)[N]>;
