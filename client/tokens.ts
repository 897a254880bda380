/**
 * Tokens by what they were asked for: kept as long as they are good, renewed from half of their life on while the old one is
 * still given out, asked for once however many want them. Asking is the source's.
 */
import { untilAborted } from '../runtime/abort.ts';
import { backoffMs } from '../runtime/backoff.ts';
import type { Clock } from '../runtime/clock.ts';
import { isSpiffeError, SpiffeError } from '../spiffe/errors.ts';
import type { JwtSvid } from '../spiffe/jwt-svid.ts';
import type { JwtRequest } from './workload-api.ts';

export interface TokenCacheOptions {
  readonly clock: Clock;
  /** In [0, 1); spreads renewals that failed. */
  readonly random: () => number;
  readonly fetch: (request: JwtRequest) => Promise<readonly JwtSvid[]>;
  /** How long the agent must have denied a renewal before the token it would replace is let go. */
  readonly withdrawAfterMs: number;
  /** Kept for this many different requests; the one not asked for the longest makes room. */
  readonly capacity: number;
  /** Told when a token that is still good could not be renewed. */
  readonly renewalFailed: (error: unknown) => void;
}

export interface TokenCache {
  /** Waits only when nothing that is still good is kept. The signal ends the wait, not the asking, which others may wait for. */
  get(request: JwtRequest, signal?: AbortSignal): Promise<readonly JwtSvid[]>;
}

interface Kept {
  readonly svids: readonly JwtSvid[];
  /** Epoch milliseconds, as are the others. */
  readonly expiresAt: number;
  readonly renewAt: number;
  readonly failures: number;
  readonly deniedSince: number | undefined;
}

/** A token that ends while it travels helps nobody. */
const marginMs = 1_000;

export function createTokenCache(options: TokenCacheOptions): TokenCache {
  const { clock } = options;
  const kept = new Map<string, Kept>();
  const asking = new Map<string, Promise<readonly JwtSvid[]>>();

  const keep = (key: string, value: Kept): void => {
    kept.delete(key);
    kept.set(key, value);
    const [oldest] = kept.keys();
    if (kept.size > options.capacity && oldest !== undefined) kept.delete(oldest);
  };
  const ask = (key: string, request: JwtRequest): Promise<readonly JwtSvid[]> => {
    const flying = asking.get(key);
    if (flying !== undefined) return flying;
    const flight = options
      .fetch(request)
      .then((svids) => {
        const now = clock.now();
        const expiresAt = Math.min(...svids.map((svid) => svid.expiresAt));
        if (expiresAt <= now) throw new SpiffeError('unavailable', 'source.token.expired', 'the agent gave a token that is over');
        // Half of what is left, because an agent may have kept it for a while itself.
        keep(key, { svids, expiresAt, renewAt: now + (expiresAt - now) / 2, failures: 0, deniedSince: undefined });
        return svids;
      })
      .finally(() => asking.delete(key));
    asking.set(key, flight);
    return flight;
  };
  const renewalFailed = (key: string, error: unknown): void => {
    options.renewalFailed(error);
    const held = kept.get(key);
    if (held === undefined) return;
    const now = clock.now();
    const deniedSince = isSpiffeError(error, 'denied') ? (held.deniedSince ?? now) : held.deniedSince;
    if (isSpiffeError(error, 'denied') && deniedSince !== undefined && now - deniedSince >= options.withdrawAfterMs) {
      kept.delete(key);
      return;
    }
    const failures = held.failures + 1;
    keep(key, { ...held, failures, deniedSince, renewAt: now + backoffMs(failures, options.random()) });
  };

  return {
    async get(request, signal) {
      signal?.throwIfAborted();
      const key = keyOf(request);
      const held = kept.get(key);
      const now = clock.now();
      if (held !== undefined && now < held.expiresAt - marginMs) {
        keep(key, held);
        if (now >= held.renewAt && !asking.has(key)) ask(key, request).catch((error: unknown) => renewalFailed(key, error));
        return held.svids;
      }
      kept.delete(key);
      const asked = ask(key, request);
      return signal === undefined ? asked : untilAborted(asked, signal);
    },
  };
}

/** Neither the order of audiences nor their repetition makes another token. */
function keyOf(request: JwtRequest): string {
  const audience = typeof request.audience === 'string' ? [request.audience] : request.audience;
  return JSON.stringify([request.spiffeId ?? '', ...[...new Set(audience)].toSorted()]);
}
