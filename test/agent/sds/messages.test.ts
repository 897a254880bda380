import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { allBundlesSecret, bundleSecret, readDeltaRequest, readNode, readSecretRequest, svidSecret, type BundleForm } from '../../../agent/sds/messages.ts';
import { loadServices } from '../../../proto/load.ts';
import type { HeldX509Svid } from '../../../agent/svids/held.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { testEntry, trustDomain } from '../../help/agent-server.ts';
import { sdsWorld, secretUrl, seen, type SdsWorld } from '../../help/sds.ts';

const service = loadServices('envoy.service.secret.v3.SecretDiscoveryService')['envoy.service.secret.v3.SecretDiscoveryService'];
const plain: BundleForm = { validator: 'spiffe', revoked: () => undefined };
let world: SdsWorld;

beforeEach(() => {
  world = sdsWorld();
});
afterEach(() => world.close());

async function issued(): Promise<HeldX509Svid> {
  const web = testEntry('/web', ['a:1']);
  await world.serve(web);
  return world.cache.x509(web.id)!;
}

describe('T-A09: what many streams get', () => {
  it('is encoded once for each X509-SVID and name', async () => {
    const svid = await issued();
    const [first, second] = [svidSecret('default', svid), svidSecret('default', svid)];
    expect(second).toBe(first);
    expect(second.encoded()).toBe(first.encoded());
    const other = svidSecret('spiffe://example.org/web', svid);
    expect(other.version).toBe(first.version);
    expect([seen(first.encoded()).name, seen(other.encoded()).name]).toEqual(['default', 'spiffe://example.org/web']);
  });

  it('is encoded once for each bundle, name and form', () => {
    const bundle = world.bundleOf(trustDomain);
    expect(bundleSecret('ROOTCA', bundle, plain)).toBe(bundleSecret('ROOTCA', bundle, plain));
    const authorities = bundleSecret('ROOTCA', bundle, { ...plain, validator: 'authorities' });
    expect(Object.keys(seen(authorities.encoded()).trust ?? {})).toEqual(['']);
    expect(authorities.version).not.toBe(bundleSecret('ROOTCA', bundle, plain).version);
  });

  it('is the same for equal bundles of all, whoever they were collected for', () => {
    const other = parseTrustDomain('other.test');
    const bundles = [world.bundleOf(trustDomain), world.bundleOf(other)] as const;
    const all = (): ReturnType<typeof allBundlesSecret> => allBundlesSecret('ALL', new Map(bundles.map((bundle) => [bundle.trustDomain, bundle])), () => undefined);
    expect(all().encoded()).toBe(all().encoded());
    const fewer = allBundlesSecret('ALL', new Map([[trustDomain, bundles[0]]]), () => undefined);
    expect(fewer.version).not.toBe(all().version);
    expect(Object.keys(seen(fewer.encoded()).trust ?? {})).toEqual(['example.org']);
  });
});

describe('requests from the wire', () => {
  /** A Struct in a Struct, so deep, as bytes: field 3 of a Node in field 2 of a request. */
  const nested = (depth: number): Buffer => {
    let inner: Uint8Array = Buffer.alloc(0);
    const field = (number: number, body: Uint8Array): Buffer => {
      const length: number[] = [];
      for (let rest = body.length; ; rest = Math.floor(rest / 128)) {
        length.push(rest < 128 ? rest : (rest % 128) + 128);
        if (rest < 128) break;
      }
      return Buffer.concat([Buffer.from([number * 8 + 2, ...length]), body]);
    };
    // Struct.fields entry {key: "a", value: Value{struct_value}}
    for (let level = 0; level < depth; level += 1) inner = field(1, Buffer.concat([field(1, Buffer.from('a')), field(2, field(5, inner))]));
    return field(2, field(3, inner));
  };

  it('a request of stock Envoy is read', () => {
    const request = service.StreamSecrets.requestDeserialize(
      Buffer.from(
        service.StreamSecrets.requestSerialize({
          resource_names: ['default'],
          type_url: secretUrl,
          node: { id: 'x', metadata: { fields: {} }, user_agent_build_version: { version: { major_number: 1, minor_number: 40 }, metadata: null } },
        }),
      ),
    );
    expect(readSecretRequest(request)).toEqual({ names: ['default'], nonce: '', rejected: undefined });
    expect(readNode(request.node)).toEqual({ disableSpiffeValidation: undefined, version: { major: 1, minor: 40 } });
    expect(readNode(null)).toBeUndefined();
  });

  it('metadata as large as a message may be is no harm', () => {
    const fields = Object.fromEntries(Array.from({ length: 5_000 }, (_, index) => [`key-${index}`, { stringValue: 'x'.repeat(30), kind: 'stringValue' as const }]));
    const bytes = service.StreamSecrets.requestSerialize({ node: { metadata: { fields } } });
    expect(bytes.length).toBeGreaterThan(200 * 1024);
    const { node } = service.StreamSecrets.requestDeserialize(bytes);
    expect(readNode(node)).toEqual({ disableSpiffeValidation: undefined, version: undefined });
  });

  it.each([
    [10, false],
    [2_000, true],
  ])('metadata nested %i deep is read or refused, and nothing breaks', (depth, refused) => {
    const bytes = nested(depth);
    expect(bytes.length).toBeLessThan(512 * 1024);
    let failed = false;
    try {
      service.StreamSecrets.requestDeserialize(bytes);
    } catch {
      failed = true;
    }
    expect(failed).toBe(refused);
  });

  it('a complaint is cut short, and names are checked in both dialects', () => {
    const base = { node: null, type_url: '', response_nonce: '1', error_detail: { code: 3, message: 'x'.repeat(9_999), details: [] } };
    expect(readSecretRequest({ ...base, resource_names: [], version_info: '' }).rejected?.length).toBe(512);
    const delta = { ...base, resource_names_subscribe: [] as string[], resource_names_unsubscribe: [] as string[], initial_resource_versions: { a: '1' } };
    expect(readDeltaRequest(delta)).toMatchObject({ versions: new Map([['a', '1']]), nonce: '1' });
    const long = 'x'.repeat(2_305);
    for (const names of [{ resource_names_subscribe: [long] }, { resource_names_unsubscribe: [long] }]) {
      expect(() => readDeltaRequest({ ...delta, ...names })).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'sds.name' }));
    }
  });
});
