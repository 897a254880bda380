/**
 * Secret discovery as it is configured: the names and form it goes by, whom it tells of trouble, and what reflection may
 * say of it. The sockets it is answered on are `doors.ts`.
 */
import type { Observer } from './observe.ts';
import type { SdsConfig } from './sds/config.ts';
import type { ConversationParts } from './sds/conversation.ts';

const serviceName = 'envoy.service.secret.v3.SecretDiscoveryService';

export function secretSettings(config: SdsConfig, observer: Observer): Pick<ConversationParts, 'names' | 'validator' | 'observer'> {
  const { default_svid_name: svid, default_bundle_name: bundle, default_all_bundles_name: allBundles, jwt_prefix: jwtPrefix } = config;
  return {
    names: { svid, bundle, allBundles, jwtPrefix },
    validator: config.disable_spiffe_cert_validation ? 'authorities' : 'spiffe',
    observer: {
      rejected: (caller, message, quiet) => observer.secretRejected(caller.process.pid, message, quiet),
      unknown: (caller, names) => observer.secretsUnknown(caller.process.pid, names),
    },
  };
}

/** On the Workload API's socket. */
export function sharedSecretServices(config: SdsConfig): readonly (typeof serviceName)[] {
  return config.enabled && config.on_workload_socket ? [serviceName] : [];
}
