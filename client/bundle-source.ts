/**
 * `BundleSource`: who may sign for whom, X.509 and JWT authorities of every trust domain that the agent tells of, kept fresh.
 * Own identities are `x509-source.ts` and `jwt-source.ts`.
 */
import type { Clock } from '../runtime/clock.ts';
import { createWatch, type Watch } from '../runtime/watch.ts';
import { type Bundle, bundleContentEquals, composeBundle, emptyBundle, type JwtAuthority } from '../spiffe/bundle.ts';
import type { TrustDomain } from '../spiffe/id.ts';
import { type JwtBundleSource, x509AuthoritiesOf, type X509BundleSource } from './bundle-set.ts';
import {
  closeSource,
  follow,
  type Following,
  prepareSource,
  requireOpen,
  type SourceOptions,
  type SourceParts,
  untilReady,
} from './follow.ts';
import type { JwtBundles, X509Bundles } from './messages.ts';

/**
 * Ready once `open` resolved, which takes an answer for X.509 and one for JWT; keeps the last good ones as `X509Source` does.
 * To be closed, or held by `await using`.
 */
export class BundleSource implements AsyncDisposable, X509BundleSource, JwtBundleSource {
  /** Paces what is retried. */
  readonly clock: Clock;
  readonly #parts: SourceParts;
  readonly #following: readonly Following[];
  readonly #bundles = createWatch<ReadonlyMap<TrustDomain, Bundle>>(new Map());
  #x509: X509Bundles = new Map();
  #jwt: JwtBundles = new Map();

  private constructor(parts: SourceParts) {
    this.#parts = parts;
    this.clock = parts.clock;
    this.#following = [
      follow(parts, {
        watch: (signal, options) => parts.api.watchX509Bundles(signal, options),
        accept: (bundles) => this.#set(bundles, this.#jwt),
        withdraw: () => this.#set(new Map(), this.#jwt),
        ended: (error) => this.#bundles.close(error),
      }),
      follow(parts, {
        watch: (signal, options) => parts.api.watchJwtBundles(signal, options),
        accept: (bundles) => this.#set(this.#x509, bundles),
        withdraw: () => this.#set(this.#x509, new Map()),
        ended: (error) => this.#bundles.close(error),
      }),
    ];
  }

  /**
   * Waits for the first bundles.
   * @throws as `X509Source.open`
   */
  static async open(options: SourceOptions = {}): Promise<BundleSource> {
    const parts = prepareSource(options);
    const source = new BundleSource(parts);
    await untilReady(parts, source.#following, options.signal);
    return source;
  }

  /** All bundles, now and after each update. A bundle that did not change stays the same object. */
  get bundles(): Watch<ReadonlyMap<TrustDomain, Bundle>> {
    return this.#bundles;
  }

  /** @throws unavailable `source.closed` */
  bundleFor(trustDomain: TrustDomain): Bundle | undefined {
    requireOpen(this.#parts);
    return this.#bundles.value.get(trustDomain);
  }

  /** @throws unavailable `source.closed` */
  x509BundleFor(trustDomain: TrustDomain): readonly Uint8Array[] | undefined {
    // A trust domain whose JWT authorities alone are told has no X.509 bundle, which is not the same as an empty one.
    return this.#x509.has(trustDomain) ? x509AuthoritiesOf(this.bundleFor(trustDomain)) : undefinedWhenOpen(this.#parts);
  }

  /** @throws unavailable `source.closed` */
  jwtBundleFor(trustDomain: TrustDomain): readonly JwtAuthority[] | undefined {
    return this.#jwt.has(trustDomain) ? this.bundleFor(trustDomain)?.jwtAuthorities : undefinedWhenOpen(this.#parts);
  }

  /** Ends the watches. */
  close(): Promise<void> {
    return closeSource(this.#parts, this.#following);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #set(x509: X509Bundles, jwt: JwtBundles): void {
    const held = this.#bundles.value;
    const names = new Set([...x509.keys(), ...jwt.keys()]);
    const next = new Map(
      [...names].map((name) => [name, bundleOf(name, x509.get(name) ?? [], jwt.get(name) ?? [], held.get(name))]),
    );
    this.#x509 = x509;
    this.#jwt = jwt;
    this.#bundles.set(next);
  }
}

function bundleOf(
  trustDomain: TrustDomain,
  certificates: readonly Uint8Array[],
  jwtAuthorities: readonly JwtAuthority[],
  held: Bundle | undefined,
): Bundle {
  const x509Authorities = certificates.map((certificate) => ({ certificate, tainted: false }));
  const next = composeBundle({ ...emptyBundle(trustDomain), x509Authorities, jwtAuthorities });
  // The verifier keeps what it read of a bundle as long as it is the same one.
  return held !== undefined && bundleContentEquals(held, next) ? held : next;
}

function undefinedWhenOpen(parts: SourceParts): undefined {
  requireOpen(parts);
  return undefined;
}
