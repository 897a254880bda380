/**
 * The status that each item of a batch carries, in the words of SPIRE's contract. The mapping of kinds to codes is
 * `runtime/rpc/status.ts`.
 */
import { statusOfKind } from '../../runtime/rpc/status.ts';
import type { SpiffeError } from '../../spiffe/errors.ts';

/** `spire.api.types.Status`. */
export interface ItemStatus {
  readonly code: number;
  readonly message: string;
}

export const okStatus: ItemStatus = { code: 0, message: 'OK' };

/** `<prefix>: <message>`, or the prefix alone where the contract says no more. */
export function statusOf(error: SpiffeError, prefix: string, form: 'full' | 'bare' = 'full'): ItemStatus {
  const message = form === 'bare' ? prefix : prefix === '' ? error.message : `${prefix}: ${error.message}`;
  return { code: statusOfKind[error.kind], message };
}
