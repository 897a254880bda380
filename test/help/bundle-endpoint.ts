/**
 * Bundle endpoints to be fetched from: a web server of a private authority, or one with an X509-SVID, that answer as a
 * test says; and trust domains with authorities to make SVIDs and bundles of.
 */
import type { RequestListener } from 'node:http';
import { createServer } from 'node:https';
import type { ServerOptions } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { formatBundleDocument } from '../../spiffe/bundle-document.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { composeBundle, readJwtAuthority, readX509Authority } from '../../spiffe/bundle.ts';
import type { SpiffeId } from '../../spiffe/id.ts';
import { composeSpiffeId, parseTrustDomain } from '../../spiffe/id.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import { parseX509Svid } from '../../spiffe/x509-svid.ts';
import { authorityExtensions, ecPair, forgeCertificate, leafExtensions, nameOf } from './forge.ts';

const hour = 3_600_000;

export interface Domain {
  readonly id: (path: string) => SpiffeId;
  readonly bundle: Bundle;
  /** Valid from an hour before `at` to an hour after it. */
  svid(path: string): X509Svid;
}

/** A trust domain with one X.509 and one JWT authority. */
export function createDomain(name: string, at: number, fields: Partial<Bundle> = {}): Domain {
  const trustDomain = parseTrustDomain(name);
  const pair = ecPair();
  const issuer = nameOf(name);
  const certificate = forgeCertificate({
    issuer,
    subject: issuer,
    spki: pair.spki,
    signer: pair.privateKey,
    extensions: authorityExtensions(`spiffe://${name}`),
    validity: [at - hour, at + 24 * hour],
  });
  const id = (path: string): SpiffeId => composeSpiffeId(trustDomain, path);
  return {
    id,
    bundle: composeBundle({
      trustDomain,
      x509Authorities: [readX509Authority(certificate)],
      jwtAuthorities: [readJwtAuthority({ keyId: `${name}-1`, publicKey: ecPair().spki, expiresAt: undefined, tainted: false })],
      refreshHintSeconds: 60,
      sequence: 7n,
      ...fields,
    }),
    svid(path) {
      const own = ecPair();
      const leaf = forgeCertificate({
        issuer,
        subject: nameOf('leaf'),
        spki: own.spki,
        signer: pair.privateKey,
        extensions: leafExtensions(id(path)),
        validity: [at - hour, at + hour],
      });
      return parseX509Svid({ chain: [leaf], pkcs8Key: own.privateKey.export({ type: 'pkcs8', format: 'der' }) });
    },
  };
}

/** What `https.createServer` takes of an X509-SVID. */
export function credentialsOf(svid: X509Svid): Pick<ServerOptions, 'cert' | 'key'> {
  return { cert: formatPemCertificates(svid.chain), key: svid.privateKey.export({ type: 'pkcs8', format: 'pem' }) };
}

export interface TestEndpoint extends AsyncDisposable {
  readonly port: number;
  /** Connections that came, whatever became of them. */
  readonly connections: number;
  /** `method path` of every question. */
  readonly asked: readonly string[];
  url(host: string, path?: string): string;
}

/** A bundle is served as its document; anything else answers by itself. */
export async function serveEndpoint(
  options: ServerOptions,
  answer: Bundle | RequestListener,
  host = '127.0.0.1',
  wantedPort = 0,
): Promise<TestEndpoint> {
  const asked: string[] = [];
  const open = new Set<Socket>();
  let connections = 0;
  const listener: RequestListener =
    typeof answer === 'function' ? answer : (_incoming, outgoing) => void outgoing.end(formatBundleDocument(answer));
  const server = createServer(options, (incoming, outgoing) => {
    asked.push(`${incoming.method} ${incoming.url}`);
    listener(incoming, outgoing);
  });
  server.on('connection', (socket: Socket) => {
    connections += 1;
    open.add(socket);
    socket.on('error', () => undefined).on('close', () => open.delete(socket));
  });
  server.on('tlsClientError', () => undefined);
  await new Promise<void>((resolve) => server.listen(wantedPort, host, resolve));
  const { port } = server.address() as AddressInfo;
  return {
    port,
    asked,
    get connections() {
      return connections;
    },
    url: (name, path = '/') => `https://${name}:${port}${path}`,
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
