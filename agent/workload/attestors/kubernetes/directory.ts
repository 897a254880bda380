/**
 * Pods of this node by name or uid, for whoever refers to one: found as of now, pinned, and followed until the pod is gone or
 * its name is another's. Processes of pods are the attestor's subject; who may refer to pods is decided elsewhere.
 */
import { linkedController } from '../../../../runtime/abort.ts';
import type { Clock } from '../../../../runtime/clock.ts';
import { createWatch, type Watch } from '../../../../runtime/watch.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';
import { comparableUid, type Pod } from './pod.ts';
import type { PodIndex, PodMark } from './pod-index.ts';
import type { PodSource } from './source.ts';

/** By name, by uid, or by both, which must mean the same pod. */
export interface PodReference {
  readonly key: { readonly namespace: string; readonly name: string } | undefined;
  readonly uid: string | undefined;
}

/** Closed by whoever opened it. */
export interface PinnedPod {
  readonly uid: string;
  /** The pod as it is now; closes with missing `k8s.pod.gone` when it is not what was referred to any more. */
  readonly watch: Watch<Pod>;
  /** @throws missing `k8s.pod.gone` */
  requireStill(): void;
  close(): void;
}

export interface PodDirectory {
  /**
   * @param signal ends the search, and nothing after it
   * @throws missing `k8s.pod.unknown|other-uid`; denied `k8s.pod.ambiguous`; unavailable as the source fails
   */
  open(reference: PodReference, signal: AbortSignal): Promise<PinnedPod>;
}

export interface PodDirectoryOptions {
  readonly clock: Clock;
  readonly index: Pick<PodIndex, 'pod' | 'watchPod'>;
  readonly source: Pick<PodSource, 'state' | 'refresh' | 'hold'>;
}

/** For a source that has to be asked. */
const REFRESH_MS = 2_000;
/** Looked at again after this, whatever the index tells: it forgets whom to tell when very many wait. */
const LOOK_MS = 60_000;

export function createPodDirectory(options: PodDirectoryOptions): PodDirectory {
  const { clock, index, source } = options;

  const refresh = async (signal: AbortSignal): Promise<void> => {
    const stop = linkedController(signal);
    void clock.sleep(REFRESH_MS, stop.signal).then(
      () => stop.abort(new Error('waited enough')),
      () => undefined,
    );
    await source.refresh(stop.signal);
    stop.abort(new Error('known'));
    stop.unlink();
  };

  /** @throws missing `k8s.pod.unknown|other-uid` */
  const find = ({ key, uid }: PodReference): Pod => {
    const pod = key === undefined ? undefined : index.pod(key);
    const found = pod ?? (key === undefined && uid !== undefined ? index.pod({ uid }) : undefined);
    if (found === undefined) throw new SpiffeError('missing', 'k8s.pod.unknown', 'this node has no such pod');
    if (uid !== undefined && !found.uids.includes(comparableUid(uid))) {
      throw new SpiffeError('missing', 'k8s.pod.other-uid', 'the pod of this name has another uid');
    }
    return found;
  };

  return {
    async open(reference, signal) {
      // What a name stands for has to be known as of now, and so has whether there is a pod at all.
      await refresh(signal);
      signal.throwIfAborted();
      const { failure } = source.state.value;
      if (failure !== undefined) throw failure;
      return pin({ clock, index, source, reference, find }, find(reference));
    },
  };
}

interface Pinning extends PodDirectoryOptions {
  readonly reference: PodReference;
  readonly find: (reference: PodReference) => Pod;
}

function pin({ clock, index, source, reference, find }: Pinning, pod: Pod): PinnedPod {
  const watch = createWatch(pod);
  const over = new AbortController();
  source.hold(over.signal);

  const look = (): Pod => {
    let now: Pod | undefined;
    try {
      now = find(reference);
    } catch {
      // Whatever the reason, it stands for this pod no more.
    }
    if (now?.uid === pod.uid) return now;
    throw new SpiffeError('missing', 'k8s.pod.gone', 'the pod that was referred to is gone');
  };

  const marks: readonly PodMark[] = [{ uid: pod.uid }, ...(reference.key === undefined ? [] : [reference.key])];
  const follow = async (): Promise<void> => {
    while (!over.signal.aborted) {
      // Before looking, so that no change falls in between.
      const seen = marks.map((mark) => {
        const told = index.watchPod(mark);
        return { told, value: told.value };
      });
      const now = look();
      if (now !== watch.value) watch.set(now);
      const turn = linkedController(over.signal);
      const waits = seen.map(({ told, value }) => otherThan(told, value, turn.signal));
      waits.push(clock.sleep(LOOK_MS, turn.signal).catch(() => undefined));
      await Promise.race(waits);
      turn.abort(new Error('another look'));
      turn.unlink();
      await Promise.allSettled(waits);
    }
  };
  const close = (error?: Error): void => {
    over.abort(new Error('nobody refers to the pod any more'));
    watch.close(error);
  };
  void follow().then(
    () => close(),
    (error: unknown) => close(error instanceof Error ? error : new Error('following the pod failed')),
  );
  return { uid: pod.uid, watch, requireStill: () => void look(), close: () => close() };
}

/** Returns also when the signal aborts. */
async function otherThan<T>(watch: Watch<T>, than: T, signal: AbortSignal): Promise<void> {
  for await (const value of watch.values(signal)) if (value !== than) return;
}
