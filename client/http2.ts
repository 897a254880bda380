/**
 * `node:http2` with SVIDs: sessions of clients, and a server. Both follow rotation with every new connection; the TLS ends
 * themselves are in `tls.ts` and `tls-server.ts`.
 */
import {
  type ClientHttp2Session,
  type ClientSessionOptions,
  connect,
  createSecureServer,
  type Http2SecureServer,
  type Http2ServerRequest,
  type Http2ServerResponse,
  type SecureServerOptions,
  type ServerOptions,
} from 'node:http2';
import { SpiffeError } from '../spiffe/errors.ts';
import { connectTls, type TlsClientSettings, type X509TlsSource } from './tls.ts';
import { askedOf, guard, type TlsServerSettings } from './tls-server.ts';

/**
 * Connects to an `https:` authority; resolves once the server is proved and authorized, before anything is sent. A session
 * is one connection: after a rotation it lives on, and the next one shows the newest SVID.
 * @throws as `connectTls`; invalid `tls.url`
 * @example
 * const session = await connectHttp2(source, 'https://orders.internal:8443', { authorize: authorizeId(orders) });
 */
export async function connectHttp2(
  source: X509TlsSource,
  authority: string | URL,
  settings: TlsClientSettings & {
    readonly signal?: AbortSignal;
    readonly http2?: Omit<ClientSessionOptions, 'createConnection'>;
  },
): Promise<ClientHttp2Session> {
  const url = new URL(authority);
  if (url.protocol !== 'https:') {
    throw new SpiffeError('invalid', 'tls.url', 'the authority of an HTTP/2 session is an https URL');
  }
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const port = url.port === '' ? 443 : Number(url.port);
  const socket = await connectTls(source, { ...settings, host, port, protocols: ['h2'] });
  return connect(url, { ...settings.http2, createConnection: () => socket });
}

/**
 * An HTTP/2 server, not yet listening. `peerOf(stream.session.socket)`, or of a request's socket, is who asks.
 * @throws invalid `tls.settings`
 */
export function createHttp2Server(
  source: X509TlsSource,
  settings: TlsServerSettings & { readonly http2?: ServerOptions & Pick<SecureServerOptions, 'allowHTTP1'> },
  listener?: (request: Http2ServerRequest, response: Http2ServerResponse) => void,
): Http2SecureServer {
  const server = createSecureServer({ ...settings.http2, ...askedOf(settings) }, listener);
  return guard(server, source, settings);
}
