/**
 * When a credential is due for renewal: arithmetic on instants and a jitter value drawn once by the caller. What is
 * renewed, and how often a failure is tried again, is left to those who renew; authorities keep `server/authority/slots.ts`.
 */

/** Renewals spread over a tenth of half a life to either side, so that what was issued together is not renewed together. */
const spread = 0.1;

/**
 * The instant to renew at: half of the life, a tenth of that earlier or later.
 * @param jitter 0 to 1, drawn once for each credential and kept with it, so that asking again gives the same answer
 * @returns epoch milliseconds; never after `expiresAt`
 */
export function renewAt(notBeforeAt: number, expiresAt: number, jitter: number): number {
  const half = Math.max(0, expiresAt - notBeforeAt) / 2;
  const drawn = Math.min(1, Math.max(0, jitter));
  return Math.round(notBeforeAt + half * (1 + spread * (2 * drawn - 1)));
}

/** Whether the renewal instant has come. */
export function isDue(renewalAt: number, at: number): boolean {
  return at >= renewalAt;
}
