/**
 * Attest by reference: a process number, a pod or plain selectors become somebody of whom is known what is true, for as long
 * as what was referred to is there. Who may refer to what, and what is sent for it, is decided elsewhere.
 */
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import type { Selector } from '../../spiffe/selector.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createWatch } from '../../runtime/watch.ts';
import type { WorkloadProcess } from '../process.ts';
import type { Attestation } from '../workload/attest.ts';
import type { PinnedPod, PodDirectory, PodReference } from '../workload/attestors/kubernetes/directory.ts';
import { createCaller, type Attested, type Behalf, type Beneficiary, type Caller, type FollowPeer } from '../workload/caller.ts';
import { openNamedProcess, type NamedProcess } from '../workload/named-process.ts';

/** Released by whoever asked for it. */
export interface Subject extends Attested {
  readonly behalf: Behalf;
  /** Aborts when what was referred to is there no more, with missing `broker.workload.gone`. */
  readonly signal: AbortSignal;
  /** To be asked before anything leaves. @throws missing `broker.workload.gone` */
  requireStill(): void;
  release(): void;
}

export interface Subjects {
  /** @throws missing `broker.workload.none`; limited `broker.processes`; unavailable `process.descriptors` */
  process(pid: number, broker: Behalf['broker']): Subject;
  /**
   * @throws missing `broker.workload.none`; invalid `broker.reference.kubernetes`; denied and unavailable as
   * `PodDirectory.open`
   */
  pod(reference: PodReference, broker: Behalf['broker'], signal: AbortSignal): Promise<Subject>;
  selectors(selectors: readonly Selector[], broker: Behalf['broker']): Subject;
  /** Processes held on to. */
  readonly processes: number;
}

export interface SubjectsOptions {
  readonly clock: Clock;
  readonly follow: FollowPeer;
  /** Of this node, when they are known at all. */
  readonly pods: PodDirectory | undefined;
  /** How many processes are held on to at once. */
  readonly mostProcesses: number;
  /** Whether a process whose executable may not be looked at counts. */
  readonly unseenImage: 'refuse' | 'accept';
  readonly onAttested: (who: Beneficiary, attestation: Attestation) => void;
}

/** How soon the end of a process is seen when nothing is sent for it; each look costs a microsecond. */
const lookMs = 100;
/** That it runs another program is looked at less often, and costs twenty. */
const imageLooks = 10;
const longestReference = 512;

export function createSubjects(options: SubjectsOptions): Subjects {
  const processes = createProcesses(options);
  return {
    process: (pid, broker) => processes.open(pid, broker),
    async pod(reference, broker, signal) {
      if (options.pods === undefined) {
        throw new SpiffeError('invalid', 'broker.reference.kubernetes', 'this agent knows of no Kubernetes objects');
      }
      return podSubject(await openPod(options.pods, reference, signal), broker, options.onAttested);
    },
    selectors(selectors, broker) {
      const behalf = { broker, reference: `selectors:${selectors.join(',')}`.slice(0, longestReference) };
      const watch = createWatch(attestationOf('selectors', selectors));
      const { signal } = new AbortController();
      const nothing = (): undefined => undefined;
      return { behalf, process: undefined, attested: async () => watch, signal, requireStill: nothing, release: nothing };
    },
    get processes() {
      return processes.size;
    },
  };
}

export function gone(cause?: unknown): SpiffeError {
  const context = cause === undefined ? {} : { cause };
  return new SpiffeError('missing', 'broker.workload.gone', 'the workload that was referred to is gone', context);
}

function none(cause?: unknown): SpiffeError {
  const context = cause === undefined ? {} : { cause };
  return new SpiffeError('missing', 'broker.workload.none', 'there is no workload that this refers to', context);
}

/** What a failure says to somebody who did not connect: a process that is not the one it was is not there. */
export function asGone(error: unknown): unknown {
  const isGone = isSpiffeError(error) && (error.reason.startsWith('peer.') || error.reason === 'k8s.pod.gone');
  return isGone ? gone(error) : error;
}

interface Held {
  readonly process: NamedProcess;
  readonly caller: Caller;
  readonly behalf: Behalf;
  references: number;
  readonly over: AbortController;
}

interface Processes {
  open(pid: number, broker: Behalf['broker']): Subject;
  readonly size: number;
}

/** One attestation for all calls of a broker that refer to the same process. */
function createProcesses({ clock, follow, mostProcesses, unseenImage, onAttested }: SubjectsOptions): Processes {
  const held = new Map<string, Held>();
  const all = new Set<Held>();
  let looking = false;

  const end = (one: Held, key: string): void => {
    if (!all.delete(one)) return;
    if (held.get(key) === one) held.delete(key);
    one.over.abort(gone());
    one.process.close(new SpiffeError('unavailable', 'peer.exited', 'the process is gone, or nobody refers to it any more'));
  };

  const look = async (): Promise<void> => {
    if (looking) return;
    looking = true;
    const tick = new AbortController();
    for (let looks = 1; all.size > 0; looks += 1) {
      await clock.sleep(lookMs, tick.signal);
      for (const one of all) {
        const { peer } = one.process;
        if (looks % imageLooks === 0 ? peer.stillTheSame() !== true : peer.exited()) end(one, keyOf(one.behalf));
      }
    }
    looking = false;
  };

  const open = (pid: number, behalf: Behalf): Held => {
    if (all.size >= mostProcesses) throw new SpiffeError('limited', 'broker.processes', 'too many processes are referred to');
    const process = openNamedProcess(pid, clock.now());
    if (process === undefined) throw none();
    const { peer } = process;
    // What runs in the kernel has no executable, and what may not be looked at is nobody's business here.
    if (peer.stillTheSame() !== true || (unseenImage === 'refuse' && peer.facts.exe === undefined)) {
      process.close(new SpiffeError('unavailable', 'peer.closed', 'the process is not for reference'));
      throw none();
    }
    const caller = createCaller(peer, follow, ({ process: whose }, attestation) => onAttested({ process: whose, behalf }, attestation));
    return { process, caller, behalf, references: 0, over: new AbortController() };
  };

  return {
    open(pid, broker) {
      const behalf = { broker, reference: `pid:${String(pid)}` };
      const key = keyOf(behalf);
      let one = held.get(key);
      if (one !== undefined && one.process.peer.stillTheSame() !== true) {
        end(one, key);
        one = undefined;
      }
      if (one === undefined) {
        one = open(pid, behalf);
        held.set(key, one);
        all.add(one);
        void look();
      }
      return referenceTo(one, () => end(one, key));
    },
    get size() {
      return all.size;
    },
  };
}

function keyOf({ broker, reference }: Behalf): string {
  return `${reference} ${broker}`;
}

function referenceTo(held: Held, onLast: () => void): Subject {
  const { caller, behalf, over } = held;
  held.references += 1;
  let released = false;
  return {
    behalf,
    get process(): WorkloadProcess {
      return caller.process;
    },
    signal: over.signal,
    async attested(signal) {
      try {
        return await caller.attested(signal);
      } catch (error) {
        throw asGone(error);
      }
    },
    requireStill() {
      if (over.signal.aborted || held.process.peer.stillTheSame() !== true) throw gone();
    },
    release() {
      if (released) return;
      released = true;
      held.references -= 1;
      if (held.references === 0) onLast();
    },
  };
}

async function openPod(pods: PodDirectory, reference: PodReference, signal: AbortSignal): Promise<PinnedPod> {
  try {
    return await pods.open(reference, signal);
  } catch (error) {
    throw isSpiffeError(error, 'missing') ? none(error) : error;
  }
}

function podSubject(pinned: PinnedPod, broker: Behalf['broker'], onAttested: SubjectsOptions['onAttested']): Subject {
  const { namespace, name } = pinned.watch.value;
  const behalf = { broker, reference: `pod:${namespace}/${name}/${pinned.uid}`.slice(0, longestReference) };
  const over = new AbortController();
  let { selectors } = pinned.watch.value;
  const attestations = createWatch(attestationOf('k8s', selectors));
  onAttested({ process: undefined, behalf }, attestations.value);
  const follow = async (): Promise<void> => {
    for await (const pod of pinned.watch.values(over.signal)) {
      if (isSame(pod.selectors, selectors)) continue;
      ({ selectors } = pod);
      attestations.set(attestationOf('k8s', selectors));
      onAttested({ process: undefined, behalf }, attestations.value);
    }
  };
  follow().catch((error: unknown) => {
    attestations.close(gone(error));
    over.abort(gone(error));
  });
  return {
    behalf,
    process: undefined,
    signal: over.signal,
    attested: async () => attestations,
    requireStill() {
      try {
        pinned.requireStill();
      } catch (error) {
        throw asGone(error);
      }
    },
    release() {
      over.abort(new Error('nobody refers to the pod any more'));
      attestations.close();
      pinned.close();
    },
  };
}

function attestationOf(attestor: string, selectors: readonly Selector[]): Attestation {
  return {
    selectors: new Set(selectors),
    given: new Map([[attestor, selectors]]),
    reports: [{ attestor, ms: 0, selectors: selectors.length, omitted: [] }],
    incomplete: false,
    pending: undefined,
    rechecks: [],
  };
}

function isSame(a: readonly Selector[], b: readonly Selector[]): boolean {
  return a.length === b.length && a.every((selector, index) => selector === b[index]);
}
