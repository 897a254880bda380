/**
 * The services this agent calls and serves, parsed from their contracts once. What is said through them is in the
 * `messages.ts` and `api.ts` files.
 */
import { loadServices } from '../../proto/load.ts';

const names = [
  'SpiffeWorkloadAPI',
  'envoy.service.secret.v3.SecretDiscoveryService',
  'grpc.health.v1.Health',
  'spiffe.broker.API',
  'spire.agent.debug.v1.Debug',
  'spire.api.agent.delegatedidentity.v1.DelegatedIdentity',
  'spire.api.agent.logger.v1.Logger',
  'spire.api.server.agent.v1.Agent',
  'spire.api.server.bundle.v1.Bundle',
  'spire.api.server.entry.v1.Entry',
  'spire.api.server.svid.v1.SVID',
  'steeple.agent.v1.Admin',
  'steeple.node.v1.Node',
] as const;

export type AgentServices = ReturnType<typeof loadServices<(typeof names)[number]>>;

/** Parsed at the first call and kept. */
export function agentServices(): AgentServices {
  return loadServices(...names);
}
