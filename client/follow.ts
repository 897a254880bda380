/**
 * What the sources have in common: an update taken in after the other for as long as the source is open, the last good one
 * kept, and what the agent has taken back let go. Connecting again is the watch's own.
 */
import { type Clock, systemClock } from '../runtime/clock.ts';
import { untilAborted } from '../runtime/abort.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { publishDiagnostic, WorkloadApi, type WatchOptions } from './workload-api.ts';

/** What every source is opened with. */
export interface SourceOptions {
  /** Used and not closed; without it the source opens one of its own and closes it. */
  readonly api?: WorkloadApi;
  /** Of the agent, when no `api` is given; SPIFFE_ENDPOINT_SOCKET when both are absent. */
  readonly address?: string;
  readonly clock?: Clock;
  /** How long to wait until there is something; for ever unless the signal aborts. */
  readonly signal?: AbortSignal;
  /**
   * The standard asks to stop using what the agent denies [Workload API 5.2]. An agent that starts, or cannot tell for a
   * moment who is asking, denies too: so the denial has to stand this long, 60 s unless given, before a source lets go of
   * what it holds. 0 obeys the first, `Infinity` none. An agent that is merely away takes nothing back.
   */
  readonly withdrawAfterMs?: number;
}

const defaultWithdrawAfterMs = 60_000;

/** An agent's connection and the time, as a source was told to use them. */
export interface SourceParts {
  readonly api: WorkloadApi;
  readonly clock: Clock;
  readonly withdrawAfterMs: number;
  /** Aborts when the source is closed. */
  readonly stop: AbortController;
  /** Closes what is the source's own. */
  readonly release: () => void;
}

export interface Follow<T> {
  readonly watch: (signal: AbortSignal, options: WatchOptions) => AsyncIterableIterator<T>;
  /** Takes a whole update in; what it throws refuses it. */
  readonly accept: (update: T) => void;
  /** Lets go of everything. */
  readonly withdraw: () => void;
  /** Nothing more will come; with an error because it cannot be mended. */
  readonly ended: (error?: Error) => void;
}

export interface Following {
  /** Settles with the first update that was accepted. */
  readonly ready: Promise<void>;
  /** Resolves when nothing more will come; never rejects. */
  readonly done: Promise<void>;
}

/** @throws as `WorkloadApi` */
export function prepareSource(options: SourceOptions): SourceParts {
  const { api, clock = api?.clock ?? systemClock, withdrawAfterMs = defaultWithdrawAfterMs } = options;
  const used = api ?? new WorkloadApi({ clock, ...(options.address !== undefined && { address: options.address }) });
  const release = (): void => {
    if (api === undefined) used.close();
  };
  return { api: used, clock, withdrawAfterMs, stop: new AbortController(), release };
}

/** Follows one watch until the source is closed. */
export function follow<T>(parts: SourceParts, how: Follow<T>): Following {
  const { clock, stop, withdrawAfterMs } = parts;
  let deniedSince: number | undefined;
  let isWithdrawn = false;
  let lastError: unknown;
  let settle: (error?: Error) => void = () => undefined;
  const ready = new Promise<void>((resolve, reject) => {
    settle = (error) => (error === undefined ? resolve() : reject(error));
  });
  // Told to whoever waits for it; after the first update nobody does.
  ready.catch(() => undefined);
  let isReady = false;

  const onError = (error: SpiffeError): void => {
    lastError = error;
    if (!isReady || isWithdrawn || error.kind !== 'denied') return;
    deniedSince ??= clock.monotonic();
    if (clock.monotonic() - deniedSince < withdrawAfterMs) return;
    isWithdrawn = true;
    how.withdraw();
    publishDiagnostic({ event: 'withdrawn', error });
  };
  const take = (update: T): void => {
    try {
      how.accept(update);
    } catch (error) {
      lastError = error;
      publishDiagnostic({ event: 'update-refused', error });
      return;
    }
    if (isWithdrawn) publishDiagnostic({ event: 'restored' });
    isWithdrawn = false;
    deniedSince = undefined;
    isReady = true;
    settle();
  };
  const run = async (): Promise<void> => {
    try {
      for await (const update of how.watch(stop.signal, { onError })) take(update);
      how.ended();
      settle(givenUp(lastError));
    } catch (error) {
      // What is held stays in force; readers of the watch learn why nothing newer comes.
      const reason = error instanceof Error ? error : new Error('the watch ended', { cause: error });
      how.ended(reason);
      settle(reason);
    }
  };
  return { ready, done: run() };
}

/**
 * Waits for a source to be ready, and takes it down again when it does not get there.
 * @throws what the watch could not mend; unavailable `source.aborted` when the signal aborts first, with what it failed on so
 *   far as its cause
 */
export async function untilReady(
  parts: SourceParts,
  following: readonly Following[],
  signal: AbortSignal | undefined,
): Promise<void> {
  const all = Promise.all(following.map(({ ready }) => ready));
  try {
    await (signal === undefined ? all : untilAborted(all, signal));
  } catch (error) {
    await closeSource(parts, following);
    // The one that says what it failed on, which `untilAborted` does not know of.
    throw signal?.aborted === true ? await all.then(() => givenUp(undefined), (reason: unknown) => reason) : error;
  }
}

/** Ends the watches and what is the source's own. May be called again. */
export async function closeSource(parts: SourceParts, following: readonly Following[]): Promise<void> {
  parts.stop.abort();
  await Promise.all(following.map(({ done }) => done));
  parts.release();
}

/** @throws unavailable `source.closed` */
export function requireOpen({ stop }: SourceParts): void {
  if (stop.signal.aborted) throw new SpiffeError('unavailable', 'source.closed', 'the source is closed');
}

function givenUp(cause: unknown): SpiffeError {
  const why = cause instanceof Error ? `: ${cause.message}` : '';
  return new SpiffeError('unavailable', 'source.aborted', `nothing came before the wait was given up${why}`, { cause });
}

/** Picks by the operator's hint; an update without it is refused, and what was held stays [Workload API 8]. */
export function pickHint(hint: string): <T extends { readonly hint: string }>(svids: readonly T[]) => T | undefined {
  return (svids) => svids.find((svid) => svid.hint === hint);
}

/** @throws missing `source.pick` when nothing was picked */
export function pickFrom<T>(svids: readonly T[], pick: ((svids: readonly T[]) => T | undefined) | undefined): T {
  const picked = pick === undefined ? svids[0] : pick(svids);
  if (picked === undefined) {
    throw new SpiffeError('missing', 'source.pick', 'none of the identities that were granted is the one to be used');
  }
  return picked;
}
