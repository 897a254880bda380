/**
 * The SQL of relationships with other trust domains, and of the bundles that come by them: when a fetched bundle takes
 * the place of the stored one is decided in the transaction that writes it. Fetching is federation's.
 */
import { bundleContentEquals, bundleEquals } from '../../spiffe/bundle.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { AuditDetail } from '../audit/event.ts';
import { eventOf, recordEvents } from './audit.ts';
import { bundleDetail, findBundle, putBundle, writeBundle } from './bundles.ts';
import { recordChanges } from './changes.ts';
import { takeNumbers } from './session.ts';
import type { Session, Transaction } from './session.ts';
import type { EndpointProfile, RefreshOutcome, Relationship, RelationshipRecord, Scope } from './store.ts';
import type { RelationshipTable } from './schema.ts';

export async function loadRelationships(session: Session): Promise<readonly RelationshipRecord[]> {
  return (await session.all(session.db.selectFrom('relationship').selectAll().orderBy('row'))).map(readRelationship);
}

export async function createRelationship(
  transaction: Transaction,
  relationship: Relationship,
  bundle: Bundle | undefined,
  scope: Scope,
): Promise<RelationshipRecord> {
  const { session } = transaction;
  if ((await findRelationship(session, relationship.trustDomain)) !== undefined) {
    throw new SpiffeError('exists', 'relationship.exists', `there is a relationship with ${relationship.trustDomain} already`);
  }
  const row = await takeNumbers(session, 'relationship', 1);
  const created: RelationshipRecord = { ...relationship, row, createdAt: scope.at, refreshedAt: undefined };
  await session.run(session.db.insertInto('relationship').values({ ...relationshipRow(created), sequence: '0' }));
  await recordRelationship(transaction, created);
  await recordEvents(session, [eventOf(scope, 'relationship.created', created.trustDomain, relationshipDetail(created))]);
  if (bundle !== undefined) await writeBundle(transaction, bundle, 'set', scope);
  return created;
}

export async function updateRelationship(
  transaction: Transaction,
  trustDomain: TrustDomain,
  fields: Partial<Pick<Relationship, 'endpointUrl' | 'profile'>>,
  bundle: Bundle | undefined,
  scope: Scope,
): Promise<RelationshipRecord> {
  const { session } = transaction;
  const before = await knownRelationship(session, trustDomain);
  const named: RelationshipRecord = { ...before, ...fields };
  // What another endpoint said says nothing about this one.
  const after = sameEndpoint(before, named) ? before : { ...named, refreshedAt: undefined };
  if (after !== before) {
    const { row, ...columns } = relationshipRow(after);
    await session.run(session.db.updateTable('relationship').set(columns).where('row', '=', row));
    await recordRelationship(transaction, after);
  }
  await recordEvents(session, [eventOf(scope, 'relationship.updated', trustDomain, relationshipDetail(after))]);
  if (bundle !== undefined) await writeBundle(transaction, bundle, 'set', scope);
  return after;
}

export async function deleteRelationship(transaction: Transaction, trustDomain: TrustDomain, scope: Scope): Promise<void> {
  const { session } = transaction;
  const known = await knownRelationship(session, trustDomain);
  await session.run(session.db.deleteFrom('relationship').where('trust_domain', '=', trustDomain));
  await recordChanges(transaction, [{ noun: 'relationship', id: trustDomain, relationship: undefined, structural: true }]);
  await recordEvents(session, [eventOf(scope, 'relationship.deleted', trustDomain, relationshipDetail(known))]);
}

/**
 * The bundle is taken whole, never merged with the one before [Federation 4.2]; one without keys is a revocation and is
 * taken as any other.
 */
export async function refreshBundle(
  transaction: Transaction,
  relationship: Relationship,
  bundle: Bundle,
  scope: Scope,
): Promise<RefreshOutcome> {
  const { session } = transaction;
  const { trustDomain } = relationship;
  const stored = await findRow(session, trustDomain);
  const known = stored === undefined ? undefined : readRelationship(stored);
  // What is under way when a relationship ends, or gets another endpoint, must not bring back what was deleted.
  if (stored === undefined || known === undefined || !sameEndpoint(known, relationship) || bundle.trustDomain !== trustDomain) return { status: 'ended' };
  const before = await findBundle(session, trustDomain);
  const newest = BigInt(stored.sequence);
  // By sequence; of bundles without one the latest that was fetched counts [Federation 4.2].
  if (before !== undefined && bundle.sequence !== 0n && bundle.sequence < newest) throw sequenceBehind(bundle.sequence, newest);
  const sequence = bundle.sequence.toString();
  await session.run(
    session.db.updateTable('relationship').set({ refreshed_at: scope.at, sequence }).where('row', '=', known.row),
  );
  if (before !== undefined && bundleEquals(before, bundle)) return { status: 'unchanged', bundle: before, before };
  await putBundle(transaction, bundle);
  await recordEvents(session, [eventOf(scope, 'bundle.refreshed', trustDomain, refreshDetail(before, bundle))]);
  return { status: 'changed', bundle, before };
}

function sequenceBehind(fetched: bigint, newest: bigint): SpiffeError {
  return new SpiffeError(
    'conflict',
    'relationship.sequence-behind',
    `the endpoint serves sequence ${fetched}, which is older than ${newest}, which came before`,
    { detail: { fetched: fetched.toString(), newest: newest.toString() } },
  );
}

/** What came and what went, for whoever asks later why something was trusted. */
function refreshDetail(before: Bundle | undefined, after: Bundle): AuditDetail {
  const had = new Set(before?.x509Authorities.map(({ certificate }) => Buffer.from(certificate).toString('base64')));
  const kept = after.x509Authorities.filter(({ certificate }) => had.has(Buffer.from(certificate).toString('base64'))).length;
  return {
    ...bundleDetail(after),
    keptX509: kept,
    droppedX509: had.size - kept,
    // A publisher's fault: what changes has to say so.
    sameSequence: before !== undefined && before.sequence === after.sequence && after.sequence !== 0n && !bundleContentEquals(before, after),
  };
}

async function knownRelationship(session: Session, trustDomain: TrustDomain): Promise<RelationshipRecord> {
  const known = await findRelationship(session, trustDomain);
  if (known === undefined) throw new SpiffeError('missing', 'relationship.missing', 'record not found');
  return known;
}

async function findRelationship(session: Session, trustDomain: TrustDomain): Promise<RelationshipRecord | undefined> {
  const row = await findRow(session, trustDomain);
  return row === undefined ? undefined : readRelationship(row);
}

async function findRow(session: Session, trustDomain: TrustDomain): Promise<RelationshipTable | undefined> {
  return session.first(session.db.selectFrom('relationship').selectAll().where('trust_domain', '=', trustDomain));
}

async function recordRelationship(transaction: Transaction, relationship: RelationshipRecord): Promise<void> {
  await recordChanges(transaction, [{ noun: 'relationship', id: relationship.trustDomain, relationship, structural: false }]);
}

function sameEndpoint(a: Relationship, b: Relationship): boolean {
  return a.endpointUrl === b.endpointUrl && a.profile.type === b.profile.type && endpointIdOf(a.profile) === endpointIdOf(b.profile);
}

function endpointIdOf(profile: EndpointProfile): SpiffeId | '' {
  return profile.type === 'https_spiffe' ? profile.endpointId : '';
}

function relationshipDetail({ endpointUrl, profile }: Relationship): AuditDetail {
  return { endpointUrl, profile: profile.type, endpointId: endpointIdOf(profile) };
}

function relationshipRow({ row, trustDomain, endpointUrl, profile, createdAt, refreshedAt }: RelationshipRecord): Omit<RelationshipTable, 'sequence'> {
  return {
    row,
    trust_domain: trustDomain,
    endpoint_url: endpointUrl,
    profile: profile.type,
    endpoint_id: endpointIdOf(profile),
    created_at: createdAt,
    refreshed_at: refreshedAt ?? null,
  };
}

function readRelationship(row: RelationshipTable): RelationshipRecord {
  const endpointId = row.endpoint_id as SpiffeId;
  return {
    row: row.row,
    trustDomain: row.trust_domain as TrustDomain,
    endpointUrl: row.endpoint_url,
    profile: row.profile === 'https_spiffe' ? { type: 'https_spiffe', endpointId } : { type: 'https_web' },
    createdAt: row.created_at,
    refreshedAt: row.refreshed_at ?? undefined,
  };
}
