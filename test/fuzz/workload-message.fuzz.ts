/**
 * Any bytes as a message of the Workload API, decoded and read as a workload's library does: values that hold together, or
 * refused. What protobuf itself refuses never reaches the library.
 */
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
import { formatPrivateJwk } from '../../spiffe/wit-svid.ts';
import { testAuthority } from '../help/agent-server.ts';
import { granted, grantedSvid } from '../help/workload-api.ts';
import { expected } from './expected.ts';

export const name = 'workload-message';

const service = workloadService();
const alpha = 'spiffe://example.org/alpha';

export function corpus(): Uint8Array[] {
  const home = testAuthority('home');
  const wit = createFakeAuthority('example.org').witSvid('/web');
  const token = [{ alg: 'ES256', kid: 'k' }, { sub: alpha, aud: ['x'], exp: 4_000_000_000 }].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'));
  const deep = (levels: number): object => ({ listValue: { values: levels === 0 ? [] : [deep(levels - 1)] } });
  return [
    service.FetchX509SVID.responseSerialize(granted(home, alpha, 'spiffe://example.org/beta')),
    service.FetchX509SVID.responseSerialize({
      svids: [grantedSvid(home, alpha, { hint: 'a' }), grantedSvid(home, alpha, { hint: 'a' })],
      federated_bundles: { 'spiffe://other.test': home.certificate, __proto__: home.certificate },
    }),
    service.FetchX509Bundles.responseSerialize({ bundles: { 'spiffe://example.org': home.certificate } }),
    service.FetchJWTBundles.responseSerialize({ bundles: { 'spiffe://example.org': Buffer.from('{"keys":[]}') } }),
    service.FetchJWTSVID.responseSerialize({ svids: [{ spiffe_id: alpha, svid: `${token.join('.')}.${Buffer.alloc(64).toString('base64url')}`, hint: 'h' }] }),
    service.FetchWITBundles.responseSerialize({ bundles: { 'spiffe://example.org': '{"keys":[]}', __proto__: '{}' } }),
    service.FetchWITSVID.responseSerialize({ svids: [{ spiffe_id: wit.spiffeId, wit_svid: wit.token, wit_svid_key: formatPrivateJwk(wit.privateKey, wit.algorithm), hint: 'h' }] }),
    service.ValidateJWTSVID.responseSerialize({ spiffe_id: alpha, claims: { fields: { a: deep(20), sub: { stringValue: alpha }, n: { nullValue: 'NULL_VALUE' } } } }),
  ];
}

export function run(input: Uint8Array): void {
  const bytes = Buffer.from(input);
  const context = read(service.FetchX509SVID, bytes, x509ContextFromMessage);
  if (context !== undefined) {
    if (context.svids.length === 0) throw new Error('a context without an identity');
    const hints = context.svids.map(({ hint }) => hint).filter((hint) => hint !== '');
    if (new Set(hints).size !== hints.length) throw new Error('a hint twice');
    for (const { spiffeId } of context.svids) {
      if (![...context.bundles.keys()].some((trustDomain) => spiffeId.startsWith(`spiffe://${trustDomain}/`))) throw new Error('an identity without its bundle');
    }
  }
  if (read(service.FetchX509Bundles, bytes, x509BundlesFromMessage)?.size === 0) throw new Error('no bundle');
  if (read(service.FetchJWTBundles, bytes, jwtBundlesFromMessage)?.size === 0) throw new Error('no bundle');
  if (read(service.FetchJWTSVID, bytes, (message: Parameters<typeof jwtSvidsFromMessage>[0]) => jwtSvidsFromMessage(message, []))?.length === 0) throw new Error('no token');
  if (read(service.FetchWITBundles, bytes, witBundlesFromMessage)?.size === 0) throw new Error('no bundle');
  if (read(service.FetchWITSVID, bytes, witSvidsFromMessage)?.length === 0) throw new Error('no token');
  read(service.ValidateJWTSVID, bytes, validatedFromMessage);
  if ('polluted' in {}) throw new Error('Object.prototype was changed');
}

function read<M, T>(method: { readonly responseDeserialize: (bytes: Buffer) => M }, bytes: Buffer, from: (message: M) => T): T | undefined {
  let message: M;
  try {
    message = method.responseDeserialize(bytes);
  } catch {
    return undefined;
  }
  return expected(() => from(message));
}
