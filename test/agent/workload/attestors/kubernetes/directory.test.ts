import { beforeEach, describe, expect, it } from 'vitest';
import { createPodDirectory, type PodDirectory, type PodReference } from '../../../../../agent/workload/attestors/kubernetes/directory.ts';
import { createPodIndex, type PodIndex } from '../../../../../agent/workload/attestors/kubernetes/pod-index.ts';
import { readPod, type Pod } from '../../../../../agent/workload/attestors/kubernetes/pod.ts';
import type { PodSource, SourceState } from '../../../../../agent/workload/attestors/kubernetes/source.ts';
import { createWatch, type WatchSource } from '../../../../../runtime/watch.ts';
import { SpiffeError } from '../../../../../spiffe/errors.ts';
import { createTestClock, type TestClock } from '../../../../help/clock.ts';
import { podOf, uidOf } from '../../../../help/kubernetes-pods.ts';

const signal = new AbortController().signal;
const gone = { kind: 'missing', reason: 'k8s.pod.gone' };
const key = { namespace: 'shop', name: 'cart-1' };

let clock: TestClock;
let index: PodIndex;
let state: WatchSource<SourceState>;
let holds: number;
let refreshes: number;
let onRefresh: () => void;
let directory: PodDirectory;

function podNamed(name: string, uid?: string, annotations?: Record<string, string>): Pod {
  const object = podOf(name, { namespace: 'shop' });
  if (uid !== undefined) object.metadata.uid = uid;
  if (annotations !== undefined) object.metadata.annotations = annotations;
  return readPod(object);
}

beforeEach(() => {
  clock = createTestClock();
  index = createPodIndex({ clock });
  state = createWatch<SourceState>({ syncedAt: 0, failure: undefined });
  [holds, refreshes, onRefresh] = [0, 0, () => undefined];
  const source: Pick<PodSource, 'state' | 'refresh' | 'hold'> = {
    state,
    async refresh() {
      refreshes += 1;
      onRefresh();
    },
    hold(held) {
      holds += 1;
      held.addEventListener('abort', () => (holds -= 1), { once: true });
    },
  };
  directory = createPodDirectory({ clock, index, source });
});

const open = (reference: Partial<PodReference>): ReturnType<PodDirectory['open']> => directory.open({ key: undefined, uid: undefined, ...reference }, signal);

describe('BRK-13: a pod is found', () => {
  it.each([
    ['by its name', (_pod: Pod) => ({ key })],
    ['by its uid', (pod: Pod) => ({ uid: pod.uid })],
    ['by its uid in capitals', (pod: Pod) => ({ uid: pod.uid.toUpperCase() })],
    ['by both', (pod: Pod) => ({ key, uid: pod.uid })],
  ])('%s, as of now', async (_how, referenceOf) => {
    const pod = podNamed('cart-1');
    // Only the source knows of it.
    onRefresh = () => index.put(pod);
    const pinned = await open(referenceOf(pod));
    expect([pinned.uid, pinned.watch.value, refreshes, holds]).toEqual([pod.uid, pod, 1, 1]);
    pinned.requireStill();
    pinned.close();
    await clock.settle();
    expect(holds).toBe(0);
  });

  it.each([
    ['another name', { key: { namespace: 'shop', name: 'cart-2' } }, 'k8s.pod.unknown'],
    ['the name in another namespace', { key: { namespace: 'default', name: 'cart-1' } }, 'k8s.pod.unknown'],
    ['another uid', { uid: uidOf('nobody') }, 'k8s.pod.unknown'],
    ['the name with another uid', { key, uid: uidOf('nobody') }, 'k8s.pod.other-uid'],
    ['another name with its uid', { key: { namespace: 'shop', name: 'cart-2' }, uid: podNamed('cart-1').uid }, 'k8s.pod.unknown'],
  ])('and not by %s', async (_what, reference, reason) => {
    index.put(podNamed('cart-1'));
    await expect(open(reference)).rejects.toMatchObject({ kind: 'missing', reason });
  });

  it('by a name that two have: not at all', async () => {
    index.put(podNamed('cart-1'));
    index.put(podNamed('cart-1', uidOf('second')));
    await expect(open({ key })).rejects.toMatchObject({ kind: 'denied', reason: 'k8s.pod.ambiguous' });
  });

  it('by a uid that another says it stands for: only the one who has it', async () => {
    const pod = podNamed('cart-1');
    index.put(podNamed('liar-1', uidOf('liar'), { 'kubernetes.io/config.mirror': pod.uid }));
    index.put(pod);
    expect((await open({ uid: pod.uid })).watch.value).toBe(pod);
  });

  it('not while the source cannot be asked, whatever is remembered', async () => {
    index.put(podNamed('cart-1'));
    state.set({ syncedAt: 0, failure: new SpiffeError('unavailable', 'k8s.source.broken', 'away') });
    await expect(open({ key })).rejects.toMatchObject({ kind: 'unavailable', reason: 'k8s.source.broken' });
  });
});

describe('BRK-27: it is gone', () => {
  const ended = async (watch: { values(signal: AbortSignal): AsyncIterable<Pod> }): Promise<unknown> => {
    try {
      for await (const _ of watch.values(signal));
      return 'ended';
    } catch (error) {
      return error;
    }
  };

  it('when it is deleted, without a moment for what its processes have to do still', async () => {
    const pod = podNamed('cart-1');
    index.put(pod);
    const [byName, byUid] = [await open({ key }), await open({ uid: pod.uid })];
    index.remove(pod.uid);
    for (const pinned of [byName, byUid]) {
      expect(() => pinned.requireStill()).toThrow(expect.objectContaining(gone));
      await expect(ended(pinned.watch)).resolves.toMatchObject(gone);
    }
    expect(holds).toBe(0);
  });

  it('when its name is another’s, though it is there itself', async () => {
    const pod = podNamed('cart-1');
    index.put(pod);
    const [byName, byUid] = [await open({ key }), await open({ uid: pod.uid })];
    index.put(podNamed('cart-1', uidOf('second')));
    expect(() => byName.requireStill()).toThrow(expect.objectContaining(gone));
    await expect(ended(byName.watch)).resolves.toMatchObject(gone);
    byUid.requireStill();
    byUid.close();
  });

  it('and the pod that takes its name is nobody that was referred to', async () => {
    const pod = podNamed('cart-1');
    index.put(pod);
    const pinned = await open({ key });
    index.remove(pod.uid);
    index.put(podNamed('cart-1', uidOf('second')));
    expect(() => pinned.requireStill()).toThrow(expect.objectContaining(gone));
    await expect(ended(pinned.watch)).resolves.toMatchObject(gone);
    expect((await open({ key })).uid).toBe(uidOf('second'));
  });
});

it('a pod that changes is followed', async () => {
  const pod = podNamed('cart-1');
  index.put(pod);
  const pinned = await open({ uid: pod.uid });
  const object = podOf('cart-1', { namespace: 'shop' });
  object.metadata.labels = { tier: 'gold' };
  index.put(readPod(object));
  await clock.settle();
  expect(pinned.watch.value.selectors).toContain('k8s:pod-label:tier:gold');
  pinned.close();
});
