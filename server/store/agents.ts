/**
 * The SQL of agent records: admitted, renewed, promoted, banned, deleted. Which serial may call what is the business of
 * admission.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import { composeSelector } from '../../spiffe/selector.ts';
import type { Selector } from '../../spiffe/selector.ts';
import type { AuditDetail } from '../audit/event.ts';
import { eventOf, recordEvents } from './audit.ts';
import { recordChanges } from './changes.ts';
import { createEntries, deleteEntries } from './entries.ts';
import { recordIntents } from './ledger.ts';
import { takeNumbers, template } from './session.ts';
import type { Session, Transaction } from './session.ts';
import type { AdmitAgent, AgentRecord, CredentialIntent, JoinToken, Scope } from './store.ts';
import type { AgentTable } from './schema.ts';
import { takeToken, tokenDetail } from './tokens.ts';

/** What an operation refuses although it keeps what it wrote. */
export interface KeptRefusal {
  readonly refusal: SpiffeError;
}

export async function loadAgents(session: Session): Promise<readonly AgentRecord[]> {
  return (await session.all(session.db.selectFrom('agent').selectAll().orderBy('row'))).map(readAgent);
}

/** @throws invalid `token.unknown`, denied `agent.banned|already-attested` */
export async function admitAgent(
  transaction: Transaction,
  { agent, tokenHash, firstUseOnly = false, intent }: AdmitAgent,
  scope: Scope,
): Promise<AgentRecord | KeptRefusal> {
  const { session } = transaction;
  const known = await findAgent(session, agent.id);
  if (known?.serial === '') throw banned(agent.id);
  if (firstUseOnly && known !== undefined) {
    const message = 'failed to attest: the attestation data was already used to attest an agent';
    throw new SpiffeError('denied', 'agent.already-attested', message, { detail: { agentId: agent.id } });
  }
  let aliasEntryId = known?.alias_entry_id ?? '';
  if (tokenHash !== undefined) {
    const token = await takeToken(transaction, tokenHash);
    if (token.expiresAt <= scope.at) return refuseExpired(transaction, token, scope);
    await recordEvents(session, [eventOf(scope, 'token.spent', token.hash, { ...tokenDetail(token), spentBy: agent.id })]);
    if (token.agentId !== undefined) aliasEntryId = await writeAlias(transaction, token.agentId, agent.id, scope);
  }
  const admitted: AgentRecord = {
    ...agent,
    // An agent that comes back stays what it was first admitted as.
    attestationType: known?.attestation_type ?? agent.attestationType,
    agentVersion: agent.agentVersion === '' ? (known?.agent_version ?? '') : agent.agentVersion,
    pendingSerial: '',
    pendingExpiresAt: 0,
  };
  const { row: _, ...fields } = agentRow(0, admitted, aliasEntryId);
  if (known === undefined) {
    const row = await takeNumbers(session, 'agent', 1);
    await session.run(session.db.insertInto('agent').values({ row, ...fields }));
  } else {
    await session.run(session.db.updateTable('agent').set(fields).where('row', '=', known.row));
  }
  await recordIntents(session, [intent]);
  const structural = known === undefined || known.selectors !== fields.selectors;
  await recordChanges(transaction, [{ noun: 'agent', id: agent.id, agent: admitted, structural }]);
  await recordEvents(session, [eventOf(scope, 'agent.attested', agent.id, attestedDetail(admitted, known === undefined))]);
  return admitted;
}

/** @throws missing `agent.unknown`, denied `agent.banned` */
export async function renewAgent(
  transaction: Transaction,
  id: SpiffeId,
  pending: { readonly serial: string; readonly expiresAt: number },
  intent: CredentialIntent,
  scope: Scope,
): Promise<AgentRecord> {
  const known = await needAgent(transaction.session, id);
  if (known.serial === '') throw banned(id);
  await recordIntents(transaction.session, [intent]);
  const next = { ...readAgent(known), pendingSerial: pending.serial, pendingExpiresAt: pending.expiresAt };
  await replaceAgent(transaction, known, next);
  await recordEvents(transaction.session, [eventOf(scope, 'agent.renewed', id, { ...pending })]);
  return next;
}

/** @throws missing `agent.unknown` */
export async function promoteAgent(transaction: Transaction, id: SpiffeId, serial: string, scope: Scope): Promise<AgentRecord> {
  const known = await needAgent(transaction.session, id);
  const agent = readAgent(known);
  if (serial === '' || agent.pendingSerial !== serial || agent.serial === '') return agent;
  const next = { ...agent, serial, expiresAt: agent.pendingExpiresAt, pendingSerial: '', pendingExpiresAt: 0 };
  await replaceAgent(transaction, known, next);
  const detail = { serial, expiresAt: next.expiresAt, replaced: agent.serial };
  await recordEvents(transaction.session, [eventOf(scope, 'agent.promoted', id, detail)]);
  return next;
}

/** @throws missing `agent.unknown` */
export async function setAgentVersion(transaction: Transaction, id: SpiffeId, version: string, scope: Scope): Promise<void> {
  const known = await needAgent(transaction.session, id);
  if (known.agent_version === version) return;
  await replaceAgent(transaction, known, { ...readAgent(known), agentVersion: version });
  await recordEvents(transaction.session, [eventOf(scope, 'agent.inventory', id, { agentVersion: version })]);
}

/** @throws missing `agent.unknown` */
export async function banAgent(transaction: Transaction, id: SpiffeId, scope: Scope): Promise<void> {
  const known = await needAgent(transaction.session, id);
  if (known.serial === '') return;
  await replaceAgent(transaction, known, { ...readAgent(known), serial: '', pendingSerial: '', pendingExpiresAt: 0 });
  await recordEvents(transaction.session, [eventOf(scope, 'agent.banned', id, { serial: known.serial })]);
}

/** @throws missing `agent.unknown` */
export async function deleteAgent(transaction: Transaction, id: SpiffeId, scope: Scope): Promise<void> {
  const known = await needAgent(transaction.session, id);
  await dropAgent(transaction, known, scope);
  const detail = { serial: known.serial, banned: known.serial === '' };
  await recordEvents(transaction.session, [eventOf(scope, 'agent.evicted', id, detail)]);
}

/** At most `limit` of them, the longest expired first. */
export async function purgeAgents(
  transaction: Transaction,
  expiredBefore: number,
  limit: number,
  scope: Scope,
): Promise<readonly SpiffeId[]> {
  const { session } = transaction;
  const rows = await session.all(
    session.db
      .selectFrom('agent')
      .selectAll()
      .where('serial', '<>', '')
      .where('expires_at', '<', expiredBefore)
      // A renewed SVID that was not used yet can still be.
      .where('pending_expires_at', '<', expiredBefore)
      .orderBy('expires_at')
      .limit(limit),
  );
  const purged: SpiffeId[] = [];
  for (const row of rows) {
    const agent = readAgent(row);
    await dropAgent(transaction, row, scope);
    await recordEvents(session, [eventOf(scope, 'agent.purged', agent.id, { serial: agent.serial, expiresAt: agent.expiresAt })]);
    purged.push(agent.id);
  }
  return purged;
}

async function refuseExpired(transaction: Transaction, token: JoinToken, scope: Scope): Promise<KeptRefusal> {
  const event = eventOf(scope, 'token.expired', token.hash, tokenDetail(token), 'token.expired');
  await recordEvents(transaction.session, [{ ...event, outcome: 'refused' }]);
  return { refusal: new SpiffeError('invalid', 'token.expired', 'join token expired') };
}

/** Tells the id of the entry, `''` if somebody else had registered the same. */
async function writeAlias(transaction: Transaction, aliasId: SpiffeId, agentId: SpiffeId, scope: Scope): Promise<string> {
  const draft = {
    spiffeId: aliasId,
    parentId: agentId,
    selectors: [composeSelector('spiffe_id', agentId)],
    x509SvidTtlSeconds: 0,
    jwtSvidTtlSeconds: 0,
    federatesWith: [],
    dnsNames: [],
    admin: false,
    downstream: false,
    storeSvid: false,
    hint: '',
    disableX509SvidPrefetch: false,
    jwtSvidIncludeJti: false,
    forbidCache: false,
    expiresAt: undefined,
  };
  const [outcome] = await createEntries(transaction, [draft], scope);
  return outcome?.status === 'done' ? outcome.entry.id : '';
}

async function dropAgent(transaction: Transaction, row: AgentTable, scope: Scope): Promise<void> {
  const { session } = transaction;
  if (row.alias_entry_id !== '') await deleteEntries(transaction, [row.alias_entry_id], scope);
  await session.run(session.db.deleteFrom('agent').where('row', '=', row.row));
  await recordChanges(transaction, [{ noun: 'agent', id: row.id as SpiffeId, agent: undefined, structural: true }]);
}

async function replaceAgent(transaction: Transaction, known: AgentTable, next: AgentRecord): Promise<void> {
  const { session } = transaction;
  const { row: _, ...fields } = agentRow(known.row, next, known.alias_entry_id);
  await session.run(session.db.updateTable('agent').set(fields).where('row', '=', known.row));
  await recordChanges(transaction, [{ noun: 'agent', id: next.id, agent: next, structural: false }]);
}

async function findAgent(session: Session, id: SpiffeId): Promise<AgentTable | undefined> {
  return session.firstOf(selectAgent, { id });
}

async function needAgent(session: Session, id: SpiffeId): Promise<AgentTable> {
  const found = await findAgent(session, id);
  if (found === undefined) throw new SpiffeError('missing', 'agent.unknown', 'agent not found');
  return found;
}

function banned(id: SpiffeId): SpiffeError {
  return new SpiffeError('denied', 'agent.banned', 'failed to attest: agent is banned', { detail: { agentId: id } });
}

function attestedDetail(agent: AgentRecord, first: boolean): AuditDetail {
  const { attestationType, serial, expiresAt, selectors, canReattest } = agent;
  return { attestationType, serial, expiresAt, selectors, canReattest, first };
}

function agentRow(row: number, agent: AgentRecord, aliasEntryId: string): AgentTable {
  return {
    row,
    id: agent.id,
    attestation_type: agent.attestationType,
    serial: agent.serial,
    expires_at: agent.expiresAt,
    pending_serial: agent.pendingSerial,
    pending_expires_at: agent.pendingExpiresAt,
    selectors: JSON.stringify(agent.selectors),
    can_reattest: agent.canReattest ? 1 : 0,
    agent_version: agent.agentVersion,
    attested_at: agent.attestedAt,
    alias_entry_id: aliasEntryId,
  };
}

function readAgent(row: AgentTable): AgentRecord {
  return {
    id: row.id as SpiffeId,
    attestationType: row.attestation_type,
    serial: row.serial,
    expiresAt: row.expires_at,
    pendingSerial: row.pending_serial,
    pendingExpiresAt: row.pending_expires_at,
    selectors: JSON.parse(row.selectors) as Selector[],
    canReattest: row.can_reattest !== 0,
    agentVersion: row.agent_version,
    attestedAt: row.attested_at,
  };
}

const selectAgent = template((db, slot) => db.selectFrom('agent').selectAll().where('id', '=', slot<string>('id')));
