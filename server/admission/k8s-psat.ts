/**
 * Evidence: the projected service account token of the agent's own pod, which the cluster's API server must recognise for
 * an audience that only we take. Everything told of the node comes from that API server, nothing from the node itself;
 * how it is asked is `kubernetes.ts`.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { checkPath, composeSpiffeId } from '../../spiffe/id.ts';
import { isJsonObject, parseJson, type JsonValue } from '../../spiffe/json.ts';
import { composeSelector, type Selector } from '../../spiffe/selector.ts';
import type { Clock } from '../../runtime/clock.ts';
import { isNamespace, isObjectName, isUid, openKubernetesApi } from './kubernetes.ts';
import type { ApiServerAddress, KubernetesApi, NodeFacts, PodFacts, TokenReview } from './kubernetes.ts';
import { createTurns, type Turns } from './turns.ts';
import type { Verifier } from './verifier.ts';

export interface K8sPsatCluster {
  /** As evidence names it, and as it stands in agent IDs: one segment of a path. */
  readonly name: string;
  readonly apiServer: ApiServerAddress;
  /** `namespace:service account`, exact. */
  readonly serviceAccounts: readonly string[];
  /** Of which the token must be meant for one; `spire-server` if absent. */
  readonly audience?: readonly string[];
  /** Labels that become selectors; none if absent. */
  readonly allowedNodeLabelKeys?: readonly string[];
  readonly allowedPodLabelKeys?: readonly string[];
  /** For several agents on one node: the agent ID is the pod's, not the node's. */
  readonly usePodUidForAgentId?: boolean;
}

export interface K8sPsatOptions {
  readonly clock: Clock;
  readonly clusters: readonly K8sPsatCluster[];
}

/** Closing ends the connections to the API servers. */
export interface K8sPsatVerifier extends Verifier {
  close(): void;
}

type OpenApi = (address: ApiServerAddress, clock: Clock) => KubernetesApi;

interface Cluster {
  readonly name: string;
  readonly api: KubernetesApi;
  readonly turns: Turns;
  readonly serviceAccounts: ReadonlySet<string>;
  readonly audience: readonly string[];
  readonly nodeLabelKeys: readonly string[];
  readonly podLabelKeys: readonly string[];
  readonly usePodUid: boolean;
}

interface Evidence {
  readonly cluster: string;
  readonly token: string;
}

/** Whose token it is, as the API server says. */
interface TokenHolder {
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly podName: string;
  readonly podUid: string;
}

const type = 'k8s_psat';
const maxPayloadBytes = 32 * 1024;
const maxTokenLength = 16 * 1024;
/** Of one cluster: a fleet that starts at once is not to wear out its API server, nor one that hangs to hold up memory. */
const crowd = { atOnce: 8, inLine: 1_024 };
const defaultAudience = ['spire-server'];
const usernameForm = /^system:serviceaccount:([^:]+):([^:]+)$/;
const extraPodName = 'authentication.kubernetes.io/pod-name';
const extraPodUid = 'authentication.kubernetes.io/pod-uid';

/**
 * Its verifications throw invalid `k8s-psat.malformed|cluster`, denied `k8s-psat.refused`, internal `k8s-psat.api` and limited
 * `turns.full`.
 * @throws invalid `k8s-psat.config`, `kubernetes.url`
 */
export function createK8sPsatVerifier(options: K8sPsatOptions, open: OpenApi = openKubernetesApi): K8sPsatVerifier {
  for (const [index, cluster] of options.clusters.entries()) {
    checkCluster(cluster);
    if (options.clusters.findIndex(({ name }) => name === cluster.name) !== index) {
      throw misconfigured(cluster, 'is listed twice');
    }
  }
  const clusters = new Map(options.clusters.map((each) => [each.name, openCluster(each, open(each.apiServer, options.clock))]));
  return {
    type,
    async verify(payload, _challenge, { trustDomain, outside = (wait) => wait() }) {
      const evidence = readEvidence(payload);
      const cluster = clusters.get(evidence.cluster);
      if (cluster === undefined) {
        const name = JSON.stringify(evidence.cluster.slice(0, 64));
        throw new SpiffeError('invalid', 'k8s-psat.cluster', `nodeattestor(${type}): not configured for cluster ${name}`);
      }
      const { holder, pod, node } = await outside(() => cluster.turns.take(() => askAbout(cluster, evidence.token)));
      const last = cluster.usePodUid ? `pod/${pod.uid}` : node.uid;
      return {
        agentId: composeSpiffeId(trustDomain, `/spire/agent/${type}/${cluster.name}/${last}`),
        selectors: selectorsOf(cluster, holder, pod, node),
        canReattest: true,
        tokenHash: undefined,
      };
    },
    close() {
      for (const { api } of clusters.values()) api.close();
    },
  };
}

function openCluster(cluster: K8sPsatCluster, api: KubernetesApi): Cluster {
  return {
    name: cluster.name,
    api,
    turns: createTurns(crowd),
    serviceAccounts: new Set(cluster.serviceAccounts),
    audience: cluster.audience ?? defaultAudience,
    nodeLabelKeys: [...new Set(cluster.allowedNodeLabelKeys)],
    podLabelKeys: [...new Set(cluster.allowedPodLabelKeys)],
    usePodUid: cluster.usePodUidForAgentId ?? false,
  };
}

function checkCluster(cluster: K8sPsatCluster): void {
  const { name, serviceAccounts, audience } = cluster;
  // A slash would let one cluster's nodes have names of another's.
  if (name.includes('/')) throw misconfigured(cluster, 'has a name that no path segment may have');
  try {
    checkPath(`/${name}`);
  } catch (cause) {
    throw misconfigured(cluster, 'has a name that no path segment may have', cause);
  }
  if (serviceAccounts.length === 0) throw misconfigured(cluster, 'allows no service account');
  for (const account of serviceAccounts) {
    const [namespace = '', own = '', ...rest] = account.split(':');
    if (!isNamespace(namespace) || !isObjectName(own) || rest.length > 0) {
      throw misconfigured(cluster, 'allows a service account that is not written namespace:name');
    }
  }
  // Without one the API server takes the token that every pod holds for the API server itself.
  if (audience?.some((each) => each === '') ?? false) throw misconfigured(cluster, 'has an empty audience');
  if (audience?.length === 0) throw misconfigured(cluster, 'has no audience');
}

function readEvidence(payload: Uint8Array): Evidence {
  let value: JsonValue;
  try {
    value = parseJson(payload, { maxBytes: maxPayloadBytes, maxDepth: 4, integers: 'number' });
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw malformed(`failed to unmarshal data payload: ${cause.message}`, cause);
  }
  if (!isJsonObject(value)) throw malformed('failed to unmarshal data payload: not an object');
  const { cluster, token } = value as { readonly [name in keyof Evidence]?: JsonValue };
  if (typeof cluster !== 'string' || cluster === '') throw malformed('missing cluster in attestation data');
  if (typeof token !== 'string' || token === '') throw malformed('missing token in attestation data');
  if (token.length > maxTokenLength || !/^[\x21-\x7e]+$/.test(token)) throw malformed('token is too long or not printable text');
  return { cluster, token };
}

async function askAbout(cluster: Cluster, token: string): Promise<{ holder: TokenHolder; pod: PodFacts; node: NodeFacts }> {
  const holder = await reviewToken(cluster, token);
  const pod = await podOf(cluster, holder);
  const node = await answerOf(cluster, 'failed to get node from k8s API server', () => cluster.api.node(pod.nodeName));
  return { holder, pod, node };
}

async function reviewToken(cluster: Cluster, token: string): Promise<TokenHolder> {
  const failure = 'unable to validate token with TokenReview API';
  const review = await answerOf(cluster, failure, () => cluster.api.reviewToken(token, cluster.audience));
  if (!review.authenticated) throw refused(cluster, 'token not authenticated according to TokenReview API');
  // A server that knows no audiences takes tokens for any of them [TokenReview, status.audiences].
  if (!cluster.audience.some((each) => review.audiences.includes(each))) {
    throw unanswered(cluster, 'unable to validate token with TokenReview API, which did not validate the audience');
  }
  const [, namespace = '', serviceAccount = ''] = usernameForm.exec(review.username) ?? [];
  if (!isNamespace(namespace) || !isObjectName(serviceAccount)) throw refused(cluster, 'token is not a service account\'s');
  const account = `${namespace}:${serviceAccount}`;
  if (!cluster.serviceAccounts.has(account)) throw refused(cluster, `"${account}" is not an allowed service account`);
  const podName = extraOf(cluster, review, extraPodName);
  const podUid = extraOf(cluster, review, extraPodUid);
  if (!isObjectName(podName) || !isUid(podUid)) throw refused(cluster, 'token is bound to a pod of no legal name');
  return { namespace, serviceAccount, podName, podUid };
}

/** Of several values nobody can say which one counts. */
function extraOf(cluster: Cluster, { extra }: TokenReview, key: string): string {
  const [value, ...rest] = extra.get(key) ?? [];
  if (value === undefined || rest.length > 0) throw refused(cluster, 'token is not bound to exactly one pod');
  return value;
}

async function podOf(cluster: Cluster, holder: TokenHolder): Promise<PodFacts> {
  const failure = 'failed to get pod from k8s API server';
  const pod = await answerOf(cluster, failure, () => cluster.api.pod(holder.namespace, holder.podName));
  // Another pod has taken the name since.
  if (pod.uid !== holder.podUid) throw refused(cluster, `pod UID mismatch for pod "${holder.podName}"`);
  return pod;
}

function selectorsOf(cluster: Cluster, holder: TokenHolder, pod: PodFacts, node: NodeFacts): readonly Selector[] {
  const labels = (name: string, keys: readonly string[], all: ReadonlyMap<string, string>): readonly string[] =>
    keys.flatMap((key) => {
      const value = all.get(key);
      return value === undefined ? [] : [`${name}:${key}:${value}`];
    });
  return [
    `cluster:${cluster.name}`,
    `agent_ns:${holder.namespace}`,
    `agent_sa:${holder.serviceAccount}`,
    `agent_pod_name:${holder.podName}`,
    `agent_pod_uid:${holder.podUid}`,
    ...(pod.hostIp === undefined ? [] : [`agent_node_ip:${pod.hostIp}`]),
    `agent_node_name:${pod.nodeName}`,
    `agent_node_uid:${node.uid}`,
    ...labels('agent_node_label', cluster.nodeLabelKeys, node.labels),
    ...labels('agent_pod_label', cluster.podLabelKeys, pod.labels),
  ].map((value) => composeSelector(type, value));
}

/** Whatever is the matter with the API server is not the node's doing, and no more than that is its business. */
async function answerOf<T>(cluster: Cluster, failure: string, ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw unanswered(cluster, failure, cause);
  }
}

function malformed(what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'k8s-psat.malformed', `nodeattestor(${type}): ${what}`, { cause });
}

function refused({ name }: Cluster, what: string): SpiffeError {
  return new SpiffeError('denied', 'k8s-psat.refused', `nodeattestor(${type}): ${what} for cluster "${name}"`);
}

function unanswered({ name }: Cluster, what: string, cause?: SpiffeError): SpiffeError {
  const detail = cause === undefined ? {} : { because: cause.reason };
  return new SpiffeError('internal', 'k8s-psat.api', `nodeattestor(${type}): ${what} for cluster "${name}"`, { detail, cause });
}

function misconfigured({ name }: K8sPsatCluster, what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'k8s-psat.config', `cluster ${JSON.stringify(name.slice(0, 64))} ${what}`, { cause });
}
