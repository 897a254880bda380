/**
 * From what an operator configured to what proves the node and what attests its workloads: the tables of attestors, a
 * part of the composition root. One more attestor is one more line here.
 */
import { untilAborted } from '../runtime/abort.ts';
import type { Clock } from '../runtime/clock.ts';
import { readTrustedFile } from '../runtime/files.ts';
import type { Logger } from '../runtime/log.ts';
import type { Task } from '../runtime/tasks.ts';
import type { NodeAttestorConfig } from './node/config.ts';
import type { EvidenceSource } from './node/evidence.ts';
import { joinTokenEvidence } from './node/join-token.ts';
import { k8sPsatEvidence } from './node/k8s-psat.ts';
import { oidcCiEvidence } from './node/oidc-ci.ts';
import { tpmDevidEvidence } from './node/tpm-devid.ts';
import { x509PopEvidence } from './node/x509-pop.ts';
import type { WorkloadAttestor } from './workload/attestor.ts';
import { createCriAttestor } from './workload/attestors/cri/attestor.ts';
import { createDockerAttestor, type EngineChange } from './workload/attestors/docker.ts';
import { createKubernetesAttestor, serviceAccountFiles, type KubernetesAttestorOptions } from './workload/attestors/kubernetes/kubernetes.ts';
import type { PodDirectory } from './workload/attestors/kubernetes/directory.ts';
import { createProcessAttestor } from './workload/attestors/process.ts';
import { createSystemdAttestor } from './workload/attestors/systemd/systemd.ts';
import { createUnixAttestor } from './workload/attestors/unix.ts';
import { createImageHashes } from './workload/attestors/unix-hash.ts';
import type { WorkloadConfig } from './workload/config.ts';
import { createContainers, type Containers } from './workload/container.ts';

/** An attestor, and what it does besides answering: `run` until the signal aborts, `stop` after that. */
export interface ComposedAttestor extends WorkloadAttestor {
  /** For whoever refers to a pod. */
  readonly pods?: PodDirectory;
  run?(signal: AbortSignal): Promise<void>;
  stop?(): Promise<void>;
  close?(): void;
}

export interface AttestorParts {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly log: Logger;
}

/** Those that are configured, in the order in which they are explained. */
export function workloadAttestors(config: WorkloadConfig, { clock, random, log }: AttestorParts): readonly ComposedAttestor[] {
  const { unix, docker, cri, kubernetes, systemd } = config;
  let known: Containers | undefined;
  const containers = (): Containers => (known ??= createContainers({ parents: config.containers.cgroup_parents }));
  // One thread hashes for both.
  const hashes = createImageHashes({ clock, limitBytes: unix.hash_limit });
  const attestors: ComposedAttestor[] = [
    { ...createUnixAttestor({ clock, hashes, groupLimit: unix.group_limit }), stop: () => hashes.stop() },
    createProcessAttestor({ clock, hashes }),
  ];
  if (systemd !== undefined) {
    const standard = systemd.address === 'bus' ? '/run/dbus/system_bus_socket' : '/run/systemd/private';
    attestors.push(createSystemdAttestor({ clock, random, address: { type: systemd.address, socketPath: systemd.socket_path ?? standard } }));
  }
  if (docker !== undefined) {
    const engines = docker.engines.map(({ socket_path: socketPath, owner_uid: ownerUid }) => (ownerUid === undefined ? { socketPath } : { socketPath, ownerUid }));
    const onEngine = (change: EngineChange): void => {
      if (change.kind === 'followed') log.info('engine.followed', { socket: change.socketPath });
      else log.warn('engine.lost', { socket: change.socketPath, reason: change.error.reason });
    };
    attestors.push(createDockerAttestor({ clock, containers: containers(), engines, onEngine }));
  }
  if (cri !== undefined) attestors.push(createCriAttestor({ clock, random, containers: containers(), socketPaths: cri.socket_paths }));
  if (kubernetes !== undefined) {
    const { disable_container_selectors: disableContainerSelectors } = kubernetes;
    attestors.push(createKubernetesAttestor({ clock, random, containers: containers(), source: podSource(kubernetes), disableContainerSelectors }));
  }
  return attestors;
}

function podSource(config: NonNullable<WorkloadConfig['kubernetes']>): KubernetesAttestorOptions['source'] {
  const { url, node_name: nodeName, ca: caFile, token_file: tokenFile } = config;
  if (config.source === 'api_server') {
    const account = { caFile: caFile ?? serviceAccountFiles.caFile, tokenFile: tokenFile ?? serviceAccountFiles.tokenFile };
    return { type: 'api_server', url, nodeName: config.node_name, ...account };
  }
  // Without credentials of its own it is a pod, asking as that pod's account.
  const isPod = url.startsWith('https:') && tokenFile === undefined && config.certificate === undefined;
  return {
    type: 'kubelet',
    url,
    nodeName,
    caFile: caFile ?? (isPod ? serviceAccountFiles.caFile : undefined),
    tokenFile: isPod ? serviceAccountFiles.tokenFile : tokenFile,
    certificateFile: config.certificate,
    keyFile: config.key,
    skipKubeletVerification: config.skip_kubelet_verification,
    relistMs: config.relist_interval,
  };
}

/** What each attestor does besides answering, until it is stopped at the end. */
export function attestorTasks(attestors: readonly ComposedAttestor[]): Readonly<Record<string, Task>> {
  const taskOf = (attestor: ComposedAttestor): Task => {
    return async (signal) => {
      try {
        await (attestor.run?.(signal) ?? untilAborted(new Promise<never>(() => undefined), signal));
      } finally {
        attestor.close?.();
        await attestor.stop?.();
      }
    };
  };
  return Object.fromEntries(attestors.map((attestor) => [`attestor ${attestor.name}`, taskOf(attestor)]));
}

/** What proves this node. @throws what reading a named file throws */
export async function evidenceSource(attestor: NodeAttestorConfig, clock: Clock): Promise<EvidenceSource> {
  switch (attestor.type) {
    case 'join_token':
      if (attestor.token_file !== undefined) return joinTokenEvidence({ tokenFile: attestor.token_file });
      return joinTokenEvidence({ token: attestor.token?.reveal() ?? '' });
    case 'x509pop':
      return x509PopEvidence({ certificate: attestor.certificate, key: attestor.key, intermediates: attestor.intermediates });
    case 'k8s_psat':
      return k8sPsatEvidence({ cluster: attestor.cluster, tokenFile: attestor.token_file });
    case 'oidc_ci':
      return oidcCiEvidence({ ...(attestor.trust === undefined ? {} : { trust: attestor.trust }), ...(await tokenPlace(attestor, clock)) });
    case 'tpm_devid':
      return tpmDevidEvidence({
        clock,
        device: attestor.tpm_device_path,
        devid: {
          certificate: attestor.devid_cert_path,
          privateBlob: attestor.devid_priv_path,
          publicBlob: attestor.devid_pub_path,
          password: attestor.devid_password,
        },
        ownerPassword: attestor.owner_hierarchy_password,
        endorsementPassword: attestor.endorsement_hierarchy_password,
        ekCertificate: attestor.ek_cert_path,
      });
  }
}

type OidcCiConfig = Extract<NodeAttestorConfig, { type: 'oidc_ci' }>;

async function tokenPlace({ token_file: tokenFile, request }: OidcCiConfig, clock: Clock): Promise<Parameters<typeof oidcCiEvidence>[0]> {
  if (request === undefined) return { tokenFile: tokenFile ?? '' };
  const { url: requestUrl, audience, ca } = request;
  return {
    requestUrl,
    audience,
    clock,
    ...(ca === undefined ? {} : { ca: String(await readTrustedFile(ca)) }),
    ...(request.token_file === undefined ? { requestToken: request.token?.reveal() ?? '' } : { requestTokenFile: request.token_file }),
  };
}
