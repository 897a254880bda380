import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import {
  bundleFromJwtAuthorities,
  bundleFromX509Authorities,
  createBundleSet,
  formatBundle,
  formatJwtBundle,
  formatX509Bundle,
  loadBundle,
  loadJwtBundle,
  loadX509Bundle,
  parseBundle,
  parseJwtBundle,
  parseX509Bundle,
  parseX509BundleDer,
} from '../../client/bundle-set.ts';
import { createFakeAuthority } from '../../client/testing/authority.ts';
import { bundleContentEquals, bundleEquals, emptyBundle } from '../../spiffe/bundle.ts';

const home = createFakeAuthority('example.org');
home.rotate();
const other = createFakeAuthority('other.test');
const { bundle, trustDomain } = home;
const certificates = bundle.x509Authorities.map(({ certificate }) => certificate);
const place = mkdtempSync(join(tmpdir(), 'bundle-set-'));
const file = (name: string, text: string | Uint8Array): string => {
  writeFileSync(join(place, name), text);
  return join(place, name);
};

afterAll(() => rmSync(place, { recursive: true }));

describe('a set of bundles', () => {
  it('answers by trust domain, exactly', () => {
    const set = createBundleSet(bundle, other.bundle);
    expect(set.bundleFor(trustDomain)).toBe(bundle);
    expect(set.x509BundleFor(trustDomain)).toEqual(certificates);
    expect(set.jwtBundleFor(other.trustDomain)).toEqual(other.bundle.jwtAuthorities);
    for (const name of ['example.org.evil', 'org', 'spiffe://example.org', '__proto__']) {
      expect([set.bundleFor(name as never), set.x509BundleFor(name as never), set.jwtBundleFor(name as never)]).toEqual([undefined, undefined, undefined]);
    }
    expect(set.x509BundleFor(trustDomain)).toBe(set.x509BundleFor(trustDomain));
  });

  it('exchanges and drops them', () => {
    const set = createBundleSet(bundle);
    set.set(emptyBundle(trustDomain));
    expect(set.x509BundleFor(trustDomain)).toEqual([]);
    set.set(other.bundle);
    expect(set.bundles.map((one) => one.trustDomain)).toEqual(['example.org', 'other.test']);
    expect([set.delete(trustDomain), set.delete(trustDomain)]).toEqual([true, false]);
    expect(set.bundleFor(trustDomain)).toBeUndefined();
  });
});

describe('bundles in files', () => {
  it('go through PEM, DER, JWK Sets and documents and stay the same', async () => {
    const x509 = bundleFromX509Authorities(trustDomain, certificates);
    const jwt = bundleFromJwtAuthorities(trustDomain, bundle.jwtAuthorities);
    const all = formatBundle({ ...bundle, refreshHintSeconds: 60 });
    expect(bundleContentEquals(parseX509Bundle(trustDomain, formatX509Bundle(bundle)), x509)).toBe(true);
    expect(bundleContentEquals(parseX509BundleDer(trustDomain, Buffer.concat(certificates)), x509)).toBe(true);
    expect(bundleContentEquals(parseJwtBundle(trustDomain, formatJwtBundle(bundle)), jwt)).toBe(true);
    expect(bundleEquals(parseBundle(trustDomain, all), { ...bundle, refreshHintSeconds: 60 })).toBe(true);
    expect(bundleContentEquals(await loadX509Bundle(trustDomain, file('x.pem', formatX509Bundle(bundle))), x509)).toBe(true);
    expect(bundleContentEquals(await loadJwtBundle(trustDomain, file('j.json', formatJwtBundle(bundle))), jwt)).toBe(true);
    expect(bundleEquals(await loadBundle(trustDomain, file('b.json', all)), { ...bundle, refreshHintSeconds: 60 })).toBe(true);
  });

  it.each([
    ['no file', () => loadBundle(trustDomain, join(place, 'nothing')), 'missing file.missing'],
    ['a folder', () => loadBundle(trustDomain, place), 'unavailable file.read'],
    ['a file that has no end', () => loadBundle(trustDomain, '/dev/zero'), 'invalid file.too-large'],
    ['no JSON', () => loadBundle(trustDomain, file('no.json', 'x')), 'invalid json.syntax'],
    ['a private key among certificates', () => loadX509Bundle(trustDomain, file('k.pem', '-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n')), 'invalid pem.block-kind'],
    ['an empty PEM file', () => loadX509Bundle(trustDomain, file('e.pem', '')), 'invalid pem.empty'],
    ['a certificate that is none', async () => bundleFromX509Authorities(trustDomain, [Uint8Array.of(1, 2)]), 'invalid bundle.x509-authority.malformed'],
  ])('%s is refused', async (_what, read, outcome) => {
    const [kind = '', reason = ''] = outcome.split(' ');
    await expect(read()).rejects.toMatchObject({ kind, reason });
  });
});
