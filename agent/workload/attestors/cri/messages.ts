/**
 * The container runtime interface as far as an attestor needs it: which calls are made, and what their answers must look
 * like to be believed. When to ask and what the facts are worth is left to `runtime.ts` and `selectors.ts`.
 */
import { loadServices } from '../../../../proto/load.ts';
import type { Container__Output } from '../../../../proto/gen/runtime/v1/Container.ts';
import type { ContainerStatus__Output } from '../../../../proto/gen/runtime/v1/ContainerStatus.ts';
import type { PodSandboxStatus__Output } from '../../../../proto/gen/runtime/v1/PodSandboxStatus.ts';
import type { Clock } from '../../../../runtime/clock.ts';
import { createRpcClient } from '../../../../runtime/rpc/call.ts';
import { isSpiffeError, SpiffeError } from '../../../../spiffe/errors.ts';

export type ContainerState = 'created' | 'running' | 'exited' | 'unknown';

/** Texts are the runtime's, and partly those of whoever made the container: of any content, none longer than a message. */
export interface CriContainer {
  readonly id: string;
  readonly name: string;
  readonly state: ContainerState;
  /** How the runtime names the image today, which may be a tag, a digest or an id; empty if it does not. */
  readonly image: string;
  readonly imageRef: string;
  /** With its `sha256:` before it; empty when the runtime does not tell. */
  readonly imageId: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly sandboxId: string;
}

export interface CriPod {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Empty for the default one, and where the runtime does not tell. */
  readonly runtimeHandler: string;
}

/**
 * One runtime. Calls throw unavailable `rpc.*`, `cri.api.missing` and `cri.api.failed` when it cannot be asked, limited
 * `cri.answer.too-large`, invalid `cri.answer.form|other-container|other-pod`, or the signal's reason.
 */
export interface CriApi {
  /** @returns undefined when the runtime has no such container */
  container(id: string, signal: AbortSignal): Promise<CriContainer | undefined>;
  /** @returns undefined when the runtime has no such pod */
  pod(sandboxId: string, signal: AbortSignal): Promise<CriPod | undefined>;
  /** Name and version as the runtime calls itself, `containerd` and `1.7.2`. */
  version(signal: AbortSignal): Promise<{ readonly name: string; readonly version: string }>;
  /** Ids of containers that something happened to. Ends when the runtime ends it, at once if it is told to send none. */
  events(signal: AbortSignal): AsyncIterableIterator<string>;
  close(): void;
}

export interface CriApiOptions {
  readonly clock: Clock;
  readonly socketPath: string;
  /** Of one call. */
  readonly deadlineMs: number;
}

/** Labels that Kubernetes allows are far below; annotations and mounts, which are not read, travel with them. */
const MAX_RECEIVE_BYTES = 2 * 1024 * 1024;

export function createCriApi({ clock, socketPath, deadlineMs }: CriApiOptions): CriApi {
  const { 'runtime.v1.RuntimeService': service } = loadServices('runtime.v1.RuntimeService');
  const client = createRpcClient({ clock, address: `unix:${socketPath}`, maxReceiveBytes: MAX_RECEIVE_BYTES, keepalive: false });

  const listed = async (id: string, signal: AbortSignal): Promise<Container__Output | undefined> => {
    const { containers } = await client.unary(service.ListContainers, { filter: { id } }, { signal, deadlineMs });
    if (containers.length > 1) throw otherContainer();
    return containers[0];
  };
  const statusOf = async (id: string, signal: AbortSignal): Promise<ContainerStatus__Output | undefined> => {
    const { status } = await client.unary(service.ContainerStatus, { container_id: id }, { signal, deadlineMs });
    if (status === null) throw malformed('status');
    return status;
  };
  const asked = async <T>(question: Promise<T>): Promise<T | undefined> => {
    try {
      return await question;
    } catch (error) {
      if (isSpiffeError(error, 'missing')) return undefined;
      throw obstacle(error);
    }
  };

  return {
    async container(id, signal) {
      // The list alone names the pod, the status alone names the image by its tag.
      const [item, status] = await Promise.all([asked(listed(id, signal)), asked(statusOf(id, signal))]);
      return item === undefined || status === undefined ? undefined : containerOf(id, item, status);
    },
    async pod(sandboxId, signal) {
      const answer = await asked(client.unary(service.PodSandboxStatus, { pod_sandbox_id: sandboxId }, { signal, deadlineMs }));
      return answer === undefined ? undefined : podOf(sandboxId, answer.status);
    },
    async version(signal) {
      try {
        const answer = await client.unary(service.Version, {}, { signal, deadlineMs });
        return { name: answer.runtime_name, version: answer.runtime_version };
      } catch (error) {
        throw obstacle(error);
      }
    },
    async *events(signal) {
      try {
        for await (const event of client.serverStream(service.GetContainerEvents, {}, { signal })) yield event.container_id;
      } catch (error) {
        throw obstacle(error);
      }
    },
    close: () => client.close(),
  };
}

const states: Readonly<Record<string, ContainerState>> = {
  CONTAINER_CREATED: 'created',
  CONTAINER_RUNNING: 'running',
  CONTAINER_EXITED: 'exited',
};

function containerOf(id: string, item: Container__Output, status: ContainerStatus__Output): CriContainer {
  // Runtimes take the beginning of an id for the whole.
  if (item.id !== id || status.id !== id) throw otherContainer();
  if (item.pod_sandbox_id === '') throw malformed('pod_sandbox_id');
  if (status.metadata === null) throw malformed('metadata');
  return {
    id,
    name: status.metadata.name,
    state: states[status.state] ?? 'unknown',
    image: status.image?.image ?? '',
    imageRef: status.image_ref,
    imageId: imageIdOf(status.image_id, item.image_id, item.image_ref, status.image_ref),
    labels: status.labels,
    sandboxId: item.pod_sandbox_id,
  };
}

/**
 * The first that is an id. containerd lists the image's id where the status has a digest of the repository, and only its
 * latest releases have a field for it; CRI-O writes ids without the name of the digest.
 */
function imageIdOf(...candidates: readonly string[]): string {
  for (const text of candidates) {
    const [, hex] = /^(?:sha256:)?([0-9a-f]{64})$/.exec(text) ?? [];
    if (hex !== undefined) return `sha256:${hex}`;
  }
  return '';
}

function podOf(sandboxId: string, status: PodSandboxStatus__Output | null): CriPod {
  if (status === null) throw malformed('status');
  if (status.id !== sandboxId) {
    throw new SpiffeError('invalid', 'cri.answer.other-pod', 'the container runtime answered about another pod');
  }
  if (status.metadata === null) throw malformed('metadata');
  const { name, namespace, uid } = status.metadata;
  return { name, namespace, uid, labels: status.labels, runtimeHandler: status.runtime_handler };
}

function otherContainer(): SpiffeError {
  return new SpiffeError('invalid', 'cri.answer.other-container', 'the container runtime answered about another container');
}

function malformed(field: string): SpiffeError {
  return new SpiffeError('invalid', 'cri.answer.form', "the container runtime's answer lacks what it must have", { detail: { field } });
}

/** What a failed call says of the runtime; reasons of our own and of the signal stay as they are. */
function obstacle(error: unknown): unknown {
  if (!(error instanceof SpiffeError) || error.reason.startsWith('cri.')) return error;
  const context = { detail: { peerReason: error.reason }, cause: error };
  switch (error.kind) {
    case 'limited':
      return new SpiffeError('limited', 'cri.answer.too-large', "the container runtime's answer is larger than allowed", context);
    case 'unsupported':
      return new SpiffeError('unavailable', 'cri.api.missing', 'the program at the socket does not speak CRI v1', context);
    case 'unavailable':
      return error;
    default:
      return new SpiffeError('unavailable', 'cri.api.failed', 'the container runtime could not answer', context);
  }
}
