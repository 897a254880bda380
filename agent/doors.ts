/**
 * The agent's sockets, composed from parts that `agent.ts` made: what is answered on the public ones and the private one,
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
import type { secretDiscovery } from './sds/api.ts';
import type { workloadApi } from './workload/api.ts';
import type { Caller } from './workload/caller.ts';
import { healthApi } from './workload/health.ts';
import { listenForWorkloads, type WorkloadListener } from './workload/listen.ts';

export interface DoorParts {
  readonly config: AgentConfig;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly callerOf: (peer: Peer) => Caller;
  readonly workloadApi: ReturnType<typeof workloadApi>;
  readonly secretDiscovery: ReturnType<typeof secretDiscovery>;
  /** What else is answered on the public socket. */
  readonly reflection: readonly RpcService<Caller>[];
  /** Whether something is known to answer by, from memory too, whatever the state of the connection to the server. */
  readonly isReady: () => boolean;
  /** What else is answered on the private socket. */
  readonly operators: readonly RpcService<Peer>[];
  readonly admin: Pick<AdminApiOptions, 'attest' | 'entries' | 'hasBundle'>;
  readonly status: () => Omit<AgentStatus, 'kernelTier'>;
}

export interface Doors {
  /** Of workloads, at the moment. */
  readonly connections: number;
  /** Listen until told to stop; reject when a listener has ended by itself. */
  readonly workloads: Task;
  /** Only when secret discovery has a socket of its own. */
  readonly secrets: Task | undefined;
  readonly operators: Task;
}

/** Stock Envoy sends no header. */
const secretDiscoveryPrefix = '/envoy.service.secret.v3.';

const tierNames: Readonly<Record<PeerTier, string>> = { 1: 'SO_PEERPIDFD', 2: 'pidfd_open', 3: 'start time' };

export function createDoors(parts: DoorParts): Doors {
  const { config, clock, observer } = parts;
  const services = agentServices();
  const { sds } = config;
  const listeners = new Set<WorkloadListener>();
  let main: WorkloadListener | undefined;
  const isServing = (): boolean => parts.isReady() && main !== undefined;

  const secrets = (): RpcService<Caller> => rpcService(services['envoy.service.secret.v3.SecretDiscoveryService'], parts.secretDiscovery);
  const health = (): RpcService<Caller> => rpcService(services['grpc.health.v1.Health'], healthApi<Caller>(isServing));

  const operatorServices = (): readonly RpcService<Peer>[] => {
    const status = (): AgentStatus => ({ ...parts.status(), kernelTier: main === undefined ? '' : tierNames[main.tier] });
    return [
      rpcService(services['steeple.agent.v1.Admin'], adminApi({ clock, status, ...parts.admin })),
      rpcService(services['grpc.health.v1.Health'], healthApi<Peer>(isServing)),
      ...parts.operators,
    ];
  };

  const listen = async (path: string, served: readonly RpcService<Caller>[]): Promise<WorkloadListener> => {
    const { limits, workload } = config;
    const listener = await listenForWorkloads({
      clock,
      path,
      mode: 0o777,
      backlog: limits.backlog,
      limits: {
        total: limits.connections,
        connectionsPerUid: limits.connections_per_user,
        connectsPerSecondPerUid: limits.connects_per_second_per_user,
        callsPerUid: limits.calls_per_user,
        callsPerConnection: limits.calls_per_connection,
      },
      services: served,
      callerOf: parts.callerOf,
      isReady: parts.isReady,
      onCall: (end) => observer.called(end),
      onEvent: (event) => observer.accepted(event),
      withoutHeader: sds.require_header ? [] : [secretDiscoveryPrefix],
      unseenImage: workload.unseen_image,
      ...(workload.peer_tier === 0 ? {} : { tier: workload.peer_tier as PeerTier }),
    });
    listeners.add(listener);
    return listener;
  };

  const serve = async (listener: WorkloadListener, stop: AbortSignal): Promise<void> => {
    try {
      const failed = await untilAborted(listener.acceptor.ended, stop);
      if (failed instanceof SpiffeError) throw failed;
    } finally {
      listeners.delete(listener);
      await listener.stop();
    }
  };

  const ownSocket = sds.enabled ? sds.socket_path : undefined;

  return {
    get connections() {
      return [...listeners].reduce((sum, { connections }) => sum + connections, 0);
    },

    async workloads(stop) {
      const shared = sds.enabled && sds.on_workload_socket ? [secrets()] : [];
      main = await listen(config.socket_path, [rpcService(services.SpiffeWorkloadAPI, parts.workloadApi), ...shared, health(), ...parts.reflection]);
      observer.listening(config.socket_path, main.tier);
      await serve(main, stop);
    },

    secrets:
      ownSocket === undefined
        ? undefined
        : async (stop) => {
            const listener = await listen(ownSocket, [secrets(), health()]);
            observer.listeningForSecrets(ownSocket);
            await serve(listener, stop);
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
