import { describe, expect, it } from 'vitest';
import { createMemoryKeyStore } from '../../../server/authority/keys-memory.ts';
import { createSelfUpstream } from '../../../server/authority/upstream-self.ts';
import { parseCertificate } from '../../../spiffe/x509/certificate.ts';
import { encodeName } from '../../../spiffe/x509/encoded.ts';
import { keyUsage, oid } from '../../../spiffe/x509/names.ts';
import { parseAuthorityCertificate } from '../../../spiffe/bundle.ts';
import { oracle } from '../../help/peculiar.ts';
import { exampleOrg } from '../../help/store.ts';

const at = Date.UTC(2026, 0, 1, 12, 0, 0, 250);
const expiresAt = at + 24 * 3_600_000;

describe('createSelfUpstream', () => {
  it.each(['ec-p256', 'ec-p384', 'rsa-2048'] as const)('certifies itself with a key of type %s', async (type) => {
    const keys = createMemoryKeyStore();
    const key = await keys.generate('x509-1', type);
    const der = await createSelfUpstream(keys).certify({ trustDomain: exampleOrg, key, at, expiresAt });
    const certificate = parseCertificate(der);
    expect(certificate.uris).toEqual(['spiffe://example.org']);
    expect(certificate.isAuthority).toBe(true);
    expect(certificate.keyUsage).toBe(keyUsage.keyCertSign | keyUsage.cRLSign);
    expect(certificate.notBeforeAt).toBe(Math.floor((at - 10_000) / 1000) * 1000);
    expect(certificate.notAfterAt).toBe(Math.floor(expiresAt / 1000) * 1000);
    expect(certificate.authorityKeyId).toBeUndefined();
    const native = parseAuthorityCertificate(der);
    expect(native.verify(native.publicKey)).toBe(true);
    expect(native.subject.split('\n')).toEqual(['C=US', 'O=SPIFFE', `serialNumber=${certificate.serial.decimal}`]);
    const read = new oracle.X509Certificate(Buffer.from(der));
    expect(read.issuer).toBe(read.subject);
  });

  it('takes a name of its own', async () => {
    const keys = createMemoryKeyStore();
    const key = await keys.generate('x509-1', 'ec-p256');
    const subject = encodeName([[oid.commonName, 'our root']]);
    const der = await createSelfUpstream(keys, subject).certify({ trustDomain: exampleOrg, key, at, expiresAt });
    expect(Buffer.from(parseCertificate(der).subject)).toEqual(Buffer.from(subject));
  });

  it('makes no authority that is over already', async () => {
    const keys = createMemoryKeyStore();
    const key = await keys.generate('x509-1', 'ec-p256');
    await expect(createSelfUpstream(keys).certify({ trustDomain: exampleOrg, key, at, expiresAt: at })).rejects.toMatchObject({
      kind: 'internal',
      reason: 'x509.draft.validity',
    });
  });
});
