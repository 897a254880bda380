/**
 * Two ends of TLS for tests of the library: identities from authorities made on the spot, sources that can be set to
 * anything, and what is needed to listen, connect and wait. Knows nothing of what is tried with them.
 */
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import type { AddressInfo, Server as NetServer } from 'node:net';
import { systemClock } from '../../runtime/clock.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { TlsIdentity } from '../../runtime/tls.ts';
import { createWatch, type WatchSource } from '../../runtime/watch.ts';
import { parseSpiffeId, parseTrustDomain } from '../../spiffe/id.ts';
import { keyUsage, oid } from '../../spiffe/x509/names.ts';
import { parseX509Svid, type X509Svid } from '../../spiffe/x509-svid.ts';
import { hourMs, testAuthority, type TestAuthority } from './agent-server.ts';
import { authorityExtensions, ecPair, extension, forgeCertificate, leafExtensions, nameOf } from './forge.ts';

export const home = testAuthority('home');
/** Of another trust domain. */
export const abroad = testAuthority('abroad');
/** Calls itself as `home` does, and is nobody's authority. */
export const impostor = testAuthority('home');

export const alpha = parseSpiffeId('spiffe://example.org/alpha');
export const beta = parseSpiffeId('spiffe://example.org/beta');
export const foreigner = parseSpiffeId('spiffe://other.test/x');

export type Bundles = Readonly<Record<string, readonly Pick<TestAuthority, 'certificate'>[]>>;

export interface TestSource {
  readonly identity: WatchSource<TlsIdentity>;
  readonly clock: Clock;
}

export const homeOnly: Bundles = { 'example.org': [home] };
export const federated: Bundles = { 'example.org': [home], 'other.test': [abroad] };

export function identityOf(svid: X509Svid | undefined, bundles: Bundles = homeOnly): TlsIdentity {
  return {
    svid,
    bundles: new Map(
      Object.entries(bundles).map(([trustDomain, authorities]) => [
        parseTrustDomain(trustDomain),
        { x509Authorities: authorities.map(({ certificate }) => ({ certificate, tainted: false })) },
      ]),
    ),
  };
}

export function sourceOf(svid: X509Svid | undefined, bundles?: Bundles, clock: Clock = systemClock): TestSource {
  return { identity: createWatch(identityOf(svid, bundles)), clock };
}

export async function listen(server: NetServer): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

/** Waits for what happens on sockets, where nobody can be told to go on. */
export async function until(done: () => boolean): Promise<void> {
  for (let turn = 0; turn < 1_000 && !done(); turn += 1) await systemClock.sleep(5);
  if (!done()) throw new Error('what the test waits for did not happen');
}

/** An authority below `home`, as bundles may hold in place of a root. */
export function intermediate(): Pick<TestAuthority, 'certificate' | 'svid'> {
  const pair = ecPair();
  const now = systemClock.now();
  const signed = { validity: [now - hourMs, now + hourMs] as const };
  const certificate = forgeCertificate({
    ...signed,
    issuer: nameOf(home.name),
    subject: nameOf('middle'),
    spki: pair.spki,
    signer: home.pair.privateKey,
    extensions: authorityExtensions(),
  });
  return {
    certificate,
    svid(spiffeId) {
      const own = ecPair();
      const leaf = forgeCertificate({
        ...signed,
        issuer: nameOf('middle'),
        subject: nameOf('leaf'),
        spki: own.spki,
        signer: pair.privateKey,
        extensions: leafExtensions(spiffeId),
      });
      return parseX509Svid({ chain: [leaf], pkcs8Key: own.privateKey.export({ type: 'pkcs8', format: 'der' }) });
    },
  };
}

/** PEM of a server called `web.example` that no SPIFFE authority knows, and of the root that does. */
export function webServer(): { readonly cert: string; readonly key: string; readonly root: string } {
  const root = ecPair();
  const own = ecPair();
  const now = systemClock.now();
  const forged = { issuer: nameOf('web'), signer: root.privateKey, validity: [now - hourMs, now + hourMs] as const };
  const pem = (der: Uint8Array): string => new X509Certificate(der).toString();
  return {
    root: pem(forgeCertificate({ ...forged, subject: nameOf('web'), spki: root.spki, extensions: [extension.usage(keyUsage.keyCertSign), extension.basic(true)] })),
    cert: pem(
      forgeCertificate({
        ...forged,
        subject: nameOf('web.example'),
        spki: own.spki,
        extensions: [
          extension.usage(keyUsage.digitalSignature),
          extension.purposes(oid.serverAuth),
          extension.basic(false),
          extension.names(['web.example'], []),
        ],
      }),
    ),
    key: own.privateKey.export({ type: 'pkcs8', format: 'pem' }) as string,
  };
}
