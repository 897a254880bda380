/**
 * One fetch of a bundle endpoint: GET over proved TLS, redirects followed by the same rules, every bound held, the
 * document read. When to fetch, and what becomes of the bundle, are left to federation and to the library.
 */
import { request } from 'node:http';
import type { IncomingMessage } from 'node:http';
import type { TLSSocket } from 'node:tls';
import { bundleDocumentLimits, parseBundleDocument } from '../spiffe/bundle-document.ts';
import type { Bundle } from '../spiffe/bundle.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { TrustDomain } from '../spiffe/id.ts';
import { linkedController, untilAborted } from './abort.ts';
import type { Clock } from './clock.ts';
import { readBody } from './http-body.ts';
import { dial } from './http-dial.ts';
import type { Dial, EndpointProfile } from './http-dial.ts';

export type { EndpointProfile } from './http-dial.ts';

export interface BundleFetch {
  /** As configured; where it redirects to is forgotten with the answer [Federation 5.2.1.4]. */
  readonly url: string;
  /** Whose bundle it is, which nothing in the answer says [Federation 5.1]. */
  readonly trustDomain: TrustDomain;
  readonly profile: EndpointProfile;
  readonly clock: Clock;
  readonly signal?: AbortSignal;
  /**
   * Which addresses may be connected to, all unless given; asked for every redirect too, after its name was resolved.
   * IPv6 comes in its short form, and an IPv4 address wrapped in it as the IPv4 one.
   */
  readonly mayConnect?: (address: string) => boolean;
  /** For everything together, redirects included; 15 s unless given. */
  readonly deadlineMs?: number;
  /** Of the document, 2 MiB unless given. */
  readonly maxBytes?: number;
  /** A host's addresses; the machine's resolver unless given. */
  readonly resolve?: (host: string) => Promise<readonly string[]>;
}

const defaultDeadlineMs = 15_000;
const maxRedirects = 5;
const maxHeadBytes = 16_384;
const maxUrlLength = 2048;
const redirects: ReadonlySet<number | undefined> = new Set([301, 302, 303, 307, 308]);

/**
 * The URL of a bundle endpoint: `https`, with a host, without user information; port, path and query are free (FED-12).
 * @throws invalid `bundle-endpoint.url`
 */
export function checkEndpointUrl(text: string): URL {
  const refuse = (why: string): SpiffeError =>
    new SpiffeError('invalid', 'bundle-endpoint.url', `not the URL of a bundle endpoint: ${why}`);
  if (text.length > maxUrlLength) throw refuse(`longer than ${maxUrlLength} characters`);
  if (!URL.canParse(text)) throw refuse('it is no URL');
  const url = new URL(text);
  if (url.protocol !== 'https:') throw refuse('its scheme is not https');
  if (url.username !== '' || url.password !== '') throw refuse('it holds user information');
  // The parser forgives much, an empty user among it; what it reads must be what others read.
  if (!/^https:\/\/[^\s/?#\\@%]+(?:[/?#]|$)/i.test(text)) throw refuse('it does not begin with https:// and a host');
  return url;
}

/**
 * The newest bundle of the trust domain, as its endpoint tells it. Asked once: after a failure it is the caller's to
 * wait for the next time [Federation 6.2].
 * @throws invalid `bundle-endpoint.url`, `bundle-fetch.redirect`, `bundle-fetch.ca`; denied `bundle-fetch.address`;
 *   unauthenticated `bundle-fetch.server`; unavailable `bundle-fetch.resolve`, `bundle-fetch.unreachable`,
 *   `bundle-fetch.handshake`, `bundle-fetch.no-authorities`, `bundle-fetch.broken`, `bundle-fetch.status`,
 *   `bundle-fetch.deadline`; limited `bundle-fetch.redirects`, `bundle-fetch.too-large`; unsupported
 *   `bundle-fetch.encoding`; as `parseBundleDocument`; the signal's reason
 */
export async function fetchBundle(options: BundleFetch): Promise<Bundle> {
  const { clock, deadlineMs = defaultDeadlineMs } = options;
  const first = checkEndpointUrl(options.url);
  const stop = linkedController(options.signal ?? new AbortController().signal);
  clock.sleep(deadlineMs, stop.signal).then(
    () => stop.abort(new SpiffeError('unavailable', 'bundle-fetch.deadline', `no bundle within ${deadlineMs} ms`)),
    () => undefined,
  );
  try {
    return parseBundleDocument(await follow(first, options, stop.signal), options.trustDomain);
  } finally {
    stop.abort(new Error('fetched'));
    stop.unlink();
  }
}

async function follow(first: URL, options: BundleFetch, signal: AbortSignal): Promise<Buffer> {
  const maxBytes = options.maxBytes ?? bundleDocumentLimits.bytes;
  let url = first;
  for (let hop = 0; hop <= maxRedirects; hop += 1) {
    const answer = await ask(url, { ...options, signal }, maxBytes);
    if (Buffer.isBuffer(answer)) return answer;
    url = answer;
  }
  const message = `the endpoint redirects more than ${maxRedirects} times`;
  throw new SpiffeError('limited', 'bundle-fetch.redirects', message, { detail: { maxRedirects } });
}

/** @returns the document, or where it is instead */
async function ask(url: URL, dialling: Dial, maxBytes: number): Promise<Buffer | URL> {
  const { signal } = dialling;
  signal.throwIfAborted();
  const socket = await dial(url, dialling);
  // A late error of a destroyed socket has nobody left to tell.
  socket.on('error', () => undefined);
  try {
    const answer = await untilAborted(exchange(url, socket), signal);
    answer.on('error', () => undefined);
    const { statusCode = 0, headers } = answer;
    if (redirects.has(statusCode)) return redirected(url, headers.location);
    if (statusCode !== 200) {
      const detail = { host: url.hostname, status: statusCode };
      throw new SpiffeError('unavailable', 'bundle-fetch.status', `the endpoint answers ${statusCode}`, { detail });
    }
    const encoding = headers['content-encoding'] ?? 'identity';
    if (encoding.toLowerCase() !== 'identity') {
      throw new SpiffeError('unsupported', 'bundle-fetch.encoding', 'the endpoint answers compressed, which was not asked for');
    }
    return await untilAborted(readBody(answer, maxBytes), signal);
  } catch (error) {
    signal.throwIfAborted();
    throw translate(error);
  } finally {
    socket.destroy();
  }
}

function exchange(url: URL, socket: TLSSocket): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const outgoing = request({
      createConnection: () => socket,
      method: 'GET',
      path: `${url.pathname}${url.search}`,
      headers: { Host: url.host, Accept: 'application/json', 'Accept-Encoding': 'identity', 'User-Agent': 'steeple' },
      maxHeaderSize: maxHeadBytes,
      insecureHTTPParser: false,
    });
    outgoing.on('error', reject);
    outgoing.once('response', resolve);
    outgoing.once('close', () => reject(new Error('the connection ended before the answer')));
    outgoing.end();
  });
}

/** By the same rules as the first one, except that here the endpoint is at fault [Federation 5.2.1.4]. */
function redirected(from: URL, location: string | undefined): URL {
  if (location === undefined || !URL.canParse(location, from.href)) {
    throw new SpiffeError('invalid', 'bundle-fetch.redirect', 'the endpoint redirects to nowhere');
  }
  try {
    return checkEndpointUrl(new URL(location, from.href).href);
  } catch (cause) {
    throw new SpiffeError('invalid', 'bundle-fetch.redirect', 'the endpoint redirects to what may not be an endpoint', { cause });
  }
}

function translate(error: unknown): SpiffeError {
  const code = error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'unknown';
  const isTooLarge = error instanceof SpiffeError ? error.reason === 'http.too-large' : code === 'HPE_HEADER_OVERFLOW';
  if (isTooLarge) {
    const message = 'the answer of the endpoint is larger than allowed';
    return new SpiffeError('limited', 'bundle-fetch.too-large', message, { cause: error });
  }
  if (error instanceof SpiffeError) return error;
  const message = 'the connection ended before the answer, or that is no HTTP';
  return new SpiffeError('unavailable', 'bundle-fetch.broken', message, { detail: { code }, cause: error });
}
