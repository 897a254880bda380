/**
 * What is told of whom identities are for, whichever way they ask: attested, matched, handed over, refused. Who listens is
 * `agent/witness.ts`; what was handed over on one stream is remembered here, so that the record says what replaces what.
 */
import type { SpiffeError } from '../../spiffe/errors.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import type { HeldX509Svid } from '../svids/held.ts';
import type { Beneficiary } from './caller.ts';
import type { CallerUpdate } from './updates.ts';

/** What is on record of an SVID that was handed over; the serial of a WIT-SVID is its `jti`. */
export type DeliveredSvid = Pick<HeldX509Svid, 'entryId' | 'spiffeId' | 'serial'>;

/** What happened to whom identities are for, for the record and the metrics. */
export interface Witness {
  matched(caller: Beneficiary, update: CallerUpdate): void;
  /** `before` is what the same stream was sent for the same entry, if anything. */
  delivered(caller: Beneficiary, svid: DeliveredSvid, before: DeliveredSvid | undefined): void;
  /** A stream took a new update; `committedAt` when it follows from a commit. */
  updated(committedAt: number | undefined): void;
  refused(caller: Beneficiary, method: string, error: SpiffeError): void;
  closed(caller: Beneficiary, method: string): void;
}

/** Of one stream. */
export interface Handover {
  /**
   * Each of these is about to leave; told once for each SVID, in however many messages it leaves. To be called before they
   * do: whoever has its answer may hang up, and then nothing follows.
   */
  leaving(svids: Iterable<DeliveredSvid>): void;
  /** Forgets what was sent for entries that are not among these. */
  keep(entries: readonly RegistrationEntry[]): void;
}

export function createHandover(witness: Pick<Witness, 'delivered'>, caller: Beneficiary): Handover {
  const sent = new Map<string, DeliveredSvid>();
  return {
    leaving(svids) {
      for (const svid of svids) {
        const before = sent.get(svid.entryId);
        if (before?.serial === svid.serial) continue;
        sent.set(svid.entryId, svid);
        witness.delivered(caller, svid, before);
      }
    },
    keep(entries) {
      for (const id of sent.keys()) if (entries.every((entry) => entry.id !== id)) sent.delete(id);
    },
  };
}
