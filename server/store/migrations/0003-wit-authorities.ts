/**
 * Keys that sign WIT-SVIDs, in bundles beside those for JWT-SVIDs. Authorities and credentials name their kind in words,
 * so a third kind needs nothing there.
 */
import type { Migration } from './migration.ts';

export const witAuthorities: Migration = {
  version: 3,
  statements(db) {
    return [db.schema.alterTable('bundle').addColumn('wit_authorities', 'text', (column) => column.notNull().defaultTo('[]'))];
  },
};
