/**
 * Relationships with other trust domains. Their bundles stay where bundles are.
 */
import type { Migration } from './migration.ts';

export const relationships: Migration = {
  version: 2,
  statements(db, int64) {
    return [
      db.schema
        .createTable('relationship')
        .addColumn('row', int64, (column) => column.primaryKey())
        .addColumn('trust_domain', 'text', (column) => column.notNull().unique())
        .addColumn('endpoint_url', 'text', (column) => column.notNull())
        .addColumn('profile', 'text', (column) => column.notNull())
        .addColumn('endpoint_id', 'text', (column) => column.notNull())
        .addColumn('created_at', int64, (column) => column.notNull())
        .addColumn('refreshed_at', int64)
        .addColumn('sequence', 'text', (column) => column.notNull()),
      db.insertInto('counter').values({ name: 'relationship', value: 0 }),
    ];
  },
};
