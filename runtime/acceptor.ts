/**
 * Connections to a Unix socket, each with the process that made it: a worker thread takes them and holds the limits, this
 * side makes sockets of them and ends them when their process goes. What is served on them is left to the caller.
 */
import { Socket } from 'node:net';
import { Worker } from 'node:worker_threads';
import { SpiffeError } from '../spiffe/errors.ts';
import type {
  AcceptedConnection,
  AcceptorWorkerData,
  FromWorker,
  RefusalCause,
  RefusedCount,
  ToWorker,
} from './acceptor-worker.ts';
import type { AdmissionLimits } from './admission.ts';
import type { Clock } from './clock.ts';
import {
  closeDescriptor,
  openEventfd,
  openPidfd,
  openSocketPair,
  ownPid,
  peerPidfd,
  signalEventfd,
  SystemCallError,
} from './linux.ts';
import { createPeer } from './peer.ts';
import type { Peer, PeerTier } from './peer.ts';
import { openSocketFile } from './socket-file.ts';
import type { SocketFile, SocketFileOptions } from './socket-file.ts';

export type { RefusalCause, RefusedCount } from './acceptor-worker.ts';
export type { AdmissionLimits } from './admission.ts';

/** What an operator may want to know. `refused` comes at most ten times a second and its counts are exact. */
export type AcceptorEvent =
  | { readonly kind: 'refused'; readonly counts: readonly RefusedCount[] }
  /** Descriptors or memory ran out: connections wait in the kernel until there is room again. */
  | { readonly kind: 'paused'; readonly code: string }
  | { readonly kind: 'resumed' };

export interface ListenOptions extends SocketFileOptions {
  readonly limits: AdmissionLimits;
  readonly clock: Clock;
  /**
   * Called for each connection, on which nothing was read yet. Whoever takes the socket may end it; the peer's signal
   * tells when it is over. Must not throw.
   */
  readonly onConnection: (socket: Socket, peer: Peer) => void;
  readonly onEvent?: (event: AcceptorEvent) => void;
  /** Forces a way of holding on to processes; the best one the kernel offers otherwise. */
  readonly tier?: PeerTier;
  /**
   * What to do with a process whose executable may not be looked at (another user's, without CAP_SYS_PTRACE): refuse it
   * (the default), or accept it and see an exec less surely.
   */
  readonly unseenImage?: 'refuse' | 'accept';
}

export interface AcceptorCounters {
  readonly live: number;
  readonly accepted: number;
  /** Refusals of every cause and uid; up to 100 ms old while running, exact once stopped. */
  readonly refused: readonly RefusedCount[];
}

export interface Acceptor {
  readonly tier: PeerTier;
  counters(): AcceptorCounters;
  /** Takes no more connections and gives the name up; the ones that are open stay watched. */
  closeListener(): void;
  /** Ends everything: listener, name, connections, thread. Safe to call twice. */
  stop(): Promise<void>;
  /** Resolves when the thread is over: with nothing after `stop`, otherwise with why (`acceptor.thread`). */
  readonly ended: Promise<SpiffeError | undefined>;
}

/** More kinds of refusal than this are counted together, as of uid -1. */
const MAX_REFUSED_ROWS = 65_536;

/**
 * The best way this kernel offers to hold on to a process.
 * @throws unsupported `linux.architecture`, `linux.native`
 */
export function bestPeerTier(): PeerTier {
  if (offersPeerPidfd()) return 1;
  return offersPidfd() ? 2 : 3;
}

/**
 * @throws what `openSocketFile` throws; unsupported `acceptor.tier`, `linux.architecture`, `linux.native`; unavailable
 * `acceptor.descriptors`; internal `acceptor.thread`
 */
export async function listenUnix(options: ListenOptions): Promise<Acceptor> {
  const best = bestPeerTier();
  const tier = options.tier ?? best;
  if (tier < best) {
    throw new SpiffeError(
      'unsupported',
      'acceptor.tier',
      'the kernel does not offer this way to hold on to processes',
      { detail: { tier, best } },
    );
  }
  const file = await openSocketFile(options, options.clock);
  let wake = -1;
  try {
    wake = openEventfd();
  } catch (error) {
    closeDescriptor(file.descriptor);
    file.remove();
    throw new SpiffeError(
      'unavailable',
      'acceptor.descriptors',
      'no descriptor is left to wake the acceptor with',
      { cause: error },
    );
  }
  const acceptor = new UnixAcceptor(options, tier, file, wake);
  const failure = await Promise.race([acceptor.ready, acceptor.ended]);
  if (failure !== undefined) throw failure;
  return acceptor;
}

function offersPeerPidfd(): boolean {
  const [a, b] = openSocketPair();
  try {
    closeDescriptor(peerPidfd(a));
    return true;
  } catch (error) {
    if (error instanceof SystemCallError) return false;
    throw error;
  } finally {
    closeDescriptor(a);
    closeDescriptor(b);
  }
}

function offersPidfd(): boolean {
  try {
    closeDescriptor(openPidfd(ownPid()));
    return true;
  } catch (error) {
    if (error instanceof SystemCallError) return false;
    throw error;
  }
}

function startWorker(data: AcceptorWorkerData): Worker {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
  return new Worker(new URL(`./acceptor-worker.${extension}`, import.meta.url), {
    name: 'acceptor',
    workerData: data,
    env: {},
    execArgv: [],
    trackUnmanagedFds: false,
    resourceLimits: { maxOldGenerationSizeMb: 64, maxYoungGenerationSizeMb: 2 },
  });
}

interface Live {
  readonly socket: Socket;
  readonly over: AbortController;
}

class UnixAcceptor implements Acceptor {
  readonly tier: PeerTier;
  readonly ended: Promise<SpiffeError | undefined>;
  readonly #options: ListenOptions;
  readonly #file: SocketFile;
  readonly #wake: number;
  readonly #worker: Worker;
  readonly #live = new Map<number, Live>();
  readonly #refused = new Map<string, { uid: number; cause: RefusalCause; count: number }>();
  #accepted = 0;
  #stopping = false;
  #over = false;
  readonly #idle = Promise.withResolvers<void>();
  readonly #ready = Promise.withResolvers<undefined>();

  constructor(options: ListenOptions, tier: PeerTier, file: SocketFile, wake: number) {
    this.tier = tier;
    this.#options = options;
    this.#file = file;
    this.#wake = wake;
    const { limits, unseenImage = 'refuse' } = options;
    this.#worker = startWorker({ listener: file.descriptor, wake, tier, limits, unseenImage });
    this.#worker.on('message', (message: FromWorker) => this.#hear(message));
    this.ended = this.#follow();
  }

  /** Resolves when connections are being taken. */
  get ready(): Promise<undefined> {
    return this.#ready.promise;
  }

  counters(): AcceptorCounters {
    return { live: this.#live.size, accepted: this.#accepted, refused: [...this.#refused.values()].map((row) => ({ ...row })) };
  }

  closeListener(): void {
    this.#file.remove();
    this.#tell({ kind: 'close-listener' });
  }

  async stop(): Promise<void> {
    if (!this.#stopping) {
      this.#stopping = true;
      this.#file.remove();
      this.#endAll();
      this.#tell({ kind: 'stop' });
    }
    await this.ended;
    if (this.#live.size > 0) await this.#idle.promise;
  }

  async #follow(): Promise<SpiffeError | undefined> {
    const { promise, resolve } = Promise.withResolvers<SpiffeError | undefined>();
    let failure: unknown;
    this.#worker.on('error', (error) => (failure = error));
    this.#worker.once('exit', () => {
      this.#over = true;
      this.#file.remove();
      this.#endAll();
      closeDescriptor(this.#wake);
      if (this.#stopping && failure === undefined) resolve(undefined);
      else {
        const context = { cause: failure };
        resolve(new SpiffeError('internal', 'acceptor.thread', 'the thread that accepts connections ended', context));
      }
    });
    return await promise;
  }

  #tell(order: ToWorker): void {
    if (this.#over) return;
    this.#worker.postMessage(order);
    signalEventfd(this.#wake);
  }

  #hear(message: FromWorker): void {
    switch (message.kind) {
      case 'ready':
        this.#ready.resolve(undefined);
        return;
      case 'connection':
        this.#take(message);
        return;
      case 'gone':
        this.#end(message.id, new SpiffeError('unavailable', 'peer.exited', 'the process that connected has exited'));
        return;
      case 'refused':
        for (const row of message.counts) this.#count(row);
        this.#options.onEvent?.(message);
        return;
      case 'paused':
      case 'resumed':
        this.#options.onEvent?.(message);
        return;
      default:
        message satisfies never;
    }
  }

  #count({ uid, cause, count }: RefusedCount): void {
    const exact = `${String(uid)} ${cause}`;
    const full = this.#refused.size >= MAX_REFUSED_ROWS && !this.#refused.has(exact);
    const key = full ? `-1 ${cause}` : exact;
    const row = this.#refused.get(key);
    if (row === undefined) this.#refused.set(key, { uid: full ? -1 : uid, cause, count });
    else row.count += count;
  }

  #take(connection: AcceptedConnection): void {
    const { id, fd, pid, uid, gid, pidfd, stat, facts } = connection;
    if (this.#stopping) {
      closeDescriptor(fd);
      return;
    }
    let socket: Socket;
    try {
      socket = new Socket({ fd, readable: true, writable: true });
    } catch {
      // The descriptor is no longer a socket Node can wait on; as with any broken connection, nobody is told.
      closeDescriptor(fd);
      this.#tell({ kind: 'release', id });
      return;
    }
    this.#accepted += 1;
    const over = new AbortController();
    this.#live.set(id, { socket, over });
    // A broken connection is one that ends; 'close' follows.
    socket.on('error', () => undefined);
    socket.once('close', () => {
      this.#end(id, new SpiffeError('unavailable', 'peer.closed', 'the connection is closed'));
      this.#live.delete(id);
      this.#tell({ kind: 'release', id });
      if (this.#live.size === 0) this.#idle.resolve();
    });
    const { clock, onConnection } = this.#options;
    const { tier } = this;
    const acceptedAt = clock.now();
    onConnection(socket, createPeer({ pid, uid, gid, tier, acceptedAt, facts, pidfd, stat, signal: over.signal }));
  }

  #end(id: number, reason: SpiffeError): void {
    const live = this.#live.get(id);
    if (live === undefined) return;
    if (!live.over.signal.aborted) live.over.abort(reason);
    live.socket.destroy();
  }

  #endAll(): void {
    for (const id of this.#live.keys()) this.#end(id, new SpiffeError('unavailable', 'peer.closed', 'the connection is closed'));
  }
}
