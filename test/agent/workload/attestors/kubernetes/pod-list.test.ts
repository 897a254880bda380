import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createPodListReader } from '../../../../../agent/workload/attestors/kubernetes/pod-list.ts';
import type { PodListHead, PodListLimits } from '../../../../../agent/workload/attestors/kubernetes/pod-list.ts';
import { podsOf } from '../../../../help/kubernetes-pods.ts';

interface Read extends PodListHead {
  readonly items: readonly unknown[];
}

function read(text: string | Uint8Array, pieceBytes = 65_536, limits?: PodListLimits): Read {
  const bytes = Buffer.from(text as string);
  const reader = createPodListReader(limits);
  const items: unknown[] = [];
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    // A piece of memory that is used again, as a socket's is.
    const piece = Buffer.from(bytes.subarray(at, at + pieceBytes));
    items.push(...reader.feed(piece));
  }
  return { ...reader.end(), items };
}

const form = { kind: 'unavailable', reason: 'k8s.source.answer' };

describe('createPodListReader', () => {
  it.each([1, 100, 500])('reads a list of %i pods as it is', (count) => {
    const items = podsOf(count);
    const list = { kind: 'PodList', apiVersion: 'v1', metadata: { resourceVersion: '12', continue: 'next' }, items };
    const { items: found, ...head } = read(JSON.stringify(list), 4_099);
    expect(head).toEqual({ resourceVersion: '12', continueToken: 'next' });
    expect(JSON.stringify(found)).toBe(JSON.stringify(items));
  });

  it('reads it whatever the pieces, the spaces and the order of the members', () => {
    const items = podsOf(2);
    for (const text of [
      JSON.stringify({ metadata: { resourceVersion: '1' }, items }, undefined, 2),
      JSON.stringify({ items, metadata: { resourceVersion: '1' } }, undefined, '\t'),
      ` \r\n{"other":{"items":[1,[2]]},"items" \t: \n [ ${JSON.stringify(items[0])} , ${JSON.stringify(items[1])} ] , "metadata":{"resourceVersion":"1","items":[]}}\n`,
    ]) {
      for (const pieceBytes of [1, 2, 7, 1_000]) expect(read(text, pieceBytes)).toEqual({ items, resourceVersion: '1', continueToken: '' });
    }
  });

  it('reads lists without pods', () => {
    for (const items of ['[]', '[ ]', 'null']) {
      expect(read(`{"items":${items}}`)).toEqual({ items: [], resourceVersion: '', continueToken: '' });
    }
  });

  it('hands out a pod as soon as it is complete', () => {
    const reader = createPodListReader();
    expect(reader.feed(Buffer.from('{"items":[{"a":1}'))).toEqual([]);
    expect(reader.feed(Buffer.from(',{"b":'))).toEqual([{ a: 1 }]);
    expect(reader.feed(Buffer.from('"}],["'))).toEqual([]);
    expect(reader.feed(Buffer.from('},{"c":"]"'))).toEqual([{ b: '}],[' }]);
    expect(reader.feed(Buffer.from('}]'))).toEqual([{ c: ']' }]);
  });

  it('passes over a pod that cannot be read, and over no other', () => {
    const list = '{"items":[{"a":1},{"b":tru},{"c":"\\x"},{"d":2},,{"e":3}]}';
    expect(read(list).items).toEqual([{ a: 1 }, undefined, undefined, { d: 2 }, { e: 3 }]);
    const text = Buffer.concat([Buffer.from('{"items":[{"a":"'), Buffer.from([0xff, 0xfe]), Buffer.from('"},{"b":1}]}')]);
    expect(read(text).items).toEqual([undefined, { b: 1 }]);
  });

  it('reads over a pod of 10 MB', () => {
    const large = { labels: Object.fromEntries(Array.from({ length: 1_000 }, (_, i) => [`l${String(i)}`, 'x'.repeat(10_000)])) };
    const list = JSON.stringify({ items: [{ a: 1 }, large, { b: 2 }] });
    expect(list.length).toBeGreaterThan(10_000_000);
    expect(read(list).items).toEqual([{ a: 1 }, undefined, { b: 2 }]);
  });

  it.each([
    ['half of a list', JSON.stringify({ items: podsOf(2) }).slice(0, 9_000)],
    ['half of a string', '{"items":[],"a":"'],
    ['nothing', ''],
    ['an error of the server', '{"kind":"Status","code":500}'],
    ['an array', '[{"items":[]}]'],
    ['items that are no array', '{"items":{}}'],
    ['items deeper down', '{"a":{"items":[{"b":1}]}}'],
    ['a name that ends so', '{"x\\"items":[{"b":1}]}'],
    ['two lists', '{"items":[]}{"items":[]}'],
    ['a page for people', '<!DOCTYPE html><html></html>'],
    ['more ends than beginnings', ']}'],
    ['no JSON around the items', '{"items":[],}'],
  ])('refuses %s', (_what, text) => {
    for (const pieceBytes of [1, 65_536]) expect(() => read(text, pieceBytes)).toThrow(expect.objectContaining(form));
  });

  it('holds no more than its bounds', () => {
    expect(() => read(`{"a":"${'x'.repeat(100_000)}","items":[]}`)).toThrow(expect.objectContaining(form));
    expect(read('{"items":[{"a":"123456789"},{"b":1}]}', 1, { podBytes: 10, headBytes: 100 }).items).toEqual([undefined, { b: 1 }]);
  });

  it('agrees with JSON.parse on any list in any pieces', () => {
    fc.assert(
      fc.property(fc.array(fc.dictionary(fc.string(), fc.jsonValue()), { maxLength: 5 }), fc.integer({ min: 1, max: 40 }), fc.boolean(), (values, size, spaced) => {
        const text = JSON.stringify({ kind: 'PodList', items: values, metadata: { resourceVersion: '3' } }, undefined, spaced ? 1 : 0);
        const { items } = JSON.parse(text) as { items: unknown[] };
        expect(read(text, size)).toEqual({ items, resourceVersion: '3', continueToken: '' });
      }),
      { numRuns: 100 },
    );
  });

  it('never throws anything else at whatever bytes', () => {
    const piece = fc.oneof(fc.uint8Array({ maxLength: 8 }), fc.constantFrom('{"items":[', '{', '}', '[', ']', '"', '\\', ',', ':', '{"a":1}').map((text) => Buffer.from(text)));
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 30 }), (pieces) => {
        const reader = createPodListReader();
        try {
          for (const bytes of pieces) reader.feed(bytes);
          reader.end();
        } catch (error) {
          expect(error).toMatchObject(form);
        }
      }),
      { numRuns: 200 },
    );
  });
});
