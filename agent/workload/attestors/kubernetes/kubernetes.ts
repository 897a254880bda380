/**
 * What Kubernetes says of the pod a process is in, with selectors written as SPIRE's `k8s` attestor writes them. That it
 * is in the pod is told by the kernel's cgroups alone; where pods are learnt of is the sources' subject.
 */
import { linkedController, untilAborted } from '../../../../runtime/abort.ts';
import type { Clock } from '../../../../runtime/clock.ts';
import type { Peer } from '../../../../runtime/peer.ts';
import type { Watch } from '../../../../runtime/watch.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';
import type { Selector } from '../../../../spiffe/selector.ts';
import type { AttestQuestion, WorkloadAttestor } from '../../attestor.ts';
import type { ContainerRef, Containers } from '../../container.ts';
import { createApiServer } from './api-server.ts';
import { createConnection } from './connection.ts';
import type { ServerCredentials } from './connection.ts';
import { createPodDirectory, type PodDirectory } from './directory.ts';
import { createKubelet } from './kubelet.ts';
import { createPodIndex } from './pod-index.ts';
import type { FoundPod, PodIndex } from './pod-index.ts';
import type { PodSource, SourceState } from './source.ts';

export interface KubeletSourceOptions extends ServerCredentials {
  readonly type: 'kubelet';
  /** `https://127.0.0.1:10250`, or `http://127.0.0.1:10255` for the port that asks nobody who he is. */
  readonly url: string;
  /** What the kubelet's certificate is for, where that is not the URL's host; pods of other nodes are not believed then. */
  readonly nodeName?: string | undefined;
  /** Sends credentials to, and believes, whoever listens at the URL. */
  readonly skipKubeletVerification?: boolean | undefined;
  /** How old what is known of pods may be, in milliseconds: 30 s unless given. */
  readonly relistMs?: number | undefined;
  /** How far apart lists are at least while somebody waits for a pod, in milliseconds: 500 unless given. */
  readonly pollMs?: number | undefined;
}

export interface ApiServerSourceOptions extends Pick<ServerCredentials, 'caFile' | 'tokenFile'> {
  readonly type: 'api_server';
  /** `https://10.96.0.1:443`; from inside of a cluster as `inClusterUrl` has it. */
  readonly url: string;
  readonly nodeName: string;
}

export interface KubernetesAttestorOptions {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  readonly containers: Containers;
  readonly source: KubeletSourceOptions | ApiServerSourceOptions;
  /** Gives a pod's selectors alone, and so also before the pod shows the container and to ephemeral containers. */
  readonly disableContainerSelectors?: boolean | undefined;
  /** How long a process waits for its pod to be seen, in milliseconds: 10 s unless given. */
  readonly waitMs?: number | undefined;
}

/** Run it for as long as it is asked; without that it knows of no pod. */
export interface KubernetesAttestor extends WorkloadAttestor {
  /** How the source fares: what it fails with is told here, and with the answers it concerns. */
  readonly state: Watch<SourceState>;
  /** How much is held. */
  readonly size: PodIndex['size'];
  /** The same pods, for whoever refers to one. */
  readonly pods: PodDirectory;
  /** Resolves when the signal has aborted; never rejects. */
  run(signal: AbortSignal): Promise<void>;
}

/** Where a pod finds the account it runs as. */
export const serviceAccountFiles = {
  tokenFile: '/var/run/secrets/kubernetes.io/serviceaccount/token',
  caFile: '/var/run/secrets/kubernetes.io/serviceaccount/ca.crt',
} as const;

/** @param host,port what `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT` say */
export function inClusterUrl(host: string, port: string | number = 443): string {
  return `https://${host.includes(':') ? `[${host}]` : host}:${String(port)}`;
}

const DEFAULT_WAIT_MS = 10_000;
/** How long an answer waits for a source that has to be asked first; the frame's own patience is longer. */
const REFRESH_MS = 2_000;

/** @throws invalid `k8s.options`, `http.url` */
export function createKubernetesAttestor(options: KubernetesAttestorOptions): KubernetesAttestor {
  return new Attestor(options);
}

/** What a process of a pod waits for that is not known yet. */
interface Wait {
  readonly id: string;
  readonly endsAt: number;
  until: Promise<void> | undefined;
}

class Attestor implements KubernetesAttestor {
  readonly name = 'k8s';
  readonly pods: PodDirectory;
  readonly #options: KubernetesAttestorOptions;
  readonly #clock: Clock;
  readonly #index: PodIndex;
  readonly #source: PodSource;
  readonly #close: () => void;
  readonly #waits = new WeakMap<Peer, Wait>();
  readonly #held = new WeakSet<Peer>();

  constructor(options: KubernetesAttestorOptions) {
    this.#options = options;
    const { clock, random, source } = options;
    this.#clock = clock;
    const index = createPodIndex({ clock });
    this.#index = index;
    if (source.type === 'kubelet') {
      const { nodeName, skipKubeletVerification, relistMs, pollMs } = source;
      const connection = createConnection({ ...source, clock, serverName: nodeName, unverified: skipKubeletVerification });
      this.#source = createKubelet({ clock, random, connection, index, nodeName, relistMs, pollMs });
      this.#close = () => connection.close();
    } else {
      const { url, nodeName, caFile, tokenFile } = source;
      const connection = createConnection({ clock, url, caFile, tokenFile });
      this.#source = createApiServer({ clock, random, connection, index, nodeName });
      this.#close = () => connection.close();
    }
    this.pods = createPodDirectory({ clock, index, source: this.#source });
  }

  get state(): Watch<SourceState> {
    return this.#source.state;
  }

  get size(): PodIndex['size'] {
    return this.#index.size;
  }

  async run(signal: AbortSignal): Promise<void> {
    await this.#source.run(signal);
    this.#close();
    this.#index.close();
  }

  async attest(peer: Peer, question: AttestQuestion): Promise<readonly Selector[]> {
    const ref = this.#options.containers.of(peer);
    if (ref === undefined || !mayBePod(ref)) return [];
    if (!this.#held.has(peer)) {
      this.#held.add(peer);
      this.#source.hold(peer.signal);
    }
    if (!this.#source.isFresh()) await this.#refresh(question.signal);
    // Before looking, so that no change falls in between.
    question.recheck(this.#index.watch(ref));
    const found = this.#index.find(ref);
    const { failure } = this.#source.state.value;
    const selectors = found === undefined ? undefined : this.#selectorsOf(found);
    if (found === undefined || selectors === undefined) return this.#missing(peer, ref, question, failure);
    this.#waits.delete(peer);
    // What is known stays true of a container, as far as anybody can tell.
    if (failure !== undefined) question.omit('k8s', failure.reason);
    if (found.until !== undefined) question.omit('k8s', 'k8s.pod.deleted', found.until);
    for (const { what, reason } of found.pod.omitted) question.omit(what, reason);
    return selectors;
  }

  async #refresh(signal: AbortSignal): Promise<void> {
    const stop = linkedController(signal);
    void this.#clock.sleep(REFRESH_MS, stop.signal).then(
      () => stop.abort(new Error('waited enough')),
      () => undefined,
    );
    await this.#source.refresh(stop.signal);
    stop.abort(new Error('known'));
    stop.unlink();
  }

  /** @returns undefined while it is not known which of the pod's containers it is, and that matters */
  #selectorsOf({ pod, container }: FoundPod): readonly Selector[] | undefined {
    if (this.#options.disableContainerSelectors === true) return pod.selectors;
    if (container?.kind === 'debug') {
      throw new SpiffeError('denied', 'k8s.container.ephemeral', 'an ephemeral container is not what the pod was made to run');
    }
    return container?.selectors;
  }

  /** Waits outside of the answer, for as long as there is hope. */
  #missing(peer: Peer, ref: ContainerRef, { omit, wanted }: AttestQuestion, failure: SpiffeError | undefined): readonly Selector[] {
    if (!wanted.asks('k8s:')) {
      // Nobody's identity depends on it. When that changes the process is asked about again.
      omit('k8s', 'k8s.pod.pending');
      if (failure !== undefined) throw failure;
      return [];
    }
    const now = this.#clock.monotonic();
    const known = this.#waits.get(peer);
    const wait = known?.id === ref.id ? known : { id: ref.id, endsAt: now + (this.#options.waitMs ?? DEFAULT_WAIT_MS), until: undefined };
    this.#waits.set(peer, wait);
    if (now < wait.endsAt) {
      wait.until ??= this.#appears(peer, ref, wait).finally(() => {
        wait.until = undefined;
      });
      omit('k8s', 'k8s.pod.pending', wait.until);
    } else {
      omit('k8s', 'k8s.pod.unknown');
    }
    if (failure !== undefined) throw failure;
    if (now < wait.endsAt || ref.podUid === undefined) return [];
    throw new SpiffeError('missing', 'k8s.pod.unknown', "no pod of this node shows the process's container");
  }

  /** Resolves when another look may tell more, at the end of the wait, and when the process is gone. */
  async #appears(peer: Peer, ref: ContainerRef, wait: Wait): Promise<void> {
    const watch = this.#index.watch(ref);
    const before = watch.value;
    const stop = linkedController(peer.signal);
    this.#source.seek(stop.signal);
    const changed = async (): Promise<void> => {
      for await (const value of watch.values(stop.signal)) if (value !== before) return;
    };
    const waits = [changed(), this.#clock.sleep(Math.max(0, wait.endsAt - this.#clock.monotonic()), stop.signal)];
    await untilAborted(Promise.race(waits), stop.signal).catch(() => undefined);
    stop.abort(new Error('waited enough'));
    stop.unlink();
    await Promise.allSettled(waits);
  }
}

/**
 * An engine of a user makes up what it likes, and is none that a kubelet runs; nor are Docker and Podman outside of a
 * pod's cgroup. What else has an id may be a pod whose cgroup this program does not see in full.
 */
function mayBePod({ ownerUid, podUid, runtime }: ContainerRef): boolean {
  if (ownerUid !== undefined) return false;
  return podUid !== undefined || (runtime !== 'docker' && runtime !== 'libpod');
}
