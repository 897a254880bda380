import { describe, expect, it } from 'vitest';
import { loadServices } from '../../../proto/load.ts';
import { createEntriesApi } from '../../../server/api/entries.ts';
import { createEntryRules } from '../../../server/registry/entries.ts';
import { agentCaller, operatorCaller, stream, unary } from '../../help/api.ts';
import { openTestRegistry } from '../../help/registry.ts';
import { exampleOrg } from '../../help/store.ts';

const { 'spire.api.server.entry.v1.Entry': service } = loadServices('spire.api.server.entry.v1.Entry');

const id = (path: string) => ({ trust_domain: 'example.org', path });
const entry = (path: string, more: object = {}) => ({
  spiffe_id: id(path),
  parent_id: id('/spire/agent/test/a'),
  selectors: [{ type: 'unix', value: `path:/bin${path}` }],
  ...more,
});

async function openApi() {
  const world = await openTestRegistry();
  const { store, registry, clock } = world;
  const api = createEntriesApi({
    trustDomain: exampleOrg,
    clock,
    rules: createEntryRules({ trustDomain: exampleOrg, store, entries: registry.entries }),
    entries: registry.entries,
    authorizedEntries: (agentId) => registry.holdings.authorizedEntries(agentId, clock.now()),
  });
  const create = async (...entries: object[]) =>
    (await unary(service.BatchCreateEntry, api.BatchCreateEntry, { entries })).results;
  return { ...world, api, create };
}

describe('BatchCreateEntry', () => {
  it('spire-wire 13.2: answers every item in order, and creates the good ones', async () => {
    const { create, registry } = await openApi();
    const results = await create(
      entry('/a'),
      entry('/b', { parent_id: { trust_domain: 'elsewhere', path: '/x' } }),
      entry('/c', { selectors: [] }),
      entry('/spire/server'),
      entry('/d', { selectors: [{ type: '', value: 'x' }] }),
      entry('/e', { selectors: [{ type: 'a:b', value: 'x' }] }),
      entry('/f', { selectors: [{ type: 'a', value: '' }] }),
      entry('/g', { dns_names: ['bad name'] }),
      entry('/h', { federates_with: ['NOT A DOMAIN'] }),
      entry('/i', { hint: 'x'.repeat(1025) }),
      entry('/j', { x509_svid_ttl: -1 }),
      entry('/k', { id: 'has space' }),
      entry('/l'),
    );
    expect(results.map(({ status }) => status?.code)).toEqual([0, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 0]);
    const texts = results.map(({ status }) => status?.message);
    expect(texts[1]).toMatch(/^failed to convert entry: invalid parent ID: /);
    expect(texts[2]).toBe('failed to convert entry: selector list is empty');
    expect(texts[3]).toMatch(/^failed to convert entry: invalid spiffe ID: /);
    expect(texts[4]).toMatch(/^failed to convert entry: .*missing selector type$/);
    expect(texts[5]).toMatch(/^failed to convert entry: .*selector type contains ':'$/);
    expect(texts[6]).toMatch(/^failed to convert entry: .*missing selector value$/);
    expect(texts[7]).toMatch(/^failed to convert entry: .*invalid DNS name/);
    expect(texts[8]).toMatch(/^failed to convert entry: .*invalid federated trust domain: /);
    expect(texts[9]).toMatch(/hint is too long, max length is 1024 characters$/);
    expect(texts[10]).toMatch(/^failed to create entry: .*X509SvidTtl is not set$/);
    expect(results[0]?.entry).toMatchObject({ spiffe_id: id('/a'), revision_number: '0' });
    expect(registry.entries.size).toBe(2);
  });

  it('spire-wire 13.2: a similar entry is answered with the one that exists', async () => {
    const { create } = await openApi();
    const [first] = await create(entry('/a'));
    const [again] = await create(entry('/a', { hint: 'other' }));
    expect(again?.status).toEqual({ code: 6, message: 'similar entry already exists' });
    expect(again?.entry?.id).toBe(first?.entry?.id);
  });

  it('spire-wire 13.2: an unknown federated bundle is status 13', async () => {
    const { create } = await openApi();
    const [refused] = await create(entry('/a', { federates_with: ['far.example'] }));
    expect(refused?.status).toEqual({ code: 13, message: 'failed to create entry: unable to find federated bundle "spiffe://far.example"' });
  });

  it('spire-wire 17: fields the controller manager compares are echoed', async () => {
    const { create } = await openApi();
    const [probe] = await create(entry('/probe', { store_svid: true, hint: 'h', x509_svid_ttl: 60, jwt_svid_ttl: 60, id: 'prefix.1' }));
    expect(probe?.entry).toMatchObject({ id: 'prefix.1', store_svid: true, hint: 'h', x509_svid_ttl: 60, jwt_svid_ttl: 60 });
  });

  it('an empty batch has empty results', async () => {
    const { create } = await openApi();
    expect(await create()).toEqual([]);
  });
});

describe('BatchUpdateEntry and BatchDeleteEntry', () => {
  it('spire-wire 13.2: a mask replaces only its fields and raises the revision', async () => {
    const { api, create } = await openApi();
    const [made] = await create(entry('/a', { hint: 'before', dns_names: ['a.example'] }));
    const request = { entries: [{ id: made?.entry?.id ?? '', hint: 'after' }], input_mask: { hint: true } };
    const { results } = await unary(service.BatchUpdateEntry, api.BatchUpdateEntry, request);
    expect(results[0]?.entry).toMatchObject({ hint: 'after', dns_names: ['a.example'], revision_number: '1' });
  });

  it('spire-wire 13.2: unknown ids', async () => {
    const { api } = await openApi();
    const updated = await unary(service.BatchUpdateEntry, api.BatchUpdateEntry, { entries: [entry('/a', { id: 'nope' })] });
    expect(updated.results[0]?.status).toEqual({ code: 5, message: 'failed to update entry' });
    const deleted = await unary(service.BatchDeleteEntry, api.BatchDeleteEntry, { ids: ['', 'nope'] });
    expect(deleted.results.map(({ status }) => status)).toEqual([
      { code: 3, message: 'missing entry ID' },
      { code: 5, message: 'entry not found' },
    ]);
  });
});

describe('queries', () => {
  it('spire-wire 12: pages in order of creation, and a false or empty filter asks for nothing', async () => {
    const { api, create } = await openApi();
    await create(entry('/a'), entry('/b', { downstream: true, hint: 'h' }), entry('/c'));
    const filter = { by_downstream: { value: false }, by_hint: { value: '' } };
    const first = await unary(service.ListEntries, api.ListEntries, { filter, page_size: 2 });
    expect(first.entries.map((item) => item.spiffe_id?.path)).toEqual(['/a', '/b']);
    const rest = await unary(service.ListEntries, api.ListEntries, { filter, page_size: 2, page_token: first.next_page_token });
    expect(rest.entries.map((item) => item.spiffe_id?.path)).toEqual(['/c']);
    expect(await unary(service.CountEntries, api.CountEntries, { filter: { by_downstream: { value: true } } })).toEqual({ count: 1 });
  });

  it('spire-wire 12: malformed filters', async () => {
    const { api } = await openApi();
    const list = (filter: object) => unary(service.ListEntries, api.ListEntries, { filter });
    await expect(list({ by_parent_id: { trust_domain: 'x' } })).rejects.toMatchObject({ kind: 'invalid', message: expect.stringMatching(/^malformed parent ID filter: /) as string });
    await expect(list({ by_spiffe_id: id('/spire/agent/x') })).rejects.toMatchObject({ message: expect.stringMatching(/^malformed SPIFFE ID filter: /) as string });
    await expect(list({ by_selectors: { selectors: [] } })).rejects.toMatchObject({ kind: 'invalid' });
    await expect(list({ by_selectors: { selectors: [{ type: 'a', value: 'b' }], match: 9 } })).rejects.toMatchObject({ reason: 'proto.enum.unknown' });
  });

  it('spire-wire 13.2: GetEntry', async () => {
    const { api } = await openApi();
    await expect(unary(service.GetEntry, api.GetEntry, {})).rejects.toMatchObject({ kind: 'invalid', message: 'missing ID' });
    await expect(unary(service.GetEntry, api.GetEntry, { id: 'x' })).rejects.toMatchObject({ kind: 'missing', message: 'entry not found' });
  });
});

describe('SyncAuthorizedEntries', () => {
  async function syncWith(count: number) {
    const world = await openApi();
    const agent = await world.admit('a');
    for (let start = 0; start < count; start += 400) {
      await world.create(...Array.from({ length: Math.min(400, count - start) }, (_, index) => entry(`/w${start + index}`)));
    }
    return { ...world, caller: agentCaller(agent) };
  }

  it('spire-wire 6.3: up to 500 entries come at once and the call ends', async () => {
    const { api, caller } = await syncWith(3);
    const got = [];
    for await (const message of stream(service.SyncAuthorizedEntries, api.SyncAuthorizedEntries, [{}], caller)) got.push(message);
    expect(got).toHaveLength(1);
    expect(got[0]?.entries).toHaveLength(3);
    expect(got[0]?.more).toBe(false);
  });

  it('spire-wire 6.3: more come as revisions, then as they are asked for', async () => {
    const { api, caller } = await syncWith(1001);
    const wanted = Promise.withResolvers<string[]>();
    async function* requests() {
      yield {};
      yield { ids: await wanted.promise };
    }
    const revisions: string[] = [];
    const entries: string[] = [];
    const pages: boolean[] = [];
    for await (const message of stream(service.SyncAuthorizedEntries, api.SyncAuthorizedEntries, requests(), caller)) {
      pages.push(message.more);
      revisions.push(...message.entry_revisions.map((item) => item.id));
      entries.push(...message.entries.map((item) => item.id));
      if (revisions.length === 1001 && entries.length === 0) wanted.resolve([...revisions.slice(0, 501), 'unknown']);
    }
    expect(new Set(revisions).size).toBe(1001);
    expect(entries).toEqual(revisions.slice(0, 501).toSorted());
    expect(pages).toEqual([true, true, false, true, false]);
  });

  it('spire-wire 6.3: what the first request may not say', async () => {
    const { api, caller } = await syncWith(1);
    const first = (request: object) => stream(service.SyncAuthorizedEntries, api.SyncAuthorizedEntries, [request], caller).next();
    await expect(first({ ids: ['x'] })).rejects.toMatchObject({ message: 'specifying IDs on initial request is not supported' });
    await expect(first({ output_mask: { spiffe_id: true } })).rejects.toMatchObject({ message: 'revision number cannot be masked' });
  });

  it('T-B08 an agent is given what it holds and nothing else', async () => {
    const { api, admit, caller } = await syncWith(2);
    const other = agentCaller(await admit('b'));
    const held = await unary(service.GetAuthorizedEntries, api.GetAuthorizedEntries, {}, caller);
    const others = await unary(service.GetAuthorizedEntries, api.GetAuthorizedEntries, {}, other);
    expect(held.entries).toHaveLength(2);
    expect(others.entries).toEqual([]);
    await expect(unary(service.GetAuthorizedEntries, api.GetAuthorizedEntries, {}, operatorCaller)).rejects.toMatchObject({ kind: 'internal' });
  });
});
