import { describe, expect, it } from 'vitest';
import type { CriContainer, CriPod } from '../../../../../agent/workload/attestors/cri/messages.ts';
import { criSelectors } from '../../../../../agent/workload/attestors/cri/selectors.ts';

const hex = 'a'.repeat(64);
const digest = `sha256:${'b'.repeat(64)}`;

function container(more: Partial<CriContainer> = {}): CriContainer {
  return {
    id: hex,
    name: 'web',
    state: 'running',
    image: 'registry.example/shop/web:1.4',
    imageRef: `registry.example/shop/web@${digest}`,
    imageId: `sha256:${hex}`,
    labels: {},
    sandboxId: 'c'.repeat(64),
    ...more,
  };
}

function pod(more: Partial<CriPod> = {}): CriPod {
  return { name: 'web-0', namespace: 'shop', uid: '0f1e2d3c-0000-4000-8000-000000000001', labels: {}, runtimeHandler: '', ...more };
}

/** Those of the container given alone. */
function told(more: Partial<CriContainer>): readonly string[] {
  const plain = new Set<string>(criSelectors(container({ image: '', imageRef: '', imageId: '' }), pod()).selectors);
  return criSelectors(container({ image: '', imageRef: '', imageId: '', ...more }), pod()).selectors.filter((one) => !plain.has(one));
}

describe('criSelectors', () => {
  it('tells all there is of a container and its pod', () => {
    const { selectors, omitted } = criSelectors(
      container({ labels: { role: 'front', empty: '' } }),
      pod({ labels: { app: 'web', 'example.com/tier': 'a:b' }, runtimeHandler: 'kata' }),
    );
    expect(selectors).toEqual([
      `cri:container-id:${hex}`,
      'cri:container-name:web',
      'cri:image:registry.example/shop/web:1.4',
      `cri:image-ref:registry.example/shop/web@${digest}`,
      `cri:image-id:sha256:${hex}`,
      'cri:label:role:front',
      'cri:label:empty:',
      'cri:pod-name:web-0',
      'cri:pod-namespace:shop',
      'cri:pod-uid:0f1e2d3c-0000-4000-8000-000000000001',
      'cri:pod-label:app:web',
      'cri:pod-label:example.com/tier:a:b',
      'cri:runtime-handler:kata',
    ]);
    expect(omitted).toEqual([]);
  });

  it.each([
    ['an id where the image has no name', { image: digest }, []],
    ['a bare id where the image has no name', { image: hex }, []],
    ['a name by digest', { image: `registry.example/web@${digest}` }, [`cri:image:registry.example/web@${digest}`]],
    ['an id for a reference', { imageRef: digest }, []],
    ['a bare id for a reference', { imageRef: hex }, []],
    ['a reference with tag and digest', { imageRef: `web:1@${digest}` }, [`cri:image-ref:web:1@${digest}`]],
  ])('image: %s', (_name, more, expected) => {
    expect(told(more)).toEqual(expected);
  });

  it.each([
    ['colon in the key', { 'app:web': 'x' }, 'cri.labels.key'],
    ['no key', { '': 'x' }, 'cri.labels.key'],
    ['line end in the value', { app: 'web\nadmin' }, 'cri.text.control-character'],
    ['line end in the key', { 'app\n': 'web' }, 'cri.text.control-character'],
    ['zero byte', { app: 'a\0b' }, 'cri.text.control-character'],
    ['C1 control character', { app: 'a\u0085b' }, 'cri.text.control-character'],
    ['line separator', { app: 'a\u2028b' }, 'cri.text.control-character'],
    ['bytes that were no text', { app: 'a\ufffdb' }, 'cri.text.control-character'],
    ['longer than an entry can hold', { app: 'x'.repeat(8200) }, 'cri.text.too-long'],
  ])('a label with %s is left out, and the others are not', (_name, labels: Record<string, string>, reason) => {
    for (const [selectors, omitted, what] of [
      [...Object.values(criSelectors(container({ labels: { ...labels, good: 'yes' } }), pod())), 'label'] as const,
      [...Object.values(criSelectors(container(), pod({ labels: { ...labels, good: 'yes' } }))), 'pod-label'] as const,
    ]) {
      expect((selectors as string[]).filter((one) => one.includes(`${what}:`) && one.includes(':good:'))).toEqual([`cri:${what}:good:yes`]);
      expect((selectors as string[]).filter((one) => one.startsWith(`cri:${what}:`))).toHaveLength(1);
      expect(omitted).toEqual([{ what: `cri:${what}`, reason }]);
    }
  });

  it('says once why many labels are left out', () => {
    const labels = Object.fromEntries(Array.from({ length: 100 }, (_, number) => [`k:${String(number)}`, 'v']));
    expect(criSelectors(container({ labels }), pod()).omitted).toEqual([{ what: 'cri:label', reason: 'cri.labels.key' }]);
  });

  it.each([
    ['257 labels', Object.fromEntries(Array.from({ length: 257 }, (_, number) => [`k${String(number)}`, 'v']))],
    ['66 kB of labels', Object.fromEntries(Array.from({ length: 11 }, (_, number) => [`k${String(number)}`, 'v'.repeat(6000)]))],
  ])('tells none of %s', (_name, labels: Record<string, string>) => {
    const { selectors, omitted } = criSelectors(container({ labels }), pod({ labels: { app: 'web' } }));
    expect(selectors.filter((one) => one.startsWith('cri:label:'))).toEqual([]);
    expect(selectors).toContain('cri:pod-label:app:web');
    expect(omitted).toEqual([{ what: 'cri:label', reason: 'cri.labels.too-many' }]);
  });

  it('tells all of 256 labels', () => {
    const labels = Object.fromEntries(Array.from({ length: 256 }, (_, number) => [`k${String(number)}`, 'v']));
    expect(told({ labels })).toHaveLength(256);
  });

  it('takes names of properties for labels like others', () => {
    const labels = JSON.parse('{"__proto__":"x","constructor":"y","toString":"z"}') as Record<string, string>;
    expect(told({ labels })).toEqual(['cri:label:__proto__:x', 'cri:label:constructor:y', 'cri:label:toString:z']);
  });

  it('leaves out a hostile name of a container, and tells the rest', () => {
    const { selectors, omitted } = criSelectors(container({ name: 'web\ncri:pod-name:admin' }), pod());
    expect(selectors.filter((one) => one.startsWith('cri:container-name:'))).toEqual([]);
    expect(selectors).toContain('cri:pod-name:web-0');
    expect(omitted).toEqual([{ what: 'cri:container-name', reason: 'cri.text.control-character' }]);
  });
});
