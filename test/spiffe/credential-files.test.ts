import { createPrivateKey, X509Certificate } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { composeBundle, type Bundle } from '../../spiffe/bundle.ts';
import { parseBundleDocument } from '../../spiffe/bundle-document.ts';
import { bundleFormats, credentialFiles, type CredentialFileNames, type FileCredentials, usualFileNames } from '../../spiffe/credential-files.ts';
import { parseTrustDomain, type TrustDomain } from '../../spiffe/id.ts';
import { parsePemCertificates } from '../../spiffe/pem.ts';
import { testAuthority } from '../help/agent-server.ts';
import { ecPair } from '../help/forge.ts';

const own = parseTrustDomain('example.org');
const foreign = parseTrustDomain('other.example');
const [home, away] = [testAuthority('home'), testAuthority('away')];
const { privateKey } = ecPair();

function bundleOf(trustDomain: TrustDomain, certificate: Uint8Array): Bundle {
  return composeBundle({ trustDomain, x509Authorities: [{ certificate, tainted: false }], jwtAuthorities: [], refreshHintSeconds: 300, sequence: 7n });
}

const credentials: FileCredentials = {
  chain: [home.certificate, away.certificate],
  key: privateKey,
  trustDomain: own,
  // Federated ones first, as a map of updates may have them.
  bundles: new Map([
    [foreign, bundleOf(foreign, away.certificate)],
    [own, bundleOf(own, home.certificate)],
  ]),
  tokens: new Map([['vault.jwt', 'a.b.c']]),
};

function written(names: Partial<CredentialFileNames>, more: Partial<FileCredentials> = {}): ReadonlyMap<string, string> {
  return new Map(credentialFiles({ bundleFormat: 'pem', ...names }, { ...credentials, ...more }).map(({ name, content }) => [name, content]));
}

describe('files of credentials', () => {
  it('are those that are named, and only keys and tokens are secret', () => {
    const files = credentialFiles({ ...usualFileNames, combined: 'all.pem', bundleFormat: 'pem' }, credentials);
    expect(files.map(({ name, secret }) => [name, secret])).toEqual([
      ['svid.pem', false],
      ['key.pem', true],
      ['all.pem', true],
      ['bundle.pem', false],
      ['vault.jwt', true],
    ]);
    expect(credentialFiles({ bundleFormat: 'pem' }, { ...credentials, tokens: new Map() })).toEqual([]);
    for (const { content, secret } of files) if (content.includes('PRIVATE KEY')) expect(secret).toBe(true);
  });

  it('hold the chain, leaf first, and its key as PKCS#8', () => {
    const files = written(usualFileNames);
    expect(parsePemCertificates(files.get('svid.pem') ?? '').map((der) => Buffer.from(der))).toEqual(credentials.chain.map((der) => Buffer.from(der)));
    const key = files.get('key.pem') ?? '';
    expect(key).toMatch(/^-----BEGIN PRIVATE KEY-----\n/);
    expect(createPrivateKey(key).equals(privateKey)).toBe(true);
  });

  it('combined are the certificates and then the key', () => {
    const files = written({ certificate: 'c', key: 'k', combined: 'ck' });
    expect(files.get('ck')).toBe(`${files.get('c') ?? ''}${files.get('k') ?? ''}`);
  });

  it('have only the own trust domain’s authorities unless others are asked for', () => {
    const authorities = (bundleFormat: CredentialFileNames['bundleFormat']): readonly Buffer[] =>
      parsePemCertificates(written({ bundle: 'b', bundleFormat }).get('b') ?? '').map((der) => Buffer.from(der));
    expect(authorities('pem')).toEqual([Buffer.from(home.certificate)]);
    expect(authorities('pem_federated')).toEqual([Buffer.from(home.certificate), Buffer.from(away.certificate)]);
  });

  it('have documents with sequence and hint, one or by trust domain', () => {
    const document = written({ bundle: 'b', bundleFormat: 'spiffe' }).get('b') ?? '';
    expect(parseBundleDocument(document, own)).toMatchObject({ sequence: 7n, refreshHintSeconds: 300 });
    const map = JSON.parse(written({ bundle: 'b', bundleFormat: 'spiffe_map' }).get('b') ?? '') as { trust_domains: Record<string, { keys: { x5c: string[] }[] }> };
    expect(Object.keys(map)).toEqual(['trust_domains']);
    expect(Object.entries(map.trust_domains).map(([name, { keys }]) => [name, new X509Certificate(Buffer.from(keys[0]?.x5c[0] ?? '', 'base64')).raw])).toEqual([
      ['example.org', Buffer.from(home.certificate)],
      ['other.example', Buffer.from(away.certificate)],
    ]);
  });

  it.each(bundleFormats)('cannot be without the own bundle: %s', (bundleFormat) => {
    const bundles = new Map([...credentials.bundles].filter(([name]) => name !== own));
    expect(() => written({ bundle: 'b', bundleFormat }, { bundles })).toThrow(expect.objectContaining({ kind: 'unavailable', reason: 'credential-files.no-bundle' }));
  });

  it('are the same for the same credentials', () => {
    expect(written(usualFileNames)).toEqual(written(usualFileNames, { bundles: new Map([...credentials.bundles].toReversed()) }));
  });
});
