/**
 * JWT-SVIDs by entry and audience: signed when first asked for, kept, refreshed ahead while they are used. Who may have
 * one is decided before; what a validator makes of one is not known here.
 */
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { backoffMs, type BackoffPolicy } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createAlarm } from '../alarm.ts';
import type { WorkloadProcess } from '../process.ts';
import type { HeldJwtSvid } from './held.ts';
import { receiveJwt } from './receive.ts';
import type { Signer } from './signer.ts';

export interface TokensOptions {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly signer: Pick<Signer, 'signJwt'>;
  readonly entry: (id: string) => RegistrationEntry | undefined;
  /** Key ids whose tokens are to be replaced. */
  readonly tainted: () => ReadonlySet<string>;
  readonly limit: number;
  readonly onOutcome: (outcome: TokenOutcome) => void;
  readonly onChange: () => void;
}

export interface TokenOutcome {
  readonly entry: RegistrationEntry;
  readonly process: WorkloadProcess | undefined;
  readonly svid: HeldJwtSvid | undefined;
  readonly error: SpiffeError | undefined;
}

export interface Tokens {
  /**
   * A token for the entry as it is now; from the cache when there is one, so that it comes at once with the server away.
   * @param audience not empty
   * @throws what signing failed with, when nothing unexpired is at hand
   */
  fetch(request: TokenRequest, signal: AbortSignal): Promise<HeldJwtSvid>;
  restore(svids: readonly HeldJwtSvid[]): void;
  held(): IterableIterator<HeldJwtSvid>;
  readonly size: number;
  /** Refreshes what is used; ends with the signal's reason. */
  run(signal: AbortSignal): Promise<void>;
}

export interface TokenRequest {
  readonly entry: RegistrationEntry;
  readonly audience: readonly string[];
  readonly process: WorkloadProcess | undefined;
}

interface Kept {
  readonly svid: HeldJwtSvid;
  /** Asked for since it was signed: only such tokens are refreshed ahead. */
  used: boolean;
  attempts: number;
  /** Monotonic; refreshing is not tried before. */
  notBefore: number;
}

const retry: BackoffPolicy = { firstMs: 1_000, factor: 2, longestMs: 60_000, jitter: 0.2 };
/** Time to finish for a refresh that nobody waits for. */
const refreshesAtOnce = 8;

export function createTokens(options: TokensOptions): Tokens {
  const { clock, random, signer, tainted, limit, onOutcome, onChange } = options;
  const alarm = createAlarm(clock);
  /** In the order of use, so that the first is the one to drop. */
  const kept = new Map<string, Kept>();
  const signing = new Map<string, Promise<HeldJwtSvid>>();
  let lifetime: AbortSignal = new AbortController().signal;

  const current = (entry: RegistrationEntry, key: string): Kept | undefined => {
    const found = kept.get(key);
    if (found === undefined) return undefined;
    const { svid } = found;
    const stale =
      clock.now() >= svid.expiresAt || svid.spiffeId !== entry.spiffeId || svid.entryRevision !== entry.revisionNumber;
    if (!stale && !tainted().has(svid.keyId)) return found;
    kept.delete(key);
    return undefined;
  };

  const keep = (key: string, svid: HeldJwtSvid, used: boolean): void => {
    kept.delete(key);
    kept.set(key, { svid, used, attempts: 0, notBefore: 0 });
    for (const oldest of kept.keys()) {
      if (kept.size <= limit) break;
      kept.delete(oldest);
    }
    alarm.ring();
    onChange();
  };

  const sign = async (request: TokenRequest, key: string, used: boolean, signal: AbortSignal): Promise<HeldJwtSvid> => {
    const { entry, process } = request;
    try {
      const signed = await signer.signJwt(request, signal);
      const svid = receiveJwt(request, signed, { at: clock.now(), jitter: random() });
      if (!entry.jwtSvidIncludeJti && options.entry(entry.id) !== undefined) keep(key, svid, used);
      onOutcome({ entry, process, svid, error: undefined });
      return svid;
    } catch (caught) {
      const error =
        caught instanceof SpiffeError
          ? caught
          : new SpiffeError('internal', 'tokens.failed', 'signing failed for an unexpected reason', { cause: caught });
      onOutcome({ entry, process, svid: undefined, error });
      throw error;
    }
  };

  /** Many who ask for the same at once share one signature, which outlives any of them. */
  const signOnce = (request: TokenRequest, key: string, used: boolean): Promise<HeldJwtSvid> => {
    const running = signing.get(key);
    if (running !== undefined) return running;
    const started = sign(request, key, used, lifetime).finally(() => signing.delete(key));
    signing.set(key, started);
    return started;
  };

  const refresh = async (key: string, entry: RegistrationEntry, old: Kept): Promise<void> => {
    try {
      await signOnce({ entry, audience: old.svid.audience, process: undefined }, key, false);
    } catch {
      // Told through onOutcome; the old one serves to its last second.
      old.attempts += 1;
      old.notBefore = clock.monotonic() + backoffMs(old.attempts, random(), retry);
    }
  };

  /** Starts what is due; yields when to look again. */
  const sweep = (): number | undefined => {
    const at = clock.now();
    let next = Number.POSITIVE_INFINITY;
    for (const [key, token] of kept) {
      const entry = options.entry(token.svid.entryId);
      if (entry === undefined || current(entry, key) === undefined) {
        kept.delete(key);
        continue;
      }
      next = Math.min(next, token.svid.expiresAt);
      if (!token.used) continue;
      const dueAt = Math.max(token.svid.renewAt, at + (token.notBefore - clock.monotonic()));
      if (dueAt > at) next = Math.min(next, dueAt);
      else if (signing.size < refreshesAtOnce) void refresh(key, entry, token).finally(() => alarm.ring());
    }
    return Number.isFinite(next) ? next : undefined;
  };

  return {
    async fetch(request, signal) {
      signal.throwIfAborted();
      const audience = [...new Set(request.audience)].toSorted();
      const asked = { ...request, audience };
      // A token with an id is for one use.
      if (request.entry.jwtSvidIncludeJti) return sign(asked, '', true, signal);
      const key = keyOf(request.entry.id, audience);
      const found = current(request.entry, key);
      if (found === undefined) return signOnce(asked, key, true);
      if (!found.used) alarm.ring();
      found.used = true;
      kept.delete(key);
      kept.set(key, found);
      return found.svid;
    },
    restore(svids) {
      for (const svid of svids) kept.set(keyOf(svid.entryId, svid.audience), { svid, used: true, attempts: 0, notBefore: 0 });
    },
    *held() {
      for (const { svid } of kept.values()) yield svid;
    },
    get size() {
      return kept.size;
    },
    async run(signal) {
      lifetime = signal;
      for (;;) await alarm.until(sweep(), signal);
    },
  };
}

function keyOf(entryId: string, audience: readonly string[]): string {
  return JSON.stringify([entryId, ...audience]);
}
