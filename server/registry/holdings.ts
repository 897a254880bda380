/**
 * Which entries an agent holds at this moment: all of them by walking down from its roots, one of them by walking up
 * from the entry. The walk down is the rule [`spiffe/authorize.ts`]; the walk up is the same rule at the price of one.
 */
import { aliasesFor, authorizedEntries, isAlias } from '../../spiffe/authorize.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { isExpired } from '../../spiffe/entry.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import { isUnderPath } from '../../spiffe/id.ts';
import { isActive } from './agents.ts';
import type { AgentDelta, AgentIndex } from './agents.ts';
import type { EntryDelta, EntryIndex } from './index.ts';

export interface Holdings {
  /** The agent's ID and its aliases; nothing for an agent that is unknown, banned or expired. */
  rootsOf(agentId: SpiffeId, now: number): ReadonlySet<SpiffeId>;
  authorizedEntries(agentId: SpiffeId, now: number): readonly RegistrationEntry[];
  /** The entry as it is now, if this agent may issue for it. */
  heldEntry(agentId: SpiffeId, entryId: string, now: number): RegistrationEntry | undefined;
  /** To be told of every change, so that what is remembered stays right. */
  entryChanged(delta: EntryDelta): void;
  agentChanged(delta: AgentDelta): void;
}

const nobody: ReadonlySet<SpiffeId> = new Set();

export function createHoldings(entries: EntryIndex, agents: AgentIndex): Holdings {
  const remembered = new Map<SpiffeId, ReadonlySet<SpiffeId>>();

  const rootsOf = (agentId: SpiffeId, now: number): ReadonlySet<SpiffeId> => {
    const agent = agents.get(agentId);
    if (!isActive(agent, now)) return nobody;
    const known = remembered.get(agentId);
    if (known !== undefined) return known;
    const roots = new Set([agentId, ...aliasesFor(new Set(agent.selectors), entries.aliases())]);
    remembered.set(agentId, roots);
    return roots;
  };

  return {
    rootsOf,
    authorizedEntries: (agentId, now) => [
      ...authorizedEntries(rootsOf(agentId, now), (parentId) => entries.childrenOf(parentId)),
    ],
    heldEntry(agentId, entryId, now) {
      const entry = entries.getLive(entryId);
      // The clock may be ahead of what was taken out.
      if (entry === undefined || isExpired(entry, now)) return undefined;
      return isBelow(entry, rootsOf(agentId, now), entries, now) ? entry : undefined;
    },
    entryChanged({ before, after }) {
      const aliases = [before, after].filter((entry) => entry !== undefined).filter(isAlias);
      if (aliases.length === 0) return;
      for (const agentId of remembered.keys()) {
        const selectors = new Set(agents.get(agentId)?.selectors);
        if (aliasesFor(selectors, aliases).length > 0) remembered.delete(agentId);
      }
    },
    agentChanged: ({ id }) => void remembered.delete(id),
  };
}

function isBelow(entry: RegistrationEntry, roots: ReadonlySet<SpiffeId>, entries: EntryIndex, now: number): boolean {
  if (roots.size === 0) return false;
  const seen = new Set<SpiffeId>([entry.parentId]);
  // A set yields what is added while it is walked.
  for (const parentId of seen) {
    if (isUnderPath(parentId, '/spire/server')) continue;
    if (roots.has(parentId)) return true;
    for (const above of entries.bySpiffeId(parentId)) if (!isExpired(above, now)) seen.add(above.parentId);
  }
  return false;
}
