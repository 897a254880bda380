/** Values for property tests of the conversions, and the way through the wire that they share. */
import { generateKeyPairSync } from 'node:crypto';
import fc from 'fast-check';
import type { Bundle } from '../../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../../spiffe/entry.ts';
import { parseSpiffeId, parseTrustDomain } from '../../../spiffe/id.ts';
import { composeSelector } from '../../../spiffe/selector.ts';
import { authorityExtensions, ecPair, forgeCertificate } from '../../help/forge.ts';

/** What the other side reads when this side writes the message. */
export function overTheWire<In, Out>(
  type: { serialize(value: In): Buffer; deserialize(bytes: Buffer): Out },
  message: In,
): Out {
  return type.deserialize(type.serialize(message));
}

const characters = (set: string, maxLength: number): fc.Arbitrary<string> =>
  fc.string({ unit: fc.constantFrom(...Array.from(set)), minLength: 1, maxLength });

const segment = characters('abcXYZ019-_', 12);

export const trustDomains = characters('abz09.-_', 20).map(parseTrustDomain);

export const spiffeIds = fc
  .tuple(trustDomains, fc.array(segment, { maxLength: 4 }))
  .map(([trustDomain, segments]) => parseSpiffeId(['spiffe:/', trustDomain, ...segments].join('/')));

export const selectors = fc
  .tuple(characters('abc_', 8), fc.string({ unit: 'grapheme', minLength: 1, maxLength: 30 }))
  .map(([type, value]) => composeSelector(type, value));

const wholeSeconds = fc.integer({ min: 1, max: 8_000_000_000 }).map((seconds) => seconds * 1000);
const ttl = fc.integer({ min: 0, max: 2_147_483_647 });

export const entries: fc.Arbitrary<RegistrationEntry> = fc.record({
  id: characters('abcXYZ019-_.', 40),
  spiffeId: spiffeIds,
  parentId: spiffeIds,
  selectors: fc.uniqueArray(selectors, { minLength: 1, maxLength: 5 }),
  x509SvidTtlSeconds: ttl,
  jwtSvidTtlSeconds: ttl,
  federatesWith: fc.uniqueArray(trustDomains, { maxLength: 3 }),
  dnsNames: fc.uniqueArray(characters('abc', 10), { maxLength: 3 }),
  admin: fc.boolean(),
  downstream: fc.boolean(),
  storeSvid: fc.boolean(),
  hint: fc.string({ unit: 'grapheme', maxLength: 20 }),
  disableX509SvidPrefetch: fc.boolean(),
  jwtSvidIncludeJti: fc.boolean(),
  forbidCache: fc.boolean(),
  expiresAt: fc.option(wholeSeconds, { nil: undefined }),
  createdAt: wholeSeconds,
  revisionNumber: fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER }),
});

const publicKeys = ['prime256v1', 'secp384r1'].map((namedCurve) =>
  Uint8Array.from(generateKeyPairSync('ec', { namedCurve }).publicKey.export({ format: 'der', type: 'spki' })),
);

export function bundlesWith(certificates: readonly Uint8Array[]): fc.Arbitrary<Bundle> {
  // Key ids of the one kind never meet those of the other.
  const keysNamed = (initial: string): fc.Arbitrary<Bundle['jwtAuthorities']> =>
    fc.uniqueArray(
      fc.record({
        keyId: characters('abcXYZ09', 32).map((rest) => initial + rest),
        publicKey: fc.constantFrom(...publicKeys),
        expiresAt: fc.option(wholeSeconds, { nil: undefined }),
        tainted: fc.boolean(),
      }),
      { selector: ({ keyId }) => keyId, maxLength: 4 },
    );
  return fc.record({
    trustDomain: trustDomains,
    x509Authorities: fc.uniqueArray(fc.record({ certificate: fc.constantFrom(...certificates), tainted: fc.boolean() }), {
      selector: ({ certificate }) => certificate,
    }),
    jwtAuthorities: keysNamed('j'),
    witAuthorities: keysNamed('w'),
    refreshHintSeconds: fc.nat(),
    sequence: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  });
}

/** Certificates of different authorities, for tests that carry them without asking what they are for. */
export function authorityCertificates(count: number): readonly Uint8Array[] {
  return Array.from({ length: count }, () => {
    const { privateKey, spki } = ecPair();
    return forgeCertificate({ signer: privateKey, spki, extensions: authorityExtensions() });
  });
}
