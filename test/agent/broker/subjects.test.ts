import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import process from 'node:process';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createSubjects, type Subjects, type SubjectsOptions } from '../../../agent/broker/subjects.ts';
import type { Attestation } from '../../../agent/workload/attest.ts';
import type { PinnedPod, PodDirectory } from '../../../agent/workload/attestors/kubernetes/directory.ts';
import { readPod, type Pod } from '../../../agent/workload/attestors/kubernetes/pod.ts';
import { createWatch } from '../../../runtime/watch.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseSpiffeId } from '../../../spiffe/id.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';
import { podOf } from '../../help/kubernetes-pods.ts';

const [mesh, other] = ['mesh', 'other'].map((name) => parseSpiffeId(`spiffe://example.org/${name}`)) as [ReturnType<typeof parseSpiffeId>, ReturnType<typeof parseSpiffeId>];
const forever = new AbortController().signal;
const gone = { kind: 'missing', reason: 'broker.workload.gone' };
const none = { kind: 'missing', reason: 'broker.workload.none' };
const descriptors = (): number => readdirSync('/proc/self/fd').length;

let clock: TestClock;
let begun: number[];
let told: string[];
let children: ChildProcess[];

function subjectsWith(more: Partial<SubjectsOptions> = {}): Subjects {
  return createSubjects({
    clock,
    async *follow(peer, stop) {
      begun.push(peer.pid);
      const attestation: Attestation = { selectors: new Set([parseSelector(`unix:uid:${String(peer.uid)}`)]), given: new Map(), reports: [], incomplete: false, pending: undefined, rechecks: [] };
      yield* createWatch(attestation).values(stop);
    },
    pods: undefined,
    mostProcesses: 8,
    unseenImage: 'refuse',
    onAttested: ({ process: whose, behalf }) => told.push(`${String(whose?.pid ?? 'nobody')} ${String(behalf?.broker)} ${String(behalf?.reference)}`),
    ...more,
  });
}
function sleeper(): ChildProcess & { readonly pid: number } {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' });
  children.push(child);
  return child as ChildProcess & { readonly pid: number };
}
async function end(child: ChildProcess): Promise<void> {
  child.kill('SIGKILL');
  await once(child, 'exit');
}

beforeEach(() => {
  clock = createTestClock();
  [begun, told, children] = [[], [], []];
});
afterEach(() => {
  for (const child of children) child.kill('SIGKILL');
});

describe('a process', () => {
  it('BRK-08: is attested as what it is, on behalf of who refers to it', async () => {
    const subject = subjectsWith().process(process.pid, mesh);
    const watch = await subject.attested(forever);
    expect([...watch.value.selectors]).toEqual([`unix:uid:${String(process.geteuid?.())}`]);
    expect(subject.process).toMatchObject({ pid: process.pid, uid: process.geteuid?.() });
    expect(subject.behalf).toEqual({ broker: mesh, reference: `pid:${String(process.pid)}` });
    expect(told).toEqual([`${String(process.pid)} ${mesh} pid:${String(process.pid)}`]);
    subject.release();
  });

  it.each([0, -1, 2_147_483_647])('BRK-23: %d is nobody', (pid) => {
    expect(() => subjectsWith().process(pid, mesh)).toThrow(expect.objectContaining(none));
  });

  it('BRK-26, BRK-27: is gone within a moment of its end, for everybody who refers to it', async () => {
    const subjects = subjectsWith();
    const child = sleeper();
    const [one, two] = [subjects.process(child.pid, mesh), subjects.process(child.pid, mesh)];
    await one.attested(forever);
    one.requireStill();
    await end(child);
    // Even before anybody has looked, nothing leaves.
    expect(() => one.requireStill()).toThrow(expect.objectContaining(gone));
    expect(one.signal.aborted).toBe(false);
    await clock.advance(100);
    for (const subject of [one, two]) {
      expect(subject.signal.reason).toMatchObject(gone);
      await expect(subject.attested(forever).then(({ value }) => value)).resolves.toBeDefined();
      subject.release();
    }
    expect(subjects.processes).toBe(0);
  });

  it('T-25: that ended leaves nothing for who comes after it', async () => {
    const subjects = subjectsWith();
    const child = sleeper();
    const first = subjects.process(child.pid, mesh);
    await end(child);
    expect(() => subjects.process(child.pid, mesh)).toThrow(expect.objectContaining(none));
    expect(first.signal.reason).toMatchObject(gone);
  });

  it('BRK-27: is gone when it runs another program', async () => {
    const child = spawn('/bin/sh', ['-c', 'read line; exec sleep 60'], { stdio: ['pipe', 'ignore', 'ignore'] });
    children.push(child);
    const subject = subjectsWith().process(child.pid ?? -1, mesh);
    child.stdin.end('go\n');
    await expect.poll(() => {
      try {
        subject.requireStill();
        return 'still';
      } catch (error) {
        return error;
      }
    }).toMatchObject(gone);
    await clock.advance(1_000);
    expect(subject.signal.reason).toMatchObject(gone);
  });

  it('is attested once for all calls of one broker, and let go after the last', async () => {
    const open = descriptors();
    const subjects = subjectsWith();
    const mine = [1, 2, 3].map(() => subjects.process(process.pid, mesh));
    const theirs = subjects.process(process.pid, other);
    await Promise.all([...mine, theirs].map((subject) => subject.attested(forever)));
    expect([begun.length, subjects.processes]).toEqual([2, 2]);
    for (const subject of mine) {
      expect(subject.signal.aborted).toBe(false);
      subject.release();
      subject.release();
    }
    expect([subjects.processes, theirs.signal.aborted]).toEqual([1, false]);
    theirs.requireStill();
    theirs.release();
    expect([subjects.processes, descriptors()]).toEqual([0, open]);
  });

  it('is one of so many that are held on to', () => {
    const subjects = subjectsWith({ mostProcesses: 1 });
    const one = subjects.process(process.pid, mesh);
    subjects.process(process.pid, mesh).release();
    expect(() => subjects.process(process.ppid, mesh)).toThrow(expect.objectContaining({ kind: 'limited', reason: 'broker.processes' }));
    one.release();
    subjects.process(process.ppid, mesh).release();
  });
});

describe('a pod', () => {
  const object = podOf('cart-1', { namespace: 'shop', serviceAccount: 'cart' });
  const pod = readPod(object);

  function directory(): { readonly pods: PodDirectory; readonly watch: ReturnType<typeof createWatch<Pod>>; there: boolean; closed: number } {
    const watch = createWatch(pod);
    const all = {
      watch,
      there: true,
      closed: 0,
      pods: {
        async open({ key }: Parameters<PodDirectory['open']>[0]): Promise<PinnedPod> {
          if (key?.name === 'busy') throw new SpiffeError('unavailable', 'k8s.source.deadline', 'the list takes too long');
          if (key?.name !== 'cart-1') throw new SpiffeError('missing', 'k8s.pod.unknown', 'this node has no such pod');
          return {
            uid: pod.uid,
            watch,
            requireStill() {
              if (!all.there) throw new SpiffeError('missing', 'k8s.pod.gone', 'the pod is gone');
            },
            close: () => void (all.closed += 1),
          };
        },
      },
    };
    return all;
  }
  const key = { namespace: 'shop', name: 'cart-1' };

  it('BRK-14: is what Kubernetes says of it, and of no container', async () => {
    const all = directory();
    const subject = await subjectsWith({ pods: all.pods }).pod({ key, uid: undefined }, mesh, forever);
    const watch = await subject.attested(forever);
    expect([...watch.value.selectors]).toEqual(expect.arrayContaining(['k8s:ns:shop', 'k8s:sa:cart', 'k8s:pod-name:cart-1']));
    expect([...watch.value.selectors].filter((selector) => selector.startsWith('k8s:container-'))).toEqual([]);
    expect([subject.process, told]).toEqual([undefined, [`nobody ${mesh} pod:shop/cart-1/${pod.uid}`]]);
    all.watch.set(readPod({ ...object, metadata: { ...object.metadata, labels: { tier: 'gold' } } }));
    await expect.poll(() => [...watch.value.selectors]).toContain('k8s:pod-label:tier:gold');
    expect(told.length).toBe(2);
    subject.release();
    expect(all.closed).toBe(1);
  });

  it('BRK-26, BRK-27: is gone when it is gone', async () => {
    const all = directory();
    const subject = await subjectsWith({ pods: all.pods }).pod({ key, uid: undefined }, mesh, forever);
    subject.requireStill();
    all.there = false;
    expect(() => subject.requireStill()).toThrow(expect.objectContaining(gone));
    all.watch.close(new SpiffeError('missing', 'k8s.pod.gone', 'the pod is gone'));
    await expect.poll(() => subject.signal.reason as unknown).toMatchObject(gone);
  });

  it.each([
    ['BRK-23: that is not there', 'cart-2', none],
    ['of a source that cannot be asked', 'busy', { kind: 'unavailable', reason: 'k8s.source.deadline' }],
  ])('%s is refused', async (_which, name, expected) => {
    await expect(subjectsWith({ pods: directory().pods }).pod({ key: { namespace: 'shop', name }, uid: undefined }, mesh, forever)).rejects.toMatchObject(expected);
  });

  it('BRK-04: is no reference where no Kubernetes is configured', async () => {
    await expect(subjectsWith().pod({ key, uid: undefined }, mesh, forever)).rejects.toMatchObject({ kind: 'invalid', reason: 'broker.reference.kubernetes' });
  });
});
