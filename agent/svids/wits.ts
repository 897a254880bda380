/**
 * WIT-SVIDs by entry: signed for a key of their own while a workload is connected that wants one, renewed at half of their
 * life with another key. Who may have one is decided before; how one is presented is the workload's business.
 */
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { backoffMs, type BackoffPolicy } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createWatch, type Watch } from '../../runtime/watch.ts';
import { createAlarm } from '../alarm.ts';
import type { WorkloadProcess } from '../process.ts';
import type { HeldWitSvid } from './held.ts';
import { receiveWit } from './receive.ts';
import type { KeyPair, Signer } from './signer.ts';

export interface WitsOptions {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly signer: Pick<Signer, 'signWit' | 'largestBatch'>;
  readonly generateKeys: () => Promise<KeyPair>;
  readonly entry: (id: string) => RegistrationEntry | undefined;
  /** Key ids of authorities whose tokens are to be replaced now. */
  readonly tainted: () => ReadonlySet<string>;
  readonly onOutcome: (outcome: WitOutcome) => void;
  /** Told that something changed that a restart should find again. */
  readonly onChange: () => void;
}

export interface WitOutcome {
  readonly entry: RegistrationEntry;
  readonly process: WorkloadProcess | undefined;
  readonly svid: HeldWitSvid | undefined;
  readonly error: SpiffeError | undefined;
}

/** Of one stream; closed by it. */
export interface WitInterest {
  /** These are to have a WIT-SVID from now on, and those of before no longer on this stream's account. */
  set(entries: readonly RegistrationEntry[]): void;
  close(): void;
}

export interface Wits {
  /** @param process on whose behalf, when there is somebody */
  want(process: WorkloadProcess | undefined): WitInterest;
  /** The one for the entry as it is now. */
  get(entry: RegistrationEntry): HeldWitSvid | undefined;
  /** Why there is none, if it was tried. */
  lastError(entryId: string): SpiffeError | undefined;
  /** Another number after every SVID that came and every failure. */
  readonly changes: Watch<number>;
  restore(svids: readonly HeldWitSvid[]): void;
  held(): IterableIterator<HeldWitSvid>;
  readonly size: number;
  /** Looks at everything again: authorities were tainted. */
  rescan(): void;
  run(signal: AbortSignal): Promise<void>;
}

interface Failure {
  readonly attempts: number;
  /** Monotonic. */
  readonly notBefore: number;
  readonly error: SpiffeError;
  readonly revision: number;
}

/** One for each stream, also of the same process. */
interface Account {
  readonly process: WorkloadProcess | undefined;
}

const batchesAtOnce = 4;
const retry: BackoffPolicy = { firstMs: 500, factor: 2, longestMs: 60_000, jitter: 0.2 };

export function createWits(options: WitsOptions): Wits {
  const { clock, random, signer, onOutcome, onChange } = options;
  const alarm = createAlarm(clock);
  const kept = new Map<string, HeldWitSvid>();
  const failures = new Map<string, Failure>();
  const inFlight = new Set<string>();
  /** By entry, on whose account. */
  const wanted = new Map<string, Set<Account>>();
  const changes = createWatch(0);
  let batches = 0;
  /** Asked for when its authority was known to be tainted, so that another try at once would bring no better. */
  let despite = new WeakSet<HeldWitSvid>();

  const usable = (entry: RegistrationEntry): HeldWitSvid | undefined => {
    const svid = kept.get(entry.id);
    return svid !== undefined && svid.spiffeId === entry.spiffeId && clock.now() < svid.expiresAt ? svid : undefined;
  };

  const dueAt = (entry: RegistrationEntry): number => {
    const svid = usable(entry);
    if (svid === undefined || svid.entryRevision !== entry.revisionNumber) return 0;
    return options.tainted().has(svid.keyId) && !despite.has(svid) ? 0 : svid.renewAt;
  };

  const settled = (entry: RegistrationEntry, process: WorkloadProcess | undefined, svid: HeldWitSvid): void => {
    failures.delete(entry.id);
    // The entry may be gone by now, or have another name.
    if (options.entry(entry.id)?.spiffeId !== svid.spiffeId) return;
    kept.set(entry.id, svid);
    onOutcome({ entry, process, svid, error: undefined });
    onChange();
  };

  const failed = (entry: RegistrationEntry, process: WorkloadProcess | undefined, caught: unknown): void => {
    const error =
      caught instanceof SpiffeError
        ? caught
        : new SpiffeError('internal', 'wits.failed', 'signing failed for an unexpected reason', { cause: caught });
    const attempts = (failures.get(entry.id)?.attempts ?? 0) + 1;
    const notBefore = clock.monotonic() + backoffMs(attempts, random(), retry);
    failures.set(entry.id, { attempts, notBefore, error, revision: entry.revisionNumber });
    onOutcome({ entry, process, svid: undefined, error });
  };

  const sign = async (entries: readonly RegistrationEntry[], signal: AbortSignal): Promise<void> => {
    const tainted = new Set(options.tainted());
    const processOf = ({ id }: RegistrationEntry): WorkloadProcess | undefined => wanted.get(id)?.values().next().value?.process;
    try {
      const requests = await Promise.all(
        entries.map(async (entry) => ({ entry, keys: await options.generateKeys(), process: processOf(entry) })),
      );
      const outcomes = await signer.signWit(requests, signal);
      for (const [index, { entry, keys, process }] of requests.entries()) {
        const outcome = outcomes[index];
        try {
          if (outcome === undefined) {
            throw new SpiffeError('internal', 'wits.answer-missing', 'the server left the request without an answer');
          }
          if ('refused' in outcome) throw outcome.refused;
          const svid = receiveWit(entry, outcome.token, keys, { at: clock.now(), jitter: random() });
          if (tainted.has(svid.keyId)) despite.add(svid);
          settled(entry, process, svid);
        } catch (error) {
          failed(entry, process, error);
        }
      }
    } catch (error) {
      for (const entry of entries) failed(entry, processOf(entry), error);
    } finally {
      for (const { id } of entries) inFlight.delete(id);
      changes.set(changes.value + 1);
    }
  };

  /** Starts what is due; yields when to look again. */
  const sweep = (signal: AbortSignal): number | undefined => {
    const at = clock.now();
    let next = Number.POSITIVE_INFINITY;
    for (const [id, { expiresAt }] of kept) {
      if (at >= expiresAt || options.entry(id) === undefined) kept.delete(id);
      else next = Math.min(next, expiresAt);
    }
    const due: RegistrationEntry[] = [];
    for (const id of wanted.keys()) {
      const entry = options.entry(id);
      if (entry === undefined || inFlight.has(id)) continue;
      const failure = failures.get(id);
      // What failed for a former revision may well work for this one.
      const wait = failure?.revision === entry.revisionNumber ? failure.notBefore - clock.monotonic() : 0;
      const dueNext = Math.max(dueAt(entry), wait > 0 ? at + wait : 0);
      if (dueNext > at) next = Math.min(next, dueNext);
      else due.push(entry);
    }
    while (due.length > 0 && batches < batchesAtOnce) {
      const batch = due.splice(0, signer.largestBatch);
      for (const { id } of batch) inFlight.add(id);
      batches += 1;
      void sign(batch, signal).finally(() => {
        batches -= 1;
        alarm.ring();
      });
    }
    return Number.isFinite(next) ? next : undefined;
  };

  const drop = (id: string, account: Account): void => {
    const set = wanted.get(id);
    set?.delete(account);
    if (set?.size !== 0) return;
    wanted.delete(id);
    failures.delete(id);
  };

  return {
    want(process) {
      const account = { process };
      let ids: readonly string[] = [];
      return {
        set(entries) {
          const now = entries.map(({ id }) => id);
          for (const id of now) wanted.set(id, (wanted.get(id) ?? new Set()).add(account));
          for (const id of ids) if (!now.includes(id)) drop(id, account);
          ids = now;
          alarm.ring();
        },
        close() {
          for (const id of ids) drop(id, account);
          ids = [];
        },
      };
    },
    get: usable,
    lastError: (entryId) => failures.get(entryId)?.error,
    changes,
    restore(svids) {
      for (const svid of svids) kept.set(svid.entryId, svid);
    },
    held: () => kept.values(),
    get size() {
      return kept.size;
    },
    rescan() {
      despite = new WeakSet();
      alarm.ring();
    },
    async run(signal) {
      for (;;) await alarm.until(sweep(signal), signal);
    },
  };
}
