/**
 * What an agent that was away has to be told, given the changes it missed: only what matters to it, at the price of
 * repeating what it may know. Pure over the indexes as they are now.
 */
import { isAlias } from '../../spiffe/authorize.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { ChangeReference } from '../store/store.ts';
import { noticeOf } from './authorities.ts';
import type { AuthorityIndex } from './authorities.ts';
import type { BundleIndex } from './bundles.ts';
import type { FeedChange } from './feed-items.ts';
import type { EntryIndex } from './index.ts';
import type { View } from './interest.ts';

export interface Resumption {
  readonly agentId: SpiffeId;
  readonly view: View;
  readonly held: readonly RegistrationEntry[];
  readonly missed: readonly ChangeReference[];
  readonly trustDomain: TrustDomain;
  readonly entries: EntryIndex;
  readonly bundles: BundleIndex;
  readonly authorities: AuthorityIndex;
}

/** A longer list of ids costs more than a snapshot saves. */
const maxHeldIds = 5_000;

/**
 * `undefined` when a snapshot is the better answer. Whatever the agent came to hold hangs below something that changed,
 * so sending what changed with all that hangs below it is enough; what it ceased to hold is told by what it still holds.
 */
export function resumeChanges(resumption: Resumption): readonly FeedChange[] | undefined {
  const { agentId, missed, held, entries, authorities } = resumption;
  if (missed.some(({ noun, id, structural }) => noun === 'agent' && id === agentId && structural)) return undefined;
  const changedEntries = missed.filter(({ noun }) => noun === 'entry');
  const lost = entries.expired > 0 || changedEntries.some(({ structural }) => structural);
  if (lost && held.length > maxHeldIds) return undefined;

  const sent = changedOrBelow(resumption, new Set(changedEntries.map(({ id }) => id)));
  const changes: FeedChange[] = [...missedBundles(resumption, sent)];
  for (const entry of sent) changes.push({ what: 'entry', entry });
  if (lost) changes.push({ what: 'held', ids: held.map(({ id }) => id) });
  for (const id of idsOf(missed, 'authority')) {
    const authority = authorities.get(id);
    if (authority !== undefined) changes.push({ what: 'authority', authority: noticeOf(authority) });
  }
  return changes;
}

function changedOrBelow({ view, held, entries }: Resumption, changed: ReadonlySet<string>): ReadonlySet<RegistrationEntry> {
  const sent = new Set<RegistrationEntry>();
  if (changed.size === 0) return sent;
  const parents = new Set<SpiffeId>();
  for (const entry of held) {
    if (!changed.has(entry.id)) continue;
    sent.add(entry);
    parents.add(entry.spiffeId);
  }
  for (const id of changed) {
    const entry = entries.getLive(id);
    if (entry !== undefined && isAlias(entry) && view.roots.has(entry.spiffeId)) parents.add(entry.spiffeId);
  }
  for (const parentId of parents) {
    if (!view.watched.has(parentId)) continue;
    for (const entry of entries.childrenOf(parentId)) {
      sent.add(entry);
      parents.add(entry.spiffeId);
    }
  }
  return sent;
}

function missedBundles({ view, missed, trustDomain, bundles }: Resumption, sent: Iterable<RegistrationEntry>): FeedChange[] {
  const changed = new Set(idsOf(missed, 'bundle') as TrustDomain[]);
  const concerned = new Set(changed);
  for (const entry of sent) for (const name of entry.federatesWith) concerned.add(name);
  const changes: FeedChange[] = [];
  for (const name of concerned) {
    const bundle = name === trustDomain || view.domains.has(name) ? bundles.get(name) : undefined;
    if (bundle !== undefined) changes.push({ what: 'bundle', bundle });
    // It may be one the agent knows, and needs no more or cannot have.
    else if (changed.has(name)) changes.push({ what: 'bundle-removed', trustDomain: name });
  }
  return changes;
}

function idsOf(missed: readonly ChangeReference[], noun: ChangeReference['noun']): readonly string[] {
  return [...new Set(missed.filter((change) => change.noun === noun).map(({ id }) => id))];
}
