/**
 * Which brokers there are, what each may ask for and how much at once. That a connection is a certain broker's is proved by
 * `listen.ts`; what a workload is entitled to is the cache's.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../../spiffe/id.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { WorkloadUpdate } from '../svids/cache.ts';
import type { Attestation } from '../workload/attest.ts';
import type { BrokerCallerConfig } from './config.ts';

export type ReferenceKind = BrokerCallerConfig['references'][number];

/** A broker on the list. */
export interface AllowedCaller {
  readonly id: SpiffeId;
  /** @throws denied `broker.caller.reference` */
  requireKind(kind: ReferenceKind): void;
  /** @throws denied `broker.caller.audience` */
  requireAudience(audience: readonly string[]): void;
  /**
   * What of a workload's update is for this broker.
   * @throws denied `broker.caller.namespace`, `broker.caller.identity`
   */
  narrow(attestation: Attestation, update: WorkloadUpdate): WorkloadUpdate;
}

/** @throws denied `broker.caller.unknown` */
export type FindCaller = (id: SpiffeId) => AllowedCaller;

export function createCallers(configs: readonly BrokerCallerConfig[], own: TrustDomain): FindCaller {
  const allowed = new Map(configs.map((config) => [config.spiffe_id, callerOf(config, own)]));
  return (id) => {
    const found = allowed.get(id);
    if (found === undefined) throw new SpiffeError('denied', 'broker.caller.unknown', 'caller is not configured as a broker');
    return found;
  };
}

function callerOf(config: BrokerCallerConfig, own: TrustDomain): AllowedCaller {
  const { namespaces, spiffe_ids: ids, audiences } = config;
  return {
    id: config.spiffe_id,
    requireKind(kind) {
      if (config.references.includes(kind)) return;
      throw new SpiffeError('denied', 'broker.caller.reference', 'this broker may not make references of this kind');
    },
    requireAudience(audience) {
      if (audiences === undefined || audience.every((name) => audiences.includes(name))) return;
      throw new SpiffeError('denied', 'broker.caller.audience', 'this broker may not ask for tokens for this audience');
    },
    narrow({ selectors }, update) {
      // Attested, not what the reference says: a process has no namespace in its number.
      const isIn = (name: string): boolean => [...selectors].some((selector) => selector === `k8s:ns:${name}`);
      if (namespaces !== undefined && !namespaces.some(isIn)) {
        throw new SpiffeError('denied', 'broker.caller.namespace', 'this broker may not act for workloads of this namespace');
      }
      if (ids === undefined || update.entries.length === 0) return update;
      const isFor = (id: SpiffeId): boolean => ids.some((one) => id === one || id.startsWith(`${one}/`));
      const entries = update.entries.filter(({ spiffeId }) => isFor(spiffeId));
      if (entries.length === 0) {
        throw new SpiffeError('denied', 'broker.caller.identity', 'this broker may not act for this identity');
      }
      if (entries.length === update.entries.length) return update;
      const trusted = new Set<TrustDomain>([own, ...entries.flatMap(({ federatesWith }) => federatesWith)]);
      return Object.freeze({
        ...update,
        entries,
        identities: update.identities.filter(({ entry }) => entries.includes(entry)),
        bundles: new Map([...update.bundles].filter(([name]) => trusted.has(name))),
      });
    },
  };
}

export interface CallBounds {
  /** In progress, over all connections of one broker. */
  readonly calls: number;
  readonly callsPerSecond: number;
}

/** How much each broker has under way. `leave` is to be called once for every `enter` that did not throw. */
export interface CallCounter {
  /** @throws limited `broker.caller.calls|rate` */
  enter(id: SpiffeId): void;
  leave(id: SpiffeId): void;
}

export function createCallCounter(clock: Pick<Clock, 'monotonic'>, { calls, callsPerSecond }: CallBounds): CallCounter {
  const counts = new Map<SpiffeId, { running: number; tokens: number; at: number }>();
  return {
    enter(id) {
      const at = clock.monotonic();
      const count = counts.get(id) ?? { running: 0, tokens: callsPerSecond, at };
      counts.set(id, count);
      count.tokens = Math.min(callsPerSecond, count.tokens + ((at - count.at) / 1000) * callsPerSecond);
      count.at = at;
      if (count.running >= calls) {
        throw new SpiffeError('limited', 'broker.caller.calls', 'too many calls of this broker are in progress');
      }
      if (count.tokens < 1) throw new SpiffeError('limited', 'broker.caller.rate', 'this broker makes calls too fast');
      count.tokens -= 1;
      count.running += 1;
    },
    leave(id) {
      const count = counts.get(id);
      if (count !== undefined) count.running -= 1;
    },
  };
}
