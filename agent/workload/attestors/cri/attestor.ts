/**
 * Containers made through the CRI, by containerd or CRI-O, as their runtime tells them: no kubelet is asked, and nothing
 * that the process says of itself. Which container a process is in is told by the kernel alone, in `container.ts`.
 */
import type { Clock } from '../../../../runtime/clock.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';
import type { WorkloadAttestor } from '../../attestor.ts';
import type { ContainerRef, Containers } from '../../container.ts';
import { createCriApi } from './messages.ts';
import { createCriRuntime } from './runtime.ts';
import type { CriFacts, CriQuestion } from './runtime.ts';
import { checkSocket } from './socket.ts';

export interface CriAttestorOptions {
  readonly clock: Clock;
  /** In [0, 1): jitter between attempts to follow events. */
  readonly random: () => number;
  readonly containers: Containers;
  /** Absolute, one per runtime. A container belongs to the first that knows it. */
  readonly socketPaths: readonly string[];
  /** A runtime that takes longer for one answer is not waited for. Less than an attestor is given in all. */
  readonly deadlineMs?: number;
}

/** `run` follows the runtimes' events until its signal aborts, and closes the connections at its end; without it answers are kept for moments only. */
export interface CriAttestor extends WorkloadAttestor {
  run(signal: AbortSignal): Promise<void>;
}

const DEFAULT_DEADLINE_MS = 2_000;

/**
 * Gives selectors to processes of running containers that a runtime knows; what they are is told in `selectors.ts`. Rejects as
 * `Containers.of` and `CriRuntime` do, and with denied `cri.pod.disagrees`.
 */
export function createCriAttestor(options: CriAttestorOptions): CriAttestor {
  const { clock, random, containers, socketPaths, deadlineMs = DEFAULT_DEADLINE_MS } = options;
  const runtimes = socketPaths.map((socketPath) =>
    createCriRuntime({
      clock,
      random,
      api: createCriApi({ clock, socketPath, deadlineMs }),
      check: () => checkSocket(socketPath),
    }),
  );
  return {
    name: 'cri',
    async attest(peer, { signal, omit, recheck }) {
      const ref = containers.of(peer);
      if (ref === undefined || !mayBeOurs(ref)) return [];
      const questions = runtimes.map((runtime) => runtime.ask(ref.id, signal));
      // Before the answers, so that what happens meanwhile is not missed.
      for (const { changed } of questions) recheck(changed);
      const facts = await firstKnown(questions);
      if (facts === undefined) {
        omit('cri:container-id', 'cri.container.not-found');
        return [];
      }
      if (ref.podUid !== undefined && facts.podUid !== ref.podUid) {
        throw new SpiffeError('denied', 'cri.pod.disagrees', 'the runtime and the control group name different pods');
      }
      for (const { what, reason } of facts.omitted) omit(what, reason);
      return facts.selectors;
    },
    async run(signal) {
      await Promise.all(runtimes.map((runtime) => runtime.run(signal)));
    },
  };
}

/** Docker's and Podman's own containers, and those of a user's engine, are never made through a CRI of root's. */
function mayBeOurs({ runtime, podUid, ownerUid }: ContainerRef): boolean {
  return ownerUid === undefined && (podUid !== undefined || runtime === 'containerd' || runtime === 'crio');
}

/** A runtime that cannot answer matters only when no other one knows the container. */
async function firstKnown(questions: readonly CriQuestion[]): Promise<CriFacts | undefined> {
  const known = questions.map(async ({ answer }) => (await answer) ?? Promise.reject(notKnown));
  try {
    return await Promise.any(known);
  } catch (error) {
    const failures: readonly unknown[] = error instanceof AggregateError ? error.errors : [error];
    const failure = failures.find((one) => one instanceof Error && one !== notKnown);
    if (failure instanceof Error) throw failure;
    return undefined;
  }
}

const notKnown = new Error('this runtime has no such container');
