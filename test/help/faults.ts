/**
 * A store that fails when told: the n-th call of a method, before it took effect or after. What is wrapped stays a real
 * store, so that what is left behind is what would be.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { Store } from '../../server/store/store.ts';

type Method = { [Key in keyof Store]: Store[Key] extends (...given: never) => Promise<unknown> ? Key : never }[keyof Store];

export interface Fault {
  readonly method: Method;
  /** 1 is the first call from now on. */
  readonly call: number;
  /** `after`: it took effect, and the caller cannot know. */
  readonly when: 'before' | 'after';
  /** Unavailable `store.full` before and `store.outcome-unknown` after, when it is absent. */
  readonly error?: SpiffeError;
}

export interface FaultyStore {
  readonly store: Store;
  /** Methods in the order they were called. */
  readonly calls: readonly Method[];
  fail(fault: Fault): void;
  /** Faults that were not reached. */
  readonly unspent: number;
}

export function createFaultyStore(inner: Store): FaultyStore {
  const calls: Method[] = [];
  const faults = new Set<{ left: number; readonly fault: Fault }>();

  const due = (method: Method): Fault | undefined => {
    let found: Fault | undefined;
    for (const waiting of faults) {
      if (waiting.fault.method !== method) continue;
      waiting.left -= 1;
      if (waiting.left > 0) continue;
      faults.delete(waiting);
      found = waiting.fault;
    }
    return found;
  };
  const faulty =
    (method: Method, real: (...given: unknown[]) => Promise<unknown>) =>
    async (...given: unknown[]): Promise<unknown> => {
      calls.push(method);
      const fault = due(method);
      if (fault?.when === 'before') throw fault.error ?? new SpiffeError('unavailable', 'store.full', 'the disk of the store is full');
      const result = await real(...given);
      if (fault !== undefined) throw fault.error ?? new SpiffeError('unavailable', 'store.outcome-unknown', 'it may have taken effect');
      return result;
    };

  const store = new Proxy(inner, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== 'function') return value;
      const real = value.bind(target) as (...given: unknown[]) => Promise<unknown>;
      return synchronous.has(name) ? real : faulty(name as Method, real);
    },
  });
  return {
    store,
    calls,
    fail: (fault) => void faults.add({ left: fault.call, fault }),
    get unspent() {
      return faults.size;
    },
  };
}

const synchronous: ReadonlySet<string | symbol> = new Set(['subscribe', 'recordResults', 'close']);
