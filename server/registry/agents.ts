/**
 * All agent records in memory. Which entries they hold is `holdings.ts`; who may become an agent is admission's.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import type { Selector } from '../../spiffe/selector.ts';
import type { AgentRecord, CommittedChange, Page, Store } from '../store/store.ts';
import { setMatches } from './set-match.ts';
import type { SetMatch } from './set-match.ts';

/** All that are given must hold. */
export interface AgentFilter {
  readonly attestationType?: string;
  readonly selectors?: SetMatch<Selector>;
  readonly banned?: boolean;
  readonly canReattest?: boolean;
  readonly expiresBefore?: number;
}

export interface AgentDelta {
  readonly id: SpiffeId;
  readonly before: AgentRecord | undefined;
  readonly after: AgentRecord | undefined;
}

type AgentChange = Extract<CommittedChange, { readonly noun: 'agent' }>;

export interface AgentIndex {
  readonly size: number;
  load(store: Pick<Store, 'loadAgents'>): Promise<void>;
  apply(change: AgentChange): AgentDelta;
  get(id: SpiffeId): AgentRecord | undefined;
  all(): Iterable<AgentRecord>;
  /** In the order of first attestation. @throws internal `agents.page-token` */
  list(filter: AgentFilter, pageSize: number, pageToken: string): Page<AgentRecord>;
  count(filter: AgentFilter): number;
}

export function isBanned(agent: Pick<AgentRecord, 'serial'>): boolean {
  return agent.serial === '';
}

/** Attested, not banned, and with an SVID, current or not yet used, that has not expired. */
export function isActive(agent: AgentRecord | undefined, now: number): agent is AgentRecord {
  return agent !== undefined && !isBanned(agent) && Math.max(agent.expiresAt, agent.pendingExpiresAt) > now;
}

export function createAgentIndex(): AgentIndex {
  // A map keeps the order in which keys came, also when their values are replaced.
  const byId = new Map<SpiffeId, { readonly row: number; agent: AgentRecord }>();
  let lastRow = 0;

  const apply = ({ id, agent }: AgentChange): AgentDelta => {
    const known = byId.get(id);
    const before = known?.agent;
    if (agent === undefined) byId.delete(id);
    else if (known === undefined) byId.set(id, { row: ++lastRow, agent });
    else known.agent = agent;
    return { id, before, after: agent };
  };

  return {
    get size() {
      return byId.size;
    },
    async load(store) {
      for (const agent of await store.loadAgents()) apply({ noun: 'agent', revision: 0, id: agent.id, agent });
    },
    apply,
    get: (id) => byId.get(id)?.agent,
    *all() {
      for (const { agent } of byId.values()) yield agent;
    },
    list(filter, pageSize, pageToken) {
      const after = rowFrom(pageToken);
      const items: AgentRecord[] = [];
      let last = 0;
      for (const { row, agent } of byId.values()) {
        if (row <= after || !matches(agent, filter)) continue;
        items.push(agent);
        last = row;
        if (items.length === pageSize) break;
      }
      return { items, nextToken: pageSize > 0 && items.length > 0 ? String(last) : '' };
    },
    count(filter) {
      let counted = 0;
      for (const { agent } of byId.values()) if (matches(agent, filter)) counted += 1;
      return counted;
    },
  };
}

function matches(agent: AgentRecord, filter: AgentFilter): boolean {
  const { attestationType, selectors, banned, canReattest, expiresBefore } = filter;
  if (attestationType !== undefined && agent.attestationType !== attestationType) return false;
  if (banned !== undefined && isBanned(agent) !== banned) return false;
  if (canReattest !== undefined && agent.canReattest !== canReattest) return false;
  if (expiresBefore !== undefined && agent.expiresAt >= expiresBefore) return false;
  return selectors === undefined || setMatches(agent.selectors, selectors);
}

function rowFrom(pageToken: string): number {
  if (pageToken === '') return 0;
  const row = /^[0-9]{1,16}$/.test(pageToken) ? Number(pageToken) : Number.NaN;
  if (!Number.isSafeInteger(row)) throw new SpiffeError('internal', 'agents.page-token', `could not parse token '${pageToken.slice(0, 64)}'`);
  return row;
}
