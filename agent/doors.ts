/**
 * The agent's two sockets, composed from parts that `agent.ts` made: what is answered on the public one and the private one,
 * within which bounds, and for how long. How a socket is listened on is `workload/listen.ts` and `admin/listen.ts`.
 */
import { SpiffeError } from '../spiffe/errors.ts';
import { untilAborted } from '../runtime/abort.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Peer, PeerTier } from '../runtime/peer.ts';
import { rpcService, type RpcService } from '../runtime/rpc/handlers.ts';
import type { Task } from '../runtime/tasks.ts';
import { adminApi, type AdminApiOptions, type AgentStatus } from './admin/api.ts';
import { listenForOperators } from './admin/listen.ts';
import type { AgentConfig } from './config.ts';
import { agentServices } from './node/wire.ts';
import type { Observer } from './observe.ts';
import type { workloadApi } from './workload/api.ts';
import type { Caller } from './workload/caller.ts';
import { healthApi } from './workload/health.ts';
import { listenForWorkloads } from './workload/listen.ts';

export interface DoorParts {
  readonly config: AgentConfig;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly callerOf: (peer: Peer) => Caller;
  readonly workloadApi: ReturnType<typeof workloadApi>;
  /** What else is answered on the public socket. */
  readonly reflection: readonly RpcService<Caller>[];
  /** Whether something is known to answer by, from memory too, whatever the state of the connection to the server. */
  readonly isReady: () => boolean;
  readonly admin: Pick<AdminApiOptions, 'attest' | 'entries'>;
  readonly status: () => Omit<AgentStatus, 'kernelTier'>;
}

export interface Doors {
  /** Of workloads, at the moment. */
  readonly connections: number;
  /** Listen until told to stop; reject when a listener has ended by itself. */
  readonly workloads: Task;
  readonly operators: Task;
}

const tierNames: Readonly<Record<PeerTier, string>> = { 1: 'SO_PEERPIDFD', 2: 'pidfd_open', 3: 'start time' };

export function createDoors(parts: DoorParts): Doors {
  const { config, clock, observer } = parts;
  const services = agentServices();
  let listening: { readonly tier: PeerTier; readonly connections: number } | undefined;
  const isServing = (): boolean => parts.isReady() && listening !== undefined;

  const workloadServices = (): readonly RpcService<Caller>[] => [
    rpcService(services.SpiffeWorkloadAPI, parts.workloadApi),
    rpcService(services['grpc.health.v1.Health'], healthApi<Caller>(isServing)),
    ...parts.reflection,
  ];

  const operatorServices = (): readonly RpcService<Peer>[] => {
    const status = (): AgentStatus => ({ ...parts.status(), kernelTier: listening === undefined ? '' : tierNames[listening.tier] });
    return [
      rpcService(services['steeple.agent.v1.Admin'], adminApi({ clock, status, ...parts.admin })),
      rpcService(services['grpc.health.v1.Health'], healthApi<Peer>(isServing)),
    ];
  };

  return {
    get connections() {
      return listening?.connections ?? 0;
    },

    async workloads(stop) {
      const { limits, workload } = config;
      const listener = await listenForWorkloads({
        clock,
        path: config.socket_path,
        mode: 0o777,
        backlog: limits.backlog,
        limits: {
          total: limits.connections,
          connectionsPerUid: limits.connections_per_user,
          connectsPerSecondPerUid: limits.connects_per_second_per_user,
          callsPerUid: limits.calls_per_user,
          callsPerConnection: limits.calls_per_connection,
        },
        services: workloadServices(),
        callerOf: parts.callerOf,
        isReady: parts.isReady,
        onCall: (end) => observer.called(end),
        onEvent: (event) => observer.accepted(event),
        unseenImage: workload.unseen_image,
        ...(workload.peer_tier === 0 ? {} : { tier: workload.peer_tier as PeerTier }),
      });
      listening = listener;
      observer.listening(config.socket_path, listener.tier);
      try {
        const failed = await untilAborted(listener.acceptor.ended, stop);
        if (failed instanceof SpiffeError) throw failed;
      } finally {
        await listener.stop();
      }
    },

    async operators(stop) {
      const listener = await listenForOperators({
        clock,
        path: config.admin_socket_path,
        mode: 0o770,
        services: operatorServices(),
        onCall: (end) => observer.called(end),
      });
      try {
        await untilAborted(new Promise<never>(() => undefined), stop);
      } finally {
        await listener.stop();
      }
    },
  };
}
