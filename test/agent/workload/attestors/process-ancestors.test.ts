import { describe, expect, it } from 'vitest';
import { ancestryOf, parseBirth } from '../../../../agent/workload/attestors/process-ancestors.ts';
import type { Birth } from '../../../../agent/workload/attestors/process-ancestors.ts';

/** Processes by number, which change between two looks at any of them. */
function family(rows: readonly (readonly [pid: number, parent: number, startedAt: number])[]): {
  readonly births: Map<number, Birth>;
  readonly birthOf: (pid: number) => Birth | undefined;
} {
  const births = new Map(rows.map(([pid, parent, startedAt]) => [pid, { pid, parent, startedAt: BigInt(startedAt) }]));
  return { births, birthOf: (pid) => births.get(pid) };
}

const four = [
  [40, 30, 400],
  [30, 20, 300],
  [20, 1, 200],
  [1, 0, 1],
] as const;

describe('ancestryOf', () => {
  it('goes up to the first process, or as far as is asked', () => {
    const { birthOf } = family(four);
    expect(ancestryOf(40, (pid) => pid, { birthOf })).toEqual({ ancestors: [30, 20, 1] });
    expect(ancestryOf(40, (pid) => pid, { birthOf, depth: 1 })).toEqual({ ancestors: [30] });
    expect(ancestryOf(1, (pid) => pid, { birthOf })).toEqual({ ancestors: [] });
  });

  it('is bounded', () => {
    const { birthOf } = family(Array.from({ length: 100 }, (_, at) => [at + 1, at, at + 1] as const));
    const { ancestors, reason } = ancestryOf(100, (pid) => pid, { birthOf });
    expect(ancestors).toHaveLength(32);
    expect(reason).toBe('process.ancestor.too-deep');
  });

  it('ends at a parent that is younger than its child', () => {
    const { birthOf } = family([[40, 30, 400], [30, 20, 300], [20, 1, 301], [1, 0, 1]]);
    expect(ancestryOf(40, (pid) => pid, { birthOf })).toEqual({ ancestors: [30], reason: 'process.ancestor.younger' });
  });

  it('T-A01 of a parent that ends while it is looked at nothing is said, but of who took the child in', () => {
    const { births, birthOf } = family(four);
    const look = (pid: number): number => {
      if (pid === 30) {
        births.delete(30);
        births.set(40, { pid: 40, parent: 1, startedAt: 400n });
      }
      return pid;
    };
    expect(ancestryOf(40, look, { birthOf })).toEqual({ ancestors: [1] });
  });

  it('T-A01 a number that another process has meanwhile is not the parent, though it is older than the child', () => {
    const { births, birthOf } = family(four);
    const look = (pid: number): number => {
      if (pid === 30) {
        births.set(30, { pid: 30, parent: 1, startedAt: 350n });
        births.set(40, { pid: 40, parent: 1, startedAt: 400n });
      }
      return pid;
    };
    expect(ancestryOf(40, look, { birthOf })).toEqual({ ancestors: [1] });
  });

  it('T-A01 a parent’s number that changed hands under a child is not believed', () => {
    const { births, birthOf } = family(four);
    let born = 300n;
    const look = (pid: number): number => {
      born += 1n;
      if (pid === 30) births.set(30, { pid: 30, parent: 20, startedAt: born });
      return pid;
    };
    expect(ancestryOf(40, look, { birthOf })).toEqual({ ancestors: [], reason: 'process.ancestor.moved' });
  });

  it('T-A01 a child whose own number changed hands has no ancestors', () => {
    const { births, birthOf } = family(four);
    const look = (pid: number): number => {
      births.set(40, { pid: 40, parent: 30, startedAt: 401n });
      return pid;
    };
    expect(ancestryOf(40, look, { birthOf })).toEqual({ ancestors: [], reason: 'process.ancestor.moved' });
    expect(ancestryOf(41, look, { birthOf })).toEqual({ ancestors: [], reason: 'process.ancestor.moved' });
  });

  it('of a process that is handed up again and again is given up', () => {
    const { births, birthOf } = family(four);
    let parent = 30;
    const look = (pid: number): number => {
      parent = parent === 30 ? 20 : 30;
      births.set(40, { pid: 40, parent, startedAt: 400n });
      return pid;
    };
    expect(ancestryOf(40, look, { birthOf })).toEqual({ ancestors: [], reason: 'process.ancestor.moved' });
  });
});

describe('parseBirth', () => {
  const rest = 'S 7 1 1 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 99 1';

  it('is not led astray by a name', () => {
    expect(parseBirth(`9 (sh) ${rest}`)).toEqual({ parent: 7, startedAt: 12345n });
    expect(parseBirth(`9 (a) S 1 1) ${rest}`)).toEqual({ parent: 7, startedAt: 12345n });
  });

  it.each(['', '9 (sh', '9 (sh) S', `9 (sh) ${rest.replace(' 7 ', ' -7 ')}`, `9 (sh) ${rest.replace('12345', 'x')}`])('refuses %j', (text) => {
    expect(() => parseBirth(text)).toThrow(expect.objectContaining({ kind: 'internal', reason: 'process.form' }));
  });
});
