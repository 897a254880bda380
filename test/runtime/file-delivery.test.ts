import { afterEach, describe, expect, it } from 'vitest';
import { deliverFiles, type FileChange, type FileDeliveryEvent, type WantedFiles } from '../../runtime/file-delivery.ts';
import type { SecretDirectory, SecretFile } from '../../runtime/secret-files.ts';
import { createWatch } from '../../runtime/watch.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { createTestClock } from '../help/clock.ts';

interface NamedSet {
  readonly name: string;
  readonly files: readonly SecretFile[];
}

function set(name: string): WantedFiles<NamedSet> {
  return { is: 'files', set: { name, files: [{ name: 'f', content: name, mode: 0o600 }] } };
}

/** A directory in memory that fails while it is told to. */
function memoryDirectory(): SecretDirectory & { content: string | undefined; settled: boolean; failing: SpiffeError | undefined; closed: boolean } {
  const directory = {
    content: undefined as string | undefined,
    settled: false,
    closed: false,
    failing: undefined as SpiffeError | undefined,
    async state(files: readonly SecretFile[]) {
      await guard();
      if (directory.content !== files[0]?.content) return 'other' as const;
      return directory.settled ? ('settled' as const) : ('written' as const);
    },
    async replace(files: readonly SecretFile[]) {
      await guard();
      directory.content = files[0]?.content;
      directory.settled = false;
    },
    async settle() {
      await guard();
      directory.settled = true;
    },
    async clear() {
      await guard();
      const had = directory.content !== undefined;
      directory.content = undefined;
      return had;
    },
    close() {
      directory.closed = true;
      return Promise.resolve();
    },
  };
  const guard = async (): Promise<void> => {
    await Promise.resolve();
    if (directory.failing !== undefined) throw directory.failing;
  };
  return directory;
}

const stops: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const stop of stops.splice(0)) await stop();
});

function world() {
  const clock = createTestClock();
  const directory = memoryDirectory();
  const wanted = createWatch<WantedFiles<NamedSet>>({ is: 'nothing' });
  const events: string[] = [];
  const told: FileChange[] = [];
  const state = { refuse: undefined as Error | undefined };
  const stop = new AbortController();
  const run = (): Promise<unknown> =>
    deliverFiles<NamedSet>(
      {
        clock,
        random: () => 0.5,
        directory,
        told: 'web',
        notify(change) {
          if (state.refuse !== undefined) return Promise.reject(state.refuse);
          told.push(change);
          return Promise.resolve();
        },
        onEvent: (event) => events.push(text(event)),
      },
      wanted,
      stop.signal,
    ).catch((error: unknown) => error);
  const over = run();
  stops.push(() => {
    stop.abort(new Error('the test is over'));
    return over;
  });
  const since = (): readonly string[] => events.splice(0);
  return { clock, directory, wanted, told, state, since, stop, over };
}

function text(event: FileDeliveryEvent<NamedSet>): string {
  switch (event.what) {
    case 'failed':
      return `failed ${event.step} ${event.error.reason}`;
    case 'notified':
      return `notified ${event.change}`;
    case 'removed':
      return 'removed';
    default:
      return `${event.what} ${event.set.name}`;
  }
}

const full = new SpiffeError('unavailable', 'files.full', 'no space left');
const hookFailed = new SpiffeError('unavailable', 'hook.failed', 'exit code 1');

describe('delivering files', () => {
  it('writes each set, tells the program after it, and remembers that it did', async () => {
    const { clock, directory, wanted, since } = world();
    await clock.settle();
    expect(since()).toEqual([]);
    for (const name of ['one', 'two']) {
      wanted.set(set(name));
      await clock.settle();
      expect(since()).toEqual([`written ${name}`, 'notified updated', `delivered ${name}`]);
      expect(directory).toMatchObject({ content: name, settled: true });
    }
  });

  it('does neither for a set that says the same, and says once that it is there', async () => {
    const { clock, wanted, since } = world();
    wanted.set(set('one'));
    await clock.settle();
    since();
    wanted.set(set('one'));
    await clock.settle();
    expect(since()).toEqual(['delivered one']);
    await clock.advance(300_000);
    expect(since()).toEqual([]);
  });

  it('after a restart tells the program of what is there unless it is certain that it knows', async () => {
    const { clock, directory, wanted, since } = world();
    directory.content = 'one';
    wanted.set(set('one'));
    await clock.settle();
    expect(since()).toEqual(['notified updated', 'delivered one']);
    const again = world();
    again.directory.content = 'one';
    again.directory.settled = true;
    again.wanted.set(set('one'));
    await again.clock.settle();
    expect(again.since()).toEqual(['delivered one']);
  });

  it('tries to write again, later each time, with the newest by then', async () => {
    const { clock, directory, wanted, since } = world();
    directory.failing = full;
    wanted.set(set('one'));
    await clock.settle();
    expect(since()).toEqual(['failed write files.full']);
    await clock.advance(1_000);
    expect(since()).toEqual(['failed write files.full']);
    await clock.advance(1_999);
    expect(since()).toEqual([]);
    wanted.set(set('two'));
    await clock.settle();
    expect(since()).toEqual(['failed write files.full']);
    directory.failing = undefined;
    await clock.advance(60_000);
    expect(since()).toEqual(['written two', 'notified updated', 'delivered two']);
  });

  it('tells the program again until that works, without writing again', async () => {
    const { clock, directory, wanted, state, since } = world();
    state.refuse = hookFailed;
    wanted.set(set('one'));
    await clock.settle();
    expect(since()).toEqual(['written one', 'failed notify hook.failed']);
    expect(directory.settled).toBe(false);
    await clock.advance(1_000);
    expect(since()).toEqual(['failed notify hook.failed']);
    state.refuse = undefined;
    await clock.advance(2_000);
    expect(since()).toEqual(['notified updated', 'delivered one']);
    state.refuse = new TypeError('of the program');
    wanted.set(set('two'));
    await clock.settle();
    expect(since()).toEqual(['written two', 'failed notify file-delivery.unexpected']);
  });

  it('waits a minute at most between tries', async () => {
    const { clock, directory, wanted, since } = world();
    directory.failing = full;
    wanted.set(set('one'));
    await clock.advance(3_600_000);
    expect(since().length).toBeGreaterThan(60);
    directory.failing = undefined;
    await clock.advance(60_000);
    expect(since()).toEqual(['written one', 'notified updated', 'delivered one']);
  });

  it('puts back within half a minute what was removed, and tells of it', async () => {
    const { clock, directory, wanted, since } = world();
    wanted.set(set('one'));
    await clock.settle();
    since();
    directory.content = undefined;
    await clock.advance(30_000);
    expect(since()).toEqual(['written one', 'notified updated', 'delivered one']);
  });

  it('leaves what is there when nothing is wanted any more', async () => {
    const { clock, directory, wanted, since } = world();
    wanted.set(set('one'));
    await clock.settle();
    since();
    wanted.set({ is: 'nothing' });
    await clock.advance(60_000);
    expect(since()).toEqual([]);
    expect(directory.content).toBe('one');
  });

  it('removes when it is told to, tells the program until it knows, and nothing when nothing was there', async () => {
    const { clock, directory, wanted, state, told, since } = world();
    wanted.set({ is: 'removed' });
    await clock.settle();
    expect(since()).toEqual([]);
    wanted.set(set('one'));
    await clock.settle();
    since();
    state.refuse = hookFailed;
    wanted.set({ is: 'removed' });
    await clock.settle();
    expect(since()).toEqual(['removed', 'failed notify hook.failed']);
    expect(directory.content).toBe(undefined);
    state.refuse = undefined;
    await clock.advance(1_000);
    expect(since()).toEqual(['notified removed']);
    expect(told).toEqual(['updated', 'removed']);
    wanted.set(set('one'));
    await clock.settle();
    expect(since()).toEqual(['written one', 'notified updated', 'delivered one']);
  });

  it('goes on looking after its files when no newer ones can come', async () => {
    const { clock, directory, wanted, since } = world();
    wanted.set(set('one'));
    await clock.settle();
    since();
    wanted.close();
    directory.content = undefined;
    await clock.advance(60_000);
    expect(since()).toEqual(['written one', 'notified updated', 'delivered one']);
  });

  it('ends with its signal and closes the directory', async () => {
    const { clock, directory, stop, over, wanted } = world();
    wanted.set(set('one'));
    await clock.settle();
    const reason = new Error('enough');
    stop.abort(reason);
    expect(await over).toBe(reason);
    expect(directory.closed).toBe(true);
    expect(clock.sleepers).toBe(0);
  });
});
