/**
 * The rules of creating, changing and deleting entries: which items of a batch reach the store, and how their outcomes
 * go back into order. Rules that need other rows are checked by the store, in the transaction that writes.
 */
import { checkEntryDraft } from '../../spiffe/entry.ts';
import type { EntryDraft } from '../../spiffe/entry.ts';
import { SpiffeError, isSpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { DeleteOutcome, EntryOutcome, EntryUpdate, Scope, Store } from '../store/store.ts';
import type { EntryIndex } from './index.ts';

export interface EntryRules {
  /** One outcome for each draft, in order. */
  create(drafts: readonly EntryDraft[], scope: Scope): Promise<readonly EntryOutcome[]>;
  update(updates: readonly EntryUpdate[], scope: Scope): Promise<readonly EntryOutcome[]>;
  delete(ids: readonly string[], scope: Scope): Promise<readonly DeleteOutcome[]>;
}

export interface EntryRulesOptions {
  readonly trustDomain: TrustDomain;
  readonly store: Pick<Store, 'createEntries' | 'updateEntries' | 'deleteEntries'>;
  readonly entries: Pick<EntryIndex, 'reserve'>;
}

/** One transaction of the store; longer batches would make others wait. */
const batchSize = 500;

export function createEntryRules({ trustDomain, store, entries }: EntryRulesOptions): EntryRules {
  return {
    async create(drafts, scope) {
      const checked = drafts.map((draft) => checkOne(draft, trustDomain));
      const valid = checked.filter((item): item is EntryDraft => !(item instanceof SpiffeError));
      const outcomes = (await inBatches(valid, (batch) => createBatch(batch, scope))).values();
      return checked.map((item) => (item instanceof SpiffeError ? refusal(item) : take(outcomes.next())));
    },
    update: (updates, scope) => inBatches(updates, (batch) => store.updateEntries(batch, scope)),
    delete: (ids, scope) => inBatches(ids, (batch) => store.deleteEntries(batch, scope)),
  };

  async function createBatch(drafts: readonly EntryDraft[], scope: Scope): Promise<readonly EntryOutcome[]> {
    let release: () => void;
    try {
      release = entries.reserve(drafts.length);
    } catch (error) {
      if (isSpiffeError(error, 'limited')) return drafts.map(() => refusal(error));
      throw error;
    }
    try {
      return await store.createEntries(drafts, scope);
    } finally {
      release();
    }
  }
}

async function inBatches<Item, Outcome>(
  items: readonly Item[],
  run: (batch: readonly Item[]) => Promise<readonly Outcome[]>,
): Promise<readonly Outcome[]> {
  const outcomes: Outcome[] = [];
  for (let from = 0; from < items.length; from += batchSize) outcomes.push(...(await run(items.slice(from, from + batchSize))));
  return outcomes;
}

function checkOne(draft: EntryDraft, trustDomain: TrustDomain): EntryDraft | SpiffeError {
  try {
    return checkEntryDraft(draft, trustDomain);
  } catch (error) {
    if (isSpiffeError(error)) return error;
    throw error;
  }
}

function refusal(error: SpiffeError): EntryOutcome {
  return { status: 'refused', error };
}

function take<T>(next: IteratorResult<T>): T {
  if (next.done === true) throw new SpiffeError('internal', 'entry.batch', 'the store answered fewer items than it was asked');
  return next.value;
}
