/**
 * Fetches the bundle of every relationship again and again: on the publisher's hint, a bounded number at a time, keeping
 * the last good one whatever goes wrong. How a bundle is fetched, and whether it may take the place of the stored one,
 * is decided elsewhere.
 */
import { linkedController, type LinkedController } from '../../runtime/abort.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { type TrustDomain, trustDomainOf } from '../../spiffe/id.ts';
import { serverScope, witness } from '../audit/scope.ts';
import type { Relationship, RelationshipRecord, Store } from '../store/store.ts';
import { refreshIntervalMs, type RefreshBounds, spreadMs } from './interval.ts';
import type { Relationships } from './relationships.ts';

/** Of one relationship, as it is now. Instants are epoch milliseconds. */
export interface RefreshState {
  /** When a bundle last came; `undefined` when none has. */
  readonly refreshedAt: number | undefined;
  readonly attemptedAt: number | undefined;
  /** In a row, up to now. */
  readonly failures: number;
  /** Of the last failure, `''` when the last attempt succeeded. */
  readonly reason: string;
  readonly nextAt: number;
}

/** Told what happened; must not throw. */
export interface RefreshObserver {
  refreshed(relationship: Relationship, bundle: Bundle, before: Bundle | undefined, ms: number): void;
  failed(relationship: Relationship, error: SpiffeError, failures: number, ms: number): void;
}

export interface RefresherOptions {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly relationships: Pick<Relationships, 'get' | 'all'>;
  readonly bundles: { get(trustDomain: TrustDomain): Bundle | undefined };
  readonly store: Pick<Store, 'subscribe' | 'refreshBundle' | 'recordAudit'>;
  /** Rejects when there is no bundle to be had, with the signal's reason when that aborts. */
  readonly fetch: (relationship: Relationship, signal: AbortSignal) => Promise<Bundle>;
  readonly bounds: RefreshBounds;
  /** How many are fetched at the same time. */
  readonly atOnce: number;
  readonly observe: RefreshObserver;
}

export interface Refresher {
  state(trustDomain: TrustDomain): RefreshState | undefined;
  /**
   * Fetches once, from now on and whether it is due or not; resolves when the bundle is stored.
   * @throws missing `relationship.missing`, what fetching throws, conflict `relationship.sequence-behind`
   */
  refresh(trustDomain: TrustDomain): Promise<void>;
  /** Until the signal aborts; what is under way is ended then. To be called once. */
  run(signal: AbortSignal): Promise<void>;
}

interface Item {
  relationship: RelationshipRecord;
  refreshedAt: number | undefined;
  attemptedAt: number | undefined;
  failures: number;
  reason: string;
  nextAt: number;
  /** The fetch under way. */
  running: { readonly stop: LinkedController; readonly done: Promise<void> } | undefined;
}

export function createRefresher(options: RefresherOptions): Refresher {
  const { clock, random, relationships, bundles, store, fetch, bounds, atOnce, observe } = options;
  const life = new AbortController();
  const items = new Map<TrustDomain, Item>();
  const waiting: (() => void)[] = [];
  let running = 0;
  let bell = Promise.withResolvers<void>();

  const planned = (item: Item, from: number): number =>
    from + spreadMs(refreshIntervalMs(bundles.get(item.relationship.trustDomain), bounds), random(), bounds);

  const add = (relationship: RelationshipRecord): void => {
    const { refreshedAt } = relationship;
    const item: Item = { relationship, refreshedAt, attemptedAt: undefined, failures: 0, reason: '', nextAt: clock.now(), running: undefined };
    // An instant to come was written by a clock that went wrong.
    if (refreshedAt !== undefined) item.nextAt = planned(item, Math.min(refreshedAt, clock.now()));
    items.set(relationship.trustDomain, item);
  };
  const drop = (trustDomain: TrustDomain): void => {
    items.get(trustDomain)?.running?.stop.abort(new SpiffeError('missing', 'relationship.missing', 'the relationship ended'));
    items.delete(trustDomain);
  };

  /** Endpoints that are proved by this trust domain's bundle may be within reach now. */
  const hasten = (trustDomain: TrustDomain): void => {
    for (const item of items.values()) {
      const { profile } = item.relationship;
      if (item.failures > 0 && profile.type === 'https_spiffe' && trustDomainOf(profile.endpointId) === trustDomain) item.nextAt = clock.now();
    }
  };

  for (const relationship of relationships.all()) add(relationship);
  const unsubscribe = store.subscribe(({ changes }) => {
    for (const change of changes) {
      if (change.noun === 'relationship') {
        drop(change.id);
        if (change.relationship !== undefined) add(change.relationship);
      } else if (change.noun === 'bundle' && change.bundle !== undefined) hasten(change.id);
    }
    bell.resolve();
  });

  const slot = async (): Promise<void> => {
    if (running < atOnce) {
      running += 1;
      return;
    }
    const turn = Promise.withResolvers<void>();
    waiting.push(turn.resolve);
    await turn.promise;
  };
  const leave = (): void => {
    const next = waiting.shift();
    if (next === undefined) running -= 1;
    else next();
  };

  const fetchOnce = async (item: Item, signal: AbortSignal): Promise<void> => {
    const { relationship } = item;
    await slot();
    const startedAt = clock.monotonic();
    const elapsed = (): number => clock.monotonic() - startedAt;
    try {
      signal.throwIfAborted();
      item.attemptedAt = clock.now();
      const fetched = await fetch(relationship, signal);
      const outcome = await store.refreshBundle(relationship, fetched, serverScope(clock.now()));
      if (outcome.status === 'ended') throw new SpiffeError('missing', 'relationship.missing', 'the relationship ended');
      item.refreshedAt = clock.now();
      item.failures = 0;
      item.reason = '';
      observe.refreshed(relationship, outcome.bundle, outcome.before, elapsed());
    } catch (caught) {
      const error = caught instanceof SpiffeError ? caught : unexpected(caught);
      // Nobody's fault, and nobody left to tell but who asked.
      if (signal.aborted || error.reason === 'relationship.missing') throw error;
      await failed(item, error, elapsed());
      throw error;
    } finally {
      // From the end, so that an endpoint that is slow to answer is not asked more often for it [Federation 6.2].
      item.nextAt = planned(item, clock.now());
      leave();
    }
  };

  /** The first of a row is for the record; the rest are for the log. */
  const failed = async (item: Item, error: SpiffeError, ms: number): Promise<void> => {
    const isNew = item.reason !== error.reason;
    item.failures += 1;
    item.reason = error.reason;
    observe.failed(item.relationship, error, item.failures, ms);
    if (!isNew) return;
    const { trustDomain, endpointUrl } = item.relationship;
    const outcome = error.kind === 'conflict' ? 'refused' : 'failed';
    const event = witness(serverScope(clock.now()), 'bundle.refresh-failed', { subject: trustDomain, reason: error.reason, outcome, detail: { endpointUrl } });
    // What cannot be recorded was told to the observer; the next failure of another kind is recorded again.
    await store.recordAudit([event]).catch(() => undefined);
  };

  const start = (item: Item): Promise<void> => {
    const stop = linkedController(life.signal);
    const done = fetchOnce(item, stop.signal).finally(() => {
      stop.unlink();
      item.running = undefined;
      // Not before: whoever is woken earlier passes over what still runs.
      bell.resolve();
    });
    item.running = { stop, done };
    // Told to the observer already.
    done.catch(() => undefined);
    return done;
  };

  /** A wall clock that was set back must not put off what is due. */
  const isDue = ({ nextAt, attemptedAt }: Item, now: number): boolean => now >= nextAt || now < (attemptedAt ?? 0);

  const startDue = (): number => {
    let next = Infinity;
    const now = clock.now();
    for (const item of items.values()) {
      if (item.running !== undefined) continue;
      if (!isDue(item, now)) next = Math.min(next, item.nextAt);
      // The next to end rings the bell.
      else if (running < atOnce) void start(item).catch(() => undefined);
    }
    return next;
  };

  return {
    state(trustDomain) {
      const item = items.get(trustDomain);
      if (item === undefined) return undefined;
      const { refreshedAt, attemptedAt, failures, reason, nextAt } = item;
      return { refreshedAt, attemptedAt, failures, reason, nextAt };
    },
    async refresh(trustDomain) {
      // One that began before may not see what whoever asks now wants seen.
      const before = items.get(trustDomain)?.running;
      await before?.done.catch(() => undefined);
      const item = items.get(trustDomain);
      if (item === undefined) throw new SpiffeError('missing', 'relationship.missing', `no relationship with trust domain "${trustDomain}"`);
      await (item.running?.done ?? start(item));
    },
    async run(signal) {
      try {
        while (!signal.aborted) {
          bell = Promise.withResolvers();
          await rest(startDue() - clock.now(), bell.promise, clock, signal);
        }
      } finally {
        unsubscribe();
        life.abort(new SpiffeError('unavailable', 'relationship.stopped', 'the server is stopping'));
        await Promise.allSettled([...items.values()].flatMap((item) => item.running?.done ?? []));
      }
    },
  };
}

function unexpected(cause: unknown): SpiffeError {
  return new SpiffeError('internal', 'relationship.refresh', 'refreshing failed for an unexpected reason', { cause });
}

/** Looked around after this long at the latest, as a wall clock that is set back would put off an instant. */
const longestRestMs = 60_000;

/** For so long, or until the bell or the end, whichever comes first. */
async function rest(ms: number, bell: Promise<void>, clock: Clock, signal: AbortSignal): Promise<void> {
  const nap = linkedController(signal);
  const ended = Promise.withResolvers<void>();
  if (nap.signal.aborted) ended.resolve();
  else nap.signal.addEventListener('abort', () => ended.resolve(), { once: true });
  const slept = ms === Infinity ? ended.promise : clock.sleep(Math.min(Math.max(0, ms), longestRestMs), nap.signal).catch(() => undefined);
  try {
    await Promise.race([slept, ended.promise, bell]);
  } finally {
    nap.abort(new Error('awake'));
    nap.unlink();
  }
}
