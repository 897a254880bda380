/**
 * Every auditable event and its fields, as a closed set. Audit is not logging: events are written in the transaction
 * of the change they witness, or on their own when a call was refused.
 */

export const auditTypes = [
  'server.started',
  'server.stopped',
  'server.reloaded',
  'store.restored',
  'entry.created',
  'entry.updated',
  'entry.deleted',
  'entry.expired',
  'token.created',
  'token.spent',
  'token.expired',
  'agent.attested',
  'agent.renewed',
  'agent.promoted',
  'agent.refused',
  'agent.banned',
  'agent.evicted',
  'agent.purged',
  'agent.inventory',
  'bundle.appended',
  'bundle.set',
  'bundle.deleted',
  'bundle.pruned',
  'bundle.refreshed',
  'bundle.refresh-failed',
  'relationship.created',
  'relationship.updated',
  'relationship.deleted',
  'authority.prepared',
  'authority.published',
  'authority.activated',
  'authority.unconfirmed',
  'authority.forgotten',
  'credential.minted',
  'credential.refused',
  'call.denied',
  'call.limited',
  'record.pruned',
  'workload.attested',
  'workload.matched',
  'workload.delivered',
  'workload.rotated',
  'workload.refused',
  'workload.closed',
  'workload.gap',
  'workload.sampled',
] as const;

export type AuditType = (typeof auditTypes)[number];

export type AuditOutcome = 'done' | 'refused' | 'failed';

export type AuditDetail = Readonly<Record<string, string | number | boolean | readonly string[]>>;

export interface AuditEvent {
  readonly type: AuditType;
  /** Epoch milliseconds, of the process that witnessed it. */
  readonly at: number;
  /** Who caused it: an agent's SPIFFE ID, `operator:<uid>/<pid>`, `stranger:<address>` or `server`. */
  readonly actor: string;
  /** The full method that was called, or `''` for what the server did by itself. */
  readonly call: string;
  readonly outcome: AuditOutcome;
  /** Why: a reason of `docs/errors.md`, or of the decision. */
  readonly reason: string;
  /** What it was done to: an entry id, an agent ID, a trust domain, an authority id. */
  readonly subject: string;
  readonly detail: AuditDetail;
}

/** The number is the order of recording, without gaps until pruned. */
export interface RecordedEvent extends AuditEvent {
  readonly number: number;
}
