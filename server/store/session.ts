/**
 * How the SQL of a noun reaches a database: one statement at a time, on the connection of the transaction it belongs
 * to. Which database that is, and when it commits, is left to whoever opens the session.
 */
import type { CompiledQuery, Kysely } from 'kysely';

import type { TrustDomain } from '../../spiffe/id.ts';
import type { CommittedChange } from './store.ts';
import type { CounterTable, Schema } from './schema.ts';

/** What Kysely's builders have in common. */
export interface Compilable<Row = unknown> {
  compile(): CompiledQuery<Row>;
}

/** A value that a template leaves open. */
export class Slot {
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

export type SlotOf = <T>(name: string) => T;

/**
 * A statement that is composed and compiled once per session and then run with other values: composing costs several
 * times what SQLite takes to run it.
 */
export interface Template<Row> {
  readonly build: (db: Kysely<Schema>, slot: SlotOf) => Compilable<Row>;
}

export function template<Row>(build: Template<Row>['build']): Template<Row> {
  return { build };
}

export type SlotValues = Readonly<Record<string, string | number | Uint8Array | null>>;

/** Statements run one after the other; a failing one throws what the database said, translated. */
export interface Session {
  /** Composes statements; never runs them. */
  readonly db: Kysely<Schema>;
  all<Row>(query: Compilable<Row>): Promise<readonly Row[]>;
  first<Row>(query: Compilable<Row>): Promise<Row | undefined>;
  /** Tells how many rows were written. */
  run(query: Compilable): Promise<number>;
  allOf<Row>(template: Template<Row>, values: SlotValues): Promise<readonly Row[]>;
  /** Values in the order of the columns asked for, at half the price of objects. */
  columnsOf(template: Template<unknown>, values: SlotValues): Promise<readonly (readonly unknown[])[]>;
  firstOf<Row>(template: Template<Row>, values: SlotValues): Promise<Row | undefined>;
  runEach(template: Template<unknown>, rows: readonly SlotValues[]): Promise<number>;
}

/** What a store knows of itself. */
export interface StoreFacts {
  readonly trustDomain: string;
  readonly epoch: string;
  readonly revision: number;
}

/** One write operation inside a transaction; what it changed is collected for the listeners. */
export interface Transaction {
  readonly session: Session;
  readonly trustDomain: TrustDomain;
  /** When the call was made, for what carries no scope. */
  readonly at: number;
  /** In the order of their numbers; emptied again when the operation fails. */
  readonly changes: CommittedChange[];
}

/** Takes the next `count` numbers of a counter; tells the first. */
export async function takeNumbers(
  session: Session,
  counter: CounterTable['name'],
  count: number,
): Promise<number> {
  const taken = await session.firstOf(advance, { counter, count });
  if (taken === undefined) throw new Error(`counter ${counter} is missing`);
  return taken.value - count + 1;
}

const advance = template((db, slot) =>
  db
    .updateTable('counter')
    .set((column) => ({ value: column('value', '+', slot<number>('count')) }))
    .where('name', '=', slot<'revision'>('counter'))
    .returning('value'),
);
