/**
 * Which test files run when. Process scenarios and long runs have to be asked for by name; everything else is `npm test`.
 */
import { defineConfig } from 'vitest/config';

/** Set by the `test:scenario` and `test:long` scripts through `--mode`. */
const modes: Readonly<Record<string, { readonly include: string[]; readonly exclude: string[] }>> = {
  test: { include: ['test/**/*.test.ts'], exclude: ['test/**/*.process.test.ts', 'test/**/*.long.test.ts', 'test/interop/**', 'test/engines/**'] },
  process: { include: ['test/**/*.process.test.ts'], exclude: [] },
  engines: { include: ['test/engines/**/*.test.ts'], exclude: [] },
  interop: { include: ['test/interop/**/*.test.ts'], exclude: [] },
  long: { include: ['test/**/*.long.test.ts'], exclude: [] },
};

export default defineConfig(({ mode }) => {
  const chosen = modes[mode] ?? { include: ['test/**/*.test.ts'], exclude: ['test/**/*.process.test.ts'] };
  const slow = mode === 'process' || mode === 'interop' || mode === 'engines' || mode === 'long';
  return {
    test: {
      include: chosen.include,
      exclude: ['node_modules/**', 'dist/**', ...chosen.exclude],
      // Processes of their own: tests count descriptors, children and threads.
      pool: 'forks',
      // Programs are waited for more than they work; only long runs should have the machine to themselves.
      maxWorkers: mode === 'long' ? 1 : 2,
      fileParallelism: mode !== 'long',
      testTimeout: slow ? 180_000 : 20_000,
      hookTimeout: slow ? 120_000 : 20_000,
      passWithNoTests: false,
      // Among eight thousand tests on a shared machine one now and then is late. In CI it is tried once more, and says so.
      retry: process.env['CI'] === undefined ? 0 : 1,
    },
  };
});
