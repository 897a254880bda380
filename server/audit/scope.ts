/**
 * Who does something, and the events that witness it: composing both in one place keeps their fields in step. Writing
 * them down is the store's.
 */
import type { Scope } from '../store/store.ts';
import type { AuditDetail, AuditEvent, AuditOutcome, AuditType } from './event.ts';

/** What the server does by itself. */
export function serverScope(at: number): Scope {
  return { actor: 'server', call: '', at };
}

export interface Witnessed {
  readonly subject: string;
  readonly reason?: string;
  readonly outcome?: AuditOutcome;
  readonly detail?: AuditDetail;
}

/** An event of this scope; done unless the outcome says otherwise. */
export function witness(scope: Scope, type: AuditType, what: Witnessed): AuditEvent {
  const { actor, call, at } = scope;
  const { subject, reason = '', outcome = 'done', detail = {} } = what;
  return { type, at, actor, call, outcome, reason, subject, detail };
}

/** A refusal of this scope. */
export function witnessRefusal(scope: Scope, type: AuditType, what: Witnessed & { readonly reason: string }): AuditEvent {
  return witness(scope, type, { ...what, outcome: 'refused' });
}
