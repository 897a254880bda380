/**
 * Brings the tables of a store to the form this program knows, forwards only, and holds the store to its trust domain.
 * The forms themselves are in `migrations/`.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { initial } from './migrations/0001-initial.ts';
import { relationships } from './migrations/0002-relationships.ts';
import { witAuthorities } from './migrations/0003-wit-authorities.ts';
import type { Migration } from './migrations/migration.ts';
import type { Session, StoreFacts } from './session.ts';

const migrations: readonly Migration[] = [initial, relationships, witAuthorities];

export const newestSchema = migrations.length;

/**
 * Runs what is missing; the caller has begun a transaction and commits it.
 * @param epoch for a store that is new
 * @throws conflict `store.schema.newer`, `store.trust-domain`
 */
export async function migrate(session: Session, int64: 'integer' | 'bigint', trustDomain: string, epoch: string): Promise<void> {
  const { db } = session;
  await session.run(
    db.schema
      .createTable('meta')
      .ifNotExists()
      .addColumn('name', 'text', (column) => column.primaryKey())
      .addColumn('value', 'text', (column) => column.notNull()),
  );
  const version = Number((await readMeta(session, 'schema_version')) ?? '0');
  checkSchema(version);
  await checkTrustDomain(session, trustDomain);
  for (const migration of migrations.slice(version)) {
    for (const statement of migration.statements(db, int64)) await session.run(statement);
    await writeMeta(session, 'schema_version', String(migration.version));
  }
  if (version === 0) {
    await writeMeta(session, 'trust_domain', trustDomain);
    await writeMeta(session, 'epoch', epoch);
  }
}

/** @throws conflict `store.schema.newer` */
export function checkSchema(version: number): void {
  if (Number.isSafeInteger(version) && version >= 0 && version <= newestSchema) return;
  throw new SpiffeError(
    'conflict',
    'store.schema.newer',
    `the store has schema ${version}, this program knows up to ${newestSchema}: run the newer program, or restore a backup`,
    { detail: { found: version, known: newestSchema } },
  );
}

export async function readFacts(session: Session): Promise<StoreFacts> {
  const trustDomain = await readMeta(session, 'trust_domain');
  const epoch = await readMeta(session, 'epoch');
  const counter = await session.first(session.db.selectFrom('counter').select('value').where('name', '=', 'revision'));
  if (trustDomain === undefined || epoch === undefined || counter === undefined) {
    throw new SpiffeError('internal', 'store.corrupt', 'the store lacks its trust domain, epoch or revision');
  }
  return { trustDomain, epoch, revision: counter.value };
}

export async function readMeta(session: Session, name: string): Promise<string | undefined> {
  return (await session.first(session.db.selectFrom('meta').select('value').where('name', '=', name)))?.value;
}

export async function writeMeta(session: Session, name: string, value: string): Promise<void> {
  await session.run(
    session.db
      .insertInto('meta')
      .values({ name, value })
      .onConflict((conflict) => conflict.column('name').doUpdateSet({ value })),
  );
}

async function checkTrustDomain(session: Session, trustDomain: string): Promise<void> {
  const stored = await readMeta(session, 'trust_domain');
  if (stored === undefined || stored === trustDomain) return;
  throw new SpiffeError(
    'conflict',
    'store.trust-domain',
    `the store belongs to trust domain ${stored}, not to ${trustDomain}`,
    { detail: { stored, configured: trustDomain } },
  );
}
