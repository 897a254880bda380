/**
 * One log line and one count per call, from one place. What a caller is called is the owner's to say.
 */
import { status as grpcStatus } from '@grpc/grpc-js';
import type { Logger } from '../log.ts';
import { secondsBuckets } from '../metrics.ts';
import type { Metrics } from '../metrics.ts';
import type { CallEnd } from './calls.ts';
import type { RpcService } from './handlers.ts';

export interface CallObserverOptions<P> {
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** `workload`, `server`, …: the middle of the metrics' names. */
  readonly name: string;
  /** Their methods are the closed set of the label; calls of others count as `other`. */
  readonly services: readonly RpcService<P>[];
  /** A short name for the log: a SPIFFE ID, `uid:1000`, an address. */
  readonly callerOf: (connection: P) => string;
}

/** Ends that say something about us and not about the caller. */
const ours: ReadonlySet<grpcStatus> = new Set([grpcStatus.INTERNAL, grpcStatus.UNKNOWN, grpcStatus.DATA_LOSS]);

const codes = Object.values(grpcStatus).filter((value): value is keyof typeof grpcStatus => typeof value === 'string');

export function observeCalls<P>(options: CallObserverOptions<P>): (end: CallEnd<P>) => void {
  const { logger, metrics, name } = options;
  const methods = [...options.services.flatMap(({ definition }) => Object.values(definition).map(({ path }) => path)), 'other'];
  const known = new Set(methods);
  const calls = metrics.counter({
    name: `steeple_${name}_calls_total`,
    help: 'Calls that ended, by method and gRPC status.',
    labels: { method: methods, code: codes },
  });
  const seconds = metrics.histogram(
    { name: `steeple_${name}_call_seconds`, help: 'How long calls took; streams as long as they were open.', labels: { method: methods } },
    secondsBuckets,
  );

  return (end) => {
    const method = known.has(end.method) ? end.method : 'other';
    const outcome = codes.find((code) => grpcStatus[code] === end.code) ?? 'UNKNOWN';
    calls.inc({ method, code: outcome });
    seconds.observe({ method }, end.ms / 1_000);
    const fields = {
      method: end.method,
      caller: options.callerOf(end.connection),
      requestId: end.requestId,
      outcome,
      reason: end.reason === '' ? undefined : end.reason,
      ms: Math.round(end.ms * 1_000) / 1_000,
    };
    if (ours.has(end.code)) logger.error('rpc.failed', { ...fields, incident: end.incident, error: end.error });
    else logger.info('rpc.call', fields);
  };
}
