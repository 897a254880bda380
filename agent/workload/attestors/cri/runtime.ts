/**
 * One container runtime as a source of facts: asked once for many, its answers kept while its events say that nothing
 * happened, or for moments where it sends none. What the wire looks like is left to `messages.ts`.
 */
import { linkedController, untilAborted } from '../../../../runtime/abort.ts';
import { backoffMs } from '../../../../runtime/backoff.ts';
import type { BackoffPolicy } from '../../../../runtime/backoff.ts';
import type { Clock } from '../../../../runtime/clock.ts';
import { createWatch } from '../../../../runtime/watch.ts';
import type { Watch, WatchSource } from '../../../../runtime/watch.ts';
import { isSpiffeError, SpiffeError } from '../../../../spiffe/errors.ts';
import type { CriApi, CriContainer } from './messages.ts';
import { criSelectors } from './selectors.ts';
import type { CriSelectors } from './selectors.ts';

/** A running container. */
export interface CriFacts extends CriSelectors {
  readonly podUid: string;
}

export interface CriQuestion {
  /** Has another value once the answer may be true no more. Closes when the container has not been asked for in long. */
  readonly changed: Watch<unknown>;
  /**
   * undefined when the runtime has no such container. Rejects as `CriApi` and `check` do, with the signal's reason, with
   * denied `cri.container.exited`, unavailable `cri.container.not-started|state`, missing `cri.pod.gone`.
   */
  readonly answer: Promise<CriFacts | undefined>;
}

export interface CriRuntime {
  ask(id: string, signal: AbortSignal): CriQuestion;
  /** Follows the runtime's events until the signal aborts; lets go of the connection then. */
  run(signal: AbortSignal): Promise<void>;
}

export interface CriRuntimeOptions {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly api: CriApi;
  /** Called before each question; throws when whoever would answer is not to be believed. */
  readonly check: () => void;
}

interface Held {
  readonly changed: WatchSource<number>;
  /** Counts what may have made the facts untrue. */
  version: number;
  facts: CriFacts | undefined;
  /** Monotonic. */
  goodUntil: number;
  asking: { readonly version: number; readonly answer: Promise<CriFacts | undefined> } | undefined;
}

const REMEMBERED = 1024;
/** Nothing in an answer but the container's state and the image's names ever changes. */
const GOOD_WITH_EVENTS_MS = 60_000;
const GOOD_WITHOUT_EVENTS_MS = 5_000;
/** A stream that was not refused by then is one; runtimes send nothing before the first event. */
const SETTLED_AFTER_MS = 1_000;
/** The process runs before its runtime has noted that it does. */
const STARTING_MS = [5, 10, 20, 40, 80, 160, 320, 640] as const;
const retryPolicy: BackoffPolicy = { firstMs: 500, factor: 2, longestMs: 60_000, jitter: 0.2 };

export function createCriRuntime(options: CriRuntimeOptions): CriRuntime {
  return new Runtime(options);
}

class Runtime implements CriRuntime {
  readonly #options: CriRuntimeOptions;
  readonly #closing = new AbortController();
  /** Least recently asked for first. */
  readonly #held = new Map<string, Held>();
  #live = false;

  constructor(options: CriRuntimeOptions) {
    this.#options = options;
  }

  ask(id: string, signal: AbortSignal): CriQuestion {
    const held = this.#hold(id);
    const { clock } = this.#options;
    if (held.facts !== undefined && clock.monotonic() < held.goodUntil) {
      return { changed: held.changed, answer: Promise.resolve(held.facts) };
    }
    // What was asked before something happened may be answered as it was before.
    const asking = held.asking?.version === held.version ? held.asking : this.#begin(id, held);
    // Whoever leaves does not take the question along: others may have joined, and it ends by itself.
    return { changed: held.changed, answer: untilAborted(asking.answer, signal) };
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, random, api } = this.#options;
    try {
      for (let failures = 0; !signal.aborted; ) {
        let wait = retryPolicy;
        try {
          failures = (await this.#follow(signal)) ? 0 : failures;
        } catch (error) {
          if (isSpiffeError(error, 'unsupported')) wait = { ...retryPolicy, firstMs: retryPolicy.longestMs };
        }
        failures += 1;
        await clock.sleep(backoffMs(failures, random(), wait), signal).catch(() => undefined);
      }
    } finally {
      this.#closing.abort(new SpiffeError('unavailable', 'cri.stopped', 'the attestor has stopped'));
      api.close();
    }
  }

  #hold(id: string): Held {
    const held = this.#held.get(id) ?? { changed: createWatch(0), version: 0, facts: undefined, goodUntil: 0, asking: undefined };
    this.#held.delete(id);
    this.#held.set(id, held);
    if (this.#held.size > REMEMBERED) {
      const [oldest] = this.#held;
      // Not told to ask again, or the oldest would push one another out in turn.
      oldest?.[1].changed.close();
      if (oldest !== undefined) this.#held.delete(oldest[0]);
    }
    return held;
  }

  #begin(id: string, held: Held): NonNullable<Held['asking']> {
    const { version } = held;
    const answer = this.#question(id, held, version).finally(() => {
      if (held.asking === asking) held.asking = undefined;
    });
    const asking = { version, answer };
    held.asking = asking;
    return asking;
  }

  async #question(id: string, held: Held, version: number): Promise<CriFacts | undefined> {
    const { clock } = this.#options;
    const live = this.#live;
    held.facts = undefined;
    const facts = await this.#read(id);
    if (facts !== undefined && held.version === version) {
      held.facts = facts;
      held.goodUntil = clock.monotonic() + (live ? GOOD_WITH_EVENTS_MS : GOOD_WITHOUT_EVENTS_MS);
    }
    return facts;
  }

  async #read(id: string): Promise<CriFacts | undefined> {
    const { api, check } = this.#options;
    check();
    const container = await this.#started(id);
    if (container === undefined) return undefined;
    const pod = await api.pod(container.sandboxId, this.#closing.signal);
    if (pod === undefined) throw new SpiffeError('missing', 'cri.pod.gone', "the runtime no longer has the container's pod");
    return { ...criSelectors(container, pod), podUid: pod.uid };
  }

  async #started(id: string): Promise<CriContainer | undefined> {
    const { api, clock } = this.#options;
    const { signal } = this.#closing;
    for (let attempt = 0; ; attempt += 1) {
      const container = await api.container(id, signal);
      if (container === undefined || container.state === 'running') return container;
      if (container.state === 'exited') {
        throw new SpiffeError('denied', 'cri.container.exited', 'a process claims a container that has ended');
      }
      if (container.state === 'unknown') {
        throw new SpiffeError('unavailable', 'cri.container.state', 'the runtime does not know how the container is');
      }
      const pause = STARTING_MS[attempt];
      if (pause === undefined) {
        throw new SpiffeError('unavailable', 'cri.container.not-started', 'the runtime has not noted that the container runs');
      }
      await clock.sleep(pause, signal);
    }
  }

  /** @returns whether there was a stream of events for a while */
  async #follow(signal: AbortSignal): Promise<boolean> {
    const { api, check, clock } = this.#options;
    check();
    const { name, version } = await api.version(signal);
    if (!broadcasts(name, version)) {
      throw new SpiffeError('unsupported', 'cri.events.unsupported', 'the runtime gives its events to one listener alone');
    }
    const stop = linkedController(signal);
    clock.sleep(SETTLED_AFTER_MS, stop.signal).then(
      () => this.#settle(),
      () => undefined,
    );
    try {
      for await (const id of api.events(stop.signal)) {
        const held = this.#held.get(id);
        if (held !== undefined) this.#drop(held, true);
      }
      return this.#live;
    } catch (error) {
      if (this.#live) return true;
      throw error;
    } finally {
      stop.abort(new Error('the stream of events is over'));
      stop.unlink();
      this.#end();
    }
  }

  /** What was answered so far, events before this may have made untrue. */
  #settle(): void {
    this.#live = true;
    for (const held of this.#held.values()) this.#drop(held, true);
  }

  /** Connections are not told: they would ask what may be gone, all at once. They are when there are events again. */
  #end(): void {
    if (!this.#live) return;
    this.#live = false;
    for (const held of this.#held.values()) this.#drop(held, false);
  }

  #drop(held: Held, tell: boolean): void {
    held.version += 1;
    held.facts = undefined;
    if (tell) held.changed.set(held.version);
  }
}

/**
 * Whether each listener gets all events. containerd before 2.0 hands each event to one of them, so that listening would
 * take events away from the kubelet.
 */
function broadcasts(name: string, version: string): boolean {
  if (name === 'cri-o') return true;
  return name === 'containerd' && Number(/^v?(\d{1,4})\./.exec(version)?.[1] ?? 0) >= 2;
}
