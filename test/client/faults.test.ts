/**
 * Every certificate chain of the vectors, shown over real sockets to the library in both of its roles: it lets in those
 * alone that the standards accept, and says of the others what the vectors say.
 */
import { X509Certificate } from 'node:crypto';
import { connect, createSecureContext, createServer, type SecureContextOptions } from 'node:tls';
import { afterAll, describe, expect, it } from 'vitest';
import { authorizeAny } from '../../client/authorize.ts';
import { connectTls, tlsClientOptions, type X509TlsSource } from '../../client/tls.ts';
import { createTlsServer } from '../../client/tls-server.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createWatch } from '../../runtime/watch.ts';
import type { SpiffeError } from '../../spiffe/errors.ts';
import { parseTrustDomain } from '../../spiffe/id.ts';
import { type CertificateCase, certificateCases, leafKey } from '../vectors/generate-certificates.ts';
import { home, listen } from '../help/tls-world.ts';

const authorize = authorizeAny();
const trustDomain = parseTrustDomain('example.org');
const ends: (() => unknown)[] = [];
afterAll(async () => {
  for (const end of ends.toReversed()) await end();
});

interface Shown {
  readonly row: CertificateCase;
  readonly tls: SecureContextOptions;
  readonly source: X509TlsSource;
}

/** The chain as its holder shows it; OpenSSL itself refuses to load some, which nobody can show then. */
function shownBy(row: CertificateCase): Shown | undefined {
  const pem = row.chain.map((der) => `-----BEGIN CERTIFICATE-----\n${der}\n-----END CERTIFICATE-----\n`).join('');
  const tls: SecureContextOptions = { cert: pem, key: leafKey.privateKey.export({ type: 'pkcs8', format: 'pem' }), minVersion: 'TLSv1.2' };
  try {
    if (row.chain.length === 0) return undefined;
    createSecureContext(tls);
  } catch {
    return undefined;
  }
  // The verifier's own: all is judged at the instant of the case, on a clock that moves on.
  const clock = { ...systemClock, now: () => row.at };
  const bundle = { x509Authorities: row.authorities.map((der) => ({ certificate: Buffer.from(der, 'base64'), tainted: false })) };
  return { row, tls, source: { clock, identity: createWatch({ svid: home.svid('spiffe://example.org/verifier'), bundles: new Map([[trustDomain, bundle]]) }) } };
}

const cases = certificateCases();
const shown = cases.flatMap((row) => shownBy(row) ?? []);

/** Asked for once; every refusal is the answer to the connection that was just made. */
async function refusals(): Promise<{ readonly port: (source: X509TlsSource) => Promise<number>; readonly verdicts: string[] }> {
  const verdicts: string[] = [];
  return {
    verdicts,
    async port(source) {
      const server = createTlsServer(source, { authorize, refused: (error) => verdicts.push(error.reason) }, (socket) => {
        verdicts.push('accept');
        socket.destroy();
      });
      ends.push(() => server.close());
      return listen(server);
    },
  };
}

describe('the library as a server', () => {
  it.each(shown.map((one) => [one.row.name, one] as const))('%s', async (_name, { row, tls, source }) => {
    const { port, verdicts } = await refusals();
    const socket = connect({ ...tls, host: '127.0.0.1', port: await port(source), rejectUnauthorized: false });
    socket.on('error', () => undefined);
    await new Promise((resolve) => {
      socket.once('close', resolve);
    });
    expect(verdicts).toEqual([row.verdict]);
  });
});

describe('the library as a client', () => {
  it.each(shown.map((one) => [one.row.name, one] as const))('%s', async (_name, { row, tls, source }) => {
    const heard: Buffer[] = [];
    const server = createServer(tls, (socket) => {
      socket.on('error', () => undefined);
      socket.on('data', (data: Buffer) => heard.push(data));
      socket.write('early');
    });
    server.on('tlsClientError', () => undefined);
    ends.push(() => server.close());
    const port = await listen(server);
    const verdict = await connectTls(source, { host: '127.0.0.1', port, authorize }).then(
      (socket) => (socket.destroy(), 'accept'),
      (error: SpiffeError) => error.reason,
    );
    expect(verdict).toBe(row.verdict);
    // Whatever OpenSSL makes of the chain, options for `tls.connect` let in nobody whom the verifier refuses.
    const socket = connect({ ...tlsClientOptions(source, { authorize }), host: '127.0.0.1', port });
    socket.write('secret');
    const end = await new Promise<string>((resolve) => {
      socket.once('error', () => resolve('refused'));
      socket.once('secureConnect', () => resolve('accept'));
    });
    socket.destroy();
    if (row.verdict !== 'accept') expect([end, heard]).toEqual(['refused', []]);
  });
});

it('shows nearly all of them: what OpenSSL cannot load is what it could not have sent', () => {
  const unshown = cases.filter((row) => !shown.some((one) => one.row === row)).map(({ verdict }) => verdict);
  expect(shown.length).toBeGreaterThan(80);
  expect(unshown.every((verdict) => /^(?:der|certificate|extension)\.|^x509\.path\.empty-chain$/.test(verdict))).toBe(true);
  expect(new X509Certificate(Buffer.from(shown[0]!.row.chain[0]!, 'base64')).checkPrivateKey(leafKey.privateKey)).toBe(true);
});
