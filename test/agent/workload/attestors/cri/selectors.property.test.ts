import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { criSelectors } from '../../../../../agent/workload/attestors/cri/selectors.ts';
import { parseSelector } from '../../../../../spiffe/selector.ts';

const text = fc.oneof(fc.string({ unit: 'binary', maxLength: 40 }), fc.constantFrom('', 'app', 'a:b', ':', 'pod-name', 'x\ny', '\ufffd', '__proto__'));
const labels = fc.dictionary(text, text, { maxKeys: 6 });

describe('criSelectors', () => {
  it('says a label if and only if the container has it, whatever else it says', () => {
    fc.assert(
      fc.property(text, text, text, text, labels, labels, (id, name, image, uid, own, ofPod) => {
        const container = { id, name, image, imageRef: image, imageId: '', state: 'running', labels: own, sandboxId: 's' } as const;
        const { selectors, omitted } = criSelectors(container, { name, namespace: name, uid, labels: ofPod, runtimeHandler: name });
        for (const selector of selectors) expect(parseSelector(selector)).toBe(selector);
        for (const [kind, all] of [['label', own], ['pod-label', ofPod]] as const) {
          const said = selectors.filter((one) => one.startsWith(`cri:${kind}:`)).map((one) => one.slice(`cri:${kind}:`.length));
          for (const one of said) {
            const colon = one.indexOf(':');
            expect(Object.entries(all)).toContainEqual([one.slice(0, colon), one.slice(colon + 1)]);
          }
          const silent = omitted.some(({ what }) => what === `cri:${kind}`);
          expect(said.length < Object.keys(all).length).toBe(silent);
        }
        expect(selectors.join('')).not.toMatch(/[\p{Cc}\u2028\u2029]/u);
      }),
      { numRuns: 500 },
    );
  });
});
