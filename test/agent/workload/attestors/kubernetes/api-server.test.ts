import { describe, expect, it } from 'vitest';
import { createApiServer } from '../../../../../agent/workload/attestors/kubernetes/api-server.ts';
import { createConnection } from '../../../../../agent/workload/attestors/kubernetes/connection.ts';
import { createPodIndex } from '../../../../../agent/workload/attestors/kubernetes/pod-index.ts';
import type { PodIndex } from '../../../../../agent/workload/attestors/kubernetes/pod-index.ts';
import type { PodSource } from '../../../../../agent/workload/attestors/kubernetes/source.ts';
import type { ClusterOptions, ClusterRequest } from '../../../../help/kubernetes.ts';
import { createKubernetesNode, inContainer } from '../../../../help/kubernetes-node.ts';
import type { KubernetesNode } from '../../../../help/kubernetes-node.ts';
import { hexOf, podOf, podsOf } from '../../../../help/kubernetes-pods.ts';
import type { PodObject } from '../../../../help/kubernetes-pods.ts';

interface Setting extends AsyncDisposable {
  readonly node: KubernetesNode;
  readonly index: PodIndex;
  readonly source: PodSource;
  lists(): readonly ClusterRequest[];
  watches(): readonly ClusterRequest[];
  /** Waits until the index finds the pod's container. */
  shows(pod: PodObject): Promise<void>;
}

/** A source that runs; without `fails` it has listed, and watches. */
async function setting(prepare: (node: KubernetesNode) => void = () => undefined, options: ClusterOptions & { readonly fails?: true } = {}): Promise<Setting> {
  const node = await createKubernetesNode(options);
  const { clock, cluster, caFile, tokenFile, over } = node;
  const connection = createConnection({ clock, url: cluster.url, caFile, tokenFile });
  const index = createPodIndex({ clock });
  const source = createApiServer({ clock, random: () => 0.5, connection, index, nodeName: 'node-1' });
  prepare(node);
  const running = source.run(over.signal);
  await node.until(() => (options.fails === true ? source.state.value.failure !== undefined : cluster.watches === 1));
  const asked = (watch: boolean): readonly ClusterRequest[] =>
    cluster.requests.filter(({ path, query }) => path === '/api/v1/pods' && query.has('watch') === watch);
  return {
    node,
    index,
    source,
    lists: () => asked(false),
    watches: () => asked(true),
    shows: (pod) => node.until(() => index.find(inContainer(pod))?.container !== undefined),
    async [Symbol.asyncDispose]() {
      over.abort(new Error('the test is over'));
      await running;
      connection.close();
      index.close();
      await node.until(() => cluster.connections === 0);
      await node[Symbol.asyncDispose]();
      expect(clock.sleepers).toBe(0);
    },
  };
}

describe('the list', () => {
  it.each([[1, 1], [100, 1], [500, 2]])('of %i pods of this node comes in %i parts', async (count, parts) => {
    const pods = podsOf(count);
    await using all = await setting(({ cluster }) => cluster.setPods([...pods, ...podsOf(20, 'node-2').map((pod) => ({ ...pod, metadata: { ...pod.metadata, namespace: 'other' } }))]));
    expect(all.lists()).toHaveLength(parts);
    expect(all.index.size.pods).toBe(count);
    for (const pod of pods) expect(all.index.find(inContainer(pod))?.pod.uid).toBe(pod.metadata.uid);
    expect(all.source.state.value).toEqual({ syncedAt: expect.any(Number) as unknown, failure: undefined });
    const [first] = all.lists();
    expect(Object.fromEntries(first!.query)).toEqual({ fieldSelector: 'spec.nodeName=node-1', limit: '250', resourceVersion: '0', resourceVersionMatch: 'NotOlderThan' });
    expect(Object.fromEntries(all.watches()[0]!.query)).toEqual({
      fieldSelector: 'spec.nodeName=node-1', watch: '1', allowWatchBookmarks: 'true', resourceVersion: all.node.cluster.version, timeoutSeconds: '300',
    });
  });

  it('begins anew when its rest is gone', async () => {
    const pods = podsOf(300);
    await using all = await setting(({ cluster }) => {
      cluster.setPods(pods);
      // The first part is let through.
      cluster.fail('/api/v1/pods', { kind: 'hold', until: Promise.resolve() }, { kind: 'status', status: 410 });
    });
    expect(all.index.size.pods).toBe(300);
    expect(all.lists().map(({ query }) => [query.get('resourceVersion'), query.has('continue')])).toEqual([['0', false], [null, true], [null, false], [null, true]]);
  });

  it.each([
    [{ kind: 'status', status: 401 }, 'k8s.source.unauthorized'],
    [{ kind: 'status', status: 403 }, 'k8s.source.forbidden'],
    [{ kind: 'status', status: 500 }, 'k8s.source.status'],
    [{ kind: 'status', status: 429, headers: { 'retry-after': '3' } }, 'k8s.source.throttled'],
    [{ kind: 'half' }, 'k8s.source.broken'],
    [{ kind: 'drop' }, 'k8s.source.broken'],
    [{ kind: 'body', body: '{"items":[{"metadata"' }, 'k8s.source.answer'],
    [{ kind: 'body', body: '{"kind":"PodList","metadata":{},"items":[]}' }, 'k8s.source.answer'],
  ] as const)('that fails with %j is told, and asked for again', async (fault, reason) => {
    await using all = await setting(({ cluster }) => {
      cluster.setPods(podsOf(3));
      cluster.fail('/api/v1/pods', fault);
    }, { fails: true });
    const { node, source, index } = all;
    expect(source.state.value).toMatchObject({ syncedAt: undefined, failure: { kind: 'unavailable', reason } });
    expect(source.isFresh()).toBe(true);
    if (reason === 'k8s.source.throttled') {
      await node.clock.advance(2_999);
      expect(all.lists()).toHaveLength(1);
    }
    await node.pass(() => source.state.value.failure === undefined, 5_000);
    expect(index.size.pods).toBe(3);
  });

  it('that fails again and again is asked for less and less', async () => {
    await using all = await setting(({ cluster }) => cluster.fail('/api/v1/pods', ...Array.from({ length: 100 }, () => ({ kind: 'status', status: 500 }) as const)), { fails: true });
    const { node, source } = all;
    for (const gapMs of [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
      const [before, asked] = [source.state.value, all.lists().length];
      await node.clock.advance(gapMs - 1);
      expect(all.lists()).toHaveLength(asked);
      await node.clock.advance(1);
      await node.until(() => source.state.value !== before);
      expect(all.lists()).toHaveLength(asked + 1);
    }
  });
});

describe('the watch', () => {
  it('tells of a pod’s container as soon as its status does, without a question', async () => {
    await using all = await setting();
    const { node, index } = all;
    const pod = podOf('a-1');
    node.cluster.setPod(podOf('a-1', { pending: true }));
    await node.until(() => index.find(inContainer(pod)) !== undefined);
    expect(index.find(inContainer(pod))?.container).toBeUndefined();
    node.cluster.setPod(pod);
    await all.shows(pod);
    expect(node.cluster.requests).toHaveLength(2);
    expect(all.source.isFresh()).toBe(true);
  });

  it('tells of changes and deletions, and of no other node’s pods', async () => {
    await using all = await setting(({ cluster }) => cluster.setPods([podOf('a-1'), podOf('b-1')]));
    const { node, index } = all;
    node.cluster.setPod(podOf('a-1', { labels: { tier: 'gold' } }));
    node.cluster.deletePod(podOf('b-1'));
    node.cluster.setPod(podOf('c-1', { nodeName: 'node-2' }));
    await node.until(() => index.find(inContainer(podOf('b-1')))?.until !== undefined);
    expect(index.find(inContainer(podOf('a-1')))?.pod.selectors).toContain('k8s:pod-label:tier:gold');
    await node.clock.advance(10_000);
    expect(index.find(inContainer(podOf('b-1')))).toBeUndefined();
    expect(index.size.pods).toBe(1);
  });

  it.each(['end', 'drop', 500] as const)('that ends (%s) goes on where it was, and misses nothing', async (how) => {
    await using all = await setting(({ cluster }) => cluster.setPod(podOf('a-1')));
    const { node, source } = all;
    await node.clock.advance(5_000);
    node.cluster.setPod(podOf('b-1'));
    await all.shows(podOf('b-1'));
    const { version } = node.cluster;
    node.cluster.endWatches(how);
    node.cluster.setPod(podOf('c-1'));
    node.cluster.deletePod(podOf('a-1'));
    await node.pass(() => all.index.find(inContainer(podOf('c-1')))?.container !== undefined, 2_000);
    expect(all.lists()).toHaveLength(1);
    expect(all.watches().map(({ query }) => query.get('resourceVersion')).at(-1)).toBe(version);
    expect(all.index.find(inContainer(podOf('a-1')))?.until).toBeDefined();
    // A watch that goes on at once was never away.
    expect(source.state.value.failure).toBeUndefined();
  });

  it('goes on from a bookmark, which saves what was before it', async () => {
    await using all = await setting(({ cluster }) => cluster.setPod(podOf('a-1')));
    const { node } = all;
    node.cluster.setPods(podsOf(5, 'node-2'));
    node.cluster.bookmark();
    const { version } = node.cluster;
    await node.clock.advance(5_000);
    node.cluster.endWatches('end');
    await node.until(() => all.watches().length === 2 && node.cluster.watches === 1);
    expect(all.watches()[1]!.query.get('resourceVersion')).toBe(version);
    expect(all.lists()).toHaveLength(1);
  });

  it.each(['status', 'event'] as const)('whose place is gone, told as %s, lists anew: from nothing older, and removes what is gone', async (goneAs) => {
    await using all = await setting(({ cluster }) => cluster.setPods([podOf('a-1'), podOf('b-1')]), { goneAs });
    const { node, index } = all;
    await node.clock.advance(5_000);
    node.cluster.endWatches('end');
    node.cluster.deletePod(podOf('a-1'));
    node.cluster.setPod(podOf('c-1'));
    node.cluster.compact();
    await all.shows(podOf('c-1'));
    await node.until(() => node.cluster.watches === 1);
    expect(index.find(inContainer(podOf('a-1')))?.until).toBeDefined();
    expect(index.find(inContainer(podOf('b-1')))?.until).toBeUndefined();
    expect(all.lists().map(({ query }) => query.get('resourceVersion'))).toEqual(['0', null]);
    // Without having waited.
    expect(all.source.state.value.failure).toBeUndefined();
  });

  it('that says in its midst that its place is gone lists anew', async () => {
    await using all = await setting(({ cluster }) => cluster.setPod(podOf('a-1')));
    all.node.cluster.endWatches(410);
    await all.node.until(() => all.node.cluster.watches === 1);
    expect(all.lists()).toHaveLength(2);
  });

  it.each([{ kind: 'status', status: 504 }, { kind: 'body', body: '{"type":"ERROR","object":{"kind":"Status","code":504}}\n' }] as const)(
    'from a version that the server never had (%j) lists anew, whatever the version', async (fault) => {
      await using all = await setting(({ cluster }) => cluster.setPod(podOf('a-1')));
      const { node } = all;
      await node.clock.advance(5_000);
      node.cluster.fail('/api/v1/pods', fault);
      node.cluster.endWatches('end');
      await node.pass(() => all.lists().length === 2 && node.cluster.watches === 1, 5_000);
      expect(all.lists().map(({ query }) => query.get('resourceVersion'))).toEqual(['0', null]);
    },
  );

  it('that ends at once, again and again, is not asked for without rest', async () => {
    await using all = await setting();
    const { node } = all;
    for (const gapMs of [500, 1_000, 2_000, 4_000]) {
      const [endedAt, asked] = [node.clock.monotonic(), all.watches().length];
      node.cluster.endWatches('end');
      await node.until(() => node.cluster.connections === 0);
      await node.pass(() => all.watches().length > asked && node.cluster.watches === 1, 60_000);
      expect(node.clock.monotonic() - endedAt).toBeGreaterThanOrEqual(gapMs);
    }
  });

  it.each([
    ['half of an event', '{"type":"ADDED","object":{"metadata":\n'],
    ['something else', '{"hello":"world"}\n'],
    ['no JSON', 'not found\n'],
    ['an event without a version', '{"type":"MODIFIED","object":{"metadata":{}}}\n'],
    ['an event of 10 MB', `{"type":"ADDED","object":{"metadata":{"resourceVersion":"9","labels":{"a":"${'x'.repeat(10_000_000)}"}}}}\n`],
  ])('that tells %s is not believed, and the list is read anew', async (_what, line) => {
    await using all = await setting(({ cluster }) => cluster.setPod(podOf('a-1')));
    const { node } = all;
    node.cluster.sayToWatches(line);
    await node.until(() => node.cluster.watches === 0);
    await node.pass(() => all.lists().length === 2 && node.cluster.watches === 1, 2_000);
    expect(all.index.find(inContainer(podOf('a-1')))?.until).toBeUndefined();
    expect(all.source.state.value.failure).toBeUndefined();
  });

  it('reads on past pods that are wrong, events it does not know and fields of the future', async () => {
    await using all = await setting();
    const { node } = all;
    const event = (type: string, object: object): string => `${JSON.stringify({ type, object, future: 1 })}\n`;
    node.cluster.sayToWatches(event('ADDED', { metadata: { resourceVersion: '5001', uid: 7 } }));
    node.cluster.sayToWatches(event('PAUSED', { metadata: { resourceVersion: '5002' } }));
    node.cluster.sayToWatches(event('ADDED', { ...podOf('other-1', { nodeName: 'node-2' }), metadata: { ...podOf('other-1').metadata, resourceVersion: '5003' } }));
    const pod = podOf('a-1');
    node.cluster.sayToWatches(event('MODIFIED', { ...pod, metadata: { ...pod.metadata, resourceVersion: '5004', future: [] }, future: {} }));
    await all.shows(pod);
    expect(all.index.size.pods).toBe(1);
    expect(all.lists()).toHaveLength(1);
  });

  it('that nobody ends is ended here, and goes on', async () => {
    await using all = await setting();
    const { node } = all;
    await node.clock.advance(329_999);
    expect(all.watches()).toHaveLength(1);
    await node.clock.advance(1);
    await node.pass(() => all.watches().length === 2 && node.cluster.watches === 1, 5_000);
    expect(all.lists()).toHaveLength(1);
  });

  it('tells that it is away once it fails a second time, and that it is back', async () => {
    await using all = await setting(({ cluster }) => cluster.setPod(podOf('a-1')));
    const { node, source } = all;
    const { syncedAt } = source.state.value;
    node.cluster.fail('/api/v1/pods', { kind: 'status', status: 500 }, { kind: 'status', status: 500 });
    node.cluster.endWatches('drop');
    await node.pass(() => source.state.value.failure !== undefined, 5_000);
    expect(source.state.value).toMatchObject({ syncedAt, failure: { reason: 'k8s.source.status' } });
    expect(all.index.find(inContainer(podOf('a-1')))?.until).toBeUndefined();
    await node.pass(() => source.state.value.failure === undefined, 5_000);
  });

  it('leaves no connection behind', async () => {
    await using all = await setting();
    const { node } = all;
    for (let round = 0; round < 5; round += 1) {
      await node.clock.advance(2_000);
      node.cluster.endWatches('end');
      await node.until(() => all.watches().length === round + 2 && node.cluster.watches === 1);
    }
    await node.until(() => node.cluster.connections === 1);
  });

  it('keeps 500 pods that come and go in bounds', async () => {
    await using all = await setting(({ cluster }) => cluster.setPods(podsOf(500)));
    const { node, index } = all;
    for (let round = 0; round < 2; round += 1) {
      for (const pod of podsOf(50)) {
        node.cluster.deletePod(pod);
        node.cluster.setPod({ ...pod, metadata: { ...pod.metadata, uid: `${pod.metadata.uid}-${String(round)}` } });
      }
      const last = podOf(`last-${String(round)}`, { image: hexOf(String(round)) });
      node.cluster.setPod(last);
      await all.shows(last);
      node.cluster.deletePod(last);
      await node.until(() => index.find(inContainer(last))?.until !== undefined);
      expect(index.size.pods).toBe(551);
      await node.clock.advance(10_000);
      expect(index.size.pods).toBe(500);
    }
  });
});
