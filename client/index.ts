/**
 * All that is public of the library: the Workload API, sources over it, the values they give, and the rules by which others
 * are judged. What stands on a library of its own has an entry of its own, such as `testing`.
 */
export { SpiffeError, type ErrorDetail, type ErrorKind, isSpiffeError } from '../spiffe/errors.ts';
export {
  appendPath,
  checkPath,
  checkPathSegment,
  composeSpiffeId,
  isMemberOf,
  isUnderPath,
  joinPath,
  parseSpiffeId,
  parseTrustDomain,
  pathOf,
  type SpiffeId,
  spiffeIdFromSegments,
  type TrustDomain,
  trustDomainFromText,
  trustDomainId,
  trustDomainOf,
} from '../spiffe/id.ts';
export {
  appendAuthorities,
  type Bundle,
  bundleEquals,
  emptyBundle,
  type JwtAuthority,
  mergeBundle,
  readJwtAuthority,
  removeJwtAuthority,
  removeX509Authority,
  type X509Authority,
} from '../spiffe/bundle.ts';
export type { JwtSvid, JwtSvidStatement } from '../spiffe/jwt-svid.ts';
export type { Confirmation, WitStatement, WitSvid } from '../spiffe/wit-svid.ts';
export type { X509Svid } from '../spiffe/x509-svid.ts';
export type { BackoffPolicy } from '../runtime/backoff.ts';
export { type Clock, systemClock } from '../runtime/clock.ts';
export type { Watch } from '../runtime/watch.ts';
export {
  type Authorize,
  authorizeAllOf,
  authorizeAny,
  authorizeAnyOf,
  authorizeExcept,
  authorizeId,
  authorizeMemberOf,
  authorizeOneOf,
  authorizePath,
  requireAuthorized,
} from './authorize.ts';
export {
  type BundleEndpoint,
  type BundleEndpointProfile,
  bundleHandler,
  type BundleHandlerOptions,
  fetchBundle,
  type FetchBundleOptions,
  watchBundle,
  type WatchBundleOptions,
} from './bundle-endpoint.ts';
export {
  bundleFromJwtAuthorities,
  bundleFromX509Authorities,
  type BundleSet,
  createBundleSet,
  formatBundle,
  formatJwtBundle,
  formatX509Bundle,
  type JwtBundleSource,
  loadBundle,
  loadJwtBundle,
  loadX509Bundle,
  parseBundle,
  parseJwtBundle,
  parseX509Bundle,
  parseX509BundleDer,
  type WitBundleSource,
  type X509BundleSource,
} from './bundle-set.ts';
export { BundleSource } from './bundle-source.ts';
export { workloadEndpoint } from './endpoint.ts';
export { type FixedIdentity, type FixedX509Source, fixedX509Source } from './fixed-source.ts';
export { pickHint, type SourceOptions } from './follow.ts';
export { JwtSource, type JwtSourceOptions } from './jwt-source.ts';
export { parseJwtSvidInsecure, validateJwtSvid, type ValidateJwtSvidOptions } from './jwt-svid.ts';
export type { JwtBundles, ValidatedToken, WitBundles, X509Bundles, X509Context } from './messages.ts';
export {
  connectTls,
  type NodeTlsClientOptions,
  type SpiffeServer,
  type TlsAddress,
  tlsClientOptions,
  type TlsClientSettings,
  type WebServer,
  type X509TlsSource,
} from './tls.ts';
export { peerOf, type TlsDecision, tlsDiagnostics, type TlsPeer } from './tls-peer.ts';
export {
  type AnyClients,
  createTlsServer,
  secureServer,
  type SpiffeClients,
  tlsServerOptions,
  type TlsServerSettings,
  type WebCertificate,
} from './tls-server.ts';
export {
  type Caller,
  callerDiagnostics,
  callerHook,
  callerMiddleware,
  callerOf,
  type CallerRules,
  type FastifyReply,
  type HttpRequest,
  type HttpResponse,
  withCaller,
} from './middleware.ts';
export { kafkaTls, type MysqlOptions, mysqlTls, postgresTls, redisTls } from './drivers.ts';
export { createHttpsServer, httpsAgent, type PoolOptions } from './https.ts';
export { connectHttp2, createHttp2Server } from './http2.ts';
export { fetchDispatcher, spiffeFetch, undiciConnector, type UndiciConnector, type UndiciTarget } from './undici.ts';
export { grpcChannelCredentials, type GrpcCall, type GrpcModule, grpcPeer, grpcServerCredentials } from './grpc.ts';
export {
  createWitVerifier,
  witHeaders,
  type WitHeaders,
  type WitHeadersOptions,
  type WitHttpRequest,
  witRefusal,
  type WitVerifier,
  type WitVerifierOptions,
} from './wit-request.ts';
export { WitSource, type WitSourceOptions } from './wit-source.ts';
export {
  type CallOptions,
  type Diagnostic,
  diagnosticsChannel,
  type JwtRequest,
  type WatchOptions,
  type WitRequest,
  WorkloadApi,
  type WorkloadApiOptions,
} from './workload-api.ts';
export { X509Source, type X509SourceOptions } from './x509-source.ts';
export {
  type CertificateChain,
  formatX509SvidDer,
  formatX509SvidPem,
  loadX509Svid,
  parseX509SvidDer,
  parseX509SvidPem,
  spiffeIdOf,
  type VerifiedX509Svid,
  type VerifyX509SvidOptions,
  verifyX509Svid,
  type X509SvidDer,
  type X509SvidPem,
} from './x509-svid.ts';
