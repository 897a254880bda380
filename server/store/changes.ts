/**
 * The numbered record of what changed: every change takes its number in the transaction that makes it, so that numbers
 * follow the order of commits. Payloads go to the listeners and are not kept.
 */
import { takeNumbers, template } from './session.ts';
import type { Session, Transaction } from './session.ts';
import type { ChangeReference, CommittedChange } from './store.ts';

/** A change before it has its number. */
export type Change = DistributiveOmit<CommittedChange, 'revision'> & { readonly structural: boolean };

type DistributiveOmit<T, K extends string> = T extends unknown ? Omit<T, K> : never;

/** Numbers the changes in the order given; tells the last number. */
export async function recordChanges(transaction: Transaction, changes: readonly Change[]): Promise<number> {
  const { session } = transaction;
  const first = await takeNumbers(session, 'revision', changes.length);
  await session.runEach(
    insertChange,
    changes.map((change, index) => ({
      revision: first + index,
      noun: change.noun,
      ref: change.id,
      structural: change.structural ? 1 : 0,
    })),
  );
  for (const [index, { structural: _, ...change }] of changes.entries()) {
    transaction.changes.push({ ...change, revision: first + index });
  }
  return first + changes.length - 1;
}

/** What changed after the revision, oldest first; `undefined` when that is not kept any more or not known yet. */
export async function changesSince(
  session: Session,
  revision: number,
  limit: number,
): Promise<readonly ChangeReference[] | undefined> {
  const newest = await newestRevision(session);
  if (revision > newest) return undefined;
  if (revision === newest) return [];
  const rows = await session.all(
    session.db.selectFrom('change').selectAll().where('revision', '>', revision).orderBy('revision').limit(limit),
  );
  // Numbers have no gaps, so the first one tells whether some were pruned.
  if (rows[0]?.revision !== revision + 1) return undefined;
  return rows.map((row) => ({
    revision: row.revision,
    noun: row.noun as ChangeReference['noun'],
    id: row.ref,
    structural: row.structural !== 0,
  }));
}

/** Forgets the oldest changes beyond the newest `kept`, at most `limit` of them. */
export async function pruneChanges(session: Session, kept: number, limit: number): Promise<number> {
  const oldest = await session.first(session.db.selectFrom('change').select('revision').orderBy('revision').limit(1));
  if (oldest === undefined) return 0;
  const floor = Math.min((await newestRevision(session)) - kept + 1, oldest.revision + limit);
  if (floor <= oldest.revision) return 0;
  return session.run(session.db.deleteFrom('change').where('revision', '<', floor));
}

export async function newestRevision(session: Session): Promise<number> {
  return (await session.first(session.db.selectFrom('counter').select('value').where('name', '=', 'revision')))?.value ?? 0;
}

const insertChange = template((db, slot) =>
  db.insertInto('change').values({
    revision: slot('revision'),
    noun: slot('noun'),
    ref: slot('ref'),
    structural: slot('structural'),
  }),
);
