/**
 * A `Session` on one node:sqlite connection: statements are composed by Kysely and run here, prepared once per text.
 * Transactions are begun and ended by whoever owns the connection.
 */
import type { DatabaseSync, SQLInputValue, StatementSync } from 'node:sqlite';

import type { CompiledQuery } from 'kysely';
import { DummyDriver, Kysely, SqliteAdapter, SqliteIntrospector, SqliteQueryCompiler } from 'kysely';

import { Slot } from './session.ts';
import type { Compilable, Session, SlotValues, Template } from './session.ts';
import type { Schema } from './schema.ts';
import { sqliteFailure } from './sqlite-failure.ts';

/** Composes statements in SQLite's dialect and runs none. */
export function createSqliteBuilder(): Kysely<Schema> {
  return new Kysely<Schema>({
    dialect: {
      createAdapter: () => new SqliteAdapter(),
      createDriver: () => new DummyDriver(),
      createIntrospector: (db) => new SqliteIntrospector(db),
      createQueryCompiler: () => new SqliteQueryCompiler(),
    },
  });
}

interface Prepared {
  readonly statement: StatementSync;
  /** Either the value itself or the name of the slot it comes from. */
  readonly parameters: readonly unknown[];
}

// Statements with lists of varying length would otherwise pile up.
const maxPrepared = 512;

/** @param path names the file in errors */
export function createSqliteSession(database: DatabaseSync, path: string, db: Kysely<Schema> = createSqliteBuilder()): Session {
  const statements = new Map<string, StatementSync>();
  const templates = new Map<Template<unknown>, Prepared>();

  const prepare = (sql: string): StatementSync => {
    const known = statements.get(sql);
    if (known !== undefined) return known;
    if (statements.size >= maxPrepared) statements.clear();
    const statement = database.prepare(sql);
    statements.set(sql, statement);
    return statement;
  };

  const fill = <Row>(template: Template<Row>): Prepared => {
    const known = templates.get(template);
    if (known !== undefined) return known;
    const query = template.build(db, <T>(name: string) => new Slot(name) as T).compile();
    const filled: Prepared = { statement: database.prepare(query.sql), parameters: query.parameters };
    templates.set(template, filled);
    return filled;
  };

  const translated = <T>(work: () => T): Promise<T> => {
    try {
      return Promise.resolve(work());
    } catch (error) {
      return Promise.reject(sqliteFailure(error, path));
    }
  };

  const bound = (query: CompiledQuery): SQLInputValue[] => query.parameters.map((value) => asInput(value));

  return {
    db,
    all: <Row>(query: Compilable<Row>) =>
      translated(() => {
        const compiled = query.compile();
        return prepare(compiled.sql).all(...bound(compiled)) as Row[];
      }),
    first: <Row>(query: Compilable<Row>) =>
      translated(() => {
        const compiled = query.compile();
        return prepare(compiled.sql).get(...bound(compiled)) as Row | undefined;
      }),
    run: (query) =>
      translated(() => {
        const compiled = query.compile();
        return Number(prepare(compiled.sql).run(...bound(compiled)).changes);
      }),
    allOf: <Row>(template: Template<Row>, values: SlotValues) =>
      translated(() => {
        const { statement, parameters } = fill(template);
        return statement.all(...place(parameters, values)) as Row[];
      }),
    columnsOf: (template, values) =>
      translated(() => {
        const { statement, parameters } = fill(template);
        statement.setReturnArrays(true);
        return statement.all(...place(parameters, values)) as unknown as unknown[][];
      }),
    firstOf: <Row>(template: Template<Row>, values: SlotValues) =>
      translated(() => {
        const { statement, parameters } = fill(template);
        return statement.get(...place(parameters, values)) as Row | undefined;
      }),
    runEach: (template, rows) =>
      translated(() => {
        const { statement, parameters } = fill(template);
        let changes = 0;
        for (const values of rows) changes += Number(statement.run(...place(parameters, values)).changes);
        return changes;
      }),
  };
}

function place(parameters: readonly unknown[], values: SlotValues): SQLInputValue[] {
  const placed: SQLInputValue[] = [];
  for (const parameter of parameters) {
    if (!(parameter instanceof Slot)) {
      placed.push(asInput(parameter));
      continue;
    }
    const value = values[parameter.name];
    if (value === undefined) throw new Error(`no value for ${parameter.name}`);
    placed.push(value);
  }
  return placed;
}

function asInput(value: unknown): SQLInputValue {
  if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'bigint') return value;
  if (value instanceof Uint8Array) return value;
  if (typeof value === 'boolean') return value ? 1 : 0;
  throw new Error(`a ${typeof value} cannot be stored`);
}
