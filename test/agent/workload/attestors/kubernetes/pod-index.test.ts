import { describe, expect, it } from 'vitest';
import { createPodIndex } from '../../../../../agent/workload/attestors/kubernetes/pod-index.ts';
import type { PodIndex } from '../../../../../agent/workload/attestors/kubernetes/pod-index.ts';
import { readPod } from '../../../../../agent/workload/attestors/kubernetes/pod.ts';
import type { Pod } from '../../../../../agent/workload/attestors/kubernetes/pod.ts';
import type { ContainerRef } from '../../../../../agent/workload/container.ts';
import { createTestClock } from '../../../../help/clock.ts';
import type { TestClock } from '../../../../help/clock.ts';
import { hexOf, podOf, podsOf, uidOf } from '../../../../help/kubernetes-pods.ts';
import type { PodForm, PodObject } from '../../../../help/kubernetes-pods.ts';

function podFrom(name: string, form: PodForm = {}, change: (pod: PodObject) => void = () => undefined): Pod {
  const object = podOf(name, form);
  change(object);
  return readPod(object);
}

function refTo(pod: Pod, podUid: string | undefined = pod.uid): ContainerRef {
  return { id: [...pod.containers.keys()][0] ?? hexOf('none'), runtime: 'containerd', podUid, ownerUid: undefined };
}

function setting(): { clock: TestClock; index: PodIndex } {
  const clock = createTestClock();
  return { clock, index: createPodIndex({ clock, deletedMs: 10_000 }) };
}

describe('find', () => {
  it('finds a pod by container id, whether or not the cgroup names the pod', () => {
    const { index } = setting();
    const pods = podsOf(500).map((pod) => readPod(pod));
    for (const pod of pods) index.put(pod);
    for (const pod of pods) {
      for (const ref of [refTo(pod), { ...refTo(pod), podUid: undefined }, refTo(pod, pod.uid.replaceAll('-', ''))]) {
        expect(index.find(ref)).toEqual({ pod, container: pod.containers.get(ref.id), until: undefined });
      }
    }
    expect(index.find({ ...refTo(pods[0]!), id: hexOf('unknown'), podUid: undefined })).toBeUndefined();
    expect(index.find({ ...refTo(pods[0]!), id: hexOf('unknown'), podUid: uidOf('unknown') })).toBeUndefined();
  });

  it('finds the pod that the cgroup names before it shows the container', () => {
    const { index } = setting();
    const pod = podFrom('a-1', { pending: true });
    index.put(pod);
    expect(index.find(refTo(pod))).toEqual({ pod, container: undefined, until: undefined });
  });

  it('denies a container that another pod shows than the cgroup names', () => {
    const { index } = setting();
    const [one, other] = [podFrom('a-1'), podFrom('b-1')];
    index.put(one);
    index.put(other);
    expect(() => index.find(refTo(one, other.uid))).toThrow(expect.objectContaining({ kind: 'denied', reason: 'k8s.pod.mismatch' }));
    expect(() => index.find(refTo(one, uidOf('nobody')))).toThrow(expect.objectContaining({ reason: 'k8s.pod.mismatch' }));
  });

  it('denies a container that two pods show, unless the cgroup tells whose it is', () => {
    const { index } = setting();
    const one = podFrom('a-1');
    const thief = podFrom('b-1', {}, (pod) => (pod.status.containerStatuses![0]!.containerID = `containerd://${refTo(one).id}`));
    index.put(thief);
    index.put(one);
    expect(() => index.find({ ...refTo(one), podUid: undefined })).toThrow(expect.objectContaining({ kind: 'denied', reason: 'k8s.container.ambiguous' }));
    expect(index.find(refTo(one))?.pod).toBe(one);
  });

  it('finds a static pod by what stands for it, and by nothing that only says so', () => {
    const { index } = setting();
    const hash = 'd31d4d8a3d3c2ac1b3a5e6f1f0a0b1c2';
    const mirror = podFrom('kube-proxy-node-1', {}, (pod) => (pod.metadata.annotations = { 'kubernetes.io/config.mirror': hash }));
    index.put(mirror);
    expect(index.find(refTo(mirror, hash))?.pod).toBe(mirror);
    const pending = podFrom('a-1', { pending: true });
    const liar = podFrom('b-1', {}, (pod) => (pod.metadata.annotations = { 'kubernetes.io/config.mirror': pending.uid }));
    index.put(liar);
    index.put(pending);
    expect(index.find(refTo(pending))?.pod).toBe(pending);
    index.put(podFrom('c-1', {}, (pod) => (pod.metadata.annotations = { 'kubernetes.io/config.mirror': hash })));
    expect(() => index.find({ ...refTo(mirror, hash), id: hexOf('new') })).toThrow(expect.objectContaining({ reason: 'k8s.container.ambiguous' }));
  });

  it('finds the container of the pod as it is now', () => {
    const { index } = setting();
    const before = podFrom('a-1');
    const after = podFrom('a-1', {}, (pod) => (pod.status.containerStatuses![0]!.containerID = `containerd://${hexOf('restarted')}`));
    index.put(before);
    index.put(after);
    expect(index.find({ ...refTo(before), podUid: undefined })).toBeUndefined();
    expect(index.find(refTo(after))?.container?.name).toBe('app');
    expect(index.size).toEqual({ pods: 1, containers: 1, watched: 0 });
  });
});

describe('what is deleted', () => {
  it('is kept for its bound and says so, then forgotten and told', async () => {
    const { index, clock } = setting();
    const pod = podFrom('a-1');
    index.put(pod);
    const watch = index.watch(refTo(pod));
    let told = watch.value;
    index.remove(pod.uid);
    expect(watch.value).not.toBe(told);
    told = watch.value;
    await clock.advance(9_999);
    const found = index.find(refTo(pod));
    expect(found).toMatchObject({ pod, until: expect.any(Promise) as unknown });
    expect(watch.value).toBe(told);
    await clock.advance(1);
    await found!.until;
    expect(watch.value).not.toBe(told);
    expect(index.find(refTo(pod))).toBeUndefined();
    expect(index.size).toMatchObject({ pods: 0, containers: 0 });
  });

  it('stays when it comes again', async () => {
    const { index, clock } = setting();
    const pod = podFrom('a-1');
    index.put(pod);
    index.remove(pod.uid);
    await clock.advance(9_000);
    const watch = index.watch(refTo(pod));
    const told = watch.value;
    index.put(pod);
    expect(watch.value).not.toBe(told);
    await clock.advance(60_000);
    expect(index.find(refTo(pod))).toMatchObject({ pod, until: undefined });
    expect(clock.sleepers).toBe(0);
  });

  it('gives way to a pod that lives', () => {
    const { index } = setting();
    const hash = 'd31d4d8a3d3c2ac1b3a5e6f1f0a0b1c2';
    const mirrorOf = (uid: string): Pod => podFrom('kube-proxy-node-1', {}, (pod) => {
      pod.metadata.uid = uid;
      pod.metadata.annotations = { 'kubernetes.io/config.mirror': hash };
    });
    const [old, next] = [mirrorOf(uidOf('1')), mirrorOf(uidOf('2'))];
    index.put(old);
    index.remove(old.uid);
    expect(index.find(refTo(old, hash))?.pod).toBe(old);
    index.put(next);
    expect(index.find(refTo(old, hash))).toMatchObject({ pod: next, until: undefined });
  });

  it('is whatever a new list does not have', async () => {
    const { index, clock } = setting();
    const [one, other] = [podFrom('a-1'), podFrom('b-1')];
    index.put(one);
    index.put(other);
    index.retain(new Set([other.uid]));
    expect(index.find(refTo(one))?.until).toBeDefined();
    expect(index.find(refTo(other))?.until).toBeUndefined();
    await clock.advance(10_000);
    expect(index.size).toMatchObject({ pods: 1 });
  });
});

describe('watch', () => {
  it('tells of changes that matter to the container, and of no others', () => {
    const { index } = setting();
    const [pod, other] = [podFrom('a-1'), podFrom('b-1')];
    index.put(pod);
    index.put(other);
    const watch = index.watch(refTo(pod));
    const values = new Set([watch.value]);
    const count = (): number => values.add(watch.value).size;
    index.put(podFrom('a-1', {}, (copy) => (copy.metadata.resourceVersion = '77')));
    index.put(podFrom('b-1', { labels: { changed: 'yes' } }));
    expect(count()).toBe(1);
    index.put(podFrom('a-1', { labels: { changed: 'yes' } }));
    expect(count()).toBe(2);
    index.put(podFrom('a-1', { labels: { changed: 'yes' }, serviceAccount: 'other' }));
    expect(count()).toBe(3);
  });

  it('tells when a pod shows a container that was asked for before', () => {
    for (const named of [true, false]) {
      const { index } = setting();
      const [pending, running] = [podFrom('a-1', { pending: true }), podFrom('a-1')];
      const ref = refTo(running, named ? running.uid : undefined);
      const watch = index.watch(ref);
      const before = watch.value;
      index.put(pending);
      index.put(running);
      expect(watch.value).not.toBe(before);
      expect(index.find(ref)?.container).toBeDefined();
    }
  });

  it('is told when a container leaves the pod', () => {
    const { index } = setting();
    const pod = podFrom('a-1');
    index.put(pod);
    const watch = index.watch(refTo(pod));
    const before = watch.value;
    index.put(podFrom('a-1', { pending: true }));
    expect(watch.value).not.toBe(before);
  });
});

describe('its size', () => {
  it('stays the same over any churn', async () => {
    const { index, clock } = setting();
    for (let round = 0; round < 4; round += 1) {
      const uids = new Set<string>();
      for (let at = 0; at < 100; at += 1) {
        const pod = podFrom(`churn-${String(round)}x${String(at)}`);
        uids.add(pod.uid);
        index.put(pod);
        index.watch(refTo(pod));
      }
      index.retain(uids);
      expect(index.size.pods).toBe(round === 0 ? 100 : 200);
      await clock.advance(10_000);
      expect(index.size).toMatchObject({ pods: 100, containers: 100 });
    }
    for (let at = 0; at < 5_000; at += 1) index.watch({ id: hexOf(String(at)), runtime: 'containerd', podUid: undefined, ownerUid: undefined });
    expect(index.size.watched).toBe(4_096);
    index.retain(new Set());
    await clock.advance(10_000);
    expect(index.size).toMatchObject({ pods: 0, containers: 0 });
    expect(clock.sleepers).toBe(0);
  });

  it('is nothing after its end, and nothing sleeps on', () => {
    const { index, clock } = setting();
    const pod = podFrom('a-1');
    index.put(pod);
    index.remove(pod.uid);
    expect(clock.sleepers).toBe(1);
    index.close();
    expect(clock.sleepers).toBe(0);
    expect(index.size).toMatchObject({ pods: 0, containers: 0 });
  });
});
