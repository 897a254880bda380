/**
 * The seam between a connected process and what is true of it: one source of truth each, asked for selectors. Which
 * attestors there are is the agent's composition; asking them all at once is `attest.ts`.
 */
import type { Peer } from '../../runtime/peer.ts';
import type { Watch } from '../../runtime/watch.ts';
import type { Selector } from '../../spiffe/selector.ts';

/** What the entries held now ask for, so that costly facts are only established when somebody wants them. */
export interface WantedSelectors {
  /** Whether any held entry has a selector that starts with `prefix`, e.g. `unix:sha256:`. */
  asks(prefix: string): boolean;
}

/**
 * Tells that one fact could not be had while the others are good.
 * @param what the selector's type and name, `unix:path`
 * @param reason a dotted name, as of errors
 * @param until for a fact still being established: settles when asking again will yield it, or another reason
 */
export type Omit = (what: string, reason: string, until?: Promise<unknown>) => void;

/** What an attestor is asked with, and what it may say besides its selectors. */
export interface AttestQuestion {
  readonly wanted: WantedSelectors;
  /** Aborts when nobody waits for the answer any more: deadline, process gone, or answered. */
  readonly signal: AbortSignal;
  readonly omit: Omit;
  /**
   * Hands over a watch that has another value once the answer may be true no more; the attestor is asked again then, for
   * as long as the connection lasts. To be called while answering, with a watch that outlives the connection or closes.
   */
  readonly recheck: (watch: Watch<unknown>) => void;
}

export interface WorkloadAttestor {
  /** Closed set, used as a metric label: `unix`, `systemd`, `docker`, `k8s`. */
  readonly name: string;
  /**
   * Selectors of the process, all of them attested now and in milliseconds; what takes longer is omitted until it is
   * there. What it throws costs its own selectors only; a SpiffeError's reason is reported. One of kind unavailable says
   * that its source cannot be asked, and leaves what it gave before; any other takes that back. The caller makes sure that
   * the process was the same one before and after.
   */
  attest(peer: Peer, question: AttestQuestion): Promise<readonly Selector[]>;
}
