/**
 * A container runtime that speaks CRI v1 on a Unix socket and runs nothing: containers and pods are what a test says they
 * are, in the shapes that containerd and CRI-O give their answers, and every call can be made to misbehave.
 */
import { createHash } from 'node:crypto';
import { mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Server, ServerCredentials, status } from '@grpc/grpc-js';
import type {
  sendUnaryData,
  ServerUnaryCall,
  ServerWritableStream,
  ServiceDefinition,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import type { Container } from '../../proto/gen/runtime/v1/Container.ts';
import type { ContainerEventResponse } from '../../proto/gen/runtime/v1/ContainerEventResponse.ts';
import type { ContainerStatus } from '../../proto/gen/runtime/v1/ContainerStatus.ts';
import type { PodSandboxStatus } from '../../proto/gen/runtime/v1/PodSandboxStatus.ts';
import { loadServices } from '../../proto/load.ts';

export interface StandInPod {
  readonly id: string;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly labels: Record<string, string>;
  readonly runtimeHandler: string;
}

export interface StandInContainer {
  readonly id: string;
  readonly pod: StandInPod;
  readonly name: string;
  state: 'CONTAINER_CREATED' | 'CONTAINER_RUNNING' | 'CONTAINER_EXITED' | 'CONTAINER_UNKNOWN';
  readonly image: string;
  /** Without a repository's digest the image was imported, not pulled. */
  readonly repoDigest: string | undefined;
  /** 64 hex digits. */
  readonly imageId: string;
  readonly labels: Record<string, string>;
}

export type RuntimeKind = 'containerd' | 'cri-o';
type Method = 'Version' | 'ListContainers' | 'ContainerStatus' | 'PodSandboxStatus' | 'GetContainerEvents';
type EventType = 'CREATED' | 'STARTED' | 'STOPPED' | 'DELETED';

/** Answers in place of the runtime: with a message, with a promise of one that may never come, or by throwing `refusal`. */
export type Fault = (honest: () => unknown) => unknown;

export interface StandInOptions {
  readonly kind?: RuntimeKind;
  readonly version?: string;
  /** `none`: the stream ends at once, as CRI-O's does unless its events are switched on. */
  readonly events?: 'stream' | 'none' | 'unimplemented';
  readonly path?: string;
}

export interface CriStandIn extends AsyncDisposable {
  readonly path: string;
  readonly containers: Map<string, StandInContainer>;
  /** Calls by method, refused ones included. */
  readonly calls: Map<string, number>;
  /** Open streams of events. */
  readonly listeners: number;
  run(container: StandInContainer): StandInContainer;
  misbehave(method: Method, fault: Fault | undefined): void;
  emit(id: string, type: EventType): void;
  /** The streams of events end as if the connection had. */
  breakStreams(): void;
  stop(): Promise<void>;
  start(): Promise<void>;
}

const plainly: Fault = (honest) => honest();

/** A gRPC status without any detail of ours, as other programs send. */
export function refusal(code: status, details: string): Error {
  return Object.assign(new Error(details), { code, details });
}

/** Bytes that are sent as they are in place of a message. */
export function rawMessage(bytes: Buffer): unknown {
  return { [raw]: bytes };
}

const raw = Symbol('raw message');

/** 64 hex digits, the same for the same name. */
export function idOf(name: string): string {
  return createHash('sha256').update(name).digest('hex');
}

/** As a kubelet makes it: its own four labels besides the pod's. */
export function podNamed(name: string, more: Partial<StandInPod> = {}): StandInPod {
  const digits = idOf(`pod uid ${name}`);
  const uid = [digits.slice(0, 8), digits.slice(8, 12), digits.slice(12, 16), digits.slice(16, 20), digits.slice(20, 32)].join('-');
  const labels = { 'io.kubernetes.pod.name': name, 'io.kubernetes.pod.namespace': 'shop', 'io.kubernetes.pod.uid': uid };
  return { id: idOf(`pod ${name}`), name, namespace: 'shop', uid, runtimeHandler: '', ...more, labels: { ...labels, ...more.labels } };
}

export function containerNamed(name: string, pod: StandInPod, more: Partial<StandInContainer> = {}): StandInContainer {
  return {
    id: idOf(`${pod.name}/${name}`),
    pod,
    name,
    state: 'CONTAINER_RUNNING',
    image: 'registry.example/shop/web:1.4',
    repoDigest: `registry.example/shop/web@sha256:${idOf('manifest')}`,
    imageId: idOf('config'),
    labels: { 'io.kubernetes.container.name': name, ...pod.labels },
    ...more,
  };
}

export async function startCri(options: StandInOptions = {}): Promise<CriStandIn> {
  const { kind = 'containerd', events = 'stream' } = options;
  const version = options.version ?? (kind === 'containerd' ? 'v2.1.4' : '1.34.0');
  const directory = options.path === undefined ? await realpath(await mkdtemp(join(tmpdir(), 'steeple-cri-'))) : undefined;
  const path = options.path ?? join(directory ?? '', 'runtime.sock');
  const containers = new Map<string, StandInContainer>();
  const calls = new Map<string, number>();
  const faults = new Map<string, Fault>();
  const streams = new Set<ServerWritableStream<unknown, ContainerEventResponse>>();
  let server: Server | undefined;

  const found = (id: string): StandInContainer | undefined => {
    const matches = [...containers.values()].filter((container) => container.id.startsWith(id));
    return matches.length === 1 ? matches[0] : undefined;
  };
  const answers: Readonly<Record<string, (request: Record<string, unknown>) => unknown>> = {
    Version: () => ({ version: '0.1.0', runtime_name: kind, runtime_version: version, runtime_api_version: 'v1' }),
    ListContainers: ({ filter }) => {
      const container = found((filter as { id: string }).id);
      return { containers: container === undefined ? [] : [listed(kind, container)] };
    },
    ContainerStatus: ({ container_id: id }) => {
      const container = found(String(id));
      if (container === undefined) throw refusal(status.NOT_FOUND, `could not find container "${String(id)}"`);
      return { status: statusOf(kind, container) };
    },
    PodSandboxStatus: ({ pod_sandbox_id: id }) => {
      const container = [...containers.values()].find(({ pod }) => pod.id === id);
      if (container === undefined) throw refusal(status.NOT_FOUND, `could not find pod "${String(id)}"`);
      return { status: podStatus(kind, container.pod) };
    },
  };
  const count = (method: string): void => void calls.set(method, (calls.get(method) ?? 0) + 1);
  const unary = (method: string) => (call: ServerUnaryCall<Record<string, unknown>, unknown>, reply: sendUnaryData<unknown>): void => {
    count(method);
    const honest = (): unknown => answers[method]?.(call.request);
    const answering = async (): Promise<unknown> => (faults.get(method) ?? plainly)(honest);
    answering().then(
      (answer) => reply(null, answer),
      (error: Error) => reply(error),
    );
  };
  const listen = (call: ServerWritableStream<unknown, ContainerEventResponse>): void => {
    count('GetContainerEvents');
    if (events === 'none') {
      call.end();
      return;
    }
    streams.add(call);
    call.on('cancelled', () => streams.delete(call));
    call.on('close', () => streams.delete(call));
  };

  const standIn: CriStandIn = {
    path,
    containers,
    calls,
    get listeners() {
      return streams.size;
    },
    run(container) {
      containers.set(container.id, container);
      return container;
    },
    misbehave(method, fault) {
      if (fault === undefined) faults.delete(method);
      else faults.set(method, fault);
    },
    emit(id, type) {
      for (const stream of streams) stream.write({ container_id: id, container_event_type: `CONTAINER_${type}_EVENT` });
    },
    breakStreams() {
      for (const stream of streams) stream.emit('error', refusal(status.UNAVAILABLE, 'transport is closing'));
      streams.clear();
    },
    stop() {
      server?.forceShutdown();
      server = undefined;
      return rm(path, { force: true });
    },
    async start() {
      const starting = new Server({ 'grpc.max_send_message_length': -1 });
      const handlers: UntypedServiceImplementation = {};
      for (const method of Object.keys(answers)) handlers[method] = unary(method);
      if (events !== 'unimplemented') handlers['GetContainerEvents'] = listen;
      starting.addService(permissive(loadServices('runtime.v1.RuntimeService')['runtime.v1.RuntimeService']), handlers);
      await new Promise<void>((resolve, reject) => {
        starting.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => (error === null ? resolve() : reject(error)));
      });
      server = starting;
    },
    async [Symbol.asyncDispose]() {
      await standIn.stop();
      if (directory !== undefined) await rm(directory, { recursive: true, force: true });
    },
  };
  await standIn.start();
  return standIn;
}

/** The service with a way around the encoder for what is no message. */
function permissive(service: ServiceDefinition): ServiceDefinition {
  const methods = Object.entries(service).map(([name, method]) => {
    const encode = method.responseSerialize as (message: unknown) => Buffer;
    const responseSerialize = (message: unknown): Buffer => (message as { [raw]?: Buffer })[raw] ?? encode(message);
    return [name, { ...method, responseSerialize }] as const;
  });
  return Object.fromEntries(methods);
}

/** CRI-O writes ids bare and lists what the status says; containerd lists an image by its id whatever it is called. */
function listed(kind: RuntimeKind, container: StandInContainer): Container {
  const { id, pod, name, state, labels, imageId, image, repoDigest } = container;
  const seen = { id, pod_sandbox_id: pod.id, metadata: { name, attempt: 0 }, state, labels, created_at: '1795335455042629530' };
  if (kind === 'cri-o') return { ...seen, image: { image }, image_ref: repoDigest ?? imageId, image_id: imageId };
  return { ...seen, image: { image: `sha256:${imageId}` }, image_ref: `sha256:${imageId}`, image_id: `sha256:${imageId}` };
}

function statusOf(kind: RuntimeKind, container: StandInContainer): ContainerStatus {
  const { id, name, state, labels, imageId, image, repoDigest } = container;
  const imageRef = kind === 'cri-o' ? imageId : `sha256:${imageId}`;
  return {
    id,
    metadata: { name, attempt: 0 },
    state,
    created_at: '1795335455042629530',
    started_at: state === 'CONTAINER_CREATED' ? '0' : '1795335455146261501',
    finished_at: state === 'CONTAINER_EXITED' ? '1795335455986261501' : '0',
    image: { image },
    image_ref: repoDigest ?? imageRef,
    image_id: imageRef,
    labels,
  };
}

/** CRI-O does not tell the handler. */
function podStatus(kind: RuntimeKind, pod: StandInPod): PodSandboxStatus {
  const { id, name, namespace, uid, labels, runtimeHandler } = pod;
  return {
    id,
    metadata: { name, namespace, uid, attempt: 0 },
    state: 'SANDBOX_READY',
    created_at: '1795335454920120800',
    labels,
    runtime_handler: kind === 'cri-o' ? '' : runtimeHandler,
  };
}
