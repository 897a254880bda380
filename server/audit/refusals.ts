/**
 * Recording refused calls without letting a flood of them fill the record: the first few of a caller are recorded one by
 * one, the rest are counted and recorded as exact counts. What is refused, and why, is decided elsewhere.
 */
import type { Clock } from '../../runtime/clock.ts';
import type { Store } from '../store/store.ts';
import type { AuditEvent } from './event.ts';

/** Refusals of one caller and reason that are recorded singly in a window. */
const single = 20;
const windowMs = 10_000;
/** Distinct callers and reasons counted in a window; beyond it they share one counter. */
const maxCounters = 10_000;
const shared = 'many callers';

interface Counter {
  readonly sample: AuditEvent;
  seen: number;
}

export interface Refusals {
  /** Resolves once the refusal is durable, or counted when its caller has had many in this window. */
  record(events: readonly AuditEvent[]): Promise<void>;
  /** Writes the counts of each window until the signal aborts, and once more then. */
  run(signal: AbortSignal): Promise<void>;
}

export function createRefusals(store: Pick<Store, 'recordAudit'>, clock: Clock): Refusals {
  let counters = new Map<string, Counter>();

  /** Whether the event is to be recorded singly. */
  const count = (event: AuditEvent): boolean => {
    let key = `${event.actor}\n${event.type}\n${event.reason}`;
    let sample = event;
    if (!counters.has(key) && counters.size >= maxCounters) {
      key = shared;
      sample = { ...event, actor: shared };
    }
    const counter = counters.get(key) ?? { sample, seen: 0 };
    counter.seen += 1;
    counters.set(key, counter);
    return counter.seen <= single && key !== shared;
  };

  const flush = async (): Promise<void> => {
    const at = clock.now();
    const counted: AuditEvent[] = [];
    for (const [key, { sample, seen }] of counters) {
      const rest = key === shared ? seen : seen - single;
      if (rest > 0) counted.push({ ...sample, at, detail: { ...sample.detail, count: rest } });
    }
    counters = new Map();
    if (counted.length > 0) await store.recordAudit(counted);
  };

  return {
    async record(events) {
      const singly = events.filter(count);
      if (singly.length > 0) await store.recordAudit(singly);
    },
    async run(signal) {
      while (!signal.aborted) {
        await clock.sleep(windowMs, signal).catch(() => undefined);
        await flush();
      }
    },
  };
}
