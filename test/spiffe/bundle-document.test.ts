import { readFileSync } from 'node:fs';

import { importJWK } from 'jose';
import { describe, expect, it } from 'vitest';

import type { Bundle } from '../../spiffe/bundle.ts';
import { bundleEquals, composeBundle, emptyBundle, readJwtAuthority, readX509Authority } from '../../spiffe/bundle.ts';
import { formatBundleDocument, formatJwks, formatWitJwks, parseBundleDocument, parseJwks, parseWitJwks } from '../../spiffe/bundle-document.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import type { AuthorityName } from '../vectors/generate-authorities.ts';
import { certificateOf, publicKeyOf, readAuthorities } from '../vectors/generate-authorities.ts';
import type { BundleCase } from '../vectors/generate-bundles.ts';
import { bundleCases } from '../vectors/generate-bundles.ts';
import { formatCases } from '../vectors/generate-ids.ts';
import { refusal } from './refusal.ts';

const file = readFileSync(new URL('../vectors/bundles.json', import.meta.url), 'utf8');
const cases = JSON.parse(file) as readonly BundleCase[];
const authorities = readAuthorities();
const td = 'example.org' as TrustDomain;

const jwt = (name: AuthorityName, keyId: string = name) =>
  readJwtAuthority({
    keyId,
    publicKey: Buffer.from(authorities[name].publicKey, 'base64'),
    expiresAt: undefined,
    tainted: false,
  });
const x509 = (name: AuthorityName) => readX509Authority(certificateOf(authorities[name]));

const full: Bundle = composeBundle({
  trustDomain: td,
  x509Authorities: [x509('p256'), x509('rsa2048'), x509('ed25519')],
  jwtAuthorities: [jwt('p256'), jwt('p521'), jwt('rsa2048', 'a "quoted" kid')],
  witAuthorities: [jwt('p384', 'wit-1')],
  refreshHintSeconds: 300,
  sequence: 18_446_744_073_709_551_615n,
});

function describeBundle(document: string): string {
  const bundle = parseBundleDocument(Buffer.from(document), td);
  expect(bundle.trustDomain).toBe(td);
  const { x509Authorities, jwtAuthorities, witAuthorities, sequence, refreshHintSeconds } = bundle;
  return `x509=${x509Authorities.length} jwt=${jwtAuthorities.length} wit=${witAuthorities.length} sequence=${sequence} hint=${refreshHintSeconds}`;
}

describe('vectors of bundle documents', () => {
  it('has not been edited by hand, and is large', () => {
    expect(file).toBe(formatCases(bundleCases()));
    expect(cases.length).toBeGreaterThan(90);
  });

  it.each(cases.map(({ name, verdict, document }) => [name, verdict, document] as const))('%s: %s', (_, verdict, document) => {
    let seen = '';
    const outcome = refusal(() => {
      seen = describeBundle(document);
    });
    expect(outcome === 'accepted' ? seen : outcome).toBe(verdict);
  });
});

describe('formatBundleDocument', () => {
  it('comes back as it was', () => {
    expect(bundleEquals(parseBundleDocument(formatBundleDocument(full), td), full)).toBe(true);
  });

  it('X509-29 to X509-33, JWT-20, WIT-31: has the members of the standard and no other', () => {
    const { keys } = JSON.parse(formatBundleDocument(full)) as { keys: Record<string, unknown>[] };
    expect(keys.map((key) => Object.keys(key).toSorted().join(' '))).toEqual([
      'crv kty use x x5c y',
      'e kty n use x5c',
      'crv kty use x x5c',
      'crv kid kty use x y',
      'crv kid kty use x y',
      'e kid kty n use',
      'crv kid kty use x y',
    ]);
    expect(keys.map((key) => key['use'])).toEqual(['x509-svid', 'x509-svid', 'x509-svid', 'jwt-svid', 'jwt-svid', 'jwt-svid', 'wit-svid']);
    expect(keys[0]?.['x5c']).toEqual([authorities.p256.certificate]);
  });

  it('BUNDLE-04: writes all digits of the sequence', () => {
    expect(formatBundleDocument(full)).toContain('"spiffe_sequence":18446744073709551615,"spiffe_refresh_hint":300');
  });

  it('BUNDLE-07: leaves out sequence and hint of 0, never keys', () => {
    expect(formatBundleDocument(emptyBundle(td))).toBe('{"keys":[]}');
  });

  it('is understood by another reader of keys', async () => {
    const { keys } = JSON.parse(formatBundleDocument(full)) as { keys: Record<string, string>[] };
    const imported = await importJWK({ ...keys[3] }, 'ES256');
    expect(imported).toMatchObject({ type: 'public' });
    expect(keys[5]).toMatchObject(publicKeyOf(authorities.rsa2048).export({ format: 'jwk' }));
  });
});

describe('key sets of the Workload API', () => {
  it('T-20 WLAPI-25: have JWT keys alone, with kty, kid and the key alone', () => {
    const { keys } = JSON.parse(formatJwks(full)) as { keys: Record<string, unknown>[] };
    expect(keys.map((key) => Object.keys(key).join(' '))).toEqual(['kty kid crv x y', 'kty kid crv x y', 'kty kid n e']);
    expect(parseJwks(formatJwks(full))).toEqual(full.jwtAuthorities);
    expect(formatJwks(emptyBundle(td))).toBe('{"keys":[]}');
  });

  it('WLAPI-31: have WIT keys alone where they are asked for', () => {
    expect(JSON.parse(formatWitJwks(full))).toMatchObject({ keys: [{ kty: 'EC', kid: 'wit-1', crv: 'P-384' }] });
    expect(parseWitJwks(formatWitJwks(full))).toEqual(full.witAuthorities);
    const [key] = (JSON.parse(formatWitJwks(full)) as { keys: object[] }).keys;
    const read = (use: string): number => parseWitJwks(JSON.stringify({ keys: [{ ...key, use }] })).length;
    expect([read('wit-svid'), read('jwt-svid'), read('sig')]).toEqual([1, 0, 0]);
  });

  it('T-20: are read without use, and with ours, but not with another', () => {
    const key = publicKeyOf(authorities.p256).export({ format: 'jwk' });
    const read = (change: object): number => parseJwks(JSON.stringify({ keys: [{ ...key, kid: 'k', ...change }] })).length;
    expect([read({}), read({ use: 'jwt-svid' }), read({ use: 'wit-svid' }), read({ use: 'sig' }), read({ use: null })]).toEqual([
      1, 1, 0, 0, 0,
    ]);
    expect([read({ kty: 'OKP', crv: 'Ed25519' }), read({ kty: 'oct' }), read({ kty: 'XYZ' })]).toEqual([0, 0, 0]);
  });

  it.each([
    ['{"keys":[{"kty":"EC","crv":"P-256"}]}', 'invalid jwk.malformed'],
    ['{"keys":{}}', 'invalid bundle-document.keys'],
    ['{"keys":[{"kty":"RSA","d":"AAAA","kid":"k"}]}', 'invalid jwk.secret'],
    ['', 'invalid json.syntax'],
  ])('refuses %s', (text, outcome) => {
    expect(refusal(() => parseJwks(text))).toBe(outcome);
  });

  it('T-H06: are not read beyond 2 MiB', () => {
    expect(refusal(() => parseJwks(`{"keys":[]}${' '.repeat(2_097_152)}`))).toBe('invalid json.too-large');
  });
});
