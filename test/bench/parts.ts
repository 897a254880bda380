/**
 * The benches of single parts, each run by `micro.ts` in a process and a directory of its own.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Bench, Figure } from './figure.ts';
import { runPart } from './processes.ts';

export function microBench(part: string): Bench {
  return {
    name: part,
    within: 90,
    async run(report) {
      const directory = await mkdtemp(path.join(tmpdir(), 'steeple-bench-'));
      try {
        for (const figure of await runPart('micro.ts', [part, directory])) report(figure as unknown as Figure);
      } finally {
        await rm(directory, { recursive: true, force: true });
      }
    },
  };
}
