import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { afterEach, describe, expect, it } from 'vitest';
import { createCriApi } from '../../../../../agent/workload/attestors/cri/messages.ts';
import type { CriApi } from '../../../../../agent/workload/attestors/cri/messages.ts';
import { systemClock } from '../../../../../runtime/clock.ts';
import { createTestClock } from '../../../../help/clock.ts';
import { containerNamed, idOf, podNamed, rawMessage, refusal, startCri } from '../../../../help/cri.ts';
import type { CriStandIn, StandInOptions } from '../../../../help/cri.ts';

const forever = new AbortController().signal;
const closing: (() => PromiseLike<void> | void)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
});

async function start(options: StandInOptions = {}): Promise<CriStandIn> {
  const runtime = await startCri(options);
  closing.push(() => runtime[Symbol.asyncDispose]());
  return runtime;
}

function apiOf(socketPath: string, clock = systemClock, deadlineMs = 5_000): CriApi {
  const api = createCriApi({ clock, socketPath, deadlineMs });
  closing.push(() => api.close());
  return api;
}

describe('a container', () => {
  const pod = podNamed('web-0', { labels: { app: 'web' }, runtimeHandler: 'kata' });

  it('of containerd is told with its image by name, by digest and by id', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const api = apiOf(runtime.path);
    expect(await api.container(web.id, forever)).toEqual({
      id: web.id,
      name: 'web',
      state: 'running',
      image: 'registry.example/shop/web:1.4',
      imageRef: `registry.example/shop/web@sha256:${idOf('manifest')}`,
      imageId: `sha256:${idOf('config')}`,
      labels: { 'io.kubernetes.container.name': 'web', ...pod.labels },
      sandboxId: pod.id,
    });
    expect(await api.pod(pod.id, forever)).toEqual({
      name: 'web-0',
      namespace: 'shop',
      uid: pod.uid,
      labels: pod.labels,
      runtimeHandler: 'kata',
    });
    expect(await api.version(forever)).toEqual({ name: 'containerd', version: 'v2.1.4' });
  });

  it('of CRI-O has the same id of its image', async () => {
    const runtime = await start({ kind: 'cri-o' });
    const pulled = runtime.run(containerNamed('web', pod));
    const imported = runtime.run(containerNamed('side', pod, { repoDigest: undefined, image: '' }));
    const api = apiOf(runtime.path);
    expect(await api.container(pulled.id, forever)).toMatchObject({ imageId: `sha256:${idOf('config')}`, imageRef: pulled.repoDigest });
    expect(await api.container(imported.id, forever)).toMatchObject({ imageId: `sha256:${idOf('config')}`, imageRef: idOf('config'), image: '' });
    expect(await api.pod(pod.id, forever)).toMatchObject({ runtimeHandler: '', labels: pod.labels });
  });

  it.each([
    ['CONTAINER_CREATED', 'created'],
    ['CONTAINER_RUNNING', 'running'],
    ['CONTAINER_EXITED', 'exited'],
    ['CONTAINER_UNKNOWN', 'unknown'],
    [17 as unknown as 'CONTAINER_UNKNOWN', 'unknown'],
  ] as const)('in state %s is %s', async (state, expected) => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod, { state }));
    expect((await apiOf(runtime.path).container(web.id, forever))?.state).toBe(expected);
  });

  it('that is not there, or whose pod is not, is not told', async () => {
    const runtime = await start();
    const api = apiOf(runtime.path);
    expect(await api.container(idOf('nothing'), forever)).toBeUndefined();
    expect(await api.pod(idOf('nothing'), forever)).toBeUndefined();
  });

  it('that goes between the list and the status is not told', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const api = apiOf(runtime.path);
    runtime.misbehave('ContainerStatus', () => Promise.reject(refusal(status.NOT_FOUND, 'gone')));
    expect(await api.container(web.id, forever)).toBeUndefined();
    runtime.misbehave('ContainerStatus', undefined);
    runtime.misbehave('ListContainers', () => ({ containers: [] }));
    expect(await api.container(web.id, forever)).toBeUndefined();
  });

  it.each([
    ['list about another', 'ListContainers', { containers: [{ id: idOf('other'), pod_sandbox_id: pod.id }] }, 'cri.answer.other-container'],
    ['list of two', 'ListContainers', { containers: [{ id: idOf('web-0/web') }, { id: idOf('web-0/web') }] }, 'cri.answer.other-container'],
    ['list without a pod', 'ListContainers', { containers: [{ id: idOf('web-0/web') }] }, 'cri.answer.form'],
    ['list without an id', 'ListContainers', { containers: [{ pod_sandbox_id: pod.id }] }, 'cri.answer.other-container'],
    ['status about another', 'ContainerStatus', { status: { id: idOf('other'), metadata: { name: 'x' } } }, 'cri.answer.other-container'],
    ['status about the beginning', 'ContainerStatus', { status: { id: idOf('web-0/web').slice(0, 12), metadata: {} } }, 'cri.answer.other-container'],
    ['status that is none', 'ContainerStatus', {}, 'cri.answer.form'],
    ['status without metadata', 'ContainerStatus', { status: { id: idOf('web-0/web') } }, 'cri.answer.form'],
  ] as const)('is not believed from a %s', async (_name, method, answer, reason) => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    runtime.misbehave(method, () => answer);
    await expect(apiOf(runtime.path).container(web.id, forever)).rejects.toMatchObject({ kind: 'invalid', reason });
  });

  it.each([
    ['about another', { status: { id: idOf('other'), metadata: { name: 'x' } } }, 'cri.answer.other-pod'],
    ['that is none', {}, 'cri.answer.form'],
    ['without metadata', { status: { id: pod.id } }, 'cri.answer.form'],
  ])('has no pod by an answer %s', async (_name, answer, reason) => {
    const runtime = await start();
    runtime.misbehave('PodSandboxStatus', () => answer);
    await expect(apiOf(runtime.path).pod(pod.id, forever)).rejects.toMatchObject({ kind: 'invalid', reason });
  });
});

describe('a runtime that cannot be asked', () => {
  const pod = podNamed('web-0');

  it('is not there', async () => {
    const runtime = await start();
    await runtime.stop();
    await expect(apiOf(runtime.path).container(idOf('x'), forever)).rejects.toMatchObject({ kind: 'unavailable', reason: 'rpc.unreachable' });
  });

  it('is there again after it was not', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const api = apiOf(runtime.path);
    await runtime.stop();
    await expect(api.container(web.id, forever)).rejects.toMatchObject({ kind: 'unavailable' });
    await runtime.start();
    await expect.poll(() => api.container(web.id, forever).catch(() => undefined), { timeout: 8_000 }).toMatchObject({ name: 'web' });
  });

  it.each([
    ['another program', status.UNIMPLEMENTED, 'cri.api.missing', 'unavailable'],
    ['starting', status.UNKNOWN, 'cri.api.failed', 'unavailable'],
    ['out of order', status.INTERNAL, 'cri.api.failed', 'unavailable'],
    ['refusing', status.PERMISSION_DENIED, 'cri.api.failed', 'unavailable'],
    ['shutting down', status.UNAVAILABLE, 'peer.unavailable', 'unavailable'],
    ['overrun', status.RESOURCE_EXHAUSTED, 'cri.answer.too-large', 'limited'],
  ])('is %s', async (_name, code, reason, kind) => {
    const runtime = await start();
    const api = apiOf(runtime.path);
    for (const method of ['ContainerStatus', 'PodSandboxStatus', 'Version'] as const) {
      runtime.misbehave(method, () => Promise.reject(refusal(code, 'not now')));
    }
    runtime.run(containerNamed('web', pod));
    await expect(api.container(idOf('web-0/web'), forever)).rejects.toMatchObject({ kind, reason });
    await expect(api.pod(pod.id, forever)).rejects.toMatchObject({ kind, reason });
    await expect(api.version(forever)).rejects.toMatchObject({ kind, reason });
  });

  it('answers with 10 MB of labels, and to the next with what it should', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const big = runtime.run(containerNamed('big', pod, { labels: { big: 'x'.repeat(10 * 1024 * 1024) } }));
    const api = apiOf(runtime.path);
    await expect(api.container(big.id, forever)).rejects.toMatchObject({ kind: 'limited', reason: 'cri.answer.too-large' });
    expect(await api.container(web.id, forever)).toMatchObject({ name: 'web' });
  });

  it.each([
    ['hangs up', (socket: Socket) => socket.destroy()],
    ['hangs up in the middle of an answer', (socket: Socket) => socket.end(Buffer.from('000012040000000000000300000064', 'hex'))],
    ['speaks another protocol', (socket: Socket) => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n')],
  ])('%s', async (_name, behave) => {
    const directory = await mkdtemp(join(tmpdir(), 'steeple-cri-'));
    const sockets = new Set<Socket>();
    const server = createServer((socket) => {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.once('data', () => behave(socket));
    }).listen(join(directory, 'runtime.sock'));
    closing.push(async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
      await rm(directory, { recursive: true });
    });
    const api = apiOf(join(directory, 'runtime.sock'), systemClock, 2_000);
    await expect(api.container(idOf('x'), forever)).rejects.toMatchObject({ kind: 'unavailable' });
  });

  it('sends half of a message', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const api = apiOf(runtime.path);
    runtime.misbehave('ContainerStatus', () => rawMessage(Buffer.from('0a500a40', 'hex')));
    await expect(api.container(web.id, forever)).rejects.toMatchObject({ kind: 'unavailable', reason: 'cri.api.failed' });
  });

  it('is slow: the deadline ends the question, the caller or his leaving', async () => {
    const runtime = await start();
    const web = runtime.run(containerNamed('web', pod));
    const clock = createTestClock();
    const api = apiOf(runtime.path, clock, 2_000);
    runtime.misbehave('ContainerStatus', () => new Promise(() => undefined));
    let reason: unknown;
    api.container(web.id, forever).catch((error: unknown) => {
      reason = (error as { reason?: unknown }).reason;
    });
    const beganAt = clock.monotonic();
    await clock.runUntil(() => reason !== undefined);
    expect([reason, clock.monotonic() - beganAt]).toEqual(['rpc.deadline', 2_000]);
    const leaving = new AbortController();
    const left = api.container(web.id, leaving.signal);
    leaving.abort(new Error('gone'));
    await expect(left).rejects.toThrow('gone');
  });
});

async function all(ids: AsyncIterable<string>): Promise<readonly string[]> {
  const seen: string[] = [];
  for await (const id of ids) seen.push(id);
  return seen;
}

describe('events', () => {
  it('name the containers', async () => {
    const runtime = await start();
    const seen: string[] = [];
    const stop = new AbortController();
    const reading = (async () => {
      for await (const id of apiOf(runtime.path).events(stop.signal)) seen.push(id);
    })();
    await expect.poll(() => runtime.listeners).toBe(1);
    runtime.emit(idOf('one'), 'STARTED');
    runtime.emit(idOf('two'), 'STOPPED');
    await expect.poll(() => seen).toEqual([idOf('one'), idOf('two')]);
    stop.abort(new Error('enough'));
    await expect(reading).rejects.toThrow('enough');
    await expect.poll(() => runtime.listeners).toBe(0);
  });

  it('end with a runtime that sends none', async () => {
    const runtime = await start({ kind: 'cri-o', events: 'none' });
    expect(await all(apiOf(runtime.path).events(forever))).toEqual([]);
  });

  it('are missing from a runtime that has no such call', async () => {
    const runtime = await start({ events: 'unimplemented' });
    await expect(all(apiOf(runtime.path).events(forever))).rejects.toMatchObject({ reason: 'cri.api.missing' });
  });

  it('end in failure when the connection does', async () => {
    const runtime = await start();
    const reading = all(apiOf(runtime.path).events(forever));
    await expect.poll(() => runtime.listeners).toBe(1);
    await Promise.all([expect(reading).rejects.toMatchObject({ kind: 'unavailable' }), runtime.stop()]);
  });
});
