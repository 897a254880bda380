/**
 * The workloads' sockets: path and mode, who may hold how many connections and streams, and the header without which no
 * method of the Workload API answers. What the methods answer is `api.ts`, and on the same terms `../sds/api.ts`.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { listenUnix, type Acceptor, type AcceptorEvent, type AdmissionLimits } from '../../runtime/acceptor.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Peer, PeerTier } from '../../runtime/peer.ts';
import type { CallEnd } from '../../runtime/rpc/calls.ts';
import type { CallContext, RpcService } from '../../runtime/rpc/handlers.ts';
import { createRpcServer, type RpcServer } from '../../runtime/rpc/serve.ts';
import type { Caller } from './caller.ts';

export interface WorkloadListenOptions {
  readonly clock: Clock;
  readonly path: string;
  readonly mode: number;
  readonly backlog: number;
  readonly limits: WorkloadLimits;
  readonly services: readonly RpcService<Caller>[];
  readonly callerOf: (peer: Peer) => Caller;
  /** False while nothing is known to answer by; callers are asked to come back. */
  readonly isReady: () => boolean;
  readonly onCall: (end: CallEnd<Caller>) => void;
  readonly onEvent: (event: AcceptorEvent) => void;
  /** Beginnings of methods that answer without the header, besides those of standard tools. */
  readonly withoutHeader?: readonly string[];
  readonly tier?: PeerTier;
  readonly unseenImage?: 'refuse' | 'accept';
}

export interface WorkloadLimits extends AdmissionLimits {
  /** Calls in progress, open streams among them, of one uid over all its connections. */
  readonly callsPerUid: number;
  readonly callsPerConnection: number;
}

export interface WorkloadListener {
  readonly tier: PeerTier;
  readonly acceptor: Acceptor;
  readonly connections: number;
  /** Ends streams as unavailable and gives the socket up, in well under a second. */
  stop(): Promise<void>;
}

const headerName = 'workload.spiffe.io';
const guardedPrefix = '/SpiffeWorkloadAPI/';
/** Answered whatever is known of entries. */
const toolPrefixes = ['/grpc.reflection.', '/grpc.health.'];
/** The largest request is a token to validate. */
const maxReceiveBytes = 256 * 1024;
const stopGraceMs = 300;

/** @throws as `listenUnix` */
export async function listenForWorkloads(options: WorkloadListenOptions): Promise<WorkloadListener> {
  const { clock, limits } = options;
  const counter = createCallCounter(limits.callsPerUid);
  const server: RpcServer<Caller> = createRpcServer<Caller>({
    clock,
    services: options.services,
    bounds: { maxReceiveBytes, maxConcurrentStreams: limits.callsPerConnection, maxConnections: limits.total },
    access: (call) => {
      checkHeader(call, options.withoutHeader);
      if (!toolPrefixes.some((prefix) => call.method.startsWith(prefix)) && !options.isReady()) {
        throw new SpiffeError('unavailable', 'workload.starting', 'the agent has not learned its entries yet');
      }
      counter.enter(call);
    },
    observe: (end) => {
      counter.leave(end);
      options.onCall(end);
    },
  });
  const acceptor = await listenUnix({
    path: options.path,
    mode: options.mode,
    backlog: options.backlog,
    directoryMode: 0o755,
    limits,
    clock,
    onConnection: (socket, peer) => server.inject(socket, options.callerOf(peer)),
    onEvent: options.onEvent,
    ...(options.tier === undefined ? {} : { tier: options.tier }),
    ...(options.unseenImage === undefined ? {} : { unseenImage: options.unseenImage }),
  });
  return {
    tier: acceptor.tier,
    acceptor,
    get connections() {
      return server.connections;
    },
    async stop() {
      acceptor.closeListener();
      await server.close(stopGraceMs);
      await acceptor.stop();
    },
  };
}

/**
 * Exactly one value, exactly `true` [Workload Endpoint 3]; only what other programs ask without it is exempt.
 * @throws invalid `workload.header`
 */
export function checkHeader(call: Pick<CallContext<unknown>, 'method' | 'metadata'>, withoutHeader: readonly string[] = []): void {
  const isOpen = [...toolPrefixes, ...withoutHeader].some((prefix) => call.method.startsWith(prefix));
  if (!call.method.startsWith(guardedPrefix) && isOpen) return;
  const values = call.metadata.get(headerName);
  if (values.length === 1 && values[0] === 'true') return;
  throw new SpiffeError('invalid', 'workload.header', 'security header missing from request');
}

function createCallCounter(perUid: number): { enter(call: CallContext<Caller>): void; leave(end: CallEnd<Caller>): void } {
  const counts = new Map<number, number>();
  const counted = new Set<string>();
  return {
    enter({ connection, requestId }) {
      const { uid } = connection.peer;
      const now = counts.get(uid) ?? 0;
      if (now >= perUid) {
        throw new SpiffeError('unavailable', 'workload.calls-per-user', 'too many calls of this user are in progress', { detail: { uid } });
      }
      counts.set(uid, now + 1);
      counted.add(requestId);
    },
    leave({ connection, requestId }) {
      if (!counted.delete(requestId)) return;
      const { uid } = connection.peer;
      const now = (counts.get(uid) ?? 1) - 1;
      if (now === 0) counts.delete(uid);
      else counts.set(uid, now);
    },
  };
}
