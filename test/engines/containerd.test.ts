/**
 * A real containerd with its CRI plugin, a real server and agent, and pods made without a kubelet, whose program is
 * go-spiffe in an image of its own.
 */
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmdirSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createAttest } from '../../agent/workload/attest.ts';
import { createCriAttestor } from '../../agent/workload/attestors/cri/attestor.ts';
import { createContainers } from '../../agent/workload/container.ts';
import { systemClock } from '../../runtime/clock.ts';
import { startContainerd, withoutContainerd } from '../help/containerd.ts';
import type { Containerd, Image, RunningPod } from '../help/containerd.ts';
import { peerOfProcess } from '../help/peer.ts';
import { startRunning } from '../help/running.ts';
import type { OutputLine, Running } from '../help/running.ts';
import { createSite, freePort } from '../help/site.ts';
import type { AgentProcess, Site } from '../help/site.ts';
import { buildProgram, withoutGo } from '../interop/program.ts';

const without = withoutContainerd ?? withoutGo;
const webUid = '0f1e2d3c-0000-4000-8000-00000000c0de';
/** So long an answer is kept where the runtime sends no events. */
const goodForMs = 5_000;
const reference = 'localhost/steeple-ask:1';

describe.skipIf(without !== undefined)(`pods of a real containerd ${without ?? ''}`, () => {
  let containerd: Containerd;
  let image: Image;
  let site: Site;
  let agent: AgentProcess;
  let web: RunningPod;
  let port: number;
  let mounts: Readonly<Record<string, string>>;

  beforeAll(async () => {
    containerd = await startContainerd();
    image = await containerd.importImage({ reference, program: buildProgram(), at: 'ask', entrypoint: ['/ask'] });
    site = await createSite();
    await site.startServer();
    await site.writeBundle();
    const { token, agentId } = await site.token();
    await site.entry({
      path: '/web',
      parent: agentId,
      selectors: ['cri:pod-namespace:shop', 'cri:pod-label:app:web', 'cri:container-name:ask', `cri:image-id:${image.id}`],
    });
    port = await freePort();
    agent = await site.startAgent('node', {
      token,
      config: `health: { address: 127.0.0.1, port: ${String(port)} }\nworkload: { cri: { socket_paths: [${containerd.socketPath}] } }`,
    });
    await agent.until('sync.connected');
    mounts = { '/run/workload': path.dirname(agent.socket) };
    web = await containerd.runPod({ name: 'web-0', namespace: 'shop', uid: webUid, labels: { app: 'web' }, cgroupParent: `/kubepods/besteffort/pod${webUid}` });
  });
  afterAll(async () => {
    await site?.[Symbol.asyncDispose]();
    await containerd?.[Symbol.asyncDispose]();
  });

  const watch = ['watch', '-socket', 'unix:///run/workload/api.sock'] as const;
  const patience = { timeout: 20_000, interval: 100 };
  const refused = (line: OutputLine): boolean => line.event === 'refused' && line['code'] === 'PermissionDenied';
  const updated = (line: OutputLine): boolean => line.event === 'update' && JSON.stringify(line['svids']).includes('spiffe://example.org/web');

  const explained = async ({ pid }: Running): Promise<string> => {
    const { stdout, stderr } = await site.steeple('explain', '--admin-socket', agent.adminSocket, '--pid', String(pid));
    return stdout + stderr;
  };
  const streams = async (): Promise<number> => {
    const text = await (await fetch(`http://127.0.0.1:${String(port)}/metrics`)).text();
    return Number(/^steeple_agent_streams (\d+)$/m.exec(text)?.[1]);
  };
  /** A process of this machine's that is put into groups, as `exec` does with a container's; it asks once its input ends. */
  const intrude = async (groups: readonly string[]): Promise<Running> => {
    const script = 'for file in $GROUPS_TO_JOIN; do echo $$ > "$file" || exit 1; done; echo \'{"event":"joined"}\'; read -r _; exec "$@"';
    const command = ['/bin/sh', '-c', script, 'sh', buildProgram(), 'watch', '-socket', agent.endpoint] as const;
    const joined = site.own(startRunning(command, { env: { GROUPS_TO_JOIN: groups.join(' ') } }));
    await joined.until('joined');
    return joined;
  };

  it('give their containers all they are, to a container whose control group names its pod and to one whose does not', async () => {
    const bare = await containerd.runPod({ name: 'bare', uid: '0f1e2d3c-0000-4000-8000-00000000ba4e', labels: { app: 'bare' } });
    const attestor = createCriAttestor({ clock: systemClock, random: Math.random, containers: createContainers(), socketPaths: [containerd.socketPath] });
    const attest = createAttest({ attestors: [attestor], clock: systemClock });
    const over = new AbortController();
    const running = attestor.run(over.signal);
    try {
      for (const [pod, labels] of [
        [web, ['cri:pod-name:web-0', 'cri:pod-namespace:shop', `cri:pod-uid:${webUid}`, 'cri:pod-label:app:web']],
        [bare, ['cri:pod-name:bare', 'cri:pod-namespace:test', 'cri:pod-uid:0f1e2d3c-0000-4000-8000-00000000ba4e', 'cri:pod-label:app:bare']],
      ] as const) {
        const container = await pod.start({ name: 'seen', image: reference, args: watch, labels: { role: 'ask', 'odd:key': 'x' }, mounts });
        const held = peerOfProcess(container.pid());
        const { selectors, reports } = await attest(held.peer, { asks: () => false }, over.signal);
        held.close();
        expect([...selectors]).toEqual([
          `cri:container-id:${container.id}`,
          'cri:container-name:seen',
          `cri:image:${reference}`,
          `cri:image-ref:${image.digestReference}`,
          `cri:image-id:${image.id}`,
          'cri:label:role:ask',
          ...labels,
        ]);
        expect(reports[0]?.omitted).toEqual([{ what: 'cri:label', reason: 'cri.labels.key' }]);
        await container.remove();
      }
    } finally {
      over.abort(new Error('enough'));
      await running;
    }
  });

  it('get an SVID by what they are, of whatever user, as soon as they ask', async () => {
    const args = ['x509source', '-updates', '1', '-socket', 'unix:///run/workload/api.sock'];
    const container = await web.start({ name: 'ask', image: reference, args, mounts, uid: 4242 });
    expect(await container.until('svid')).toMatchObject({ id: 'spiffe://example.org/web' });
    await expect.poll(async () => (await container.status()).state, patience).toBe('CONTAINER_EXITED');
    await container.remove();
  });

  it('that are stopped have no stream any more', async () => {
    await expect.poll(streams, patience).toBe(0);
    const container = await web.start({ name: 'ask', image: reference, args: watch, mounts });
    await container.until(updated);
    const pid = container.pid();
    expect(await streams()).toBeGreaterThan(0);
    await container.stop();
    await expect.poll(streams, patience).toBe(0);
    expect(() => process.kill(pid, 0)).toThrow('ESRCH');
    await container.remove();
  });

  it.each([
    ['in another container of the same pod', { name: 'other', namespace: 'shop', app: 'web' }],
    ['in a pod with other labels', { name: 'ask', namespace: 'shop', app: 'db' }],
    ['in a pod of another namespace', { name: 'ask', namespace: 'yard', app: 'web' }],
  ])('give nothing to a process %s, whatever it says of itself', async (_what, { name, namespace, app }) => {
    const own = { app: 'web', 'io.kubernetes.pod.namespace': 'shop', 'pod-label:app': 'web', 'io.kubernetes.container.name': 'ask' };
    const pod = name === 'other' ? web : await containerd.runPod({ name: 'web-0', namespace, uid: randomUUID(), labels: { app } });
    const container = await pod.start({ name, image: reference, args: watch, labels: own, mounts });
    await container.until(refused);
    expect((await container.lines()).filter(updated)).toEqual([]);
    await container.remove();
  });

  it('keep what they have while the runtime is away; who comes meanwhile gets it once it is back', async () => {
    const container = await web.start({ name: 'ask', image: reference, args: watch, mounts });
    await container.until(updated);
    const late = await intrude(groupsOf(container.pid()));
    await containerd.halt();
    try {
      await sleep(goodForMs);
      late.child.stdin?.end();
      await late.until(refused);
      expect(await explained(late)).toContain('cri.socket.missing');
    } finally {
      await containerd.resume();
    }
    await late.until(updated, { withinMs: 30_000 });
    expect((await container.lines()).filter(refused)).toEqual([]);
    await late.end();
    await container.remove();
  });

  it('that ended lend nothing to a process in a control group that is called as theirs was', async () => {
    const container = await web.start({ name: 'ask', image: reference, args: watch, mounts });
    await container.until(updated);
    const group = path.dirname(groupsOf(container.pid()).find((file) => !file.includes('/cpuset/')) ?? '');
    await container.stop();
    await expect.poll(() => existsSync(group), patience).toBe(false);
    await sleep(goodForMs);
    mkdirSync(group, { recursive: true });
    const left = await intrude([path.join(group, 'cgroup.procs')]);
    try {
      left.child.stdin?.end();
      await left.until(refused);
      expect(await explained(left)).toContain('cri.container.exited');
      expect(left.lines.filter(updated)).toEqual([]);
    } finally {
      await left.end();
      await expect.poll(() => tryRemove(group), patience).toBe(true);
    }
    await container.remove();
  });
});

/** A group is busy for a moment after its last process ended. */
function tryRemove(group: string): boolean {
  try {
    rmdirSync(group);
    return true;
  } catch {
    return false;
  }
}

/** Where a process joins all control groups that another one is in. */
function groupsOf(pid: number): readonly string[] {
  const lines = readFileSync(`/proc/${String(pid)}/cgroup`, 'utf8').trim().split('\n');
  return lines.flatMap((line) => {
    const [, controllers = '', group = ''] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    const trees = controllers === '' ? ['unified', ''] : [controllers.replace('name=', '')];
    return trees.map((tree) => path.join('/sys/fs/cgroup', tree, group, 'cgroup.procs')).filter((file) => existsSync(file)).slice(0, 1);
  });
}
