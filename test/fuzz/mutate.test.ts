import { describe, expect, it } from 'vitest';

import { createRandom, mutate } from './mutate.ts';

const corpus = [Uint8Array.of(0x30, 3, 2, 1, 5), Uint8Array.of(0x30, 0), new Uint8Array()];

function drawn(seed: number, count: number): readonly string[] {
  const random = createRandom(seed);
  return Array.from({ length: count }, () => Buffer.from(mutate(corpus, random)).toString('hex'));
}

describe('mutating', () => {
  it('yields the same inputs for the same seed and others for another', () => {
    expect(drawn(1, 200)).toEqual(drawn(1, 200));
    expect(drawn(1, 200)).not.toEqual(drawn(2, 200));
  });

  it('yields many different inputs and leaves the corpus as it was', () => {
    expect(new Set(drawn(3, 1000)).size).toBeGreaterThan(500);
    expect(corpus.map((input) => Buffer.from(input).toString('hex'))).toEqual(['3003020105', '3000', '']);
  });

  it('draws numbers from 0 below 1, spread evenly', () => {
    const random = createRandom(4);
    const tenths = Array.from({ length: 10 }, () => 0);
    for (let i = 0; i < 10_000; i += 1) {
      const tenth = Math.floor(random() * 10);
      tenths[tenth] = (tenths[tenth] ?? 0) + 1;
    }
    expect(tenths).toHaveLength(10);
    expect(Math.min(...tenths)).toBeGreaterThan(850);
  });
});
