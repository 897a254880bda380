import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parsePemCertificates } from '../../../spiffe/pem.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { testAuthority, testEntry, trustDomain } from '../../help/agent-server.ts';
import { sdsWorld, secretsIn, secretUrl, type SdsWorld } from '../../help/sds.ts';

const other = parseTrustDomain('other.test');
const own = 'spiffe://example.org';
let world: SdsWorld;
let worlds: SdsWorld[];

function renew(...args: Parameters<typeof sdsWorld>): SdsWorld {
  world = sdsWorld(...args);
  worlds.push(world);
  return world;
}

beforeEach(() => {
  worlds = [];
  renew();
});
afterEach(() => worlds.forEach((one) => one.close()));

const names = async (wanted: readonly string[], node: object | null = null): Promise<string[]> =>
  secretsIn(await world.fetch({ resource_names: [...wanted], node })).map(({ name }) => name);

describe('FetchSecrets', () => {
  it('SDS: a certificate is PEM, leaf first, with its own key; version and type are there, a nonce is not', async () => {
    await world.serve(testEntry('/web', ['a:1']));
    const response = await world.fetch({ resource_names: [`${own}/web`] });
    const [secret] = secretsIn(response);
    const leaf = new X509Certificate(secret?.chain ?? '');
    expect(leaf.subjectAltName).toBe(`URI:${own}/web`);
    expect(leaf.publicKey.equals(createPublicKey(createPrivateKey(secret?.key ?? '')))).toBe(true);
    expect(secret?.key).toMatch(/^-----BEGIN PRIVATE KEY-----\n/);
    expect(response).toMatchObject({ type_url: secretUrl, nonce: '', version_info: expect.stringMatching(/^[0-9a-f]{32}$/) as string });
    expect(world.told).toEqual(['matched 1', `delivered ${own}/web`]);
  });

  it.each([
    ['the SPIFFE ID', [`${own}/db`], [`${own}/db`]],
    ['the first identity', ['default'], ['default']],
    ['the first identity by both names, which SPIRE refuses', ['default', `${own}/web`], ['default', `${own}/web`]],
    ['the own bundle', ['ROOTCA'], ['ROOTCA']],
    ['the own bundle by its trust domain', [own], [own]],
    ['all bundles', ['ALL'], ['ALL']],
    ['several names of one bundle, which SPIRE refuses', ['ROOTCA', 'ALL', own], ['ROOTCA', 'ALL', own]],
    ['a federated bundle', ['spiffe://other.test'], ['spiffe://other.test']],
    ['empty names, which are none', ['', 'ROOTCA', ''], ['ROOTCA']],
    ['a name twice', ['ROOTCA', 'ROOTCA'], ['ROOTCA']],
    ['nothing, for everything', [], [`${own}/web`, `${own}/db`, own, 'spiffe://other.test']],
    ['a token', ['jwt:db'], ['jwt:db']],
  ])('SDS names: %s', async (_what, wanted, given) => {
    world.bundles.set(other, world.bundleOf(other));
    await world.serve(testEntry('/web', ['a:1'], { federatesWith: [other] }), testEntry('/db', ['b:1']));
    expect((await names(wanted)).toSorted()).toEqual([...given].toSorted());
  });

  it.each([
    ["another's SPIFFE ID", [`${own}/mail`]],
    ['a SPIFFE ID beside good names', ['default', 'ROOTCA', `${own}/mail`]],
    ['a bundle that the entries do not federate with', ['spiffe://other.test']],
    ['a word', ['rootca']],
    ['a token for nobody', ['jwt:']],
  ])('SDS names: %s is refused', async (_what, wanted) => {
    world.bundles.set(other, world.bundleOf(other));
    await world.serve(testEntry('/web', ['a:1']));
    await expect(world.fetch({ resource_names: wanted })).rejects.toMatchObject({
      kind: 'invalid',
      reason: 'sds.unknown-name',
      message: `workload is not authorized for the requested identities ${JSON.stringify(wanted.slice(-1))}`,
    });
    expect(world.told).toEqual(['refused sds.unknown-name']);
  });

  it('SDS: the first identity is that of the first entry, and no other stands in for it', async () => {
    const [web, db] = [testEntry('/web', ['a:1']), testEntry('/db', ['b:1'])];
    world.hold(web, db);
    await world.issue(db);
    const asked = expect(world.fetch({ resource_names: ['default'] })).rejects.toMatchObject({ kind: 'unavailable', reason: 'sds.pending' });
    await world.clock.advance(2_500);
    await asked;
  });

  it('SDS: waits for an X509-SVID that is being signed, and not for one when a bundle is asked for', async () => {
    const web = testEntry('/web', ['a:1']);
    world.hold(web);
    expect(await names(['ROOTCA'])).toEqual(['ROOTCA']);
    const asked = names(['default']);
    await world.clock.advance(1_000);
    await world.issue(web);
    expect(await asked).toEqual(['default']);
  });

  it('SDS: without an identity there is nothing, unless bundles are for all', async () => {
    world.hold();
    await expect(world.fetch({ resource_names: ['ROOTCA'] })).rejects.toMatchObject({ kind: 'denied', reason: 'workload.no-identity' });
    renew({ bundlesForAll: true }).hold();
    expect(await names(['ROOTCA'])).toEqual(['ROOTCA']);
    expect(await names([])).toEqual([own]);
    await expect(world.fetch({ resource_names: ['default'] })).rejects.toMatchObject({ kind: 'denied', reason: 'workload.no-identity' });
  });

  it.each(['peer.image', 'peer.exited', 'peer.closed'] as const)('T-A02 %s: nothing leaves', async (change) => {
    await world.serve(testEntry('/web', ['a:1']));
    world.peer.become(change);
    await expect(world.fetch({ resource_names: ['default'] })).rejects.toMatchObject({ kind: 'denied', reason: change });
    expect(world.told).not.toContain(`delivered ${own}/web`);
  });

  it('SDS: a token that cannot be signed fails the call', async () => {
    await world.serve(testEntry('/web', ['a:1']));
    world.signing = new SpiffeError('unavailable', 'rpc.unavailable', 'away');
    await expect(world.fetch({ resource_names: ['jwt:db'] })).rejects.toMatchObject({ kind: 'unavailable', reason: 'sds.jwt-unavailable' });
  });

  it.each([
    ['many names', { resource_names: Array.from({ length: 1_001 }, (_, index) => `name-${index}`) }, 'limited', 'sds.names'],
    ['many tokens', { resource_names: Array.from({ length: 17 }, (_, index) => `jwt:${index}`) }, 'limited', 'sds.tokens'],
    ['a long name', { resource_names: [`${own}/${'x'.repeat(2_400)}`] }, 'invalid', 'sds.name'],
    ['another type', { type_url: 'type.googleapis.com/envoy.config.cluster.v3.Cluster' }, 'invalid', 'sds.type-url'],
    ['the type of version 2', { type_url: 'type.googleapis.com/envoy.api.v2.auth.Secret' }, 'invalid', 'sds.type-url'],
  ])('SDS bounds: %s', async (_what, request, kind, reason) => {
    await world.serve(testEntry('/web', ['a:1']));
    await expect(world.fetch(request)).rejects.toMatchObject({ kind, reason });
  });

  it('SDS bounds: an error names few of many unknown names', async () => {
    await world.serve(testEntry('/web', ['a:1']));
    const many = Array.from({ length: 900 }, (_, index) => `name-${index}`);
    const error = await world.fetch({ resource_names: many }).catch((caught: unknown) => caught);
    expect((error as Error).message).toBe(`workload is not authorized for the requested identities ${JSON.stringify(many.slice(0, 8))}`);
  });
});

describe('the form of trust', () => {
  const old = { user_agent_build_version: { version: { major_number: 1, minor_number: 17, patch: 3 }, metadata: null } };
  const metadata = (value: object): object => ({ metadata: { fields: { disable_spiffe_cert_validation: value } } });

  it.each([
    ['by default', {}, null, 'spiffe'],
    ['of a proxy that says other things', {}, { id: 'x', metadata: { fields: {} } }, 'spiffe'],
    ['where plain authorities are configured', { validator: 'authorities' as const }, null, 'authorities'],
    ['by metadata', {}, metadata({ boolValue: true, kind: 'boolValue' }), 'authorities'],
    ['by metadata as text', {}, metadata({ stringValue: 'True', kind: 'stringValue' }), 'authorities'],
    ['by metadata against the configuration', { validator: 'authorities' as const }, metadata({ stringValue: '0', kind: 'stringValue' }), 'spiffe'],
    ['with metadata of another type', {}, metadata({ numberValue: 1, kind: 'numberValue' }), 'spiffe'],
    ['with metadata that means nothing', {}, metadata({ stringValue: 'yes', kind: 'stringValue' }), 'spiffe'],
    ['of an Envoy without the validator', {}, old, 'authorities'],
    ['of an old Envoy that asks for it', {}, { ...old, ...metadata({ boolValue: false, kind: 'boolValue' }) }, 'authorities'],
    ['of the first Envoy with it', {}, { user_agent_build_version: { version: { major_number: 1, minor_number: 18, patch: 0 }, metadata: null } }, 'spiffe'],
  ])('SDS forms: %s', async (_what, parts, node, form) => {
    renew(parts);
    await world.serve(testEntry('/web', ['a:1']));
    const [secret] = secretsIn(await world.fetch({ resource_names: ['ROOTCA'], node }));
    expect(Object.keys(secret?.trust ?? {})).toEqual([form === 'spiffe' ? 'example.org' : '']);
    const [pem = ''] = Object.values(secret?.trust ?? {});
    expect(parsePemCertificates(pem).map((der) => Buffer.from(der).toString('hex'))).toEqual([Buffer.from(world.authority.certificate).toString('hex')]);
  });

  it('SDS forms: all bundles are each for its own trust domain, in order', async () => {
    const foreign = testAuthority('foreign', () => world.clock.now());
    world.bundles.set(other, world.bundleOf(other, foreign));
    world.bundles.set(parseTrustDomain('a.test'), world.bundleOf(parseTrustDomain('a.test')));
    await world.serve(testEntry('/web', ['a:1'], { federatesWith: [other] }));
    const [secret] = secretsIn(await world.fetch({ resource_names: ['ALL'] }));
    expect(Object.keys(secret?.trust ?? {})).toEqual([String(trustDomain), 'other.test']);
    expect(parsePemCertificates(secret?.trust?.['other.test'] ?? '').map((der) => Buffer.from(der).equals(foreign.certificate))).toEqual([true]);
  });

  it('SDS forms: all bundles are never one list of plain authorities', async () => {
    renew({ validator: 'authorities' });
    await world.serve(testEntry('/web', ['a:1']));
    await expect(world.fetch({ resource_names: ['ALL'] })).rejects.toMatchObject({ kind: 'unsupported', reason: 'sds.all-bundles' });
    const stream = world.stream();
    stream.send({ resource_names: ['ALL', 'ROOTCA'] });
    expect(secretsIn(await stream.next()).map(({ name }) => name)).toEqual(['ROOTCA']);
  });

  it('SDS forms: revocation lists go out with their bundle, and a new one at the next update', async () => {
    let lists = { pem: Buffer.from('first') };
    renew({ revoked: (name) => (name === trustDomain ? lists : undefined) });
    world.bundles.set(other, world.bundleOf(other));
    const web = testEntry('/web', ['a:1'], { federatesWith: [other] });
    await world.serve(web);
    const stream = world.stream();
    stream.send({ resource_names: ['ROOTCA', 'ALL', 'spiffe://other.test'] });
    const crls = (response: Parameters<typeof secretsIn>[0]): unknown => secretsIn(response).map(({ crl }) => crl);
    expect(crls(await stream.next())).toEqual(['first', 'first', undefined]);
    lists = { pem: Buffer.from('second') };
    await world.issue(web);
    expect(crls(await stream.next())).toEqual(['second', 'second', undefined]);
  });
});
