/**
 * What an engine that speaks Docker's API (Docker, Podman) says of the container a process is in: labels, environment and
 * image. Which container that is, the kernel tells (`container.ts`); an engine is only asked about the id found there.
 *
 * Engines run as root are believed about containers in the system's groups. One run by a user is believed only if it is
 * listed with that user's id, and about processes alone that are in that user's own control groups and run as that user or
 * as an id which `/etc/subuid` sets aside for it. Such a user may still claim any label and any image for what it starts:
 * to list it is to trust it with every selector of this attestor, unless entries name a `unix:uid` as well.
 */
import { untilAborted } from '../../../runtime/abort.ts';
import { backoffMs } from '../../../runtime/backoff.ts';
import type { BackoffPolicy } from '../../../runtime/backoff.ts';
import type { Clock } from '../../../runtime/clock.ts';
import type { Peer } from '../../../runtime/peer.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import type { Selector } from '../../../spiffe/selector.ts';
import type { WorkloadAttestor } from '../attestor.ts';
import type { ContainerRef, Containers } from '../container.ts';
import { createAnswerCache } from './docker-cache.ts';
import { createDockerEngine } from './docker-engine.ts';
import type { DockerEngine } from './docker-engine.ts';
import { readContainer } from './docker-facts.ts';
import type { ContainerFacts } from './docker-facts.ts';
import { createContainerOwners } from './docker-owner.ts';
import type { ContainerOwnersOptions } from './docker-owner.ts';

export interface DockerAttestorOptions extends ContainerOwnersOptions {
  readonly clock: Clock;
  readonly containers: Containers;
  /** Asked in this order. With `ownerUid` the engine of that user, without one run as root. */
  readonly engines: readonly { readonly socketPath: string; readonly ownerUid?: number }[];
  /** Told whenever an engine's events begin to be followed, and why they no longer are. */
  readonly onEngine?: (change: EngineChange) => void;
  /** Root's number as this program sees it: 0 unless given. */
  readonly rootUid?: number;
}

export type EngineChange =
  | { readonly kind: 'followed'; readonly socketPath: string }
  | { readonly kind: 'lost'; readonly socketPath: string; readonly error: SpiffeError };

export interface DockerAttestor extends WorkloadAttestor {
  /** Follows the engines' events until the signal aborts. Without it answers are kept for no longer than a burst of questions. */
  run(signal: AbortSignal): Promise<void>;
  /** Ends what is asked. */
  close(): void;
}

interface Source {
  readonly engine: DockerEngine;
  readonly ownerUid: number | undefined;
  /** Whether its events would tell of a change. */
  followed: boolean;
}

type Answer =
  | { readonly kind: 'known'; readonly source: Source; readonly facts: ContainerFacts }
  | { readonly kind: 'unknown' }
  | { readonly kind: 'failed'; readonly error: SpiffeError };

const MAX_CONTAINERS = 2048;
const MAX_WEIGHT = 16 * 1024 * 1024;
/** What an engine says of an id never changes but with an event; this bounds what a missed one costs. */
const KNOWN_MS = 600_000;
const UNKNOWN_MS = 15_000;
const UNFOLLOWED_MS = 1_000;
/** All engines of one owner, asked one after the other, in less than an attestor may take. */
const ENGINES_MS = 4_000;
const LONGEST_ENGINE_MS = 2_000;
/** An engine whose events break off sooner is tried again ever more seldom. */
const STEADY_MS = 10_000;

const followPolicy: BackoffPolicy = { firstMs: 200, factor: 2, longestMs: 15_000, jitter: 0 };

/** As Docker and as Podman call what may change an answer. */
const changing = new Set(
  'create start restart pause unpause update rename stop die died oom destroy remove cleanup'.split(' '),
);

/**
 * Throws from `attest`, besides what the kernel's side does: unavailable when no engine can be asked (as `HttpClient`,
 * `docker.engine.*`); denied `docker.container.unknown|stopped|moved|user`, `docker.socket.*`, `docker.answer.other`; invalid
 * `docker.answer.form`; limited `http.too-large`; unauthenticated `http.owner`. `run` throws nothing.
 */
export function createDockerAttestor(options: DockerAttestorOptions): DockerAttestor {
  const { clock, containers, rootUid = 0, onEngine } = options;
  const sources = options.engines.map(({ socketPath, ownerUid }): Source => {
    const several = options.engines.filter((other) => other.ownerUid === ownerUid).length;
    const deadlineMs = Math.min(LONGEST_ENGINE_MS, ENGINES_MS / several);
    return { engine: createDockerEngine({ clock, socketPath, uid: ownerUid ?? rootUid, deadlineMs }), ownerUid, followed: false };
  });
  const owners = createContainerOwners(options);
  const cache = createAnswerCache<Answer>({
    maxEntries: MAX_CONTAINERS,
    maxWeight: MAX_WEIGHT,
    monotonic: () => clock.monotonic(),
    weigh: (answer) => (answer.kind === 'known' ? answer.facts.weight : 0),
    isGood: (answer, ageMs) => ageMs < keepMs(answer, sources),
  });
  /** Of which container a process was told to be, while it lives. */
  const given = new WeakMap<Peer, string>();

  const ask = async (ref: ContainerRef, asked: readonly Source[]): Promise<Answer> => {
    let failure: SpiffeError | undefined;
    for (const source of inOrder(asked, ref)) {
      try {
        const body = await source.engine.inspect(ref.id);
        if (body !== undefined) return { kind: 'known', source, facts: readContainer(body, ref.id) };
      } catch (error) {
        failure ??= asFailure(error);
      }
    }
    return failure === undefined ? { kind: 'unknown' } : { kind: 'failed', error: failure };
  };

  return {
    name: 'docker',
    async attest(peer, { wanted, signal, omit, recheck }) {
      const ref = containers.of(peer);
      // The one engine which is certainly another attestor's.
      if (ref === undefined || ref.runtime === 'crio') return [];
      const asked = sources.filter(({ ownerUid }) => ownerUid === ref.ownerUid);
      if (asked.length === 0) {
        if (ref.ownerUid !== undefined) omit('docker', 'docker.owner.unlisted');
        return [];
      }
      if (ref.ownerUid !== undefined && !(await owners.owns(ref.ownerUid, peer.uid))) {
        throw new SpiffeError('denied', 'docker.container.user', "the process runs as somebody whom its container's user is not");
      }
      const key = keyOf(ref.ownerUid, ref.id);
      recheck(cache.changes(key));
      const answer = await untilAborted(cache.of(key, () => ask(ref, asked)), signal);
      if (answer.kind === 'known') {
        given.set(peer, key);
        for (const { what, reason } of answer.facts.omitted) omit(what, reason);
        // Environments hold passwords: they leave here only when an entry asks for one.
        return wanted.asks('docker:env:') ? answer.facts.selectors : answer.facts.selectors.filter((selector) => !selector.startsWith('docker:env:'));
      }
      if (answer.kind === 'failed') throw unlessMoved(answer.error, given.get(peer), key);
      return unknown(ref);
    },
    async run(signal) {
      await Promise.all(sources.map((source) => follow(source, signal)));
    },
    close() {
      for (const { engine } of sources) engine.close();
    },
  };

  async function follow(source: Source, signal: AbortSignal): Promise<void> {
    const { engine, ownerUid } = source;
    let failures = 0;
    const forget = (followed: boolean): void => {
      source.followed = followed;
      cache.dropIf((answer) => answer.kind !== 'known' || answer.source === source);
    };
    while (!signal.aborted) {
      let openedAt = Number.POSITIVE_INFINITY;
      try {
        const events = engine.follow(signal, () => {
          forget(true);
          openedAt = clock.monotonic();
          onEngine?.({ kind: 'followed', socketPath: engine.socketPath });
        });
        for await (const { id, action } of events) if (changing.has(action)) cache.drop(keyOf(ownerUid, id));
      } catch (error) {
        forget(false);
        if (signal.aborted) return;
        failures = clock.monotonic() - openedAt >= STEADY_MS ? 1 : failures + 1;
        // Said once for a while without the engine, however often it is tried.
        if (failures === 1 || openedAt < Number.POSITIVE_INFINITY) {
          onEngine?.({ kind: 'lost', socketPath: engine.socketPath, error: asFailure(error) });
        }
        await clock.sleep(backoffMs(failures, 0.5, followPolicy), signal).catch(() => undefined);
      }
    }
  }
}

/** Two users' engines may name the same id. */
function keyOf(ownerUid: number | undefined, id: string): string {
  return ownerUid === undefined ? id : `${ownerUid}:${id}`;
}

function keepMs(answer: Answer, sources: readonly Source[]): number {
  switch (answer.kind) {
    case 'known':
      return answer.source.followed ? KNOWN_MS : UNFOLLOWED_MS;
    case 'unknown':
      return sources.every(({ followed }) => followed) ? UNKNOWN_MS : UNFOLLOWED_MS;
    case 'failed':
      // One that cannot be asked may be back; what it says wrongly it would say again.
      return answer.error.kind === 'unavailable' ? 0 : UNFOLLOWED_MS;
    default:
      return answer satisfies never;
  }
}

/** First the engines whose name is in the group's. */
function inOrder(sources: readonly Source[], ref: ContainerRef): readonly Source[] {
  if (sources.length < 2) return sources;
  const likely = ref.runtime === 'libpod' ? 'podman' : 'docker';
  return sources.toSorted((a, b) => Number(b.engine.kind === likely) - Number(a.engine.kind === likely));
}

function asFailure(error: unknown): SpiffeError {
  if (error instanceof SpiffeError) return error;
  return new SpiffeError('internal', 'docker.engine.failed', 'asking the engine failed in an unknown way', { cause: error });
}

/** What was given of another container must not stay because this one's engine cannot be asked. */
function unlessMoved(error: SpiffeError, before: string | undefined, now: string): SpiffeError {
  if (before === undefined || before === now || error.kind !== 'unavailable') return error;
  return new SpiffeError('denied', 'docker.container.moved', 'the process is in another container than before', { cause: error });
}

/** @returns nothing for a container that another attestor's engine may have made */
function unknown(ref: ContainerRef): readonly Selector[] {
  if (ref.runtime === 'containerd') return [];
  // The engines were asked and know nothing: what one of them said before is no more.
  throw new SpiffeError('denied', 'docker.container.unknown', 'no engine knows the container that the process is in');
}
