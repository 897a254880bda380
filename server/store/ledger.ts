/**
 * The SQL of the ledger: an intent before each signature, its result after it. An intent without a result counts as
 * issued; the meaning of the fields is the issuer's.
 */
import { SpiffeError, isSpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import { eventOf, pruneEvents, recordEvents } from './audit.ts';
import { pruneChanges } from './changes.ts';
import { cutPage, pageStart } from './pages.ts';
import { takeNumbers, template } from './session.ts';
import type { Session, Transaction } from './session.ts';
import { pruneTokens } from './tokens.ts';
import type { AuthorityKind, Credential, CredentialFilter, CredentialIntent, CredentialResult, Page, Scope } from './store.ts';
import type { CredentialTable } from './schema.ts';

/** Followers that were away for longer than this many changes take a snapshot. */
const keptChanges = 200_000;

/** @throws exists `ledger.exists` */
export async function recordIntents(session: Session, intents: readonly CredentialIntent[]): Promise<void> {
  if (intents.length === 0) return;
  const first = await takeNumbers(session, 'credential', intents.length);
  try {
    await session.runEach(
      insertCredential,
      intents.map((intent, index) => ({
        row: first + index,
        id: intent.id,
        kind: intent.kind,
        state: 'intent',
        spiffe_id: intent.spiffeId,
        entry_id: intent.entryId,
        agent_id: intent.agentId,
        authority_id: intent.authorityId,
        decision_id: intent.decisionId,
        reason: intent.reason,
        at: intent.at,
        not_before_at: intent.notBeforeAt,
        expires_at: intent.expiresAt,
        audience: intent.audience.length === 0 ? '[]' : JSON.stringify(intent.audience),
        digest: intent.digest,
        process: intent.process,
      })),
    );
  } catch (error) {
    if (!isSpiffeError(error, 'exists', 'store.unique')) throw error;
    throw new SpiffeError('exists', 'ledger.exists', 'a credential with this serial or id is recorded already', { cause: error });
  }
}

export async function recordResults(session: Session, results: readonly CredentialResult[]): Promise<void> {
  await session.runEach(updateState, results.map(({ id, outcome }) => ({ id, state: outcome })));
}

export async function getCredential(session: Session, id: string): Promise<Credential | undefined> {
  const row = await session.first(session.db.selectFrom('credential').selectAll().where('id', '=', id));
  return row === undefined ? undefined : toCredential(row);
}

/** Newest first: what operators ask for is what was issued lately. */
export async function listCredentials(
  session: Session,
  filter: CredentialFilter,
  pageSize: number,
  pageToken: string,
): Promise<Page<Credential>> {
  let query = session.db.selectFrom('credential').selectAll().orderBy('row', 'desc').limit(pageSize + 1);
  const start = pageStart(pageToken);
  if (start !== undefined) query = query.where('row', '<', start);
  if (filter.kind !== undefined) query = query.where('kind', '=', filter.kind);
  if (filter.spiffeId !== undefined) query = query.where('spiffe_id', '=', filter.spiffeId);
  // Each second condition is what its partial index asks for.
  if (filter.entryId !== undefined) query = query.where('entry_id', '=', filter.entryId).where('entry_id', '<>', '');
  if (filter.agentId !== undefined) query = query.where('agent_id', '=', filter.agentId).where('agent_id', '<>', '');
  if (filter.unexpiredAt !== undefined) query = query.where('expires_at', '>', filter.unexpiredAt);
  return cutPage(await session.all(query), pageSize, (row) => row.row, toCredential);
}

/** Deletes in small steps what is kept long enough, tokens and changes included, and records that it did. */
export async function pruneRecords(
  transaction: Transaction,
  before: { readonly credentialsExpired: number; readonly auditAt: number },
  limit: number,
  scope: Scope,
): Promise<{ readonly credentials: number; readonly events: number }> {
  const { session } = transaction;
  const { db } = session;
  const old = db.selectFrom('credential').select('row').where('expires_at', '<', before.credentialsExpired);
  const credentials = await session.run(
    db.deleteFrom('credential').where('row', 'in', old.orderBy('expires_at').limit(limit)),
  );
  const events = await pruneEvents(session, before.auditAt, limit);
  await pruneTokens(transaction, limit, scope);
  await pruneChanges(session, keptChanges, limit);
  if (credentials + events > 0) {
    const detail = { credentials, events, credentialsExpired: before.credentialsExpired, auditAt: before.auditAt };
    await recordEvents(session, [eventOf(scope, 'record.pruned', '', detail)]);
  }
  return { credentials, events };
}

function toCredential(row: CredentialTable): Credential {
  return {
    id: row.id,
    kind: row.kind as AuthorityKind,
    state: row.state as Credential['state'],
    spiffeId: row.spiffe_id as SpiffeId,
    entryId: row.entry_id,
    agentId: row.agent_id as SpiffeId | '',
    authorityId: row.authority_id,
    decisionId: row.decision_id,
    reason: row.reason,
    at: row.at,
    notBeforeAt: row.not_before_at,
    expiresAt: row.expires_at,
    audience: JSON.parse(row.audience) as string[],
    digest: row.digest,
    process: row.process,
  };
}

const insertCredential = template((db, slot) =>
  db.insertInto('credential').values({
    row: slot('row'),
    id: slot('id'),
    kind: slot('kind'),
    state: slot('state'),
    spiffe_id: slot('spiffe_id'),
    entry_id: slot('entry_id'),
    agent_id: slot('agent_id'),
    authority_id: slot('authority_id'),
    decision_id: slot('decision_id'),
    reason: slot('reason'),
    at: slot<number>('at'),
    not_before_at: slot('not_before_at'),
    expires_at: slot('expires_at'),
    audience: slot('audience'),
    digest: slot('digest'),
    process: slot('process'),
  }),
);

const updateState = template((db, slot) =>
  db.updateTable('credential').set({ state: slot('state') }).where('id', '=', slot<string>('id')),
);
