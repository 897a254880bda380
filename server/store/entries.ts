/**
 * The SQL of registration entries: each item of a batch is done or refused on its own, with its numbered change and its
 * audit event. The rules of a single entry are `spiffe/entry.ts`; those checked here need the other rows.
 */
import { randomUUID } from 'node:crypto';

import { checkEntryDraft, composeEntry } from '../../spiffe/entry.ts';
import type { EntryDraft, RegistrationEntry } from '../../spiffe/entry.ts';
import { isAlias } from '../../spiffe/authorize.ts';
import { SpiffeError, isSpiffeError } from '../../spiffe/errors.ts';
import { trustDomainId } from '../../spiffe/id.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { AuditDetail, AuditEvent, AuditType } from '../audit/event.ts';
import { eventOf, recordEvents } from './audit.ts';
import { recordChanges } from './changes.ts';
import type { Change } from './changes.ts';
import { entryRow, matchHash, packEntries, packedColumns, readEntry } from './entry-rows.ts';
import type { EntryColumns } from './entry-rows.ts';
import { takeNumbers, template } from './session.ts';
import type { Session, Transaction } from './session.ts';
import type { DeleteOutcome, EntryOutcome, EntryUpdate, Scope } from './store.ts';
import type { EntryTable } from './schema.ts';

interface Written {
  readonly row: number;
  readonly before: RegistrationEntry | undefined;
  readonly after: RegistrationEntry | undefined;
}

/** Up to `limit` entries after a row, packed, and the last row; oldest first. */
export async function loadEntries(
  session: Session,
  afterRow: number,
  limit: number,
): Promise<{ readonly packed: string; readonly lastRow: number; readonly count: number }> {
  const rows = (await session.columnsOf(selectPage, { after: afterRow, limit })) as readonly EntryColumns[];
  return { packed: packEntries(rows), lastRow: rows.at(-1)?.[0] ?? afterRow, count: rows.length };
}

export async function createEntries(
  transaction: Transaction,
  drafts: readonly EntryDraft[],
  scope: Scope,
): Promise<readonly EntryOutcome[]> {
  const written: Written[] = [];
  const outcomes: EntryOutcome[] = [];
  for (const draft of drafts) outcomes.push(await createEntry(transaction, draft, scope, written));
  await witness(transaction, written, scope, 'entry.created');
  return outcomes;
}

/** Writes one entry, to be witnessed by the caller. */
async function createEntry(
  transaction: Transaction,
  draft: EntryDraft,
  scope: Scope,
  written: Written[],
): Promise<EntryOutcome> {
  const { session } = transaction;
  const unfederated = await missingBundle(transaction, draft.federatesWith);
  if (unfederated !== undefined) return { status: 'refused', error: unfederated };
  const similar = await session.firstOf(selectByMatch, { match: matchHash(draft) });
  if (similar !== undefined) return { status: 'similar', entry: readEntry(similar) };
  const id = draft.id ?? randomUUID();
  if (draft.id !== undefined && (await session.firstOf(selectById, { id })) !== undefined) {
    return { status: 'refused', error: idTaken(id) };
  }
  const entry = composeEntry(draft, { id, createdAt: Math.floor(scope.at / 1000) * 1000, revisionNumber: 0 });
  const row = await takeNumbers(session, 'entry', 1);
  await session.runEach(insertEntry, [entryRow(row, entry)]);
  await linkFederation(session, row, entry.federatesWith);
  written.push({ row, before: undefined, after: entry });
  return { status: 'done', entry };
}

export async function updateEntries(
  transaction: Transaction,
  updates: readonly EntryUpdate[],
  scope: Scope,
): Promise<readonly EntryOutcome[]> {
  const written: Written[] = [];
  const outcomes: EntryOutcome[] = [];
  for (const update of updates) outcomes.push(await updateEntry(transaction, update, written));
  await witness(transaction, written, scope, 'entry.updated');
  return outcomes;
}

async function updateEntry(transaction: Transaction, update: EntryUpdate, written: Written[]): Promise<EntryOutcome> {
  const { session } = transaction;
  const found = await session.firstOf(selectById, { id: update.id });
  if (found === undefined) {
    return { status: 'refused', error: new SpiffeError('missing', 'entry.missing', 'entry not found') };
  }
  const before = readEntry(found);
  let draft: EntryDraft;
  try {
    draft = checkEntryDraft({ ...before, ...update.fields, id: before.id }, transaction.trustDomain);
  } catch (error) {
    if (isSpiffeError(error)) return { status: 'refused', error };
    throw error;
  }
  // What it federates with already stays, also when the relationship that promised the bundle has ended since.
  const added = draft.federatesWith.filter((name) => !before.federatesWith.includes(name));
  const unfederated = await missingBundle(transaction, added);
  if (unfederated !== undefined) return { status: 'refused', error: unfederated };
  const similar = await session.firstOf(selectByMatch, { match: matchHash(draft) });
  if (similar !== undefined && similar.row !== found.row) return { status: 'similar', entry: readEntry(similar) };
  const after = composeEntry(draft, {
    id: before.id,
    createdAt: before.createdAt,
    revisionNumber: before.revisionNumber + 1,
  });
  await replaceEntry(session, found.row, before, after);
  written.push({ row: found.row, before, after });
  return { status: 'done', entry: after };
}

export async function deleteEntries(
  transaction: Transaction,
  ids: readonly string[],
  scope: Scope,
): Promise<readonly DeleteOutcome[]> {
  const written: Written[] = [];
  const outcomes: DeleteOutcome[] = [];
  for (const id of ids) {
    const found = await transaction.session.firstOf(selectById, { id });
    if (found !== undefined) await dropEntry(transaction.session, found, written);
    outcomes.push({ status: found === undefined ? 'missing' : 'done', id });
  }
  await witness(transaction, written, scope, 'entry.deleted');
  return outcomes;
}

export async function pruneEntries(transaction: Transaction, limit: number, scope: Scope): Promise<number> {
  const { session } = transaction;
  const written: Written[] = [];
  for (const row of await session.allOf(selectExpired, { at: scope.at, limit })) await dropEntry(session, row, written);
  await witness(transaction, written, scope, 'entry.expired');
  return written.length;
}

/** How many entries federate with the trust domain. */
export async function countFederated(session: Session, trustDomain: TrustDomain): Promise<number> {
  const counted = await session.first(
    session.db
      .selectFrom('entry_federation')
      .select((column) => column.fn.countAll<number>().as('count'))
      .where('trust_domain', '=', trustDomain),
  );
  return counted?.count ?? 0;
}

/** Deletes the entries that federate with the trust domain, or takes it out of them. */
export async function endFederation(
  transaction: Transaction,
  trustDomain: TrustDomain,
  how: 'delete' | 'dissociate',
  scope: Scope,
): Promise<void> {
  const { session } = transaction;
  const rows = await session.all(
    session.db
      .selectFrom('entry')
      .selectAll('entry')
      .innerJoin('entry_federation', 'entry_federation.entry_row', 'entry.row')
      .where('entry_federation.trust_domain', '=', trustDomain)
      .orderBy('entry.row'),
  );
  const written: Written[] = [];
  for (const row of rows) {
    if (how === 'delete') {
      await dropEntry(session, row, written);
      continue;
    }
    const before = readEntry(row);
    const federatesWith = before.federatesWith.filter((name) => name !== trustDomain);
    const after = composeEntry(
      { ...before, federatesWith },
      { id: before.id, createdAt: before.createdAt, revisionNumber: before.revisionNumber + 1 },
    );
    await replaceEntry(session, row.row, before, after);
    written.push({ row: row.row, before, after });
  }
  await witness(transaction, written, scope, how === 'delete' ? 'entry.deleted' : 'entry.updated');
}

async function dropEntry(session: Session, row: EntryTable, written: Written[]): Promise<void> {
  const before = readEntry(row);
  if (before.federatesWith.length > 0) await session.runEach(unlinkEntry, [{ row: row.row }]);
  await session.runEach(deleteEntry, [{ row: row.row }]);
  written.push({ row: row.row, before, after: undefined });
}

async function replaceEntry(session: Session, row: number, before: RegistrationEntry, after: RegistrationEntry): Promise<void> {
  const { row: _, ...fields } = entryRow(row, after);
  await session.run(session.db.updateTable('entry').set(fields).where('row', '=', row));
  if (before.federatesWith.length > 0) await session.runEach(unlinkEntry, [{ row }]);
  await linkFederation(session, row, after.federatesWith);
}

async function linkFederation(session: Session, row: number, federatesWith: readonly TrustDomain[]): Promise<void> {
  await session.runEach(
    insertFederation,
    [...new Set(federatesWith)].map((name) => ({ row, name })),
  );
}

/**
 * A bundle is there, or a relationship by which it is still to come.
 * [SPIRE contract 13.2]: the text and the code it maps to are what clients know.
 */
async function missingBundle(transaction: Transaction, federatesWith: readonly TrustDomain[]): Promise<SpiffeError | undefined> {
  for (const name of federatesWith) {
    if (name === transaction.trustDomain) continue;
    if ((await transaction.session.firstOf(selectBundle, { name })) !== undefined) continue;
    if ((await transaction.session.firstOf(selectRelationship, { name })) !== undefined) continue;
    return new SpiffeError(
      'internal',
      'entry.federated-bundle.missing',
      `unable to find federated bundle "${trustDomainId(name)}"`,
    );
  }
  return undefined;
}

function idTaken(id: string): SpiffeError {
  return new SpiffeError('exists', 'entry.id.exists', `an entry with the id ${id} exists already`, { detail: { id } });
}

async function witness(
  transaction: Transaction,
  written: readonly Written[],
  scope: Scope,
  type: AuditType,
): Promise<void> {
  if (written.length === 0) return;
  const last = await recordChanges(transaction, written.map(toChange));
  const first = last - written.length + 1;
  const events: AuditEvent[] = [];
  for (const [index, { before, after }] of written.entries()) {
    const entry = after ?? before;
    if (entry !== undefined) events.push(eventOf(scope, type, entry.id, entryDetail(entry, first + index)));
  }
  await recordEvents(transaction.session, events);
}

function toChange({ row, before, after }: Written): Change {
  return { noun: 'entry', id: (after ?? before)?.id ?? '', entry: after, row, structural: isStructural(before, after) };
}

/** Whether what hangs below the entry may belong to other agents than before. */
function isStructural(before: RegistrationEntry | undefined, after: RegistrationEntry | undefined): boolean {
  if (before === undefined) return false;
  if (after === undefined) return true;
  if (before.spiffeId !== after.spiffeId || before.parentId !== after.parentId) return true;
  return isAlias(after) && matchHash(before) !== matchHash(after);
}

function entryDetail(entry: RegistrationEntry, revision: number): AuditDetail {
  return { spiffeId: entry.spiffeId, parentId: entry.parentId, selectors: entry.selectors, revision };
}

const selectPage = template((db, slot) =>
  db
    .selectFrom('entry')
    .select([...packedColumns])
    .where('row', '>', slot<number>('after'))
    .orderBy('row')
    .limit(slot<number>('limit')),
);

const selectById = template((db, slot) => db.selectFrom('entry').selectAll().where('id', '=', slot<string>('id')));

const selectByMatch = template((db, slot) =>
  db.selectFrom('entry').selectAll().where('match_hash', '=', slot<string>('match')),
);

const selectExpired = template((db, slot) =>
  db
    .selectFrom('entry')
    .selectAll()
    .where('expires_at', 'is not', null)
    .where('expires_at', '<=', slot<number>('at'))
    .orderBy('expires_at')
    .limit(slot<number>('limit')),
);

const selectBundle = template((db, slot) =>
  db.selectFrom('bundle').select('trust_domain').where('trust_domain', '=', slot<string>('name')),
);

const selectRelationship = template((db, slot) =>
  db.selectFrom('relationship').select('trust_domain').where('trust_domain', '=', slot<string>('name')),
);

const insertEntry = template((db, slot) =>
  db.insertInto('entry').values({
    row: slot('row'),
    id: slot('id'),
    match_hash: slot('match_hash'),
    spiffe_id: slot('spiffe_id'),
    parent_id: slot('parent_id'),
    selectors: slot('selectors'),
    federates_with: slot('federates_with'),
    dns_names: slot('dns_names'),
    x509_svid_ttl: slot('x509_svid_ttl'),
    jwt_svid_ttl: slot('jwt_svid_ttl'),
    admin: slot('admin'),
    downstream: slot('downstream'),
    store_svid: slot('store_svid'),
    hint: slot('hint'),
    disable_x509_svid_prefetch: slot('disable_x509_svid_prefetch'),
    jwt_svid_include_jti: slot('jwt_svid_include_jti'),
    forbid_cache: slot('forbid_cache'),
    expires_at: slot('expires_at'),
    created_at: slot('created_at'),
    revision_number: slot('revision_number'),
  }),
);

const deleteEntry = template((db, slot) => db.deleteFrom('entry').where('row', '=', slot<number>('row')));

const unlinkEntry = template((db, slot) => db.deleteFrom('entry_federation').where('entry_row', '=', slot<number>('row')));

const insertFederation = template((db, slot) =>
  db.insertInto('entry_federation').values({ entry_row: slot('row'), trust_domain: slot('name') }),
);
