/**
 * Envoy's configuration for a proxy with an identity: plain listeners that go out with mutual TLS, one that lets it in, and
 * every certificate and authority from an agent's socket. `docs/envoy.md` explains it piece by piece.
 */

export type ApiType = 'GRPC' | 'DELTA_GRPC';

export interface Upstream {
  /** Plain, on the loopback; what comes in there leaves with mutual TLS. */
  readonly port: number;
  readonly to: number;
  /** The one SPIFFE ID that may answer. */
  readonly peer: string;
  /** Name of the secret with what to trust. */
  readonly trust: string;
}

export interface ProxyOptions {
  readonly name: string;
  readonly apiType: ApiType;
  /** The agent's socket. */
  readonly socket: string;
  readonly adminPort: number;
  /** Name of the secret with the certificate. */
  readonly svid: string;
  readonly inbound: { readonly port: number; readonly to: number; readonly peers: readonly string[]; readonly trust: string };
  readonly outbound: readonly Upstream[];
  /** Metadata of the node. */
  readonly metadata?: Readonly<Record<string, unknown>>;
  /** Audience of the token that is put on what leaves, if any. */
  readonly audience?: string;
}

type Json = Readonly<Record<string, unknown>>;

const agentCluster = 'spiffe-agent';
const tls = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3';
const network = 'type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager';

export function envoyConfig(options: ProxyOptions): Json {
  const { inbound, outbound } = options;
  return {
    node: { id: options.name, cluster: 'interop', metadata: options.metadata ?? {} },
    admin: { address: loopback(options.adminPort) },
    static_resources: {
      listeners: [
        listener('inbound', inbound.port, 'service', [], {
          name: 'envoy.transport_sockets.tls',
          typed_config: { '@type': `${tls}.DownstreamTlsContext`, require_client_certificate: true, common_tls_context: identity(options, inbound.peers, inbound.trust) },
        }),
        ...outbound.map(({ port }, index) => listener(`outbound-${index}`, port, `peer-${index}`, credentials(options))),
      ],
      clusters: [
        cluster(agentCluster, { pipe: { path: options.socket } }, {
          typed_extension_protocol_options: {
            'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
              '@type': 'type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions',
              explicit_http_config: { http2_protocol_options: {} },
            },
          },
        }),
        cluster('service', loopback(inbound.to)),
        ...outbound.map(({ to, peer, trust }, index) =>
          cluster(`peer-${index}`, loopback(to), {
            // A handshake every few requests, so that each rotation meets many.
            typed_extension_protocol_options: {
              'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
                '@type': 'type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions',
                common_http_protocol_options: { max_requests_per_connection: 10 },
                explicit_http_config: { http_protocol_options: {} },
              },
            },
            transport_socket: {
              name: 'envoy.transport_sockets.tls',
              typed_config: { '@type': `${tls}.UpstreamTlsContext`, common_tls_context: identity(options, [peer], trust) },
            },
          }),
        ),
      ],
    },
  };
}

/** Who we are, and whom we let in: both from the agent, the latter narrowed to exact SPIFFE IDs. */
function identity(options: ProxyOptions, peers: readonly string[], trust: string): Json {
  return {
    tls_certificate_sds_secret_configs: [secret(options, options.svid)],
    combined_validation_context: {
      default_validation_context: { match_typed_subject_alt_names: peers.map((exact) => ({ san_type: 'URI', matcher: { exact } })) },
      validation_context_sds_secret_config: secret(options, trust),
    },
  };
}

function secret({ apiType }: ProxyOptions, name: string): Json {
  return {
    name,
    sds_config: {
      resource_api_version: 'V3',
      api_config_source: {
        api_type: apiType,
        transport_api_version: 'V3',
        grpc_services: [
          // How soon Envoy asks again after an agent's restart; by default up to half a minute.
          { envoy_grpc: { cluster_name: agentCluster, retry_policy: { retry_back_off: { base_interval: '0.25s', max_interval: '1s' } } } },
        ],
      },
    },
  };
}

/** A JWT-SVID in the Authorization header of what leaves. */
function credentials(options: ProxyOptions): readonly Json[] {
  if (options.audience === undefined) return [];
  return [
    {
      name: 'envoy.filters.http.credential_injector',
      typed_config: {
        '@type': 'type.googleapis.com/envoy.extensions.filters.http.credential_injector.v3.CredentialInjector',
        overwrite: true,
        credential: {
          name: 'envoy.http.injected_credentials.generic',
          typed_config: {
            '@type': 'type.googleapis.com/envoy.extensions.http.injected_credentials.generic.v3.Generic',
            credential: secret(options, `jwt:${options.audience}`),
            header_value_prefix: 'Bearer ',
          },
        },
      },
    },
  ];
}

function listener(name: string, port: number, to: string, filters: readonly Json[], transport?: Json): Json {
  return {
    name,
    address: loopback(port),
    filter_chains: [
      {
        ...(transport !== undefined && { transport_socket: transport }),
        filters: [
          {
            name: 'envoy.filters.network.http_connection_manager',
            typed_config: {
              '@type': network,
              stat_prefix: name,
              // Whatever a client says of its own identity is replaced by what its certificate says.
              ...(transport !== undefined && { forward_client_cert_details: 'SANITIZE_SET', set_current_client_cert_details: { uri: true } }),
              route_config: { virtual_hosts: [{ name, domains: ['*'], routes: [{ match: { prefix: '/' }, route: { cluster: to } }] }] },
              http_filters: [...filters, { name: 'envoy.filters.http.router', typed_config: { '@type': 'type.googleapis.com/envoy.extensions.filters.http.router.v3.Router' } }],
            },
          },
        ],
      },
    ],
  };
}

function cluster(name: string, address: Json, more: Json = {}): Json {
  return {
    name,
    type: 'STATIC',
    connect_timeout: '10s',
    load_assignment: { cluster_name: name, endpoints: [{ lb_endpoints: [{ endpoint: { address } }] }] },
    ...more,
  };
}

function loopback(port: number): Json {
  return { socket_address: { address: '127.0.0.1', port_value: port } };
}
