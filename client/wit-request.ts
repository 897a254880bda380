/**
 * WIT-SVIDs in HTTP requests, by the WIMSE Workload Proof Token: what a caller sends, and who a verifier finds it to be. Nothing
 * here tells who somebody is by a WIT-SVID alone.
 */
import { randomBytes } from 'node:crypto';
import { type Clock, systemClock } from '../runtime/clock.ts';
import type { JwtAuthority } from '../spiffe/bundle.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { TrustDomain } from '../spiffe/id.ts';
import { composeWitProof, validateWitProof, type RememberedProof } from '../spiffe/wit-proof.ts';
import type { KnownWit, KnownWits, WitStatement, WitSvid } from '../spiffe/wit-svid.ts';
import { type Authorize, requireAuthorized } from './authorize.ts';
import type { WitBundleSource } from './bundle-set.ts';

/** Of one request. Only the proof is in `authorization`, never the WIT-SVID [WIT-SVID 5]. */
export type WitHeaders = { readonly 'workload-identity-token': string; readonly authorization: string };

/** What a proof is made with. */
export interface WitHeadersOptions {
  /** For how long the proof is good; 30 unless given. As short as works, and clocks differ. */
  readonly lifeSeconds?: number;
  /** The transaction token that the request carries besides, in `Txn-Token`; the proof then covers it. */
  readonly transactionToken?: string;
  /** Epoch milliseconds; now unless given. */
  readonly at?: number;
}

/**
 * What one request to this target presents: the WIT-SVID, and a new proof. Not to be used for a second request.
 * @param target its URL; `https:` alone, since whoever sees both may use them at that target for as long as the proof is good
 * @throws invalid `wit-request.target`, `wit-proof.draft`; unauthenticated `wit-svid.expired`
 * @example
 * await fetch(url, { headers: witHeaders(svid, url) });
 */
export function witHeaders(svid: WitSvid, target: string | URL, options: WitHeadersOptions = {}): WitHeaders {
  const { transactionToken, lifeSeconds, at = systemClock.now() } = options;
  const proof = composeWitProof({
    svid,
    audience: audienceOf(target),
    at,
    jti: randomBytes(16).toString('base64url'),
    transactionToken,
    ...(lifeSeconds !== undefined && { lifeSeconds }),
  });
  return { 'workload-identity-token': svid.token, authorization: `WPT ${proof}` };
}

/** What is needed of a request: those of `node:http`, `node:http2`, Express and Fastify's `raw`, or one of the Fetch API. */
export type WitHttpRequest =
  | { readonly rawHeaders: readonly string[]; readonly url?: string | undefined; readonly originalUrl?: string | undefined }
  | { readonly headers: { get(name: string): string | null }; readonly url: string };

/** What requests are held to. */
export interface WitVerifierOptions {
  /** Who may call. */
  readonly authorize: Authorize;
  /** A `WitSource` or a set of bundles. */
  readonly bundles: WitBundleSource;
  /**
   * What this service goes by, such as `https://orders.example.org`: a proof is good for this with the path of the request
   * behind it. Of its own knowledge, never from the request's Host [WIMSE WPT 3].
   */
  readonly origin: string | readonly string[];
  readonly clock?: Clock;
  /** How far clocks may differ; 60 unless given. */
  readonly leewaySeconds?: number;
  /** Refuse WIT-SVIDs that say `nbf` and are good for longer. */
  readonly longestLifeSeconds?: number;
  /** Refuse proofs that are good for longer; 300 unless given. */
  readonly longestProofSeconds?: number;
  /**
   * How many proofs are remembered, so that none counts twice; 100,000 unless given. 0 remembers none: each then counts until
   * it ends.
   */
  readonly remembered?: number;
}

/** Decides who makes a request. */
export interface WitVerifier {
  /**
   * Who makes this request.
   * @throws invalid `wit-request.header`, `wit-svid.*`, `jws.*`; unauthenticated `wit-request.missing`, `wit-svid.*`,
   *   `wit-proof.*`; denied `source.peer.refused` or what `authorize` threw; limited `wit-request.remembered` when there are more
   *   proofs than may be remembered
   */
  verify(request: WitHttpRequest): WitStatement;
}

/**
 * Verifies requests by WIT-SVID and proof of possession. One for the whole service: it remembers which proofs were used.
 * @throws invalid `wit-request.origin`
 * @example
 * const origin = 'https://orders.example.org';
 * const verifier = createWitVerifier({ bundles: source, origin, authorize: authorizeMemberOf(own) });
 * const { spiffeId } = verifier.verify(request);
 */
export function createWitVerifier(options: WitVerifierOptions): WitVerifier {
  const { authorize, bundles, longestLifeSeconds, longestProofSeconds } = options;
  const { clock = systemClock, leewaySeconds = 60, remembered = 100_000 } = options;
  const origins = [options.origin].flat().map(originOf);
  if (origins.length === 0) throw originFault();
  const known = createKnownWits();
  const remember = remembered === 0 ? undefined : createProofMemory(remembered, clock);
  return {
    verify(request) {
      const { token, proof, transactionToken } = presentedBy(request);
      const path = pathOf(request);
      const statement = validateWitProof(
        { token, proof, transactionToken },
        {
          bundleFor: (trustDomain) => bundleOf(bundles, trustDomain),
          audience: origins.map((origin) => origin + path),
          at: clock.now(),
          leewaySeconds,
          ...(longestLifeSeconds !== undefined && { longestLifeSeconds }),
          ...(longestProofSeconds !== undefined && { longestProofSeconds }),
          known,
          ...(remember !== undefined && { remember }),
        },
      );
      requireAuthorized(authorize, statement.spiffeId);
      return statement;
    },
  };
}

/** How to answer a request that `verify` refused: 400 for a WIT-SVID that does not hold, 401 for its proof, 403 for who it is. */
export function witRefusal(error: unknown): { readonly status: number; readonly headers: Readonly<Record<string, string>> } {
  if (!(error instanceof SpiffeError)) return { status: 500, headers: {} };
  if (error.kind === 'denied') return { status: 403, headers: {} };
  if (error.kind === 'limited') return { status: 503, headers: {} };
  const isProof = error.reason.startsWith('wit-proof.') || error.reason === 'wit-request.missing';
  return isProof ? { status: 401, headers: { 'www-authenticate': 'WPT' } } : { status: 400, headers: {} };
}

/** The newest, as many as callers of one service are likely to be at once. */
const mostKnown = 1_000;

function createKnownWits(): KnownWits {
  const known = new Map<string, KnownWit>();
  return {
    get: (token) => known.get(token),
    set(token, wit) {
      known.delete(token);
      known.set(token, wit);
      for (const oldest of known.keys()) {
        if (known.size <= mostKnown) break;
        known.delete(oldest);
      }
    },
  };
}

function createProofMemory(capacity: number, clock: Clock): (proof: RememberedProof) => boolean {
  const known = new Map<string, number>();
  let firstEndAt = 0;
  const forget = (at: number): void => {
    firstEndAt = Number.POSITIVE_INFINITY;
    for (const [key, until] of known) {
      if (until <= at) known.delete(key);
      else firstEndAt = Math.min(firstEndAt, until);
    }
  };
  return ({ key, until }) => {
    const at = clock.now();
    if (known.has(key) && (known.get(key) ?? 0) > at) return false;
    if (known.size >= capacity && firstEndAt <= at) forget(at);
    // Forgetting one that could still be used would let it count twice.
    if (known.size >= capacity) {
      throw new SpiffeError('limited', 'wit-request.remembered', 'too many proofs are still to be remembered');
    }
    known.set(key, until);
    firstEndAt = Math.min(firstEndAt, until);
    return true;
  };
}

interface Presented {
  readonly token: string;
  readonly proof: string;
  readonly transactionToken: string | undefined;
}

/** @throws invalid `wit-request.header`, unauthenticated `wit-request.missing` */
function presentedBy(request: WitHttpRequest): Presented {
  const tokens = fieldsOf(request, 'workload-identity-token');
  const authorizations = fieldsOf(request, 'authorization');
  const transactions = fieldsOf(request, 'txn-token');
  if (tokens.length > 1 || authorizations.length > 1 || transactions.length > 1) {
    throw new SpiffeError('invalid', 'wit-request.header', 'a header that counts once is there twice');
  }
  const [token] = tokens;
  // Schemes are told apart without regard to case [RFC 9110 11.1].
  const proof = /^WPT +(\S+)$/i.exec(authorizations[0] ?? '')?.[1];
  if (token === undefined || proof === undefined) {
    throw new SpiffeError('unauthenticated', 'wit-request.missing', 'request has no WIT-SVID with proof of possession');
  }
  return { token, proof, transactionToken: transactions[0] };
}

function fieldsOf(request: WitHttpRequest, name: string): readonly string[] {
  if (!('rawHeaders' in request)) {
    // Several are joined by commas, which neither a token nor a proof has.
    const value = request.headers.get(name);
    return value === null ? [] : [value];
  }
  const { rawHeaders } = request;
  return rawHeaders.filter((_, index) => index % 2 === 1 && rawHeaders[index - 1]?.toLowerCase() === name);
}

/** As it was sent, before any router cut it. */
function pathOf(request: WitHttpRequest): string {
  const url = ('originalUrl' in request ? request.originalUrl : undefined) ?? request.url ?? '';
  const path = /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i.test(url) ? url.replace(/^[^:]*:\/\/[^/?#]*/, '') : url;
  const end = path.search(/[?#]/);
  const bare = end < 0 ? path : path.slice(0, end);
  return bare === '' ? '/' : bare;
}

/** @throws invalid `wit-request.target` */
function audienceOf(target: string | URL): string {
  const url = URL.canParse(String(target)) ? new URL(target) : undefined;
  if (url?.protocol !== 'https:') {
    throw new SpiffeError('invalid', 'wit-request.target', 'WIT-SVIDs are presented to https: alone');
  }
  return url.origin + url.pathname;
}

/** @throws invalid `wit-request.origin` */
function originOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== 'https:' || url.pathname !== '/' || url.search !== '' || url.hash !== '') throw originFault();
  return url.origin;
}

function originFault(): SpiffeError {
  const message = 'say what this service goes by: https: with a host and nothing behind it';
  return new SpiffeError('invalid', 'wit-request.origin', message);
}

function bundleOf(
  bundles: WitBundleSource,
  trustDomain: TrustDomain,
): { readonly trustDomain: TrustDomain; readonly witAuthorities: readonly JwtAuthority[] } | undefined {
  const witAuthorities = bundles.witBundleFor(trustDomain);
  return witAuthorities === undefined ? undefined : { trustDomain, witAuthorities };
}
