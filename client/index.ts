/**
 * All that is public of the library: the Workload API, sources over it, and the values they give.
 */
export { SpiffeError, type ErrorKind } from '../spiffe/errors.ts';
export { parseSpiffeId, parseTrustDomain, pathOf, type SpiffeId, type TrustDomain, trustDomainOf } from '../spiffe/id.ts';
export type { JwtAuthority } from '../spiffe/bundle.ts';
export type { JwtSvid } from '../spiffe/jwt-svid.ts';
export type { X509Svid } from '../spiffe/x509-svid.ts';
export type { Watch } from '../runtime/watch.ts';
export {
  authorizeAllOf,
  authorizeAny,
  authorizeAnyOf,
  authorizeExcept,
  authorizeId,
  authorizeMemberOf,
  authorizeOneOf,
  authorizePath,
  requireAuthorized,
  type Authorize,
} from './authorize.ts';
export { workloadEndpoint } from './endpoint.ts';
export type { JwtBundles, ValidatedToken, X509Bundles, X509Context } from './messages.ts';
export { WorkloadApi, type CallOptions, type JwtRequest, type WorkloadApiOptions } from './workload-api.ts';
export { X509Source, type Peer, type TlsConnectOptions, type TlsServeOptions, type X509SourceOptions } from './x509-source.ts';
