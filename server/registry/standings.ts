/**
 * How far each agent that follows, or did, has confirmed what it was sent: what a rotation waits for.
 */
import type { SpiffeId } from '../../spiffe/id.ts';
import type { Position } from '../store/store.ts';

export interface Standing {
  readonly agentId: SpiffeId;
  /** Everything that concerns the agent up to here is applied and delivered, by its own word. */
  readonly confirmedRevision: number;
  /** When the stream began. */
  readonly since: number;
}

export interface Standings {
  joined(agentId: SpiffeId, since: number, sentRevision: number): void;
  left(agentId: SpiffeId): void;
  forget(agentId: SpiffeId): void;
  sent(agentId: SpiffeId, revision: number): void;
  knows(agentId: SpiffeId): boolean;
  /** A position of another history confirms nothing. */
  confirm(agentId: SpiffeId, position: Position): void;
  /** Agents with a stream now. */
  following(): readonly Standing[];
  /** Agents that follow, or did and are away, and have not confirmed the revision. */
  unconfirmed(revision: number): readonly SpiffeId[];
}

interface State {
  confirmed: number;
  sent: number;
  since: number;
  connected: boolean;
}

/** @param isActive agents that are not any more, nobody waits for */
export function createStandings(position: () => Position, isActive: (agentId: SpiffeId) => boolean): Standings {
  const states = new Map<SpiffeId, State>();

  /** Who confirmed all that was sent is up to date: nothing since then concerned it. */
  const reached = ({ confirmed, sent, connected }: State): number =>
    connected && confirmed >= sent ? Math.max(confirmed, position().revision) : confirmed;

  return {
    joined(agentId, since, sent) {
      const known = states.get(agentId);
      const confirmed = known?.confirmed ?? 0;
      states.set(agentId, { confirmed, sent: Math.max(sent, known?.sent ?? 0), since, connected: true });
    },
    left(agentId) {
      const state = states.get(agentId);
      if (state === undefined) return;
      state.confirmed = reached(state);
      state.connected = false;
    },
    forget: (agentId) => void states.delete(agentId),
    sent(agentId, revision) {
      const state = states.get(agentId);
      if (state !== undefined) state.sent = revision;
    },
    knows: (agentId) => states.has(agentId),
    confirm(agentId, { epoch, revision }) {
      const state = states.get(agentId);
      const now = position();
      if (state === undefined || epoch !== now.epoch) return;
      // A revision that was not sent yet cannot have been applied.
      state.confirmed = Math.max(state.confirmed, Math.min(revision, now.revision));
    },
    following() {
      const standing: Standing[] = [];
      for (const [agentId, state] of states) {
        if (state.connected) standing.push({ agentId, confirmedRevision: reached(state), since: state.since });
      }
      return standing;
    },
    unconfirmed(revision) {
      const behind: SpiffeId[] = [];
      for (const [agentId, state] of states) if (reached(state) < revision && isActive(agentId)) behind.push(agentId);
      return behind;
    },
  };
}
