import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { createK8sPsatVerifier, type K8sPsatCluster } from '../../../server/admission/k8s-psat.ts';
import type { KubernetesApi, NodeFacts, PodFacts, TokenReview } from '../../../server/admission/kubernetes.ts';
import type { VerifiedNode } from '../../../server/admission/verifier.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { createTestClock } from '../../help/clock.ts';
import { exampleOrg, idOf } from '../../help/store.ts';

const token = 'header.cGF5bG9hZA.very-secret-signature';
const podUid = '79261129-6b60-11e9-9054-0800277ac80f';
const nodeUid = '5dbb7b21-65fe-11e9-b1b0-0800277ac80f';
const cluster: K8sPsatCluster = {
  name: 'Prod-1',
  apiServer: { url: 'https://api.example', tokenFile: '/token' },
  serviceAccounts: ['spire:spire-agent', 'other:agent'],
  allowedNodeLabelKeys: ['topology.kubernetes.io/zone', 'absent'],
  allowedPodLabelKeys: ['team', 'empty'],
};

/** What the API server knows; a test changes some of it. */
interface Known {
  readonly tokens: Map<string, TokenReview & { readonly meantFor: readonly string[] }>;
  readonly pods: Map<string, PodFacts>;
  readonly nodes: Map<string, NodeFacts>;
  readonly asked: string[];
}

function knownOf(review: Partial<TokenReview> = {}, extra: Readonly<Record<string, readonly string[]>> = {}): Known {
  const bound = { 'authentication.kubernetes.io/pod-name': ['agent-v5wgr'], 'authentication.kubernetes.io/pod-uid': [podUid] };
  return {
    tokens: new Map([
      [
        token,
        {
          authenticated: true,
          audiences: ['spire-server'],
          username: 'system:serviceaccount:spire:spire-agent',
          extra: new Map(Object.entries({ ...bound, ...extra })),
          meantFor: ['spire-server'],
          ...review,
        },
      ],
    ]),
    pods: new Map([
      [
        'spire/agent-v5wgr',
        {
          uid: podUid,
          nodeName: 'minikube',
          hostIp: '172.16.10.1',
          labels: new Map([['team', 'a'], ['empty', ''], ['secret', 'x']]),
        },
      ],
    ]),
    nodes: new Map([
      ['minikube', { uid: nodeUid, labels: new Map([['topology.kubernetes.io/zone', 'eu-1'], ['team', 'node']]) }],
    ]),
    asked: [],
  };
}

const notThere = (): SpiffeError => new SpiffeError('unavailable', 'kubernetes.status', 'status 404');

function apiOf(known: Known): KubernetesApi {
  const lookUp = <T>(what: string, all: ReadonlyMap<string, T>, key: string): Promise<T> => {
    known.asked.push(`${what} ${key}`);
    const found = all.get(key);
    return found === undefined ? Promise.reject(notThere()) : Promise.resolve(found);
  };
  return {
    async reviewToken(shown, audiences) {
      known.asked.push(`review for ${audiences.join(' ')}`);
      const found = known.tokens.get(shown);
      if (found === undefined) return { authenticated: false, audiences: [], username: '', extra: new Map() };
      return found;
    },
    pod: (namespace, name) => lookUp('pod', known.pods, `${namespace}/${name}`),
    node: (name) => lookUp('node', known.nodes, name),
    close: () => void known.asked.push('closed'),
  };
}

function payloadOf(members: object): Uint8Array {
  return Buffer.from(JSON.stringify(members));
}

function show(known: Known, changed: Partial<K8sPsatCluster> = {}, payload = payloadOf({ cluster: 'Prod-1', token })): Promise<VerifiedNode> {
  const verifier = createK8sPsatVerifier({ clock: createTestClock(), clusters: [{ ...cluster, ...changed }] }, () => apiOf(known));
  const never = (): Promise<Uint8Array> => Promise.reject(new Error('a challenge was posed'));
  return verifier.verify(payload, never, { trustDomain: exampleOrg, remoteAddress: '192.0.2.1', at: 0 });
}

/** All of it, causes included, as a log would have it. */
async function failureOf(attempt: Promise<unknown>): Promise<SpiffeError> {
  const error: unknown = await attempt.then(
    () => undefined,
    (caught: unknown) => caught,
  );
  expect(error).toBeInstanceOf(SpiffeError);
  expect(inspect(error, { depth: 10 })).not.toContain('very-secret');
  return error as SpiffeError;
}

describe('createK8sPsatVerifier', () => {
  it('names the node, and tells what the API server says of it', async () => {
    const known = knownOf();
    expect(await show(known)).toEqual({
      agentId: idOf(`/spire/agent/k8s_psat/Prod-1/${nodeUid}`),
      selectors: [
        'k8s_psat:cluster:Prod-1',
        'k8s_psat:agent_ns:spire',
        'k8s_psat:agent_sa:spire-agent',
        'k8s_psat:agent_pod_name:agent-v5wgr',
        `k8s_psat:agent_pod_uid:${podUid}`,
        'k8s_psat:agent_node_ip:172.16.10.1',
        'k8s_psat:agent_node_name:minikube',
        `k8s_psat:agent_node_uid:${nodeUid}`,
        'k8s_psat:agent_node_label:topology.kubernetes.io/zone:eu-1',
        'k8s_psat:agent_pod_label:team:a',
        'k8s_psat:agent_pod_label:empty:',
      ],
      canReattest: true,
      tokenHash: undefined,
    });
    expect(known.asked).toEqual(['review for spire-server', 'pod spire/agent-v5wgr', 'node minikube']);
  });

  it('names the pod where several agents share a node', async () => {
    const node = await show(knownOf(), { usePodUidForAgentId: true });
    expect(node.agentId).toBe(idOf(`/spire/agent/k8s_psat/Prod-1/pod/${podUid}`));
  });

  it('asks for the audiences that are configured, and is content with one of them', async () => {
    const known = knownOf({ audiences: ['b', 'c'] });
    await show(known, { audience: ['a', 'b'] });
    expect(known.asked[0]).toBe('review for a b');
  });

  it('tells no host IP before there is one, and no labels that were not asked for', async () => {
    const known = knownOf();
    known.pods.set('spire/agent-v5wgr', { ...known.pods.get('spire/agent-v5wgr')!, hostIp: undefined });
    const { selectors } = await show(known, { allowedNodeLabelKeys: [], allowedPodLabelKeys: [] });
    expect(selectors.filter((selector) => /_ip|_label/.test(selector))).toEqual([]);
  });

  const name = 'authentication.kubernetes.io/pod-name';
  const uid = 'authentication.kubernetes.io/pod-uid';
  const denied: readonly (readonly [what: string, known: Known, message: RegExp])[] = [
    ['a token that is not authenticated', knownOf({ authenticated: false }), /not authenticated/],
    ['a service account that is not allowed', knownOf({ username: 'system:serviceaccount:spire:web' }), /"spire:web" is not an allowed/],
    ['the same account of another namespace', knownOf({ username: 'system:serviceaccount:spire2:spire-agent' }), /is not an allowed/],
    ['a person', knownOf({ username: 'spire:spire-agent' }), /not a service account/],
    ['a node', knownOf({ username: 'system:node:spire:spire-agent' }), /not a service account/],
    ['a name with one part more', knownOf({ username: 'system:serviceaccount:spire:spire-agent:x' }), /not a service account/],
    ['a name that goes on behind a line end', knownOf({ username: 'system:serviceaccount:spire:spire-agent\n' }), /not a service account/],
    ['an upper-case prefix', knownOf({ username: 'System:serviceaccount:spire:spire-agent' }), /not a service account/],
    ['an empty namespace', knownOf({ username: 'system:serviceaccount::spire-agent' }), /not a service account/],
    ['an empty account', knownOf({ username: 'system:serviceaccount:spire:' }), /not a service account/],
    ['a namespace that is a path', knownOf({ username: 'system:serviceaccount:..:spire-agent' }), /not a service account/],
    ['a token of no pod', knownOf({ extra: new Map() }), /not bound to exactly one pod/],
    ['a token of a pod without UID', knownOf({}, { [uid]: [] }), /not bound to exactly one pod/],
    ['two pod names', knownOf({}, { [name]: ['agent-v5wgr', 'agent-v5wgr'] }), /not bound to exactly one pod/],
    ['two pod UIDs', knownOf({}, { [uid]: [podUid, podUid] }), /not bound to exactly one pod/],
    ['an empty pod name', knownOf({}, { [name]: [''] }), /no legal name/],
    ['T-B03: a pod name that is a path', knownOf({}, { [name]: ['../../nodes/minikube'] }), /no legal name/],
    ['T-B03: a pod name with a query', knownOf({}, { [name]: ['agent-v5wgr?x'] }), /no legal name/],
    ['another pod of the same name', knownOf({}, { [uid]: ['11111111-6b60-11e9-9054-0800277ac80f'] }), /pod UID mismatch/],
    ['T-B03: a pod UID that is a path', knownOf({}, { [uid]: ['../x'] }), /no legal name/],
  ];
  it.each(denied)('denies %s', async (_what, known, message) => {
    const error = await failureOf(show(known));
    expect(error).toMatchObject({ kind: 'denied', reason: 'k8s-psat.refused' });
    expect(error.message).toMatch(/^nodeattestor\(k8s_psat\): .* for cluster "Prod-1"$/);
    expect(error.message).toMatch(message);
  });

  const without = (change: (known: Known) => void): Known => {
    const known = knownOf();
    change(known);
    return known;
  };
  const unanswered: readonly (readonly [what: string, known: Known])[] = [
    ['the pod is gone', without(({ pods }) => pods.clear())],
    ['the node is gone', without(({ nodes }) => nodes.clear())],
    ['the audience was not looked at', knownOf({ audiences: [] })],
    ['the token is found good for another audience', knownOf({ audiences: ['https://kubernetes.default.svc'] })],
    ['the audience differs in case', knownOf({ audiences: ['Spire-Server'] })],
  ];
  it.each(unanswered)('is unable to judge when %s', async (_what, known) => {
    expect(await failureOf(show(known))).toMatchObject({ kind: 'internal', reason: 'k8s-psat.api', message: expect.stringMatching(/ for cluster "Prod-1"$/) as string });
  });

  it('tells the node nothing of the API server, and the log why', async () => {
    const known = knownOf();
    const broken = { ...apiOf(known), reviewToken: () => Promise.reject(new SpiffeError('unavailable', 'http.unreachable', 'connect 10.1.2.3:6443')) };
    const verifier = createK8sPsatVerifier({ clock: createTestClock(), clusters: [cluster] }, () => broken);
    const error = await failureOf(verifier.verify(payloadOf({ cluster: 'Prod-1', token }), () => Promise.reject(new Error()), { trustDomain: exampleOrg, remoteAddress: '', at: 0 }));
    expect(error).toMatchObject({ kind: 'internal', reason: 'k8s-psat.api', detail: { because: 'http.unreachable' }, cause: { message: 'connect 10.1.2.3:6443' } });
    expect(error.message).toBe('nodeattestor(k8s_psat): unable to validate token with TokenReview API for cluster "Prod-1"');
  });

  const malformed: readonly (readonly [what: string, payload: Uint8Array, reason: string])[] = [
    ['nothing', Buffer.alloc(0), 'k8s-psat.malformed'],
    ['no JSON', Buffer.from('{'), 'k8s-psat.malformed'],
    ['a list', Buffer.from('[]'), 'k8s-psat.malformed'],
    ['no cluster', payloadOf({ token }), 'k8s-psat.malformed'],
    ['an empty cluster', payloadOf({ cluster: '', token }), 'k8s-psat.malformed'],
    ['a number for a cluster', payloadOf({ cluster: 1, token }), 'k8s-psat.malformed'],
    ['no token', payloadOf({ cluster: 'Prod-1' }), 'k8s-psat.malformed'],
    ['an empty token', payloadOf({ cluster: 'Prod-1', token: '' }), 'k8s-psat.malformed'],
    ['two tokens', Buffer.from(`{"cluster":"Prod-1","token":"a","token":${JSON.stringify(token)}}`), 'k8s-psat.malformed'],
    ['a token with a line end', payloadOf({ cluster: 'Prod-1', token: `${token}\n` }), 'k8s-psat.malformed'],
    ['a token of other characters', payloadOf({ cluster: 'Prod-1', token: 'ü' }), 'k8s-psat.malformed'],
    ['T-B05: a token of 20 kB', payloadOf({ cluster: 'Prod-1', token: 'x'.repeat(20_000) }), 'k8s-psat.malformed'],
    ['T-B05: 100 kB', Buffer.alloc(100_000, 0x20), 'k8s-psat.malformed'],
    ['another cluster', payloadOf({ cluster: 'Prod-2', token }), 'k8s-psat.cluster'],
    ['a cluster in other letters', payloadOf({ cluster: 'prod-1', token }), 'k8s-psat.cluster'],
    ['a member of every object', payloadOf({ cluster: 'constructor', token }), 'k8s-psat.cluster'],
  ];
  it.each(malformed)('refuses %s, and asks nobody', async (_what, payload, reason) => {
    const known = knownOf();
    expect(await failureOf(show(known, {}, payload))).toMatchObject({ kind: 'invalid', reason });
    expect(known.asked).toEqual([]);
  });

  it('asks the cluster that is named, and closes them all', async () => {
    const all = new Map([['https://a.example', knownOf()], ['https://b.example', knownOf()]]);
    const clusters = [...all.keys()].map((url, index) => ({ ...cluster, name: `c${index}`, apiServer: { url, tokenFile: '/token' } }));
    const verifier = createK8sPsatVerifier({ clock: createTestClock(), clusters }, ({ url }) => apiOf(all.get(url)!));
    const context = { trustDomain: exampleOrg, remoteAddress: '', at: 0 };
    const node = await verifier.verify(payloadOf({ cluster: 'c1', token }), () => Promise.reject(new Error()), context);
    expect(node.agentId).toBe(idOf(`/spire/agent/k8s_psat/c1/${nodeUid}`));
    expect(all.get('https://a.example')?.asked).toEqual([]);
    verifier.close();
    expect([...all.values()].map(({ asked }) => asked.at(-1))).toEqual(['closed', 'closed']);
  });

  it('asks the API server about eight nodes at once, and lends the turn meanwhile', async () => {
    const known = knownOf();
    let [now, most] = [0, 0];
    const slow: KubernetesApi = {
      ...apiOf(known),
      async reviewToken(shown, audiences) {
        most = Math.max(most, (now += 1));
        await new Promise((resolve) => setImmediate(resolve));
        now -= 1;
        return apiOf(known).reviewToken(shown, audiences);
      },
    };
    const verifier = createK8sPsatVerifier({ clock: createTestClock(), clusters: [cluster] }, () => slow);
    let lent = 0;
    const outside = <T>(wait: () => Promise<T>): Promise<T> => ((lent += 1), wait());
    const context = { trustDomain: exampleOrg, remoteAddress: '', at: 0, outside };
    const all = Array.from({ length: 100 }, () => verifier.verify(payloadOf({ cluster: 'Prod-1', token }), () => Promise.reject(new Error()), context));
    expect(new Set((await Promise.all(all)).map(({ agentId }) => agentId)).size).toBe(1);
    expect([most, lent]).toEqual([8, 100]);
  });

  const misconfigured: readonly (readonly [what: string, changed: Partial<K8sPsatCluster>])[] = [
    ['T-B03: a slash in a name', { name: 'a/b' }],
    ['T-B03: two dots for a name', { name: '..' }],
    ['an empty name', { name: '' }],
    ['a name with a space', { name: 'a b' }],
    ['no service account', { serviceAccounts: [] }],
    ['a service account of no namespace', { serviceAccounts: ['spire-agent'] }],
    ['any service account of a namespace', { serviceAccounts: ['spire:*'] }],
    ['a service account as tokens name it', { serviceAccounts: ['system:serviceaccount:spire:spire-agent'] }],
    ['no audience', { audience: [] }],
    ['an empty audience', { audience: [''] }],
  ];
  it.each(misconfigured)('is not configured with %s', (_what, changed) => {
    const make = () => createK8sPsatVerifier({ clock: createTestClock(), clusters: [{ ...cluster, ...changed }] }, () => apiOf(knownOf()));
    expect(make).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'k8s-psat.config' }));
  });

  it('is not configured with two clusters of one name', () => {
    const make = () => createK8sPsatVerifier({ clock: createTestClock(), clusters: [cluster, cluster] }, () => apiOf(knownOf()));
    expect(make).toThrow(expect.objectContaining({ reason: 'k8s-psat.config' }));
  });
});
