/**
 * The first form of the tables. Never edited once released: a later form is a later file.
 */
import type { Kysely } from 'kysely';

import type { Migration } from './migration.ts';
import type { Compilable } from '../session.ts';
import type { Schema } from '../schema.ts';

export const initial: Migration = {
  version: 1,
  statements(db, int64) {
    return [...spine(db, int64), ...holders(db, int64), ...trust(db, int64), ...records(db, int64)];
  },
};

type Int64 = 'integer' | 'bigint';

function spine(db: Kysely<Schema>, int64: Int64): readonly Compilable[] {
  return [
    db.schema
      .createTable('counter')
      .addColumn('name', 'text', (column) => column.primaryKey())
      .addColumn('value', int64, (column) => column.notNull()),
    ...(['revision', 'entry', 'agent', 'credential', 'audit'] as const).map((name) =>
      db.insertInto('counter').values({ name, value: 0 }),
    ),
    db.schema
      .createTable('change')
      .addColumn('revision', int64, (column) => column.primaryKey())
      .addColumn('noun', 'text', (column) => column.notNull())
      .addColumn('ref', 'text', (column) => column.notNull())
      .addColumn('structural', 'integer', (column) => column.notNull()),
  ];
}

function holders(db: Kysely<Schema>, int64: Int64): readonly Compilable[] {
  return [
    db.schema
      .createTable('entry')
      .addColumn('row', int64, (column) => column.primaryKey())
      .addColumn('id', 'text', (column) => column.notNull().unique())
      .addColumn('match_hash', 'text', (column) => column.notNull().unique())
      .addColumn('spiffe_id', 'text', (column) => column.notNull())
      .addColumn('parent_id', 'text', (column) => column.notNull())
      .addColumn('selectors', 'text', (column) => column.notNull())
      .addColumn('federates_with', 'text', (column) => column.notNull())
      .addColumn('dns_names', 'text', (column) => column.notNull())
      .addColumn('x509_svid_ttl', int64, (column) => column.notNull())
      .addColumn('jwt_svid_ttl', int64, (column) => column.notNull())
      .addColumn('admin', 'integer', (column) => column.notNull())
      .addColumn('downstream', 'integer', (column) => column.notNull())
      .addColumn('store_svid', 'integer', (column) => column.notNull())
      .addColumn('hint', 'text', (column) => column.notNull())
      .addColumn('disable_x509_svid_prefetch', 'integer', (column) => column.notNull())
      .addColumn('jwt_svid_include_jti', 'integer', (column) => column.notNull())
      .addColumn('forbid_cache', 'integer', (column) => column.notNull())
      .addColumn('expires_at', int64)
      .addColumn('created_at', int64, (column) => column.notNull())
      .addColumn('revision_number', int64, (column) => column.notNull()),
    db.schema.createIndex('entry_expires_at').on('entry').column('expires_at').where('expires_at', 'is not', null),
    db.schema
      .createTable('entry_federation')
      .addColumn('entry_row', int64, (column) => column.notNull().references('entry.row').onDelete('cascade'))
      .addColumn('trust_domain', 'text', (column) => column.notNull())
      .addPrimaryKeyConstraint('entry_federation_key', ['entry_row', 'trust_domain']),
    db.schema.createIndex('entry_federation_trust_domain').on('entry_federation').columns(['trust_domain', 'entry_row']),
    db.schema
      .createTable('join_token')
      .addColumn('hash', 'text', (column) => column.primaryKey())
      .addColumn('expires_at', int64, (column) => column.notNull())
      .addColumn('agent_id', 'text'),
    db.schema.createIndex('join_token_expires_at').on('join_token').column('expires_at'),
    db.schema
      .createTable('agent')
      .addColumn('row', int64, (column) => column.primaryKey())
      .addColumn('id', 'text', (column) => column.notNull().unique())
      .addColumn('attestation_type', 'text', (column) => column.notNull())
      .addColumn('serial', 'text', (column) => column.notNull())
      .addColumn('expires_at', int64, (column) => column.notNull())
      .addColumn('pending_serial', 'text', (column) => column.notNull())
      .addColumn('pending_expires_at', int64, (column) => column.notNull())
      .addColumn('selectors', 'text', (column) => column.notNull())
      .addColumn('can_reattest', 'integer', (column) => column.notNull())
      .addColumn('agent_version', 'text', (column) => column.notNull())
      .addColumn('attested_at', int64, (column) => column.notNull())
      .addColumn('alias_entry_id', 'text', (column) => column.notNull()),
  ];
}

function trust(db: Kysely<Schema>, int64: Int64): readonly Compilable[] {
  const bytes = int64 === 'bigint' ? 'bytea' : 'blob';
  return [
    db.schema
      .createTable('bundle')
      .addColumn('trust_domain', 'text', (column) => column.primaryKey())
      .addColumn('sequence', 'text', (column) => column.notNull())
      .addColumn('refresh_hint', int64, (column) => column.notNull())
      .addColumn('x509_authorities', 'text', (column) => column.notNull())
      .addColumn('jwt_authorities', 'text', (column) => column.notNull()),
    db.schema
      .createTable('authority')
      .addColumn('id', 'text', (column) => column.primaryKey())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('owner', 'text', (column) => column.notNull())
      .addColumn('key_name', 'text', (column) => column.notNull())
      .addColumn('key_type', 'text', (column) => column.notNull())
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('public_key', bytes, (column) => column.notNull())
      .addColumn('certificate', bytes)
      .addColumn('created_at', int64, (column) => column.notNull())
      .addColumn('published_at', int64)
      .addColumn('published_revision', int64)
      .addColumn('activated_at', int64)
      .addColumn('not_before_at', int64, (column) => column.notNull())
      .addColumn('expires_at', int64, (column) => column.notNull()),
  ];
}

function records(db: Kysely<Schema>, int64: Int64): readonly Compilable[] {
  return [
    db.schema
      .createTable('credential')
      .addColumn('row', int64, (column) => column.primaryKey())
      .addColumn('id', 'text', (column) => column.notNull().unique())
      .addColumn('kind', 'text', (column) => column.notNull())
      .addColumn('state', 'text', (column) => column.notNull())
      .addColumn('spiffe_id', 'text', (column) => column.notNull())
      .addColumn('entry_id', 'text', (column) => column.notNull())
      .addColumn('agent_id', 'text', (column) => column.notNull())
      .addColumn('authority_id', 'text', (column) => column.notNull())
      .addColumn('decision_id', 'text', (column) => column.notNull())
      .addColumn('reason', 'text', (column) => column.notNull())
      .addColumn('at', int64, (column) => column.notNull())
      .addColumn('not_before_at', int64, (column) => column.notNull())
      .addColumn('expires_at', int64, (column) => column.notNull())
      .addColumn('audience', 'text', (column) => column.notNull())
      .addColumn('digest', 'text', (column) => column.notNull())
      .addColumn('process', 'text', (column) => column.notNull()),
    // No index by SPIFFE ID alone would be of use without the order of pages behind it.
    db.schema.createIndex('credential_spiffe_id').on('credential').columns(['spiffe_id', 'row']),
    db.schema.createIndex('credential_entry_id').on('credential').columns(['entry_id', 'row']).where('entry_id', '<>', ''),
    db.schema.createIndex('credential_agent_id').on('credential').columns(['agent_id', 'row']).where('agent_id', '<>', ''),
    db.schema.createIndex('credential_expires_at').on('credential').column('expires_at'),
    db.schema
      .createTable('audit')
      .addColumn('number', int64, (column) => column.primaryKey())
      .addColumn('at', int64, (column) => column.notNull())
      .addColumn('type', 'text', (column) => column.notNull())
      .addColumn('actor', 'text', (column) => column.notNull())
      .addColumn('method', 'text', (column) => column.notNull())
      .addColumn('outcome', 'text', (column) => column.notNull())
      .addColumn('reason', 'text', (column) => column.notNull())
      .addColumn('subject', 'text', (column) => column.notNull())
      .addColumn('detail', 'text', (column) => column.notNull()),
    db.schema.createIndex('audit_at').on('audit').column('at'),
    db.schema.createIndex('audit_type').on('audit').columns(['type', 'number']),
    db.schema.createIndex('audit_actor').on('audit').columns(['actor', 'number']),
    db.schema.createIndex('audit_subject').on('audit').columns(['subject', 'number']),
    db.schema
      .createTable('spool')
      .addColumn('agent_id', 'text', (column) => column.notNull())
      .addColumn('spool', 'text', (column) => column.notNull())
      .addColumn('recorded_through', int64, (column) => column.notNull())
      .addColumn('updated_at', int64, (column) => column.notNull())
      .addPrimaryKeyConstraint('spool_key', ['agent_id', 'spool']),
    db.schema.createIndex('spool_updated_at').on('spool').column('updated_at'),
  ];
}
