import { describe, expect, it } from 'vitest';
import { createConnection } from '../../../../../agent/workload/attestors/kubernetes/connection.ts';
import { createKubelet } from '../../../../../agent/workload/attestors/kubernetes/kubelet.ts';
import { createPodIndex } from '../../../../../agent/workload/attestors/kubernetes/pod-index.ts';
import type { PodIndex } from '../../../../../agent/workload/attestors/kubernetes/pod-index.ts';
import type { PodSource } from '../../../../../agent/workload/attestors/kubernetes/source.ts';
import { createKubernetesNode, inContainer } from '../../../../help/kubernetes-node.ts';
import type { KubernetesNode } from '../../../../help/kubernetes-node.ts';
import { podOf, podsOf } from '../../../../help/kubernetes-pods.ts';

interface Setting extends AsyncDisposable {
  readonly node: KubernetesNode;
  readonly index: PodIndex;
  readonly kubelet: PodSource;
  /** Lists begun so far. */
  lists(): number;
  /** A good while of test time, in steps; a list that begins ends before time goes on. */
  pass(ms: number, stepMs?: number): Promise<void>;
}

/** A source that runs, and has listed once. */
async function setting(prepare: (node: KubernetesNode) => void = () => undefined): Promise<Setting> {
  const node = await createKubernetesNode();
  const { clock, cluster, caFile, tokenFile, over } = node;
  const made = createConnection({ clock, url: cluster.url, caFile, tokenFile });
  let lists = 0;
  let stateBefore: unknown;
  const connection: typeof made = {
    ...made,
    ask(path, signal) {
      lists += 1;
      stateBefore = kubelet.state.value;
      return made.ask(path, signal);
    },
  };
  const index = createPodIndex({ clock });
  const kubelet = createKubelet({ clock, random: () => 0.5, connection, index, nodeName: 'node-1' });
  prepare(node);
  const running = kubelet.run(over.signal);
  await node.until(() => kubelet.state.value.syncedAt !== undefined || kubelet.state.value.failure !== undefined);
  return {
    node,
    index,
    kubelet,
    lists: () => lists,
    async pass(ms, stepMs = 50) {
      for (let passed = 0; passed < ms; passed += stepMs) {
        await clock.advance(stepMs);
        await node.until(() => kubelet.state.value !== stateBefore);
      }
    },
    async [Symbol.asyncDispose]() {
      over.abort(new Error('the test is over'));
      await running;
      connection.close();
      await node[Symbol.asyncDispose]();
      expect(clock.sleepers).toBe(0);
    },
  };
}

describe('the kubelet', () => {
  it.each([1, 100, 500])('tells of its %i pods, and of no other node’s', async (count) => {
    const pods = podsOf(count);
    await using all = await setting(({ cluster }) => cluster.setPods(pods));
    const { index, kubelet, lists } = all;
    expect(kubelet.state.value).toEqual({ syncedAt: expect.any(Number) as unknown, failure: undefined });
    expect(index.size.pods).toBe(count);
    for (const pod of pods) expect(index.find(inContainer(pod))?.pod.uid).toBe(pod.metadata.uid);
    expect(lists()).toBe(1);
  });

  it('is not asked while nobody wants anything', async () => {
    await using all = await setting();
    await all.node.clock.advance(3_600_000);
    expect(all.lists()).toBe(1);
    expect(all.node.clock.sleepers).toBe(0);
  });

  it('is asked every half minute while a process of a pod is connected', async () => {
    await using all = await setting(({ cluster }) => cluster.setPod(podOf('a-1')));
    const { node, kubelet, lists, index, pass } = all;
    const [one, other] = [new AbortController(), new AbortController()];
    kubelet.hold(one.signal);
    kubelet.hold(other.signal);
    node.cluster.setPod(podOf('a-1', { labels: { changed: 'yes' } }));
    await pass(120_000, 5_000);
    expect(lists()).toBe(5);
    expect(index.find(inContainer(podOf('a-1')))?.pod.selectors).toContain('k8s:pod-label:changed:yes');
    one.abort();
    await pass(60_000, 5_000);
    expect(lists()).toBe(7);
    other.abort();
    await pass(120_000, 5_000);
    expect(lists()).toBe(7);
  });

  it('is asked at once for what is too old to be told, once for all who ask', async () => {
    await using all = await setting();
    const { node, kubelet, lists } = all;
    const { signal } = new AbortController();
    expect(kubelet.isFresh()).toBe(true);
    await node.clock.advance(30_000);
    expect(kubelet.isFresh()).toBe(false);
    await Promise.all(Array.from({ length: 200 }, () => kubelet.refresh(signal)));
    expect(kubelet.isFresh()).toBe(true);
    expect(lists()).toBe(2);
  });

  it('is asked by 200 who wait at a rate that grows slower, and no more than by one', async () => {
    const counts: number[] = [];
    for (const seekers of [1, 200]) {
      await using all = await setting();
      const { kubelet, lists, pass } = all;
      const over = new AbortController();
      for (let at = 0; at < seekers; at += 1) kubelet.seek(over.signal);
      await pass(10_000);
      counts.push(lists() - 1);
      over.abort();
      await pass(60_000, 5_000);
      expect(lists() - 1).toBe(counts.at(-1));
    }
    expect(counts[0]).toBeGreaterThanOrEqual(4);
    expect(counts[0]).toBeLessThanOrEqual(8);
    expect(counts[1]).toBe(counts[0]);
  });

  it('is asked at most twice a second by those who come one after the other', async () => {
    await using all = await setting();
    const { kubelet, lists, pass } = all;
    for (let at = 0; at < 200; at += 1) {
      kubelet.seek(new AbortController().signal);
      await pass(50);
    }
    // 200 in ten seconds.
    expect(lists() - 1).toBeLessThanOrEqual(21);
    expect(lists() - 1).toBeGreaterThanOrEqual(10);
  });

  it('forgets, after a bound, pods that a whole list does not have', async () => {
    const [one, other] = [podOf('a-1'), podOf('b-1')];
    await using all = await setting(({ cluster }) => cluster.setPods([one, other]));
    const { node, kubelet, index, pass } = all;
    node.cluster.deletePod(one);
    kubelet.hold(new AbortController().signal);
    await pass(30_000, 5_000);
    expect(index.find(inContainer(one))?.until).toBeDefined();
    await pass(10_000, 5_000);
    expect(index.find(inContainer(one))).toBeUndefined();
    expect(index.find(inContainer(other))).toBeDefined();
  });

  it('that breaks off a list has told of some pods and lost none', async () => {
    const pods = podsOf(100);
    await using all = await setting(({ cluster }) => {
      cluster.setPods(pods);
      cluster.fail('/pods', { kind: 'half' });
    });
    const { node, kubelet, index, pass } = all;
    expect(kubelet.state.value).toMatchObject({ syncedAt: undefined, failure: { kind: 'unavailable', reason: 'k8s.source.broken' } });
    expect(index.size.pods).toBeGreaterThan(20);
    expect(index.size.pods).toBeLessThan(80);
    await pass(1_000);
    expect(kubelet.state.value).toMatchObject({ syncedAt: expect.any(Number) as unknown, failure: undefined });
    expect(index.size.pods).toBe(100);
    node.cluster.fail('/pods', { kind: 'half' });
    await node.clock.advance(30_000);
    await kubelet.refresh(new AbortController().signal);
    await node.clock.advance(20_000);
    expect(index.size.pods).toBe(100);
  });

  it.each([
    ['half of JSON', '{"kind":"PodList","items":[{"metadata":', 'k8s.source.answer'],
    ['a page', '<html>', 'k8s.source.answer'],
    ['a list of something else', '{"kind":"NodeList","nodes":[]}', 'k8s.source.answer'],
  ])('that answers with %s fails, and loses no pod', async (_what, body, reason) => {
    await using all = await setting(({ cluster }) => cluster.setPod(podOf('a-1')));
    const { node, kubelet, index } = all;
    node.cluster.fail('/pods', { kind: 'body', body });
    await node.clock.advance(30_000);
    await kubelet.refresh(new AbortController().signal);
    expect(kubelet.state.value.failure).toMatchObject({ kind: 'unavailable', reason });
    await node.clock.advance(20_000);
    expect(index.find(inContainer(podOf('a-1')))).toBeDefined();
  });

  it('that tells one pod wrongly tells the others', async () => {
    const good = podOf('b-1');
    const labels = Object.fromEntries(Array.from({ length: 1_000 }, (_, at) => [`l${String(at)}`, 'x'.repeat(10_000)]));
    await using all = await setting(({ cluster }) => {
      cluster.setPod(podOf('a-1', { labels }));
      cluster.setPod({ ...podOf('a-2'), metadata: { ...podOf('a-2').metadata, uid: 7 as unknown as string } });
      cluster.setPod({ ...podOf('a-3'), status: 'Running' as unknown as ReturnType<typeof podOf>['status'] });
      cluster.setPod(good);
    });
    expect(all.kubelet.state.value.failure).toBeUndefined();
    expect(all.index.find(inContainer(good))?.container).toBeDefined();
    expect(all.index.size.pods).toBe(2);
  });

  it('that fails is asked less and less, and again when it said it would answer', async () => {
    const gone = { kind: 'status', status: 500 } as const;
    await using all = await setting(({ cluster }) => cluster.fail('/pods', ...Array.from({ length: 100 }, () => gone)));
    const { kubelet, lists, pass } = all;
    expect(kubelet.isFresh()).toBe(true);
    await pass(60_000, 250);
    // Half a second, doubled up to fifteen.
    expect(lists()).toBeGreaterThanOrEqual(7);
    expect(lists()).toBeLessThanOrEqual(10);
    expect(kubelet.state.value.failure).toMatchObject({ reason: 'k8s.source.status' });
  });

  it('that says when to come back is left alone until then', async () => {
    await using all = await setting(({ cluster }) => cluster.fail('/pods', { kind: 'status', status: 429, headers: { 'retry-after': '20' } }));
    const { kubelet, lists, pass } = all;
    kubelet.seek(new AbortController().signal);
    await pass(19_000, 1_000);
    expect(lists()).toBe(1);
    await pass(1_000, 500);
    expect(lists()).toBe(2);
    expect(kubelet.state.value.failure).toBeUndefined();
  });

  it('that is slow is given up, and keeps nobody', async () => {
    await using all = await setting(({ cluster }) => cluster.setPod(podOf('a-1')));
    const { node, kubelet, pass } = all;
    node.cluster.fail('/pods', { kind: 'hold', until: new Promise(() => undefined) });
    await node.clock.advance(30_000);
    const enough = new AbortController();
    const waited = kubelet.refresh(enough.signal);
    await node.until(() => node.cluster.requests.length === 2);
    enough.abort();
    await waited;
    await node.clock.advance(10_000);
    await node.until(() => kubelet.state.value.failure !== undefined);
    expect(kubelet.state.value.failure).toMatchObject({ reason: 'k8s.source.deadline' });
    await pass(1_000, 250);
    expect(kubelet.state.value.failure).toBeUndefined();
    await node.until(() => node.cluster.connections <= 1);
  });
});
