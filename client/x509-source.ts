/**
 * `X509Source`: the current X509-SVID and bundles of this workload, kept fresh. TLS ends that follow them are `tls.ts` and
 * `tls-server.ts`.
 */
import type { Clock } from '../runtime/clock.ts';
import type { TlsIdentity } from '../runtime/tls.ts';
import { createWatch, type Watch } from '../runtime/watch.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { TrustDomain } from '../spiffe/id.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';
import type { X509BundleSource } from './bundle-set.ts';
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
import type { X509Context } from './messages.ts';

/** How an `X509Source` is opened, and which identity it presents. */
export interface X509SourceOptions extends SourceOptions {
  /**
   * Which of several identities to present; the first, which is the default, unless given. An update without it, or for which
   * it throws, is refused.
   */
  readonly pick?: (svids: readonly X509Svid[]) => X509Svid | undefined;
}

/** What is presented and trusted when the agent grants nothing. */
const nothing: X509Context = Object.freeze({ svids: Object.freeze([]), bundles: new Map() });

/**
 * Ready once `open` resolved; keeps the last good update when the agent is away or sends what cannot be used, and lets go of
 * it only when the agent said for long enough that nothing is granted. To be closed, or held by `await using`.
 */
export class X509Source implements AsyncDisposable, X509BundleSource {
  /** Judges validity, and paces what is retried. */
  readonly clock: Clock;
  readonly #parts: SourceParts;
  readonly #following: Following;
  readonly #context = createWatch(nothing);
  readonly #identity = createWatch(identityOf(nothing, undefined));

  private constructor(parts: SourceParts, pick: X509SourceOptions['pick']) {
    this.#parts = parts;
    this.clock = parts.clock;
    this.#following = follow(parts, {
      watch: (signal, options) => parts.api.watchX509Context(signal, options),
      accept: (context) => this.#set(context, pickFrom(context.svids, pick)),
      withdraw: () => this.#set(nothing, undefined),
      ended: (error) => {
        this.#context.close(error);
        // TLS ends go on with what they have.
        this.#identity.close();
      },
    });
  }

  /**
   * Waits for the first update that can be used.
   * @throws as `WorkloadApi.watchX509Context`; unavailable `source.aborted` when the signal aborts first, with what it failed
   *   on as its cause
   */
  static async open(options: X509SourceOptions = {}): Promise<X509Source> {
    const parts = prepareSource(options);
    const source = new X509Source(parts, options.pick);
    await untilReady(parts, [source.#following], options.signal);
    return source;
  }

  /**
   * The identity presented now.
   * @throws denied `source.withdrawn` when the agent took it back, unavailable `source.closed`
   */
  get svid(): X509Svid {
    requireOpen(this.#parts);
    const { svid } = this.#identity.value;
    if (svid === undefined) {
      throw new SpiffeError('denied', 'source.withdrawn', 'the agent grants this workload no identity any more');
    }
    return svid;
  }

  /** What TLS ends made of this source present and trust, now and after each update; nothing after a withdrawal. */
  get identity(): Watch<TlsIdentity> {
    return this.#identity;
  }

  /** All identities, bundles, and each newer update; without an identity only after a withdrawal. */
  get context(): Watch<X509Context> {
    return this.#context;
  }

  /** @throws unavailable `source.closed` */
  x509BundleFor(trustDomain: TrustDomain): readonly Uint8Array[] | undefined {
    requireOpen(this.#parts);
    return this.#context.value.bundles.get(trustDomain);
  }

  /** Ends the watch. What TLS ends hold stays until they are closed. */
  close(): Promise<void> {
    return closeSource(this.#parts, [this.#following]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #set(context: X509Context, svid: X509Svid | undefined): void {
    this.#identity.set(identityOf(context, svid));
    this.#context.set(context);
  }
}

function identityOf(context: X509Context, svid: X509Svid | undefined): TlsIdentity {
  const bundles = new Map(
    [...context.bundles].map(([trustDomain, authorities]) => [
      trustDomain,
      { x509Authorities: authorities.map((certificate) => ({ certificate, tainted: false })) },
    ]),
  );
  return { svid, bundles };
}
