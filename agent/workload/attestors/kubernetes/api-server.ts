/**
 * Pods of one node as the API server tells of them: listed once, then watched, from where a watch ended on to the next.
 * Nobody has to wait for a poll, and nobody's question causes one.
 */
import { linkedController, untilAborted } from '../../../../runtime/abort.ts';
import { backoffMs } from '../../../../runtime/backoff.ts';
import type { BackoffPolicy } from '../../../../runtime/backoff.ts';
import type { Clock } from '../../../../runtime/clock.ts';
import { createWatch } from '../../../../runtime/watch.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';
import { sourceFailure } from './connection.ts';
import type { Connection } from './connection.ts';
import { fieldsOf, parseBytes } from './fields.ts';
import { podFrom, readList } from './list.ts';
import { createPace } from './pace.ts';
import type { PodIndex } from './pod-index.ts';
import { podListLimits } from './pod-list.ts';
import type { PodSource, SourceState } from './source.ts';

export interface ApiServerOptions {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly connection: Connection;
  readonly index: PodIndex;
  readonly nodeName: string;
}

const PAGE = 250;
const LIST_MS = 30_000;
const LIST_BYTES = 128 * 1024 * 1024;
/** The server ends a watch after this long, so that what a dead connection hides stays hidden no longer. */
const WATCH_SECONDS = 300;
const WATCH_GRACE_MS = 30_000;
/** A watch that ends sooner counts as a failure, or a server that ends each at once would be asked without rest. */
const SHORTEST_WATCH_MS = 1_000;
const failing: BackoffPolicy = { firstMs: 500, factor: 2, longestMs: 30_000, jitter: 0.2 };

export function createApiServer(options: ApiServerOptions): PodSource {
  return new ApiServer(options);
}

class ApiServer implements PodSource {
  readonly #options: ApiServerOptions;
  readonly #clock: Clock;
  readonly #pods: string;
  readonly #state = createWatch<SourceState>({ syncedAt: undefined, failure: undefined });
  /** What all changes up to are known; empty for none. */
  #version = '';
  /** The list has to be read anew; `exact` when what the server holds ready may be as old as what was refused. */
  #lost: 'no' | 'yes' | 'exact' = 'yes';
  #failures = 0;

  constructor(options: ApiServerOptions) {
    this.#options = options;
    this.#clock = options.clock;
    this.#pods = `/api/v1/pods?fieldSelector=${encodeURIComponent(`spec.nodeName=${options.nodeName}`)}`;
  }

  get state(): PodSource['state'] {
    return this.#state;
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        if (this.#lost !== 'no') await this.#within(LIST_MS, signal, (stop) => this.#list(stop));
        await this.#within(WATCH_SECONDS * 1000 + WATCH_GRACE_MS, signal, (stop) => this.#watch(stop));
      } catch (error) {
        if (signal.aborted) break;
        await this.#fail(sourceFailure(error), signal);
      }
    }
  }

  isFresh(): boolean {
    const { syncedAt, failure } = this.#state.value;
    return syncedAt !== undefined || failure !== undefined;
  }

  async refresh(signal: AbortSignal): Promise<void> {
    const stop = linkedController(signal);
    for await (const _ of this.#state.values(stop.signal)) if (this.isFresh()) break;
    stop.unlink();
  }

  /** The watch tells as soon as there is something to tell. */
  seek(): void {}

  hold(): void {}

  async #within(ms: number, signal: AbortSignal, work: (stop: AbortSignal) => Promise<void>): Promise<void> {
    const stop = linkedController(signal);
    void this.#clock.sleep(ms, stop.signal).then(
      () => stop.abort(new SpiffeError('unavailable', 'k8s.source.deadline', 'the API server takes too long')),
      () => undefined,
    );
    try {
      await work(stop.signal);
    } finally {
      stop.abort(new Error('this question is over'));
      stop.unlink();
    }
  }

  async #list(signal: AbortSignal): Promise<void> {
    const { connection, index, nodeName } = this.#options;
    const uids = new Set<string>();
    // From what the server holds ready, but nothing older than what we know: a list that reads through its store costs it dearly.
    const since = this.#lost === 'exact' ? '' : `&resourceVersion=${encodeURIComponent(this.#version || '0')}&resourceVersionMatch=NotOlderThan`;
    let version: string;
    let rest = '';
    let bytesLeft = LIST_BYTES;
    do {
      const from = rest === '' ? since : `&continue=${encodeURIComponent(rest)}`;
      const answer = await connection.ask(`${this.#pods}&limit=${PAGE}${from}`, signal);
      const page = await readList(answer, { index, nodeName, maxBytes: bytesLeft });
      for (const uid of page.uids) uids.add(uid);
      version = page.resourceVersion;
      rest = page.continueToken;
      bytesLeft -= page.bytes;
    } while (rest !== '');
    if (version === '') throw new SpiffeError('unavailable', 'k8s.source.answer', 'the list of pods has no version');
    index.retain(uids);
    this.#version = version;
    this.#lost = 'no';
    this.#state.set({ syncedAt: this.#clock.monotonic(), failure: undefined });
  }

  async #watch(signal: AbortSignal): Promise<void> {
    const { connection } = this.#options;
    const asked = `&watch=1&allowWatchBookmarks=true&resourceVersion=${encodeURIComponent(this.#version)}&timeoutSeconds=${WATCH_SECONDS}`;
    const answer = await connection.ask(`${this.#pods}${asked}`, signal);
    const beganAt = this.#clock.monotonic();
    this.#state.set({ syncedAt: this.#state.value.syncedAt, failure: undefined });
    const pace = createPace();
    for await (const line of answer.lines(podListLimits.podBytes)) {
      this.#apply(parseBytes(line));
      this.#failures = 0;
      await pace(line.length);
    }
    if (this.#clock.monotonic() - beganAt >= SHORTEST_WATCH_MS) this.#failures = 0;
    else throw new SpiffeError('unavailable', 'k8s.source.broken', 'the watch of pods ended at once');
  }

  #apply(event: unknown): void {
    const { index, nodeName } = this.#options;
    const { type, object } = fieldsOf(event);
    if (type === 'ERROR') throw eventFailure(fieldsOf(object)['code']);
    const { resourceVersion } = fieldsOf(fieldsOf(object)['metadata']);
    if (typeof type !== 'string' || typeof resourceVersion !== 'string' || resourceVersion === '') {
      throw new SpiffeError('unavailable', 'k8s.source.answer', 'the watch of pods tells something else');
    }
    if (type === 'ADDED' || type === 'MODIFIED' || type === 'DELETED') {
      const pod = podFrom(object, { nodeName });
      if (pod !== undefined && type === 'DELETED') index.remove(pod.uid);
      else if (pod !== undefined) index.put(pod);
    }
    this.#version = resourceVersion;
  }

  /** Waits until it is worth trying again. */
  async #fail(failure: SpiffeError, signal: AbortSignal): Promise<void> {
    this.#failures += 1;
    const { retryAfterMs = 0, status } = failure.detail;
    // 504 is also the answer to a version that the server has not reached, as after its store was restored.
    if (failure.reason === 'k8s.source.gone' || status === 504) this.#lost = 'exact';
    // What cannot be read would be told again from the same version on.
    else if (this.#lost === 'no' && (failure.reason === 'k8s.source.answer' || failure.reason === 'k8s.source.too-large')) this.#lost = 'yes';
    const isFirst = this.#failures === 1;
    // Watches end for many reasons, and one that goes on at once was never away.
    if (!isFirst || this.#state.value.syncedAt === undefined) this.#state.set({ syncedAt: this.#state.value.syncedAt, failure });
    const restMs = isFirst && failure.reason === 'k8s.source.gone' ? 0 : backoffMs(this.#failures, this.#options.random(), failing);
    await untilAborted(this.#clock.sleep(Math.max(restMs, Number(retryAfterMs)), signal), signal).catch(() => undefined);
  }
}

function eventFailure(code: unknown): SpiffeError {
  const detail = { status: typeof code === 'number' ? code : 0 };
  if (code === 410) return new SpiffeError('unavailable', 'k8s.source.gone', 'what was asked for is too long ago', { detail });
  return new SpiffeError('unavailable', 'k8s.source.status', 'the API server ends the watch with a failure', { detail });
}
