import { generateKeyPairSync } from 'node:crypto';

import { describe, expect, it } from 'vitest';

import { parseSpiffeId } from '../../spiffe/id.ts';
import { assembleWitSvid, draftWitSvid, formatPrivateJwk, parseWitSvid, receiveWitSvid, type WitSvidDraft } from '../../spiffe/wit-svid.ts';
import { refusal } from './refusal.ts';

/** The example of the standard [WIT-SVID A]; the key of its issuer is not published. */
const example =
  'eyJhbGciOiJFUzI1NiIsImtpZCI6ImxRU2kzaFpGbmRhMkQtWEprajF6bDdmb0pvdWl3STRuckF5aHk0alppSmciLCJ0eXAiOiJ3aXQrand0In0.' +
  'eyJjbmYiOnsiandrIjp7ImFsZyI6IkVTMjU2IiwiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIngiOiJyelA3bUxDS0FIV21zTTZYMEV3VklTQ19oSTN1' +
  'amN1OTVmZlVreWVER0dvIiwieSI6InVPcmZEbGp0WDltM2pZLWhzeWhMSllheHRHa3pEdjVlNWttQ2U1OFo5N2cifX0sImV4cCI6MTc2NTQ1NjUwMywi' +
  'aWF0IjoxNzY1NDUyOTAzLCJqdGkiOiIxeWoxOVY0TWNPQXpNY0ZpN3F2c2dfQWdDeGxyWTVFX3g1MDl3bEtLUXRjIiwic3ViIjoic3BpZmZlOi8vZXhh' +
  'bXBsZS5jb20vbXktd29ya2xvYWQifQ.' +
  'sfhEvZNdY_kWrICF08lX0u__rn39YnTavnW-VPBS20zgowDh6-X43v5eOUKZbjZf06yLBQM-Mry5w1g1QFsCkg';

const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const good: WitSvidDraft = {
  spiffeId: parseSpiffeId('spiffe://example.org/web'),
  confirmation: { key: publicKey, algorithm: 'ES256' },
  notBeforeAt: 999_990_000,
  issuedAt: 1_000_000_999,
  expiresAt: 1_003_600_000,
  keyId: 'k1',
  algorithm: 'ES256',
};
const partsOf = (text: string): Record<string, unknown>[] =>
  text.split('.').slice(0, 2).map((part) => JSON.parse(Buffer.from(part, 'base64url').toString()) as Record<string, unknown>);
const unsigned = (draft: WitSvidDraft): string => assembleWitSvid(draftWitSvid(draft), new Uint8Array(64));

describe('parseWitSvid', () => {
  it('WIT-35: reads the example of the standard', () => {
    const read = parseWitSvid(example);
    expect(read).toMatchObject({
      spiffeId: 'spiffe://example.com/my-workload',
      algorithm: 'ES256',
      keyId: 'lQSi3hZFnda2D-XJkj1zl7foJouiwI4nrAyhy4jZiJg',
      issuedAt: 1_765_452_903_000,
      expiresAt: 1_765_456_503_000,
      notBeforeAt: undefined,
      jti: '1yj19V4McOAzMcFi7qvsg_AgCxlrY5E_x509wlKKQtc',
      confirmation: { algorithm: 'ES256' },
    });
    expect(read.confirmation.key.export({ format: 'jwk' })).toEqual({
      kty: 'EC',
      crv: 'P-256',
      x: 'rzP7mLCKAHWmsM6X0EwVISC_hI3ujcu95ffUkyeDGGo',
      y: 'uOrfDljtX9m3jY-hsyhLJYaxtGkzDv5e5kmCe58Z97g',
    });
  });
});

describe('draftWitSvid', () => {
  it('WIT-02 WIT-05 WIT-07 WIT-09 WIT-10 WIT-15 WIT-20 WIT-21: says what is asked for and nothing else', () => {
    const { kty, crv, x, y } = publicKey.export({ format: 'jwk' });
    expect(partsOf(draftWitSvid(good))).toEqual([
      { alg: 'ES256', kid: 'k1', typ: 'wit+jwt' },
      { sub: good.spiffeId, nbf: 999_990, iat: 1_000_000, exp: 1_003_600, cnf: { jwk: { kty, crv, x, y, alg: 'ES256' } } },
    ]);
    expect(partsOf(draftWitSvid({ ...good, jti: 'j' }))[1]).toMatchObject({ jti: 'j' });
  });

  it('WIT-11 T-16: takes no secret along, whatever key it is given', () => {
    expect(draftWitSvid({ ...good, confirmation: { key: privateKey, algorithm: 'ES256' } })).toBe(draftWitSvid(good));
  });

  it.each<[string, Partial<WitSvidDraft>]>([
    ['no key ID', { keyId: '' }],
    ['no life', { expiresAt: good.issuedAt }],
    ['an end before its beginning', { notBeforeAt: good.expiresAt }],
    ['an instant that is none', { issuedAt: Number.NaN }],
    ['a beginning before time', { notBeforeAt: -1 }],
  ])('refuses %s', (_, change) => {
    expect(refusal(() => draftWitSvid({ ...good, ...change }))).toBe('invalid wit-svid.draft');
  });
});

describe('receiveWitSvid', () => {
  const key = formatPrivateJwk(privateKey, 'ES256');

  it('WLAPI-30: takes a token with the private key that belongs to it', () => {
    const svid = receiveWitSvid(unsigned(good), key, 'internal');
    expect(svid).toMatchObject({ spiffeId: good.spiffeId, algorithm: 'ES256', expiresAt: 1_003_600_000, issuedAt: 1_000_000_000, hint: 'internal' });
    expect(svid.privateKey.equals(privateKey)).toBe(true);
    expect(Object.isFrozen(svid)).toBe(true);
  });

  const other = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
  it.each<[string, string]>([
    ['another key', formatPrivateJwk(other, 'ES256')],
    ['the public key', JSON.stringify(publicKey.export({ format: 'jwk' }))],
    ['PKCS#8', privateKey.export({ format: 'pem', type: 'pkcs8' }).toString()],
    ['nothing', ''],
    ['an octet key', '{"kty":"oct","k":"AAAA"}'],
    ['a list', '[]'],
  ])('T-21: refuses %s, and does not repeat it', (_, text) => {
    expect(refusal(() => receiveWitSvid(unsigned(good), text))).toBe('invalid wit-svid.key');
    try {
      receiveWitSvid(unsigned(good), text);
    } catch (error) {
      expect((error as Error).cause).toBeUndefined();
    }
  });
});
