/**
 * A crash test's plan: the calls to some objects are counted together, and the nth of them fails, either instead of taking
 * effect or after it did. What must hold then is for the tests to say; faults at a named call are `faults.ts`.
 */
export interface FaultPoint {
  /** Counted from 1 over all wrapped objects of one plan; 0 never fails. */
  readonly call: number;
  readonly when: 'before' | 'after';
}

export interface FaultPlan {
  /** The same object; only the named methods, which return promises, are counted. */
  wrap<T extends object, K extends keyof T & string>(target: T, ...methods: readonly K[]): T;
  /** How many calls there were. */
  readonly calls: number;
  /** The name of the call that failed, or `undefined` when it was not reached. */
  readonly failed: string | undefined;
}

export class PlannedFault extends Error {}

export function planFaults(point: FaultPoint): FaultPlan {
  let calls = 0;
  let failed: string | undefined;

  return {
    get calls() {
      return calls;
    },
    get failed() {
      return failed;
    },
    wrap(target, ...methods) {
      return new Proxy(target, {
        get(inner, name) {
          const value: unknown = Reflect.get(inner, name);
          if (typeof value !== 'function') return value;
          const call = value.bind(inner) as (...given: unknown[]) => Promise<unknown>;
          if (!methods.some((method) => method === name)) return call;
          return async (...given: unknown[]): Promise<unknown> => {
            calls += 1;
            if (calls !== point.call) return call(...given);
            failed = String(name);
            if (point.when === 'after') await call(...given);
            throw new PlannedFault(`${failed} failed ${point.when} it took effect`);
          };
        },
      });
    },
  };
}
