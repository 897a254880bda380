import { randomBytes, sign, X509Certificate, type KeyObject } from 'node:crypto';

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';

import { serverId, trustDomainId, type SpiffeId, type TrustDomain } from '../../../spiffe/id.ts';
import { parseCertificate } from '../../../spiffe/x509/certificate.ts';
import { draftAuthority, draftLeaf, issuerFrom, validityOf, type Issuer, type LeafProfile } from '../../../spiffe/x509/draft.ts';
import { assembleCertificate, checkDraft } from '../../../spiffe/x509/lint.ts';
import { signatureSchemes } from '../../../spiffe/x509/names.ts';
import { keyIdOf } from '../../../spiffe/x509/public-key.ts';
import { createTemplates, prepareTemplate } from '../../../spiffe/x509/template.ts';
import { verifyX509Svid } from '../../../spiffe/x509/verify.ts';
import { ecPair, rsaPair, type Pair } from '../../help/forge.ts';
import { openssl } from '../../help/openssl.ts';
import { composeBody, importSpki, oracle } from '../../help/peculiar.ts';

const td = 'example.org' as TrustDomain;
const at = Date.UTC(2026, 10, 22, 12, 0, 0) + 345;
const ttlSeconds = 3600;
const ids: Readonly<Record<LeafProfile, SpiffeId>> = {
  workload: 'spiffe://example.org/web' as SpiffeId,
  agent: 'spiffe://example.org/spire/agent/join_token/abc' as SpiffeId,
  server: serverId(td),
};
const pairs = { 'P-256': ecPair(), 'P-384': ecPair('P-384'), RSA: rsaPair() } as const;
type Kind = keyof typeof pairs;
const kinds = Object.keys(pairs) as readonly Kind[];

interface SelfSigned {
  readonly der: Uint8Array;
  readonly issuer: Issuer;
  readonly serial: Uint8Array;
  readonly key: KeyObject;
}

function selfSigned(pair: Pair, ttl = 86_400): SelfSigned {
  const serial = randomBytes(16);
  const fields = { serial, publicKey: pair.spki, trustDomain: td };
  const draft = draftAuthority({ ...fields, ...validityOf(at, ttl) });
  const checked = checkDraft(draft, { ...fields, profile: 'authority', at, ttlSeconds: ttl });
  const { digest } = signatureSchemes[checked.signatureAlgorithm];
  const der = assembleCertificate(checked, sign(digest, checked.tbs, pair.privateKey));
  return { der, issuer: issuerFrom(parseCertificate(der), td), serial, key: pair.privateKey };
}

function issue(authority: SelfSigned, profile: LeafProfile, publicKey: Uint8Array, dnsNames: readonly string[] = []): Uint8Array {
  const { issuer } = authority;
  const common = { serial: randomBytes(16), publicKey, spiffeId: ids[profile], dnsNames };
  const draft = prepareTemplate(profile, issuer).fill({ ...common, ...validityOf(at, ttlSeconds, issuer.notAfterAt) });
  const checked = checkDraft(draft, { ...common, profile, issuer, at, ttlSeconds });
  const { digest } = signatureSchemes[checked.signatureAlgorithm];
  return assembleCertificate(checked, sign(digest, checked.tbs, authority.key));
}

const decimalOf = (serial: Uint8Array): string => BigInt(`0x${Buffer.from(serial).toString('hex')}`).toString();
/** The oracle wants the sign octet written out. */
const serialHexOf = (serial: Uint8Array): string =>
  `${(serial[0] ?? 0) >= 0x80 ? '00' : ''}${Buffer.from(serial).toString('hex')}`;

describe('a leaf, against the oracle', () => {
  const dnsLists: readonly (readonly string[])[] = [[], ['web.example.org'], ['*.example.org', 'web.example.org', 'a.b']];
  const rows = kinds.flatMap((signer) => kinds.flatMap((key) => dnsLists.map((dnsNames) => ({ signer, key, dnsNames }))));

  it.each(rows)('signed by $signer for $key with $dnsNames has equal to-be-signed bytes', async ({ signer, key, dnsNames }) => {
    const { issuer, serial: authoritySerial } = selfSigned(pairs[signer]);
    const { spki } = pairs[key];
    const serial = randomBytes(16);
    const validity = validityOf(at, ttlSeconds, issuer.notAfterAt);
    const fields = { serial, publicKey: spki, spiffeId: ids.workload, dnsNames, ...validity };
    const rsaOnly = key === 'RSA' ? oracle.KeyUsageFlags.keyEncipherment : 0;
    const [commonName] = dnsNames;
    const expected = await composeBody({
      signer: pairs[signer].privateKey,
      signerAlgorithm: signer,
      serialHex: serialHexOf(serial),
      ...validity,
      issuer: [{ C: ['US'] }, { O: ['SPIFFE'] }, { '2.5.4.5': [decimalOf(authoritySerial)] }],
      subject: [
        { C: ['US'] },
        { O: ['SPIRE'] },
        // Go writes a name with an asterisk as UTF-8.
        ...(commonName === undefined
          ? []
          : [{ CN: [commonName.includes('*') ? { utf8String: commonName } : { printableString: commonName }] }]),
      ],
      spki,
      spkiAlgorithm: key,
      extensions: [
        new oracle.KeyUsagesExtension(oracle.KeyUsageFlags.digitalSignature | rsaOnly, true),
        new oracle.ExtendedKeyUsageExtension([oracle.ExtendedKeyUsage.serverAuth, oracle.ExtendedKeyUsage.clientAuth]),
        new oracle.BasicConstraintsExtension(false, undefined, true),
        await oracle.SubjectKeyIdentifierExtension.create(await importSpki(spki, key)),
        new oracle.AuthorityKeyIdentifierExtension(Buffer.from(issuer.keyId).toString('hex')),
        new oracle.SubjectAlternativeNameExtension([
          ...dnsNames.map((value) => ({ type: 'dns', value }) as const),
          { type: 'url', value: ids.workload },
        ]),
      ],
    });
    expect(Buffer.from(draftLeaf('workload', issuer, fields).tbs).toString('hex')).toBe(expected.toString('hex'));
    expect(Buffer.from(prepareTemplate('workload', issuer).fill(fields).tbs).toString('hex')).toBe(expected.toString('hex'));
  });
});

describe('an authority, against the oracle', () => {
  it.each(kinds)('signed by itself with %s has equal to-be-signed bytes', async (kind) => {
    const { spki, privateKey } = pairs[kind];
    const serial = randomBytes(16);
    const validity = validityOf(at, 86_400);
    const name = [{ C: ['US'] }, { O: ['SPIFFE'] }, { '2.5.4.5': [decimalOf(serial)] }];
    const expected = await composeBody({
      signer: privateKey,
      signerAlgorithm: kind,
      serialHex: serialHexOf(serial),
      ...validity,
      issuer: name,
      subject: name,
      spki,
      spkiAlgorithm: kind,
      extensions: [
        new oracle.KeyUsagesExtension(oracle.KeyUsageFlags.keyCertSign | oracle.KeyUsageFlags.cRLSign, true),
        new oracle.BasicConstraintsExtension(true, undefined, true),
        await oracle.SubjectKeyIdentifierExtension.create(await importSpki(spki, kind)),
        new oracle.SubjectAlternativeNameExtension([{ type: 'url', value: trustDomainId(td) }]),
      ],
    });
    const { tbs } = draftAuthority({ serial, ...validity, publicKey: spki, trustDomain: td });
    expect(Buffer.from(tbs).toString('hex')).toBe(expected.toString('hex'));
  });
});

describe('the template', () => {
  const { issuer } = selfSigned(pairs['P-256']);

  it('writes the same bytes as the draft for any serial, instant and name', () => {
    const template = prepareTemplate('workload', issuer);
    const label = fc.stringMatching(/^[a-z0-9]{1,12}$/);
    const field = fc.record({
      serial: fc.uint8Array({ minLength: 1, maxLength: 20 }),
      // Past 2049 the other form of time takes over.
      notBeforeAt: fc.integer({ min: 0, max: Date.UTC(2060, 0, 1) }),
      notAfterAt: fc.integer({ min: 0, max: Date.UTC(2400, 0, 1) }),
      publicKey: fc.constantFrom(...kinds.map((kind) => pairs[kind].spki)),
      spiffeId: fc.stringMatching(/^[a-z]{1,200}$/).map((path) => `spiffe://example.org/${path}` as SpiffeId),
      dnsNames: fc.array(label, { maxLength: 20 }),
    });
    fc.assert(
      fc.property(field, (fields) => {
        expect(template.fill(fields)).toEqual(draftLeaf('workload', issuer, fields));
      }),
      { numRuns: 300 },
    );
  });

  it('is prepared once for an authority and a profile', () => {
    const templateFor = createTemplates();
    expect(templateFor('agent', issuer)).toBe(templateFor('agent', issuer));
    expect(templateFor('agent', issuer)).not.toBe(templateFor('workload', issuer));
    expect(templateFor('server', issuer).profile).toBe('server');
  });
});

describe('what is assembled', () => {
  it.each(kinds.flatMap((signer) => (['workload', 'agent', 'server'] as const).map((profile) => [signer, profile] as const)))(
    'by %s for %s verifies by node, by openssl, by the oracle and by ourselves',
    async (signer, profile) => {
      const authority = selfSigned(pairs[signer]);
      const leaf = issue(authority, profile, ecPair().spki, ['web.example.org']);
      const [node, above] = [new X509Certificate(leaf), new X509Certificate(authority.der)];
      expect(node.verify(above.publicKey)).toBe(true);
      expect(node.checkIssued(above)).toBe(true);
      expect(above.verify(above.publicKey)).toBe(true);
      expect(node.subjectAltName).toBe(`DNS:web.example.org, URI:${ids[profile]}`);
      const [theirs, theirAuthority] = [
        new oracle.X509Certificate(Buffer.from(leaf)),
        new oracle.X509Certificate(Buffer.from(authority.der)),
      ];
      expect(await theirs.verify({ publicKey: theirAuthority.publicKey, date: new Date(at) })).toBe(true);
      expect(verifyX509Svid({ chain: [leaf], authorities: [authority.der], at }).spiffeId).toBe(ids[profile]);
      const printed = openssl(['x509', '-inform', 'der', '-noout', '-text', '-serial'], leaf);
      if (printed !== undefined) {
        expect(printed).toContain(`URI:${ids[profile]}`);
        expect(printed).toMatch(/Key Usage: critical\n\s+Digital Signature\n/);
        expect(printed.toLowerCase()).toContain(`serial=${parseCertificate(leaf).serial.hex}`);
      }
    },
  );

  it('takes an authority between: signed from above, with its key identifier and no longer life', () => {
    const root = selfSigned(pairs['P-384'], 7200);
    const { spki, privateKey } = pairs['P-256'];
    const fields = { serial: randomBytes(16), publicKey: spki, trustDomain: td, issuer: root.issuer };
    const draft = draftAuthority({ ...fields, ...validityOf(at, 86_400, root.issuer.notAfterAt) });
    const checked = checkDraft(draft, { ...fields, profile: 'authority', at, ttlSeconds: 86_400 });
    const der = assembleCertificate(checked, sign('sha384', checked.tbs, root.key));
    const certificate = parseCertificate(der);
    expect(certificate.notAfterAt).toBe(root.issuer.notAfterAt);
    expect(Buffer.from(certificate.authorityKeyId ?? [])).toEqual(Buffer.from(keyIdOf(pairs['P-384'].spki)));
    const leaf = issue(
      { der, issuer: issuerFrom(certificate, td), serial: fields.serial, key: privateKey },
      'workload',
      ecPair().spki,
    );
    expect(verifyX509Svid({ chain: [leaf, der], authorities: [root.der], at }).path).toHaveLength(3);
    // T-09: an anchor need not be self-signed.
    expect(verifyX509Svid({ chain: [leaf], authorities: [der], at }).path).toHaveLength(2);
  });
});

describe('T-C07 validity', () => {
  it('begins 10 s early and ends to the second, never after the issuer', () => {
    expect(validityOf(at, 3600)).toEqual({ notBeforeAt: at - 345 - 10_000, notAfterAt: at - 345 + 3_600_000 });
    expect(validityOf(at, 3600, at + 1999)).toEqual({ notBeforeAt: at - 10_345, notAfterAt: at - 345 + 2000 });
  });

  it('is never longer than asked, in whole seconds, for any instant', () => {
    fc.assert(
      fc.property(fc.integer({ min: 20_000, max: 4e12 }), fc.integer({ min: 1, max: 1e8 }), (moment, ttl) => {
        const { notBeforeAt, notAfterAt } = validityOf(moment, ttl);
        expect([notBeforeAt % 1000, notAfterAt % 1000]).toEqual([0, 0]);
        expect(notAfterAt).toBeLessThanOrEqual(moment + ttl * 1000);
        expect(notAfterAt).toBeGreaterThan(moment + ttl * 1000 - 1000);
        expect(notBeforeAt).toBeGreaterThan(moment - 11_000);
      }),
    );
  });
});
