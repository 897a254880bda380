/**
 * The own bundle and those of federated trust domains in memory. Fetching the latter is federation's.
 */
import { createWatch } from '../../runtime/watch.ts';
import type { Watch } from '../../runtime/watch.ts';
import { emptyBundle } from '../../spiffe/bundle.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { CommittedChange, Store } from '../store/store.ts';

export interface BundleIndex {
  /** Empty until an authority is published. */
  readonly own: Watch<Bundle>;
  get(trustDomain: TrustDomain): Bundle | undefined;
  /** Sorted by trust domain, the own one among them. */
  all(): readonly Bundle[];
  load(store: Pick<Store, 'loadBundles'>): Promise<void>;
  apply(change: Pick<Extract<CommittedChange, { readonly noun: 'bundle' }>, 'id' | 'bundle'>): void;
}

export function createBundleIndex(trustDomain: TrustDomain): BundleIndex {
  const bundles = new Map<TrustDomain, Bundle>();
  const own = createWatch(emptyBundle(trustDomain));
  let sorted: readonly Bundle[] | undefined;

  const apply: BundleIndex['apply'] = ({ id, bundle }) => {
    sorted = undefined;
    if (bundle === undefined) bundles.delete(id);
    else bundles.set(id, bundle);
    if (id === trustDomain) own.set(bundle ?? emptyBundle(trustDomain));
  };

  return {
    own,
    get: (id) => bundles.get(id),
    all: () => (sorted ??= Object.freeze([...bundles.values()].sort((a, b) => (a.trustDomain < b.trustDomain ? -1 : 1)))),
    async load(store) {
      for (const bundle of await store.loadBundles()) apply({ id: bundle.trustDomain, bundle });
    },
    apply,
  };
}
