/**
 * What a secret's name stands for at a moment: an X509-SVID, a bundle, all bundles, a JWT-SVID, something that is still to
 * come, or nothing this caller has. How each looks to Envoy is `messages.ts`.
 */
import type { Bundle } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { trustDomainId, type TrustDomain } from '../../spiffe/id.ts';
import type { WorkloadUpdate } from '../svids/cache.ts';
import type { HeldX509Svid } from '../svids/held.ts';

/** The names that are configured. */
export interface SecretNames {
  /** The X509-SVID of the first identity. */
  readonly svid: string;
  /** The own trust domain's bundle. */
  readonly bundle: string;
  /** The own bundle and all federated ones, each for its own trust domain. */
  readonly allBundles: string;
  /** Before an audience: a JWT-SVID of the first identity. */
  readonly jwtPrefix: string;
}

/** Which secrets are asked for. */
export interface Selection {
  /** Each X509-SVID and bundle under its SPIFFE ID, and no JWT-SVID. */
  readonly everything: boolean;
  /** These besides. */
  readonly names: ReadonlySet<string>;
}

export type Meaning =
  | { readonly kind: 'svid'; readonly svid: HeldX509Svid }
  | { readonly kind: 'bundle'; readonly bundle: Bundle }
  | { readonly kind: 'bundles'; readonly bundles: ReadonlyMap<TrustDomain, Bundle> }
  | { readonly kind: 'token'; readonly entry: RegistrationEntry; readonly audience: string }
  /** The caller is entitled to it, and it is not here yet. */
  | { readonly kind: 'pending' };

export interface NamingContext {
  readonly names: SecretNames;
  readonly trustDomain: TrustDomain;
}

const pending: Meaning = Object.freeze({ kind: 'pending' });

/** By name; what is not among the results is nothing that this caller has. */
export function meaningsOf(selection: Selection, update: WorkloadUpdate, context: NamingContext): Map<string, Meaning> {
  const found = new Map<string, Meaning>();
  const every = selection.everything ? everyName(update, context) : [];
  for (const name of [...every, ...selection.names]) {
    const meaning = meaningOf(name, update, context);
    if (meaning !== undefined) found.set(name, meaning);
  }
  return found;
}

function meaningOf(name: string, update: WorkloadUpdate, { names, trustDomain }: NamingContext): Meaning | undefined {
  const { entries, bundles } = update;
  if (name === names.bundle || name === trustDomainId(trustDomain)) return bundleMeaning(bundles.get(trustDomain));
  if (name === names.allBundles) return bundles.has(trustDomain) ? { kind: 'bundles', bundles } : pending;
  // Of the first entry, not of the first that happens to have an SVID: what `default` is must not change meanwhile.
  if (name === names.svid) return svidMeaning(entries[0], update);
  if (name.startsWith(names.jwtPrefix)) {
    const audience = name.slice(names.jwtPrefix.length);
    const [entry] = entries;
    return entry === undefined || audience === '' ? undefined : { kind: 'token', entry, audience };
  }
  for (const entry of entries) {
    if (entry.spiffeId === name) return svidMeaning(entry, update);
    const foreign = entry.federatesWith.find((domain) => trustDomainId(domain) === name);
    if (foreign !== undefined) return bundleMeaning(bundles.get(foreign));
  }
  return undefined;
}

function svidMeaning(entry: RegistrationEntry | undefined, { identities }: WorkloadUpdate): Meaning | undefined {
  if (entry === undefined) return undefined;
  const identity = identities.find((candidate) => candidate.entry === entry);
  return identity === undefined ? pending : { kind: 'svid', svid: identity.svid };
}

function bundleMeaning(bundle: Bundle | undefined): Meaning {
  return bundle === undefined ? pending : { kind: 'bundle', bundle };
}

function everyName({ entries, bundles }: WorkloadUpdate, { trustDomain }: NamingContext): readonly string[] {
  const domains = [trustDomain, ...bundles.keys()];
  return [...entries.map(({ spiffeId }) => spiffeId), ...domains.map((domain) => trustDomainId(domain))];
}
