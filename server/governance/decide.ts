/**
 * The decision point: whether a credential may be issued, and why, decided anew for every issuance. Today's rule is that
 * the entry is active and this agent holds it now; which entries those are is the registry's to know.
 */
import { randomUUID } from 'node:crypto';
import { isExpired, type RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { SpiffeId } from '../../spiffe/id.ts';

/** What agents hold. */
export interface Holdings {
  /** The entry as it is now, if this agent may issue for it. */
  heldEntry(agentId: SpiffeId, entryId: string, now: number): RegistrationEntry | undefined;
}

export interface DecisionInput {
  readonly agentId: SpiffeId;
  readonly entryId: string;
  readonly at: number;
}

export type Decision =
  | { readonly allowed: true; readonly id: string; readonly reason: 'held-by-agent'; readonly entry: RegistrationEntry }
  | { readonly allowed: false; readonly id: string; readonly reason: 'entry.not-held'; readonly error: SpiffeError };

/**
 * One answer for an entry that is not there, not this agent's, or over: whoever asks learns nothing about the entries of
 * others. Its error is missing `entry.not-held`.
 */
export function decideIssuance(holdings: Holdings, input: DecisionInput): Decision {
  const { agentId, entryId, at } = input;
  const id = createDecisionId(at);
  const entry = entryId === '' ? undefined : holdings.heldEntry(agentId, entryId, at);
  if (entry === undefined || isExpired(entry, at)) {
    const error = new SpiffeError('missing', 'entry.not-held', 'entry not found or not authorized');
    return { allowed: false, id, reason: 'entry.not-held', error };
  }
  return { allowed: true, id, reason: 'held-by-agent', entry };
}

/** Sorts by time; the random half of a UUID and more tells decisions of one millisecond apart. */
export function createDecisionId(at: number): string {
  // A UUID is drawn from a reserve, which makes it the cheapest random text there is.
  return `${at.toString(36).padStart(9, '0')}${randomUUID().replaceAll('-', '')}`;
}
