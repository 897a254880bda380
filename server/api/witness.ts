/**
 * What agents witnessed, as audit events: kinds from a closed set, texts bounded, and the actor always the agent that
 * reports, whatever its message says.
 */
import { integerFromText, namedValue } from '../../proto/convert/scalar.ts';
import type { Event__Output } from '../../proto/gen/steeple/node/v1/Event.ts';
import type { Inventory__Output } from '../../proto/gen/steeple/node/v1/Inventory.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import type { AuditDetail, AuditEvent, AuditType } from '../audit/event.ts';

const maxText = 2048;
const maxSelectors = 200;
const maxFacts = 64;

const kinds = {
  KIND_ATTESTED: 'workload.attested',
  KIND_MATCHED: 'workload.matched',
  KIND_DELIVERED: 'workload.delivered',
  KIND_ROTATED: 'workload.rotated',
  KIND_REFUSED: 'workload.refused',
  KIND_CLOSED: 'workload.closed',
  KIND_GAP: 'workload.gap',
  KIND_SAMPLED: 'workload.sampled',
} as const satisfies Readonly<Record<string, AuditType>>;

/** @throws invalid `proto.enum.unknown`, `proto.integer.range` */
export function eventFromMessage(message: Event__Output, agentId: SpiffeId, call: string): AuditEvent {
  const type: AuditType = namedValue(kinds, message.kind as keyof typeof kinds, 'kind');
  const detail: Record<string, string | number | readonly string[]> = {};
  if (message.process !== null) {
    detail['pid'] = message.process.pid;
    detail['startTime'] = bounded(message.process.start_time);
    detail['uid'] = message.process.uid;
    detail['gid'] = message.process.gid;
    detail['path'] = bounded(message.process.path);
  }
  if (message.selectors.length > 0) detail['selectors'] = message.selectors.slice(0, maxSelectors).map(bounded);
  if (message.entry_id !== '') detail['entryId'] = bounded(message.entry_id);
  if (message.credential !== '') detail['credential'] = bounded(message.credential);
  if (message.method !== '') detail['method'] = bounded(message.method);
  if (message.broker !== '') detail['broker'] = bounded(message.broker);
  if (message.reference !== '') detail['reference'] = bounded(message.reference);
  const count = integerFromText(message.count, 'count');
  if (count > 0) detail['count'] = count;
  return {
    type,
    at: integerFromText(message.at_ms, 'at_ms'),
    actor: agentId,
    call,
    outcome: message.kind === 'KIND_REFUSED' ? 'refused' : 'done',
    reason: bounded(message.reason),
    subject: bounded(message.spiffe_id),
    detail,
  };
}

export function inventoryEvent(message: Inventory__Output, agentId: SpiffeId, call: string, at: number): AuditEvent {
  const facts = Object.entries(message.facts).slice(0, maxFacts);
  const detail: AuditDetail = Object.fromEntries(facts.map(([name, value]) => [bounded(name).slice(0, 64), bounded(value)]));
  return { type: 'agent.inventory', at, actor: agentId, call, outcome: 'done', reason: '', subject: agentId, detail };
}

function bounded(text: string): string {
  return text.slice(0, maxText);
}
