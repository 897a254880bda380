import { createPrivateKey, generateKeyPairSync, X509Certificate } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { createBundleSet } from '../../client/bundle-set.ts';
import { createFakeAuthority } from '../../client/testing/authority.ts';
import {
  formatX509SvidDer,
  formatX509SvidPem,
  loadX509Svid,
  parseX509SvidDer,
  parseX509SvidPem,
  spiffeIdOf,
  verifyX509Svid,
} from '../../client/x509-svid.ts';

const home = createFakeAuthority('example.org');
const svid = home.x509Svid('/web', { hint: 'h' });
const bundles = createBundleSet(home.bundle);
const place = mkdtempSync(join(tmpdir(), 'x509-svid-'));
afterAll(() => rmSync(place, { recursive: true }));

const hex = (list: readonly Uint8Array[]): readonly string[] => list.map((der) => Buffer.from(der).toString('hex'));

describe('an X509-SVID in files', () => {
  const pem = formatX509SvidPem(svid);

  it('goes through PEM and DER and stays the same', async () => {
    const same = { spiffeId: svid.spiffeId, serial: svid.serial, hint: 'h' };
    expect(hex(parseX509SvidPem(pem).chain)).toEqual(hex(svid.chain));
    expect(hex(parseX509SvidDer(formatX509SvidDer(svid)).chain)).toEqual(hex(svid.chain));
    expect(parseX509SvidPem(pem, 'h')).toMatchObject(same);
    expect(parseX509SvidPem({ certificates: Buffer.from(pem.certificates), key: Buffer.from(pem.key) }, 'h')).toMatchObject(same);
    expect(parseX509SvidDer(formatX509SvidDer(svid), 'h')).toMatchObject(same);
    writeFileSync(join(place, 'c.pem'), pem.certificates);
    writeFileSync(join(place, 'k.pem'), pem.key);
    const loaded = await loadX509Svid(join(place, 'c.pem'), join(place, 'k.pem'));
    expect(loaded).toMatchObject({ ...same, hint: '' });
    expect(loaded.privateKey.equals(svid.privateKey)).toBe(true);
  });

  it('may have its key in the older form', () => {
    const key = svid.privateKey.export({ type: 'sec1', format: 'pem' }) as string;
    expect(key).toContain('EC PRIVATE KEY');
    expect(parseX509SvidPem({ certificates: pem.certificates, key }).spiffeId).toBe(svid.spiffeId);
  });

  it.each([
    ['another key', generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ type: 'pkcs8', format: 'pem' }) as string, 'svid.key.mismatch'],
    ['a public key', pem.certificates, 'svid.key.format'],
    ['an encrypted key', createPrivateKey(pem.key).export({ type: 'pkcs8', format: 'pem', cipher: 'aes-128-cbc', passphrase: 'x' }) as string, 'svid.key.format'],
    ['no key', '', 'svid.key.format'],
  ])('is refused with %s, and nothing of it is told', (_what, key, reason) => {
    const refused = (() => {
      try {
        return parseX509SvidPem({ certificates: pem.certificates, key });
      } catch (error) {
        return error as Error;
      }
    })();
    expect(refused).toMatchObject({ kind: 'invalid', reason });
    expect((refused as Error).cause).toBeUndefined();
  });
});

describe('a peer\'s chain', () => {
  const chains: readonly (readonly [string, Parameters<typeof verifyX509Svid>[0]])[] = [
    ['DER in a list', svid.chain],
    ['DER one after the other', Buffer.concat(svid.chain)],
    ['as Node has it', svid.chain.map((der) => new X509Certificate(der))],
  ];
  it.each(chains)('is proved: %s', (_form, chain) => {
    const { spiffeId, path } = verifyX509Svid(chain, { bundles, usage: 'server' });
    expect(spiffeId).toBe('spiffe://example.org/web');
    expect(hex(path)).toEqual(hex([...svid.chain, home.bundle.x509Authorities[0]!.certificate]));
  });

  it.each([
    ['X509-28: by another domain\'s authority alone', home.x509Svid('spiffe://other.test/web').chain, 'x509.path.unknown-trust-domain'],
    ['one that is over', home.x509Svid('/web', { ttlSeconds: -60 }).chain, 'x509.path.expired'],
    ['T-04: an authority, whose ID has no path', home.bundle.x509Authorities.map(({ certificate }) => certificate), 'svid.leaf.no-path'],
    ['nothing', [], 'x509.path.empty-chain'],
  ] as const)('is refused: %s', (_what, chain, reason) => {
    expect(() => verifyX509Svid(chain, { bundles })).toThrow(expect.objectContaining({ reason }));
  });

  it('tells whose it says it is', () => {
    expect(spiffeIdOf(svid.chain[0]!)).toBe('spiffe://example.org/web');
    expect(spiffeIdOf(new X509Certificate(svid.chain[0]!))).toBe('spiffe://example.org/web');
    expect(spiffeIdOf(home.bundle.x509Authorities[0]!.certificate)).toBe('spiffe://example.org');
    expect(() => spiffeIdOf(Uint8Array.of(0x30))).toThrow(expect.objectContaining({ kind: 'invalid' }));
  });
});
