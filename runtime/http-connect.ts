/**
 * How an HTTP client gets its connections: to a Unix socket, to a server proved by TLS, or in the clear to this machine
 * alone. What is sent on them is left to `http.ts`.
 */
import { X509Certificate } from 'node:crypto';
import { Agent as PlainAgent } from 'node:http';
import type { AgentOptions } from 'node:http';
import { Agent as SecureAgent } from 'node:https';
import { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { checkServerIdentity, createSecureContext } from 'node:tls';
import type { PeerCertificate } from 'node:tls';
import { SpiffeError } from '../spiffe/errors.ts';
import { closeDescriptor, connectSocket, openStreamSocket, peerCredentials } from './linux.ts';

/**
 * Where a server is; files are read by the caller, who makes a new client when they change.
 */
export type HttpEndpoint =
  | {
      readonly socketPath: string;
      /** The user whose process must be listening; anybody's may where it is left out. */
      readonly ownerUid?: number;
    }
  | {
      /** `https:`, with a path to be put before every request's if wanted; `http:` only to a loopback address. */
      readonly url: string;
      /** PEM of the authorities that may vouch for the server; the ones that come with the runtime where left out. */
      readonly ca?: string;
      /** PEM of our own chain and its key, for a server that asks. */
      readonly certificate?: string;
      readonly key?: string;
      /** What the server's certificate is for, where that is not the URL's host. */
      readonly serverName?: string;
      /** Believes whoever answers: whoever can be in between reads and answers everything, credentials too. */
      readonly unverified?: boolean;
    };

/** Connections to one endpoint. */
export interface HttpRoute {
  /** What `http.request` or `https.request` is told of the place. */
  readonly target: { readonly protocol: string; readonly host?: string; readonly port?: string; readonly socketPath?: string };
  /** Comes before each request's own path; without a `/` at its end. */
  readonly prefix: string;
  /** Keeps connections for the next question, and bounds how many there are. */
  readonly kept: PlainAgent;
  /** Makes a connection for every use. */
  readonly fresh: PlainAgent;
}

const MAX_CONNECTIONS = 8;
const MAX_KEPT = 4;
const keeping: AgentOptions = { keepAlive: true, maxSockets: MAX_CONNECTIONS, maxFreeSockets: MAX_KEPT };
const loopback = /^(?:127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])$/;

/** @throws invalid `http.url`, `http.credentials` */
export function createHttpRoute(endpoint: HttpEndpoint): HttpRoute {
  if ('socketPath' in endpoint) {
    const { socketPath, ownerUid } = endpoint;
    const agent = (options: AgentOptions): PlainAgent =>
      ownerUid === undefined ? new PlainAgent(options) : new OwnedSocketAgent(options, socketPath, ownerUid);
    return { target: { protocol: 'http:', socketPath }, prefix: '', kept: agent(keeping), fresh: agent({}) };
  }
  const url = parseUrl(endpoint.url);
  const target = { protocol: url.protocol, host: url.hostname.replace(/^\[|\]$/g, ''), port: url.port };
  const prefix = url.pathname.replace(/\/+$/, '');
  if (url.protocol === 'http:') return { target, prefix, kept: new PlainAgent(keeping), fresh: new PlainAgent() };
  const { ca, certificate, key, serverName, unverified = false } = endpoint;
  const secure = {
    minVersion: 'TLSv1.2' as const,
    rejectUnauthorized: !unverified,
    ...(serverName === undefined
      ? {}
      : { checkServerIdentity: (_host: string, peer: PeerCertificate) => checkServerIdentity(serverName, peer) }),
    // A resumed session would be trusted for what the certificate said when it began.
    maxCachedSessions: 0,
    ...(ca === undefined ? {} : { ca }),
    ...(certificate === undefined ? {} : { cert: certificate }),
    ...(key === undefined ? {} : { key }),
  };
  try {
    createSecureContext(secure);
    // Nothing usable in it would mean trust in everybody's authorities.
    if (ca !== undefined) void new X509Certificate(ca);
  } catch (error) {
    throw new SpiffeError('invalid', 'http.credentials', 'authorities, certificate or key are no usable PEM', { cause: error });
  }
  return { target, prefix, kept: new SecureAgent({ ...keeping, ...secure }), fresh: new SecureAgent(secure) };
}

function parseUrl(text: string): URL {
  const refuse = (why: string): SpiffeError => new SpiffeError('invalid', 'http.url', `not an address to ask: ${why}`);
  if (!URL.canParse(text)) throw refuse('not a URL');
  const url = new URL(text);
  if (url.protocol !== 'https:' && url.protocol !== 'http:') throw refuse('neither https nor http');
  if (url.protocol === 'http:' && !loopback.test(url.hostname)) throw refuse('http is for loopback addresses');
  if (url.username !== '' || url.password !== '') throw refuse('it holds credentials');
  if (url.search !== '' || url.hash !== '') throw refuse('it holds a query or a fragment');
  return url;
}

/** Connects, and asks the kernel whose process listens before a byte is sent. */
class OwnedSocketAgent extends PlainAgent {
  readonly #path: string;
  readonly #uid: number;

  constructor(options: AgentOptions, path: string, uid: number) {
    super(options);
    this.#path = path;
    this.#uid = uid;
  }

  override createConnection(_options: unknown, done?: (error: Error | null, stream: Duplex) => void): Duplex | undefined {
    try {
      return connectOwned(this.#path, this.#uid);
    } catch (error) {
      // Thrown from here it would surface in whoever happens to free a place in the queue. Node looks at the error first.
      done?.(error instanceof Error ? error : new Error('cannot connect', { cause: error }), undefined as unknown as Duplex);
      return undefined;
    }
  }
}

function connectOwned(path: string, uid: number): Socket {
  const fd = openStreamSocket();
  try {
    connectSocket(fd, path);
    const listener = peerCredentials(fd);
    if (listener.uid !== uid) {
      throw new SpiffeError('unauthenticated', 'http.owner', 'the process behind the socket is of another user', {
        detail: { expected: uid, found: listener.uid },
      });
    }
    return new Socket({ fd });
  } catch (error) {
    closeDescriptor(fd);
    throw error;
  }
}
