/**
 * The pods of a node, found by the id of a container, and a watch for each container that was asked about. It believes
 * what it is given; a pod that is gone stays for a short while, for what its processes have still to do.
 */
import type { Clock } from '../../../../runtime/clock.ts';
import { createWatch } from '../../../../runtime/watch.ts';
import type { Watch, WatchSource } from '../../../../runtime/watch.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';
import type { ContainerRef } from '../../container.ts';
import { comparableUid, samePod } from './pod.ts';
import type { Pod, PodContainer } from './pod.ts';

export interface FoundPod {
  readonly pod: Pod;
  /** Undefined when the cgroup names the pod, and the pod does not show the container yet. */
  readonly container: PodContainer | undefined;
  /** Resolves when the pod, which is deleted, is forgotten. */
  readonly until: Promise<void> | undefined;
}

/** Which pod is meant: the one of this name, or the one with this uid. */
export type PodMark = { readonly namespace: string; readonly name: string } | { readonly uid: string };

export interface PodIndex {
  /** How much it holds. */
  readonly size: { readonly pods: number; readonly containers: number; readonly watched: number };
  /** @throws denied `k8s.pod.mismatch` when the container is another pod's; denied `k8s.container.ambiguous` when it is several's */
  find(ref: ContainerRef): FoundPod | undefined;
  /** Has another value when what `find` says of this container may be another. */
  watch(ref: ContainerRef): Watch<unknown>;
  /**
   * A pod that is not deleted.
   * @throws denied `k8s.pod.ambiguous` when several are meant
   */
  pod(mark: PodMark): Pod | undefined;
  /** Has another value when what `pod` says may be another. */
  watchPod(mark: PodMark): Watch<unknown>;
  put(pod: Pod): void;
  /** Soon forgotten, unless it is put again. */
  remove(uid: string): void;
  /** Removes all pods but these. */
  retain(uids: ReadonlySet<string>): void;
  /** Forgets all, and tells nobody. */
  close(): void;
}

export interface PodIndexOptions {
  readonly clock: Clock;
  /** How long a deleted pod is kept. */
  readonly deletedMs?: number;
}

/** A pod deleted by force runs on for a moment, and the API server's picture of a static pod is replaced while the pod runs. */
const DEFAULT_DELETED_MS = 10_000;
/** Far more than a node runs containers; the one longest not asked about goes first. */
const WATCHED = 4_096;

interface Entry {
  pod: Pod;
  removal: { readonly stop: AbortController; readonly done: Promise<void> } | undefined;
}

export function createPodIndex(options: PodIndexOptions): PodIndex {
  const { clock, deletedMs = DEFAULT_DELETED_MS } = options;
  const byUid = new Map<string, Entry>();
  /** By container id, by comparable uid, which differ in length, and by name, which has slashes. */
  const byKey = new Map<string, Entry[]>();
  const watches = new Map<string, WatchSource<number>>();

  const keysOf = (pod: Pod): readonly string[] => [...pod.uids, keyOf(pod), ...pod.containers.keys()];
  const tell = (keys: Iterable<string>): void => {
    for (const key of new Set(keys)) {
      const watch = watches.get(key);
      watch?.set(watch.value + 1);
    }
  };
  const link = (entry: Entry): void => {
    for (const key of keysOf(entry.pod)) byKey.set(key, [...(byKey.get(key) ?? []), entry]);
  };
  const unlink = (entry: Entry): void => {
    for (const key of keysOf(entry.pod)) {
      const rest = (byKey.get(key) ?? []).filter((other) => other !== entry);
      if (rest.length === 0) byKey.delete(key);
      else byKey.set(key, rest);
    }
  };
  const forget = (entry: Entry): void => {
    byUid.delete(entry.pod.uid);
    unlink(entry);
    tell(keysOf(entry.pod));
  };
  const remove = (entry: Entry): void => {
    if (entry.removal !== undefined) return;
    const stop = new AbortController();
    const done = clock.sleep(deletedMs, stop.signal).then(
      () => forget(entry),
      () => undefined,
    );
    entry.removal = { stop, done };
    tell(keysOf(entry.pod));
  };
  const keep = (entry: Entry): boolean => {
    const { removal } = entry;
    entry.removal = undefined;
    removal?.stop.abort(new Error('the pod is there again'));
    return removal !== undefined;
  };
  /** Those that live, or else those that are gone. */
  const entriesOf = (key: string): readonly Entry[] => {
    const all = byKey.get(key) ?? [];
    const living = all.filter((entry) => entry.removal === undefined);
    return living.length > 0 ? living : all;
  };
  /** Another pod may say that it stands for this one, which only the one with the uid can prove. */
  const podNamed = (uid: string): Entry | undefined => {
    const all = entriesOf(uid);
    const own = all.find(({ pod }) => pod.uids[0] === uid);
    if (own === undefined && all.length > 1) throw ambiguous();
    return own ?? all[0];
  };
  const watchOf = (key: string): WatchSource<number> => {
    const watch = watches.get(key) ?? createWatch(0);
    watches.delete(key);
    watches.set(key, watch);
    const [oldest] = watches.keys();
    if (watches.size > WATCHED && oldest !== undefined) watches.delete(oldest);
    return watch;
  };

  return {
    get size() {
      let containers = 0;
      for (const { pod } of byUid.values()) containers += pod.containers.size;
      return { pods: byUid.size, containers, watched: watches.size };
    },
    find({ id, podUid }) {
      const named = podUid === undefined ? undefined : comparableUid(podUid);
      const holders = entriesOf(id);
      const believed = named === undefined ? holders : holders.filter(({ pod }) => pod.uids.includes(named));
      if (believed.length > 1) throw ambiguous();
      if (believed.length === 0 && holders.length > 0) {
        throw new SpiffeError('denied', 'k8s.pod.mismatch', "the container is another pod's than the kernel's cgroups say");
      }
      const entry = believed[0] ?? (named === undefined ? undefined : podNamed(named));
      if (entry === undefined) return undefined;
      return { pod: entry.pod, container: entry.pod.containers.get(id), until: entry.removal?.done };
    },
    watch({ id, podUid }) {
      // A pod changes more often than its containers come and go, so it is watched only while it does not show this one.
      const isShown = byKey.has(id);
      return watchOf(isShown || podUid === undefined ? id : comparableUid(podUid));
    },
    pod(mark) {
      const key = keyOf(mark);
      const living = (byKey.get(key) ?? []).filter(({ removal }) => removal === undefined).map(({ pod }) => pod);
      // Another pod may say that it stands for this one, which only the one with the uid can prove.
      const own = 'uid' in mark ? living.find(({ uids: [uid] }) => uid === key) : undefined;
      if (own === undefined && living.length > 1) throw new SpiffeError('denied', 'k8s.pod.ambiguous', 'two pods are meant');
      return own ?? living[0];
    },
    watchPod: (mark) => watchOf(keyOf(mark)),
    put(pod) {
      const entry = byUid.get(pod.uid);
      if (entry === undefined) {
        const made = { pod, removal: undefined };
        byUid.set(pod.uid, made);
        link(made);
        tell(keysOf(pod));
        return;
      }
      const returned = keep(entry);
      const before = entry.pod;
      if (samePod(before, pod)) {
        if (returned) tell(keysOf(pod));
        return;
      }
      unlink(entry);
      entry.pod = pod;
      link(entry);
      tell([...keysOf(before), ...keysOf(pod)]);
    },
    remove(uid) {
      const entry = byUid.get(uid);
      if (entry !== undefined) remove(entry);
    },
    retain(uids) {
      for (const [uid, entry] of byUid) if (!uids.has(uid)) remove(entry);
    },
    close() {
      for (const entry of byUid.values()) keep(entry);
      byUid.clear();
      byKey.clear();
    },
  };
}

/** Of a pod the key of its name: it has a uid as well, but that is among `uids`. */
function keyOf(mark: PodMark): string {
  return 'name' in mark ? `/${mark.namespace}/${mark.name}` : comparableUid(mark.uid);
}

function ambiguous(): SpiffeError {
  return new SpiffeError('denied', 'k8s.container.ambiguous', 'two pods say that the container is theirs');
}
