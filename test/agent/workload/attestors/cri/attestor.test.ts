import { chmodSync, readdirSync } from 'node:fs';
import { status } from '@grpc/grpc-js';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createAttest, followAttestation } from '../../../../../agent/workload/attest.ts';
import type { AttestReport } from '../../../../../agent/workload/attest.ts';
import { createCriAttestor } from '../../../../../agent/workload/attestors/cri/attestor.ts';
import type { CriAttestor } from '../../../../../agent/workload/attestors/cri/attestor.ts';
import { parseCgroups } from '../../../../../agent/workload/cgroup.ts';
import { containerOf } from '../../../../../agent/workload/container.ts';
import type { ContainerRef } from '../../../../../agent/workload/container.ts';
import { systemClock } from '../../../../../runtime/clock.ts';
import type { Clock } from '../../../../../runtime/clock.ts';
import { createWatch } from '../../../../../runtime/watch.ts';
import { SpiffeError } from '../../../../../spiffe/errors.ts';
import { composeSelector } from '../../../../../spiffe/selector.ts';
import { containerNamed, idOf, podNamed, refusal, startCri } from '../../../../help/cri.ts';
import type { CriStandIn, StandInContainer, StandInOptions } from '../../../../help/cri.ts';
import { fakePeer } from '../../../../help/peer.ts';

const forever = new AbortController().signal;
const wanted = { asks: () => false };
const pod = podNamed('web-0', { labels: { app: 'web' } });

/** Sockets take their own time; what is waited for on purpose takes a tenth of it. */
const hasty: Clock = {
  now: () => systemClock.now(),
  monotonic: () => systemClock.monotonic() * 10,
  sleep: (ms, signal) => systemClock.sleep(ms / 10, signal),
  sleepUntil: (at, signal) => systemClock.sleepUntil(at, signal),
};

let disposing: CriStandIn[];
let stopping: (() => Promise<void>)[];
beforeEach(() => {
  disposing = [];
  stopping = [];
});
afterEach(async () => {
  for (const stop of stopping) await stop();
  for (const runtime of disposing) await runtime[Symbol.asyncDispose]();
});

async function start(options: StandInOptions = {}): Promise<CriStandIn> {
  const runtime = await startCri(options);
  disposing.push(runtime);
  return runtime;
}

/** Follows events from the beginning; stopped after the test. */
function attestorOf(runtimes: readonly CriStandIn[], ref: () => ContainerRef | undefined, deadlineMs = 30_000): CriAttestor {
  const socketPaths = runtimes.map(({ path }) => path);
  const attestor = createCriAttestor({ clock: hasty, random: () => 0.5, containers: { of: ref }, socketPaths, deadlineMs });
  const over = new AbortController();
  const running = attestor.run(over.signal);
  stopping.push(() => {
    over.abort(new Error('stopped'));
    return running;
  });
  return attestor;
}

function refOf(container: StandInContainer, more: Partial<ContainerRef> = {}): ContainerRef {
  return { id: container.id, runtime: 'containerd', podUid: container.pod.uid, ownerUid: undefined, ...more };
}

interface Told {
  readonly selectors: readonly string[];
  readonly omitted: readonly string[];
}

async function ask(attestor: CriAttestor): Promise<Told> {
  const omitted: string[] = [];
  const question = { wanted, signal: forever, omit: (what: string, reason: string) => void omitted.push(`${what} ${reason}`), recheck: () => undefined };
  return { selectors: await attestor.attest(fakePeer(), question), omitted };
}

function told(container: StandInContainer): readonly string[] {
  const labels = (name: string, all: Record<string, string>): readonly string[] => Object.entries(all).map(([key, value]) => `cri:${name}:${key}:${value}`);
  return [
    `cri:container-id:${container.id}`,
    `cri:container-name:${container.name}`,
    `cri:image:${container.image}`,
    `cri:image-ref:${container.repoDigest ?? ''}`,
    `cri:image-id:sha256:${container.imageId}`,
    ...labels('label', container.labels),
    `cri:pod-name:${container.pod.name}`,
    `cri:pod-namespace:${container.pod.namespace}`,
    `cri:pod-uid:${container.pod.uid}`,
    ...labels('pod-label', container.pod.labels),
  ];
}

describe('a process', () => {
  it.each([
    ['containerd', 'systemd', `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-ID.scope`],
    ['containerd', 'cgroupfs', `/kubepods/besteffort/podUID/ID`],
    ['cri-o', 'systemd', `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/crio-ID.scope`],
    ['cri-o', 'cgroupfs', `/kubepods/burstable/podUID/crio-ID`],
  ] as const)('in a container of %s with the %s driver is told what its container is', async (kind, driver, path) => {
    const runtime = await start({ kind });
    const web = runtime.run(containerNamed('web', pod));
    runtime.run(containerNamed('side', pod, { labels: { role: 'side' } }));
    const uid = driver === 'systemd' ? pod.uid.replaceAll('-', '_') : pod.uid;
    const lines = parseCgroups(`0::${path.replace('UID', uid).replace('ID', web.id)}\n`);
    const attestor = attestorOf([runtime], () => containerOf(lines, parseCgroups('0::/system.slice/steeple.service\n')));
    expect(await ask(attestor)).toEqual({ selectors: told(web), omitted: [] });
  });

  it('in no container, or in one of another engine, or of a user’s, is told nothing, and nobody is asked', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const refs: (ContainerRef | undefined)[] = [
      undefined,
      refOf(web, { runtime: 'docker', podUid: undefined }),
      refOf(web, { runtime: 'libpod', podUid: undefined }),
      refOf(web, { ownerUid: 1000 }),
    ];
    for (const ref of refs) expect(await ask(attestorOf([runtime], () => ref))).toEqual({ selectors: [], omitted: [] });
    expect(runtime.calls.get('ContainerStatus')).toBeUndefined();
  });

  it('in a pod without a kubelet is told the same', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    expect((await ask(attestorOf([runtime], () => refOf(web, { podUid: undefined })))).selectors).toEqual(told(web));
  });

  it('in a container that the runtime does not have is told nothing, and why', async () => {
    const runtime = await start();
    const other = containerNamed('other', pod);
    expect(await ask(attestorOf([runtime], () => refOf(other)))).toEqual({ selectors: [], omitted: ['cri:container-id cri.container.not-found'] });
  });

  it('in a control group of another pod than its container’s is refused', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const attestor = attestorOf([runtime], () => refOf(web, { podUid: podNamed('admin').uid }));
    await expect(ask(attestor)).rejects.toMatchObject({ kind: 'denied', reason: 'cri.pod.disagrees' });
  });

  it('that ends in the middle is not told', async () => {
    const runtime = await start();
    const attestor = attestorOf([runtime], () => {
      throw new SpiffeError('unavailable', 'cgroup.gone', 'the process ended');
    });
    await expect(ask(attestor)).rejects.toMatchObject({ reason: 'cgroup.gone' });
  });

  it('whose container has hostile labels is told the honest ones', async () => {
    const runtime = await start();
    const labels = { good: 'yes', 'pod-name:admin': 'x', bad: 'a\ncri:pod-name:admin' };
    const web = runtime.run(containerNamed('web', pod, { labels }));
    const { selectors, omitted } = await ask(attestorOf([runtime], () => refOf(web)));
    expect(selectors.filter((one) => one.startsWith('cri:label:'))).toEqual(['cri:label:good:yes']);
    expect(selectors.filter((one) => one.startsWith('cri:pod-name:'))).toEqual(['cri:pod-name:web-0']);
    expect(omitted).toEqual(['cri:label cri.labels.key', 'cri:label cri.text.control-character']);
  });
});

describe('several runtimes', () => {
  it('one that is away or slow does not matter where another knows the container', async () => {
    const [away, slow, knows] = [await start(), await start(), await start({ kind: 'cri-o' })];
    await away.stop();
    slow.misbehave('ContainerStatus', () => new Promise(() => undefined));
    const web = knows.run(containerNamed('web', pod));
    expect((await ask(attestorOf([away, slow, knows], () => refOf(web)))).selectors).toEqual(told(web));
  });

  it('one that cannot answer matters where no other knows it', async () => {
    const [away, other] = [await start(), await start()];
    await away.stop();
    const web = containerNamed('web', pod);
    await expect(ask(attestorOf([other, away], () => refOf(web)))).rejects.toMatchObject({ kind: 'unavailable', reason: 'cri.socket.missing' });
  });

  it('none knows it', async () => {
    const web = containerNamed('web', pod);
    const attestor = attestorOf([await start(), await start()], () => refOf(web));
    expect((await ask(attestor)).omitted).toEqual(['cri:container-id cri.container.not-found']);
  });
});

describe('a runtime', () => {
  it('that everybody could stand in for is not asked', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    chmodSync(runtime.path, 0o666);
    await expect(ask(attestorOf([runtime], () => refOf(web)))).rejects.toMatchObject({ kind: 'denied', reason: 'cri.socket.mode' });
    expect(runtime.calls.size).toBe(0);
  });

  it('is asked once by a hundred', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const attestor = attestorOf([runtime], () => refOf(web));
    const answers = await Promise.all(Array.from({ length: 100 }, () => ask(attestor)));
    expect(new Set(answers.map(({ selectors }) => selectors.join('\n'))).size).toBe(1);
    expect([runtime.calls.get('ListContainers'), runtime.calls.get('ContainerStatus'), runtime.calls.get('PodSandboxStatus')]).toEqual([1, 1, 1]);
  });

  it('leaves no descriptors behind, answering or not', async () => {
    const descriptors = (): number => readdirSync('/proc/self/fd').length;
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const before = descriptors();
    for (let round = 0; round < 5; round += 1) {
      const attestor = attestorOf([runtime], () => refOf(web));
      await ask(attestor);
      runtime.misbehave('PodSandboxStatus', () => Promise.reject(refusal(status.INTERNAL, 'no')));
      await expect(ask(attestorOf([runtime], () => refOf(web)))).rejects.toMatchObject({ reason: 'cri.api.failed' });
      runtime.misbehave('PodSandboxStatus', undefined);
      for (const stop of stopping.splice(0)) await stop();
    }
    await expect.poll(descriptors).toBeLessThanOrEqual(before);
  });
});

describe('a connection', () => {
  interface Seen {
    readonly selectors: readonly string[];
    readonly report: AttestReport | undefined;
  }

  /** What a connection of a process is told over time, beside an attestor that always has something. */
  async function connect(attestor: CriAttestor): Promise<{ readonly seen: Seen[]; stop(): Promise<void> }> {
    const plain = { name: 'plain', attest: () => Promise.resolve([composeSelector('plain', 'here')]) };
    const attest = createAttest({ attestors: [plain, attestor], clock: hasty, deadlineMs: 60_000 });
    const over = new AbortController();
    const seen: Seen[] = [];
    const following = (async () => {
      for await (const { selectors, reports } of followAttestation(
        { attest, clock: hasty, random: () => 0.5, longestMs: 600_000 },
        fakePeer(),
        createWatch(wanted),
        over.signal,
      )) {
        seen.push({ selectors: [...selectors].filter((one) => one.startsWith('cri:')), report: reports[1] });
      }
    })();
    await expect.poll(() => seen.length).toBe(1);
    return {
      seen,
      async stop() {
        const closed = new Error('closed');
        over.abort(closed);
        // Thrown if it is being asked at this moment.
        await following.catch((error: unknown) => expect(error).toBe(closed));
      },
    };
  }

  /** The newest it was told: on a busy machine the clock here, which hurries, may have it told of a slow answer in between. */
  const untilTold = (connection: { readonly seen: readonly Seen[] }, expected: object): Promise<void> =>
    expect.poll(() => connection.seen.at(-1), { timeout: 10_000 }).toMatchObject(expected);

  it('loses its selectors when an event tells that the container ended though a process of it did not', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const attestor = attestorOf([runtime], () => refOf(web));
    await expect.poll(() => runtime.listeners).toBe(1);
    const connection = await connect(attestor);
    await untilTold(connection, { selectors: told(web) });
    web.state = 'CONTAINER_EXITED';
    runtime.emit(web.id, 'STOPPED');
    await untilTold(connection, { selectors: [], report: { attestor: 'cri', reason: 'cri.container.exited', selectors: 0 } });
    await connection.stop();
  });

  it('loses them when the container is removed', async () => {
    const runtime = await start({ kind: 'cri-o' });
    const web = runtime.run(containerNamed('web', pod));
    const attestor = attestorOf([runtime], () => refOf(web));
    await expect.poll(() => runtime.listeners).toBe(1);
    const connection = await connect(attestor);
    await untilTold(connection, { selectors: told(web) });
    runtime.containers.delete(web.id);
    runtime.emit(web.id, 'DELETED');
    await untilTold(connection, { selectors: [], report: { omitted: [{ what: 'cri:container-id', reason: 'cri.container.not-found' }] } });
    await connection.stop();
  });

  it('keeps them while the runtime is away, and is told when it is back', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const attestor = attestorOf([runtime], () => refOf(web));
    await expect.poll(() => runtime.listeners).toBe(1);
    const connection = await connect(attestor);
    await untilTold(connection, { selectors: told(web) });
    await runtime.stop();
    await runtime.start();
    web.state = 'CONTAINER_EXITED';
    // Nothing was said of it: the new stream alone is the occasion to ask again.
    await untilTold(connection, { report: { reason: 'cri.container.exited' } });
    await connection.stop();
  });

  it('is told of a runtime whose socket only comes', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    await runtime.stop();
    const connection = await connect(attestorOf([runtime], () => refOf(web)));
    expect(connection.seen[0]).toMatchObject({ report: { attestor: 'cri', reason: 'cri.socket.missing' } });
    await runtime.start();
    await untilTold(connection, { selectors: told(web) });
    await connection.stop();
  });

  it.each([
    ['10 MB of labels', (runtime: CriStandIn) => runtime.misbehave('ContainerStatus', () => ({ status: { id: idOf('web-0/web'), metadata: { name: 'web' }, labels: { a: 'x'.repeat(10 * 1024 * 1024) } } })), 'cri.answer.too-large'],
    ['a pod that goes in the middle', (runtime: CriStandIn) => runtime.misbehave('PodSandboxStatus', () => Promise.reject(refusal(status.NOT_FOUND, 'gone'))), 'cri.pod.gone'],
    ['another program at the socket', (runtime: CriStandIn) => runtime.misbehave('ListContainers', () => Promise.reject(refusal(status.UNIMPLEMENTED, 'unknown service'))), 'cri.api.missing'],
    ['a slow answer', (runtime: CriStandIn) => runtime.misbehave('PodSandboxStatus', () => new Promise(() => undefined)), 'rpc.deadline'],
  ])('gets nothing by %s, and what is true once that is over', async (_name, spoil, reason) => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    spoil(runtime);
    const connection = await connect(attestorOf([runtime], () => refOf(web), 3_000));
    expect(connection.seen[0]).toMatchObject({ report: { attestor: 'cri', reason, selectors: 0 } });
    for (const method of ['ListContainers', 'ContainerStatus', 'PodSandboxStatus'] as const) runtime.misbehave(method, undefined);
    await untilTold(connection, { selectors: told(web) });
    await connection.stop();
  });
});
