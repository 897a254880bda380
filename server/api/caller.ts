/**
 * Who calls: what a connection proves, and what that is worth for one call at this moment. Rights that come from
 * entries and agent records are looked up anew on every call, because both can be taken back while a connection lives.
 */
import type { PermissionDeniedReason } from '../../runtime/rpc/details.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import type { AgentRecord, Scope } from '../store/store.ts';
import { type AccessRow, accessRow, type Role } from './access.ts';

/** Fixed when the connection is accepted. */
export type Connection =
  | { readonly door: 'operators'; readonly uid: number; readonly pid: number }
  | {
      readonly door: 'tcp';
      readonly address: string;
      /** The verified client certificate, when one was sent. */
      readonly identity: ConnectionIdentity | undefined;
    };

export interface ConnectionIdentity {
  readonly id: SpiffeId;
  /** Decimal, as agent records keep it. */
  readonly serial: string;
  readonly expiresAt: number;
}

/** One authenticated sender of one RPC, in the role it was admitted in. */
export interface Caller {
  readonly role: Role;
  /** `operator:<uid>/<pid>`, a SPIFFE ID, or `stranger:<address>`: the actor of audit events. */
  readonly name: string;
  /** What budgets are counted by. */
  readonly account: string;
  readonly id: SpiffeId | undefined;
  /** Of the role `agent`. */
  readonly agent: AgentRecord | undefined;
  readonly address: string;
  readonly call: string;
}

export interface Standing {
  /** Whether an active entry with this SPIFFE ID gives the right. */
  isAdmin(id: SpiffeId): boolean;
  isDownstream(id: SpiffeId): boolean;
  /** The agent's record if it may call now. @throws denied with the reason its agent acts on */
  authorizeAgent(identity: ConnectionIdentity): Promise<AgentRecord>;
}

/**
 * Admits a call in the first role of its row that the connection can prove.
 * @throws denied `access.denied` or the reason of `authorizeAgent`; unsupported `access.unknown-method`
 */
export async function admitCall(method: string, connection: Connection, standing: Standing): Promise<Caller> {
  const row = accessRow(method);
  if (row === undefined || (row.door === 'operators' && connection.door !== 'operators')) {
    throw new SpiffeError('unsupported', 'access.unknown-method', `unknown method ${method}`);
  }
  const caller = describe(connection, method);
  if (row.who.includes('anyone')) return { ...caller, role: 'anyone' };
  if (connection.door === 'operators') {
    if (row.who.includes('operator')) return { ...caller, role: 'operator' };
    throw refused(method);
  }
  return admitIdentity(row, connection.identity, caller, standing);
}

async function admitIdentity(
  row: AccessRow,
  identity: ConnectionIdentity | undefined,
  caller: Omit<Caller, 'role'>,
  standing: Standing,
): Promise<Caller> {
  if (identity === undefined) throw refused(caller.call);
  if (row.who.includes('admin') && standing.isAdmin(identity.id)) return { ...caller, role: 'admin' };
  if (row.who.includes('downstream') && standing.isDownstream(identity.id)) return { ...caller, role: 'downstream' };
  if (!row.who.includes('agent')) throw refused(caller.call);
  try {
    return { ...caller, role: 'agent', agent: await standing.authorizeAgent(identity) };
  } catch (error) {
    throw agentRefused(error, caller.call);
  }
}

/** What an agent is told beside the sentence that everybody gets; its programs act on this alone. */
export const agentRefusals: Readonly<Record<string, PermissionDeniedReason>> = {
  'access.agent-expired': 'AGENT_EXPIRED',
  'access.agent-not-attested': 'AGENT_NOT_ATTESTED',
  'access.agent-not-active': 'AGENT_NOT_ACTIVE',
  'access.agent-banned': 'AGENT_BANNED',
  'agent.must-reattest': 'AGENT_MUST_REATTEST',
};

/** The words are the same for all, the reason is not: it decides whether the agent attests anew or stops. */
function agentRefused(error: unknown, method: string): unknown {
  if (!(error instanceof SpiffeError) || error.kind !== 'denied') return error;
  const message = `authorization denied for method ${method}`;
  switch (error.reason) {
    case 'agent.expired':
      return new SpiffeError('denied', 'access.agent-expired', message, { cause: error });
    case 'agent.not-attested':
      return new SpiffeError('denied', 'access.agent-not-attested', message, { cause: error });
    case 'agent.not-active':
      return new SpiffeError('denied', 'access.agent-not-active', message, { cause: error });
    case 'agent.banned':
      return new SpiffeError('denied', 'access.agent-banned', message, { cause: error });
    default:
      return refused(method);
  }
}

/** The actor of audit events. */
export function callerName(connection: Connection): string {
  if (connection.door === 'operators') return `operator:${connection.uid}/${connection.pid}`;
  return connection.identity?.id ?? `stranger:${connection.address}`;
}

function describe(connection: Connection, method: string): Omit<Caller, 'role'> {
  const name = callerName(connection);
  if (connection.door === 'operators') {
    return { name, account: `operator:${connection.uid}`, id: undefined, agent: undefined, address: '', call: method };
  }
  const { address, identity } = connection;
  return { name, account: identity?.id ?? address, id: identity?.id, agent: undefined, address, call: method };
}

function refused(method: string): SpiffeError {
  return new SpiffeError('denied', 'access.denied', `authorization denied for method ${method}`);
}

/** Who did it, for the record. */
export function scopeOf(caller: Caller, at: number): Scope {
  return { actor: caller.name, call: caller.call, at };
}

/**
 * The agent behind a call that only agents may make.
 * @throws internal `access.no-agent` when a handler is reached in another role, which the table excludes
 */
export function agentOf(caller: Caller): AgentRecord {
  if (caller.agent === undefined) {
    throw new SpiffeError('internal', 'access.no-agent', 'the call reached its handler without an agent');
  }
  return caller.agent;
}
