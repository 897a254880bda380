/**
 * Two doors: TLS on TCP for agents and remote callers, and a Unix socket for operators. Each connection is tied to what
 * it proved when it was accepted; what that admits to is decided call by call (`caller.ts`).
 */
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { listenUnix } from '../../runtime/acceptor.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { CallEnd } from '../../runtime/rpc/calls.ts';
import { permissionDeniedDetail, type StatusDetail } from '../../runtime/rpc/details.ts';
import type { RpcService } from '../../runtime/rpc/handlers.ts';
import { createRpcServer } from '../../runtime/rpc/serve.ts';
import { createTlsServer, type TlsIdentity, type TlsVersion } from '../../runtime/tls.ts';
import type { Watch } from '../../runtime/watch.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import { trustDomainOf } from '../../spiffe/id.ts';
import type { VerifiedPeer } from '../../spiffe/x509/verify.ts';
import { agentRefusals, type Connection } from './caller.ts';
import type { Gate } from './handlers.ts';

/** Agents and others behind one NAT share nothing, so the age only bounds how long a proof is relied on. */
const maxAgeMs = 180_000;
const ageGraceMs = 30_000;
const operatorLimits = { connectionsPerUid: 200, connectsPerSecondPerUid: 200, total: 1000 };

export interface DoorsOptions {
  readonly clock: Clock;
  readonly trustDomain: TrustDomain;
  readonly identity: Watch<TlsIdentity>;
  readonly tcp: { readonly host: string; readonly port: number; readonly minVersion: TlsVersion; readonly maxConnections: number };
  readonly socket: { readonly path: string; readonly mode: number; readonly directoryMode: number };
  readonly gate: Gate;
  readonly tcpServices: readonly RpcService<Connection>[];
  readonly socketServices: readonly RpcService<Connection>[];
  readonly observe: (end: CallEnd<Connection>) => void;
  /** A connection that was not accepted, and why. */
  readonly refused: (error: SpiffeError, address: string) => void;
}

export interface Doors {
  readonly address: AddressInfo;
  /** Serves new SVIDs to new connections; ends with the signal. */
  run(signal: AbortSignal): Promise<void>;
  /** Ends the connections that present this identity. */
  cut(id: SpiffeId, reason: SpiffeError): void;
  close(): Promise<void>;
}

/**
 * Listens on both doors, the operators' first.
 * @throws as `listenUnix`; unavailable `listen.tcp`
 */
export async function openDoors(options: DoorsOptions): Promise<Doors> {
  const { clock, gate, observe } = options;
  const shared = { clock, access: gate.access, observe, statusDetails };
  const inside = createRpcServer<Connection>({ ...shared, services: options.socketServices });
  const outside = createRpcServer<Connection>({
    ...shared,
    services: options.tcpServices,
    bounds: { maxConnections: options.tcp.maxConnections },
    agePolicy: { maxAgeMs, graceMs: ageGraceMs, keeps: (method) => method === '/steeple.node.v1.Node/Follow' },
  });
  const acceptor = await listenUnix({
    ...options.socket,
    backlog: 512,
    limits: operatorLimits,
    clock,
    // Which program an operator runs decides nothing; the socket's mode admits users.
    unseenImage: 'accept',
    onConnection: (socket, peer) => inside.inject(socket, { door: 'operators', uid: peer.uid, pid: peer.pid }),
  });
  const tls = createTlsServer({
    identity: options.identity,
    clock,
    minVersion: options.tcp.minVersion,
    accept(socket, peer) {
      const address = socket.remoteAddress ?? '';
      if (peer !== undefined && trustDomainOf(peer.spiffeId) !== options.trustDomain) {
        socket.destroy();
        options.refused(new SpiffeError('denied', 'listen.foreign', 'a peer of another trust domain'), address);
        return;
      }
      outside.inject(socket, connectionOf(address, peer));
    },
    refused: options.refused,
  });
  tls.server.maxConnections = options.tcp.maxConnections;
  tls.server.listen({ host: options.tcp.host, port: options.tcp.port, backlog: 4096 });
  try {
    await once(tls.server, 'listening');
  } catch (cause) {
    await Promise.all([acceptor.stop(), inside.close()]);
    const { host, port } = options.tcp;
    throw new SpiffeError('unavailable', 'listen.tcp', `cannot listen on ${host} port ${port}`, { cause });
  }
  return {
    address: tls.server.address() as AddressInfo,
    run: (signal) => tls.follow(signal),
    cut: (id, reason) => outside.cut((context) => context.door === 'tcp' && context.identity?.id === id, reason),
    async close() {
      tls.server.close();
      acceptor.closeListener();
      await Promise.all([outside.close(), inside.close()]);
      await acceptor.stop();
    },
  };
}

function connectionOf(address: string, peer: VerifiedPeer | undefined): Connection {
  if (peer === undefined) return { door: 'tcp', address, identity: undefined };
  const { spiffeId, leaf } = peer;
  return { door: 'tcp', address, identity: { id: spiffeId, serial: leaf.serial.decimal, expiresAt: leaf.notAfterAt } };
}

function statusDetails(error: SpiffeError): readonly StatusDetail[] {
  const reason = agentRefusals[error.reason];
  return reason === undefined ? [] : [permissionDeniedDetail(reason)];
}

