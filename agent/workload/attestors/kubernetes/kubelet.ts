/**
 * Pods as the kubelet of this node lists them. It cannot be watched, so it is asked when somebody waits, all who wait at
 * once and at a bounded rate, and now and then while a process of a pod is connected.
 */
import { linkedController, untilAborted } from '../../../../runtime/abort.ts';
import { backoffMs } from '../../../../runtime/backoff.ts';
import type { BackoffPolicy } from '../../../../runtime/backoff.ts';
import type { Clock } from '../../../../runtime/clock.ts';
import { createWatch } from '../../../../runtime/watch.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';
import { sourceFailure } from './connection.ts';
import type { Connection } from './connection.ts';
import { readList } from './list.ts';
import type { PodIndex } from './pod-index.ts';
import type { PodReading } from './pod.ts';
import type { PodSource, SourceState } from './source.ts';

export interface KubeletOptions extends PodReading {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly connection: Connection;
  readonly index: PodIndex;
  /** How old the list may be while a process of a pod is connected. */
  readonly relistMs?: number | undefined;
  /** Lists begin at least this far from each other. */
  readonly pollMs?: number | undefined;
}

const DEFAULT_RELIST_MS = 30_000;
const DEFAULT_POLL_MS = 500;
/** For one who waits, the time between two lists grows. */
const POLL_GROWTH = 1.5;
const LONGEST_POLL_MS = 5_000;
const LIST_MS = 10_000;
/** Far beyond what a node of 500 pods says. */
const LIST_BYTES = 128 * 1024 * 1024;

interface Seek {
  /** Lists it has seen without finding what it seeks. */
  tries: number;
  readonly sinceAt: number;
}

export function createKubelet(options: KubeletOptions): PodSource {
  return new Kubelet(options);
}

class Kubelet implements PodSource {
  readonly #options: KubeletOptions;
  readonly #clock: Clock;
  readonly #relistMs: number;
  readonly #pollMs: number;
  readonly #failing: BackoffPolicy;
  readonly #state = createWatch<SourceState>({ syncedAt: undefined, failure: undefined });
  readonly #seeks = new Set<Seek>();
  /** Resolves at the end of the list that somebody wants, or that is under way. */
  #wanted: PromiseWithResolvers<void> | undefined;
  #holds = 0;
  #begunAt = Number.NEGATIVE_INFINITY;
  #failures = 0;
  #earliestAt = Number.NEGATIVE_INFINITY;
  #stir: () => void = () => undefined;

  constructor(options: KubeletOptions) {
    this.#options = options;
    this.#clock = options.clock;
    this.#relistMs = options.relistMs ?? DEFAULT_RELIST_MS;
    this.#pollMs = options.pollMs ?? DEFAULT_POLL_MS;
    this.#failing = { firstMs: this.#pollMs, factor: 2, longestMs: 15_000, jitter: 0.2 };
  }

  get state(): PodSource['state'] {
    return this.#state;
  }

  async run(signal: AbortSignal): Promise<void> {
    // Once without being asked, so that the first process finds its pod, and an operator hears of a source that is none.
    this.#wanted ??= Promise.withResolvers<void>();
    while (!signal.aborted) {
      const turn = linkedController(signal);
      const stirred = new Promise<void>((resolve) => {
        this.#stir = resolve;
      });
      const restMs = this.#dueAt() - this.#clock.monotonic();
      const waits = restMs === Number.POSITIVE_INFINITY ? [stirred] : [stirred, this.#clock.sleep(Math.max(restMs, 0), turn.signal)];
      if (restMs > 0) await untilAborted(Promise.race(waits), turn.signal).catch(() => undefined);
      turn.abort(new Error('another turn'));
      turn.unlink();
      if (!signal.aborted && this.#dueAt() <= this.#clock.monotonic()) await this.#list(signal);
    }
    this.#wanted?.resolve();
  }

  isFresh(): boolean {
    const { syncedAt, failure } = this.#state.value;
    const now = this.#clock.monotonic();
    if (syncedAt !== undefined && now - syncedAt < this.#relistMs) return true;
    // It is tried again before long, whether anybody waits for that or not.
    return failure !== undefined && now < this.#earliestAt;
  }

  async refresh(signal: AbortSignal): Promise<void> {
    this.#wanted ??= Promise.withResolvers<void>();
    this.#stir();
    await untilAborted(this.#wanted.promise, signal).catch(() => undefined);
  }

  seek(signal: AbortSignal): void {
    if (signal.aborted) return;
    const seek: Seek = { tries: 0, sinceAt: this.#clock.monotonic() };
    this.#seeks.add(seek);
    signal.addEventListener('abort', () => this.#seeks.delete(seek), { once: true });
    this.#stir();
  }

  hold(signal: AbortSignal): void {
    if (signal.aborted) return;
    this.#holds += 1;
    signal.addEventListener('abort', () => (this.#holds -= 1), { once: true });
    if (this.#holds === 1) this.#stir();
  }

  /** On the monotonic clock; infinite while nobody wants anything. */
  #dueAt(): number {
    let dueAt = this.#holds > 0 ? this.#begunAt + this.#relistMs : Number.POSITIVE_INFINITY;
    if (this.#wanted !== undefined || this.#state.value.failure !== undefined) dueAt = Number.NEGATIVE_INFINITY;
    for (const { tries, sinceAt } of this.#seeks) {
      const waitMs = tries === 0 ? 0 : Math.min(this.#pollMs * POLL_GROWTH ** (tries - 1), LONGEST_POLL_MS);
      dueAt = Math.min(dueAt, tries === 0 ? sinceAt : this.#begunAt + waitMs);
    }
    return Math.max(dueAt, this.#begunAt + this.#pollMs, this.#earliestAt);
  }

  async #list(signal: AbortSignal): Promise<void> {
    // Whoever wants a list while this one is under way waits for this one.
    const wanted = (this.#wanted ??= Promise.withResolvers<void>());
    this.#begunAt = this.#clock.monotonic();
    const seeks = [...this.#seeks];
    try {
      const uids = await this.#read(signal);
      this.#options.index.retain(uids);
      this.#failures = 0;
      this.#earliestAt = Number.NEGATIVE_INFINITY;
      for (const seek of seeks) seek.tries += 1;
      this.#state.set({ syncedAt: this.#begunAt, failure: undefined });
    } catch (error) {
      if (signal.aborted) return;
      const failure = sourceFailure(error);
      this.#failures += 1;
      const { retryAfterMs = 0 } = failure.detail;
      const restMs = Math.max(backoffMs(this.#failures, this.#options.random(), this.#failing), Number(retryAfterMs));
      this.#earliestAt = this.#clock.monotonic() + restMs;
      this.#state.set({ syncedAt: this.#state.value.syncedAt, failure });
    } finally {
      this.#wanted = undefined;
      wanted.resolve();
    }
  }

  async #read(signal: AbortSignal): Promise<ReadonlySet<string>> {
    const { connection, index, nodeName } = this.#options;
    const stop = linkedController(signal);
    void this.#clock.sleep(LIST_MS, stop.signal).then(
      () => stop.abort(new SpiffeError('unavailable', 'k8s.source.deadline', 'the list of pods takes too long')),
      () => undefined,
    );
    try {
      const answer = await connection.ask('/pods', stop.signal);
      const { uids } = await readList(answer, { index, nodeName, maxBytes: LIST_BYTES });
      return uids;
    } finally {
      stop.abort(new Error('the list is read'));
      stop.unlink();
    }
  }
}
