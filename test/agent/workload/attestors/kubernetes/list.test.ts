import { describe, expect, it } from 'vitest';
import { podFrom, readList } from '../../../../../agent/workload/attestors/kubernetes/list.ts';
import type { Pod } from '../../../../../agent/workload/attestors/kubernetes/pod.ts';
import type { HttpStream } from '../../../../../runtime/http.ts';
import { podOf, podsOf } from '../../../../help/kubernetes-pods.ts';

/** An answer whose bytes are all there. */
function answerOf(text: string, pieceBytes = 16_384): HttpStream {
  const bytes = Buffer.from(text);
  return {
    status: 200,
    headers: {},
    async *pieces() {
      for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
    },
    lines: () => {
      throw new Error('a list has no lines');
    },
    close: () => undefined,
  };
}

function listOf(items: readonly unknown[]): string {
  return JSON.stringify({ kind: 'PodList', metadata: { resourceVersion: '7' }, items });
}

describe('readList', () => {
  it('puts every pod of the node and tells what the list says of itself', async () => {
    const put: Pod[] = [];
    const text = listOf([...podsOf(10), podOf('x-1', { nodeName: 'node-2' }), { metadata: {} }, 7]);
    const read = await readList(answerOf(text), { index: { put: (pod) => void put.push(pod) }, nodeName: 'node-1', maxBytes: 1e6 });
    expect(put.map(({ uid }) => uid)).toEqual(podsOf(10).map(({ metadata }) => metadata.uid));
    expect(read).toEqual({ resourceVersion: '7', continueToken: '', bytes: text.length, uids: new Set(put.map(({ uid }) => uid)) });
  });

  it('gives way to others while it reads 3 MB that are all there', async () => {
    const text = listOf(podsOf(500));
    let turns = 0;
    let reading = true;
    const count = (): void => {
      turns += 1;
      if (reading) setImmediate(count);
    };
    setImmediate(count);
    await readList(answerOf(text), { index: { put: () => undefined }, maxBytes: 1e8 });
    reading = false;
    expect(text.length).toBeGreaterThan(3_000_000);
    expect(turns).toBeGreaterThanOrEqual(Math.floor(text.length / 65_536) - 1);
  });

  it('reads no more than its bound', async () => {
    const answer = readList(answerOf(listOf(podsOf(20))), { index: { put: () => undefined }, maxBytes: 50_000 });
    await expect(answer).rejects.toMatchObject({ kind: 'unavailable', reason: 'k8s.source.too-large' });
  });
});

describe('podFrom', () => {
  it('makes nothing of what is no pod', () => {
    expect(podFrom(podOf('a-1'), {})?.selectors).toContain('k8s:pod-name:a-1');
    expect(podFrom(undefined, {})).toBeUndefined();
    expect(podFrom(podOf('a-1', { nodeName: 'node-2' }), { nodeName: 'node-1' })).toBeUndefined();
  });
});
