import { describe, expect, it } from 'vitest';
import { runTasks } from '../../runtime/tasks.ts';
import { untilAborted } from '../../runtime/abort.ts';
import { SpiffeError } from '../../spiffe/errors.ts';

const forever = (signal: AbortSignal): Promise<void> => untilAborted(new Promise(() => undefined), signal);

describe('runTasks', () => {
  it('starts all in order and ends when all have ended', async () => {
    const started: string[] = [];
    const note = (name: string) => () => {
      started.push(name);
      return Promise.resolve();
    };
    await runTasks({ one: note('one'), two: note('two') }, new AbortController().signal);
    expect(started).toEqual(['one', 'two']);
  });

  it('stops the others and names the one that failed', async () => {
    let stopped = false;
    const failing = runTasks(
      {
        steady: async (signal) => {
          try {
            await forever(signal);
          } finally {
            stopped = true;
          }
        },
        broken: () => Promise.reject(new SpiffeError('denied', 'agent.banned', 'agent is banned')),
      },
      new AbortController().signal,
    );
    await expect(failing).rejects.toMatchObject({
      kind: 'denied',
      reason: 'task.failed',
      detail: { task: 'broken', reason: 'agent.banned' },
    });
    expect(stopped).toBe(true);
  });

  it('treats a synchronous throw and a foreign error as internal', async () => {
    const boom = (): Promise<void> => {
      throw new TypeError('boom');
    };
    await expect(runTasks({ boom }, new AbortController().signal)).rejects.toMatchObject({
      kind: 'internal',
      detail: { task: 'boom' },
    });
  });

  it('does not call stopping a failure, but a failure while stopping is one', async () => {
    const stop = new AbortController();
    const quiet = runTasks({ forever }, stop.signal);
    const loud = runTasks(
      {
        forever,
        late: async (signal) => {
          await forever(signal).catch(() => undefined);
          throw new Error('could not close');
        },
      },
      stop.signal,
    );
    stop.abort(new Error('stop'));
    await quiet;
    await expect(loud).rejects.toMatchObject({ detail: { task: 'late' } });
  });
});
