/**
 * The SQL of signing authorities: the record of which keys sign, or will, or did. When they change is `rotate.ts`.
 */
import type { TrustDomain } from '../../spiffe/id.ts';
import { recordEvents } from './audit.ts';
import { appendToBundle } from './bundles.ts';
import { newestRevision, recordChanges } from './changes.ts';
import type { Change } from './changes.ts';
import type { Session, Transaction } from './session.ts';
import type { AuthorityKind, AuthorityRecord, AuthorityState, AuthorityStep, KeyType, Scope } from './store.ts';
import type { AuthorityTable } from './schema.ts';

export async function loadAuthorities(session: Session): Promise<readonly AuthorityRecord[]> {
  return (await session.all(session.db.selectFrom('authority').selectAll().orderBy('created_at').orderBy('id'))).map(readAuthority);
}

/**
 * The bundle first, so that a record can say by which revision it is published. Tells all records as they are then.
 */
export async function stepAuthorities(
  transaction: Transaction,
  trustDomain: TrustDomain,
  step: AuthorityStep,
  _scope: Scope,
): Promise<readonly AuthorityRecord[]> {
  const { session } = transaction;
  const { x509, jwt, wit = [] } = step.publish;
  const publishes = x509.length + jwt.length + wit.length > 0;
  const added = { x509Authorities: x509, jwtAuthorities: jwt, witAuthorities: wit };
  const appended = publishes ? await appendToBundle(transaction, trustDomain, added) : undefined;
  // Numbers are handed out in this transaction, so the next one is known before it is taken.
  const ownRevision = (await newestRevision(session)) + 1;
  const changes: Change[] = [];
  for (const [index, given] of step.upserts.entries()) {
    const unsaid = given.publishedAt !== undefined && given.publishedRevision === undefined;
    const authority = unsaid ? { ...given, publishedRevision: appended?.revision ?? ownRevision + index } : given;
    await putAuthority(session, authority);
    changes.push({ noun: 'authority', id: authority.id, authority, structural: false });
  }
  for (const id of step.forgotten) {
    const deleted = await session.run(session.db.deleteFrom('authority').where('id', '=', id));
    if (deleted > 0) changes.push({ noun: 'authority', id, authority: undefined, structural: false });
  }
  if (changes.length > 0) await recordChanges(transaction, changes);
  await recordEvents(session, step.events);
  return loadAuthorities(session);
}

async function putAuthority(session: Session, authority: AuthorityRecord): Promise<void> {
  const { id, ...fields } = authorityRow(authority);
  await session.run(
    session.db
      .insertInto('authority')
      .values({ id, ...fields })
      .onConflict((conflict) => conflict.column('id').doUpdateSet(fields)),
  );
}

function authorityRow(authority: AuthorityRecord): AuthorityTable {
  return {
    id: authority.id,
    kind: authority.kind,
    owner: authority.owner,
    key_name: authority.keyName,
    key_type: authority.keyType,
    state: authority.state,
    public_key: authority.publicKey,
    certificate: authority.certificate ?? null,
    created_at: authority.createdAt,
    published_at: authority.publishedAt ?? null,
    published_revision: authority.publishedRevision ?? null,
    activated_at: authority.activatedAt ?? null,
    not_before_at: authority.notBeforeAt,
    expires_at: authority.expiresAt,
  };
}

function readAuthority(row: AuthorityTable): AuthorityRecord {
  return {
    id: row.id,
    kind: row.kind as AuthorityKind,
    owner: row.owner,
    keyName: row.key_name,
    keyType: row.key_type as KeyType,
    state: row.state as AuthorityState,
    publicKey: row.public_key,
    certificate: row.certificate ?? undefined,
    createdAt: row.created_at,
    publishedAt: row.published_at ?? undefined,
    publishedRevision: row.published_revision ?? undefined,
    activatedAt: row.activated_at ?? undefined,
    notBeforeAt: row.not_before_at,
    expiresAt: row.expires_at,
  };
}
