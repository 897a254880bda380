import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { backoffMs } from '../../runtime/backoff.ts';

const policy = { firstMs: 1_000, factor: 2, longestMs: 30_000, jitter: 0.1 };

describe('backoffMs', () => {
  it.each([
    [1, 0.5, 1_000],
    [2, 0.5, 2_000],
    [5, 0.5, 16_000],
    [6, 0.5, 30_000],
    [1, 0, 900],
    [1, 0.999_999, 1_100],
    [5_000, 0.5, 30_000],
    [0, 0.5, 1_000],
  ])('attempt %i with random %d waits %i ms', (attempt, random, expected) => {
    expect(backoffMs(attempt, random, policy)).toBe(expected);
  });

  it('never leaves [0, longest]', () => {
    fc.assert(
      fc.property(fc.integer({ min: -5, max: 100_000 }), fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), (a, r) => {
        const ms = backoffMs(a, r, policy);
        expect(ms).toBeGreaterThanOrEqual(0);
        expect(ms).toBeLessThanOrEqual(policy.longestMs);
      }),
    );
  });
});
