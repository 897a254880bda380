/**
 * An agent in a pod: it joins by its projected token, which a stand-in API server reviews, and needs nobody to come back.
 * Server, agents and workload are processes.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Cluster, createCluster } from '../help/kubernetes.ts';
import { podOf, uidOf } from '../help/kubernetes-pods.ts';
import { type AgentProcess, createSite, type Site, trustDomain } from '../help/site.ts';

const nodeId = `spiffe://${trustDomain}/spire/agent/k8s_psat/c1/${uidOf('node-1')}`;

describe('an agent in a pod', () => {
  let cluster: Cluster;
  let site: Site;
  let agent: AgentProcess;
  let tokenFile: string;

  /** Makes the API server know a token as that of the agent's pod, and projects it. */
  const project = async (token: string, changed: { readonly account?: string; readonly uid?: string } = {}): Promise<string> => {
    const { account = 'agent', uid = podOf('agent-1', { namespace: 'steeple' }).metadata.uid } = changed;
    const extra = { 'authentication.kubernetes.io/pod-name': ['agent-1'], 'authentication.kubernetes.io/pod-uid': [uid] };
    cluster.reviews.set(token, { user: { username: `system:serviceaccount:steeple:${account}`, extra }, audiences: ['spire-server'] });
    const file = path.join(site.directory, `${token}.token`);
    await writeFile(file, token);
    return file;
  };
  const configOf = (file: string): string => `attestor: { type: k8s_psat, cluster: c1, token_file: ${file} }`;

  beforeAll(async () => {
    cluster = await createCluster();
    cluster.setPod(podOf('agent-1', { namespace: 'steeple', serviceAccount: 'agent' }));
    cluster.nodes.set('node-1', { metadata: { name: 'node-1', uid: uidOf('node-1'), labels: { zone: 'eu-1' } } });
    cluster.tokens.add('server-token');
    site = await createSite();
    await writeFile(path.join(site.directory, 'kube-ca.pem'), cluster.authority.ca);
    await writeFile(path.join(site.directory, 'kube-token'), 'server-token', { mode: 0o600 });
    await site.configureServer(`attestors:
  - type: k8s_psat
    clusters:
      - name: c1
        api_server: { url: '${cluster.url}', ca: ${site.directory}/kube-ca.pem, token_file: ${site.directory}/kube-token }
        service_account_allow_list: ['steeple:agent']
        allowed_node_label_keys: [zone]
`);
    await site.startServer();
    await site.writeBundle();
    tokenFile = await project('first');
    agent = await site.startAgent('agent', { config: configOf(tokenFile) });
  });
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]();
    await cluster?.[Symbol.asyncDispose]();
  });

  it('gets what entries give to nodes of its zone', async () => {
    await agent.until('sync.connected');
    await site.entry({ path: '/zone/eu-1', parent: `spiffe://${trustDomain}/spire/server`, selectors: ['k8s_psat:cluster:c1', 'k8s_psat:agent_node_label:zone:eu-1'], flags: ['--node'] });
    const program = await site.program('web');
    await site.entry({ path: '/web', parent: `spiffe://${trustDomain}/zone/eu-1`, selectors: [`unix:path:${program}`] });
    const workload = site.workload(program, agent, ['watch']);
    expect(await workload.until('svids'), agent.text()).toMatchObject({ svids: [{ spiffeId: `spiffe://${trustDomain}/web` }] });
  });

  it('comes back with the token it has then when it is evicted', async () => {
    cluster.reviews.clear();
    await project('second');
    await writeFile(tokenFile, 'second');
    const before = agent.lines.length;
    expect((await site.steeple('agent', 'evict', '--spiffe-id', nodeId)).code).toBe(0);
    await agent.until('identity.attested', { from: before, withinMs: 40_000 });
    const agents = await site.ask<readonly { id: string }[]>('agent', 'list');
    expect(agents.map(({ id }) => id)).toEqual([nodeId]);
  });

  it.each([
    ['of another service account', { account: 'web' }, 'is not an allowed service account'],
    ['of an earlier pod of that name', { uid: uidOf('before') }, 'pod UID mismatch'],
  ])('is nobody with a token %s', async (name, changed, message) => {
    const word = name.replaceAll(' ', '-');
    const other = await site.startAgent(word, { config: configOf(await project(word, changed)) });
    expect((await other.exit).code, other.text()).toBe(4);
    expect(other.text()).toContain(message);
    const refusals = await site.ask<readonly { reason: string }[]>('audit', 'search', '--type', 'agent.refused');
    expect(refusals.map(({ reason }) => reason)).toContain('k8s-psat.refused');
  });

  it('waits for an API server that is away', async () => {
    cluster.fail('/apis/authentication', { kind: 'drop' }, { kind: 'status', status: 503 });
    const late = await site.startAgent('late', { config: configOf(await project('late')) });
    await late.until('identity.failed');
    await late.until('identity.attested', { withinMs: 40_000 });
  });
});
