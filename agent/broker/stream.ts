/**
 * What somebody is sent of a subject's updates, in order: each message that says something new, after a look at whether the
 * subject is still there, and each on record with who asked. What a message makes of an update is the callers'.
 */
import { isDeepStrictEqual } from 'node:util';
import { SpiffeError } from '../../spiffe/errors.ts';
import { abortReason, linkedController } from '../../runtime/abort.ts';
import type { WorkloadUpdate } from '../svids/cache.ts';
import type { HeldJwtSvid } from '../svids/held.ts';
import type { Beneficiary } from '../workload/caller.ts';
import { callerUpdates, noIdentity, type CallerUpdate, type UpdatesOptions, type UpdateWanted } from '../workload/updates.ts';
import { createHandover, type Witness } from '../workload/witness.ts';
import { asGone, type Subject } from './subjects.ts';

/** Told of what is delivered on behalf of others. */
export interface BrokerWitness extends Witness {
  /** Each time, and not only when it was signed. */
  deliveredToken(who: Beneficiary, svid: HeldJwtSvid): void;
}

export interface BrokeringOptions extends UpdatesOptions {
  readonly witness: BrokerWitness;
}

export interface BrokeredCall {
  readonly method: string;
  readonly signal: AbortSignal;
}

export interface BrokeredStream<T> extends Pick<UpdateWanted, 'svids' | 'unregistered'> {
  /** What of an update may be sent, or undefined to wait for the next; throws to end the stream. */
  readonly narrow: (next: CallerUpdate) => WorkloadUpdate | undefined;
  readonly compose: (update: WorkloadUpdate) => T;
}

/**
 * Takes the subject over and releases it at the end.
 * @throws missing `broker.workload.gone`; as `callerUpdates` and `narrow`
 */
export async function* brokered<T>(
  options: BrokeringOptions,
  subject: Subject,
  call: BrokeredCall,
  stream: BrokeredStream<T>,
): AsyncGenerator<T> {
  const { witness } = options;
  const handover = createHandover(witness, subject);
  const present = untilGone(subject, call.signal);
  let last: T | undefined;
  try {
    for await (const next of callerUpdates(options, { ...stream, caller: subject }, present.signal)) {
      const update = stream.narrow(next);
      if (update === undefined) continue;
      if (last === undefined) witness.matched(subject, { ...next, update });
      const message = stream.compose(update);
      if (last === undefined || !isDeepStrictEqual(message, last)) {
        subject.requireStill();
        if (stream.svids) handover.leaving(update.identities.map(({ svid }) => svid));
        yield message;
        last = message;
        witness.updated(update.committedAt);
      }
      next.sent();
    }
  } catch (caught) {
    throw refused(witness, subject, call, caught);
  } finally {
    present.unlink();
    subject.release();
    witness.closed(subject, call.method);
  }
}

export interface BrokeredAnswer<T> extends Pick<BrokeredStream<unknown>, 'narrow'> {
  readonly answer: (update: WorkloadUpdate, signal: AbortSignal) => Promise<T>;
}

/**
 * Answers once of the first update that `narrow` lets through. Takes the subject over and releases it at the end.
 * @throws as `brokered`, and what `answer` throws
 */
export async function brokeredOnce<T>(
  options: BrokeringOptions,
  subject: Subject,
  call: BrokeredCall,
  once: BrokeredAnswer<T>,
): Promise<T> {
  const present = untilGone(subject, call.signal);
  try {
    for await (const next of callerUpdates(options, { caller: subject, svids: false }, present.signal)) {
      const update = once.narrow(next);
      if (update === undefined) continue;
      const answer = await once.answer(update, present.signal);
      subject.requireStill();
      return answer;
    }
    throw noIdentity();
  } catch (caught) {
    throw refused(options.witness, subject, call, caught);
  } finally {
    present.unlink();
    subject.release();
  }
}

function untilGone(subject: Subject, signal: AbortSignal): { readonly signal: AbortSignal; unlink(): void } {
  const stop = linkedController(signal);
  const onGone = (): void => stop.abort(abortReason(subject.signal));
  if (subject.signal.aborted) onGone();
  else subject.signal.addEventListener('abort', onGone, { once: true });
  return {
    signal: stop.signal,
    unlink() {
      stop.unlink();
      subject.signal.removeEventListener('abort', onGone);
      stop.abort(new Error('this call is over'));
    },
  };
}

function refused(witness: BrokerWitness, subject: Subject, call: BrokeredCall, caught: unknown): unknown {
  const error = asGone(caught);
  if (!call.signal.aborted && error instanceof SpiffeError) witness.refused(subject, call.method, error);
  return error;
}

/** @param delivered what the same stream was sent, by entry; taken on */
