/**
 * Identities on behalf of others, composed from parts that `agent.ts` made: the broker endpoint, when it is configured, and
 * what SPIRE's tools find on the operators' socket. How each answers is `broker/` and `admin/`.
 */
import { reflectionServices } from '../proto/reflection.ts';
import { untilAborted } from '../runtime/abort.ts';
import type { Clock } from '../runtime/clock.ts';
import type { Logger, LogLevel, RootLogger } from '../runtime/log.ts';
import type { Peer } from '../runtime/peer.ts';
import type { CallEnd } from '../runtime/rpc/calls.ts';
import { rpcService, type RpcService } from '../runtime/rpc/handlers.ts';
import type { Task } from '../runtime/tasks.ts';
import type { TlsIdentity } from '../runtime/tls.ts';
import type { Watch } from '../runtime/watch.ts';
import { debugApi, type DebugApiOptions } from './admin/debug.ts';
import { delegatedIdentityApi } from './admin/delegated-identity.ts';
import { loggerApi } from './admin/logger.ts';
import { brokerApi, type BrokerConnection } from './broker/api.ts';
import { listenForBrokers } from './broker/listen.ts';
import type { BrokeringOptions } from './broker/stream.ts';
import { createSubjects } from './broker/subjects.ts';
import type { AgentConfig } from './config.ts';
import { agentServices } from './node/wire.ts';
import type { Tokens } from './svids/tokens.ts';
import type { Holdings } from './sync/holdings.ts';
import type { PodDirectory } from './workload/attestors/kubernetes/directory.ts';
import type { Caller, FollowPeer } from './workload/caller.ts';
import type { WorkloadWitness } from './witness.ts';

export interface BrokeringParts extends BrokeringOptions {
  readonly config: AgentConfig;
  readonly clock: Clock;
  readonly log: Logger;
  readonly witness: WorkloadWitness;
  readonly identity: Watch<TlsIdentity>;
  readonly holdings: Watch<Holdings>;
  readonly tokens: Pick<Tokens, 'fetch'>;
  readonly follow: FollowPeer;
  readonly callerOf: (peer: Peer) => Caller;
  readonly pods: PodDirectory | undefined;
  readonly isReady: () => boolean;
  readonly onCall: (end: CallEnd<unknown>) => void;
  readonly figures: Pick<DebugApiOptions, 'counts' | 'syncedAt'>;
  /** The level that is read and set; where nobody says, that service is not there. */
  readonly logger: Pick<RootLogger, 'level' | 'setLevel'> | undefined;
}

export interface Brokering {
  /** For the operators' socket. */
  readonly services: readonly RpcService<Peer>[];
  /** The broker endpoint, until told to stop; undefined where there is none. */
  readonly task: Task | undefined;
}

export function createBrokering(parts: BrokeringParts): Brokering {
  const { config, clock, witness, identity, tokens } = parts;
  const { broker } = config;
  const definitions = agentServices();
  const subjects = createSubjects({
    clock,
    follow: parts.follow,
    pods: parts.pods,
    mostProcesses: broker?.limits.processes ?? 1_000,
    unseenImage: config.workload.unseen_image,
    onAttested: (who, attestation) => witness.attested(who, attestation),
  });

  const services = (): readonly RpcService<Peer>[] => {
    const delegates = new Set(config.authorized_delegates);
    const debug = { clock, svid: () => identity.value.svid, authorities: () => authoritiesOf(parts), ...parts.figures };
    const delegated = definitions['spire.api.agent.delegatedidentity.v1.DelegatedIdentity'];
    const all: RpcService<Peer>[] = [
      rpcService(delegated, delegatedIdentityApi({ ...parts, delegates, subjects })),
      rpcService(definitions['spire.agent.debug.v1.Debug'], debugApi(debug)),
    ];
    const launchLevel: LogLevel = config.log.level;
    const { logger } = parts;
    if (logger !== undefined) {
      all.push(rpcService(definitions['spire.api.agent.logger.v1.Logger'], loggerApi({ logger, launchLevel })));
    }
    return all;
  };

  const task = (configured: NonNullable<typeof broker>): Task => {
    const { profiles, pid_namespace: pidNamespace, socket_path: socket, listen: tcp } = configured;
    const options = { ...parts, trustDomain: config.trust_domain, subjects, tokens, profiles, pidNamespace };
    return async (stop) => {
      const listener = await listenForBrokers({
        clock,
        config: configured,
        trustDomain: config.trust_domain,
        identity,
        services: [
          rpcService<typeof brokerDefinition, BrokerConnection>(brokerDefinition, brokerApi(options)),
          ...reflectionServices(['spiffe.broker.API']).map(({ definition, handlers }) =>
            rpcService<typeof definition, BrokerConnection>(definition, handlers),
          ),
        ],
        isReady: parts.isReady,
        onCall: parts.onCall,
        refused(caller, method, error) {
          const behalf = caller === undefined ? undefined : { broker: caller, reference: '' };
          witness.refused({ process: undefined, behalf }, method, error);
        },
      });
      parts.log.info('broker.listening', { socket, address: tcp?.address, port: tcp?.port });
      try {
        await untilAborted(listener.run(stop), stop);
      } finally {
        await listener.stop();
      }
    };
  };
  const brokerDefinition = definitions['spiffe.broker.API'];

  return { services: services(), task: broker === undefined ? undefined : task(broker) };
}

function authoritiesOf({ identity, config }: BrokeringParts): readonly Uint8Array[] {
  return identity.value.bundles.get(config.trust_domain)?.x509Authorities.map(({ certificate }) => certificate) ?? [];
}
