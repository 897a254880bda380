/**
 * A node of 500 pods, as its API server tells of them: a process in a pod's control group, and our server and agent as
 * programs. The API server is the stand-in that the attestor's own tests use; the control group is the kernel's.
 */
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cgroup2Directory } from '../help/engine.ts';
import { createCluster, type Cluster } from '../help/kubernetes.ts';
import { containerIdOf, podOf, podsOf, type PodObject } from '../help/kubernetes-pods.ts';
import { startRunning, type OutputLine, type Running } from '../help/running.ts';
import { createSite, trustDomain, type AgentProcess, type Site } from '../help/site.ts';
import { buildProgram } from '../interop/program.ts';

const nodeName = 'node-1';
const isRoot = process.geteuid?.() === 0;
const without = isRoot || process.env['CI'] !== undefined ? '' : ' (skipped: only root makes control groups)';

/** The mount of cgroup v2, as the kernel numbers paths from it. */
function cgroupRoot(): string {
  const own = cgroup2Directory(process.pid);
  const [mount] = ['/sys/fs/cgroup/unified', '/sys/fs/cgroup'].filter((place) => existsSync(path.join(place, 'cgroup.procs')) && own.startsWith(place));
  if (mount === undefined) throw new Error(`${own} is below no mount of cgroup v2`);
  return mount;
}

function paths(line: OutputLine): readonly string[] {
  return ((line['svids'] ?? []) as { readonly id: string }[]).map(({ id }) => id.replace(`spiffe://${trustDomain}`, '')).toSorted();
}

const updateOf = (...wanted: readonly string[]) => (line: OutputLine): boolean => line.event === 'update' && paths(line).join() === wanted.join();

describe.skipIf(without !== '')(`pods${without}`, () => {
  const ends = new AsyncDisposableStack();
  let cluster: Cluster;
  let site: Site;
  let agent: AgentProcess;

  beforeAll(async () => {
    cluster = ends.use(await createCluster());
    cluster.tokens.add('token-1');
    cluster.setPods(podsOf(500, nodeName));
    site = ends.use(await createSite());
    const [caFile, tokenFile] = [path.join(site.directory, 'cluster-ca.pem'), path.join(site.directory, 'cluster-token')];
    writeFileSync(caFile, cluster.authority.ca);
    writeFileSync(tokenFile, 'token-1\n', { mode: 0o600 });
    await site.startServer();
    await site.writeBundle();
    const { token, agentId } = await site.token();
    agent = await site.startAgent('agent', {
      token,
      config: `workload: { kubernetes: { source: api_server, url: "${cluster.url}", node_name: ${nodeName}, ca: ${caFile}, token_file: ${tokenFile} } }`,
    });
    await site.entry({ path: '/cart', parent: agentId, selectors: ['k8s:ns:shop', 'k8s:sa:cart', 'k8s:container-name:app'] });
    await site.entry({ path: '/cart-front', parent: agentId, selectors: ['k8s:ns:shop', 'k8s:pod-label:tier:front'] });
    await site.entry({ path: '/other', parent: agentId, selectors: ['k8s:ns:shop', 'k8s:sa:other'] });
    await agent.until('sync.connected');
  });
  afterAll(async () => ends.disposeAsync());

  /** Runs go-spiffe's watcher in a group of this path below the root. */
  function inGroup(group: string): Running {
    const directory = path.join(cgroupRoot(), group);
    mkdirSync(directory, { recursive: true });
    const watcher = startRunning(['/bin/sh', '-c', 'echo $$ > "$0" && exec "$@"', path.join(directory, 'cgroup.procs'), buildProgram(), 'watch', '-socket', agent.endpoint]);
    ends.defer(async () => {
      await watcher.end('SIGKILL');
      for (let at = group; at !== '.'; at = path.dirname(at)) {
        try {
          rmdirSync(path.join(cgroupRoot(), at));
        } catch {
          // Another test's group is in it.
          return;
        }
      }
    });
    return site.own(watcher);
  }

  const groupOf = (pod: PodObject): string => `kubelet/kubepods/besteffort/pod${pod.metadata.uid}/${containerIdOf(pod.status.containerStatuses?.[0])}`;
  const cart = (name: string, labels: Readonly<Record<string, string>>, pending = false): PodObject =>
    podOf(name, { namespace: 'shop', serviceAccount: 'cart', nodeName, labels, pending });

  it('get the SVIDs of their entries as soon as the status shows their container, and follow their labels', async () => {
    const running = cart('cart-1', { tier: 'back' });
    cluster.setPod(cart('cart-1', { tier: 'back' }, true));
    const watcher = inGroup(groupOf(running));
    // It asks before the API server has told which container it is.
    const { stdout } = await site.steeple('explain', '--pid', String(watcher.pid), '--admin-socket', agent.adminSocket);
    expect(stdout).toContain('k8s.pod.pending');
    expect(watcher.lines.filter(({ event }) => event === 'update')).toEqual([]);
    cluster.setPod(running);
    await watcher.until(updateOf('/cart'));

    let from = watcher.lines.length;
    cluster.setPod(cart('cart-1', { tier: 'front' }));
    await watcher.until(updateOf('/cart', '/cart-front'), { from });
    from = watcher.lines.length;
    cluster.setPod(cart('cart-1', { tier: 'back' }));
    await watcher.until(updateOf('/cart'), { from });
  });

  it('of which the kernel says another uid than the API server are given nothing', async () => {
    const victim = cart('cart-2', { tier: 'front' });
    cluster.setPod(victim);
    const id = containerIdOf(victim.status.containerStatuses?.[0]);
    const forged = inGroup(`kubelet/kubepods/besteffort/pod${'0'.repeat(8)}-0000-4000-8000-${'0'.repeat(12)}/${id}`);
    await forged.until((line) => line.event === 'refused' && line['code'] === 'PermissionDenied');
    expect(forged.lines.filter(({ event }) => event === 'update')).toEqual([]);
  });

  it('T-A07: an id that stands where no kubelet puts one gives nothing, whoever has it', async () => {
    const victim = cart('cart-3', { tier: 'front' });
    cluster.setPod(victim);
    const forged = inGroup(`steeple-test.slice/app.service/${containerIdOf(victim.status.containerStatuses?.[0])}`);
    await forged.until((line) => line.event === 'refused' && line['code'] === 'PermissionDenied');
    const { code, stdout } = await site.steeple('explain', '--pid', String(forged.pid), '--admin-socket', agent.adminSocket);
    expect(code).toBe(1);
    expect(stdout).toMatch(/attestor k8s: container\.forged in \d/);
  });

  it('were all learnt of by one list and one watch', () => {
    const asked = cluster.requests.filter(({ path: asked }) => asked === '/api/v1/pods').map(({ query }) => query.get('watch') ?? 'list');
    expect(asked.filter((what) => what !== 'list')).toHaveLength(1);
    // 250 a page.
    expect(asked.filter((what) => what === 'list')).toHaveLength(2);
  });
});
