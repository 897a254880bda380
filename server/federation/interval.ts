/**
 * How long a bundle may be kept before it is fetched anew: arithmetic on the bundle and bounds. When that is, is
 * `refresh.ts`.
 */
import { type Bundle, parseAuthorityCertificate } from '../../spiffe/bundle.ts';

/** Milliseconds. */
export interface RefreshBounds {
  /** However often a publisher asks to be asked. */
  readonly shortestMs: number;
  /** However long a publisher asks to be left alone, so that it cannot keep a revocation from being seen. */
  readonly longestMs: number;
}

/** Where the publisher gives no hint [Federation 4.1]. */
const standardMs = 300_000;

/**
 * The publisher's hint; without one, five minutes, or a tenth of the shortest life of a root where that is less. The
 * shortest when there is no bundle at all.
 */
export function refreshIntervalMs(bundle: Bundle | undefined, { shortestMs, longestMs }: RefreshBounds): number {
  if (bundle === undefined) return shortestMs;
  const asked = bundle.refreshHintSeconds > 0 ? bundle.refreshHintSeconds * 1000 : Math.min(standardMs, shortestLifeMs(bundle) / 10);
  return Math.min(longestMs, Math.max(shortestMs, asked));
}

/** Earlier by up to a tenth, so that what was asked for together spreads; never below the shortest. */
export function spreadMs(intervalMs: number, random: number, { shortestMs }: RefreshBounds): number {
  return Math.max(Math.min(shortestMs, intervalMs), Math.round(intervalMs * (1 - 0.1 * random)));
}

function shortestLifeMs({ x509Authorities }: Bundle): number {
  let shortest = Infinity;
  for (const { certificate } of x509Authorities) {
    const { validFrom, validTo } = parseAuthorityCertificate(certificate);
    shortest = Math.min(shortest, Math.max(0, Date.parse(validTo) - Date.parse(validFrom)));
  }
  return shortest;
}
