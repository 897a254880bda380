/**
 * What was attested, matched, delivered, refused: taken without waiting, sampled when one caller floods, spooled, and
 * shipped until the server has recorded it. Shares nothing with issuing but the connection.
 */
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { backoffMs } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createAlarm } from '../alarm.ts';
import { composeEvent, type NumberedEvent, type WorkloadEvent } from './event.ts';
import type { Spool } from './spool.ts';

/** Takes events over; resolves once they are durable there. */
export interface EventReceiver {
  /** @returns the number up to which all events of the spool are recorded */
  report(spool: string, events: readonly NumberedEvent[], inventory: Inventory | undefined, signal: AbortSignal): Promise<number>;
}

/** What the node says of itself; for the record, never for a decision. */
export type Inventory = Readonly<Record<string, string>>;

export interface ReporterOptions {
  readonly clock: Clock;
  readonly random: () => number;
  readonly spool: Spool;
  readonly receiver: EventReceiver;
  readonly inventory: Promise<Inventory>;
  /** Events one caller may cause in a window before only their number is kept. */
  readonly perCaller?: number;
  readonly windowMs?: number;
  readonly onProblem: (error: SpiffeError) => void;
}

export interface Reporter {
  /** Never waits, never throws. */
  record(event: Pick<WorkloadEvent, 'kind'> & Partial<WorkloadEvent>): void;
  readonly waiting: number;
  /** Ends with the signal's reason, what was taken being on disk by then. */
  run(signal: AbortSignal): Promise<void>;
}

interface Window {
  readonly endsAt: number;
  seen: number;
  readonly skipped: Map<string, { readonly event: WorkloadEvent; count: number }>;
}

const batch = 500;
/** For so long nothing is kept for a server that records no events, before it is asked whether it does by now. */
const askAgainMs = 300_000;
const gatherMs = 100;
/** Between two appends no more than this is held in memory; beyond it events are counted as lost. */
const maxGathered = 20_000;
const maxCallers = 4_096;

export function createReporter(options: ReporterOptions): Reporter {
  const { clock, random, spool, receiver, perCaller = 100, windowMs = 10_000, onProblem } = options;
  const gathered: WorkloadEvent[] = [];
  const windows = new Map<string, Window>();
  const arrived = createAlarm(clock);
  const spooled = createAlarm(clock);
  let overflow = 0;
  let unsupported = false;

  const gather = (event: WorkloadEvent): void => {
    if (gathered.length >= maxGathered) overflow += 1;
    else gathered.push(event);
    arrived.ring();
  };

  /** Whether the event itself is kept; otherwise it is counted with the others of its kind and reason. */
  const admits = (event: WorkloadEvent): boolean => {
    // Somebody else holds this key now: each is on record, and how many there can be is bounded where brokers call.
    if (event.broker !== '' && (event.kind === 'delivered' || event.kind === 'rotated')) return true;
    // What a broker causes costs the user of the process it names no place in the record.
    const who = event.broker === '' ? String(event.process?.uid ?? 'agent') : event.broker;
    const caller = windows.size >= maxCallers ? 'others' : who;
    let window = windows.get(caller);
    if (window === undefined) {
      window = { endsAt: clock.monotonic() + windowMs, seen: 0, skipped: new Map() };
      windows.set(caller, window);
    }
    window.seen += 1;
    if (window.seen <= perCaller) return true;
    const key = `${event.kind} ${event.method} ${event.reason} ${event.entryId} ${event.reference}`;
    const same = window.skipped.get(key) ?? { event, count: 0 };
    same.count += 1;
    window.skipped.set(key, same);
    return false;
  };

  const closeWindows = (all: boolean): void => {
    for (const [caller, window] of windows) {
      if (!all && window.endsAt > clock.monotonic()) continue;
      windows.delete(caller);
      for (const { event, count } of window.skipped.values()) {
        gather(composeEvent({ ...event, at: clock.now(), kind: 'sampled', reason: sampledReason(event), count }));
      }
    }
  };

  const flush = async (): Promise<void> => {
    closeWindows(false);
    if (overflow > 0) {
      gathered.push(composeEvent({ at: clock.now(), kind: 'gap', reason: 'report.overflow', count: overflow }));
      overflow = 0;
    }
    const events = gathered.splice(0);
    if (events.length === 0 || unsupported) return;
    try {
      await spool.append(events);
      spooled.ring();
    } catch (cause) {
      overflow += events.length;
      onProblem(new SpiffeError('unavailable', 'report.spool', 'events could not be written to the spool', { cause }));
    }
  };

  const write = async (signal: AbortSignal): Promise<void> => {
    try {
      for (;;) {
        if (windows.size > 0) await arrived.after(windowMs / 4, signal);
        else await arrived.until(undefined, signal);
        await clock.sleep(gatherMs, signal);
        await flush();
      }
    } finally {
      closeWindows(true);
      await flush();
    }
  };

  const ship = async (signal: AbortSignal): Promise<void> => {
    let inventory: Inventory | undefined = await options.inventory;
    let failures = 0;
    for (;;) {
      const events = await spool.oldest(batch);
      if (events.length === 0 && inventory === undefined) {
        await spooled.until(undefined, signal);
        continue;
      }
      try {
        await spool.forget(await receiver.report(spool.id, events, inventory, signal));
        inventory = undefined;
        unsupported = false;
        failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        if (isSpiffeError(error, 'unsupported')) {
          if (!unsupported) onProblem(new SpiffeError('unsupported', 'report.unsupported', 'the server records no events; none are kept'));
          unsupported = true;
          await spool.forget(Number.MAX_SAFE_INTEGER);
          // Another server is asked to record the inventory, and so whether it records anything.
          inventory = await options.inventory;
          await clock.sleep(askAgainMs, signal);
          continue;
        }
        failures += 1;
        if (failures === 1) {
          onProblem(new SpiffeError('unavailable', 'report.failed', 'events could not be handed over; they are kept', { cause: error }));
        }
        await clock.sleep(backoffMs(failures, random()), signal);
      }
    }
  };

  return {
    record(event) {
      if (unsupported) return;
      const composed = composeEvent({ at: clock.now(), ...event });
      if (admits(composed)) gather(composed);
      else arrived.ring();
    },
    get waiting() {
      return spool.size + gathered.length;
    },
    async run(signal) {
      await Promise.all([write(signal), ship(signal)]);
    },
  };
}

function sampledReason(event: WorkloadEvent): string {
  return event.reason === '' ? event.kind : `${event.kind}: ${event.reason}`;
}
