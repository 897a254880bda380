/**
 * The private socket, for operators of this node: access is the mode of the file and of its directory. What is answered is
 * `api.ts`.
 */
import { listenUnix } from '../../runtime/acceptor.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Peer } from '../../runtime/peer.ts';
import type { CallEnd } from '../../runtime/rpc/calls.ts';
import type { RpcService } from '../../runtime/rpc/handlers.ts';
import { createRpcServer } from '../../runtime/rpc/serve.ts';

export interface AdminListenOptions {
  readonly clock: Clock;
  readonly path: string;
  readonly mode: number;
  readonly services: readonly RpcService<Peer>[];
  readonly onCall: (end: CallEnd<Peer>) => void;
}

export interface AdminListener {
  stop(): Promise<void>;
}

const limits = { connectionsPerUid: 64, connectsPerSecondPerUid: 100, total: 128 };

/** @throws as `listenUnix` */
export async function listenForOperators(options: AdminListenOptions): Promise<AdminListener> {
  const { clock } = options;
  const server = createRpcServer<Peer>({ clock, services: options.services, observe: options.onCall });
  const acceptor = await listenUnix({
    path: options.path,
    mode: options.mode,
    backlog: 64,
    directoryMode: 0o750,
    limits,
    clock,
    // Operators come as whoever may open the file; what they run is not looked at.
    unseenImage: 'accept',
    onConnection: (socket, peer) => server.inject(socket, peer),
  });
  return {
    async stop() {
      acceptor.closeListener();
      await server.close(200);
      await acceptor.stop();
    },
  };
}
