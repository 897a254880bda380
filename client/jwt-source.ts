/**
 * `JwtSource`: tokens to show to others, kept and renewed, and the bundles by which the tokens of others are checked here.
 * How tokens are kept is `tokens.ts`; the Workload API is `workload-api.ts`.
 */
import type { Clock } from '../runtime/clock.ts';
import { createWatch, type Watch } from '../runtime/watch.ts';
import type { JwtAuthority } from '../spiffe/bundle.ts';
import type { TrustDomain } from '../spiffe/id.ts';
import type { JwtSvid, JwtSvidStatement } from '../spiffe/jwt-svid.ts';
import type { JwtBundleSource } from './bundle-set.ts';
import {
  closeSource,
  follow,
  type Following,
  pickFrom,
  prepareSource,
  requireOpen,
  type SourceOptions,
  type SourceParts,
  untilReady,
} from './follow.ts';
import { validateJwtSvid } from './jwt-svid.ts';
import type { JwtBundles } from './messages.ts';
import { createTokenCache, type TokenCache } from './tokens.ts';
import { type JwtRequest, publishDiagnostic } from './workload-api.ts';

/** How a `JwtSource` is opened, and which tokens it gives. */
export interface JwtSourceOptions extends SourceOptions {
  /** Which of several identities' tokens `fetchJwtSvid` gives; the first, which is the default, unless given. */
  readonly pick?: (svids: readonly JwtSvid[]) => JwtSvid | undefined;
  /** In [0, 1); spreads renewals that failed. */
  readonly random?: () => number;
  /** How many different requests tokens are kept for; 1,000 unless given. */
  readonly capacity?: number;
}

/**
 * Ready once `open` resolved, which takes JWT bundles; tokens are asked for when they are needed. Bundles are kept as
 * `X509Source` does, tokens until they end or the agent denied them for long enough. To be closed, or held by `await using`.
 */
export class JwtSource implements AsyncDisposable, JwtBundleSource {
  /** Judges validity, and paces what is retried. */
  readonly clock: Clock;
  readonly #parts: SourceParts;
  readonly #following: Following;
  readonly #bundles = createWatch<JwtBundles>(new Map());
  readonly #tokens: TokenCache;
  readonly #pick: JwtSourceOptions['pick'];

  private constructor(parts: SourceParts, options: JwtSourceOptions) {
    this.#parts = parts;
    this.#pick = options.pick;
    this.clock = parts.clock;
    this.#tokens = createTokenCache({
      clock: parts.clock,
      random: options.random ?? Math.random,
      withdrawAfterMs: parts.withdrawAfterMs,
      capacity: options.capacity ?? 1_000,
      fetch: (request) => parts.api.fetchJwtSvids(request, { signal: parts.stop.signal }),
      renewalFailed: (error) => publishDiagnostic({ event: 'renewal-failed', error }),
    });
    this.#following = follow(parts, {
      watch: (signal, watchOptions) => parts.api.watchJwtBundles(signal, watchOptions),
      accept: (bundles) => this.#bundles.set(bundles),
      withdraw: () => this.#bundles.set(new Map()),
      ended: (error) => this.#bundles.close(error),
    });
  }

  /**
   * Waits for the first bundles.
   * @throws as `X509Source.open`
   */
  static async open(options: JwtSourceOptions = {}): Promise<JwtSource> {
    const parts = prepareSource(options);
    const source = new JwtSource(parts, options);
    await untilReady(parts, [source.#following], options.signal);
    return source;
  }

  /**
   * A token of the identity that is picked: at once while a good one is kept, which is renewed behind the scenes from half of
   * its life on.
   * @throws as `WorkloadApi.fetchJwtSvids` when none is kept; missing `source.pick`, unavailable `source.closed|token.expired`,
   *   the signal's reason
   */
  async fetchJwtSvid(request: JwtRequest, options: { readonly signal?: AbortSignal } = {}): Promise<JwtSvid> {
    return pickFrom(await this.fetchJwtSvids(request, options), this.#pick);
  }

  /** As `fetchJwtSvid`, a token of each identity. */
  async fetchJwtSvids(request: JwtRequest, options: { readonly signal?: AbortSignal } = {}): Promise<readonly JwtSvid[]> {
    requireOpen(this.#parts);
    return this.#tokens.get(request, options.signal);
  }

  /**
   * Checks here, without asking the agent, a token that somebody presented.
   * @throws as `validateJwtSvid`; unavailable `source.closed`
   */
  validate(token: string, audience: string | readonly string[]): JwtSvidStatement {
    requireOpen(this.#parts);
    return validateJwtSvid(token, { audience, bundles: this, at: this.clock.now() });
  }

  /** JWT authorities by trust domain, now and after each update. */
  get bundles(): Watch<JwtBundles> {
    return this.#bundles;
  }

  /** @throws unavailable `source.closed` */
  jwtBundleFor(trustDomain: TrustDomain): readonly JwtAuthority[] | undefined {
    requireOpen(this.#parts);
    return this.#bundles.value.get(trustDomain);
  }

  /** Ends the watch, and what is being asked for. */
  close(): Promise<void> {
    return closeSource(this.#parts, [this.#following]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
