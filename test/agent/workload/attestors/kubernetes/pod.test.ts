import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { comparableUid, readPod, samePod } from '../../../../../agent/workload/attestors/kubernetes/pod.ts';
import { containerIdOf, hexOf, podOf, podsOf } from '../../../../help/kubernetes-pods.ts';
import type { PodObject } from '../../../../help/kubernetes-pods.ts';

const digest = (image: string): string => `${image}@sha256:${hexOf(`image ${image}`)}`;

/** As it comes off the wire. */
function wire(pod: unknown): unknown {
  return JSON.parse(JSON.stringify(pod));
}

function changed(change: (pod: PodObject) => void, pod = podOf('cart-1')): unknown {
  const copy = structuredClone(pod);
  change(copy);
  return wire(copy);
}

describe('readPod', () => {
  it('gives the selectors of SPIRE’s k8s attestor, spelled as there', () => {
    const image = 'docker.io/envoyproxy/envoy-alpine';
    const object = podOf('cart-7f9-x2', {
      namespace: 'shop', serviceAccount: 'cart', image, labels: { app: 'cart', 'app.kubernetes.io/name': 'cart', empty: '' },
      containers: ['app', 'proxy'], initContainers: ['migrate'], nodeName: 'worker-3',
    });
    const pod = readPod(wire(object));
    const owner = object.metadata.ownerReferences![0]!;
    const ofPod = [
      'k8s:sa:cart',
      'k8s:ns:shop',
      'k8s:node-name:worker-3',
      `k8s:pod-uid:${object.metadata.uid}`,
      'k8s:pod-name:cart-7f9-x2',
      'k8s:pod-image-count:2',
      'k8s:pod-init-image-count:1',
      `k8s:pod-image:${digest(image)}`,
      `k8s:pod-image:${image}:v1.3.0`,
      `k8s:pod-image:${image}:v1.5.0`,
      `k8s:pod-init-image:${digest(image)}`,
      `k8s:pod-init-image:${image}:v1.7.0`,
      'k8s:pod-label:app:cart',
      'k8s:pod-label:app.kubernetes.io/name:cart',
      'k8s:pod-label:empty:',
      `k8s:pod-owner:ReplicaSet:${owner.name}`,
      `k8s:pod-owner-uid:ReplicaSet:${owner.uid}`,
    ];
    expect([...new Set(pod.selectors)].sort()).toEqual(ofPod.sort());
    const proxy = pod.containers.get(containerIdOf(object.status.containerStatuses![1]))!;
    expect(proxy.kind).toBe('app');
    expect([...new Set(proxy.selectors)].sort()).toEqual(
      [...ofPod, 'k8s:container-name:proxy', `k8s:container-image:${digest(image)}`, `k8s:container-image:${image}:v1.5.0`].sort(),
    );
    const migrate = pod.containers.get(containerIdOf(object.status.initContainerStatuses![0]))!;
    expect(migrate).toMatchObject({ kind: 'init', name: 'migrate' });
    expect(migrate.selectors).toContain('k8s:container-name:migrate');
    expect(pod.omitted).toEqual([]);
  });

  it('knows containers by the ids of every runtime, and of no other form', () => {
    for (const runtime of ['containerd', 'docker', 'cri-o'] as const) {
      const object = podOf('a-1', { runtime });
      const id = containerIdOf(object.status.containerStatuses![0]);
      expect([...readPod(wire(object)).containers.keys()]).toEqual([id]);
    }
    const good = hexOf('id');
    for (const containerID of ['', good, `containerd:${good}`, `containerd://${good.toUpperCase()}`, `containerd://${good}0`, `containerd://${good}/x`,
      `rkt://f0`, `containerd://../${good}`, ` containerd://${good}`, `containerd://${good}\n`, `CONTAINERD://${good}`]) {
      const pod = readPod(changed((copy) => (copy.status.containerStatuses![0]!.containerID = containerID)));
      expect([containerID, pod.containers.size]).toEqual([containerID, 0]);
    }
  });

  it('tells containers of all three kinds apart, the first one that has an id', () => {
    const object = podOf('a-1', { initContainers: ['init'], ephemeralContainers: ['debugger'] });
    const kinds = [...readPod(wire(object)).containers.values()].map(({ kind, name }) => `${kind} ${name}`);
    expect(kinds).toEqual(['app app', 'init init', 'debug debugger']);
    const id = object.status.containerStatuses![0]!.containerID!;
    const twice = readPod(changed((copy) => (copy.status.ephemeralContainerStatuses![0]!.containerID = id), object));
    expect(twice.containers.get(id.split('//')[1]!)).toMatchObject({ kind: 'app', name: 'app' });
  });

  it('counts images as the status has them, and gives none that is not known yet', () => {
    const pending = readPod(wire(podOf('a-1', { pending: true, containers: ['app', 'proxy'] })));
    expect(pending.containers.size).toBe(0);
    expect(pending.selectors).toContain('k8s:pod-image-count:2');
    expect(pending.selectors.filter((selector) => selector.endsWith(':'))).toEqual([]);
    const scheduled = readPod(changed((copy) => delete copy.status.containerStatuses));
    expect(scheduled.selectors).toContain('k8s:pod-image-count:0');
    expect(readPod(changed((copy) => Object.assign(copy.status, { containerStatuses: null }))).selectors).toContain('k8s:pod-image-count:0');
  });

  it('knows a static pod by the uid its cgroup has', () => {
    const hash = 'd31d4d8a3d3c2ac1b3a5e6f1f0a0b1c2';
    const mirror = readPod(changed((copy) => (copy.metadata.annotations = { 'kubernetes.io/config.mirror': hash })));
    expect(mirror.uids).toEqual([comparableUid(mirror.uid), hash]);
    expect(comparableUid('2C48913C-B29F-11E7-9350-020968147796')).toBe('2c48913cb29f11e79350020968147796');
  });

  it('passes over fields it does not know', () => {
    const plain = readPod(wire(podOf('a-1')));
    const more = readPod(changed((copy) => {
      Object.assign(copy, { future: { deep: [1] } });
      Object.assign(copy.metadata, { future: 'x' });
      Object.assign(copy.status.containerStatuses![0]!, { future: null });
    }, podOf('a-1')));
    expect(samePod(plain, more)).toBe(true);
  });

  it.each<[string, (pod: PodObject) => void]>([
    ['no metadata', (pod) => Object.assign(pod, { metadata: undefined })],
    ['no uid', (pod) => Object.assign(pod.metadata, { uid: undefined })],
    ['an empty uid', (pod) => Object.assign(pod.metadata, { uid: '' })],
    ['a name that is a number', (pod) => Object.assign(pod.metadata, { name: 7 })],
    ['a namespace with a line end', (pod) => Object.assign(pod.metadata, { namespace: 'a\nb' })],
    ['a name of half a character', (pod) => Object.assign(pod.metadata, { name: 'a\ud800' })],
    ['a name of 10 kB', (pod) => Object.assign(pod.metadata, { name: 'a'.repeat(10_000) })],
  ])('refuses a pod with %s', (_what, change) => {
    expect(() => readPod(changed(change))).toThrow(expect.objectContaining({ reason: 'k8s.pod.form' }));
  });

  it('refuses what is no pod, and pods of other nodes', () => {
    for (const value of [undefined, null, 1, 'x', [], {}]) {
      expect(() => readPod(value)).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'k8s.pod.form' }));
    }
    const object = wire(podOf('a-1', { nodeName: 'node-2' }));
    expect(readPod(object, { nodeName: 'node-2' }).uid).toBeTruthy();
    expect(() => readPod(object, { nodeName: 'node-1' })).toThrow(expect.objectContaining({ reason: 'k8s.pod.form' }));
    expect(() => readPod(changed((copy) => delete copy.spec.nodeName), { nodeName: 'node-1' })).toThrow();
  });

  it.each<[string, (pod: PodObject) => void, string, string]>([
    ['a label with a control character', (pod) => (pod.metadata.labels = { a: 'x\u0000y' }), 'k8s:pod-label', 'k8s.selector.control-character'],
    ['a label with a line separator', (pod) => (pod.metadata.labels = { a: 'x\u2028y' }), 'k8s:pod-label', 'k8s.selector.control-character'],
    ['a label of half a character', (pod) => (pod.metadata.labels = { a: '\ud800' }), 'k8s:pod-label', 'k8s.selector.encoding'],
    ['a label that is too long', (pod) => (pod.metadata.labels = { a: 'x'.repeat(10_000) }), 'k8s:pod-label', 'k8s.selector.too-long'],
    ['a label whose key could end elsewhere', (pod) => (pod.metadata.labels = { 'a:b': 'c' }), 'k8s:pod-label', 'k8s.selector.ambiguous'],
    ['a label without a key', (pod) => (pod.metadata.labels = { '': 'c' }), 'k8s:pod-label', 'k8s.selector.ambiguous'],
    ['a label that is a number', (pod) => Object.assign(pod.metadata, { labels: { a: 1 } }), 'k8s:pod-label', 'k8s.selector.type'],
    ['too many labels', (pod) => (pod.metadata.labels = Object.fromEntries(Array.from({ length: 600 }, (_, i) => [`l${String(i)}`, 'x']))), 'k8s:pod-label', 'k8s.selector.too-many'],
    ['an owner whose kind is an object', (pod) => Object.assign(pod.metadata.ownerReferences![0]!, { kind: {} }), 'k8s:pod-owner', 'k8s.selector.type'],
    ['an owner whose kind could end elsewhere', (pod) => Object.assign(pod.metadata.ownerReferences![0]!, { kind: 'Job:x' }), 'k8s:pod-owner-uid', 'k8s.selector.ambiguous'],
    ['too many owners', (pod) => (pod.metadata.ownerReferences = Array.from({ length: 100 }, () => pod.metadata.ownerReferences![0]!)), 'k8s:pod-owner', 'k8s.selector.too-many'],
    ['an image that is an array', (pod) => Object.assign(pod.status.containerStatuses![0]!, { image: [] }), 'k8s:pod-image', 'k8s.selector.type'],
    ['statuses that are an object', (pod) => Object.assign(pod.status, { containerStatuses: {} }), 'k8s:pod-image', 'k8s.selector.type'],
    ['too many containers', (pod) => (pod.status.containerStatuses = Array.from({ length: 300 }, () => pod.status.containerStatuses![0]!)), 'k8s:pod-image', 'k8s.selector.too-many'],
    ['an account of another type', (pod) => Object.assign(pod.spec, { serviceAccountName: true }), 'k8s:sa', 'k8s.selector.type'],
  ])('omits, and says so, %s', (_what, change, what, reason) => {
    const pod = readPod(changed(change));
    expect(pod.omitted).toContainEqual({ what, reason });
    expect(pod.selectors).toContain('k8s:pod-name:cart-1');
    expect(pod.selectors.length).toBeLessThan(1_000);
    for (const selector of pod.selectors) expect(selector.startsWith('k8s:pod-label:a:b')).toBe(false);
  });

  it('makes selectors or a SpiffeError of anything, with anything in place of any of its parts', () => {
    const parts: readonly (readonly string[])[] = [
      ['metadata'], ['spec'], ['status'], ['metadata', 'uid'], ['metadata', 'name'], ['metadata', 'namespace'], ['metadata', 'labels'], ['metadata', 'annotations'],
      ['metadata', 'ownerReferences'], ['metadata', 'ownerReferences', '0'], ['metadata', 'ownerReferences', '0', 'name'], ['spec', 'nodeName'], ['spec', 'serviceAccountName'],
      ['status', 'containerStatuses'], ['status', 'containerStatuses', '0'], ['status', 'containerStatuses', '0', 'name'], ['status', 'containerStatuses', '0', 'image'],
      ['status', 'containerStatuses', '0', 'imageID'], ['status', 'containerStatuses', '0', 'containerID'], ['status', 'initContainerStatuses'], ['status', 'ephemeralContainerStatuses'],
    ];
    const text = JSON.stringify(podOf('a-1', { initContainers: ['init'] }));
    const anyText = fc.array(fc.integer({ min: 0, max: 0xffff })).map((codes) => String.fromCharCode(...codes));
    fc.assert(
      fc.property(fc.constantFrom(...parts), fc.oneof(fc.jsonValue({ maxDepth: 2 }), anyText), (part, value) => {
        const pod = JSON.parse(text) as Record<string, unknown>;
        let owner = pod;
        for (const name of part.slice(0, -1)) owner = owner[name] as Record<string, unknown>;
        owner[part.at(-1)!] = value;
        try {
          const { selectors, containers } = readPod(pod);
          const all = [...selectors, ...[...containers.values()].flatMap((container) => container.selectors)];
          expect(all.filter((selector) => !selector.isWellFormed() || !/^k8s:[a-z-]+:[^\p{Cc}]*$/u.test(selector))).toEqual([]);
        } catch (error) {
          expect(error).toMatchObject({ kind: 'invalid', reason: 'k8s.pod.form' });
        }
      }),
      { numRuns: 150 },
    );
  });

  it('takes nothing of an object’s own names for a label', () => {
    const pod = readPod(JSON.parse('{"metadata":{"uid":"u","name":"n","namespace":"s","labels":{"__proto__":"x","constructor":"y"}}}'));
    expect(pod.selectors.filter((selector) => selector.startsWith('k8s:pod-label'))).toEqual(['k8s:pod-label:__proto__:x', 'k8s:pod-label:constructor:y']);
  });
});

describe('samePod', () => {
  it('is told apart by whatever a selector or a container says', () => {
    const pod = podOf('cart-1', { ephemeralContainers: ['debugger'] });
    const base = readPod(wire(pod));
    const differs = (change: (copy: PodObject) => void): boolean => !samePod(base, readPod(changed(change, pod)));
    expect(differs(() => undefined)).toBe(false);
    expect(differs((copy) => (copy.metadata.resourceVersion = '9'))).toBe(false);
    expect(differs((copy) => (copy.metadata.labels = { ...copy.metadata.labels, a: 'b' }))).toBe(true);
    expect(differs((copy) => (copy.status.containerStatuses![0]!.containerID = `containerd://${hexOf('other')}`))).toBe(true);
    expect(differs((copy) => (copy.status.containerStatuses![0]!.imageID = 'other'))).toBe(true);
    expect(differs((copy) => delete copy.status.ephemeralContainerStatuses)).toBe(true);
    expect(differs((copy) => (copy.status.initContainerStatuses = copy.status.ephemeralContainerStatuses!))).toBe(true);
    expect(differs((copy) => (copy.metadata.annotations = { 'kubernetes.io/config.mirror': 'x' }))).toBe(true);
    expect(differs((copy) => (copy.metadata.labels = { ...copy.metadata.labels, 'a:b': 'c' }))).toBe(true);
  });
});

describe('the pods of a node', () => {
  it.each([1, 100, 500])('are read, all %i of them', (count) => {
    const pods = podsOf(count).map((pod) => readPod(wire(pod), { nodeName: 'node-1' }));
    expect(new Set(pods.map(({ uid }) => uid)).size).toBe(count);
    for (const pod of pods) {
      expect(pod.omitted).toEqual([]);
      expect(pod.containers.size).toBeGreaterThan(0);
    }
  });
});
