import { describe, expect, it } from 'vitest';
import { bundleToMessage } from '../../../proto/convert/bundle.ts';
import type { FederationRelationship } from '../../../proto/gen/spire/api/types/FederationRelationship.ts';
import { loadServices } from '../../../proto/load.ts';
import { composeBundle, emptyBundle } from '../../../spiffe/bundle.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { unary } from '../../help/api.ts';
import { openApiWorld } from '../../help/api-world.ts';

const { 'spire.api.server.trustdomain.v1.TrustDomain': service, 'steeple.operator.v1.Operator': operator } = loadServices(
  'spire.api.server.trustdomain.v1.TrustDomain',
  'steeple.operator.v1.Operator',
);

const web = (trust_domain: string, more: FederationRelationship = {}): FederationRelationship => ({
  trust_domain,
  bundle_endpoint_url: `https://${trust_domain}/bundle`,
  https_web: {},
  ...more,
});
const spiffe = (trust_domain: string, endpoint_spiffe_id: string, more: FederationRelationship = {}): FederationRelationship => ({
  trust_domain,
  bundle_endpoint_url: `https://${trust_domain}/bundle`,
  https_spiffe: { endpoint_spiffe_id },
  ...more,
});

async function openTrustDomains() {
  const world = await openApiWorld();
  const api = world.trustDomainsApi;
  return {
    ...world,
    async create(...federation_relationships: FederationRelationship[]) {
      const { results } = await unary(service.BatchCreateFederationRelationship, api.BatchCreateFederationRelationship, { federation_relationships });
      return results;
    },
    async update(relationship: FederationRelationship, input_mask?: object) {
      const request = { federation_relationships: [relationship], ...(input_mask && { input_mask }) };
      const { results } = await unary(service.BatchUpdateFederationRelationship, api.BatchUpdateFederationRelationship, request);
      return results[0];
    },
    async remove(...trust_domains: string[]) {
      const { results } = await unary(service.BatchDeleteFederationRelationship, api.BatchDeleteFederationRelationship, { trust_domains });
      return results.map(({ status, trust_domain }) => [trust_domain, status?.code, status?.message]);
    },
    get: (trust_domain: string, output_mask?: object) =>
      unary(service.GetFederationRelationship, api.GetFederationRelationship, { trust_domain, ...(output_mask && { output_mask }) }),
    list: (request: object = {}) => unary(service.ListFederationRelationships, api.ListFederationRelationships, request),
    refresh: (trust_domain: string) => unary(service.RefreshBundle, api.RefreshBundle, { trust_domain }),
  };
}

describe('spire-wire 13.3: federation relationships', () => {
  it('are created, shown and listed as they were given', async () => {
    const world = await openTrustDomains();
    const results = await world.create(web('far.example'), spiffe('near.example', 'spiffe://near.example/spire/server'));
    expect(results.map(({ status }) => status)).toEqual([{ code: 0, message: 'OK' }, { code: 0, message: 'OK' }]);
    // Presence is the choice, also on the way back.
    expect(results[0]?.federation_relationship).toMatchObject({ bundle_endpoint_profile: 'https_web', https_web: {} });
    expect(await world.get('near.example')).toMatchObject({
      trust_domain: 'near.example',
      bundle_endpoint_url: 'https://near.example/bundle',
      https_spiffe: { endpoint_spiffe_id: 'spiffe://near.example/spire/server' },
      trust_domain_bundle: null,
    });
    const { federation_relationships } = await world.list();
    expect(federation_relationships.map((item) => item.trust_domain)).toEqual(['far.example', 'near.example']);
  });

  it('a URL comes back to the letter', async () => {
    const world = await openTrustDomains();
    await world.create(web('far.example', { bundle_endpoint_url: 'https://Far.Example:443' }));
    expect((await world.get('far.example')).bundle_endpoint_url).toBe('https://Far.Example:443');
  });

  const bundle = bundleToMessage(composeBundle({ ...emptyBundle(parseTrustDomain('far.example')), sequence: 7n }));
  it.each<[string, FederationRelationship, number, RegExp]>([
    ['a bad trust domain', web('NOT ONE', { bundle_endpoint_url: 'https://far.example' }), 3, /^failed to convert federation relationship: failed to parse trust domain: /],
    ['the own trust domain', web('example.org'), 3, /^unable to create federation relationship for server trust domain$/],
    ['FED-12 another scheme', web('far.example', { bundle_endpoint_url: 'http://far.example/' }), 3, /^failed to convert federation relationship: .*https/],
    ['FED-12 no host', web('far.example', { bundle_endpoint_url: 'https://' }), 3, /^failed to convert/],
    ['FED-12 user info', web('far.example', { bundle_endpoint_url: 'https://a:b@far.example/' }), 3, /^failed to convert.*user info/],
    ['FED-10 no profile', { trust_domain: 'far.example', bundle_endpoint_url: 'https://far.example/' }, 3, /^failed to convert.*profile/],
    ['FED-20 no endpoint ID', spiffe('far.example', ''), 3, /^failed to convert federation relationship: failed to parse endpoint SPIFFE ID: /],
    ['FED-07 the bundle of another', web('other.example', { trust_domain_bundle: bundle }), 3, /^failed to convert.*must match the trust domain of the federation relationship/],
  ])('refused: %s', async (_name, message, code, words) => {
    const world = await openTrustDomains();
    const [result] = await world.create(message);
    expect(result).toMatchObject({ status: { code, message: expect.stringMatching(words) as string }, federation_relationship: null });
    expect((await world.list()).federation_relationships).toEqual([]);
  });

  it('a second one with the same trust domain is refused as internal, alone', async () => {
    const world = await openTrustDomains();
    const results = await world.create(web('far.example'), web('far.example'), web('near.example'));
    expect(results.map(({ status }) => status?.code)).toEqual([0, 13, 0]);
    expect(results[1]?.status?.message).toMatch(/^failed to create federation relationship: /);
  });

  it('FED-21: a bundle comes with it, without taint marks', async () => {
    const world = await openTrustDomains();
    const asn1 = Buffer.from(world.registry.bundles.own.value.x509Authorities[0]!.certificate);
    const given = { trust_domain: 'far.example', x509_authorities: [{ asn1, tainted: true }], sequence_number: 4 };
    const [result] = await world.create(web('far.example', { trust_domain_bundle: given }));
    expect(result?.federation_relationship?.trust_domain_bundle).toMatchObject({ sequence_number: '4', x509_authorities: [{ tainted: false }] });
    expect(world.registry.bundles.get(parseTrustDomain('far.example'))?.x509Authorities).toHaveLength(1);
  });

  it('are updated under a mask, all fields looked at all the same', async () => {
    const world = await openTrustDomains();
    await world.create(web('far.example'));
    const other = spiffe('far.example', 'spiffe://far.example/endpoint', { bundle_endpoint_url: 'https://elsewhere.example/' });
    expect((await world.update(other, { bundle_endpoint_url: true }))?.federation_relationship).toMatchObject({
      bundle_endpoint_url: 'https://elsewhere.example/',
      https_web: {},
    });
    const bad = { ...other, https_spiffe: { endpoint_spiffe_id: 'nonsense' } };
    expect((await world.update(bad, { bundle_endpoint_url: true }))?.status?.code).toBe(3);
    expect((await world.update(other))?.federation_relationship).toMatchObject({ https_spiffe: { endpoint_spiffe_id: 'spiffe://far.example/endpoint' } });
    expect((await world.update(web('unknown.example')))?.status).toEqual({
      code: 13,
      message: 'failed to update federation relationship: unable to fetch federation relationship: record not found',
    });
  });

  it('masks leave the trust domain', async () => {
    const world = await openTrustDomains();
    await world.create(web('far.example', { trust_domain_bundle: bundle }));
    expect(await world.get('far.example', {})).toMatchObject({ trust_domain: 'far.example', bundle_endpoint_url: '', trust_domain_bundle: null });
    expect(await world.get('far.example', { trust_domain_bundle: true })).toMatchObject({ bundle_endpoint_url: '', trust_domain_bundle: { sequence_number: '7' } });
  });

  it('FED-28: are deleted, and the bundle is kept', async () => {
    const world = await openTrustDomains();
    await world.create(web('far.example', { trust_domain_bundle: bundle }));
    expect(await world.remove('far.example', 'far.example', '', 'NOT ONE')).toEqual([
      ['far.example', 0, 'OK'],
      ['far.example', 5, 'federation relationship not found'],
      ['', 3, 'missing trust domain'],
      ['NOT ONE', 3, expect.stringMatching(/^failed to parse trust domain: /)],
    ]);
    expect(world.registry.bundles.get(parseTrustDomain('far.example'))?.sequence).toBe(7n);
  });

  it('unknown and unreadable trust domains', async () => {
    const world = await openTrustDomains();
    await expect(world.get('far.example')).rejects.toMatchObject({ kind: 'missing', message: 'federation relationship does not exist' });
    await expect(world.get('NOT ONE')).rejects.toMatchObject({ kind: 'invalid' });
    await expect(world.refresh('far.example')).rejects.toMatchObject({ kind: 'missing', message: 'no relationship with trust domain "far.example"' });
  });

  it('spire-wire 12: pages end with an empty one', async () => {
    const world = await openTrustDomains();
    await world.create(web('c.example'), web('b.example'), web('a.example'));
    const seen: string[][] = [];
    let page_token = '';
    do {
      const page = await world.list({ page_size: 2, page_token });
      seen.push(page.federation_relationships.map((item) => item.trust_domain));
      page_token = page.next_page_token;
    } while (page_token !== '');
    expect(seen).toEqual([['c.example', 'b.example'], ['a.example'], []]);
    await expect(world.list({ page_size: 1, page_token: 'x' })).rejects.toMatchObject({ kind: 'internal' });
  });
});

describe('RefreshBundle', () => {
  it('fetches at once; what goes wrong is told, and can be seen', async () => {
    const world = await openTrustDomains();
    await world.create(web('far.example'));
    await expect(world.refresh('far.example')).rejects.toMatchObject({ kind: 'unavailable', reason: 'bundle-fetch.unreachable' });
    const states = () => unary(operator.ListRelationshipStates, world.operatorApi.ListRelationshipStates, {});
    expect((await states()).states).toMatchObject([{ trust_domain: 'far.example', failures: 1, reason: 'bundle-fetch.unreachable', refreshed_at_ms: '0', pending: true }]);
    world.endpoints.serve('https://far.example/bundle', composeBundle({ ...emptyBundle(parseTrustDomain('far.example')), sequence: 3n, refreshHintSeconds: 120 }));
    await world.refresh('far.example');
    expect((await world.get('far.example')).trust_domain_bundle).toMatchObject({ sequence_number: '3' });
    const now = world.clock.now();
    const one = await unary(operator.ListRelationshipStates, world.operatorApi.ListRelationshipStates, { trust_domain: 'far.example' });
    expect(one.states).toMatchObject([{ failures: 0, reason: '', refreshed_at_ms: String(now), next_at_ms: String(now + 120_000), pending: false }]);
  });
});
