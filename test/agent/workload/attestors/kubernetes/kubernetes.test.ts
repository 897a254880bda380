import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { createAttest, followAttestation } from '../../../../../agent/workload/attest.ts';
import type { Attestation } from '../../../../../agent/workload/attest.ts';
import { createKubernetesAttestor, inClusterUrl } from '../../../../../agent/workload/attestors/kubernetes/kubernetes.ts';
import type { KubernetesAttestor, KubernetesAttestorOptions } from '../../../../../agent/workload/attestors/kubernetes/kubernetes.ts';
import { createWatch } from '../../../../../runtime/watch.ts';
import type { ClusterOptions } from '../../../../help/kubernetes.ts';
import { asked, createKubernetesNode, inContainer } from '../../../../help/kubernetes-node.ts';
import type { KubernetesNode } from '../../../../help/kubernetes-node.ts';
import { hexOf, podOf, podsOf } from '../../../../help/kubernetes-pods.ts';

type SourceType = 'kubelet' | 'api_server';

interface Setting extends AsyncDisposable {
  readonly node: KubernetesNode;
  readonly attestor: KubernetesAttestor;
}

interface SettingOptions extends ClusterOptions {
  readonly prepare?: (node: KubernetesNode) => void;
  readonly attestor?: Partial<KubernetesAttestorOptions>;
  /** Does not wait until the source knows anything. */
  readonly early?: true;
}

async function setting(type: SourceType, options: SettingOptions = {}): Promise<Setting> {
  const node = await createKubernetesNode(options);
  const { clock, cluster, caFile, tokenFile, containers, over } = node;
  options.prepare?.(node);
  const source = { type, url: cluster.url, nodeName: 'node-1', caFile, tokenFile };
  const attestor = createKubernetesAttestor({ clock, random: () => 0.5, containers, source, ...options.attestor });
  const running = attestor.run(over.signal);
  if (options.early !== true) await node.until(() => (type === 'kubelet' ? attestor.state.value.syncedAt !== undefined : cluster.watches === 1));
  return {
    node,
    attestor,
    async [Symbol.asyncDispose]() {
      over.abort(new Error('the test is over'));
      await running;
      await node.until(() => cluster.connections === 0);
      await node[Symbol.asyncDispose]();
    },
  };
}

const sources: readonly SourceType[] = ['kubelet', 'api_server'];
const forever = new AbortController().signal;

describe.each(sources)('with pods from %s', (type) => {
  it('gives the selectors of the pod and the container that the process is in', async () => {
    const pod = podOf('cart-1', { namespace: 'shop', serviceAccount: 'cart', containers: ['app', 'proxy'], initContainers: ['migrate'] });
    await using all = await setting(type, { prepare: ({ cluster }) => cluster.setPods([pod, ...podsOf(20)]) });
    const { node, attestor } = all;
    const question = asked();
    const selectors = await attestor.attest(node.process(inContainer(pod, 1)), question.question);
    for (const selector of ['k8s:ns:shop', 'k8s:sa:cart', 'k8s:pod-name:cart-1', 'k8s:container-name:proxy', 'k8s:node-name:node-1']) {
      expect(selectors).toContain(selector);
    }
    expect(selectors).not.toContain('k8s:container-name:app');
    expect(question.omitted).toEqual([]);
    const id = pod.status.initContainerStatuses![0]!.containerID!.split('//')[1]!;
    const ofInit = await attestor.attest(node.process(inContainer(pod, 0, { id })), asked().question);
    expect(ofInit).toContain('k8s:container-name:migrate');
  });

  it('has nothing to say of a process in no pod', async () => {
    await using all = await setting(type, { prepare: ({ cluster }) => cluster.setPod(podOf('a-1')) });
    const { node, attestor } = all;
    const ref = inContainer(podOf('a-1'));
    for (const other of [
      undefined,
      { ...ref, id: hexOf('docker'), podUid: undefined, runtime: 'docker' as const },
      { ...ref, id: hexOf('podman'), podUid: undefined, runtime: 'libpod' as const },
      // What a user's own engine calls a pod.
      { ...ref, ownerUid: 1000 },
    ]) {
      const question = asked();
      expect(await attestor.attest(node.process(other), question.question)).toEqual([]);
      expect(question.omitted).toEqual([]);
      expect(question.watches).toEqual([]);
    }
    await expect(attestor.attest(node.process(ref), asked().question)).resolves.toContain('k8s:pod-name:a-1');
  });

  it('finds the pod of a container whose cgroup does not name it', async () => {
    await using all = await setting(type, { prepare: ({ cluster }) => cluster.setPod(podOf('a-1', { runtime: 'cri-o' })) });
    const ref = inContainer(podOf('a-1', { runtime: 'cri-o' }), 0, { podUid: undefined, runtime: 'crio' });
    expect(await all.attestor.attest(all.node.process(ref), asked().question)).toContain('k8s:pod-name:a-1');
  });

  it('denies a container that another pod shows, and two pods with one container', async () => {
    const [one, other] = [podOf('a-1'), podOf('b-1')];
    const thief = structuredClone(podOf('c-1'));
    thief.status.containerStatuses![0]!.containerID = one.status.containerStatuses![0]!.containerID!;
    await using all = await setting(type, { prepare: ({ cluster }) => cluster.setPods([one, other, thief]) });
    const { node, attestor } = all;
    const denied = (ref: Parameters<KubernetesNode['process']>[0]): Promise<unknown> => attestor.attest(node.process(ref), asked().question).catch((error: unknown) => error);
    expect(await denied(inContainer(other, 0, { podUid: one.metadata.uid }))).toMatchObject({ kind: 'denied', reason: 'k8s.pod.mismatch' });
    expect(await denied(inContainer(one, 0, { podUid: undefined }))).toMatchObject({ kind: 'denied', reason: 'k8s.container.ambiguous' });
    expect(await attestor.attest(node.process(inContainer(one)), asked().question)).toContain('k8s:pod-name:a-1');
  });

  it('denies an ephemeral container, unless what container it is does not matter', async () => {
    const pod = podOf('a-1', { ephemeralContainers: ['debugger'] });
    const id = pod.status.ephemeralContainerStatuses![0]!.containerID!.split('//')[1]!;
    const prepare = ({ cluster }: KubernetesNode): void => cluster.setPod(pod);
    await using all = await setting(type, { prepare });
    const answer = all.attestor.attest(all.node.process(inContainer(pod, 0, { id })), asked().question);
    await expect(answer).rejects.toMatchObject({ kind: 'denied', reason: 'k8s.container.ephemeral' });
    await using pods = await setting(type, { prepare, attestor: { disableContainerSelectors: true } });
    expect(await pods.attestor.attest(pods.node.process(inContainer(pod, 0, { id })), asked().question)).toContain('k8s:pod-name:a-1');
  });

  it('gives a pod’s selectors before it shows the container where those are all that is wanted', async () => {
    const pod = podOf('a-1');
    await using all = await setting(type, { prepare: ({ cluster }) => cluster.setPod(podOf('a-1', { pending: true })), attestor: { disableContainerSelectors: true } });
    const { node, attestor } = all;
    const peer = node.process(inContainer(pod));
    const selectors = await attestor.attest(peer, asked().question);
    expect(selectors).toContain('k8s:pod-name:a-1');
    expect(selectors.filter((selector) => selector.startsWith('k8s:container-'))).toEqual([]);
    const hidden = asked();
    expect(await attestor.attest(node.process(inContainer(pod, 0, { podUid: undefined })), hidden.question)).toEqual([]);
    expect(hidden.omitted).toMatchObject([{ what: 'k8s', reason: 'k8s.pod.pending' }]);
  });

  it('says what of a pod is no selector', async () => {
    await using all = await setting(type, { prepare: ({ cluster }) => cluster.setPod(podOf('a-1', { labels: { good: 'yes', bad: 'a\nb' } })) });
    const question = asked();
    const selectors = await all.attestor.attest(all.node.process(inContainer(podOf('a-1'))), question.question);
    expect(selectors).toContain('k8s:pod-label:good:yes');
    expect(question.omitted).toEqual([{ what: 'k8s:pod-label', reason: 'k8s.selector.control-character', until: undefined }]);
  });

  it('waits for a pod that is not there yet, outside of the answer and with a bound', async () => {
    await using all = await setting(type);
    const { node, attestor } = all;
    const peer = node.process(inContainer(podOf('a-1')));
    const question = asked();
    expect(await attestor.attest(peer, question.question)).toEqual([]);
    expect(question.omitted).toEqual([{ what: 'k8s', reason: 'k8s.pod.pending', until: expect.any(Promise) as unknown }]);
    let settled = false;
    void question.omitted[0]!.until!.then(() => (settled = true));
    for (let passed = 0; passed < 9_500; passed += 500) await node.clock.advance(500);
    expect(settled).toBe(false);
    await node.clock.advance(500);
    await node.until(() => settled);
    const later = asked();
    await expect(attestor.attest(peer, later.question)).rejects.toMatchObject({ kind: 'missing', reason: 'k8s.pod.unknown' });
    expect(later.omitted).toEqual([{ what: 'k8s', reason: 'k8s.pod.unknown', until: undefined }]);
    // Whoever stays is told all the same.
    expect(later.isStale()).toBe(false);
    node.cluster.setPod(podOf('a-1'));
    await node.pass(() => later.isStale(), 40_000);
    await expect(attestor.attest(peer, asked().question)).resolves.toContain('k8s:pod-name:a-1');
  });

  it('waits for nothing that no entry asks for', async () => {
    await using all = await setting(type);
    const { node, attestor } = all;
    const requests = node.cluster.requests.length;
    const question = asked();
    const wanted = { asks: (prefix: string) => prefix === 'unix:uid:' };
    expect(await attestor.attest(node.process(inContainer(podOf('a-1'))), { ...question.question, wanted })).toEqual([]);
    expect(question.omitted).toEqual([{ what: 'k8s', reason: 'k8s.pod.pending', until: undefined }]);
    await node.clock.advance(5_000);
    expect(node.cluster.requests).toHaveLength(requests);
  });

  it('has the selectors as soon as the pod shows the container', async () => {
    await using all = await setting(type, { prepare: ({ cluster }) => cluster.setPod(podOf('a-1', { pending: true })) });
    const { node, attestor } = all;
    const peer = node.process(inContainer(podOf('a-1')));
    const question = asked();
    expect(await attestor.attest(peer, question.question)).toEqual([]);
    let settled = false;
    void question.omitted[0]!.until!.then(() => (settled = true));
    node.cluster.setPod(podOf('a-1'));
    if (type === 'kubelet') await node.pass(() => settled, 2_000);
    else await node.until(() => settled);
    expect(await attestor.attest(peer, asked().question)).toContain('k8s:container-name:app');
  });

  it('keeps no wait for a process that is gone', async () => {
    await using all = await setting(type);
    const { node, attestor } = all;
    const peer = node.process(inContainer(podOf('a-1')));
    const question = asked();
    await attestor.attest(peer, question.question);
    peer.become('peer.exited');
    await question.omitted[0]!.until;
    const requests = node.cluster.requests.length;
    for (let passed = 0; passed < 60_000; passed += 5_000) await node.clock.advance(5_000);
    await new Promise((resolve) => setTimeout(resolve, 20));
    // One may have been on its way.
    expect(node.cluster.requests.length).toBeLessThanOrEqual(requests + 1);
  });

  it('gives nothing for what may be no pod at all, without calling it wrong', async () => {
    await using all = await setting(type, { attestor: { waitMs: 1_000 } });
    const { node, attestor } = all;
    const peer = node.process({ id: hexOf('nerdctl'), runtime: 'containerd', podUid: undefined, ownerUid: undefined });
    expect(await attestor.attest(peer, asked().question)).toEqual([]);
    await node.clock.advance(1_000);
    const later = asked();
    expect(await attestor.attest(peer, later.question)).toEqual([]);
    expect(later.omitted).toMatchObject([{ reason: 'k8s.pod.unknown', until: undefined }]);
  });

  it('is asked again when the pod changed in what it says, and takes back what a deleted pod said', async () => {
    await using all = await setting(type, { prepare: ({ cluster }) => cluster.setPods([podOf('a-1'), podOf('b-1')]) });
    const { node, attestor } = all;
    const peer = node.process(inContainer(podOf('a-1')));
    let question = asked();
    await attestor.attest(peer, question.question);
    node.cluster.setPod(podOf('b-1', { labels: { other: 'pod' } }));
    node.cluster.setPod(podOf('a-1', { labels: { tier: 'gold' } }));
    await node.pass(() => question.isStale(), 31_000);
    question = asked();
    expect(await attestor.attest(peer, question.question)).toContain('k8s:pod-label:tier:gold');
    expect(question.isStale()).toBe(false);
    node.cluster.deletePod(podOf('a-1'));
    await node.pass(() => question.isStale(), 31_000);
    question = asked();
    expect(await attestor.attest(peer, question.question)).toContain('k8s:pod-label:tier:gold');
    expect(question.omitted).toMatchObject([{ what: 'k8s', reason: 'k8s.pod.deleted', until: expect.any(Promise) as unknown }]);
    await node.clock.advance(10_000);
    await question.omitted[0]!.until;
    expect(question.isStale()).toBe(true);
    expect(await attestor.attest(peer, asked().question)).toEqual([]);
  });

  it('goes on with what it knows while its source is away, and says so', async () => {
    await using all = await setting(type, { prepare: ({ cluster }) => cluster.setPod(podOf('a-1')) });
    const { node, attestor } = all;
    const peer = node.process(inContainer(podOf('a-1')));
    await attestor.attest(peer, asked().question);
    node.cluster.fail(type === 'kubelet' ? '/pods' : '/api', ...Array.from({ length: 100 }, () => ({ kind: 'drop' }) as const));
    node.cluster.endWatches('drop');
    await node.pass(() => attestor.state.value.failure !== undefined, 31_000);
    const question = asked();
    expect(await attestor.attest(peer, question.question)).toContain('k8s:pod-name:a-1');
    expect(question.omitted).toEqual([{ what: 'k8s', reason: 'k8s.source.broken', until: undefined }]);
    const stranger = asked();
    const answer = attestor.attest(node.process(inContainer(podOf('b-1'))), stranger.question);
    await expect(answer).rejects.toMatchObject({ kind: 'unavailable', reason: 'k8s.source.broken' });
    expect(stranger.omitted).toMatchObject([{ reason: 'k8s.pod.pending', until: expect.any(Promise) as unknown }]);
  });

  it('says why when its source never answered, and waits no longer than a moment', async () => {
    await using all = await setting(type, { early: true, prepare: ({ cluster }) => cluster.fail('/', ...Array.from({ length: 9 }, () => ({ kind: 'status', status: 403 }) as const)) });
    const { node, attestor } = all;
    const answer = attestor.attest(node.process(inContainer(podOf('a-1'))), asked().question);
    await expect(answer).rejects.toMatchObject({ kind: 'unavailable', reason: 'k8s.source.forbidden' });
    await using slow = await setting(type, { early: true, prepare: ({ cluster }) => cluster.fail('/', { kind: 'hold', until: new Promise(() => undefined) }) });
    const question = asked();
    const selectors = slow.attestor.attest(slow.node.process(inContainer(podOf('a-1'))), question.question);
    await slow.node.clock.advance(2_000);
    expect(await selectors).toEqual([]);
    expect(question.omitted).toMatchObject([{ reason: 'k8s.pod.pending' }]);
  });

  it('follows a connection through the life of its pod', async () => {
    await using all = await setting(type, { prepare: ({ cluster }) => cluster.setPod(podOf('a-1', { pending: true })) });
    const { node, attestor } = all;
    const { clock } = node;
    const peer = node.process(inContainer(podOf('a-1')));
    const seen: Attestation[] = [];
    const over = new AbortController();
    const attest = createAttest({ attestors: [attestor, { name: 'unix', attest: async () => [] }], clock });
    const following = (async () => {
      for await (const attestation of followAttestation({ attest, clock, random: () => 0.5 }, peer, createWatch({ asks: () => true }), over.signal)) seen.push(attestation);
    })();
    await node.until(() => seen.length === 1);
    expect(seen[0]!.selectors.size).toBe(0);
    expect(seen[0]!.pending).toBeDefined();
    node.cluster.setPod(podOf('a-1'));
    await node.pass(() => seen.length === 2, 2_000);
    expect([...seen[1]!.selectors]).toContain('k8s:container-name:app');
    node.cluster.setPod(podOf('a-1', { labels: { tier: 'gold' } }));
    await node.pass(() => seen.length === 3, 31_000);
    expect([...seen[2]!.selectors]).toContain('k8s:pod-label:tier:gold');
    node.cluster.deletePod(podOf('a-1'));
    await node.pass(() => seen.length === 4, 45_000);
    expect(seen[3]!.selectors.size).toBe(0);
    over.abort(new Error('the test is over'));
    await following;
  });

  it('makes 200 who wait at once share their questions', async () => {
    await using all = await setting(type);
    const { node, attestor } = all;
    const before = node.cluster.requests.length;
    const pods = podsOf(200);
    const questions = await Promise.all(pods.map(async (pod) => {
      const question = asked();
      expect(await attestor.attest(node.process(inContainer(pod)), question.question)).toEqual([]);
      return question;
    }));
    let settled = 0;
    for (const { omitted } of questions) void omitted[0]!.until!.then(() => (settled += 1));
    for (let passed = 0; passed < 4_000; passed += 50) {
      await node.clock.advance(50);
      if (passed % 500 === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect(settled).toBe(0);
    node.cluster.setPods(pods);
    await node.pass(() => settled === 200, 6_000);
    expect(node.cluster.requests.length - before).toBeLessThanOrEqual(type === 'kubelet' ? 8 : 0);
  });

  it('holds no descriptor after its end', async () => {
    const count = (): number => readdirSync('/proc/self/fd').length;
    const before = count();
    for (let round = 0; round < 3; round += 1) {
      await using all = await setting(type, { prepare: ({ cluster }) => cluster.setPods(podsOf(10)) });
      all.node.cluster.fail('/', { kind: 'half' });
      await all.attestor.attest(all.node.process(inContainer(podOf('x-1'))), asked().question).catch(() => undefined);
    }
    await expect.poll(count).toBeLessThanOrEqual(before + 1);
  });
});

describe('a source', () => {
  it('is refused when it would send credentials in the clear', () => {
    const node = { clock: undefined as never, random: () => 0.5, containers: { of: () => undefined } };
    const source = { type: 'kubelet', url: 'http://127.0.0.1:10255', tokenFile: '/token' } as const;
    expect(() => createKubernetesAttestor({ ...node, source })).toThrow(expect.objectContaining({ reason: 'k8s.options' }));
  });

  it('may be a kubelet that is asked in the clear, or believed unproved', async () => {
    await using plain = await createKubernetesNode({ plain: true });
    await using named = await createKubernetesNode({ names: ['elsewhere'] });
    for (const [node, more] of [[plain, {}], [named, { caFile: named.caFile, tokenFile: named.tokenFile, skipKubeletVerification: true }]] as const) {
      const { clock, cluster, containers, over } = node;
      cluster.setPod(podOf('a-1'));
      const attestor = createKubernetesAttestor({ clock, random: () => 0.5, containers, source: { type: 'kubelet', url: cluster.url, ...more } });
      const running = attestor.run(over.signal);
      await node.until(() => attestor.state.value.syncedAt !== undefined);
      expect(await attestor.attest(node.process(inContainer(podOf('a-1'))), asked(forever).question)).toContain('k8s:pod-name:a-1');
      over.abort(new Error('the test is over'));
      await running;
    }
  });

  it('is where the environment of a pod says', () => {
    expect(inClusterUrl('10.96.0.1', '443')).toBe('https://10.96.0.1:443');
    expect(inClusterUrl('fd00::1')).toBe('https://[fd00::1]:443');
  });
});
