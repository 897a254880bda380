/**
 * The seam between what is known of a node's pods and where it is learnt: a source keeps an index of pods true, and tells
 * how it fares. The two there are ask the kubelet and the API server.
 */
import type { SpiffeError } from '../../../../spiffe/errors.ts';
import type { Watch } from '../../../../runtime/watch.ts';

export interface SourceState {
  /** On the monotonic clock: when all pods were last known; undefined before the first time. */
  readonly syncedAt: number | undefined;
  /** What the source fails with at the moment, always of kind unavailable. */
  readonly failure: SpiffeError | undefined;
}

/** Signals passed to it are listened to until they abort. */
export interface PodSource {
  readonly state: Watch<SourceState>;
  /** Learns until the signal aborts; resolves then, and never rejects. To be called once. */
  run(signal: AbortSignal): Promise<void>;
  /** Whether the index is as true as this source makes it for anybody who asks, or has just failed to become so. */
  isFresh(): boolean;
  /** Resolves when it is, or was tried to be, and when the signal aborts. */
  refresh(signal: AbortSignal): Promise<void>;
  /** Somebody waits for a container that is not in the index, until the signal aborts. */
  seek(signal: AbortSignal): void;
  /** A process of a pod is connected, until the signal aborts. */
  hold(signal: AbortSignal): void;
}
