/**
 * Any bytes as status details of a peer: always a SpiffeError with a bounded text, whatever they hold.
 */
import { Metadata } from '@grpc/grpc-js';
import { permissionDeniedDetail } from '../../runtime/rpc/details.ts';
import { fromStatus, permissionDeniedReason, toStatus } from '../../runtime/rpc/status.ts';
import { errorKinds, SpiffeError } from '../../spiffe/errors.ts';

export const name = 'status';

export function corpus(): Uint8Array[] {
  const error = new SpiffeError('denied', 'agent.banned', 'agent is banned', { detail: { id: 'x', count: 3 } });
  const status = toStatus(error, { newIncident: () => 'i', details: [permissionDeniedDetail('AGENT_BANNED')] });
  const [bytes] = status.metadata.get('grpc-status-details-bin');
  return [bytes as Buffer, Buffer.from([0x08, 0x07]), Buffer.from([0x1a, 0xff, 0xff, 0xff, 0xff, 0x0f]), Buffer.from([0x1a, 0x02, 0x0a, 0x00])];
}

export function run(input: Uint8Array): void {
  const metadata = new Metadata();
  metadata.set('grpc-status-details-bin', Buffer.from(input));
  for (const code of [7, input[0] ?? 0]) {
    const error = fromStatus({ code, details: Buffer.from(input).toString('latin1'), metadata });
    if (!errorKinds.includes(error.kind)) throw new Error(`kind ${error.kind} does not exist`);
    if (error.reason === '' || error.reason.length > 300) throw new Error('reason is empty or unbounded');
    if (error.message.length > 1_024) throw new Error('message is unbounded');
    if (Object.keys(error.detail).length > 20) throw new Error('detail is unbounded');
    permissionDeniedReason(error);
    // What came in can go out again.
    const again = fromStatus(toStatus(error, { newIncident: () => 'i' }));
    if (again.kind !== error.kind || again.reason !== error.reason) throw new Error('error changes on its second way');
  }
}
