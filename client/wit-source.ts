/**
 * `WitSource`: the current WIT-SVID of this workload with its key, and the bundles by which those of others are checked, kept
 * fresh. How one is presented and verified is `wit-request.ts`; the profile is incubating, and off at most agents.
 */
import type { Clock } from '../runtime/clock.ts';
import { createWatch, type Watch } from '../runtime/watch.ts';
import type { JwtAuthority } from '../spiffe/bundle.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/id.ts';
import type { WitSvid } from '../spiffe/wit-svid.ts';
import type { WitBundleSource } from './bundle-set.ts';
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
import type { WitBundles } from './messages.ts';
import { witHeaders, type WitHeaders, type WitHeadersOptions } from './wit-request.ts';

/** How a `WitSource` is opened, and which identity it presents. */
export interface WitSourceOptions extends SourceOptions {
  /** One of the workload's identities alone; all of them when absent. */
  readonly spiffeId?: SpiffeId;
  /** Which of several identities to present; the first, which is the default, unless given. An update without it is refused. */
  readonly pick?: (svids: readonly WitSvid[]) => WitSvid | undefined;
}

/**
 * Ready once `open` resolved, which takes WIT-SVIDs and bundles; keeps the last good ones as `X509Source` does. To be closed,
 * or held by `await using`.
 */
export class WitSource implements AsyncDisposable, WitBundleSource {
  /** Judges validity, and paces what is retried. */
  readonly clock: Clock;
  readonly #parts: SourceParts;
  readonly #following: readonly Following[];
  readonly #svids = createWatch<readonly WitSvid[]>([]);
  readonly #bundles = createWatch<WitBundles>(new Map());
  #svid: WitSvid | undefined;

  private constructor(parts: SourceParts, { pick, spiffeId }: WitSourceOptions) {
    this.#parts = parts;
    this.clock = parts.clock;
    const request = spiffeId === undefined ? {} : { spiffeId };
    this.#following = [
      follow(parts, {
        watch: (signal, options) => parts.api.watchWitSvids(signal, { ...options, ...request }),
        accept: (svids) => this.#set(svids, pickFrom(svids, pick)),
        withdraw: () => this.#set([], undefined),
        ended: (error) => this.#svids.close(error),
      }),
      follow(parts, {
        watch: (signal, options) => parts.api.watchWitBundles(signal, options),
        accept: (bundles) => this.#bundles.set(bundles),
        withdraw: () => this.#bundles.set(new Map()),
        ended: (error) => this.#bundles.close(error),
      }),
    ];
  }

  /**
   * Waits for the first update that can be used.
   * @throws as `X509Source.open`; unsupported `workload.wit` where the agent serves no WIT-SVIDs
   */
  static async open(options: WitSourceOptions = {}): Promise<WitSource> {
    const parts = prepareSource(options);
    const source = new WitSource(parts, options);
    await untilReady(parts, source.#following, options.signal);
    return source;
  }

  /**
   * The identity presented now. Its token is worth nothing without a proof: `headers` makes both.
   * @throws denied `source.withdrawn` when the agent took it back, unavailable `source.closed`
   */
  get svid(): WitSvid {
    requireOpen(this.#parts);
    if (this.#svid === undefined) {
      throw new SpiffeError('denied', 'source.withdrawn', 'the agent grants this workload no identity any more');
    }
    return this.#svid;
  }

  /** All identities, now and after each update; none after a withdrawal. */
  get svids(): Watch<readonly WitSvid[]> {
    return this.#svids;
  }

  /** WIT authorities by trust domain, now and after each update. */
  get bundles(): Watch<WitBundles> {
    return this.#bundles;
  }

  /**
   * What one request to this target presents: the WIT-SVID, and a new proof that is good for this target and half a minute.
   * @throws as `svid` and `witHeaders`
   * @example
   * await fetch(url, { headers: source.headers(url) });
   */
  headers(target: string | URL, options: Omit<WitHeadersOptions, 'at'> = {}): WitHeaders {
    return witHeaders(this.svid, target, { ...options, at: this.clock.now() });
  }

  /** @throws unavailable `source.closed` */
  witBundleFor(trustDomain: TrustDomain): readonly JwtAuthority[] | undefined {
    requireOpen(this.#parts);
    return this.#bundles.value.get(trustDomain);
  }

  /** Ends the watches. */
  close(): Promise<void> {
    return closeSource(this.#parts, this.#following);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #set(svids: readonly WitSvid[], svid: WitSvid | undefined): void {
    this.#svid = svid;
    this.#svids.set(svids);
  }
}
