import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { inspect } from 'node:util';
import { describe, expect, it, onTestFinished } from 'vitest';
import { openKubernetesApi, type ApiServerAddress, type KubernetesApi } from '../../../server/admission/kubernetes.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';
import { createCluster, type Cluster, type ClusterFault } from '../../help/kubernetes.ts';
import { podOf } from '../../help/kubernetes-pods.ts';
import { createClusterAuthority } from '../../help/kubernetes-tls.ts';

const secret = 'a.very-secret-token.c';
const reviews = '/apis/authentication.k8s.io/v1/tokenreviews';
const pods = '/api/v1/namespaces/spire/pods/agent-1';
const nodes = '/api/v1/nodes/node-1';

interface Stand {
  readonly cluster: Cluster;
  readonly tokenFile: string;
  readonly clock: TestClock;
  open(changed?: { readonly url?: string; readonly ca?: string; readonly own?: object }): KubernetesApi;
}

async function stand(): Promise<Stand> {
  const cluster = await createCluster();
  const directory = await mkdtemp(path.join(tmpdir(), 'steeple-k8s-'));
  onTestFinished(async () => {
    await rm(directory, { recursive: true });
    await cluster[Symbol.asyncDispose]();
  });
  const tokenFile = path.join(directory, 'token');
  await writeFile(tokenFile, 'own-token\n', { mode: 0o600 });
  cluster.tokens.add('own-token');
  cluster.reviews.set(secret, {
    user: {
      username: 'system:serviceaccount:spire:agent',
      extra: { 'authentication.kubernetes.io/pod-name': ['agent-1'], 'authentication.kubernetes.io/pod-uid': ['uid-1', 'uid-2'] },
    },
    audiences: ['spire-server', 'vault'],
  });
  cluster.setPod(podOf('agent-1', { namespace: 'spire', labels: { app: 'agent', empty: '' } }));
  cluster.nodes.set('node-1', { metadata: { name: 'node-1', uid: 'node-uid', labels: { zone: 'eu-1' } } });
  const clock = createTestClock();
  return {
    cluster,
    tokenFile,
    clock,
    open({ url = cluster.url, ca = cluster.authority.ca, own = { tokenFile } } = {}) {
      const api = openKubernetesApi({ url, ca, ...own } as ApiServerAddress, clock);
      onTestFinished(() => api.close());
      return api;
    },
  };
}

describe('openKubernetesApi', () => {
  it('asks whose token it is, which pod and which node', async () => {
    const { cluster, open } = await stand();
    const api = open();
    expect(await api.reviewToken(secret, ['spire-server', 'other'])).toEqual({
      authenticated: true,
      audiences: ['spire-server'],
      username: 'system:serviceaccount:spire:agent',
      extra: new Map([['authentication.kubernetes.io/pod-name', ['agent-1']], ['authentication.kubernetes.io/pod-uid', ['uid-1', 'uid-2']]]),
    });
    const { uid } = podOf('agent-1', { namespace: 'spire' }).metadata;
    expect(await api.pod('spire', 'agent-1')).toEqual({ uid, nodeName: 'node-1', hostIp: '10.1.0.4', labels: new Map([['app', 'agent'], ['empty', '']]) });
    expect(await api.node('node-1')).toEqual({ uid: 'node-uid', labels: new Map([['zone', 'eu-1']]) });
    expect(cluster.requests.map(({ method, path: asked, token }) => [method, asked, token])).toEqual([
      ['POST', reviews, 'own-token'],
      ['GET', pods, 'own-token'],
      ['GET', nodes, 'own-token'],
    ]);
  });

  it('finds a token not authenticated that is unknown, or known for other audiences only', async () => {
    const { open } = await stand();
    const none = { authenticated: false, audiences: [], username: '', extra: new Map() };
    expect(await open().reviewToken('unknown', ['spire-server'])).toEqual(none);
    expect(await open().reviewToken(secret, ['database'])).toEqual(none);
  });

  it('shows its own token as it is now', async () => {
    const { cluster, tokenFile, open } = await stand();
    const api = open();
    await api.node('node-1');
    await writeFile(tokenFile, 'newer-token');
    cluster.tokens.add('newer-token');
    await api.node('node-1');
    expect(cluster.requests.map(({ token }) => token)).toEqual(['own-token', 'newer-token']);
  });

  it('shows a certificate instead, and stands a path before its own', async () => {
    const { cluster, open } = await stand();
    const api = open({ own: cluster.authority.issue('steeple') });
    expect((await api.node('node-1')).uid).toBe('node-uid');
    expect(cluster.requests.at(-1)).toMatchObject({ client: 'steeple', token: undefined });
    await expect(open({ url: `${cluster.url}/k8s/clusters/c-1/` }).node('node-1')).rejects.toMatchObject({ detail: { status: 404 } });
    expect(cluster.requests.at(-1)?.path).toBe('/k8s/clusters/c-1/api/v1/nodes/node-1');
  });

  it('believes only a server that its authorities vouch for', async () => {
    const { cluster, open } = await stand();
    const foreign = open({ ca: createClusterAuthority('kubernetes-ca').ca });
    await expect(foreign.reviewToken(secret, ['spire-server'])).rejects.toMatchObject({ kind: 'unauthenticated', reason: 'http.tls' });
    expect(cluster.requests).toEqual([]);
  });

  it.each(['http://127.0.0.1:1', 'https://user:password@api.example', 'https://api.example/?a', 'https://api.example/#a', 'api.example:6443', ''])(
    'asks nobody at %j',
    async (url) => {
      const { open } = await stand();
      expect(() => open({ url })).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'kubernetes.url' }));
    },
  );

  it('gives up where its own token cannot be used', async () => {
    const { cluster, tokenFile, open } = await stand();
    await writeFile(tokenFile, 'two words');
    await expect(open().node('node-1')).rejects.toMatchObject({ kind: 'invalid', reason: 'kubernetes.token' });
    await chmod(tokenFile, 0o666);
    await expect(open().node('node-1')).rejects.toMatchObject({ kind: 'denied', reason: 'files.mode' });
    await rm(tokenFile);
    await expect(open().node('node-1')).rejects.toMatchObject({ kind: 'missing', reason: 'files.missing' });
    expect(cluster.requests).toEqual([]);
  });

  it.each([401, 403, 404, 409, 429, 500, 302, 204])('has no answer from status %i', async (status) => {
    const { cluster, open } = await stand();
    cluster.fail(pods, { kind: 'status', status, headers: { location: `${cluster.url}${pods}` } });
    await expect(open().pod('spire', 'agent-1')).rejects.toMatchObject({ kind: 'unavailable', reason: 'kubernetes.status', detail: { status } });
    expect(cluster.requests).toHaveLength(1);
  });

  it('stops waiting for a server that hangs', async () => {
    const { cluster, open, clock } = await stand();
    cluster.fail(nodes, { kind: 'hold', until: new Promise(() => undefined) });
    let error: unknown;
    const asking = open().node('node-1').catch((caught: unknown) => (error = caught));
    await clock.runUntil(() => error !== undefined);
    await asking;
    expect(error).toMatchObject({ kind: 'unavailable', reason: 'http.deadline' });
  });

  it.each([
    ['half of one', { kind: 'half' }, 'http.broken'],
    ['none', { kind: 'drop' }, 'http.broken'],
    ['5 MB', { kind: 'body', body: Buffer.alloc(5 * 1024 * 1024, 0x20) }, 'http.too-large'],
  ] as const)('has no answer from %s', async (_what, fault, reason) => {
    const { cluster, open } = await stand();
    cluster.fail(pods, fault, fault);
    await expect(open().pod('spire', 'agent-1')).rejects.toMatchObject({ reason });
  });

  type Change = (answer: ReturnType<typeof JSON.parse>) => unknown;
  const review = { kind: 'TokenReview', apiVersion: 'authentication.k8s.io/v1', spec: { token: secret }, status: { authenticated: true, user: { username: 'u', extra: { a: ['b'] } }, audiences: ['x'] } };
  const pod = { kind: 'Pod', apiVersion: 'v1', metadata: { name: 'agent-1', namespace: 'spire', uid: 'u-1', labels: { a: 'b' } }, spec: { nodeName: 'node-1' }, status: { hostIP: '10.0.0.1' } };
  const node = { kind: 'Node', apiVersion: 'v1', metadata: { name: 'node-1', uid: 'u-1', labels: { a: 'b' } } };
  const fault = (original: object, change: Change): ClusterFault => {
    const changed = JSON.parse(JSON.stringify(original));
    const replaced = change(changed);
    return { kind: 'body', body: typeof replaced === 'string' ? replaced : JSON.stringify(changed) };
  };

  it('reads the answers that the tables below spoil', async () => {
    const { cluster, open } = await stand();
    cluster.fail(reviews, fault(review, () => undefined));
    cluster.fail(pods, fault(pod, () => undefined), fault(pod, (it) => delete it['status'].hostIP && delete it['metadata'].labels));
    cluster.fail(nodes, fault(node, () => undefined));
    const api = open();
    expect(await api.reviewToken(secret, ['x'])).toEqual({ authenticated: true, audiences: ['x'], username: 'u', extra: new Map([['a', ['b']]]) });
    expect(await api.pod('spire', 'agent-1')).toEqual({ uid: 'u-1', nodeName: 'node-1', hostIp: '10.0.0.1', labels: new Map([['a', 'b']]) });
    expect(await api.pod('spire', 'agent-1')).toMatchObject({ hostIp: undefined, labels: new Map() });
    expect(await api.node('node-1')).toEqual({ uid: 'u-1', labels: new Map([['a', 'b']]) });
  });

  const spoilt: readonly (readonly [what: string, question: 'review' | 'pod' | 'node', change: Change])[] = [
    ['no JSON', 'review', () => '{"kind":'],
    ['a list', 'review', () => '[]'],
    ['a repeated member', 'review', () => JSON.stringify(review).replace('"authenticated":true', '"authenticated":false,"authenticated":true')],
    ['another kind', 'review', (it) => (it['kind'] = 'SelfSubjectReview')],
    ['another version', 'review', (it) => (it['apiVersion'] = 'authentication.k8s.io/v1beta1')],
    ['no status', 'review', (it) => delete it['status']],
    ['text for authenticated', 'review', (it) => (it['status'].authenticated = 'true')],
    ['authenticated with an error', 'review', (it) => (it['status'].error = 'expired')],
    ['a number for the error', 'review', (it) => (it['status'].error = 1)],
    ['no user', 'review', (it) => delete it['status'].user],
    ['no user name', 'review', (it) => delete it['status'].user.username],
    ['text for audiences', 'review', (it) => (it['status'].audiences = 'x')],
    ['numbers for audiences', 'review', (it) => (it['status'].audiences = [1])],
    ['a list for extras', 'review', (it) => (it['status'].user.extra = ['a'])],
    ['text for an extra', 'review', (it) => (it['status'].user.extra.a = 'b')],
    ['null for an extra value', 'review', (it) => (it['status'].user.extra.a = [null])],
    ['another pod', 'pod', (it) => (it['metadata'].name = 'agent-2')],
    ['a pod of another namespace', 'pod', (it) => (it['metadata'].namespace = 'default')],
    ['a list of pods', 'pod', (it) => (it['kind'] = 'PodList')],
    ['a pod without metadata', 'pod', (it) => delete it['metadata']],
    ['a pod without UID', 'pod', (it) => delete it['metadata'].uid],
    ['T-B03: a UID that is a path', 'pod', (it) => (it['metadata'].uid = 'a/b')],
    ['T-B03: a UID that climbs', 'pod', (it) => (it['metadata'].uid = '..')],
    ['a UID of 129 characters', 'pod', (it) => (it['metadata'].uid = 'a'.repeat(129))],
    ['a pod on no node', 'pod', (it) => delete it['spec'].nodeName],
    ['a pod on an empty node', 'pod', (it) => (it['spec'].nodeName = '')],
    ['T-B03: a node name that is a path', 'pod', (it) => (it['spec'].nodeName = '../pods')],
    ['a host name for the host IP', 'pod', (it) => (it['status'].hostIP = 'node-1')],
    ['a number for a label', 'pod', (it) => (it['metadata'].labels.a = 1)],
    ['a label that no label may be', 'pod', (it) => (it['metadata'].labels.a = 'b\nc')],
    ['a label that is too long', 'pod', (it) => (it['metadata'].labels.a = 'b'.repeat(64))],
    ['a list for labels', 'node', (it) => (it['metadata'].labels = ['a'])],
    ['another node', 'node', (it) => (it['metadata'].name = 'node-2')],
    ['a node without UID', 'node', (it) => (it['metadata'].uid = '')],
    ['200 levels', 'node', () => '['.repeat(200) + ']'.repeat(200)],
  ];
  it.each(spoilt)('does not believe %s (%s)', async (_what, question, change) => {
    const { cluster, open } = await stand();
    const [asked, original] = { review: [reviews, review] as const, pod: [pods, pod] as const, node: [nodes, node] as const }[question];
    cluster.fail(asked, fault(original, change));
    const api = open();
    const asking = { review: () => api.reviewToken(secret, ['x']), pod: () => api.pod('spire', 'agent-1'), node: () => api.node('node-1') }[question];
    const error: unknown = await asking().catch((caught: unknown) => caught);
    expect(error).toMatchObject({ kind: 'invalid', reason: 'kubernetes.answer' });
    expect(inspect(error, { depth: 10 })).not.toContain('very-secret');
  });

  it('closes its connections', async () => {
    const { cluster, open } = await stand();
    const api = open();
    await api.node('node-1');
    api.close();
    await expect(api.node('node-1')).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.closed' });
    await expect.poll(() => cluster.connections).toBe(0);
  });
});
