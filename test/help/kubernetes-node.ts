/**
 * An agent's place on a node of the stand-in cluster: files of credentials, a test clock, and processes that are in
 * containers because the test says so. What is asked of it is the test's.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { AttestQuestion } from '../../agent/workload/attestor.ts';
import type { ContainerRef, Containers } from '../../agent/workload/container.ts';
import type { Peer } from '../../runtime/peer.ts';
import type { Watch } from '../../runtime/watch.ts';
import { createTestClock, type TestClock } from './clock.ts';
import { createCluster, type Cluster, type ClusterOptions } from './kubernetes.ts';
import { containerIdOf, type PodObject } from './kubernetes-pods.ts';
import { fakePeer, type FakePeer } from './peer.ts';

export interface KubernetesNode extends AsyncDisposable {
  readonly cluster: Cluster;
  readonly clock: TestClock;
  readonly folder: string;
  /** Of the right authority, and of a token that is let in. */
  readonly caFile: string;
  readonly tokenFile: string;
  readonly containers: Containers;
  /** Aborts at the end. */
  readonly over: AbortController;
  write(name: string, text: string): string;
  /** A process in a container; in none without one. */
  process(ref?: ContainerRef): FakePeer;
  /** Waits for what does not depend on the clock. */
  until(done: () => boolean): Promise<void>;
  /** Lets time pass until `done`, but not while a question to the cluster is under way. Throws after `limitMs` of test time. */
  pass(done: () => boolean, limitMs: number): Promise<void>;
}

const stepMs = 500;
/** Real time after which a question that is not answered counts as one that will not be. */
const patienceMs = 300;

export async function createKubernetesNode(options: ClusterOptions = {}): Promise<KubernetesNode> {
  const cluster = await createCluster(options);
  const clock = createTestClock();
  const folder = mkdtempSync(join(tmpdir(), 'kubernetes-'));
  const refs = new WeakMap<Peer, ContainerRef>();
  const over = new AbortController();
  const write = (name: string, text: string): string => {
    const file = join(folder, name);
    writeFileSync(file, text);
    return file;
  };
  cluster.tokens.add('token-1');
  const calm = async (): Promise<void> => {
    const endsAt = performance.now() + patienceMs;
    for (let quiet = 0; quiet < 3 && performance.now() < endsAt; ) {
      await sleep(2);
      quiet = cluster.connections === cluster.watches ? quiet + 1 : 0;
    }
  };
  return {
    cluster,
    clock,
    folder,
    caFile: write('ca.crt', cluster.authority.ca),
    tokenFile: write('token', 'token-1\n'),
    containers: { of: (peer) => refs.get(peer) },
    over,
    write,
    process(ref) {
      const peer = fakePeer();
      if (ref !== undefined) refs.set(peer, ref);
      return peer;
    },
    until: (done) => clock.runUntil(done, 0),
    async pass(done, limitMs) {
      for (let passed = 0; ; passed += stepMs) {
        await calm();
        if (done()) return;
        if (passed >= limitMs) throw new Error(`condition not met within ${limitMs} ms of test time`);
        await clock.advance(stepMs);
      }
    },
    async [Symbol.asyncDispose]() {
      over.abort(new Error('the test is over'));
      await cluster[Symbol.asyncDispose]();
      rmSync(folder, { recursive: true });
    },
  };
}

/** Where a process of the pod's container is, as the kernel tells it. */
export function inContainer(pod: PodObject, index = 0, more: Partial<ContainerRef> = {}): ContainerRef {
  const { uid } = pod.metadata;
  return { id: containerIdOf(pod.status.containerStatuses?.[index]), runtime: 'containerd', podUid: uid, ownerUid: undefined, ...more };
}

export interface Asked {
  readonly question: AttestQuestion;
  readonly omitted: { readonly what: string; readonly reason: string; readonly until: Promise<unknown> | undefined }[];
  readonly watches: { readonly watch: Watch<unknown>; readonly value: unknown }[];
  /** Whether the answer may be another by now. */
  isStale(): boolean;
}

export function asked(signal: AbortSignal = new AbortController().signal): Asked {
  const omitted: Asked['omitted'][number][] = [];
  const watches: Asked['watches'][number][] = [];
  return {
    question: {
      wanted: { asks: () => true },
      signal,
      omit: (what, reason, until) => void omitted.push({ what, reason, until }),
      recheck: (watch) => void watches.push({ watch, value: watch.value }),
    },
    omitted,
    watches,
    isStale: () => watches.some(({ watch, value }) => watch.value !== value),
  };
}
