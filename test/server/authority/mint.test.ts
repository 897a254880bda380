import { describe, expect, it } from 'vitest';
import { createMint, type Mint } from '../../../server/authority/mint.ts';
import { parseSpiffeId } from '../../../spiffe/id.ts';
import { validateJwtSvid } from '../../../spiffe/jwt-svid.ts';
import { parseWitSvid } from '../../../spiffe/wit-svid.ts';
import { encodeName } from '../../../spiffe/x509/encoded.ts';
import { oid } from '../../../spiffe/x509/names.ts';
import { composeRequest, type RequestFields } from '../../../spiffe/x509/request.ts';
import { verifyX509Svid } from '../../../spiffe/x509/verify.ts';
import { ecPair } from '../../help/forge.ts';
import { createIssuerWorld, type IssuerWorld } from '../../help/issuer-world.ts';
import { idOf, scopeAt } from '../../help/store.ts';

const { privateKey, spki } = ecPair();
const uri = 'spiffe://example.org/web';

async function createMintWorld(changed: Parameters<typeof createIssuerWorld>[0] = {}): Promise<IssuerWorld & { readonly mint: Mint }> {
  const world = await createIssuerWorld(changed);
  return Object.assign(world, { mint: createMint({ ...world.issuerDeps(), store: world.store }) });
}

function csrOf(fields: Partial<RequestFields> = {}): Uint8Array {
  return composeRequest({ privateKey, uris: [uri], ...fields });
}

describe('mintWit', () => {
  it('signs what an operator asks for, and puts it on record before', async () => {
    const world = await createMintWorld({ furtherKinds: ['wit'] });
    const scope = scopeAt(world.clock.now());
    const svid = await world.mint.mintWit({ spiffeId: idOf('/web'), publicKey: spki, algorithm: '', ttlSeconds: 600 }, scope);
    const { spiffeId, jti, expiresAt } = parseWitSvid(svid.token);
    expect([spiffeId, expiresAt]).toEqual([uri, world.clock.now() + 600_000]);
    expect(world.store.intents.get(jti!)).toMatchObject({ kind: 'wit', reason: 'minted-by-operator', spiffeId: uri });
    expect(world.store.events).toContainEqual(expect.objectContaining({ type: 'credential.minted', subject: jti }));
  });

  it.each([
    ['an ID of another trust domain', { spiffeId: parseSpiffeId('spiffe://other.org/web') }, 'mint.id'],
    ["an agent's ID", { spiffeId: idOf('/spire/agent/a') }, 'mint.id'],
    ['a key that is none', { publicKey: Buffer.from('x') }, 'wit.public-key'],
    ['an algorithm that does not fit', { algorithm: 'RS256' }, 'wit.algorithm'],
  ])('refuses %s', async (_, change, reason) => {
    const world = await createMintWorld({ furtherKinds: ['wit'] });
    const asked = { spiffeId: idOf('/web'), publicKey: spki, algorithm: '', ttlSeconds: 0, ...change };
    await expect(world.mint.mintWit(asked, scopeAt(world.clock.now()))).rejects.toMatchObject({ kind: 'invalid', reason });
    expect(world.store.intents.size).toBe(0);
  });

  it('STAB-03: is not there where it is not configured', async () => {
    const world = await createMintWorld();
    const asked = { spiffeId: idOf('/web'), publicKey: spki, algorithm: '', ttlSeconds: 0 };
    await expect(world.mint.mintWit(asked, scopeAt(world.clock.now()))).rejects.toMatchObject({ kind: 'unsupported', reason: 'wit.disabled' });
  });
});

describe('mintX509', () => {
  it('signs what an operator asks for, and puts it on record before', async () => {
    const world = await createMintWorld();
    const scope = scopeAt(world.clock.now());
    const subject = encodeName([[oid.commonName, 'chosen']]);
    const svid = await world.mint.mintX509(csrOf({ dnsNames: ['web.example.org'], subject }), 600, scope);
    const authorities = world.store.bundle.x509Authorities.map(({ certificate }) => certificate);
    const { leaf, spiffeId } = verifyX509Svid({ chain: svid.certificates, authorities, at: world.clock.now() });
    expect([spiffeId, svid.id]).toEqual([uri, uri]);
    expect(leaf.dnsNames).toEqual(['web.example.org']);
    expect(Buffer.from(leaf.subject)).toEqual(Buffer.from(subject));
    expect(Buffer.from(leaf.spki)).toEqual(Buffer.from(spki));
    expect(svid.expiresAt).toBe(world.clock.now() + 600_000);
    expect(world.store.intents.get(leaf.serial.hex)).toMatchObject({ entryId: '', agentId: '', reason: 'minted-by-operator', spiffeId: uri });
    expect(world.store.events).toContainEqual(expect.objectContaining({ type: 'credential.minted', actor: scope.actor, subject: leaf.serial.hex }));
  });

  it('has defaults for life and an empty subject', async () => {
    const world = await createMintWorld();
    const svid = await world.mint.mintX509(csrOf({ subject: encodeName([]) }), 0, scopeAt(0));
    expect(svid.expiresAt).toBe(world.clock.now() + 3_600_000);
  });

  it.each([
    ['no URI', { uris: [] }, 'mint.csr.uri', 'CSR URI SAN is required'],
    ['two URIs', { uris: [uri, 'spiffe://example.org/db'] }, 'mint.csr.uri', 'only one URI SAN is expected'],
    ['no SPIFFE ID', { uris: ['https://example.org/web'] }, 'mint.csr.uri', 'CSR URI SAN is invalid: scheme is missing or invalid'],
    ['an ID of another trust domain', { uris: ['spiffe://other.org/web'] }, 'mint.csr.uri', /^CSR URI SAN is invalid: .* not a member/],
    ['the ID of the trust domain', { uris: ['spiffe://example.org'] }, 'mint.csr.uri', /^CSR URI SAN is invalid: .* not a workload ID/],
    ['the ID of the server', { uris: ['spiffe://example.org/spire/server'] }, 'mint.csr.uri', /not a workload ID/],
    ['a bad DNS name', { dnsNames: ['a..b'] }, 'mint.csr.dns', /empty label/],
    ['a DNS name twice', { dnsNames: ['a.b', 'a.b'] }, 'mint.csr.dns', /twice/],
    ['a wildcard over another name', { dnsNames: ['a.example.org', '*.example.org'] }, 'mint.csr.dns', /overlap/],
  ] as const)('refuses %s', async (_name, fields, reason, message) => {
    const world = await createMintWorld();
    await expect(world.mint.mintX509(csrOf(fields), 0, scopeAt(0))).rejects.toMatchObject({
      kind: 'invalid',
      reason,
      message: typeof message === 'string' ? message : (expect.stringMatching(message) as string),
    });
    expect(world.store.intents.size).toBe(0);
  });

  it('takes a wildcard beside names it does not cover', async () => {
    const world = await createMintWorld();
    const svid = await world.mint.mintX509(csrOf({ dnsNames: ['*.example.org', 'example.org', 'a.b.example.org'] }), 0, scopeAt(0));
    expect(svid.certificates).toHaveLength(1);
  });

  it('refuses a request that is malformed, or signed by another key', async () => {
    const world = await createMintWorld();
    await expect(world.mint.mintX509(Buffer.from('csr'), 0, scopeAt(0))).rejects.toMatchObject({ kind: 'invalid', reason: 'mint.csr.malformed' });
    const forged = Buffer.from(csrOf());
    forged[forged.length - 1]! ^= 1;
    await expect(world.mint.mintX509(forged, 0, scopeAt(0))).rejects.toMatchObject({ kind: 'invalid', reason: 'mint.csr.signature' });
    const swapped = composeRequest({ privateKey: ecPair().privateKey, publicKey: spki, uris: [uri] });
    await expect(world.mint.mintX509(swapped, 0, scopeAt(0))).rejects.toMatchObject({ kind: 'invalid', reason: 'mint.csr.signature' });
  });

  it('T-C08: signs nothing that could not be recorded', async () => {
    const world = await createMintWorld();
    const signed: string[] = [];
    const keys = {
      sign(name: string): Promise<Uint8Array> {
        signed.push(name);
        return Promise.resolve(new Uint8Array(64));
      },
    };
    for (const method of ['recordIntents', 'recordAudit'] as const) {
      const store = { ...world.store, [method]: () => Promise.reject(new Error('disk')) };
      const mint = createMint({ ...world.issuerDeps(), store, keys });
      await expect(mint.mintX509(csrOf(), 0, scopeAt(0))).rejects.toThrow('disk');
      await expect(mint.mintJwt({ spiffeId: idOf('/web'), audience: ['db'], ttlSeconds: 0 }, scopeAt(0))).rejects.toThrow('disk');
    }
    expect(signed).toEqual([]);
  });
});

describe('mintJwt', () => {
  it('signs what an operator asks for', async () => {
    const world = await createMintWorld();
    const svid = await world.mint.mintJwt({ spiffeId: idOf('/web'), audience: ['db'], ttlSeconds: 60 }, scopeAt(world.clock.now()));
    validateJwtSvid(svid.token, { bundleFor: () => world.store.bundle, audience: 'db', at: world.clock.now() });
    expect(svid.expiresAt).toBe(world.clock.now() + 60_000);
    expect([...world.store.intents.values()]).toMatchObject([{ kind: 'jwt', reason: 'minted-by-operator', audience: ['db'] }]);
    expect(world.store.events).toContainEqual(expect.objectContaining({ type: 'credential.minted' }));
  });

  it.each(['', '/spire/server', '/spire/agent/x'])('refuses the reserved ID "%s"', async (path) => {
    const world = await createMintWorld();
    await expect(world.mint.mintJwt({ spiffeId: idOf(path), audience: ['db'], ttlSeconds: 0 }, scopeAt(0))).rejects.toMatchObject({ kind: 'invalid', reason: 'mint.id' });
  });

  it('needs an audience', async () => {
    const world = await createMintWorld();
    await expect(world.mint.mintJwt({ spiffeId: idOf('/web'), audience: [''], ttlSeconds: 0 }, scopeAt(0))).rejects.toMatchObject({
      kind: 'invalid',
      reason: 'jwt-svid.audience.missing',
    });
  });
});
