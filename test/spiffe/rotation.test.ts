import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { isDue, renewAt } from '../../spiffe/rotation.ts';

describe('renewal', () => {
  it.each([
    [0, 1000, 0.5, 500],
    [0, 1000, 0, 450],
    [0, 1000, 1, 550],
    [5000, 125_000, 0.25, 62_000],
  ])('of a life from %i to %i with jitter %d is due at %i', (from, to, jitter, expected) => {
    expect(renewAt(from, to, jitter)).toBe(expected);
  });

  it('lies within a tenth of half the life, and never past its end, for any life and jitter', () => {
    const instant = fc.integer({ min: 0, max: 4e12 });
    fc.assert(
      fc.property(instant, fc.integer({ min: 0, max: 1e11 }), fc.double({ min: 0, max: 1, noNaN: true }), (from, life, jitter) => {
        const due = renewAt(from, from + life, jitter);
        expect(due).toBeGreaterThanOrEqual(Math.round(from + life * 0.45));
        expect(due).toBeLessThanOrEqual(Math.round(from + life * 0.55));
        expect(isDue(due, due) && !isDue(due, due - 1)).toBe(true);
      }),
    );
  });

  it('spreads evenly what was issued together', () => {
    const due = Array.from({ length: 1000 }, (_, n) => renewAt(0, 3_600_000, n / 1000));
    expect(new Set(due).size).toBe(1000);
    expect([due[0], due.at(-1)]).toEqual([1_620_000, 1_979_640]);
  });

  it('of a life that ends before it begins is due at its beginning; jitter outside its range counts as its bound', () => {
    expect(renewAt(1000, 0, 0.5)).toBe(1000);
    expect([renewAt(0, 1000, -3), renewAt(0, 1000, 7)]).toEqual([450, 550]);
  });
});
