import { describe, expect, it } from 'vitest';
import type { X509SVIDResponse } from '../../proto/gen/X509SVIDResponse.ts';
import {
  jwtBundlesFromMessage,
  jwtSvidsFromMessage,
  validatedFromMessage,
  witBundlesFromMessage,
  witSvidsFromMessage,
  workloadService,
  x509BundlesFromMessage,
  x509ContextFromMessage,
} from '../../client/messages.ts';
import { createFakeAuthority } from '../../client/testing/authority.ts';
import type { WITSVID } from '../../proto/gen/WITSVID.ts';
import { formatWitJwks } from '../../spiffe/bundle-document.ts';
import { formatPrivateJwk } from '../../spiffe/wit-svid.ts';
import { testAuthority } from '../help/agent-server.ts';
import { ecPair } from '../help/forge.ts';
import { granted, grantedSvid } from '../help/workload-api.ts';

const home = testAuthority('home');
const foreign = testAuthority('foreign');
const alpha = 'spiffe://example.org/alpha';
const beta = 'spiffe://example.org/beta';
const service = workloadService();

/** As it comes over the wire. */
function read(message: X509SVIDResponse) {
  const { responseSerialize, responseDeserialize } = service.FetchX509SVID;
  return x509ContextFromMessage(responseDeserialize(responseSerialize(message)));
}

describe('X509 contexts', () => {
  it('keep order, hints, keys and bundles', () => {
    const first = grantedSvid(home, alpha, { hint: 'internal' });
    const context = read({
      svids: [first, grantedSvid(home, beta)],
      federated_bundles: { 'spiffe://other.test': Buffer.concat([foreign.certificate, home.certificate]) },
    });
    expect(context.svids.map(({ spiffeId, hint }) => [spiffeId, hint])).toEqual([[alpha, 'internal'], [beta, '']]);
    expect(context.svids[0]?.privateKey.export({ type: 'pkcs8', format: 'der' })).toEqual(first.x509_svid_key);
    expect([...context.bundles]).toEqual([['example.org', [home.certificate]], ['other.test', [foreign.certificate, home.certificate]]]);
  });

  it('WLAPI-13: of several with one hint, the first counts', () => {
    const context = read({ svids: [grantedSvid(home, alpha, { hint: 'a' }), grantedSvid(home, beta, { hint: 'a' }), grantedSvid(home, beta), grantedSvid(home, alpha)] });
    expect(context.svids.map(({ spiffeId, hint }) => `${spiffeId} ${hint}`)).toEqual([`${alpha} a`, `${beta} `, `${alpha} `]);
  });

  it('WLAPI-19: a federated bundle does not replace the one that came with an SVID', () => {
    const context = read({ ...granted(home, alpha), federated_bundles: { 'spiffe://example.org': foreign.certificate } });
    expect(context.bundles.get('example.org' as never)).toEqual([home.certificate]);
  });

  it('do not keep the whole message alive', () => {
    const context = read(granted(home, alpha));
    for (const der of [...context.svids.flatMap(({ chain }) => chain), ...[...context.bundles.values()].flat()]) {
      expect(der.buffer.byteLength).toBeLessThan(4096);
    }
  });

  const other = ecPair();
  const rsaLike = Buffer.from('not a key');
  const refusals: readonly (readonly [string, X509SVIDResponse, string])[] = [
    ['WLAPI-17: no SVID', { svids: [] }, 'workload.message.malformed'],
    ['WLAPI-11: no SPIFFE ID', { svids: [grantedSvid(home, alpha, { spiffe_id: '' })] }, 'workload.message.malformed'],
    ['WLAPI-11: no certificate', { svids: [grantedSvid(home, alpha, { x509_svid: Buffer.alloc(0) })] }, 'certificate.none'],
    ['WLAPI-11: no key', { svids: [grantedSvid(home, alpha, { x509_svid_key: Buffer.alloc(0) })] }, 'svid.key.format'],
    ['WLAPI-11: no bundle', { svids: [grantedSvid(home, alpha, { bundle: Buffer.alloc(0) })] }, 'workload.message.malformed'],
    ['another SPIFFE ID than in the certificate', { svids: [grantedSvid(home, alpha, { spiffe_id: beta })] }, 'workload.message.malformed'],
    ['a key of somebody else', { svids: [grantedSvid(home, alpha, { x509_svid_key: other.privateKey.export({ type: 'pkcs8', format: 'der' }) })] }, 'svid.key.mismatch'],
    ['a key that is none', { svids: [grantedSvid(home, alpha, { x509_svid_key: rsaLike })] }, 'svid.key.format'],
    ['WLAPI-18: PEM', { svids: [grantedSvid(home, alpha, { x509_svid: Buffer.from('-----BEGIN CERTIFICATE-----') })] }, ''],
    ['WLAPI-18: a bundle with a rest', { svids: [grantedSvid(home, alpha, { bundle: Buffer.concat([home.certificate, Buffer.of(0)]) })] }, ''],
    ['one of two is wrong', { svids: [grantedSvid(home, alpha), grantedSvid(home, beta, { spiffe_id: alpha })] }, 'workload.message.malformed'],
    ['WLAPI-19: a federated bundle under a workload', { ...granted(home, alpha), federated_bundles: { [alpha]: home.certificate } }, 'workload.message.malformed'],
    ['WLAPI-19: a federated bundle under a plain name', { ...granted(home, alpha), federated_bundles: { 'other.test': home.certificate } }, ''],
    ['WLAPI-19: a key with a slash', { ...granted(home, alpha), federated_bundles: { 'spiffe://other.test/': home.certificate } }, ''],
    ['an authority as SVID', { svids: [grantedSvid(home, alpha, { x509_svid: home.certificate })] }, ''],
  ];

  it.each(refusals)('refuse the whole message: %s', (_what, message, reason) => {
    const expected = reason === '' ? { kind: 'invalid' } : { kind: 'invalid', reason };
    expect(() => read(message)).toThrow(expect.objectContaining(expected));
  });

  it('WLAPI-16: certificates are not looked for in JWT messages', () => {
    expect(() => jwtBundlesFromMessage({ bundles: { 'spiffe://example.org': Buffer.from(home.certificate) } })).toThrow(expect.objectContaining({ kind: 'invalid' }));
  });
});

describe('bundles', () => {
  it('WLAPI-22: without any, the message is refused', () => {
    expect(() => x509BundlesFromMessage({ crl: [], bundles: {} })).toThrow(expect.objectContaining({ reason: 'workload.message.malformed' }));
    expect(() => jwtBundlesFromMessage({ bundles: {} })).toThrow(expect.objectContaining({ reason: 'workload.message.malformed' }));
  });

  it('go by trust domain', () => {
    const bundles = x509BundlesFromMessage({ crl: [], bundles: { 'spiffe://example.org': Buffer.from(home.certificate) } });
    expect([...bundles]).toEqual([['example.org', [home.certificate]]]);
  });
});

describe('JWT-SVIDs', () => {
  it.each([
    ['none', []],
    ['no token', [{ spiffe_id: alpha, svid: 'x.y', hint: '' }]],
  ])('refuse %s', (_what, svids) => {
    expect(() => jwtSvidsFromMessage({ svids }, [])).toThrow(expect.objectContaining({ kind: 'invalid' }));
  });

  it('refuse a token for another identity', () => {
    const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
    const token = `${part({ alg: 'ES256', kid: 'a' })}.${part({ sub: alpha, aud: ['x'], exp: 4_000_000_000 })}.${Buffer.alloc(64).toString('base64url')}`;
    expect(jwtSvidsFromMessage({ svids: [{ spiffe_id: alpha, svid: token, hint: 'h' }] }, ['x'])).toMatchObject([{ spiffeId: alpha, token, hint: 'h' }]);
    expect(() => jwtSvidsFromMessage({ svids: [{ spiffe_id: beta, svid: token, hint: '' }] }, ['x'])).toThrow(expect.objectContaining({ reason: 'workload.message.malformed' }));
    const twice = { spiffe_id: alpha, svid: token, hint: 'h' };
    // WLAPI-13
    expect(jwtSvidsFromMessage({ svids: [twice, twice] }, ['x', ''])).toHaveLength(1);
    // WLAPI-23
    expect(() => jwtSvidsFromMessage({ svids: [twice] }, ['x', 'y'])).toThrow(expect.objectContaining({ reason: 'workload.message.malformed' }));
  });
});

describe('WIT-SVIDs', () => {
  const fake = createFakeAuthority('example.org');
  const item = (path: string, hint = ''): WITSVID => {
    const { spiffeId, token, privateKey, algorithm } = fake.witSvid(path);
    return { spiffe_id: spiffeId, wit_svid: token, wit_svid_key: formatPrivateJwk(privateKey, algorithm), hint };
  };
  const readWits = (svids: WITSVID[]) => {
    const { responseSerialize, responseDeserialize } = service.FetchWITSVID;
    return witSvidsFromMessage(responseDeserialize(responseSerialize({ svids })));
  };

  it('WLAPI-30, WLAPI-32: keep their order, keys and hints; WLAPI-13: of several with one hint, the first counts', () => {
    const svids = readWits([item('/a', 'one'), item('/b', 'one'), item('/c'), item('/d')]);
    expect(svids.map(({ spiffeId, hint }) => [spiffeId, hint])).toEqual([['spiffe://example.org/a', 'one'], ['spiffe://example.org/c', ''], ['spiffe://example.org/d', '']]);
  });

  it.each<[string, () => WITSVID[], string]>([
    ['none', () => [], 'workload.message.malformed'],
    ['one under another name', () => [{ ...item('/a'), spiffe_id: beta }], 'workload.message.malformed'],
    ['one without a name', () => [{ ...item('/a'), spiffe_id: '' }], 'workload.message.malformed'],
    ['WLAPI-11: one without a token', () => [{ ...item('/a'), wit_svid: '' }], 'jws.form'],
    ['WLAPI-11: one without a key', () => [{ ...item('/a'), wit_svid_key: '' }], 'wit-svid.key'],
    ['one with the key of another', () => [{ ...item('/a'), wit_svid_key: item('/a').wit_svid_key ?? '' }], 'wit-svid.key'],
    ['T-12: a JWT-SVID', () => [{ ...item('/a'), wit_svid: fake.jwtSvid('/a', ['x']).token }], 'wit-svid.typ'],
  ])('%s: refused whole', (_, svids, reason) => {
    expect(() => readWits([item('/good'), ...svids()].slice(svids().length === 0 ? 1 : 0))).toThrow(expect.objectContaining({ kind: 'invalid', reason }) as Error);
  });

  it('WLAPI-31: bundles are texts by trust domain ID', () => {
    const bundles = { 'spiffe://example.org': formatWitJwks(fake.bundle) };
    const { responseSerialize, responseDeserialize } = service.FetchWITBundles;
    const received = (message: object) => witBundlesFromMessage(responseDeserialize(responseSerialize(message)));
    const keyIds = fake.bundle.witAuthorities.map(({ keyId }) => keyId);
    expect([...received({ bundles })].map(([name, keys]) => [name, keys.map(({ keyId }) => keyId)])).toEqual([['example.org', keyIds]]);
    for (const wrong of [{}, { bundles: { 'example.org': '{"keys":[]}' } }, { bundles: { 'spiffe://example.org/a': '{"keys":[]}' } }, { bundles: { 'spiffe://example.org': '' } }]) {
      expect(() => received(wrong)).toThrow(expect.objectContaining({ kind: 'invalid' }) as Error);
    }
  });
});

describe('validated tokens', () => {
  it('have claims as plain values', () => {
    const { requestSerialize: _request, responseSerialize, responseDeserialize } = service.ValidateJWTSVID;
    const text = (stringValue: string) => ({ stringValue, kind: 'stringValue' as const });
    const message = responseDeserialize(
      responseSerialize({
        spiffe_id: alpha,
        claims: {
          fields: {
            sub: text(alpha),
            exp: { numberValue: 5, kind: 'numberValue' },
            yes: { boolValue: false, kind: 'boolValue' },
            nothing: { nullValue: 'NULL_VALUE', kind: 'nullValue' },
            aud: { listValue: { values: [text('a'), { listValue: { values: [] }, kind: 'listValue' }] }, kind: 'listValue' },
            deep: { structValue: { fields: { a: { structValue: { fields: {} }, kind: 'structValue' } } }, kind: 'structValue' },
          },
        },
      }),
    );
    expect(validatedFromMessage(message)).toEqual({
      spiffeId: alpha,
      claims: { sub: alpha, exp: 5, yes: false, nothing: null, aud: ['a', []], deep: { a: {} } },
    });
  });

  it('WLAPI-26: are refused without claims or with a wrong identity', () => {
    expect(() => validatedFromMessage({ spiffe_id: alpha, claims: null })).toThrow(expect.objectContaining({ reason: 'workload.message.malformed' }));
    expect(() => validatedFromMessage({ spiffe_id: 'alpha', claims: { fields: {} } })).toThrow(expect.objectContaining({ kind: 'invalid' }));
  });
});
