/**
 * The WIT-SVIDs one caller is to see, in order: of the entries it matches at the moment, as they are signed and renewed.
 * What a message makes of them is `api.ts`.
 */
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import { abortReason, linkedController } from '../../runtime/abort.ts';
import { createWatch } from '../../runtime/watch.ts';
import type { HeldWitSvid } from '../svids/held.ts';
import type { Wits } from '../svids/wits.ts';
import type { Attested } from './caller.ts';
import { callerUpdates, noIdentity, type CallerUpdate, type UpdatesOptions } from './updates.ts';

export interface WitUpdatesOptions extends UpdatesOptions {
  readonly wits: Pick<Wits, 'want' | 'get' | 'lastError' | 'changes'>;
}

export interface WitUpdateWanted {
  readonly caller: Attested;
  /** One identity alone, or all of them. */
  readonly asked: SpiffeId | undefined;
}

export interface WitUpdate {
  readonly from: CallerUpdate;
  /** Not empty; the default first [Workload API 8]. */
  readonly svids: readonly { readonly entry: RegistrationEntry; readonly svid: HeldWitSvid }[];
}

/** How long a first message waits for the last of several SVIDs, and for any at all. */
const completeMs = 2_000;
const anyMs = 30_000;

/**
 * Ends with the signal.
 * @throws denied `workload.no-identity`, unavailable `workload.svid-unavailable`, unsupported `workload.wit` when the server
 *   issues none, and as `callerUpdates`
 */
export async function* witUpdates(
  options: WitUpdatesOptions,
  wanted: WitUpdateWanted,
  signal: AbortSignal,
): AsyncGenerator<WitUpdate, void> {
  const { wits, clock } = options;
  const turn = linkedController(signal);
  const interest = wits.want(wanted.caller.process);
  const startedAt = clock.monotonic();
  /** What the caller is entitled to, set anew whenever there is a reason to look again. */
  const state = createWatch<{ readonly from: CallerUpdate | undefined }>({ from: undefined });
  const again = (): void => state.set({ from: state.value.from });
  const pump = async (): Promise<void> => {
    try {
      for await (const from of callerUpdates(options, { caller: wanted.caller, svids: false }, turn.signal)) state.set({ from });
    } catch (error) {
      state.close(error instanceof Error ? error : noIdentity());
    }
  };
  const stir = async (): Promise<void> => {
    for await (const _change of wits.changes.values(turn.signal)) again();
  };
  const tick = (ms: number): Promise<void> => clock.sleep(ms, turn.signal).then(again);
  const background = Promise.allSettled([pump(), stir(), tick(completeMs), tick(anyMs)]);
  let served = false;
  try {
    for await (const { from } of state.values(turn.signal)) {
      if (from === undefined) continue;
      const entries = from.update.entries.filter(({ spiffeId }) => wanted.asked === undefined || spiffeId === wanted.asked);
      if (entries.length === 0) throw noIdentity();
      interest.set(entries);
      const svids = entries.flatMap((entry) => {
        const svid = wits.get(entry);
        return svid === undefined ? [] : [{ entry, svid }];
      });
      if (!served && svids.length < entries.length && !mayStart(svids.length > 0, clock.monotonic() - startedAt)) {
        failIfHopeless(entries, wits, clock.monotonic() - startedAt);
        continue;
      }
      if (svids.length === 0) continue;
      served = true;
      yield { from, svids };
    }
    throw abortReason(signal);
  } finally {
    interest.close();
    turn.abort(new Error('the stream is over'));
    turn.unlink();
    await background;
  }
}

function mayStart(hasSome: boolean, waitedMs: number): boolean {
  return hasSome && waitedMs >= completeMs;
}

/** A server that issues none will not for this caller either, and waiting for one that is away has an end. */
function failIfHopeless(entries: readonly RegistrationEntry[], wits: WitUpdatesOptions['wits'], waitedMs: number): void {
  const errors = entries.map(({ id }) => wits.lastError(id));
  const [first] = errors;
  if (errors.every((error) => error?.kind === 'unsupported')) {
    throw new SpiffeError('unsupported', 'workload.wit', 'WIT-SVIDs are not supported: the server issues none', { cause: first });
  }
  if (waitedMs < anyMs || entries.some((entry) => wits.get(entry) !== undefined)) return;
  throw new SpiffeError('unavailable', 'workload.svid-unavailable', 'no WIT-SVID could be signed yet', { cause: first });
}
