import { describe, expect, it } from 'vitest';
import { createAdmission } from '../../runtime/admission.ts';

const limits = { connectionsPerUid: 2, connectsPerSecondPerUid: 10, total: 3 };

describe('createAdmission', () => {
  it('T-A09 holds the connections of one uid without touching another', () => {
    const admission = createAdmission(limits);
    admission.enter(1, 0);
    admission.enter(1, 0);
    expect(admission.refuses(1, 0)).toBe('connections');
    expect(admission.refuses(2, 0)).toBeUndefined();
    admission.leave(1);
    expect(admission.refuses(1, 0)).toBeUndefined();
  });

  it('holds the total', () => {
    const admission = createAdmission(limits);
    for (const uid of [1, 2, 3]) admission.enter(uid, 0);
    expect(admission.refuses(4, 0)).toBe('total');
    admission.leave(2);
    expect(admission.refuses(4, 0)).toBeUndefined();
  });

  it('T-A10 lets a burst through, then the rate, and forgives after a second', () => {
    const admission = createAdmission({ ...limits, connectionsPerUid: 100, total: 100 });
    const admitted = (from: number, until: number, stepMs: number): number => {
      let count = 0;
      for (let at = from; at < until; at += stepMs) if (admission.refuses(7, at) === undefined) count += 1;
      return count;
    };
    expect(admitted(0, 1, 0.01)).toBe(10);
    expect(admitted(1, 1001, 1)).toBe(10);
    expect(admission.refuses(8, 1001)).toBeUndefined();
    expect(admitted(5000, 5001, 0.01)).toBe(10);
  });

  it('ignores a leave that nobody entered for', () => {
    const admission = createAdmission(limits);
    admission.leave(9);
    admission.enter(9, 0);
    admission.leave(9);
    admission.leave(9);
    for (const uid of [1, 2, 3]) admission.enter(uid, 0);
    expect(admission.refuses(4, 0)).toBe('total');
  });

  it('remembers who holds a connection through any number of other uids', () => {
    const admission = createAdmission({ connectionsPerUid: 1, connectsPerSecondPerUid: 10, total: 10 });
    admission.enter(1, 0);
    for (let uid = 2; uid < 30_000; uid += 1) admission.refuses(uid, uid * 10);
    expect(admission.refuses(1, 400_000)).toBe('connections');
  });
});
