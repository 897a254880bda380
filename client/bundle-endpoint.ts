/**
 * Bundle endpoints for programs without an agent, or beside one: fetched once, watched by their publishers' hints, and
 * served from a program's own HTTPS server. How one fetch is made and bounded is `runtime/http-bundle.ts`.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type Clock, systemClock } from '../runtime/clock.ts';
import { checkEndpointUrl, type EndpointProfile, fetchBundle as fetchOnce } from '../runtime/http-bundle.ts';
import { answerWithDocument, type DocumentRefusal, type HttpDocument, jsonDocument } from '../runtime/http-document.ts';
import { type Bundle, bundleContentEquals } from '../spiffe/bundle.ts';
import { formatBundleDocument } from '../spiffe/bundle-document.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/id.ts';
import { trustDomainOf } from '../spiffe/id.ts';
import type { X509BundleSource } from './bundle-set.ts';
import { publishDiagnostic } from './workload-api.ts';

/** Where a trust domain publishes its bundle. All three are configured; none follows from another [Federation 5.1]. */
export interface BundleEndpoint {
  /** `https`, without user information. */
  readonly url: string;
  /** Whose bundle it is. */
  readonly trustDomain: TrustDomain;
  /** By what the server is proved; `https_web` and the machine's roots unless given. */
  readonly profile?: BundleEndpointProfile;
}

/** How a bundle endpoint is proved [Federation 5.2]. */
export type BundleEndpointProfile =
  | {
      /** The URL's host, by authorities of the web. */
      readonly type: 'https_web';
      /** PEM; the machine's roots when absent. */
      readonly ca?: string;
    }
  | {
      /** An X509-SVID of exactly this ID, whatever the host is called. */
      readonly type: 'https_spiffe';
      readonly endpointId: SpiffeId;
      /** Knows the ID's own trust domain: such as a `BundleSource`, or a set with a bundle from elsewhere for the first time. */
      readonly bundles: X509BundleSource;
    };

/** Bounds of one fetch. */
export interface FetchBundleOptions {
  readonly clock?: Clock;
  readonly signal?: AbortSignal;
  /** For one fetch with all its redirects; 15 s unless given. */
  readonly deadlineMs?: number;
  /** Of the document; 2 MiB unless given. */
  readonly maxBytes?: number;
  /**
   * Which addresses may be connected to, asked after names were resolved, for redirects too; all unless given. For programs
   * that fetch from where others say.
   */
  readonly mayConnect?: (address: string) => boolean;
}

/**
 * The bundle as its endpoint tells it now. Asked once; five redirects are followed, each by the same rules.
 * @throws invalid `bundle-endpoint.url`, `bundle-fetch.*`, `bundle-document.*`, `json.*`, `jwk.*`; denied, limited,
 *   unauthenticated, unavailable or unsupported `bundle-fetch.*`; the signal's reason
 */
export async function fetchBundle(endpoint: BundleEndpoint, options: FetchBundleOptions = {}): Promise<Bundle> {
  const { url, trustDomain, profile = { type: 'https_web' } } = endpoint;
  return fetchOnce({ clock: systemClock, ...options, url, trustDomain, profile: fetchProfile(profile) });
}

/** Bounds of each fetch, and when the next one is due. */
export interface WatchBundleOptions extends Omit<FetchBundleOptions, 'signal'> {
  /** Told why a fetch failed; what was fetched before stays in force. It must not throw. */
  readonly onError?: (error: SpiffeError) => void;
  /** How long until the next fetch, after failed ones too; the publisher's hint, within a minute and a day, unless given. */
  readonly refreshAfterMs?: (latest: Bundle | undefined) => number;
  /** In [0, 1); spreads the fetches of many. */
  readonly random?: () => number;
}

const standardHintMs = 300_000;
const shortestMs = 60_000;
const longestMs = 86_400_000;

/**
 * Yields the bundle, then each that differs from the last, until the signal aborts. A failed fetch is followed by the next
 * at its time and not sooner [Federation 6.2]. An endpoint that is of the trust domain it serves is proved by the newest
 * bundle from the second fetch on [Federation 5.2.2.4].
 * @throws invalid `bundle-endpoint.url`
 */
export async function* watchBundle(
  endpoint: BundleEndpoint,
  signal: AbortSignal,
  options: WatchBundleOptions = {},
): AsyncIterableIterator<Bundle> {
  const { onError, refreshAfterMs = refreshAfter, random = Math.random, ...fetching } = options;
  const clock = options.clock ?? systemClock;
  checkEndpointUrl(endpoint.url);
  let latest: Bundle | undefined;
  const following: BundleEndpoint = { ...endpoint, ...selfServed(endpoint, () => latest) };
  while (!signal.aborted) {
    try {
      const fetched = await fetchBundle(following, { ...fetching, clock, signal });
      if (latest !== undefined) requireNewer(fetched, latest);
      const isNews = latest === undefined || !bundleContentEquals(latest, fetched);
      latest = fetched;
      if (isNews) yield fetched;
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof SpiffeError)) throw error;
      publishDiagnostic({ event: 'fetch-failed', error });
      onError?.(error);
    }
    // Up to a tenth earlier, so that those who began together spread.
    await clock.sleep(refreshAfterMs(latest) * (1 - 0.1 * random()), signal).catch(() => undefined);
  }
}

/** What `bundleHandler` serves. */
export interface BundleHandlerOptions {
  /** What to serve now; `undefined` is answered with 503. Ask a `BundleSource`, or keep it in a variable. */
  readonly bundle: () => Bundle | undefined;
  /** When others are to look again, in place of the bundle's own hint. */
  readonly refreshHintSeconds?: number;
}

/**
 * Serves a bundle on `node:https`, `node:http` behind a proxy, Express and their like, at whatever path it is mounted; GET
 * and HEAD, with validators. A bundle endpoint asks nobody who they are, so it goes before what does.
 */
export function bundleHandler(options: BundleHandlerOptions): (request: IncomingMessage, response: ServerResponse) => void {
  let made: { readonly of: Bundle; readonly document: HttpDocument } | undefined;
  const find = (): HttpDocument | DocumentRefusal => {
    const bundle = options.bundle();
    if (bundle === undefined) return { status: 503, message: 'there is no bundle yet' };
    if (made?.of !== bundle) {
      const refreshHintSeconds = options.refreshHintSeconds ?? bundle.refreshHintSeconds;
      const hintSeconds = refreshHintSeconds === 0 ? standardHintMs / 1000 : refreshHintSeconds;
      const text = formatBundleDocument({ ...bundle, refreshHintSeconds });
      made = { of: bundle, document: jsonDocument(text, { maxAgeSeconds: Math.floor(hintSeconds / 5) }) };
    }
    return made.document;
  };
  return (request, response) => void answerWithDocument(request, response, find);
}

function fetchProfile(profile: BundleEndpointProfile): EndpointProfile {
  if (profile.type === 'https_web') return profile;
  const { endpointId, bundles } = profile;
  return {
    type: 'https_spiffe',
    endpointId,
    bundle() {
      const certificates = bundles.x509BundleFor(trustDomainOf(endpointId));
      return certificates && { x509Authorities: certificates.map((certificate) => ({ certificate, tainted: false })) };
    },
  };
}

/** The same endpoint, proved by what it last served where that is what proves it (FED-22). */
function selfServed({ trustDomain, profile }: BundleEndpoint, latest: () => Bundle | undefined): Pick<BundleEndpoint, 'profile'> {
  if (profile?.type !== 'https_spiffe' || trustDomainOf(profile.endpointId) !== trustDomain) return {};
  const x509BundleFor: X509BundleSource['x509BundleFor'] = (name) =>
    latest()?.x509Authorities.map(({ certificate }) => certificate) ?? profile.bundles.x509BundleFor(name);
  return { profile: { ...profile, bundles: { x509BundleFor } } };
}

/** An older bundle than the one in force comes from a cache, or from somebody who wants a revoked key back (FED-05). */
function requireNewer(fetched: Bundle, latest: Bundle): void {
  if (fetched.sequence === 0n || fetched.sequence >= latest.sequence) return;
  throw new SpiffeError('conflict', 'bundle-endpoint.sequence-behind', 'the endpoint serves an older bundle than before', {
    detail: { held: String(latest.sequence), served: String(fetched.sequence) },
  });
}

function refreshAfter(latest: Bundle | undefined): number {
  if (latest === undefined) return shortestMs;
  const hintMs = latest.refreshHintSeconds === 0 ? standardHintMs : latest.refreshHintSeconds * 1000;
  return Math.min(longestMs, Math.max(shortestMs, hintMs));
}
