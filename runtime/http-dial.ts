/**
 * A connection to the HTTPS server that a URL names, proved and to an address that was allowed: resolved once, connected
 * to what was checked, nothing sent before the proof. What is asked over it is left to the callers.
 */
import { X509Certificate } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import { readFile, stat } from 'node:fs/promises';
import { connect as connectPlain, isIP } from 'node:net';
import type { Socket } from 'node:net';
// As a whole, because Node 20 lacks `getCACertificates` and would refuse to link its name.
import * as tls from 'node:tls';
import type { Bundle } from '../spiffe/bundle.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import type { SpiffeId } from '../spiffe/id.ts';
import { trustDomainOf } from '../spiffe/id.ts';
import { linkedController, untilAborted } from './abort.ts';
import type { Clock } from './clock.ts';
import { canonicalAddress } from './http-address.ts';
import { checkServerIs, createTlsClient } from './tls.ts';
import { createWatch } from './watch.ts';

/** How a server is proved; which of the two is configured, never guessed [Federation 5.1]. */
export type EndpointProfile =
  | {
      /** By its host's name or address and authorities of the web [Federation 5.2.1]. */
      readonly type: 'https_web';
      /** PEM of the authorities that may vouch for it; the machine's roots when absent. */
      readonly ca?: string;
    }
  | {
      /** By its X509-SVID [Federation 5.2.2]. */
      readonly type: 'https_spiffe';
      /** The ID it must have, and no other. */
      readonly endpointId: SpiffeId;
      /** Of `endpointId`'s trust domain; asked for every connection. */
      readonly bundle: () => Pick<Bundle, 'x509Authorities'> | undefined;
    };

export interface Dial {
  readonly profile: EndpointProfile;
  readonly clock: Clock;
  /** Ends it, and the connection too as long as it is not handed over. */
  readonly signal: AbortSignal;
  /** Which addresses may be connected to, all unless given; asked after the name was resolved, IPv6 in its short form. */
  readonly mayConnect?: (address: string) => boolean;
  /** The machine's resolver unless given. */
  readonly resolve?: (host: string) => Promise<readonly string[]>;
}

/** So that one dead address of several leaves time for the next. */
const attemptMs = 5_000;
const maxAddresses = 8;

/**
 * @returns the secured connection, which the caller destroys
 * @throws unavailable `bundle-fetch.resolve`, `bundle-fetch.unreachable`, `bundle-fetch.handshake`,
 *   `bundle-fetch.no-authorities`; denied `bundle-fetch.address`; unauthenticated `bundle-fetch.server`; invalid
 *   `bundle-fetch.ca`; the signal's reason
 */
export async function dial(url: URL, options: Dial): Promise<tls.TLSSocket> {
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const { profile, clock } = options;
  const secure = profile.type === 'https_web' ? webHandshake(host, profile.ca) : spiffeHandshake(host, profile, clock);
  const addresses = await allowedAddresses(host, options);
  const socket = await connectFirst(addresses, url, options);
  const onAbort = (): void => void socket.destroy();
  options.signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await untilAborted(secure(socket), options.signal);
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    options.signal.removeEventListener('abort', onAbort);
  }
}

async function allowedAddresses(host: string, options: Dial): Promise<readonly string[]> {
  const addresses = (isIP(host) === 0 ? await resolved(host, options) : [host])
    .map(canonicalAddress)
    .filter((address) => address !== undefined);
  if (addresses.length === 0) {
    throw new SpiffeError('unavailable', 'bundle-fetch.resolve', `${host} has no address`, { detail: { host } });
  }
  const allowed = addresses.filter((address) => options.mayConnect?.(address) ?? true);
  if (allowed.length === 0) {
    const message = `${host} is at an address that may not be connected to`;
    throw new SpiffeError('denied', 'bundle-fetch.address', message, { detail: { host } });
  }
  return [...new Set(allowed)].slice(0, maxAddresses);
}

async function resolved(host: string, { resolve = lookupAll, signal }: Dial): Promise<readonly string[]> {
  try {
    return await untilAborted(resolve(host), signal);
  } catch (cause) {
    signal.throwIfAborted();
    const detail = { host, code: codeOf(cause) };
    throw new SpiffeError('unavailable', 'bundle-fetch.resolve', `${host} cannot be resolved`, { detail, cause });
  }
}

async function lookupAll(host: string): Promise<readonly string[]> {
  return (await lookup(host, { all: true, verbatim: true })).map(({ address }) => address);
}

/** One after the other, because which one answers is not worth a race between them here. */
async function connectFirst(addresses: readonly string[], url: URL, options: Dial): Promise<Socket> {
  let failure: unknown;
  for (const address of addresses) {
    try {
      return await connectTo(address, url.port === '' ? 443 : Number(url.port), options);
    } catch (error) {
      options.signal.throwIfAborted();
      failure = error;
    }
  }
  const detail = { host: url.hostname, code: codeOf(failure) };
  throw new SpiffeError('unavailable', 'bundle-fetch.unreachable', `${url.host} cannot be reached`, { detail, cause: failure });
}

async function connectTo(address: string, port: number, { clock, signal }: Dial): Promise<Socket> {
  const stop = linkedController(signal);
  const socket = connectPlain({ host: address, port });
  // Stays for good: an error may come when nobody else listens any more.
  socket.on('error', () => undefined);
  const connected = new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve).once('error', reject);
  });
  clock.sleep(attemptMs, stop.signal).then(() => stop.abort(new Error(`not connected within ${attemptMs} ms`)), () => undefined);
  try {
    await untilAborted(connected, stop.signal);
    return socket;
  } catch (error) {
    socket.destroy();
    throw error;
  } finally {
    stop.abort(new Error('settled'));
    stop.unlink();
  }
}

type Handshake = (socket: Socket) => Promise<tls.TLSSocket>;

/** Exactly this ID, by the authorities of its own trust domain; the host name has no say [Federation 5.2.2.4]. */
function spiffeHandshake(host: string, profile: Extract<EndpointProfile, { type: 'https_spiffe' }>, clock: Clock): Handshake {
  const trustDomain = trustDomainOf(profile.endpointId);
  const bundle = profile.bundle();
  if (bundle === undefined) {
    const message = `there is no bundle of ${trustDomain} to prove the endpoint with`;
    throw new SpiffeError('unavailable', 'bundle-fetch.no-authorities', message, { detail: { trustDomain } });
  }
  const identity = createWatch({ svid: undefined, bundles: new Map([[trustDomain, bundle]]) });
  const check = checkServerIs(profile.endpointId, identity, clock);
  const client = createTlsClient({ identity, clock, check, minVersion: 'TLSv1.2', protocols: [], serverName: host });
  return async (socket) => {
    try {
      return await client.handshake(socket);
    } catch (error) {
      const reason = error instanceof SpiffeError ? error.reason : 'unknown';
      if (reason !== 'tls.handshake') throw unproved(host, reason, error);
      throw handshakeFailed(host, codeOf((error as SpiffeError).cause), error);
    }
  };
}

/** The host of the URL, by its subject alternative names, and a path to a trusted root [RFC 6125]. */
function webHandshake(host: string, ca: string | undefined): Handshake {
  const given = ca === undefined ? undefined : tls.createSecureContext({ ca: checkedCa(ca), minVersion: 'TLSv1.2' });
  return async (socket) => {
    const secureContext = given ?? (await machineRoots());
    const secured = tls.connect({
      socket,
      secureContext,
      rejectUnauthorized: true,
      checkServerIdentity: (_name, peer) => tls.checkServerIdentity(host, peer),
      ALPNProtocols: ['http/1.1'],
      ...(isIP(host) === 0 ? { servername: host } : {}),
    });
    secured.on('error', () => undefined);
    try {
      await new Promise<void>((resolve, reject) => {
        secured.once('secureConnect', resolve).once('error', reject);
        secured.once('close', () => reject(new Error('the connection was closed')));
      });
      return secured;
    } catch (error) {
      secured.destroy();
      const code = codeOf(error);
      // The type says otherwise, but it is null as long as nothing is wrong with the certificate.
      const isUnproved = Boolean(secured.authorizationError) || code === 'ERR_TLS_CERT_ALTNAME_INVALID';
      throw isUnproved ? unproved(host, code, error) : handshakeFailed(host, code, error);
    }
  };
}

function checkedCa(ca: string): string {
  try {
    // Nothing usable in it would mean trust in everybody's authorities.
    void new X509Certificate(ca);
    return ca;
  } catch (cause) {
    throw new SpiffeError('invalid', 'bundle-fetch.ca', 'the authorities for the endpoint are no PEM certificates', { cause });
  }
}

/** Where distributions keep the roots that the machine's owner trusts; the first that is there counts. */
const rootFiles = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/ssl/cert.pem',
];

let machine: { readonly version: string; readonly context: tls.SecureContext } | undefined;

/**
 * The roots of the machine; those that come with Node where it has none. Read anew when they change, and not through
 * Node, whose way takes a quarter of a second in which nothing else happens.
 */
async function machineRoots(): Promise<tls.SecureContext> {
  for (const file of rootFiles) {
    const stats = await stat(file).catch(() => undefined);
    if (stats === undefined) continue;
    const version = `${file} ${stats.mtimeMs} ${stats.size}`;
    if (machine?.version !== version) {
      const further = 'getCACertificates' in tls ? tls.getCACertificates('extra') : [];
      const ca = [await readFile(file), ...further];
      machine = { version, context: tls.createSecureContext({ ca, minVersion: 'TLSv1.2' }) };
    }
    return machine.context;
  }
  return tls.createSecureContext({ minVersion: 'TLSv1.2' });
}

function unproved(host: string, why: string, cause: unknown): SpiffeError {
  const message = `${host} is not proved to be the endpoint: ${why}`;
  return new SpiffeError('unauthenticated', 'bundle-fetch.server', message, { detail: { host, why }, cause });
}

function handshakeFailed(host: string, code: string, cause: unknown): SpiffeError {
  return new SpiffeError('unavailable', 'bundle-fetch.handshake', `TLS with ${host} failed`, { detail: { host, code }, cause });
}

function codeOf(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : 'unknown';
}
