/**
 * The broker endpoint: a Unix socket, a TCP port or both, each under mutual TLS by X509-SVID, for brokers on the list alone
 * and only for as long as what they proved holds. What the methods answer is `api.ts`.
 */
import { once } from 'node:events';
import type { Socket } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { VerifiedPeer } from '../../spiffe/x509/verify.ts';
import { linkedController, untilAborted } from '../../runtime/abort.ts';
import { listenUnix, type Acceptor } from '../../runtime/acceptor.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Peer } from '../../runtime/peer.ts';
import type { CallEnd } from '../../runtime/rpc/calls.ts';
import type { CallContext, RpcService } from '../../runtime/rpc/handlers.ts';
import { createRpcServer, type RpcServer } from '../../runtime/rpc/serve.ts';
import { checkAgainstBundles, createTlsServer, type TlsIdentity, type TlsServerOptions } from '../../runtime/tls.ts';
import type { Watch } from '../../runtime/watch.ts';
import type { BrokerConnection } from './api.ts';
import { createCallCounter, createCallers, type FindCaller } from './callers.ts';
import type { BrokerConfig } from './config.ts';
import { brokerStatusDetails } from './messages.ts';

export interface BrokerListenOptions {
  readonly clock: Clock;
  readonly config: BrokerConfig;
  readonly trustDomain: TrustDomain;
  /** The agent's own SVID, which brokers expect here, and the bundle that brokers are verified by. */
  readonly identity: Watch<TlsIdentity>;
  readonly services: readonly RpcService<BrokerConnection>[];
  readonly isReady: () => boolean;
  readonly onCall: (end: CallEnd<unknown>) => void;
  /** A connection or call was refused to `caller`, as far as it is known who that is. */
  readonly refused: (caller: SpiffeId | undefined, method: string, error: SpiffeError) => void;
}

export interface BrokerListener {
  readonly connections: number;
  /** Serves until the signal aborts; throws when a listener has ended by itself. */
  run(signal: AbortSignal): Promise<void>;
  stop(): Promise<void>;
}

/** As `access` sees it: who is not on the list is told so, and nothing else. */
type Admitted = BrokerConnection & { readonly verified: VerifiedPeer };
interface Refused {
  readonly caller: SpiffeId | undefined;
  readonly error: SpiffeError;
}

const headerName = 'broker.spiffe.io';
/** The largest request is a reference and a few audiences. */
const maxReceiveBytes = 64 * 1024;
const stopGraceMs = 300;
/** For those who are only told that they are refused. */
const refusalBounds = { maxReceiveBytes, maxConcurrentStreams: 4, maxConnections: 32, firstCallMs: 2_000, idleMs: 2_000 };
const socketLimits = { connectionsPerUid: 64, connectsPerSecondPerUid: 50 };

/** @throws as `listenUnix`; unavailable `broker.listen` */
export async function listenForBrokers(options: BrokerListenOptions): Promise<BrokerListener> {
  const { clock, config, identity } = options;
  const { limits } = config;
  const findCaller = createCallers(config.callers, options.trustDomain);
  const brokers = brokerServer(options);
  const others = refusingServer(options);
  const proofs = createProofs(options, brokers);

  const admit = (peer: Peer | undefined) => (socket: TLSSocket, verified: VerifiedPeer | undefined): void => {
    const found = identify(findCaller, verified);
    if ('error' in found) {
      others.inject(socket, found);
      return;
    }
    proofs.hold(found.verified, socket);
    brokers.inject(socket, { ...found, peer });
  };
  const minVersion = `TLSv${config.min_tls_version}` as const;
  const tlsOptions = (peer: Peer | undefined): TlsServerOptions => ({
    identity,
    clock,
    minVersion,
    accept: admit(peer),
    refused: (error) => options.refused(undefined, '', error),
  });

  const acceptor = config.socket_path === undefined ? undefined : await listenOnSocket(config.socket_path, options, tlsOptions);
  const tcp = config.listen === undefined ? undefined : createTlsServer(tlsOptions(undefined));
  if (tcp !== undefined && config.listen !== undefined) {
    const { address: host, port } = config.listen;
    tcp.server.maxConnections = limits.connections;
    tcp.server.listen({ host, port, backlog: 64 });
    try {
      await once(tcp.server, 'listening');
    } catch (cause) {
      await Promise.all([acceptor?.stop(), brokers.close(0), others.close(0)]);
      throw new SpiffeError('unavailable', 'broker.listen', `cannot listen on ${host} port ${String(port)}`, { cause });
    }
  }
  return {
    get connections() {
      return brokers.connections;
    },
    async run(signal) {
      const stop = linkedController(signal);
      const ended = acceptor?.ended.then((failure) => {
        if (failure !== undefined) throw failure;
      });
      try {
        const parts = [tcp?.follow(stop.signal), proofs.run(stop.signal), ended].filter((part) => part !== undefined);
        await untilAborted(Promise.race(parts), signal);
      } finally {
        stop.abort(new Error('the listener is over'));
        stop.unlink();
      }
    },
    async stop() {
      tcp?.server.close();
      acceptor?.closeListener();
      await Promise.all([brokers.close(stopGraceMs), others.close(0)]);
      await acceptor?.stop();
    },
  };
}

/** TLS on a Unix socket as well [Broker Endpoint 3.1]: who may open the file may not be who is on the list. */
function listenOnSocket(
  path: string,
  { clock, config }: BrokerListenOptions,
  tlsOptions: (peer: Peer) => TlsServerOptions,
): Promise<Acceptor> {
  return listenUnix({
    path,
    mode: 0o770,
    backlog: 64,
    directoryMode: 0o750,
    limits: { ...socketLimits, total: config.limits.connections },
    clock,
    // A broker is who its SVID says, whatever it runs.
    unseenImage: 'accept',
    onConnection(socket: Socket, peer) {
      // One each, so that it is known whose handshake ends; brokers keep their connections.
      createTlsServer(tlsOptions(peer)).server.emit('connection', socket);
    },
  });
}

function brokerServer(options: BrokerListenOptions): RpcServer<Admitted> {
  const { clock, config } = options;
  const { limits } = config;
  const { calls_per_caller: calls, calls_per_second_per_caller: callsPerSecond } = limits;
  const counter = createCallCounter(clock, { calls, callsPerSecond });
  const counted = new Set<string>();
  return createRpcServer<Admitted>({
    clock,
    services: options.services,
    bounds: { maxReceiveBytes, maxConcurrentStreams: limits.calls_per_caller, maxConnections: limits.connections },
    statusDetails: brokerStatusDetails,
    access(call) {
      const { id } = call.connection.caller;
      try {
        checkBrokerHeader(call);
        if (!options.isReady()) {
          throw new SpiffeError('unavailable', 'workload.starting', 'the agent has not learned its entries yet');
        }
        counter.enter(id);
        counted.add(call.requestId);
      } catch (error) {
        if (error instanceof SpiffeError) options.refused(id, call.method, error);
        throw error;
      }
    },
    observe(end) {
      if (counted.delete(end.requestId)) counter.leave(end.connection.caller.id);
      options.onCall(end);
    },
  });
}

function refusingServer(options: BrokerListenOptions): RpcServer<Refused> {
  return createRpcServer<Refused>({
    clock: options.clock,
    // None of them is ever called.
    services: options.services as unknown as readonly RpcService<Refused>[],
    bounds: refusalBounds,
    access({ connection, method }) {
      options.refused(connection.caller, method, connection.error);
      throw connection.error;
    },
    observe: options.onCall,
  });
}

function identify(findCaller: FindCaller, verified: VerifiedPeer | undefined): Omit<Admitted, 'peer'> | Refused {
  if (verified === undefined) {
    const error = new SpiffeError('unauthenticated', 'broker.caller.anonymous', 'a broker must present an X509-SVID');
    return { caller: undefined, error };
  }
  try {
    return { caller: findCaller(verified.spiffeId), verified };
  } catch (error) {
    if (!(error instanceof SpiffeError)) throw error;
    return { caller: verified.spiffeId, error };
  }
}

interface Proofs {
  hold(verified: VerifiedPeer, socket: TLSSocket): void;
  /** Ends connections whose proof holds no longer; ends with the signal. */
  run(signal: AbortSignal): Promise<void>;
}

/** A connection outlives its handshake: once the broker's SVID has expired, or its authority is trusted no more, so it ends. */
function createProofs({ clock, identity }: BrokerListenOptions, brokers: RpcServer<Admitted>): Proofs {
  const held = new Set<VerifiedPeer>();
  const verify = checkAgainstBundles(identity, clock, 'client');
  const look = (): void => {
    for (const verified of held) {
      try {
        verify(verified.path.map(({ der }) => der));
      } catch (cause) {
        held.delete(verified);
        const why = 'what this connection was proved by does not hold any more';
        const error = new SpiffeError('unauthenticated', 'broker.caller.expired', why, { cause });
        brokers.cut((connection) => connection.verified === verified, error);
      }
    }
  };
  return {
    hold(verified, socket) {
      held.add(verified);
      socket.once('close', () => held.delete(verified));
    },
    async run(signal) {
      const changes = (async () => {
        for await (const _ of identity.values(signal)) look();
      })();
      const time = (async () => {
        for (;;) {
          await clock.sleep(1_000, signal);
          if ([...held].some(({ leaf }) => clock.now() >= leaf.notAfterAt)) look();
        }
      })();
      await Promise.all([changes, time]);
    },
  };
}

/**
 * Exactly one value, exactly `true`, with every request [Broker Endpoint 3].
 * @throws invalid `broker.header`
 */
export function checkBrokerHeader({ metadata }: Pick<CallContext<unknown>, 'metadata'>): void {
  const values = metadata.get(headerName);
  if (values.length === 1 && values[0] === 'true') return;
  throw new SpiffeError('invalid', 'broker.header', 'security header missing from request');
}
