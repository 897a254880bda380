import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { jwtSvidFromMessage, jwtSvidToMessage, x509SvidFromMessage, x509SvidToMessage } from '../../../proto/convert/svid.ts';
import { loadServices } from '../../../proto/load.ts';
import { overTheWire, spiffeIds } from './arbitrary.ts';

const service = 'spire.api.server.svid.v1.SVID';
const { MintX509SVID, MintJWTSVID } = loadServices(service)[service];
const instants = fc.integer({ min: 1, max: 4_000_000_000 }).map((seconds) => seconds * 1000);
const id = { trust_domain: 'a', path: '/b' };

describe('X509-SVIDs in messages', () => {
  it('survive the wire in the order of the chain', () => {
    const svids = fc.record({
      id: spiffeIds,
      certificates: fc.array(fc.uint8Array({ minLength: 1, maxLength: 20 }), { minLength: 1, maxLength: 4 }),
      expiresAt: instants,
      hint: fc.string({ maxLength: 10 }),
    });
    fc.assert(
      fc.property(svids, (svid) => {
        const message = overTheWire(MintX509SVID.responseType, { svid: x509SvidToMessage(svid) }).svid;
        expect(x509SvidFromMessage(message)).toEqual(svid);
      }),
    );
  });

  it.each([
    [null, 'proto.svid.missing'],
    [{ svid: { id } }, 'proto.svid.chain-empty'],
    [{ svid: { cert_chain: [Buffer.from('x')] } }, 'proto.id.missing'],
    [{ svid: { id, cert_chain: [Buffer.from('x')], expires_at: -5 } }, 'proto.instant.range'],
  ])('%j is refused', (message, reason) => {
    const svid = message && overTheWire(MintX509SVID.responseType, message).svid;
    expect(() => x509SvidFromMessage(svid)).toThrowError(expect.objectContaining({ kind: 'invalid', reason }));
  });
});

describe('JWT-SVIDs in messages', () => {
  it('survive the wire', () => {
    const svids = fc.record({
      id: spiffeIds,
      token: fc.string({ minLength: 1, maxLength: 20 }),
      issuedAt: instants,
      expiresAt: instants,
      hint: fc.string({ maxLength: 10 }),
    });
    fc.assert(
      fc.property(svids, (svid) => {
        const message = overTheWire(MintJWTSVID.responseType, { svid: jwtSvidToMessage(svid) }).svid;
        expect(jwtSvidFromMessage(message)).toEqual(svid);
      }),
    );
  });

  it.each([
    [null, 'proto.svid.missing'],
    [{ svid: { id } }, 'proto.svid.token-empty'],
    [{ svid: { token: 't' } }, 'proto.id.missing'],
    [{ svid: { id, token: 't', issued_at: -5 } }, 'proto.instant.range'],
  ])('%j is refused', (message, reason) => {
    const svid = message && overTheWire(MintJWTSVID.responseType, message).svid;
    expect(() => jwtSvidFromMessage(svid)).toThrowError(expect.objectContaining({ kind: 'invalid', reason }));
  });
});
