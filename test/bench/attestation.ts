/**
 * What attesting one connection costs by what is asked: the kernel alone, an engine whose answers are warm, a node of 500
 * pods; and how much a container's first sight adds to the engine's own answer. All attestors of the figure are asked at
 * once over a real process, as the agent asks them.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { createAttest } from '../../agent/workload/attest.ts';
import type { WantedSelectors, WorkloadAttestor } from '../../agent/workload/attestor.ts';
import { createCriAttestor } from '../../agent/workload/attestors/cri/attestor.ts';
import { createDockerAttestor } from '../../agent/workload/attestors/docker.ts';
import { createKubernetesAttestor } from '../../agent/workload/attestors/kubernetes/kubernetes.ts';
import { createProcessAttestor } from '../../agent/workload/attestors/process.ts';
import { createSystemdAttestor } from '../../agent/workload/attestors/systemd/systemd.ts';
import { createUnixAttestor } from '../../agent/workload/attestors/unix.ts';
import { createContainers, type ContainerRef } from '../../agent/workload/container.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createHttpClient } from '../../runtime/http.ts';
import type { Peer } from '../../runtime/peer.ts';
import { startContainerd, withoutContainerd } from '../help/containerd.ts';
import { startSystemd } from '../help/dbus.ts';
import { startEngine, withoutEngine } from '../help/engine.ts';
import { createKubernetesNode, inContainer } from '../help/kubernetes-node.ts';
import { podsOf } from '../help/kubernetes-pods.ts';
import { peerOfProcess } from '../help/peer.ts';
import { distributionOf, type Bench, type Distribution } from './figure.ts';

const clock = systemClock;
const random = (): number => 0.5;
const rounds = 3_000;
const sights = 30;
const never = new AbortController().signal;
/** All that is not a digest, as an entry of each kind would ask. */
const kinds: WantedSelectors = { asks: (prefix) => !prefix.includes('sha256') };
const uids: WantedSelectors = { asks: () => false };
const busybox = '/bin/busybox';

async function timed(attestors: readonly WorkloadAttestor[], peer: Peer, wanted: WantedSelectors, expected: string): Promise<Distribution> {
  const attest = createAttest({ attestors, clock });
  const times: number[] = [];
  for (let round = -200; round < rounds; round += 1) {
    const began = performance.now();
    const { selectors } = await attest(peer, wanted, never);
    const took = performance.now() - began;
    if (![...selectors].some((selector) => selector.startsWith(expected))) throw new Error(`no ${expected} among ${[...selectors].join(' ')}`);
    if (round >= 0) times.push(took);
  }
  return distributionOf(times);
}

/** A process that sleeps, and one connection of it that there is not. */
async function sleeper(stack: AsyncDisposableStack): Promise<Peer> {
  const child = spawn('/bin/sleep', ['600'], { stdio: 'ignore' });
  await once(child, 'spawn');
  stack.defer(() => void child.kill('SIGKILL'));
  return heldPeer(stack, child.pid ?? -1);
}

function heldPeer(stack: AsyncDisposableStack, pid: number): Peer {
  const held = peerOfProcess(pid);
  stack.defer(() => held.close());
  return held.peer;
}

function kernel(stack: AsyncDisposableStack): readonly WorkloadAttestor[] {
  const unix = createUnixAttestor({ clock });
  const facts = createProcessAttestor({ clock });
  stack.defer(() => unix.stop());
  stack.defer(() => facts.stop());
  return [unix, facts];
}

/** Runs what an attestor does besides answering until the stack is disposed of. */
function running(stack: AsyncDisposableStack, run: (signal: AbortSignal) => Promise<void>): void {
  const over = new AbortController();
  const ended = run(over.signal).catch(() => undefined);
  stack.defer(async () => {
    over.abort(new Error('over'));
    await ended;
  });
}

export const attestKernel: Bench = {
  name: 'attest-kernel',
  within: 60,
  async run(report) {
    await using stack = new AsyncDisposableStack();
    const peer = await sleeper(stack);
    const attestors = kernel(stack);
    const what = 'attesting a connection by the kernel alone';
    report({ figure: `${what}, ids and path`, unit: 'ms', aim: 'p99 <= 2', distribution: await timed(attestors, peer, uids, 'unix:uid:') });
    report({ figure: `${what}, every fact but digests`, unit: 'ms', aim: 'p99 <= 2', distribution: await timed(attestors, peer, kinds, 'process:seccomp:') });
  },
};

export const attestDocker: Bench = {
  name: 'attest-docker',
  within: 180,
  async run(report) {
    const figure = 'attesting a connection from a container of Docker';
    const skipped = withoutEngine('docker');
    if (skipped !== undefined) return report({ figure, unit: 'ms', aim: 'p99 <= 3', skipped });
    await using stack = new AsyncDisposableStack();
    const engine = stack.use(await startEngine('docker'));
    await engine.image('sleeping:1', busybox);
    const start = async (): Promise<{ peer: Peer; id: string }> => {
      const container = engine.run({ image: 'sleeping:1', args: ['sleep', '600'], flags: ['--label', 'app=web', '--volume', `${busybox}:${busybox}:ro`, '--entrypoint', busybox] });
      return { peer: heldPeer(stack, await container.hostPid()), id: await container.id() };
    };
    const docker = createDockerAttestor({ clock, containers: createContainers(), engines: [{ socketPath: engine.socketPath }] });
    running(stack, (signal) => docker.run(signal));
    stack.defer(() => docker.close());
    const attestors = [...kernel(stack), docker];
    const { peer } = await start();
    report({ figure: `${figure}, warm`, unit: 'ms', aim: 'p99 <= 3', distribution: await timed(attestors, peer, uids, 'docker:label:app:web') });

    const http = createHttpClient({ clock, endpoint: { socketPath: engine.socketPath } });
    stack.defer(() => http.close());
    const attest = createAttest({ attestors, clock });
    const [whole, own]: [number[], number[]] = [[], []];
    for (let sight = 0; sight < sights; sight += 1) {
      const seen = await start();
      const began = performance.now();
      const { selectors } = await attest(seen.peer, uids, never);
      whole.push(performance.now() - began);
      if (![...selectors].includes('docker:label:app:web' as never)) throw new Error('not seen');
      const asked = performance.now();
      await http.request({ path: `/v1.41/containers/${seen.id}/json` });
      own.push(performance.now() - asked);
    }
    const engineMs = distributionOf(own);
    report({
      figure: `${figure}, first sight`,
      unit: 'ms',
      aim: `p99 <= 50 more than the engine takes`,
      distribution: distributionOf(whole),
      also: { engineMs: { p50: engineMs.p50, p99: engineMs.p99 } },
    });
  },
};

export const attestCri: Bench = {
  name: 'attest-cri',
  within: 120,
  async run(report) {
    const figure = 'attesting a connection from a container of containerd, by the CRI, warm';
    if (withoutContainerd !== undefined) return report({ figure, unit: 'ms', aim: 'p99 <= 3', skipped: withoutContainerd });
    await using stack = new AsyncDisposableStack();
    const containerd = stack.use(await startContainerd());
    const reference = 'localhost/sleeping:1';
    await containerd.importImage({ reference, program: busybox, at: '/busybox', entrypoint: ['/busybox', 'sleep', '600'] });
    const uid = '3c1f6a1f-0e11-4b39-9d5a-4f6c1a581d0a';
    const pod = await containerd.runPod({ name: 'web-0', namespace: 'shop', uid, cgroupParent: `/kubepods/besteffort/pod${uid}` });
    const container = await pod.start({ name: 'web', image: reference });
    const cri = createCriAttestor({ clock, random, containers: createContainers(), socketPaths: [containerd.socketPath] });
    running(stack, (signal) => cri.run(signal));
    const peer = heldPeer(stack, container.pid());
    report({ figure, unit: 'ms', aim: 'p99 <= 3', distribution: await timed([...kernel(stack), cri], peer, uids, 'cri:container-name:web') });
  },
};

export const attestSystemd: Bench = {
  name: 'attest-systemd',
  within: 60,
  async run(report) {
    await using stack = new AsyncDisposableStack();
    const directory = await mkdtemp(path.join(tmpdir(), 'steeple-bench-'));
    stack.defer(() => rm(directory, { recursive: true }));
    const socketPath = path.join(directory, 'private');
    const fake = await startSystemd({ type: 'private', socketPath });
    stack.defer(() => fake.stop());
    const peer = await sleeper(stack);
    fake.units.set(peer.pid, { id: 'web.service', fragmentPath: '/etc/systemd/system/web.service' });
    const systemd = createSystemdAttestor({
      clock,
      random,
      address: { type: 'private', socketPath },
      trustedUid: process.geteuid?.() ?? 0,
      cgroupsOf: () => [{ hierarchy: 0, controllers: '', path: '/system.slice/web.service' }],
    });
    stack.defer(() => systemd.stop());
    const attestors = [...kernel(stack), systemd];
    const figure = 'attesting a connection from a systemd unit, warm (stand-in for systemd)';
    report({ figure, unit: 'ms', aim: 'p99 <= 3', distribution: await timed(attestors, peer, uids, 'systemd:id:web.service') });
  },
};

export const attestPods: Bench = {
  name: 'attest-pods',
  within: 60,
  async run(report) {
    await using stack = new AsyncDisposableStack();
    const pods = podsOf(500);
    const node = stack.use(await createKubernetesNode());
    node.cluster.setPods(pods);
    const peer = await sleeper(stack);
    const places = pods.map((pod) => inContainer(pod));
    let turn = 0;
    const k8s = createKubernetesAttestor({
      clock,
      random,
      // Another container each time: the index is what is measured, not one entry of it.
      containers: { of: (): ContainerRef | undefined => places[(turn += 1) % places.length] },
      source: { type: 'api_server', url: node.cluster.url, nodeName: 'node-1', caFile: node.caFile, tokenFile: node.tokenFile },
    });
    running(stack, (signal) => k8s.run(signal));
    while (k8s.size.pods < pods.length) await new Promise((resolve) => setTimeout(resolve, 10));
    const figure = 'attesting a connection from a pod of 500';
    report({ figure, unit: 'ms', aim: 'p99 <= 3', distribution: await timed([...kernel(stack), k8s], peer, uids, 'k8s:ns:') });
  },
};
