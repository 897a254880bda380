/**
 * The relationships with other trust domains in memory: as the store has them, in the order of their creation. Fetching
 * bundles by them is `refresh.ts`; changing them is the store's.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { CommittedChange, Page, RelationshipRecord, Store } from '../store/store.ts';

export interface Relationships {
  get(trustDomain: TrustDomain): RelationshipRecord | undefined;
  /** In the order of creation. */
  all(): readonly RelationshipRecord[];
  /**
   * From after the token's row; all of them when the size is not positive. The last page has a token too, as SPIRE's.
   * @throws internal `relationships.page-token`
   */
  list(pageSize: number, pageToken: string): Page<RelationshipRecord>;
  /** Stops listening to the store. */
  close(): void;
}

/** Loaded when it resolves; follows the store from then on. @throws what loading throws */
export async function openRelationships(store: Pick<Store, 'subscribe' | 'loadRelationships'>): Promise<Relationships> {
  const byName = new Map<TrustDomain, RelationshipRecord>();
  const apply = (change: CommittedChange): void => {
    if (change.noun !== 'relationship') return;
    if (change.relationship === undefined) byName.delete(change.id);
    else byName.set(change.id, change.relationship);
  };
  // What is committed while loading is applied after it; applying something twice changes nothing.
  let missed: CommittedChange[] | undefined = [];
  const unsubscribe = store.subscribe(({ changes }) => {
    for (const change of changes) {
      if (missed === undefined) apply(change);
      else missed.push(change);
    }
  });
  try {
    for (const relationship of await store.loadRelationships()) byName.set(relationship.trustDomain, relationship);
  } catch (error) {
    unsubscribe();
    throw error;
  }
  for (const change of missed) apply(change);
  missed = undefined;

  const all = (): readonly RelationshipRecord[] => [...byName.values()].sort((a, b) => a.row - b.row);
  return {
    get: (trustDomain) => byName.get(trustDomain),
    all,
    list(pageSize, pageToken) {
      const after = rowOf(pageToken);
      const rest = all().filter(({ row }) => row > after);
      if (pageSize <= 0) return { items: rest, nextToken: '' };
      const items = rest.slice(0, pageSize);
      return { items, nextToken: String(items.at(-1)?.row ?? '') };
    },
    close: unsubscribe,
  };
}

function rowOf(pageToken: string): number {
  if (pageToken === '') return 0;
  const row = /^[0-9]{1,16}$/.test(pageToken) ? Number(pageToken) : Number.NaN;
  if (Number.isSafeInteger(row)) return row;
  throw new SpiffeError('internal', 'relationships.page-token', `could not parse token '${pageToken.slice(0, 64)}'`);
}
