import { generateKeyPairSync } from 'node:crypto';

import { describe, expect, it } from 'vitest';

import { checkLeaf, parseX509Svid, readId } from '../../spiffe/x509-svid.ts';
import { parseCertificate } from '../../spiffe/x509/certificate.ts';
import { keyUsage } from '../../spiffe/x509/names.ts';
import {
  authorityExtensions,
  ecPair,
  ed25519Pair,
  extension,
  forgeCertificate,
  join,
  leafExtensions,
  nameOf,
  rsaPair,
  type Pair,
} from '../help/forge.ts';
import { refusal } from './refusal.ts';

const web = 'spiffe://example.org/web';
const [ca, key] = [ecPair(), ecPair()];
const pkcs8 = (pair: Pair): Uint8Array => pair.privateKey.export({ type: 'pkcs8', format: 'der' });
const leafOf = (pair: Pair, extensions = leafExtensions(web)): Uint8Array =>
  forgeCertificate(
    { signer: ca.privateKey, spki: pair.spki, validity: [Date.UTC(2026, 0, 1), Date.UTC(2026, 0, 2)], extensions },
  );
const leafWith = (bits: number, uri = web): Uint8Array => leafOf(key, [extension.usage(bits), extension.names([], [uri])]);
const above = forgeCertificate(
  { signer: ca.privateKey, spki: ca.spki, subject: nameOf('authority'), extensions: authorityExtensions() },
);

describe("reading one's own X509-SVID", () => {
  it.each<readonly [string, Pair]>([
    ['P-256', key],
    ['P-384', ecPair('P-384')],
    ['RSA', rsaPair()],
    ['Ed25519', ed25519Pair()],
  ])('takes a key of %s', (_name, pair) => {
    const leaf = leafOf(pair);
    const svid = parseX509Svid({ chain: join(leaf, above), pkcs8Key: pkcs8(pair), hint: 'internal' });
    expect(svid).toMatchObject({
      spiffeId: web,
      serial: parseCertificate(leaf).serial.hex,
      notBeforeAt: Date.UTC(2026, 0, 1),
      expiresAt: Date.UTC(2026, 0, 2),
      hint: 'internal',
    });
    expect(svid.chain.map((der) => Buffer.from(der))).toEqual([Buffer.from(leaf), Buffer.from(above)]);
    expect(svid.privateKey.equals(pair.privateKey)).toBe(true);
    expect([Object.isFrozen(svid), Object.isFrozen(svid.chain)]).toEqual([true, true]);
  });

  it('takes a list as well as concatenated bytes, and no hint', () => {
    const svid = parseX509Svid({ chain: [leafOf(key), above], pkcs8Key: pkcs8(key) });
    expect(svid.chain).toHaveLength(2);
    expect(svid.hint).toBe('');
  });

  const sec1 = key.privateKey.export({ type: 'sec1', format: 'der' });
  const x25519 = generateKeyPairSync('x25519').privateKey.export({ type: 'pkcs8', format: 'der' });
  it.each<readonly [why: string, chain: Uint8Array | readonly Uint8Array[], pkcs8Key: Uint8Array, verdict: string]>([
    ['no chain', [], pkcs8(key), 'invalid certificate.none'],
    ['empty chain', new Uint8Array(), pkcs8(key), 'invalid certificate.none'],
    ['key of another', [leafOf(key)], pkcs8(ecPair()), 'invalid svid.key.mismatch'],
    ['key of another kind', [leafOf(key)], pkcs8(rsaPair()), 'invalid svid.key.mismatch'],
    ['key of the authority', [leafOf(key)], pkcs8(ca), 'invalid svid.key.mismatch'],
    ['no key', [leafOf(key)], new Uint8Array(), 'invalid svid.key.format'],
    ['SEC 1 key', [leafOf(key)], sec1, 'invalid svid.key.format'],
    ['public key', [leafOf(key)], key.spki, 'invalid svid.key.format'],
    ['key that cannot sign', [leafOf(key)], x25519, 'invalid svid.key.type'],
    ['X509-20: no digitalSignature', [leafWith(keyUsage.keyAgreement)], pkcs8(key), 'invalid svid.leaf.digital-signature'],
    ['X509-20: no key usage', [leafOf(key, [extension.names([], [web])])], pkcs8(key), 'invalid svid.leaf.digital-signature'],
    ['X509-06: no path', [leafWith(keyUsage.digitalSignature, 'spiffe://example.org')], pkcs8(key), 'invalid svid.leaf.no-path'],
    ['X509-14: an authority', [above], pkcs8(ca), 'invalid svid.leaf.no-path'],
    ['X509-09: a leaf above the leaf', [leafOf(key), leafOf(key)], pkcs8(key), 'invalid svid.chain.not-authority'],
    ['garbage above the leaf', [leafOf(key), Uint8Array.of(0x30, 0)], pkcs8(key), 'invalid der.truncated'],
  ])('%s: %s', (_why, chain, pkcs8Key, verdict) => {
    expect(refusal(() => parseX509Svid({ chain, pkcs8Key }))).toBe(verdict);
  });

  it('says nothing of a key that cannot be read', () => {
    try {
      parseX509Svid({ chain: [leafOf(key)], pkcs8Key: sec1 });
      expect.unreachable();
    } catch (error) {
      expect(error).toMatchObject({ message: 'private key is not PKCS#8 in DER' });
      expect(error).not.toHaveProperty('cause');
    }
  });
});

describe('the rules of a leaf, one reason each and the first in the order of the standard', () => {
  const signature = keyUsage.digitalSignature;
  it.each<readonly [rule: string, extensions: readonly Uint8Array[], verdict: string]>([
    ['right', leafExtensions(web), 'accepted'],
    ['X509-02', [extension.names([], [web, web]), extension.basic(true)], 'invalid svid.leaf.many-uris'],
    ['X509-03 none', [extension.names(['a.example'], []), extension.basic(true)], 'invalid svid.leaf.no-uri'],
    ['X509-03 no ID', [extension.names([], ['spiffe://example.org/../a']), extension.basic(true)], 'invalid svid.leaf.id'],
    ['X509-08', [extension.names([], ['http://example.org/web']), extension.basic(true)], 'invalid svid.leaf.id'],
    ['X509-06', [extension.names([], ['spiffe://example.org']), extension.basic(true)], 'invalid svid.leaf.no-path'],
    [
      'X509-26',
      [extension.names([], [web]), extension.basic(true), extension.usage(keyUsage.keyCertSign)],
      'invalid svid.leaf.is-authority',
    ],
    [
      'X509-27 keyCertSign',
      [extension.names([], [web]), extension.usage(signature | keyUsage.keyCertSign | keyUsage.cRLSign)],
      'invalid svid.leaf.key-cert-sign',
    ],
    [
      'X509-27 cRLSign',
      [extension.names([], [web]), extension.usage(signature | keyUsage.cRLSign)],
      'invalid svid.leaf.crl-sign',
    ],
  ])('%s', (_rule, extensions, verdict) => {
    expect(refusal(() => checkLeaf(parseCertificate(leafOf(key, extensions))))).toBe(verdict);
  });

  it('Q-03: the ID of an authority is read without them', () => {
    expect(readId(parseCertificate(above))).toBe('spiffe://example.org');
  });
});
