/**
 * The queue of X509-SVIDs to be signed: who is next, how urgent, how many at once, how long to wait after a failure. What
 * is held is `cache.ts`; who signs is behind `signer.ts`.
 */
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { backoffMs, type BackoffPolicy } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createAlarm } from '../alarm.ts';
import type { WorkloadProcess } from '../process.ts';
import type { SvidCache } from './cache.ts';
import { isUsable, type HeldX509Svid } from './held.ts';
import type { KeyPair, Signer } from './signer.ts';

export interface RenewalOptions {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly cache: Pick<SvidCache, 'entry' | 'entries' | 'x509' | 'isWanted' | 'isSubscribed' | 'put' | 'sweep' | 'onBehalfOf'>;
  readonly signer: Signer;
  readonly generateKeys: () => Promise<KeyPair>;
  /**
   * Takes a signed chain in: it must be for this entry and this key.
   * @throws with a reason of the X509-SVID rules
   */
  readonly receive: (entry: RegistrationEntry, chain: readonly Uint8Array[], keys: KeyPair) => HeldX509Svid;
  /** Ids of X.509 authorities whose SVIDs are to be replaced now. */
  readonly tainted: () => ReadonlySet<string>;
  readonly onOutcome: (outcome: RenewalOutcome) => void;
}

export interface RenewalOutcome {
  readonly entry: RegistrationEntry;
  readonly process: WorkloadProcess | undefined;
  /** What it replaces, if anything. */
  readonly before: HeldX509Svid | undefined;
  readonly svid: HeldX509Svid | undefined;
  readonly error: SpiffeError | undefined;
}

export interface Renewal {
  /** These may need an SVID now. */
  want(entries: readonly RegistrationEntry[]): void;
  /** Looks at everything again: authorities were tainted, or the clock is not what it was. */
  rescan(): void;
  /** Why the entry has no SVID, if it was tried. */
  lastError(entryId: string): SpiffeError | undefined;
  readonly queued: number;
  run(signal: AbortSignal): Promise<void>;
}

interface Failure {
  readonly attempts: number;
  /** Monotonic. */
  readonly notBefore: number;
  readonly error: SpiffeError;
  readonly revision: number;
}

type Settled = { readonly keys: KeyPair; readonly chain: readonly Uint8Array[] } | { readonly refused: SpiffeError };

const batchesAtOnce = 4;
const retry: BackoffPolicy = { firstMs: 500, factor: 2, longestMs: 60_000, jitter: 0.2 };

export function createRenewal(options: RenewalOptions): Renewal {
  const { clock, random, cache, signer, generateKeys, receive, tainted, onOutcome } = options;
  const alarm = createAlarm(clock);
  const queue = new Set<string>();
  const inFlight = new Set<string>();
  const failures = new Map<string, Failure>();
  let batches = 0;
  let scanAt: number | undefined = 0;

  /** When the entry needs a new SVID; not at all when nobody wants one. */
  const dueAt = (entry: RegistrationEntry): number | undefined => {
    if (!cache.isWanted(entry)) return undefined;
    const svid = cache.x509(entry.id);
    if (!isUsable(svid, entry, clock.now()) || svid.entryRevision !== entry.revisionNumber) return 0;
    return tainted().has(svid.authorityId) ? 0 : svid.renewAt;
  };

  const scan = (): void => {
    const at = clock.now();
    let next = cache.sweep() ?? Number.POSITIVE_INFINITY;
    for (const entry of cache.entries()) {
      const due = dueAt(entry);
      if (due === undefined) continue;
      if (due <= at) queue.add(entry.id);
      else next = Math.min(next, due);
    }
    scanAt = Number.isFinite(next) ? next : undefined;
  };

  /** What can be asked for now, the most urgent first; drops from the queue what is not due any more. */
  const ready = (): RegistrationEntry[] => {
    const at = clock.now();
    const entries: RegistrationEntry[] = [];
    for (const id of queue) {
      if (inFlight.has(id)) continue;
      const entry = cache.entry(id);
      const due = entry === undefined ? undefined : dueAt(entry);
      if (entry === undefined || due === undefined || due > at) {
        queue.delete(id);
        if (entry === undefined) failures.delete(id);
        continue;
      }
      const failure = failures.get(id);
      // What failed for a former revision may well work for this one.
      if (failure !== undefined && failure.revision === entry.revisionNumber && failure.notBefore > clock.monotonic()) continue;
      entries.push(entry);
    }
    return entries.toSorted((a, b) => urgency(a) - urgency(b));
  };

  /** Smaller is more urgent: connected workloads before others, then by what life is left. */
  const urgency = (entry: RegistrationEntry): number => {
    const life = Math.max(0, (cache.x509(entry.id)?.expiresAt ?? 0) - clock.now());
    return (cache.isSubscribed(entry.id) ? 0 : Number.MAX_SAFE_INTEGER / 2) + life;
  };

  /** One batch more may start for those who wait with nothing in hand. */
  const mayStart = (first: RegistrationEntry | undefined): boolean => {
    if (first === undefined) return false;
    if (batches < batchesAtOnce) return true;
    return batches === batchesAtOnce && cache.isSubscribed(first.id) && cache.x509(first.id) === undefined;
  };

  const sign = async (entries: readonly RegistrationEntry[], signal: AbortSignal): Promise<void> => {
    const outcomes = await outcomesOf(entries, signal);
    for (const [i, entry] of entries.entries()) {
      inFlight.delete(entry.id);
      const outcome = outcomes[i];
      if (outcome !== undefined) settle(entry, outcome);
    }
  };

  const outcomesOf = async (entries: readonly RegistrationEntry[], signal: AbortSignal): Promise<readonly Settled[]> => {
    try {
      const requests = await Promise.all(
        entries.map(async (entry) => ({ entry, keys: await generateKeys(), process: cache.onBehalfOf(entry.id) })),
      );
      const results = await signer.signX509(requests, signal);
      return requests.map(({ keys }, i): Settled => {
        const result = results[i];
        if (result !== undefined) return 'refused' in result ? result : { keys, chain: result.chain };
        return { refused: new SpiffeError('internal', 'renew.answer-missing', 'the server left the request without an answer') };
      });
    } catch (error) {
      const refused = asSpiffeError(error);
      return entries.map(() => ({ refused }));
    }
  };

  const settle = (entry: RegistrationEntry, outcome: Settled): void => {
    const before = cache.x509(entry.id);
    const process = cache.onBehalfOf(entry.id);
    try {
      if ('refused' in outcome) throw outcome.refused;
      const svid = receive(entry, outcome.chain, outcome.keys);
      failures.delete(entry.id);
      if (!cache.put(svid)) return;
      queue.delete(entry.id);
      scanAt = Math.min(scanAt ?? svid.renewAt, svid.renewAt);
      onOutcome({ entry, process, before, svid, error: undefined });
    } catch (caught) {
      const error = asSpiffeError(caught);
      const attempts = (failures.get(entry.id)?.attempts ?? 0) + 1;
      const notBefore = clock.monotonic() + backoffMs(attempts, random(), retry);
      failures.set(entry.id, { attempts, notBefore, error, revision: entry.revisionNumber });
      onOutcome({ entry, process, before, svid: undefined, error });
    }
  };

  /** @returns wall-clock instant to look again at the latest */
  const startBatches = (signal: AbortSignal): number | undefined => {
    let waiting = ready();
    while (mayStart(waiting[0])) {
      const batch = waiting.slice(0, signer.largestBatch);
      waiting = waiting.slice(batch.length);
      for (const entry of batch) inFlight.add(entry.id);
      batches += 1;
      void sign(batch, signal).finally(() => {
        batches -= 1;
        alarm.ring();
      });
    }
    let next = scanAt ?? Number.POSITIVE_INFINITY;
    for (const id of queue) {
      const failure = failures.get(id);
      if (failure === undefined || inFlight.has(id)) continue;
      next = Math.min(next, clock.now() + Math.max(1, failure.notBefore - clock.monotonic()));
    }
    return Number.isFinite(next) ? next : undefined;
  };

  return {
    want(entries) {
      for (const entry of entries) queue.add(entry.id);
      alarm.ring();
    },
    rescan() {
      scanAt = 0;
      alarm.ring();
    },
    lastError: (entryId) => failures.get(entryId)?.error,
    get queued() {
      return queue.size;
    },
    async run(signal) {
      for (;;) {
        if (scanAt !== undefined && scanAt <= clock.now()) scan();
        await alarm.until(startBatches(signal), signal);
      }
    },
  };
}

function asSpiffeError(error: unknown): SpiffeError {
  if (error instanceof SpiffeError) return error;
  return new SpiffeError('internal', 'renew.failed', 'signing failed for an unexpected reason', { cause: error });
}
