/**
 * The SQL of the audit record: events are added and pruned, never changed. What the events mean is `audit/event.ts`.
 */
import type { AuditDetail, AuditEvent, AuditOutcome, AuditType, RecordedEvent } from '../audit/event.ts';
import { takeNumbers, template } from './session.ts';
import type { Session } from './session.ts';
import type { AuditFilter, Page, Scope } from './store.ts';
import type { AuditTable } from './schema.ts';
import { cutPage, pageStart } from './pages.ts';

/** An event of `scope` that was done. */
export function eventOf(scope: Scope, type: AuditType, subject: string, detail: AuditDetail, reason = ''): AuditEvent {
  return { type, at: scope.at, actor: scope.actor, call: scope.call, outcome: 'done', reason, subject, detail };
}

export async function recordEvents(session: Session, events: readonly AuditEvent[]): Promise<void> {
  if (events.length === 0) return;
  const first = await takeNumbers(session, 'audit', events.length);
  await session.runEach(
    insertEvent,
    events.map((event, index) => ({
      number: first + index,
      at: event.at,
      type: event.type,
      actor: event.actor,
      method: event.call,
      outcome: event.outcome,
      reason: event.reason,
      subject: event.subject,
      detail: JSON.stringify(event.detail),
    })),
  );
}

/**
 * Records what comes after what is recorded of this spool, in the order of its numbers. Numbers the agent left out are
 * lost to it, so the hole is witnessed by an event of its own.
 */
export async function recordSpool(
  session: Session,
  agentId: string,
  spool: string,
  events: readonly { readonly sequence: number; readonly event: AuditEvent }[],
  at: number,
): Promise<number> {
  const { db } = session;
  const known = await session.first(
    db.selectFrom('spool').select('recorded_through').where('agent_id', '=', agentId).where('spool', '=', spool),
  );
  const before = known?.recorded_through ?? 0;
  let through = before;
  const fresh: AuditEvent[] = [];
  for (const { sequence, event } of [...events].sort((a, b) => a.sequence - b.sequence)) {
    if (sequence <= through) continue;
    if (sequence > through + 1) fresh.push(gapEvent(agentId, spool, through + 1, sequence - 1, at));
    fresh.push(event);
    through = sequence;
  }
  if (through === before) return before;
  await recordEvents(session, fresh);
  await session.run(
    db
      .insertInto('spool')
      .values({ agent_id: agentId, spool, recorded_through: through, updated_at: at })
      .onConflict((conflict) => conflict.columns(['agent_id', 'spool']).doUpdateSet({ recorded_through: through, updated_at: at })),
  );
  return through;
}

export async function searchAudit(
  session: Session,
  filter: AuditFilter,
  pageSize: number,
  pageToken: string,
): Promise<Page<RecordedEvent>> {
  const newestFirst = filter.newestFirst === true;
  let query = session.db
    .selectFrom('audit')
    .selectAll()
    .orderBy('number', newestFirst ? 'desc' : 'asc')
    .limit(pageSize + 1);
  const start = pageStart(pageToken);
  if (start !== undefined) query = query.where('number', newestFirst ? '<' : '>', start);
  if (filter.type !== undefined) query = query.where('type', '=', filter.type);
  if (filter.actor !== undefined) query = query.where('actor', '=', filter.actor);
  if (filter.subject !== undefined) query = query.where('subject', '=', filter.subject);
  if (filter.outcome !== undefined) query = query.where('outcome', '=', filter.outcome);
  if (filter.since !== undefined) query = query.where('at', '>=', filter.since);
  if (filter.until !== undefined) query = query.where('at', '<', filter.until);
  return cutPage(await session.all(query), pageSize, (row) => row.number, toEvent);
}

/** Deletes at most `limit` events that were witnessed before the instant, the earliest first. */
export async function pruneEvents(session: Session, before: number, limit: number): Promise<number> {
  const { db } = session;
  await session.run(db.deleteFrom('spool').where('updated_at', '<', before));
  return session.run(
    db
      .deleteFrom('audit')
      .where('number', 'in', db.selectFrom('audit').select('number').where('at', '<', before).orderBy('at').limit(limit)),
  );
}

function gapEvent(agentId: string, spool: string, from: number, to: number, at: number): AuditEvent {
  return {
    type: 'workload.gap',
    at,
    actor: 'server',
    call: '',
    outcome: 'failed',
    reason: 'audit.spool.gap',
    subject: agentId,
    detail: { spool, from, to, count: to - from + 1 },
  };
}

function toEvent(row: AuditTable): RecordedEvent {
  return {
    number: row.number,
    at: row.at,
    type: row.type as AuditType,
    actor: row.actor,
    call: row.method,
    outcome: row.outcome as AuditOutcome,
    reason: row.reason,
    subject: row.subject,
    detail: JSON.parse(row.detail) as AuditDetail,
  };
}

const insertEvent = template((db, slot) =>
  db.insertInto('audit').values({
    number: slot('number'),
    at: slot<number>('at'),
    type: slot('type'),
    actor: slot('actor'),
    method: slot('method'),
    outcome: slot('outcome'),
    reason: slot('reason'),
    subject: slot('subject'),
    detail: slot('detail'),
  }),
);
