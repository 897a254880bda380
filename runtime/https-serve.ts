/**
 * An HTTPS server for documents that anybody may read: TLS for browsers and libraries of all kinds, a certificate that
 * changes while it runs, and bounds that keep strangers from holding it up. What it answers is left to its users.
 */
import { constants } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { createSecureContext } from 'node:tls';
import type { SecureContextOptions } from 'node:tls';
import { SpiffeError } from '../spiffe/errors.ts';
import { untilAborted } from './abort.ts';
import type { Clock } from './clock.ts';
import { networkOf } from './http-address.ts';
import { ciphers } from './tls.ts';
import type { Watch } from './watch.ts';

/** What the server proves itself with; PEM, the certificate's chain with the leaf first. */
export interface ServerCredentials {
  readonly certificate: string;
  readonly key: string;
}

export interface HttpsBounds {
  readonly connections: number;
  /** From one IPv4 address, or from one IPv6 network of 64 bits. */
  readonly connectionsPerAddress: number;
  /** New ones, from everybody together; twice as many may come at once after a quiet second. */
  readonly connectionsPerSecond: number;
  /** Likewise. */
  readonly requestsPerSecond: number;
  /** For each of: the handshake, a question's arrival, the next question. */
  readonly patienceMs: number;
}

export const defaultHttpsBounds: HttpsBounds = {
  connections: 1_000,
  connectionsPerAddress: 200,
  connectionsPerSecond: 200,
  requestsPerSecond: 5_000,
  patienceMs: 5_000,
};

/** Why a connection was closed: before a byte was read, or, by `handshake` and `rate`, later. */
export type HttpsRefusal = 'connections' | 'address' | 'rate' | 'handshake';

export interface HttpsServerOptions {
  readonly clock: Clock;
  readonly host: string;
  /** 0 takes any free one. */
  readonly port: number;
  /** Without a value every handshake fails. */
  readonly credentials: Watch<ServerCredentials | undefined>;
  /** Answers at once, from memory; must not throw. */
  readonly answer: (request: IncomingMessage, response: ServerResponse) => void;
  readonly refused?: (why: HttpsRefusal) => void;
  readonly bounds?: Partial<HttpsBounds>;
}

export interface HttpsServer {
  readonly address: AddressInfo;
  /** Shows each new certificate to new connections until the signal aborts; then closes. */
  run(signal: AbortSignal): Promise<void>;
  /** Ends all connections. */
  close(): Promise<void>;
}

/** Mozilla's intermediate profile, of TLS 1.2 what has elliptic curves (FED-09). */
const profile: SecureContextOptions = {
  minVersion: 'TLSv1.2',
  ciphers,
  ecdhCurve: knownGroups(),
  // The client knows best what it does fast.
  honorCipherOrder: false,
  secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
};

/** Small and quick or not at all: nobody who asks for a document sends more. */
const maxHeadBytes = 8_192;
const maxRequestsPerConnection = 100;

/** @throws unavailable `https.listen` */
export async function openHttpsServer(options: HttpsServerOptions): Promise<HttpsServer> {
  const { credentials } = options;
  const bounds = { ...defaultHttpsBounds, ...options.bounds };
  const { patienceMs } = bounds;
  const patience = {
    handshakeTimeout: patienceMs,
    headersTimeout: patienceMs,
    requestTimeout: patienceMs,
    keepAliveTimeout: patienceMs,
    connectionsCheckingInterval: Math.min(1_000, patienceMs),
  };
  const context = { ...profile, ...contextOf(credentials.value) };
  const mayAsk = bucket(options.clock, bounds.requestsPerSecond);
  const answer = (request: IncomingMessage, response: ServerResponse): void => {
    if (mayAsk()) {
      options.answer(request, response);
      return;
    }
    // A refusal in words would cost as much as the answer.
    request.socket.destroy();
    options.refused?.('rate');
  };
  const server = createServer({ ...context, ...patience, requestCert: false, maxHeaderSize: maxHeadBytes }, answer);
  server.maxRequestsPerSocket = maxRequestsPerConnection;
  server.maxHeadersCount = 64;
  // Also for an answer that nobody reads.
  server.timeout = 2 * patienceMs;
  // A promise to read the body would be broken.
  server.on('checkContinue', answer);
  const open = bound(server, options, bounds);
  await listen(server, options);
  const close = async (): Promise<void> => {
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of open) socket.destroy();
    await closed;
  };
  return {
    address: server.address() as AddressInfo,
    async run(signal) {
      try {
        for await (const current of credentials.values(signal)) server.setSecureContext({ ...profile, ...contextOf(current) });
        // They may end before the server does, which then goes on with the last ones.
        await untilAborted(new Promise<never>(() => undefined), signal);
      } catch (error) {
        if (!signal.aborted) throw error;
      } finally {
        await close();
      }
    },
    close,
  };
}

/** @throws invalid `https.credentials` for what no server can show, such as a key of another certificate */
export function checkCredentials(credentials: ServerCredentials): void {
  try {
    createSecureContext(contextOf(credentials));
  } catch (cause) {
    const message = 'certificate and key cannot be used, or do not belong together';
    throw new SpiffeError('invalid', 'https.credentials', message, { cause });
  }
}

function contextOf(credentials: ServerCredentials | undefined): SecureContextOptions {
  return credentials === undefined ? {} : { cert: credentials.certificate, key: credentials.key };
}

/** The key exchange of the profile, and the hybrid one where this OpenSSL has it. */
function knownGroups(): string {
  const classic = 'X25519:prime256v1:secp384r1';
  const hybrid = `X25519MLKEM768:${classic}`;
  try {
    createSecureContext({ ecdhCurve: hybrid });
    return hybrid;
  } catch {
    return classic;
  }
}

/** Counts before TLS begins, because a handshake is what costs. @returns the connections, those in a handshake too */
function bound(server: Server, { clock, refused }: HttpsServerOptions, bounds: HttpsBounds): ReadonlySet<Socket> {
  const perNetwork = new Map<string, number>();
  const mayConnect = bucket(clock, bounds.connectionsPerSecond);
  const open = new Set<Socket>();

  const refuses = (network: string): HttpsRefusal | undefined => {
    if (open.size >= bounds.connections) return 'connections';
    if ((perNetwork.get(network) ?? 0) >= bounds.connectionsPerAddress) return 'address';
    return mayConnect() ? undefined : 'rate';
  };
  const begin = server.listeners('connection');
  server.removeAllListeners('connection');
  server.on('connection', (socket: Socket) => {
    const network = networkOf(socket.remoteAddress ?? '');
    const why = refuses(network);
    if (why !== undefined) {
      socket.destroy();
      refused?.(why);
      return;
    }
    open.add(socket);
    perNetwork.set(network, (perNetwork.get(network) ?? 0) + 1);
    socket.once('close', () => {
      open.delete(socket);
      const left = (perNetwork.get(network) ?? 1) - 1;
      if (left === 0) perNetwork.delete(network);
      else perNetwork.set(network, left);
    });
    for (const listener of begin) listener.call(server, socket);
  });
  server.on('tlsClientError', (_error, socket) => {
    socket.destroy();
    refused?.('handshake');
  });
  return open;
}

/** @returns what takes a token of those that come evenly, if there is one */
function bucket(clock: Clock, perSecond: number): () => boolean {
  const size = Math.max(1, 2 * perSecond);
  let tokens = 2 * perSecond;
  let filledAt = clock.monotonic();
  return () => {
    const now = clock.monotonic();
    tokens = Math.min(size, tokens + ((now - filledAt) * perSecond) / 1000);
    filledAt = now;
    if (tokens < 1) return false;
    tokens -= 1;
    return true;
  };
}

async function listen(server: Server, { host, port }: HttpsServerOptions): Promise<void> {
  server.listen({ host, port, backlog: 1024 });
  try {
    await once(server, 'listening');
  } catch (cause) {
    const detail = { host, port };
    throw new SpiffeError('unavailable', 'https.listen', `cannot listen on ${host} port ${port}`, { detail, cause });
  }
}
