/**
 * The way of one call through the server: tied to its connection, admitted, counted and ended exactly once, whoever ends
 * it. Connections and their bounds are left to `serve.ts`, messages to `handlers.ts`.
 */
import { randomUUID } from 'node:crypto';
import { Metadata, ServerInterceptingCall, status as grpcStatus } from '@grpc/grpc-js';
import type { ServerInterceptor } from '@grpc/grpc-js';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { Clock } from '../clock.ts';
import type { StatusDetail } from './details.ts';
import type { CallContext, CallScope, FailedStatus } from './handlers.ts';
import { toStatus } from './status.ts';

/** What became of a call. */
export interface CallEnd<P> {
  readonly method: string;
  readonly connection: P;
  readonly requestId: string;
  readonly code: grpcStatus;
  /** Of the SpiffeError answered; '' for OK and for ends that grpc-js made itself. */
  readonly reason: string;
  readonly ms: number;
  /** What was thrown, for the log of this side. */
  readonly error: unknown;
  /** The id under which a generic answer can be traced to `error`. */
  readonly incident: string | undefined;
}

/** One live call as its connection sees it. */
export interface CallState<P> extends CallScope<P> {
  /** Either side streams, so it may never end by itself. */
  readonly streaming: boolean;
  /** Monotonic instant since which a message waits for its reader. */
  readonly writingSince: number | undefined;
  abort(reason: SpiffeError): void;
}

export interface CallPolicy<P, L extends { readonly context: P }> {
  readonly clock: Clock;
  linkOf(address: string): L | undefined;
  /** Why the connection's further calls are refused, if they are. */
  refusal(link: L): SpiffeError | undefined;
  opened(link: L, call: CallState<P>): void;
  ended(link: L, call: CallState<P>, end: CallEnd<P>): void;
  /** A call was reset before it began. */
  dropped(link: L): void;
  readonly access: ((call: CallContext<P>) => void | Promise<void>) | undefined;
  readonly statusDetails: ((error: SpiffeError) => readonly StatusDetail[]) | undefined;
}

export function createCallInterceptor<P, L extends { readonly context: P }>(policy: CallPolicy<P, L>): ServerInterceptor {
  return (method, next) => {
    const link = policy.linkOf(next.getConnectionInfo().remoteAddress ?? '');
    if (link === undefined) return refuseUnknown(next);

    const streaming = method.requestStream || method.responseStream;
    let call: LiveCall<P> | undefined;
    let begun = false;
    // A call reset before its first turn never starts, and grpc-js tells no one.
    queueMicrotask(() => {
      if (!begun) policy.dropped(link);
    });

    const gate = new GatedCall(next, {
      start: (proceed) => {
        proceed({
          onReceiveMetadata: (metadata, deliver) => {
            begun = true;
            const live = new LiveCall<P>({
              policy,
              context: { connection: link.context, metadata, method: method.path, deadlineAt: deadlineOf(next.getDeadline()) },
              streaming,
              resume: () => gate.resumeRead(),
              ended: (end) => policy.ended(link, live, end),
            });
            call = live;
            policy.opened(link, live);
            const refuse = (error: unknown): void => {
              const failed = live.fail(error);
              live.finish(failed.code);
              next.sendStatus(failed);
            };
            const refusal = policy.refusal(link);
            if (refusal !== undefined) {
              refuse(refusal);
              return;
            }
            if (policy.access === undefined) {
              deliver(metadata);
              return;
            }
            // A plain async function, so that a synchronous throw is a refusal too.
            void (async () => policy.access?.(live.context))().then(() => {
              if (!live.context.signal.aborted) deliver(metadata);
            }, refuse);
          },
          onReceiveMessage: (message, deliver) => {
            gate.received(method.requestStream);
            deliver(message);
          },
          onCancel: () => {
            call?.cancelled();
          },
        });
      },
      sendStatus: (status, proceed) => {
        call?.finish(status.code);
        proceed(status);
      },
    });
    return gate;
  };
}

type Downstream = Parameters<ServerInterceptor>[1];

function refuseUnknown(next: Downstream): ServerInterceptingCall {
  return new ServerInterceptingCall(next, {
    start: (proceed) =>
      proceed({
        onReceiveMetadata: () =>
          next.sendStatus({ code: grpcStatus.UNAUTHENTICATED, details: 'connection is unknown', metadata: new Metadata() }),
      }),
  });
}

/**
 * Lets one request of a stream in at a time. Node's object streams would read sixteen ahead, each as large as the
 * largest message allowed, for a caller who has proved nothing yet.
 */
class GatedCall extends ServerInterceptingCall {
  #unread = 0;
  #waiting = false;

  override startRead(): void {
    if (this.#unread > 0) this.#waiting = true;
    else super.startRead();
  }

  received(counted: boolean): void {
    if (counted) this.#unread += 1;
  }

  resumeRead(): void {
    this.#unread -= 1;
    if (this.#unread > 0 || !this.#waiting) return;
    this.#waiting = false;
    super.startRead();
  }
}

interface LiveCallParts<P> {
  readonly policy: Pick<CallPolicy<P, { readonly context: P }>, 'clock' | 'statusDetails'>;
  readonly context: Pick<CallContext<P>, 'connection' | 'metadata' | 'method' | 'deadlineAt'>;
  readonly streaming: boolean;
  resume(): void;
  ended(end: CallEnd<P>): void;
}

class LiveCall<P> implements CallState<P> {
  readonly context: CallContext<P>;
  readonly streaming: boolean;
  writingSince: number | undefined;
  readonly #parts: LiveCallParts<P>;
  readonly #controller = new AbortController();
  readonly #startedAt: number;
  #failure: { readonly error: unknown; readonly reason: string; readonly incident: string | undefined } | undefined;
  #finished = false;

  constructor(parts: LiveCallParts<P>) {
    this.#parts = parts;
    this.#startedAt = parts.policy.clock.monotonic();
    this.streaming = parts.streaming;
    this.context = { ...parts.context, signal: this.#controller.signal, requestId: randomUUID() };
  }

  fail(error: unknown): FailedStatus {
    const details = error instanceof SpiffeError ? this.#parts.policy.statusDetails?.(error) : undefined;
    const status = toStatus(error, { newIncident: randomUUID, ...(details === undefined ? {} : { details }) });
    this.#failure = { error, reason: status.reason, incident: status.incident };
    return { code: status.code, details: status.details, metadata: status.metadata };
  }

  writing(active: boolean): void {
    this.writingSince = active ? this.#parts.policy.clock.monotonic() : undefined;
  }

  consumed(): void {
    this.#parts.resume();
  }

  abort(reason: SpiffeError): void {
    this.#controller.abort(reason);
  }

  /** The stream is gone: after our status, at the deadline, or because the caller went. */
  cancelled(): void {
    const late = this.context.deadlineAt !== undefined && this.#parts.policy.clock.now() >= this.context.deadlineAt;
    this.finish(late ? grpcStatus.DEADLINE_EXCEEDED : grpcStatus.CANCELLED);
    this.#controller.abort(
      late
        ? new SpiffeError('unavailable', 'rpc.deadline', 'deadline has passed')
        : new SpiffeError('unavailable', 'rpc.cancelled', 'call has ended'),
    );
  }

  finish(code: grpcStatus): void {
    if (this.#finished) return;
    this.#finished = true;
    const failure = code === grpcStatus.OK ? undefined : this.#failure;
    this.#parts.ended({
      method: this.context.method,
      connection: this.context.connection,
      requestId: this.context.requestId,
      code,
      reason: failure?.reason ?? '',
      ms: this.#parts.policy.clock.monotonic() - this.#startedAt,
      error: failure?.error,
      incident: failure?.incident,
    });
  }
}

function deadlineOf(deadline: Date | number): number | undefined {
  const at = deadline instanceof Date ? deadline.getTime() : deadline;
  return Number.isFinite(at) ? at : undefined;
}
