/**
 * The shape of what answers a method, and the one place where every call is admitted, paid for and recorded when it is
 * refused, before its handler sees it. The rights themselves are in `access.ts`.
 */
import type { MethodDefinition } from '@grpc/proto-loader';
import type { ServiceDefinitions } from '../../proto/load.ts';
import type { Clock } from '../../runtime/clock.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { AuditEvent } from '../audit/event.ts';
import { accessRow, type ServedService } from './access.ts';
import type { Budgets } from './budget.ts';
import { admitCall, type Caller, type Connection, type Standing } from './caller.ts';

type Unary<Req, Res> = (request: Req, caller: Caller, signal: AbortSignal) => Promise<Res>;
type ServerStream<Req, Res> = (request: Req, caller: Caller, signal: AbortSignal) => AsyncIterable<Res>;
type Bidi<Req, Res> = (requests: AsyncIterable<Req>, caller: Caller, signal: AbortSignal) => AsyncIterable<Res>;

type ServerStreaming = 'TailAudit' | 'Watch';
type BothStreaming = 'AttestAgent' | 'SyncAuthorizedEntries' | 'Follow';

type Named<T> = { [K in keyof T as string extends K ? never : K]: T[K] };

/** One function for every method of a service; a missing one does not compile. */
export type Handlers<S extends ServedService> = {
  readonly [K in keyof Named<ServiceDefinitions[S]>]: Named<ServiceDefinitions[S]>[K] extends MethodDefinition<
    infer _Req,
    infer Res,
    infer Req,
    infer _Res
  >
    ? K extends BothStreaming
      ? Bidi<Req, Res>
      : K extends ServerStreaming
        ? ServerStream<Req, Res>
        : Unary<Req, Res>
    : never;
};

export interface Gate {
  readonly standing: Standing;
  readonly budgets: Budgets;
  readonly clock: Clock;
  /** Durable before it resolves; called for refusals only. */
  readonly record: (events: readonly AuditEvent[]) => Promise<void>;
}

/**
 * Admits and charges one call. A refusal is recorded before it is answered.
 * @throws as `admitCall` and `Budgets.take`
 */
export async function passGate(gate: Gate, method: string, connection: Connection, request: unknown, signal: AbortSignal): Promise<Caller> {
  try {
    const caller = await admitCall(method, connection, gate.standing);
    const row = accessRow(method);
    if (row?.budget !== undefined) await gate.budgets.take(row.budget, caller.account, costOf(row.items, request), signal);
    return caller;
  } catch (error) {
    if (error instanceof SpiffeError && (error.kind === 'denied' || error.kind === 'limited')) {
      await gate.record([refusalEvent(gate.clock.now(), method, connection, error)]);
    }
    throw error;
  }
}

function costOf(items: readonly string[], request: unknown): number {
  if (items.length === 0 || typeof request !== 'object' || request === null) return 1;
  const fields = request as Readonly<Record<string, unknown>>;
  const counts = items.map((name) => (Array.isArray(fields[name]) ? fields[name].length : 0));
  return Math.max(
    1,
    counts.reduce((sum, count) => sum + count, 0),
  );
}

function refusalEvent(at: number, method: string, connection: Connection, error: SpiffeError): AuditEvent {
  const actor =
    connection.door === 'operators'
      ? `operator:${connection.uid}/${connection.pid}`
      : (connection.identity?.id ?? `stranger:${connection.address}`);
  return {
    type: error.kind === 'limited' ? 'call.limited' : 'call.denied',
    at,
    actor,
    call: method,
    outcome: 'refused',
    reason: error.reason,
    subject: '',
    detail: {},
  };
}
