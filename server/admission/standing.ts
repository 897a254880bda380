/**
 * Whether an agent may call now: its SVID against its record, looked up anew for every call. What it may do then is
 * decided elsewhere.
 */
import type { Clock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import type { AgentRecord, Store } from '../store/store.ts';

/** Records of agents as they are now. */
export interface Agents {
  get(id: SpiffeId): AgentRecord | undefined;
}

export interface PresentedIdentity {
  readonly id: SpiffeId;
  /** Decimal. */
  readonly serial: string;
  readonly expiresAt: number;
}

export interface StandingDeps {
  readonly clock: Pick<Clock, 'now'>;
  readonly agents: Agents;
  readonly store: Pick<Store, 'promoteAgent'>;
}

/**
 * The agent's record; the first use of a renewed SVID makes it the only one that counts.
 * @throws denied `agent.expired|not-attested|banned|not-active`, and what the store throws
 */
export async function authorizeAgent(deps: StandingDeps, identity: PresentedIdentity): Promise<AgentRecord> {
  const { id, serial, expiresAt } = identity;
  const now = deps.clock.now();
  if (now > expiresAt) throw new SpiffeError('denied', 'agent.expired', 'agent SVID has expired');
  const record = deps.agents.get(id);
  if (record === undefined) throw new SpiffeError('denied', 'agent.not-attested', 'agent is not attested');
  if (record.serial === '') throw new SpiffeError('denied', 'agent.banned', 'agent is banned');
  if (record.serial === serial) return record;
  if (record.pendingSerial !== '' && record.pendingSerial === serial) return promote(deps, id, serial, now);
  throw new SpiffeError('denied', 'agent.not-active', 'agent SVID is not active');
}

async function promote(deps: StandingDeps, id: SpiffeId, serial: string, at: number): Promise<AgentRecord> {
  const promoted = await deps.store.promoteAgent(id, serial, { actor: id, call: '', at });
  // In between it may have been banned, or have attested anew.
  if (promoted.serial === '') throw new SpiffeError('denied', 'agent.banned', 'agent is banned');
  if (promoted.serial !== serial) throw new SpiffeError('denied', 'agent.not-active', 'agent SVID is not active');
  return promoted;
}
