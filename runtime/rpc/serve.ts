/**
 * A gRPC server over connections that somebody else accepted: one context object per connection, every call tied to it,
 * bounds on what a peer can make it hold, and a quick end. Only grpc-js's public API; accepting and verifying peers is
 * done before, answering in the handlers.
 */
import { randomInt, randomUUID } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { Server, ServerCredentials, status as grpcStatus } from '@grpc/grpc-js';
import type { Metadata, ServerInterceptor, ServerOptions } from '@grpc/grpc-js';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { Clock } from '../clock.ts';
import { createCallInterceptor } from './calls.ts';
import type { CallEnd, CallState } from './calls.ts';
import type { StatusDetail } from './details.ts';
import { wireService } from './handlers.ts';
import type { CallContext, RpcService } from './handlers.ts';

export interface RpcBounds {
  /** Checked on a message's 5-byte header, and again while it inflates. */
  readonly maxReceiveBytes: number;
  readonly maxConcurrentStreams: number;
  readonly maxConnections: number;
  /** A connection that made no call by then is cut. */
  readonly firstCallMs: number;
  /** A connection without a call for so long is cut. */
  readonly idleMs: number;
  /** A peer that takes no byte of a message for so long is cut. */
  readonly stalledWriteMs: number;
  /** Streams reset before their answer: so many at once, then so many a second, then the connection is cut. */
  readonly resetBurst: number;
  readonly resetsPerSecond: number;
  /** Half-open connections are found after the sum of both. */
  readonly pingEveryMs: number;
  readonly pingTimeoutMs: number;
}

export const defaultBounds: RpcBounds = {
  maxReceiveBytes: 4 * 1024 * 1024,
  maxConcurrentStreams: 100,
  maxConnections: 10_000,
  firstCallMs: 20_000,
  idleMs: 600_000,
  stalledWriteMs: 60_000,
  resetBurst: 100,
  resetsPerSecond: 20,
  pingEveryMs: 20_000,
  pingTimeoutMs: 20_000,
};

/** Sends GOAWAY to old connections; calls in flight have `graceMs` to end. */
export interface AgePolicy {
  readonly maxAgeMs: number;
  readonly graceMs: number;
  /** Connections with such a call in flight do not age. */
  keeps(method: string): boolean;
}

export interface RpcServerOptions<P> {
  readonly clock: Clock;
  readonly services: readonly RpcService<P>[];
  readonly bounds?: Partial<RpcBounds>;
  readonly agePolicy?: AgePolicy;
  /** Decides on a call before its first message is read; throws to refuse. */
  readonly access?: (call: CallContext<P>) => void | Promise<void>;
  /** Told once about every call that reached a connection of ours, after its end. Must not throw. */
  readonly observe?: (end: CallEnd<P>) => void;
  /** Details for peers that know other types than ours. */
  readonly statusDetails?: (error: SpiffeError) => readonly StatusDetail[];
  /** Adds what brings grpc-js handlers of its own, such as reflection. */
  readonly extend?: (server: Pick<Server, 'addService'>) => void;
}

export interface RpcServer<P> {
  /** Live connections. */
  readonly connections: number;
  /**
   * Speaks HTTP/2 on an accepted connection and owns it from here on; destroys it when the server is full or closing.
   * `context` is what the connection's calls see.
   */
  inject(connection: Duplex, context: P): void;
  /** Ends the connections for which `doomed` says so, such as those of a banned agent; their calls fail as `reason` says. */
  cut(doomed: (context: P) => boolean, reason: SpiffeError): void;
  /** Refuses what is new, fails open streams as unavailable `rpc.shutting-down`, gives other calls the grace, then cuts. */
  close(graceMs?: number): Promise<void>;
}

interface Link<P> {
  readonly context: P;
  readonly socket: Duplex;
  readonly injector: Injector;
  readonly calls: Set<CallState<P>>;
  readonly since: number;
  /** When its last call ended; undefined before its first call. */
  idleSince: number | undefined;
  resets: number;
  resetsAt: number;
  readonly ageAt: number;
  drained: boolean;
  /** Set when the connection is being ended: what its further calls are answered. */
  refused: SpiffeError | undefined;
}

type Injector = ReturnType<Server['createConnectionInjector']>;

const sweepEveryMs = 1_000;
const defaultGraceMs = 500;
const cutGraceMs = 200;

export function createRpcServer<P>(options: RpcServerOptions<P>): RpcServer<P> {
  const { clock } = options;
  const bounds: RpcBounds = { ...defaultBounds, ...options.bounds };
  const links = new Map<string, Link<P>>();
  const closing = new AbortController();
  const byMetadata = new WeakMap<Metadata, CallState<P>>();

  const stopping = (): SpiffeError => new SpiffeError('unavailable', 'rpc.shutting-down', 'server is shutting down');

  const interceptor: ServerInterceptor = createCallInterceptor<P, Link<P>>({
    clock,
    linkOf: (address) => links.get(address),
    refusal: (link) => (closing.signal.aborted ? stopping() : link.refused),
    opened(link, call) {
      link.calls.add(call);
      byMetadata.set(call.context.metadata, call);
    },
    ended(link, call, end) {
      link.calls.delete(call);
      link.idleSince = clock.monotonic();
      if (isReset(end)) countReset(link);
      options.observe?.(end);
    },
    dropped: countReset,
    access: options.access,
    statusDetails: options.statusDetails,
  });

  const server = new Server({ ...serverOptions(bounds), interceptors: [interceptor] });
  for (const service of options.services) {
    const wired = wireService(service, (metadata) => {
      const call = byMetadata.get(metadata);
      if (call === undefined) throw new SpiffeError('unauthenticated', 'rpc.peer.unknown', 'connection is unknown');
      return call;
    });
    server.addService(wired.definition, wired.implementation);
  }
  options.extend?.(server);

  // One injector per connection is what lets a single one be sent away; it costs some 4 kB, so only where age matters.
  const newInjector = (): Injector => server.createConnectionInjector(ServerCredentials.createInsecure());
  const shared = options.agePolicy === undefined ? newInjector() : undefined;

  function countReset(link: Link<P>): void {
    const now = clock.monotonic();
    link.resets = Math.max(0, link.resets - ((now - link.resetsAt) / 1_000) * bounds.resetsPerSecond) + 1;
    link.resetsAt = now;
    if (link.resets > bounds.resetBurst) link.socket.destroy();
  }

  let emptied = (): void => undefined;
  let sweeping = false;
  const sweep = async (): Promise<void> => {
    if (sweeping) return;
    sweeping = true;
    try {
      while (links.size > 0) {
        await clock.sleep(sweepEveryMs, closing.signal);
        for (const link of links.values()) sweepLink(link, clock.monotonic());
      }
    } catch {
      // Only the sleep can fail, and only because the server closes.
    } finally {
      sweeping = false;
    }
  };

  const sweepLink = (link: Link<P>, now: number): void => {
    if (link.calls.size === 0) {
      const limit = link.idleSince === undefined ? bounds.firstCallMs : bounds.idleMs;
      if (now - (link.idleSince ?? link.since) >= limit) link.socket.destroy();
    }
    for (const call of link.calls) {
      if (call.writingSince !== undefined && now - call.writingSince >= bounds.stalledWriteMs) link.socket.destroy();
    }
    if (options.agePolicy !== undefined && !link.drained && now >= link.ageAt) {
      for (const call of link.calls) if (options.agePolicy.keeps(call.context.method)) return;
      link.drained = true;
      link.injector.drain(options.agePolicy.graceMs);
    }
  };

  return {
    get connections() {
      return links.size;
    },

    inject(socket, context) {
      // Errors of a peer's socket are its end, which 'close' reports.
      socket.on('error', () => undefined);
      if (closing.signal.aborted || links.size >= bounds.maxConnections || socket.destroyed) {
        socket.destroy();
        return;
      }
      const key = `peer:${randomUUID()}`;
      // What grpc-js reports as the peer of a call; a random name cannot be confused with any other connection's.
      Object.defineProperty(socket, 'remoteAddress', { value: key });
      Object.defineProperty(socket, 'remotePort', { value: undefined });
      const now = clock.monotonic();
      const link: Link<P> = {
        context,
        socket,
        injector: shared ?? newInjector(),
        calls: new Set(),
        since: now,
        idleSince: undefined,
        resets: 0,
        resetsAt: now,
        ageAt: now + jittered(options.agePolicy?.maxAgeMs ?? 0),
        drained: false,
        refused: undefined,
      };
      links.set(key, link);
      socket.once('close', () => {
        links.delete(key);
        const gone = new SpiffeError('unavailable', 'rpc.cancelled', 'connection was lost');
        for (const call of link.calls) call.abort(gone);
        if (shared === undefined) link.injector.destroy();
        if (links.size === 0) emptied();
      });
      link.injector.injectConnection(socket);
      void sweep();
    },

    cut(doomed, reason) {
      for (const link of links.values()) {
        if (link.refused !== undefined || !doomed(link.context)) continue;
        link.refused = reason;
        for (const call of link.calls) call.abort(reason);
        // The statuses just caused are written first.
        void clock.sleep(cutGraceMs, closing.signal).then(
          () => link.socket.destroy(),
          () => link.socket.destroy(),
        );
      }
    },

    async close(graceMs = defaultGraceMs) {
      if (closing.signal.aborted) return;
      closing.abort(stopping());
      for (const link of links.values()) for (const call of link.calls) if (call.streaming) call.abort(stopping());
      // Its callback comes at once on Node 24, where closing the server closes the sessions before grpc-js looks at them.
      server.tryShutdown(() => undefined);
      const done = new AbortController();
      emptied = () => done.abort();
      if (links.size === 0) emptied();
      await clock.sleep(graceMs, done.signal).catch(() => undefined);
      for (const link of links.values()) link.socket.destroy();
      server.forceShutdown();
    },
  };
}

function serverOptions(bounds: RpcBounds): ServerOptions {
  return {
    'grpc.max_receive_message_length': bounds.maxReceiveBytes,
    'grpc.max_concurrent_streams': bounds.maxConcurrentStreams,
    'grpc.keepalive_time_ms': bounds.pingEveryMs,
    'grpc.keepalive_timeout_ms': bounds.pingTimeoutMs,
    'grpc.enable_channelz': 0,
    // Megabytes per session. The header list stays at Node's 64 KiB and 128 pairs.
    'grpc-node.max_session_memory': 64,
  };
}

/** Plus or minus a tenth, so that connections made together do not come back together. */
function jittered(ms: number): number {
  return ms * (0.9 + randomInt(2_001) / 10_000);
}

/** Ended by the peer's doing: grpc-js answers some resets itself as requests without a message. */
function isReset(end: CallEnd<unknown>): boolean {
  return end.reason === '' && end.code !== grpcStatus.OK && end.code !== grpcStatus.DEADLINE_EXCEEDED;
}
