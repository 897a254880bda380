/**
 * The signing authorities of all servers over this store, in memory, as followers are told of them. Their life is
 * `authority/`.
 */
import type { AuthorityKind, AuthorityRecord, AuthorityState, CommittedChange, Store } from '../store/store.ts';

/** What agents learn of an authority beside the bundle, which is all they learn of WIT authorities. */
export interface AuthorityNotice {
  readonly kind: Exclude<AuthorityKind, 'wit'>;
  readonly id: string;
  readonly state: AuthorityState;
  readonly expiresAt: number;
}

type NoticedAuthority = AuthorityRecord & Pick<AuthorityNotice, 'kind'>;

/** Without WIT authorities: an agent that does not know the kind could not follow on. */
export interface AuthorityIndex {
  get(id: string): NoticedAuthority | undefined;
  all(): Iterable<NoticedAuthority>;
  load(store: Pick<Store, 'loadAuthorities'>): Promise<void>;
  apply(change: Pick<Extract<CommittedChange, { readonly noun: 'authority' }>, 'id' | 'authority'>): void;
}

export function createAuthorityIndex(): AuthorityIndex {
  const authorities = new Map<string, NoticedAuthority>();
  const apply: AuthorityIndex['apply'] = ({ id, authority }) => {
    if (authority === undefined) authorities.delete(id);
    else if (isNoticed(authority)) authorities.set(id, authority);
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

function isNoticed(authority: AuthorityRecord): authority is NoticedAuthority {
  return authority.kind !== 'wit';
}

export function noticeOf({ kind, id, state, expiresAt }: NoticedAuthority): AuthorityNotice {
  return Object.freeze({ kind, id, state, expiresAt });
}
