/**
 * The updates one caller is to see, in order: of the selectors attested at the moment, with a denial only after the server
 * was asked and what is still being attested had its chance. What a message makes of them is `api.ts`.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { abortReason, linkedController } from '../../runtime/abort.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Watch } from '../../runtime/watch.ts';
import type { Subscription, SvidCache, WorkloadUpdate } from '../svids/cache.ts';
import type { Deliveries } from '../svids/delivery.ts';
import type { Freshness } from '../sync/freshness.ts';
import type { Attestation } from './attest.ts';
import type { Attested } from './caller.ts';

export interface UpdatesOptions {
  readonly clock: Clock;
  readonly cache: Pick<SvidCache, 'subscribe'>;
  readonly freshness: Freshness;
  readonly deliveries: Deliveries;
}

export interface UpdateWanted {
  readonly caller: Attested;
  /** Wait for the X509-SVIDs of the first update, as far as that makes sense. */
  readonly svids: boolean;
  /** Yield the update of a caller without identity too, instead of denying it. */
  readonly unregistered?: boolean;
}

export interface CallerUpdate {
  readonly attestation: Attestation;
  readonly update: WorkloadUpdate;
  /** To be called when what follows from the update was sent, or did not differ from what had been. */
  sent(): void;
}

/** How long a first message waits for the last of several SVIDs, and for any at all. */
const completeMs = 2_000;
const anyMs = 30_000;
/** How long a denial waits for facts that are still being established. */
const pendingMs = 10_000;

/**
 * Ends with the signal.
 * @throws denied `workload.no-identity`, unavailable `workload.svid-unavailable`, and as `Attest`
 */
export async function* callerUpdates(options: UpdatesOptions, wanted: UpdateWanted, signal: AbortSignal): AsyncGenerator<CallerUpdate, void> {
  const { cache, deliveries } = options;
  const { caller } = wanted;
  const attestations = await caller.attested(signal);
  let served = false;
  while (!signal.aborted) {
    const attestation = attestations.value;
    const subscription = cache.subscribe(attestation.selectors, caller.process);
    let sentUpdate: WorkloadUpdate | undefined;
    const lane = deliveries.open(() => sentUpdate !== subscription.updates.value);
    const turn = linkedController(signal);
    let failure: Error | undefined;
    void otherThan(attestations, attestation, turn.signal)
      .catch((error: unknown) => {
        failure = error instanceof Error ? error : changed;
      })
      .then(() => turn.abort(changed));
    try {
      if (wanted.unregistered !== true && !served) await admit(options, { attestation, attestations }, subscription, signal);
      if (attestations.value !== attestation) continue;
      if (wanted.svids && !served) await firstSvids(options.clock, subscription.updates, signal);
      for await (const update of subscription.updates.values(turn.signal)) {
        if (update.entries.length === 0 && wanted.unregistered !== true) throw noIdentity();
        if (wanted.svids && update.identities.length === 0 && update.entries.length > 0) continue;
        served = true;
        yield {
          attestation,
          update,
          sent() {
            sentUpdate = update;
            lane.sent();
          },
        };
      }
    } finally {
      turn.abort(changed);
      turn.unlink();
      lane.close();
      subscription.close();
    }
    // The process is not what it was any more.
    if (failure !== undefined) throw failure;
  }
  throw abortReason(signal);
}

const changed = new Error('other selectors are attested');

/** Resolves when the watch has another value; never when it has not by the time the signal aborts. */
async function otherThan<T>(watch: Watch<T>, value: T, signal: AbortSignal): Promise<void> {
  for await (const now of watch.values(signal)) if (now !== value) return;
  await new Promise<never>(() => undefined);
}

/** Returns when there is an identity, or other selectors to look at. */
async function admit(
  options: UpdatesOptions,
  attested: { readonly attestation: Attestation; readonly attestations: Watch<Attestation> },
  subscription: Subscription,
  signal: AbortSignal,
): Promise<void> {
  const hasIdentity = (): boolean => subscription.updates.value.entries.length > 0;
  if (hasIdentity()) return;
  await options.freshness.catchUp();
  signal.throwIfAborted();
  if (hasIdentity()) return;
  const { attestation, attestations } = attested;
  if (attestation.pending !== undefined) {
    const patience = linkedController(signal);
    await Promise.race([
      otherThan(attestations, attestation, patience.signal),
      // What was pending is attested anew at once, which takes a moment.
      attestation.pending.then(() => options.clock.sleep(500, patience.signal)).catch(() => undefined),
      options.clock.sleep(pendingMs, patience.signal).catch(() => undefined),
    ]);
    patience.abort(changed);
    patience.unlink();
    if (signal.aborted) throw abortReason(signal);
    if (hasIdentity() || attestations.value !== attestation) return;
  }
  throw noIdentity();
}

/** Returns when every identity has an SVID, or some have and the others are slow. */
async function firstSvids(clock: Clock, updates: Watch<WorkloadUpdate>, signal: AbortSignal): Promise<void> {
  const isSettled = ({ entries, identities }: WorkloadUpdate): boolean => identities.length === entries.length;
  if (await until(clock, updates, isSettled, completeMs, signal)) return;
  const hasSome = ({ entries, identities }: WorkloadUpdate): boolean => identities.length > 0 || entries.length === 0;
  if (await until(clock, updates, hasSome, anyMs - completeMs, signal)) return;
  throw new SpiffeError('unavailable', 'workload.svid-unavailable', 'no X509-SVID could be signed yet');
}

async function until<T>(clock: Clock, watch: Watch<T>, holds: (value: T) => boolean, ms: number, signal: AbortSignal): Promise<boolean> {
  if (holds(watch.value)) return true;
  const patience = linkedController(signal);
  void clock.sleep(ms, patience.signal).then(
    () => patience.abort(new Error('waited enough')),
    () => undefined,
  );
  try {
    for await (const value of watch.values(patience.signal)) if (holds(value)) return true;
    if (signal.aborted) throw abortReason(signal);
    return false;
  } finally {
    patience.abort(new Error('waited enough'));
    patience.unlink();
  }
}

export function noIdentity(): SpiffeError {
  return new SpiffeError('denied', 'workload.no-identity', 'no identity issued');
}
