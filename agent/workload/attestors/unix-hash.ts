/**
 * SHA-256 of running executables: opened as the kernel holds them, hashed off the event loop, remembered as long as the
 * file is the same. Whether a hash is wanted, and what it means, is left to the attestor.
 */
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import type { BigIntStats } from 'node:fs';
import { Worker } from 'node:worker_threads';
import type { Clock } from '../../../runtime/clock.ts';
import { systemCode } from '../../../runtime/linux.ts';
import type { Peer } from '../../../runtime/peer.ts';
import type { FromHasher, ToHasher } from './unix-hash-worker.ts';

/** `until` settles when asking again will tell more; without it, asking again tells the same. */
export type HashAnswer = { readonly sha256: string } | { readonly reason: string; readonly until?: Promise<unknown> };

export interface ImageHashes {
  /** Answers at once: with the hash if it is known, otherwise with when to ask again. Never rejects. */
  of(peer: Peer): Promise<HashAnswer>;
  /** Ends the thread; whoever waits is told so. */
  stop(): Promise<void>;
}

export interface ImageHashOptions {
  readonly clock: Clock;
  /** Larger executables are not hashed; a sparse file counts in full. */
  readonly limitBytes?: number;
}

const DEFAULT_LIMIT_BYTES = 1024 ** 3;
const REMEMBERED = 4096;
/** Files one user may have waiting; each holds a descriptor. */
const WAITING_PER_UID = 8;
/** A file changed this recently may be changed again without its time stamps showing it. */
const SETTLED_AFTER_MS = 2_000;

interface Job {
  readonly id: number;
  readonly uid: number;
  readonly version: string;
  readonly handle: FileHandle;
  readonly settled: boolean;
  readonly waiting: Set<Peer>;
  readonly done: PromiseWithResolvers<void>;
}

export function createImageHashes(options: ImageHashOptions): ImageHashes {
  return new Hashes(options);
}

class Hashes implements ImageHashes {
  readonly #clock: Clock;
  readonly #limitBytes: number;
  /** By file version, oldest first. */
  readonly #known = new Map<string, string>();
  readonly #byPeer = new WeakMap<Peer, { readonly version: string; readonly answer: HashAnswer }>();
  readonly #jobs = new Map<string, Job>();
  readonly #byId = new Map<number, Job>();
  #worker: Worker | undefined;
  #nextId = 1;
  #stopped = false;

  constructor({ clock, limitBytes = DEFAULT_LIMIT_BYTES }: ImageHashOptions) {
    this.#clock = clock;
    this.#limitBytes = limitBytes;
  }

  async of(peer: Peer): Promise<HashAnswer> {
    let handle: FileHandle | undefined;
    try {
      handle = await open(`/proc/${String(peer.pid)}/exe`, 'r');
      const stats = await handle.stat({ bigint: true });
      const answer = this.#answer(peer, stats, handle);
      if (this.#holds(handle)) handle = undefined;
      return answer;
    } catch (error) {
      return { reason: systemCode(error) === 'EMFILE' ? 'unix.sha256.descriptors' : 'unix.sha256.hidden' };
    } finally {
      await handle?.close();
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    const worker = this.#worker;
    this.#worker = undefined;
    await worker?.terminate();
    for (const job of this.#byId.values()) this.#settle(job, { reason: 'unix.sha256.stopped' });
  }

  #holds(handle: FileHandle): boolean {
    for (const job of this.#byId.values()) if (job.handle === handle) return true;
    return false;
  }

  /** Takes over the handle if a job begins. */
  #answer(peer: Peer, stats: BigIntStats, handle: FileHandle): HashAnswer {
    if (this.#stopped) return { reason: 'unix.sha256.stopped' };
    const inode = `${String(stats.dev)}:${String(stats.ino)}`;
    if (!stats.isFile() || inode !== peer.facts.exe) return { reason: 'unix.sha256.changed' };
    if (stats.size > this.#limitBytes) return { reason: 'unix.sha256.too-large' };
    const version = versionOf(stats);
    const known = this.#known.get(version);
    if (known !== undefined) return { sha256: known };
    const own = this.#byPeer.get(peer);
    if (own?.version === version) return own.answer;
    const job = this.#jobs.get(version) ?? this.#begin(peer, stats, version, handle);
    if (job === undefined) return { reason: 'unix.sha256.queued', until: this.#nextOf(peer.uid) };
    this.#wait(job, peer);
    return { reason: 'unix.sha256.pending', until: job.done.promise };
  }

  #begin(peer: Peer, stats: BigIntStats, version: string, handle: FileHandle): Job | undefined {
    let waiting = 0;
    for (const job of this.#byId.values()) if (job.uid === peer.uid) waiting += 1;
    if (waiting >= WAITING_PER_UID) return undefined;
    const id = this.#nextId;
    this.#nextId += 1;
    const changedAt = Number(stats.ctimeMs > stats.mtimeMs ? stats.ctimeMs : stats.mtimeMs);
    const settled = this.#clock.now() - changedAt > SETTLED_AFTER_MS;
    const job: Job = { id, uid: peer.uid, version, handle, settled, waiting: new Set(), done: Promise.withResolvers<void>() };
    this.#jobs.set(version, job);
    this.#byId.set(id, job);
    this.#tell({ kind: 'hash', id, fd: handle.fd, size: Number(stats.size), uid: peer.uid });
    return job;
  }

  #nextOf(uid: number): Promise<unknown> {
    return Promise.race([...this.#byId.values()].filter((job) => job.uid === uid).map((job) => job.done.promise));
  }

  /** A job nobody waits for any more is given up. */
  #wait(job: Job, peer: Peer): void {
    if (job.waiting.has(peer)) return;
    job.waiting.add(peer);
    const leave = (): void => {
      job.waiting.delete(peer);
      if (job.waiting.size > 0 || !this.#byId.has(job.id)) return;
      this.#forget(job);
      this.#tell({ kind: 'cancel', id: job.id });
    };
    peer.signal.addEventListener('abort', leave, { once: true });
    void job.done.promise.then(() => peer.signal.removeEventListener('abort', leave));
  }

  #tell(message: ToHasher): void {
    this.#worker ??= this.#start();
    this.#worker.postMessage(message);
  }

  #start(): Worker {
    const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js';
    const worker = new Worker(new URL(`./unix-hash-worker.${extension}`, import.meta.url), {
      name: 'unix-hash',
      env: {},
      execArgv: [],
      trackUnmanagedFds: false,
      resourceLimits: { maxOldGenerationSizeMb: 32, maxYoungGenerationSizeMb: 2 },
    });
    worker.unref();
    worker.on('message', (message: FromHasher) => void this.#finish(message));
    // 'exit' follows, and tells those who wait.
    worker.on('error', () => undefined);
    worker.once('exit', () => {
      if (this.#worker !== worker) return;
      this.#worker = undefined;
      for (const job of this.#byId.values()) this.#settle(job, { reason: 'unix.sha256.failed' });
    });
    return worker;
  }

  async #finish({ id, sha256 }: FromHasher): Promise<void> {
    const job = this.#byId.get(id);
    if (job === undefined) return;
    if (sha256 === undefined) {
      this.#settle(job, { reason: 'unix.sha256.failed' });
      return;
    }
    let version: string | undefined;
    try {
      version = versionOf(await job.handle.stat({ bigint: true }));
    } catch {
      version = undefined;
    }
    if (version !== job.version) {
      this.#settle(job, { reason: 'unix.sha256.changed' });
      return;
    }
    if (job.settled) this.#remember(version, sha256);
    this.#settle(job, { sha256 });
  }

  #remember(version: string, sha256: string): void {
    this.#known.set(version, sha256);
    if (this.#known.size <= REMEMBERED) return;
    const [oldest] = this.#known.keys();
    if (oldest !== undefined) this.#known.delete(oldest);
  }

  /** From here on, whoever asks for this version begins a job of its own. */
  #forget(job: Job): void {
    if (this.#jobs.get(job.version) === job) this.#jobs.delete(job.version);
  }

  #settle(job: Job, answer: HashAnswer): void {
    if (!this.#byId.delete(job.id)) return;
    this.#forget(job);
    for (const peer of job.waiting) this.#byPeer.set(peer, { version: job.version, answer });
    // The descriptor was opened for reading alone: closing it loses nothing, so nobody waits or hears of it.
    void job.handle.close().catch(() => undefined);
    job.done.resolve();
  }
}

function versionOf(stats: BigIntStats): string {
  return [stats.dev, stats.ino, stats.size, stats.mtimeNs, stats.ctimeNs].map(String).join(':');
}
