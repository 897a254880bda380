/**
 * What is loaded into a TPM goes again, whether work with it succeeds or fails: a TPM has room for three objects or so, and
 * what is forgotten there stays until it restarts. What is loaded, and why, is left to the work.
 */
import type { Tpm } from './command.ts';
import { flushContext } from './commands.ts';

export interface Holder {
  /** Takes over what was loaded; yields it again. */
  readonly hold: <T extends number | { readonly handle: number }>(loaded: T) => T;
  /** Flushes it before the others. */
  readonly release: (loaded: { readonly handle: number }) => Promise<void>;
}

/**
 * Flushes what was held, last first, before it settles.
 * @throws what `work` throws; else what the first flush that failed throws
 */
export async function holding<T>(tpm: Tpm, work: (holder: Holder) => Promise<T>): Promise<T> {
  const held: number[] = [];
  const flushAll = async (): Promise<readonly unknown[]> => {
    const failures: unknown[] = [];
    for (const handle of held.splice(0).toReversed()) {
      try {
        await flushContext(tpm, handle);
      } catch (error) {
        failures.push(error);
      }
    }
    return failures;
  };
  let result: T;
  try {
    result = await work({
      hold: (loaded) => {
        held.push(typeof loaded === 'number' ? loaded : loaded.handle);
        return loaded;
      },
      release: async ({ handle }) => {
        held.splice(held.indexOf(handle), 1);
        await flushContext(tpm, handle);
      },
    });
  } catch (error) {
    await flushAll();
    throw error;
  }
  const [failure] = await flushAll();
  if (failure !== undefined) throw failure as Error;
  return result;
}
