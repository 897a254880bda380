/**
 * The shape of what answers a method, and the one place where every call is admitted, paid for and recorded when it is
 * refused, before its handler sees it. The rights themselves are in `access.ts`.
 */
import type { MethodDefinition } from '@grpc/proto-loader';
import type { ServiceDefinitions } from '../../proto/load.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { CallContext, RpcService } from '../../runtime/rpc/handlers.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { AuditEvent } from '../audit/event.ts';
import { accessRow, type ServedService } from './access.ts';
import type { Budgets } from './budget.ts';
import { admitCall, type Caller, callerName, type Connection, type Standing } from './caller.ts';

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

export interface GateDeps {
  readonly standing: Standing;
  readonly budgets: Budgets;
  readonly clock: Clock;
  /** Durable, or counted, before it resolves. */
  readonly record: (events: readonly AuditEvent[]) => Promise<void>;
}

export interface Gate {
  /** Admits a call before its first message is read. @throws as `admitCall` */
  readonly access: (call: CallContext<Connection>) => Promise<void>;
  /** Makes a service of handlers; each call is charged before its handler runs. */
  service<S extends ServedService>(definition: ServiceDefinitions[S], handlers: Handlers<S>): RpcService<Connection>;
}

/** A refusal is recorded before it is answered. */
export function createGate({ standing, budgets, clock, record }: GateDeps): Gate {
  const callers = new WeakMap<CallContext<Connection>, Caller>();

  const recorded = async <T>(call: CallContext<Connection>, step: () => Promise<T>): Promise<T> => {
    try {
      return await step();
    } catch (error) {
      if (error instanceof SpiffeError && (error.kind === 'denied' || error.kind === 'limited')) {
        await record([refusalEvent(clock.now(), call, error)]);
      }
      throw error;
    }
  };

  const charge = async (call: CallContext<Connection>, request: unknown): Promise<Caller> => {
    const caller = callers.get(call);
    if (caller === undefined) throw new SpiffeError('internal', 'access.not-admitted', 'the call was not admitted');
    const row = accessRow(call.method);
    const budget = row?.budget;
    if (budget !== undefined) {
      await recorded(call, () => budgets.take(budget, caller.account, costOf(row?.items ?? [], request), call.signal));
    }
    return caller;
  };

  return {
    async access(call) {
      callers.set(call, await recorded(call, () => admitCall(call.method, call.connection, standing)));
    },
    service(definition, handlers) {
      const wired: Record<string, unknown> = {};
      // The definition tells which shape a handler has; the types of `Handlers` hold the handlers to it.
      for (const [name, handler] of Object.entries(handlers as unknown as Record<string, Untyped>)) {
        wired[name] = definition[name]?.responseStream
          ? async function* (input: unknown, call: CallContext<Connection>) {
              yield* handler(input, await charge(call, input), call.signal) as AsyncIterable<unknown>;
            }
          : async (input: unknown, call: CallContext<Connection>) => handler(input, await charge(call, input), call.signal);
      }
      return { definition, handlers: wired as RpcService<Connection>['handlers'] };
    },
  };
}

type Untyped = (input: unknown, caller: Caller, signal: AbortSignal) => Promise<unknown> | AsyncIterable<unknown>;

function costOf(items: readonly string[], request: unknown): number {
  if (items.length === 0 || typeof request !== 'object' || request === null) return 1;
  const fields = request as Readonly<Record<string, unknown>>;
  let cost = 0;
  for (const name of items) if (Array.isArray(fields[name])) cost += fields[name].length;
  return Math.max(1, cost);
}

function refusalEvent(at: number, call: CallContext<Connection>, error: SpiffeError): AuditEvent {
  const type = error.kind === 'limited' ? 'call.limited' : 'call.denied';
  const actor = callerName(call.connection);
  return { type, at, actor, call: call.method, outcome: 'refused', reason: error.reason, subject: '', detail: {} };
}
