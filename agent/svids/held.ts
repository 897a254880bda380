/**
 * What the agent holds for workloads: X509-SVIDs and WIT-SVIDs with their keys, and JWT-SVIDs, as values. Getting and
 * renewing them is `renew.ts`, `wits.ts` and `tokens.ts`.
 */
import type { KeyObject } from 'node:crypto';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import type { JwtAlgorithm } from '../../spiffe/jwt-key.ts';

/** Frozen. The key is of this SVID alone. */
export interface HeldX509Svid {
  readonly entryId: string;
  readonly spiffeId: SpiffeId;
  /** DER, leaf first. */
  readonly chain: readonly Uint8Array[];
  readonly key: KeyObject;
  /** Lower hex. */
  readonly serial: string;
  /** Subject key id of the authority that signed, lower hex. */
  readonly authorityId: string;
  readonly notBeforeAt: number;
  readonly expiresAt: number;
  /** Half life with a jitter that was drawn when the SVID came. */
  readonly renewAt: number;
  /** Of the entry when it was signed. */
  readonly entryRevision: number;
}

export interface HeldJwtSvid {
  readonly entryId: string;
  readonly entryRevision: number;
  readonly spiffeId: SpiffeId;
  /** Sorted, without repeats. */
  readonly audience: readonly string[];
  readonly token: string;
  /** Of the key that signed it; `''` when the header named none. */
  readonly keyId: string;
  readonly issuedAt: number;
  readonly expiresAt: number;
  readonly renewAt: number;
}

/** Frozen. The key is of this SVID alone. */
export interface HeldWitSvid {
  readonly entryId: string;
  readonly entryRevision: number;
  readonly spiffeId: SpiffeId;
  readonly token: string;
  readonly key: KeyObject;
  /** Of the key: how it proves itself. */
  readonly algorithm: JwtAlgorithm;
  /** Of the key that signed the token. */
  readonly keyId: string;
  /** What the record calls it; `''` when the issuer gave it none. */
  readonly jti: string;
  readonly issuedAt: number;
  readonly expiresAt: number;
  readonly renewAt: number;
}

/** Whether an SVID may be handed out for the entry as it is now: the name is right and its time is not over. */
export function isUsable(svid: HeldX509Svid | undefined, entry: RegistrationEntry, now: number): svid is HeldX509Svid {
  return svid !== undefined && svid.spiffeId === entry.spiffeId && now < svid.expiresAt;
}

export function isEntryLive(entry: RegistrationEntry, now: number): boolean {
  return entry.expiresAt === undefined || now < entry.expiresAt;
}

/** `undefined` when there is none. */
export function earliestExpiry(svids: Iterable<Pick<HeldX509Svid, 'expiresAt'>>): number | undefined {
  let first: number | undefined;
  for (const { expiresAt } of svids) first = first === undefined ? expiresAt : Math.min(first, expiresAt);
  return first;
}

/** The smallest share of its life that any of them has left, below 0 when that is over; 1 when there is none. */
export function leastLifeLeft(svids: Iterable<Pick<HeldX509Svid, 'notBeforeAt' | 'expiresAt'>>, now: number): number {
  let least = 1;
  for (const { notBeforeAt, expiresAt } of svids) least = Math.min(least, (expiresAt - now) / (expiresAt - notBeforeAt));
  return least;
}
