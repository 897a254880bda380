/**
 * Events and inventory as messages, and the call that hands them over. When it is made is `report.ts`.
 */
import { integerFromText } from '../../proto/convert/scalar.ts';
import type { Event as EventMessage } from '../../proto/gen/steeple/node/v1/Event.ts';
import type { RpcClient } from '../../runtime/rpc/call.ts';
import { agentServices } from '../node/wire.ts';
import type { EventKind, NumberedEvent } from './event.ts';
import type { EventReceiver } from './report.ts';

const kinds = {
  attested: 'KIND_ATTESTED',
  matched: 'KIND_MATCHED',
  delivered: 'KIND_DELIVERED',
  rotated: 'KIND_ROTATED',
  refused: 'KIND_REFUSED',
  closed: 'KIND_CLOSED',
  gap: 'KIND_GAP',
  sampled: 'KIND_SAMPLED',
} as const satisfies Record<EventKind, string>;

export function eventReceiver(client: RpcClient): EventReceiver {
  return {
    async report(spool, events, inventory, signal) {
      const method = agentServices()['steeple.node.v1.Node'].Report;
      const request = {
        spool,
        events: events.map(eventToMessage),
        ...(inventory === undefined ? {} : { inventory: { facts: { ...inventory } } }),
      };
      const response = await client.unary(method, request, { signal });
      return integerFromText(response.recorded_through, 'recorded_through');
    },
  };
}

function eventToMessage(event: NumberedEvent): EventMessage {
  const { process } = event;
  return {
    sequence: event.sequence,
    at_ms: Math.round(event.at),
    kind: kinds[event.kind],
    process:
      process === undefined
        ? null
        : { pid: process.pid, start_time: process.startTime, uid: process.uid, gid: process.gid, path: process.path },
    selectors: [...event.selectors],
    entry_id: event.entryId,
    spiffe_id: event.spiffeId,
    credential: event.credential,
    reason: event.reason,
    method: event.method,
    broker: event.broker,
    reference: event.reference,
    count: event.count,
  };
}
