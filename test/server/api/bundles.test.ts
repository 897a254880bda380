import { describe, expect, it } from 'vitest';
import { loadServices } from '../../../proto/load.ts';
import { unary } from '../../help/api.ts';
import { openApiWorld } from '../../help/api-world.ts';

const { 'spire.api.server.bundle.v1.Bundle': service } = loadServices('spire.api.server.bundle.v1.Bundle');

async function openBundles() {
  const world = await openApiWorld();
  const { bundlesApi } = world;
  const own = await unary(service.GetBundle, bundlesApi.GetBundle, {});
  const asn1 = own.x509_authorities[0]?.asn1 ?? Buffer.alloc(0);
  const foreign = (trust_domain: string, more: object = {}) => ({ trust_domain, x509_authorities: [{ asn1, tainted: true }], ...more });
  return { ...world, own, asn1, foreign };
}

describe('the own bundle', () => {
  it('spire-wire 10: holds the authorities, and masks leave the trust domain', async () => {
    const { own, bundlesApi } = await openBundles();
    expect(own).toMatchObject({ trust_domain: 'example.org', refresh_hint: '0' });
    expect(own.x509_authorities).toHaveLength(1);
    expect(own.jwt_authorities).toHaveLength(1);
    const masked = await unary(service.GetBundle, bundlesApi.GetBundle, { output_mask: { jwt_authorities: true } });
    expect(masked.trust_domain).toBe('example.org');
    expect(masked.x509_authorities).toEqual([]);
    expect(masked.jwt_authorities).toHaveLength(1);
  });

  it('spire-wire 10: appends what is missing, without a new sequence for what is there', async () => {
    const { own, asn1, bundlesApi } = await openBundles();
    const same = await unary(service.AppendBundle, bundlesApi.AppendBundle, { x509_authorities: [{ asn1, tainted: true }] });
    expect(same).toEqual(own);
    await expect(unary(service.AppendBundle, bundlesApi.AppendBundle, {})).rejects.toMatchObject({ message: 'no authorities to append' });
    await expect(unary(service.AppendBundle, bundlesApi.AppendBundle, { x509_authorities: [{ asn1: Buffer.concat([asn1, asn1]) }] })).rejects.toMatchObject({ kind: 'invalid' });
  });

  it('spire-wire 10: publishing', async () => {
    const { own, bundlesApi } = await openBundles();
    const key = { ...own.jwt_authorities[0], key_id: 'another' };
    const { jwt_authorities } = await unary(service.PublishJWTAuthority, bundlesApi.PublishJWTAuthority, { jwt_authority: key });
    expect(jwt_authorities.map((item) => item.key_id)).toEqual([own.jwt_authorities[0]?.key_id, 'another']);
    await expect(unary(service.PublishJWTAuthority, bundlesApi.PublishJWTAuthority, {})).rejects.toMatchObject({ message: 'missing JWT authority' });
    await expect(unary(service.PublishWITAuthority, bundlesApi.PublishWITAuthority, {})).rejects.toMatchObject({ kind: 'unsupported' });
  });
});

describe('federated bundles', () => {
  it('spire-wire 10: create, update, set, delete, each with its statuses', async () => {
    const { foreign, bundlesApi } = await openBundles();
    const create = (bundle: object[]) => unary(service.BatchCreateFederatedBundle, bundlesApi.BatchCreateFederatedBundle, { bundle });
    const created = await create([foreign('far.example', { refresh_hint: 60 }), foreign('far.example'), foreign('example.org'), foreign('NOT ONE')]);
    expect(created.results.map(({ status }) => [status?.code, status?.message])).toEqual([
      [0, 'OK'],
      [6, 'bundle already exists'],
      [3, "creating a federated bundle for the server's own trust domain is not allowed"],
      [3, expect.stringMatching(/^trust domain argument is not valid: /)],
    ]);
    expect(created.results[0]?.bundle?.x509_authorities[0]?.tainted).toBe(false);
    const updated = await unary(service.BatchUpdateFederatedBundle, bundlesApi.BatchUpdateFederatedBundle, {
      bundle: [{ trust_domain: 'far.example', refresh_hint: 120 }, foreign('other.example')],
      input_mask: { refresh_hint: true },
    });
    expect(updated.results[0]?.bundle).toMatchObject({ refresh_hint: '120' });
    expect(updated.results[0]?.bundle?.x509_authorities).toHaveLength(1);
    expect(updated.results[1]?.status).toEqual({ code: 5, message: 'bundle not found' });
    const set = await unary(service.BatchSetFederatedBundle, bundlesApi.BatchSetFederatedBundle, { bundle: [foreign('far.example', { sequence_number: 9 })] });
    expect(set.results[0]?.bundle).toMatchObject({ sequence_number: '9' });
    expect(await unary(service.CountBundles, bundlesApi.CountBundles, {})).toEqual({ count: 2 });
    const deleted = await unary(service.BatchDeleteFederatedBundle, bundlesApi.BatchDeleteFederatedBundle, { trust_domains: ['far.example', 'far.example', 'example.org'] });
    expect(deleted.results.map(({ status }) => [status?.code, status?.message])).toEqual([
      [0, 'OK'],
      [5, 'bundle not found'],
      [3, 'removing the bundle for the server trust domain is not allowed'],
    ]);
  });

  it('spire-wire 10: a bundle in use is kept unless the mode says otherwise', async () => {
    const { foreign, bundlesApi, admit, register, registry } = await openBundles();
    await unary(service.BatchCreateFederatedBundle, bundlesApi.BatchCreateFederatedBundle, { bundle: [foreign('far.example')] });
    const entry = await register(await admit('a'), '/web', { federatesWith: ['far.example'] });
    const remove = (mode: 'RESTRICT' | 'DISSOCIATE' | 7) =>
      unary(service.BatchDeleteFederatedBundle, bundlesApi.BatchDeleteFederatedBundle, { trust_domains: ['far.example'], mode: mode as 'RESTRICT' });
    const refused = await remove('RESTRICT');
    expect(refused.results[0]?.status).toMatchObject({ code: 9, message: expect.stringContaining('1 registration entries') as string });
    await expect(remove(7)).rejects.toMatchObject({ reason: 'proto.enum.unknown' });
    await remove('DISSOCIATE');
    expect(registry.entries.get(entry)?.federatesWith).toEqual([]);
  });

  it('spire-wire 10: pages leave the own bundle out', async () => {
    const { foreign, bundlesApi } = await openBundles();
    await unary(service.BatchCreateFederatedBundle, bundlesApi.BatchCreateFederatedBundle, { bundle: [foreign('a.example'), foreign('b.example'), foreign('z.example')] });
    const seen: string[] = [];
    let page_token = '';
    do {
      const page = await unary(service.ListFederatedBundles, bundlesApi.ListFederatedBundles, { page_size: 2, page_token });
      seen.push(...page.bundles.map((bundle) => bundle.trust_domain));
      page_token = page.next_page_token;
    } while (page_token !== '');
    expect(seen).toEqual(['a.example', 'b.example', 'z.example']);
  });

  it('spire-wire 10: GetFederatedBundle', async () => {
    const { bundlesApi } = await openBundles();
    const get = (trust_domain: string) => unary(service.GetFederatedBundle, bundlesApi.GetFederatedBundle, { trust_domain });
    await expect(get('far.example')).rejects.toMatchObject({ kind: 'missing', message: 'bundle not found' });
    await expect(get('example.org')).rejects.toMatchObject({ kind: 'invalid' });
  });
});
