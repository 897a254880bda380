/**
 * Keeps a directory holding the newest set of files, and has a program told of each: tried again until it works, looked
 * after when somebody removes them. What is in the files is its caller's, how they are replaced `secret-files.ts`.
 */
import { SpiffeError } from '../spiffe/errors.ts';
import { linkedController } from './abort.ts';
import { backoffMs, type BackoffPolicy } from './backoff.ts';
import type { Clock } from './clock.ts';
import type { SecretDirectory, SecretFile } from './secret-files.ts';
import type { Watch } from './watch.ts';

/** A set that belongs together; told apart by being another object. */
export interface FileSet {
  readonly files: readonly SecretFile[];
}

/** `nothing`: leave what is there. `removed`: take away what is there. */
export type WantedFiles<S extends FileSet> =
  | { readonly is: 'nothing' }
  | { readonly is: 'removed' }
  | { readonly is: 'files'; readonly set: S };

export type FileChange = 'updated' | 'removed';

export type FileDeliveryEvent<S extends FileSet> =
  /** On disk by now, anew; the program is told next. */
  | { readonly what: 'written'; readonly set: S }
  /** Told, or nobody is to be told. */
  | { readonly what: 'notified'; readonly change: FileChange }
  /** The set is on disk and told of: once for each set, and again after it had to be written again. */
  | { readonly what: 'delivered'; readonly set: S }
  | { readonly what: 'removed' }
  /** It is tried again. */
  | { readonly what: 'failed'; readonly step: 'write' | 'notify'; readonly error: SpiffeError };

export interface FileDeliveryOptions<S extends FileSet> {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly directory: SecretDirectory;
  /** Names whom `notify` tells: others are told of what is there too. */
  readonly told: string;
  /** Has the program take the files; run after each change, and after a start unless it is certain that it was run. */
  readonly notify: (change: FileChange, signal: AbortSignal) => Promise<void>;
  readonly onEvent: (event: FileDeliveryEvent<S>) => void;
}

const retry: BackoffPolicy = { firstMs: 1_000, factor: 2, longestMs: 60_000, jitter: 0.2 };
/** How often somebody is looked for who removed what was delivered. */
const lookEveryMs = 30_000;

/** Runs until the signal aborts, and rejects with its reason; the directory is closed then. */
export async function deliverFiles<S extends FileSet>(
  options: FileDeliveryOptions<S>,
  wanted: Watch<WantedFiles<S>>,
  signal: AbortSignal,
): Promise<never> {
  const { clock, random, directory, onEvent } = options;
  const progress: Progress<S> = { delivered: undefined, removedNotTold: false };
  let failures = 0;
  try {
    for (;;) {
      signal.throwIfAborted();
      const now = wanted.value;
      let step: 'write' | 'notify' = 'write';
      try {
        await bring(options, now, progress, (next) => (step = next), signal);
        failures = 0;
      } catch (caught) {
        signal.throwIfAborted();
        failures += 1;
        onEvent({ what: 'failed', step, error: errorOf(caught) });
      }
      await untilOther(clock, wanted, now, failures === 0 ? lookEveryMs : backoffMs(failures, random(), retry), signal);
    }
  } finally {
    await directory.close();
  }
}

interface Progress<S extends FileSet> {
  /** The set last told as delivered. */
  delivered: S | undefined;
  /** Files were removed, and the program does not know yet. */
  removedNotTold: boolean;
}

async function bring<S extends FileSet>(
  { directory, told, notify, onEvent }: FileDeliveryOptions<S>,
  wanted: WantedFiles<S>,
  progress: Progress<S>,
  enter: (step: 'write' | 'notify') => void,
  signal: AbortSignal,
): Promise<void> {
  switch (wanted.is) {
    case 'nothing':
      return;
    case 'removed':
      progress.delivered = undefined;
      if (await directory.clear()) {
        progress.removedNotTold = true;
        onEvent({ what: 'removed' });
      }
      if (!progress.removedNotTold) return;
      enter('notify');
      await notify('removed', signal);
      progress.removedNotTold = false;
      onEvent({ what: 'notified', change: 'removed' });
      return;
    case 'files': {
      const { set } = wanted;
      progress.removedNotTold = false;
      const state = await directory.state(set.files, told);
      if (state === 'other') {
        await directory.replace(set.files);
        progress.delivered = undefined;
        onEvent({ what: 'written', set });
      }
      if (state !== 'settled') {
        enter('notify');
        await notify('updated', signal);
        onEvent({ what: 'notified', change: 'updated' });
        enter('write');
        await directory.settle(told);
      }
      if (progress.delivered === set) return;
      progress.delivered = set;
      onEvent({ what: 'delivered', set });
    }
  }
}

/** Returns when the watch has another value, or after a while. */
export async function untilOther<T>(clock: Clock, watch: Watch<T>, value: T, ms: number, signal: AbortSignal): Promise<void> {
  const wait = linkedController(signal);
  const over = new Error('waited enough');
  void clock.sleep(ms, wait.signal).then(
    () => wait.abort(over),
    () => undefined,
  );
  try {
    for await (const now of watch.values(wait.signal)) if (now !== value) return;
    // A watch that closed has no other value: what is there is still looked after.
    if (!wait.signal.aborted) await clock.sleep(ms, signal);
  } finally {
    wait.abort(over);
    wait.unlink();
  }
}

function errorOf(caught: unknown): SpiffeError {
  if (caught instanceof SpiffeError) return caught;
  return new SpiffeError('internal', 'file-delivery.unexpected', 'delivering files failed unexpectedly', { cause: caught });
}
