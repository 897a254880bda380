/**
 * The registration entry: the rule by which selectors under a parent yield a SPIFFE ID. Shape and rules only; who may
 * hold an entry is `authorize.ts`, and storing it is the server's.
 */
import type { SpiffeId, TrustDomain } from './id.ts';
import type { Selector } from './selector.ts';

/** Instants are epoch milliseconds; an absent instant is `undefined`. Frozen once built. */
export interface RegistrationEntry {
  /** 1 to 255 characters of `[A-Za-z0-9_.-]`. */
  readonly id: string;
  readonly spiffeId: SpiffeId;
  readonly parentId: SpiffeId;
  /** In the order they were given, without repeats. */
  readonly selectors: readonly Selector[];
  /** 0 means the server's default. */
  readonly x509SvidTtlSeconds: number;
  readonly jwtSvidTtlSeconds: number;
  readonly federatesWith: readonly TrustDomain[];
  readonly dnsNames: readonly string[];
  readonly admin: boolean;
  readonly downstream: boolean;
  readonly storeSvid: boolean;
  readonly hint: string;
  readonly disableX509SvidPrefetch: boolean;
  readonly jwtSvidIncludeJti: boolean;
  /** Ours: SVIDs of this entry never reach an agent's disk, sealed or not. */
  readonly forbidCache: boolean;
  readonly expiresAt: number | undefined;
  /** Whole seconds, set by the server. */
  readonly createdAt: number;
  /** Starts at 0, one more with every successful update. */
  readonly revisionNumber: number;
}
