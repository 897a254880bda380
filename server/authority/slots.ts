/**
 * The life cycle of authorities as a pure step: records, an instant, a policy and who confirmed delivery go in, the due
 * actions and when to look again come out. One machine for every kind; carrying actions out is `rotate.ts`.
 */
import type { AuthorityRecord } from '../store/store.ts';

export interface SlotPolicy {
  /** How long agents that are away are waited for, once the bundle holds the next authority. */
  readonly absenceMs: number;
  /** After this long every agent that polls has fetched the bundle. */
  readonly pollMs: number;
  /** After this long everybody outside who fetches the bundle, or the keys of it, has done so; 0 unless given (FED-02). */
  readonly leadMs?: number;
  /** Kept for this long after expiry, for verifiers whose clocks are behind or lenient. */
  readonly graceMs: number;
}

/** Three intervals of 5 s at which SPIRE's agents sync; 60 s is the leeway of JWT validators. */
export const defaultSlotPolicy: SlotPolicy = { absenceMs: 24 * 3_600_000, pollMs: 15_000, graceMs: 60_000 };

/** What is known of the agents that have to learn of an authority before it signs. */
export interface Delivery {
  /** Agents that follow, or did and are away, and have not confirmed the revision. */
  unconfirmed(revision: number): readonly string[];
  /** Whether there are agents that never confirm, because they poll. */
  readonly pollers: boolean;
}

/** Stands among the unconfirmed for agents that cannot confirm. */
export const agentsThatPoll = 'agents that poll';
/** Likewise for verifiers elsewhere: foreign trust domains, relying parties of OpenID Connect. */
export const thoseWhoFetch = 'those who fetch the bundle';

/** Each is carried out and stored alone; the others of a plan are then asked for again. */
export type SlotAction =
  | { readonly type: 'prepare' }
  | { readonly type: 'publish'; readonly record: AuthorityRecord }
  | {
      readonly type: 'activate';
      readonly record: AuthorityRecord;
      /** Becomes old in the same step. */
      readonly retired: AuthorityRecord | undefined;
      /** Agents that were waited for in vain. */
      readonly unconfirmed: readonly string[];
    }
  | { readonly type: 'forget'; readonly record: AuthorityRecord };

export interface SlotPlan {
  /** In the order in which to do them. */
  readonly due: readonly SlotAction[];
  /** Look again then, or sooner when an agent confirms; `undefined` only when something is due. */
  readonly nextAt: number | undefined;
}

/** Instants of one authority's life, epoch milliseconds. */
export interface LifeMarks {
  /** Half of its life: the next one is prepared. */
  readonly prepareAt: number;
  /** Five sixths of its life: the next one takes over, whoever has not confirmed. */
  readonly replaceAt: number;
}

export function lifeMarks(record: Pick<AuthorityRecord, 'createdAt' | 'expiresAt'>): LifeMarks {
  const life = record.expiresAt - record.createdAt;
  return { prepareAt: record.createdAt + life / 2, replaceAt: record.createdAt + (life * 5) / 6 };
}

export function activeOf(records: readonly AuthorityRecord[]): AuthorityRecord | undefined {
  return records.find((record) => record.state === 'active');
}

/** The one that comes next, if it is prepared and still of use. */
export function preparedOf(records: readonly AuthorityRecord[], now: number): AuthorityRecord | undefined {
  return records.find((record) => record.state === 'prepared' && record.expiresAt > now);
}

/**
 * What is due now for the authorities of one kind and one owner. Nothing is ever activated that the bundle does not
 * hold, or that has expired; as long as there is an active one, it stays until another takes its place.
 */
export function planSlots(records: readonly AuthorityRecord[], now: number, policy: SlotPolicy, delivery: Delivery): SlotPlan {
  const active = activeOf(records);
  const spent = records.filter((record) => record.state !== 'active' && spentAt(record, policy) <= now);
  const next = preparedOf(records, now);
  const succession = planSuccession(active, next, now, policy, delivery);
  const due = [
    ...(succession.action === undefined ? [] : [succession.action]),
    ...spent.map((record): SlotAction => ({ type: 'forget', record })),
  ];
  if (due.length > 0) return { due, nextAt: undefined };
  const ends = records.flatMap((record) => (record.state === 'active' ? [] : [spentAt(record, policy)]));
  return { due, nextAt: Math.min(succession.nextAt, ...ends) };
}

/** Who has not learned of a published authority; agents that poll, and those who fetch, are named as a whole. */
export function unconfirmedFor(record: AuthorityRecord, now: number, policy: SlotPolicy, delivery: Delivery): readonly string[] {
  const { publishedAt, publishedRevision } = record;
  if (publishedAt === undefined || publishedRevision === undefined) return [];
  const following = delivery.unconfirmed(publishedRevision);
  return [
    ...following,
    ...(delivery.pollers && publishedAt + policy.pollMs > now ? [agentsThatPoll] : []),
    ...(publishedAt + leadOf(policy) > now ? [thoseWhoFetch] : []),
  ];
}

interface Succession {
  readonly action: SlotAction | undefined;
  readonly nextAt: number;
}

function planSuccession(
  active: AuthorityRecord | undefined,
  next: AuthorityRecord | undefined,
  now: number,
  policy: SlotPolicy,
  delivery: Delivery,
): Succession {
  if (next === undefined) {
    const prepareAt = active === undefined ? now : lifeMarks(active).prepareAt;
    return prepareAt <= now ? act({ type: 'prepare' }) : waitUntil(prepareAt);
  }
  if (next.publishedAt === undefined || next.publishedRevision === undefined) return act({ type: 'publish', record: next });
  const activate = (unconfirmed: readonly string[]): Succession =>
    act({ type: 'activate', record: next, retired: active, unconfirmed });
  // Nobody can be served before, so there is nothing to gain by waiting.
  if (active === undefined || active.expiresAt <= now) return activate([]);
  // One that an operator had prepared early waits for its time.
  const { prepareAt, replaceAt } = lifeMarks(active);
  if (prepareAt > now) return waitUntil(prepareAt);
  const unconfirmed = unconfirmedFor(next, now, policy, delivery);
  const patience = Math.max(leadOf(policy), Math.min(policy.absenceMs, (next.expiresAt - next.createdAt) / 6));
  const deadline = Math.min(replaceAt, next.publishedAt + patience);
  if (unconfirmed.length === 0 || deadline <= now) return activate(unconfirmed);
  const learned = [next.publishedAt + leadOf(policy), ...(delivery.pollers ? [next.publishedAt + policy.pollMs] : [])];
  return waitUntil(Math.min(deadline, ...learned.filter((at) => at > now)));
}

function leadOf(policy: SlotPolicy): number {
  return policy.leadMs ?? 0;
}

function act(action: SlotAction): Succession {
  return { action, nextAt: Number.POSITIVE_INFINITY };
}

function waitUntil(nextAt: number): Succession {
  return { action: undefined, nextAt };
}

function spentAt(record: AuthorityRecord, policy: SlotPolicy): number {
  return record.expiresAt + policy.graceMs;
}
