/**
 * The seam to whoever signs: public keys and entries in, chains and tokens out, one outcome per request. Which service of
 * the server is asked is `messages.ts`; when and how often is `renew.ts` and `tokens.ts`.
 */
import type { KeyObject } from 'node:crypto';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { isSpiffeError, type SpiffeError } from '../../spiffe/errors.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { WorkloadProcess } from '../process.ts';

export interface KeyPair {
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
  readonly privateKey: KeyObject;
}

export interface X509Request {
  readonly entry: RegistrationEntry;
  readonly keys: KeyPair;
  /** On whose behalf, when there is somebody. */
  readonly process: WorkloadProcess | undefined;
}

export type X509Outcome =
  /** DER, leaf first. */
  { readonly chain: readonly Uint8Array[] } | { readonly refused: SpiffeError };

export interface JwtRequest {
  readonly entry: RegistrationEntry;
  /** Sorted, without repeats, not empty. */
  readonly audience: readonly string[];
  readonly process: WorkloadProcess | undefined;
}

/** Its key proves possession with ES256. */
export type WitRequest = X509Request;

export type WitSigned = { readonly token: string } | { readonly refused: SpiffeError };

export interface JwtSigned {
  readonly token: string;
  readonly issuedAt: number;
  readonly expiresAt: number;
}

export interface Signer {
  /** More than this many requests are not to be put into one call. */
  readonly largestBatch: number;
  /**
   * One outcome per request, in order.
   * @throws what the call failed with as a whole; `unsupported` when the server does not have the service
   */
  signX509(requests: readonly X509Request[], signal: AbortSignal): Promise<readonly X509Outcome[]>;
  /** As `signX509`. */
  signWit(requests: readonly WitRequest[], signal: AbortSignal): Promise<readonly WitSigned[]>;
  /** @throws the refusal, or what the call failed with */
  signJwt(request: JwtRequest, signal: AbortSignal): Promise<JwtSigned>;
}

/** For so long the second signer is asked before it is found out whether the server has the first one's service by now. */
export const askFirstAgainMs = 300_000;

/** Asks the first signer, and for a while after it turned out that the server does not have its service, the second. */
export function firstSupported(first: Signer, second: Signer, clock: Pick<Clock, 'monotonic'>): Signer {
  let firstAgainAt = Number.NEGATIVE_INFINITY;
  const isFirstsTurn = (): boolean => clock.monotonic() >= firstAgainAt;
  const run = async <T>(ask: (signer: Signer) => Promise<T>, requests = 1): Promise<T> => {
    // A batch may have been formed for the second, a moment before it was the first's turn.
    if (!isFirstsTurn() || requests > first.largestBatch) return ask(second);
    try {
      return await ask(first);
    } catch (error) {
      if (!isSpiffeError(error, 'unsupported')) throw error;
      firstAgainAt = clock.monotonic() + askFirstAgainMs;
      return ask(second);
    }
  };
  return {
    get largestBatch() {
      return isFirstsTurn() ? Math.min(first.largestBatch, second.largestBatch) : second.largestBatch;
    },
    signX509: (requests, signal) => run((signer) => signer.signX509(requests, signal), requests.length),
    async signWit(requests, signal) {
      // Asked each time: a server may have the service, and in it no WIT-SVIDs.
      if (!isFirstsTurn()) return second.signWit(requests, signal);
      try {
        return await first.signWit(requests, signal);
      } catch (error) {
        if (!isSpiffeError(error, 'unsupported')) throw error;
        return second.signWit(requests, signal);
      }
    },
    signJwt: (request, signal) => run((signer) => signer.signJwt(request, signal)),
  };
}
