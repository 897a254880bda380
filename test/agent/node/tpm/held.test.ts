import { describe, expect, it } from 'vitest';
import type { Tpm } from '../../../../agent/node/tpm/command.ts';
import { holding } from '../../../../agent/node/tpm/held.ts';
import { openTpm } from '../../../../runtime/tpm/wire.ts';

/** Knows nothing but how to flush, in which it fails for some. */
function flushing(...failing: readonly number[]): Tpm & { readonly flushed: number[] } {
  const flushed: number[] = [];
  return {
    flushed,
    run({ name, parameters }) {
      const handle = Buffer.from(parameters ?? []).readUInt32BE(0);
      if (name !== 'FlushContext' || failing.includes(handle)) return Promise.reject(new Error(`${name} ${handle}`));
      flushed.push(handle);
      return Promise.resolve({ handle: 0, parameters: openTpm(new Uint8Array()) });
    },
  };
}

describe('holding', () => {
  it('flushes what is held, last first, and what is released at once', async () => {
    const tpm = flushing();
    const result = await holding(tpm, async ({ hold, release }) => {
      expect(hold(1)).toBe(1);
      const second = hold({ handle: 2 });
      hold({ handle: 3 });
      await release(second);
      expect(tpm.flushed).toEqual([2]);
      return 'done';
    });
    expect(result).toBe('done');
    expect(tpm.flushed).toEqual([2, 3, 1]);
  });

  it('flushes when work fails, and says why it failed', async () => {
    const tpm = flushing(3);
    const work = holding(tpm, ({ hold }) => {
      for (const handle of [1, 2, 3]) hold(handle);
      return Promise.reject(new Error('work'));
    });
    await expect(work).rejects.toThrow('work');
    expect(tpm.flushed).toEqual([2, 1]);
  });

  it('says when flushing fails, having flushed the others', async () => {
    const tpm = flushing(2);
    await expect(holding(tpm, ({ hold }) => Promise.resolve([1, 2, 3].map((handle) => hold(handle))))).rejects.toThrow('FlushContext 2');
    expect(tpm.flushed).toEqual([3, 1]);
  });
});
