import { generateKeyPairSync } from 'node:crypto';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bundleFromMessage, bundlePartsFromMessage, bundleToMessage } from '../../../proto/convert/bundle.ts';
import type { Bundle } from '../../../proto/gen/spire/api/types/Bundle.ts';
import type { BundleMask__Output } from '../../../proto/gen/spire/api/types/BundleMask.ts';
import { loadServices } from '../../../proto/load.ts';
import { authorityCertificates, bundlesWith, overTheWire } from './arbitrary.ts';

const service = 'spire.api.server.bundle.v1.Bundle';
const { GetBundle } = loadServices(service)[service];
const received = (message: Bundle): ReturnType<typeof GetBundle.responseDeserialize> =>
  overTheWire(GetBundle.responseType, message);

const certificates = authorityCertificates(3);
const [certificate = new Uint8Array()] = certificates;
const bundles = bundlesWith(certificates);
const spki = (type: 'ed25519'): Buffer => generateKeyPairSync(type).publicKey.export({ format: 'der', type: 'spki' });
const keyPair = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
const goodKey = { key_id: 'k', public_key: keyPair.publicKey.export({ format: 'der', type: 'spki' }) };

const noMask: BundleMask__Output = {
  x509_authorities: false,
  jwt_authorities: false,
  refresh_hint: false,
  sequence_number: false,
  wit_authorities: false,
};

describe('bundles in messages', () => {
  it('survive the wire whole, taint and 64-bit sequence included', () => {
    fc.assert(
      fc.property(bundles, (bundle) => {
        expect(bundleFromMessage(received(bundleToMessage(bundle)))).toEqual(bundle);
      }),
    );
  });

  it.each([
    ['x509_authorities', 'x509Authorities'],
    ['jwt_authorities', 'jwtAuthorities'],
    ['wit_authorities', 'witAuthorities'],
    ['refresh_hint', 'refreshHintSeconds'],
    ['sequence_number', 'sequence'],
  ] as const)('carry and replace only %s under its mask, and always the trust domain', (name, field) => {
    const mask = { ...noMask, [name]: true };
    fc.assert(
      fc.property(bundles, (bundle) => {
        expect(Object.keys(bundleToMessage(bundle, mask)).toSorted()).toEqual([name, 'trust_domain'].toSorted());
        expect(bundlePartsFromMessage(received(bundleToMessage(bundle)), mask)).toEqual({
          trustDomain: bundle.trustDomain,
          [field]: bundle[field],
        });
      }),
    );
  });

  it('do not look at parts outside the mask', () => {
    const broken = received({ trust_domain: 'a', x509_authorities: [{ asn1: Buffer.from('x') }], refresh_hint: 5 });
    expect(bundlePartsFromMessage(broken, { ...noMask, refresh_hint: true })).toEqual({ trustDomain: 'a', refreshHintSeconds: 5 });
  });

  it('keep no window on the received bytes', () => {
    const bundle = bundleFromMessage(received({ trust_domain: 'a', x509_authorities: [{ asn1: certificate }] }));
    expect(bundle.x509Authorities[0]?.certificate.buffer.byteLength).toBe(certificate.length);
  });

  it('take an ID as the trust domain and drop its path', () => {
    expect(bundleFromMessage(received({ trust_domain: 'spiffe://a/b' })).trustDomain).toBe('a');
  });
});

describe('malformed bundles', () => {
  it.each<[string, Bundle, string]>([
    ['no trust domain', {}, 'proto.bundle.trust-domain'],
    ['bad trust domain', { trust_domain: 'A' }, 'proto.bundle.trust-domain'],
    ['no certificate', { trust_domain: 'a', x509_authorities: [{}] }, 'bundle.x509-authority.malformed'],
    [
      'two certificates in one',
      { trust_domain: 'a', x509_authorities: [{ asn1: Buffer.concat([certificate, certificate]) }] },
      'bundle.x509-authority.malformed',
    ],
    [
      'half a certificate',
      { trust_domain: 'a', x509_authorities: [{ asn1: certificate.subarray(0, 100) }] },
      'bundle.x509-authority.malformed',
    ],
    ['no key id', { trust_domain: 'a', jwt_authorities: [{ ...goodKey, key_id: '' }] }, 'bundle.jwt-authority.key-id'],
    ['no public key', { trust_domain: 'a', jwt_authorities: [{ key_id: 'k' }] }, 'jwt-key.malformed'],
    [
      'a key no token is signed with',
      { trust_domain: 'a', jwt_authorities: [{ key_id: 'k', public_key: spki('ed25519') }] },
      'proto.bundle.public-key',
    ],
    [
      'a WIT authority with the key id of a JWT authority',
      { trust_domain: 'a', jwt_authorities: [goodKey], wit_authorities: [goodKey] },
      'bundle.jwt-authority.key-id-taken',
    ],
    ['a WIT authority without key id', { trust_domain: 'a', wit_authorities: [{ ...goodKey, key_id: '' }] }, 'bundle.jwt-authority.key-id'],
    ['key expiring before time', { trust_domain: 'a', jwt_authorities: [{ ...goodKey, expires_at: -1 }] }, 'proto.instant.range'],
    ['negative refresh hint', { trust_domain: 'a', refresh_hint: -1 }, 'proto.integer.range'],
  ])('%s is refused', (_, message, reason) => {
    expect(() => bundleFromMessage(received(message))).toThrowError(expect.objectContaining({ kind: 'invalid', reason }));
  });

  it('none at all is refused', () => {
    expect(() => bundleFromMessage(null)).toThrowError(
      expect.objectContaining({ kind: 'invalid', reason: 'proto.bundle.missing' }),
    );
  });
});
