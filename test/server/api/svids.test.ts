import { describe, expect, it } from 'vitest';
import { loadServices } from '../../../proto/load.ts';
import { parseCertificate } from '../../../spiffe/x509/certificate.ts';
import { parseWitSvid } from '../../../spiffe/wit-svid.ts';
import { agentCaller, unary } from '../../help/api.ts';
import { openApiWorld } from '../../help/api-world.ts';

const { 'spire.api.server.svid.v1.SVID': service } = loadServices('spire.api.server.svid.v1.SVID');

describe('BatchNewX509SVID', () => {
  it('spire-wire 7: one result for each parameter, in order, status always set', async () => {
    const { admit, svidsApi, register, request } = await openApiWorld();
    const agent = await admit('a');
    const other = await admit('b');
    const mine = await register(agent, '/web', { dnsNames: ['web.example'] });
    const foreign = await register(other, '/db');
    const good = request();
    const broken = Buffer.from(good.csr);
    broken[broken.length - 1] = (broken.at(-1) ?? 0) ^ 1;
    const params = [
      { entry_id: mine, csr: good.csr },
      { entry_id: '', csr: good.csr },
      { entry_id: mine },
      { entry_id: foreign, csr: good.csr },
      { entry_id: 'unknown', csr: good.csr },
      { entry_id: mine, csr: Buffer.from('junk') },
      { entry_id: mine, csr: broken },
    ];
    const { results } = await unary(service.BatchNewX509SVID, svidsApi.BatchNewX509SVID, { params }, agentCaller(agent));
    expect(results.map(({ status }) => [status?.code, status?.message])).toEqual([
      [0, 'OK'],
      [3, 'missing entry ID'],
      [3, 'missing CSR'],
      [5, 'entry not found or not authorized'],
      [5, 'entry not found or not authorized'],
      [3, expect.stringMatching(/^malformed CSR: /)],
      [3, expect.stringMatching(/^invalid CSR signature: /)],
    ]);
    const leaf = parseCertificate(results[0]?.svid?.cert_chain[0] ?? Buffer.alloc(0));
    expect(leaf.uris).toEqual(['spiffe://example.org/web']);
    expect(leaf.dnsNames).toEqual(['web.example']);
    expect(Buffer.from(leaf.spki)).toEqual(good.publicKey);
  });

  it('spire-wire 7: no parameters at all', async () => {
    const { admit, svidsApi } = await openApiWorld();
    const call = unary(service.BatchNewX509SVID, svidsApi.BatchNewX509SVID, {}, agentCaller(await admit('a')));
    await expect(call).rejects.toMatchObject({ kind: 'invalid', message: 'missing parameters' });
  });

  it('SPI-01-004: what is signed is named by the entry, whatever the request says', async () => {
    const { admit, svidsApi, register, request, store } = await openApiWorld();
    const agent = await admit('a');
    const entry = await register(agent, '/web');
    const { results } = await unary(service.BatchNewX509SVID, svidsApi.BatchNewX509SVID, { params: [{ entry_id: entry, csr: request().csr }] }, agentCaller(agent));
    const serial = parseCertificate(results[0]?.svid?.cert_chain[0] ?? Buffer.alloc(0)).serial.hex;
    expect(await store.getCredential(serial)).toMatchObject({ spiffeId: 'spiffe://example.org/web', entryId: entry, agentId: agent.id, reason: expect.any(String) as string });
  });
});

describe('tokens and minting', () => {
  it('spire-wire 7, 9: a JWT-SVID for a held entry', async () => {
    const { admit, svidsApi, register } = await openApiWorld();
    const agent = await admit('a');
    const entry = await register(agent, '/web');
    const caller = agentCaller(agent);
    const { svid } = await unary(service.NewJWTSVID, svidsApi.NewJWTSVID, { entry_id: entry, audience: ['x', ''] }, caller);
    expect(svid).toMatchObject({ id: { trust_domain: 'example.org', path: '/web' } });
    expect(Number(svid?.expires_at) - Number(svid?.issued_at)).toBe(300);
    const claims = JSON.parse(Buffer.from(svid?.token.split('.')[1] ?? '', 'base64url').toString()) as object;
    expect(claims).toEqual({ aud: ['x'], sub: 'spiffe://example.org/web', exp: Number(svid?.expires_at), iat: Number(svid?.issued_at) });
    await expect(unary(service.NewJWTSVID, svidsApi.NewJWTSVID, { entry_id: entry }, caller)).rejects.toMatchObject({ message: 'at least one audience is required' });
    await expect(unary(service.NewJWTSVID, svidsApi.NewJWTSVID, { entry_id: 'no', audience: ['x'] }, caller)).rejects.toMatchObject({ kind: 'missing' });
  });

  it.each([
    ['MintX509SVID', {}, 'missing CSR'],
    ['MintJWTSVID', {}, 'missing SPIFFE ID'],
    ['MintJWTSVID', { id: { trust_domain: 'example.org', path: '/spire/server' }, audience: ['x'] }, expect.stringMatching(/^invalid SPIFFE ID: /)],
    ['MintJWTSVID', { id: { trust_domain: 'example.org', path: '/x' } }, 'at least one audience is required'],
  ] as const)('spire-wire 7: %s %o', async (method, request, message) => {
    const { svidsApi } = await openApiWorld();
    await expect(unary(service[method] as never, svidsApi[method] as never, request)).rejects.toMatchObject({ kind: 'invalid', message });
  });

  it('BatchNewWITSVID answers each item for itself, with a status on success too', async () => {
    const { svidsApi, admit, register, request } = await openApiWorld({ wit: true });
    const agent = await admit('a');
    const entry = await register(agent, '/web', { hint: 'inner' });
    const { publicKey } = request();
    const params = [
      { entry_id: entry, public_key: publicKey },
      { entry_id: 'nobody', public_key: publicKey },
      { entry_id: '', public_key: publicKey },
      { entry_id: entry },
      { entry_id: entry, public_key: publicKey, signing_algorithm: 'RS256' },
    ];
    const { results } = await unary(service.BatchNewWITSVID, svidsApi.BatchNewWITSVID, { params }, agentCaller(agent));
    expect(results.map(({ status }) => status?.code)).toEqual([0, 5, 3, 3, 3]);
    const svid = results[0]?.svid;
    expect(svid).toMatchObject({ id: { trust_domain: 'example.org', path: '/web' }, hint: 'inner' });
    expect(parseWitSvid(svid?.token ?? '').spiffeId).toBe('spiffe://example.org/web');
    await expect(unary(service.BatchNewWITSVID, svidsApi.BatchNewWITSVID, {}, agentCaller(agent))).rejects.toMatchObject({ reason: 'svid.params' });
  });

  it('MintWITSVID binds an ID to a key', async () => {
    const { svidsApi, request } = await openApiWorld({ wit: true });
    const id = { trust_domain: 'example.org', path: '/web' };
    const public_key = request().publicKey;
    const { svid } = await unary(service.MintWITSVID, svidsApi.MintWITSVID, { id, public_key, ttl: 60, signing_algorithm: 'ES256' });
    expect(Number(svid?.expires_at) - Number(svid?.issued_at)).toBe(60);
    expect(parseWitSvid(svid?.token ?? '').confirmation.key.export({ format: 'der', type: 'spki' })).toEqual(public_key);
    const refused = (asked: object) => unary(service.MintWITSVID, svidsApi.MintWITSVID, asked);
    await expect(refused({ public_key })).rejects.toMatchObject({ reason: 'mint.id' });
    await expect(refused({ id })).rejects.toMatchObject({ reason: 'svid.public-key' });
  });

  it.each(['MintWITSVID', 'BatchNewWITSVID', 'NewDownstreamX509CA'] as const)('%s is answered, with a refusal', async (method) => {
    const { svidsApi } = await openApiWorld();
    await expect(unary(service[method] as never, svidsApi[method] as never, {})).rejects.toMatchObject({ kind: 'unsupported' });
  });
});
