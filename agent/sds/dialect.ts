/**
 * What both ways of streaming secrets have in common: the memory of one stream, which takes requests and decides what is
 * to be said of what is there. The two are `state-of-the-world.ts` and `delta.ts`; nothing here waits or sends.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { HeldX509Svid } from '../svids/held.ts';
import type { Selection } from './names.ts';

/** One secret as it goes out. Frozen, and shared by all streams that get it. */
export interface Secret {
  readonly name: string;
  /** Equal for equal content, on every stream and after a restart. */
  readonly version: string;
  /** The encoded message. Never mutated. */
  encoded(): Buffer;
  /** What leaves with it, for the record. */
  readonly svid: HeldX509Svid | undefined;
}

/** Of what is selected, by name: a secret, or one that will come; what has no place is unknown. */
export type Secrets = ReadonlyMap<string, Secret | 'pending'>;

/** One message to send. */
export interface Said {
  readonly version: string;
  readonly nonce: string;
  readonly secrets: readonly Secret[];
  /** Names of what is gone or unknown, where the protocol has words for that. */
  readonly removed: readonly string[];
}

export interface Dialect<Request> {
  /** What is subscribed to; `undefined` while nothing was asked. */
  readonly selection: Selection | undefined;
  /**
   * @returns the client's complaint when it could not use what was sent last
   * @throws limited `sds.names`
   */
  take(request: Request): string | undefined;
  /** What is to be sent now, taken as sent; nothing when it would say nothing new. */
  say(secrets: Secrets): Said | undefined;
}

/** Of one stream. An agent's entries are far fewer. */
export const mostNames = 1_000;

/** @throws limited `sds.names` */
export function checkNames(count: number): void {
  if (count > mostNames) throw new SpiffeError('limited', 'sds.names', `one stream may ask for ${String(mostNames)} secrets at most`);
}

/** Numbers of the responses of one stream, as text. */
export function createNonces(): { next(): string } {
  let sent = 0;
  return {
    next() {
      sent += 1;
      return sent.toString(16).padStart(8, '0');
    },
  };
}
