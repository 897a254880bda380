import { expect, it } from 'vitest';
import type { HeldX509Svid } from '../../../agent/svids/held.ts';
import { claimsToStruct, jwtBundlesResponse, jwtSvidResponse, x509BundlesResponse, x509SvidResponse } from '../../../agent/workload/messages.ts';
import { loadServices } from '../../../proto/load.ts';
import { composeBundle, emptyBundle, type Bundle } from '../../../spiffe/bundle.ts';
import { parseSpiffeId, parseTrustDomain } from '../../../spiffe/id.ts';
import { parseJson, type JsonObject } from '../../../spiffe/json.ts';
import { testAuthority, testEntry, trustDomain } from '../../help/agent-server.ts';
import { ecPair } from '../../help/forge.ts';

const other = parseTrustDomain('other.test');
const [one, two] = [testAuthority('one'), testAuthority('two')];
const bundle: Bundle = composeBundle({
  ...emptyBundle(trustDomain),
  x509Authorities: [one, two].map(({ certificate }) => ({ certificate, tainted: false })),
});
const foreign = composeBundle({ ...emptyBundle(other), jwtAuthorities: [{ keyId: 'k', publicKey: ecPair().spki, expiresAt: undefined, tainted: false }] });
const { FetchX509SVID, ValidateJWTSVID } = loadServices('SpiffeWorkloadAPI').SpiffeWorkloadAPI;

function held(path: string): HeldX509Svid {
  const spiffeId = parseSpiffeId(`spiffe://example.org${path}`);
  const key = ecPair();
  const chain = [one.leaf(spiffeId, key.spki), two.certificate];
  return { entryId: path, spiffeId, chain, key: key.privateKey, serial: '01', authorityId: one.id, notBeforeAt: 0, expiresAt: 1, renewAt: 0, entryRevision: 0 };
}

it('WLAPI-18: chains and bundles are concatenated DER, in their order', () => {
  const svid = held('/web');
  const entry = testEntry('/web', ['a:1'], { hint: 'web' });
  const response = x509SvidResponse({ entries: [entry], identities: [{ entry, svid }], bundles: new Map([[trustDomain, bundle]]), committedAt: undefined }, trustDomain);
  const [sent] = FetchX509SVID.responseDeserialize(FetchX509SVID.responseSerialize(response)).svids;
  expect(sent).toEqual({
    spiffe_id: 'spiffe://example.org/web',
    x509_svid: Buffer.concat(svid.chain),
    x509_svid_key: svid.key.export({ type: 'pkcs8', format: 'der' }),
    bundle: Buffer.concat([one.certificate, two.certificate]),
    hint: 'web',
  });
});

it('what was encoded once is the same bytes for the next workload', () => {
  const entry = testEntry('/web', ['a:1']);
  const update = { entries: [entry], identities: [{ entry, svid: held('/web') }], bundles: new Map([[trustDomain, bundle]]), committedAt: undefined };
  const [a, b] = [x509SvidResponse(update, trustDomain), x509SvidResponse(update, trustDomain)];
  expect(a.svids?.[0]?.x509_svid_key).toBe(b.svids?.[0]?.x509_svid_key);
  expect(a.svids?.[0]?.bundle).toBe(b.svids?.[0]?.bundle);
});

it('WLAPI-19: maps are by trust domain ID; a bundle without keys of the profile is there, empty', () => {
  const bundles = new Map([[trustDomain, bundle], [other, foreign]]);
  expect(x509BundlesResponse(bundles).bundles).toEqual({
    'spiffe://example.org': Buffer.concat([one.certificate, two.certificate]),
    'spiffe://other.test': Buffer.alloc(0),
  });
  const jwt = jwtBundlesResponse(bundles).bundles as Record<string, Buffer>;
  expect(JSON.parse(String(jwt['spiffe://example.org']))).toEqual({ keys: [] });
  expect(JSON.parse(String(jwt['spiffe://other.test']))).toMatchObject({ keys: [{ kid: 'k', kty: 'EC' }] });
});

it('tokens go out with the ID that they are for and the hint of the entry', () => {
  const spiffeId = parseSpiffeId('spiffe://example.org/web');
  const svid = { entryId: 'e', entryRevision: 0, spiffeId, audience: ['x'], token: 'a.b.c', keyId: '', issuedAt: 0, expiresAt: 1, renewAt: 0 };
  expect(jwtSvidResponse([{ entry: testEntry('/web', ['a:1'], { hint: 'h' }), svid }])).toEqual({ svids: [{ spiffe_id: spiffeId, svid: 'a.b.c', hint: 'h' }] });
});

it('WLAPI-27: claims of every JSON type survive the wire, and the audience is a list', () => {
  const claims = parseJson('{"sub":"s","aud":"x","exp":12,"yes":true,"no":null,"list":[1,"a",[]],"deep":{"er":{"n":-1.5}},"big":9007199254740993}', { maxBytes: 1_024, maxDepth: 8, integers: 'exact' }) as JsonObject;
  const sent = ValidateJWTSVID.responseDeserialize(ValidateJWTSVID.responseSerialize({ spiffe_id: 's', claims: claimsToStruct(claims, ['x']) }));
  const fields = sent.claims?.fields ?? {};
  expect(fields['aud']).toMatchObject({ kind: 'listValue', listValue: { values: [{ stringValue: 'x' }] } });
  expect(fields['exp']).toMatchObject({ kind: 'numberValue', numberValue: 12 });
  expect(fields['yes']).toMatchObject({ kind: 'boolValue', boolValue: true });
  expect(fields['no']).toMatchObject({ kind: 'nullValue' });
  expect(fields['list']?.listValue?.values.map(({ kind }) => kind)).toEqual(['numberValue', 'stringValue', 'listValue']);
  expect(fields['deep']?.structValue?.fields['er']?.structValue?.fields['n']?.numberValue).toBe(-1.5);
  expect(fields['big']?.numberValue).toBe(9007199254740992);
});
