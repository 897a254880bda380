/**
 * What a migration is: the statements that take a store from one schema to the next, never back.
 */
import type { Kysely } from 'kysely';

import type { Compilable } from '../session.ts';
import type { Schema } from '../schema.ts';

export interface Migration {
  readonly version: number;
  /** Run in order, all in one transaction. */
  statements(db: Kysely<Schema>, int64: 'integer' | 'bigint'): readonly Compilable[];
}
