/**
 * The signing authorities of all servers over this store, in memory, as followers are told of them. Their life is
 * `authority/`.
 */
import type { AuthorityKind, AuthorityRecord, AuthorityState, CommittedChange, Store } from '../store/store.ts';

/** What agents learn of an authority beside the bundle. */
export interface AuthorityNotice {
  readonly kind: AuthorityKind;
  readonly id: string;
  readonly state: AuthorityState;
  readonly expiresAt: number;
}

export interface AuthorityIndex {
  get(id: string): AuthorityRecord | undefined;
  all(): Iterable<AuthorityRecord>;
  load(store: Pick<Store, 'loadAuthorities'>): Promise<void>;
  apply(change: Pick<Extract<CommittedChange, { readonly noun: 'authority' }>, 'id' | 'authority'>): void;
}

export function createAuthorityIndex(): AuthorityIndex {
  const authorities = new Map<string, AuthorityRecord>();
  const apply: AuthorityIndex['apply'] = ({ id, authority }) => {
    if (authority === undefined) authorities.delete(id);
    else authorities.set(id, authority);
  };
  return {
    get: (id) => authorities.get(id),
    all: () => authorities.values(),
    async load(store) {
      for (const authority of await store.loadAuthorities()) apply({ id: authority.id, authority });
    },
    apply,
  };
}

export function noticeOf({ kind, id, state, expiresAt }: AuthorityRecord): AuthorityNotice {
  return Object.freeze({ kind, id, state, expiresAt });
}
