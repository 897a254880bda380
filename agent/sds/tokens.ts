/**
 * The JWT-SVIDs of one stream: asked for in the background by what the stream's names mean, and asked for again when they
 * come due. Signing and keeping them for all is `svids/tokens.ts`.
 */
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { JwtAuthority } from '../../spiffe/bundle.ts';
import type { WorkloadProcess } from '../process.ts';
import type { HeldJwtSvid } from '../svids/held.ts';
import type { Tokens } from '../svids/tokens.ts';
import type { Meaning } from './names.ts';

export type TokenMeaning = Extract<Meaning, { kind: 'token' }>;

export interface StreamTokens {
  /**
   * The token there is; one that is missing or due is fetched, and the owner rung when it came.
   * @throws what fetching failed with for another reason than a SpiffeError
   */
  look(meaning: TokenMeaning): HeldJwtSvid | undefined;
  /** Something changed that may have cost a token its worth: each is fetched again when it is next looked at. */
  recheck(authorities: readonly Pick<JwtAuthority, 'keyId' | 'tainted'>[]): void;
  /** Forgets what was not looked at since the last time. */
  prune(): void;
  /** When to look again, wall clock; `undefined` while there is nothing to wait for. */
  readonly nextAt: number | undefined;
}

export interface StreamTokensParts {
  readonly clock: Clock;
  readonly tokens: Pick<Tokens, 'fetch'>;
  readonly process: WorkloadProcess;
  readonly signal: AbortSignal;
  readonly ring: () => void;
}

interface Kept {
  svid: HeldJwtSvid | undefined;
  fetching: boolean;
  /** Wall clock. */
  againAt: number;
  looked: boolean;
  /** Something changed while it was fetched. */
  doubted: boolean;
  readonly single: boolean;
}

/** Of one stream: each may cost a signature. */
export const mostTokens = 16;
/** After a token is due to be replaced, and after one could not be had: whoever keeps tokens for all replaces them meanwhile. */
const againMs = 5_000;

/** @throws limited `sds.tokens` */
export function checkTokens(count: number): void {
  if (count > mostTokens) throw new SpiffeError('limited', 'sds.tokens', `one stream may ask for ${String(mostTokens)} JWT-SVIDs at most`);
}

export function createStreamTokens({ clock, tokens, process, signal, ring }: StreamTokensParts): StreamTokens {
  const kept = new Map<string, Kept>();
  let failure: { readonly error: unknown } | undefined;
  let tainted: ReadonlySet<string> = new Set();
  /** Also for names that are not asked for any more, so that a stream has no more under way by changing its mind. */
  let underWay = 0;

  const doubt = (token: Kept): void => {
    if (!token.single || (token.svid !== undefined && tainted.has(token.svid.keyId))) token.againAt = 0;
  };

  const fetch = async ({ entry, audience }: TokenMeaning, token: Kept): Promise<void> => {
    token.fetching = true;
    underWay += 1;
    token.doubted = false;
    try {
      token.svid = await tokens.fetch({ entry, audience: [audience], process }, signal);
    } catch (error) {
      // Told where it was tried; the one there is serves to its last second.
      if (!isSpiffeError(error)) failure = { error };
    } finally {
      token.fetching = false;
      underWay -= 1;
      token.againAt = Math.max(token.svid?.renewAt ?? 0, clock.now()) + againMs;
      if (token.doubted) doubt(token);
      ring();
    }
  };

  return {
    look(meaning) {
      if (failure !== undefined && !signal.aborted) throw failure.error;
      const { entry, audience } = meaning;
      const key = JSON.stringify([entry.id, entry.revisionNumber, audience]);
      let token = kept.get(key);
      if (token === undefined) {
        // One with an ID is kept by nobody else, so asking again signs another.
        token = { svid: undefined, fetching: false, againAt: 0, looked: true, doubted: false, single: entry.jwtSvidIncludeJti };
        kept.set(key, token);
      }
      token.looked = true;
      if (!token.fetching && underWay < mostTokens && clock.now() >= token.againAt) void fetch(meaning, token);
      return token.svid !== undefined && clock.now() < token.svid.expiresAt ? token.svid : undefined;
    },
    recheck(authorities) {
      tainted = new Set(authorities.filter((authority) => authority.tainted).map(({ keyId }) => keyId));
      for (const token of kept.values()) {
        token.doubted = token.fetching;
        doubt(token);
      }
    },
    prune() {
      for (const [key, token] of kept) {
        if (!token.looked) kept.delete(key);
        token.looked = false;
      }
    },
    get nextAt() {
      // The next that comes rings.
      if (underWay >= mostTokens) return undefined;
      const waits = [...kept.values()].filter(({ fetching }) => !fetching).map(({ againAt }) => againAt);
      return waits.length === 0 ? undefined : Math.min(...waits);
    },
  };
}
