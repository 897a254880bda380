/**
 * A list of pods on its way from a server into the index: each pod as soon as it is there. Which pods are gone is known
 * only once all of the list was read, and left to the caller.
 */
import type { HttpStream } from '../../../../runtime/http.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';
import { createPace } from './pace.ts';
import type { PodIndex } from './pod-index.ts';
import { createPodListReader } from './pod-list.ts';
import type { PodListHead } from './pod-list.ts';
import { readPod } from './pod.ts';
import type { Pod, PodReading } from './pod.ts';

export interface ListReading extends PodReading {
  readonly index: Pick<PodIndex, 'put'>;
  readonly maxBytes: number;
}

export interface ListRead extends PodListHead {
  readonly uids: ReadonlySet<string>;
  readonly bytes: number;
}

/**
 * A pod that cannot be read is passed over, and the others are not.
 * @throws unavailable `k8s.source.answer`, `k8s.source.too-large`; as `HttpStream.pieces`
 */
export async function readList(answer: HttpStream, reading: ListReading): Promise<ListRead> {
  const reader = createPodListReader();
  const uids = new Set<string>();
  let bytes = 0;
  const pace = createPace();
  for await (const piece of answer.pieces()) {
    bytes += piece.length;
    if (bytes > reading.maxBytes) throw new SpiffeError('unavailable', 'k8s.source.too-large', 'the list of pods is larger than is read');
    for (const item of reader.feed(piece)) {
      const pod = podFrom(item, reading);
      if (pod === undefined) continue;
      uids.add(pod.uid);
      reading.index.put(pod);
    }
    await pace(piece.length);
  }
  return { ...reader.end(), uids, bytes };
}

/** @returns undefined for what is no pod of this node */
export function podFrom(value: unknown, reading: PodReading): Pod | undefined {
  try {
    return readPod(value, reading);
  } catch (error) {
    if (error instanceof SpiffeError) return undefined;
    throw error;
  }
}
