/**
 * From what an operator configured to what judges nodes: the table of node attestors, a part of the composition root. The
 * files that sections name are read here, once, at the start.
 */
import type { Clock } from '../runtime/clock.ts';
import { readPrivateFile, readTrustedFile } from '../runtime/files.ts';
import { parsePemCertificates } from '../spiffe/pem.ts';
import { createAwsIidVerifier } from './admission/aws-iid.ts';
import { createAzureImdsVerifier } from './admission/azure-imds.ts';
import type { NodeAttestorConfig } from './admission/config.ts';
import { createGcpIitVerifier } from './admission/gcp-iit.ts';
import { joinTokenVerifier } from './admission/join-token.ts';
import { createK8sPsatVerifier, type K8sPsatCluster } from './admission/k8s-psat.ts';
import { createOidcCiVerifier } from './admission/oidc-ci.ts';
import type { OidcCiTrust } from './admission/oidc-ci-trust.ts';
import { createTpmDevidVerifier } from './admission/tpm/devid.ts';
import type { Verifier } from './admission/verifier.ts';
import { createX509PopVerifier } from './admission/x509-pop.ts';

export interface Verifiers {
  readonly all: readonly Verifier[];
  /** Ends the connections that some of them keep. */
  close(): void;
}

/** @throws what reading the files and making the verifiers throws */
export async function openVerifiers(attestors: readonly NodeAttestorConfig[], clock: Clock): Promise<Verifiers> {
  const all: (Verifier & { close?(): void })[] = [];
  for (const attestor of attestors) all.push(await verifierOf(attestor, clock));
  return {
    all,
    close() {
      for (const verifier of all) verifier.close?.();
    },
  };
}

async function verifierOf(attestor: NodeAttestorConfig, clock: Clock): Promise<Verifier & { close?(): void }> {
  switch (attestor.type) {
    case 'join_token':
      return joinTokenVerifier;
    case 'x509pop':
      return createX509PopVerifier({ authorities: await certificatesIn(attestor.ca_bundle) });
    case 'k8s_psat':
      return createK8sPsatVerifier({ clock, clusters: await Promise.all(attestor.clusters.map(clusterOf)) });
    case 'tpm_devid':
      return createTpmDevidVerifier({
        devidAuthorities: await certificatesIn(attestor.devid_ca_path),
        endorsementAuthorities: await certificatesIn(attestor.endorsement_ca_path),
      });
    case 'oidc_ci':
      return createOidcCiVerifier({ clock, trusts: await Promise.all(attestor.trusts.map(trustOf)), maxAgentLifeMs: attestor.max_agent_life });
    case 'aws_iid':
      return createAwsIidVerifier({
        accountAllowList: attestor.account_allow_list,
        certificates: await Promise.all(attestor.certificates.map(async ({ path, regions }) => ({ pem: await textIn(path), regions }))),
        ...(attestor.max_age === undefined ? {} : { maxAgeSeconds: attestor.max_age / 1000 }),
      });
    case 'gcp_iit':
      return createGcpIitVerifier({ clock, projectAllowList: attestor.project_allow_list, keys: { jwksFile: attestor.jwks_file } });
    case 'azure_imds':
      return createAzureImdsVerifier({
        tenants: attestor.tenants.map(({ tenant_id: tenantId, subscriptions }) => ({ tenantId, subscriptions })),
        roots: await textIn(attestor.root_ca_path),
        intermediates: await textIn(attestor.intermediate_ca_path),
        metadataDomains: attestor.metadata_domains,
      });
  }
}

type ClusterConfig = Extract<NodeAttestorConfig, { type: 'k8s_psat' }>['clusters'][number];

async function clusterOf(cluster: ClusterConfig): Promise<K8sPsatCluster> {
  const { url, ca, token_file: tokenFile, certificate, key } = cluster.api_server;
  const own =
    certificate !== undefined && key !== undefined
      ? { certificate: await textIn(certificate), key: String(await readPrivateFile(key)) }
      : { tokenFile: tokenFile ?? '' };
  return {
    name: cluster.name,
    apiServer: { url, ...(ca === undefined ? {} : { ca: await textIn(ca) }), ...own },
    serviceAccounts: cluster.service_account_allow_list,
    audience: cluster.audience,
    allowedNodeLabelKeys: cluster.allowed_node_label_keys,
    allowedPodLabelKeys: cluster.allowed_pod_label_keys,
    usePodUidForAgentId: cluster.use_pod_uid_for_agent_id,
  };
}

type TrustConfig = Extract<NodeAttestorConfig, { type: 'oidc_ci' }>['trusts'][number];

async function trustOf(trust: TrustConfig): Promise<OidcCiTrust> {
  const { jwks_file: jwksFile, jwks_host: jwksHost, ca, max_token_age: maxTokenAgeMs, ...conditions } = trust;
  if (jwksFile !== undefined) return { ...conditions, maxTokenAgeMs, keys: { jwksFile } };
  const keys = {
    discovery: true,
    ...(ca === undefined ? {} : { ca: await textIn(ca) }),
    ...(jwksHost === undefined ? {} : { jwksHost }),
  } as const;
  return { ...conditions, maxTokenAgeMs, keys };
}

async function certificatesIn(file: string): Promise<readonly Uint8Array[]> {
  return parsePemCertificates(await textIn(file));
}

async function textIn(file: string): Promise<string> {
  return String(await readTrustedFile(file));
}
