/**
 * Who is whom: which entries an agent may hold, and which of those a process with some selectors matches. Pure walks
 * over entries that others keep; nothing here knows whether an agent is attested or an entry expired.
 */
import type { RegistrationEntry } from './entry.ts';
import type { SpiffeId } from './id.ts';
import { isMemberOf, isUnderPath, pathOf, trustDomainOf } from './id.ts';
import type { Selector, SelectorSet } from './selector.ts';
import { canonicalSelectors, isSubset } from './selector.ts';

/** An entry under this path names a set of nodes: it is granted to agents, never sent to them. */
const aliasParentPath = '/spire/server';

/** Whether the entry is a node alias: its SPIFFE ID stands for every agent whose node selectors include its own. */
export function isAlias(entry: Pick<RegistrationEntry, 'parentId'>): boolean {
  return pathOf(entry.parentId) === aliasParentPath;
}

/** The aliases an agent with these node selectors goes by, each once. */
export function aliasesFor(
  selectors: SelectorSet,
  aliasEntries: Iterable<Pick<RegistrationEntry, 'spiffeId' | 'selectors'>>,
): readonly SpiffeId[] {
  const aliases = new Set<SpiffeId>();
  for (const entry of aliasEntries) if (covers(selectors, entry.selectors)) aliases.add(entry.spiffeId);
  return [...aliases];
}

/**
 * Yields every entry below the roots, which are the agent's ID and its aliases: those whose parent is a root, those
 * whose parent is the SPIFFE ID of one of them, and so on. Each entry comes once, in no particular order, and walking
 * stops when the caller does. `childrenOf` yields the entries whose parent ID is the one it is asked for.
 */
export function* authorizedEntries<E extends Pick<RegistrationEntry, 'spiffeId'>>(
  agentRoots: Iterable<SpiffeId>,
  childrenOf: (parentId: SpiffeId) => Iterable<E>,
): Generator<E, void, undefined> {
  const seen = new Set<SpiffeId>();
  const waiting: SpiffeId[] = [];
  const visit = (id: SpiffeId): void => {
    // Whatever leads there, what hangs below the server are aliases.
    if (seen.has(id) || isUnderPath(id, aliasParentPath)) return;
    seen.add(id);
    waiting.push(id);
  };
  for (const root of agentRoots) visit(root);
  for (let parent = waiting.pop(); parent !== undefined; parent = waiting.pop()) {
    const trustDomain = trustDomainOf(parent);
    for (const entry of childrenOf(parent)) {
      if (!isMemberOf(entry.spiffeId, trustDomain)) continue;
      yield entry;
      visit(entry.spiffeId);
    }
  }
}

/**
 * The identities of a process: entries whose selectors it has all, in the order of their ids, the first being the
 * default; of several with the same hint only the oldest [Workload API 5.2.1].
 */
export function matchingEntries<E extends MatchedEntry>(selectors: SelectorSet, entries: Iterable<E>): readonly E[] {
  return settleHints(coveredEntries(selectors, entries));
}

/** As `matchingEntries`, with hints not settled: what Envoy may ask for by name. */
export function coveredEntries<E extends Pick<RegistrationEntry, 'id' | 'selectors'>>(
  selectors: SelectorSet,
  entries: Iterable<E>,
): readonly E[] {
  const covered: E[] = [];
  for (const entry of entries) if (covers(selectors, entry.selectors)) covered.push(entry);
  return covered.toSorted(byId);
}

/** Keeps the order; of entries with an equal hint, the one created first stays, then the one with the smallest id. */
export function settleHints<E extends HintedEntry>(entries: readonly E[]): readonly E[] {
  const holders = new Map<string, E>();
  for (const entry of entries) {
    const holder = holders.get(entry.hint);
    if (holder === undefined || isOlder(entry, holder)) holders.set(entry.hint, entry);
  }
  return entries.filter((entry) => entry.hint === '' || holders.get(entry.hint) === entry);
}

/** How far a process is from an entry; nothing missing means that it matches. */
export interface MatchDistance<E> {
  readonly entry: E;
  readonly matched: readonly Selector[];
  readonly missing: readonly Selector[];
}

/**
 * The entries that match or came closest: those with the fewest missing selectors first, among them those with the most
 * that are there, then by id; at most `limit`.
 */
export function explainMatch<E extends Pick<RegistrationEntry, 'id' | 'selectors'>>(
  selectors: SelectorSet,
  entries: Iterable<E>,
  limit: number,
): readonly MatchDistance<E>[] {
  const distances: MatchDistance<E>[] = [];
  for (const entry of entries) {
    const own = canonicalSelectors(entry.selectors);
    distances.push({
      entry,
      matched: own.filter((selector) => selectors.has(selector)),
      missing: own.filter((selector) => !selectors.has(selector)),
    });
  }
  return distances
    .toSorted(
      (a, b) =>
        a.missing.length - b.missing.length || b.matched.length - a.matched.length || byId(a.entry, b.entry),
    )
    .slice(0, limit);
}

type HintedEntry = Pick<RegistrationEntry, 'id' | 'hint' | 'createdAt'>;
type MatchedEntry = HintedEntry & Pick<RegistrationEntry, 'selectors'>;

/** An entry without selectors would match everybody; it matches nobody. */
function covers(held: SelectorSet, asked: readonly Selector[]): boolean {
  return asked.length > 0 && isSubset(asked, held);
}

function isOlder(a: HintedEntry, b: HintedEntry): boolean {
  return a.createdAt === b.createdAt ? a.id < b.id : a.createdAt < b.createdAt;
}

function byId(a: { readonly id: string }, b: { readonly id: string }): number {
  return a.id < b.id ? -1 : a.id > b.id ? 1 : 0;
}
