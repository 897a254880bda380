import { describe, expect, it } from 'vitest';
import { linkedController, untilAborted } from '../../runtime/abort.ts';

describe('untilAborted', () => {
  it('settles as the promise does', async () => {
    const { signal } = new AbortController();
    await expect(untilAborted(Promise.resolve(1), signal)).resolves.toBe(1);
    await expect(untilAborted(Promise.reject(new Error('no')), signal)).rejects.toThrow('no');
  });

  it('rejects with the reason, before and during the wait', async () => {
    const stop = new AbortController();
    const pending = untilAborted(new Promise(() => undefined), stop.signal);
    stop.abort(new Error('enough'));
    await expect(pending).rejects.toThrow('enough');
    await expect(untilAborted(Promise.reject(new Error('late')), stop.signal)).rejects.toThrow('enough');
  });
});

describe('linkedController', () => {
  it('aborts with its parent or alone, never upwards', () => {
    const parent = new AbortController();
    const child = linkedController(parent.signal);
    const other = linkedController(parent.signal);
    other.abort(new Error('only me'));
    expect([parent.signal.aborted, child.signal.aborted, other.signal.aborted]).toEqual([false, false, true]);
    const unlinked = linkedController(parent.signal);
    unlinked.unlink();
    parent.abort(new Error('all'));
    expect([child.signal.aborted, unlinked.signal.aborted]).toEqual([true, false]);
    expect(linkedController(parent.signal).signal.aborted).toBe(true);
  });
});
