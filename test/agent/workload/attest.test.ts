import { describe, expect, it } from 'vitest';
import { createAttest, followAttestation } from '../../../agent/workload/attest.ts';
import type { Attestation } from '../../../agent/workload/attest.ts';
import type { Omit, WantedSelectors, WorkloadAttestor } from '../../../agent/workload/attestor.ts';
import { createWatch } from '../../../runtime/watch.ts';
import type { Watch } from '../../../runtime/watch.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { createTestClock } from '../../help/clock.ts';
import { fakePeer } from '../../help/peer.ts';

const nothing: WantedSelectors = { asks: () => false };
const forever = new AbortController().signal;

interface Scripted extends WorkloadAttestor {
  /** What it does from now on. */
  says: readonly string[] | Error | 'nothing, ever';
  omits: Parameters<Omit> | undefined;
  changes: Watch<unknown> | undefined;
  asked: number;
  during: () => void;
  stopped: boolean;
}

function attestor(name: string, says: Scripted['says']): Scripted {
  const one: Scripted = {
    name,
    says,
    omits: undefined,
    changes: undefined,
    asked: 0,
    during: () => undefined,
    stopped: false,
    async attest(_peer, { signal, omit, recheck }) {
      one.asked += 1;
      one.during();
      if (one.omits !== undefined) omit(...one.omits);
      if (one.changes !== undefined) recheck(one.changes);
      if (one.says instanceof Error) throw one.says;
      if (one.says !== 'nothing, ever') return one.says.map(parseSelector);
      signal.addEventListener('abort', () => (one.stopped = true));
      return new Promise(() => undefined);
    },
  };
  return one;
}

function setting(...attestors: readonly Scripted[]) {
  const clock = createTestClock();
  const attest = createAttest({ attestors, clock, deadlineMs: 1000 });
  return { clock, attest, peer: fakePeer() };
}

describe('createAttest', () => {
  it('joins what all attestors say and reports each', async () => {
    const { attest, peer } = setting(attestor('unix', ['unix:uid:1', 'unix:gid:2']), attestor('docker', ['docker:label:a:b']));
    const { selectors, given, reports, incomplete, pending } = await attest(peer, nothing, forever);
    expect([...selectors]).toEqual(['unix:uid:1', 'unix:gid:2', 'docker:label:a:b']);
    expect(given.get('docker')).toEqual(['docker:label:a:b']);
    expect(reports).toEqual([
      { attestor: 'unix', ms: 0, selectors: 2, omitted: [] },
      { attestor: 'docker', ms: 0, selectors: 1, omitted: [] },
    ]);
    expect(incomplete).toBe(false);
    expect(pending).toBeUndefined();
  });

  it('one that fails adds nothing and is named with its reason', async () => {
    const denied = new SpiffeError('unavailable', 'docker.socket', 'no answer');
    const failing = [attestor('docker', denied), attestor('k8s', new Error('bug'))];
    const { attest, peer } = setting(attestor('unix', ['unix:uid:1']), ...failing);
    const { selectors, reports, incomplete } = await attest(peer, nothing, forever);
    expect([...selectors]).toEqual(['unix:uid:1']);
    expect(reports.map((report) => report.reason)).toEqual([undefined, 'docker.socket', 'attest.attestor']);
    expect(incomplete).toBe(true);
  });

  it('one that hangs is given up at the deadline and told so', async () => {
    const slow = attestor('docker', 'nothing, ever');
    const { clock, attest, peer } = setting(attestor('unix', ['unix:uid:1']), slow);
    const answer = attest(peer, nothing, forever);
    await clock.advance(999);
    expect(slow.stopped).toBe(false);
    await clock.advance(1);
    const { selectors, reports } = await answer;
    expect([...selectors]).toEqual(['unix:uid:1']);
    expect(reports[1]).toEqual({ attestor: 'docker', ms: 1000, selectors: 0, reason: 'attest.deadline', keeps: true, omitted: [] });
    expect(slow.stopped).toBe(true);
    expect(clock.sleepers).toBe(0);
  });

  it('tells of all failing as of one', async () => {
    const { attest, peer } = setting(attestor('unix', new SpiffeError('unavailable', 'unix.process.hidden', 'hidden')), attestor('docker', new Error('bug')));
    const { selectors, reports, incomplete } = await attest(peer, nothing, forever);
    expect([selectors.size, incomplete]).toEqual([0, true]);
    expect(reports.map(({ reason, keeps }) => [reason, keeps])).toEqual([
      ['unix.process.hidden', true],
      ['attest.attestor', undefined],
    ]);
  });

  const changes = ['peer.exited', 'peer.closed', 'peer.image'] as const;

  it.each(changes)('T-A01 asks nobody about a process that is %s', async (change) => {
    const one = attestor('unix', ['unix:uid:1']);
    const { attest, peer } = setting(one);
    peer.become(change);
    await expect(attest(peer, nothing, forever)).rejects.toMatchObject({ kind: 'denied', reason: change });
    expect(one.asked).toBe(0);
  });

  it.each(['peer.exited', 'peer.image'] as const)('T-A02 gives nothing of a process that became %s meanwhile', async (change) => {
    const one = attestor('unix', ['unix:uid:1']);
    const { attest, peer } = setting(one);
    one.during = () => peer.become(change);
    await expect(attest(peer, nothing, forever)).rejects.toMatchObject({ kind: 'denied', reason: change });
  });

  it('ends at once when the caller or the process goes', async () => {
    const { attest, peer } = setting(attestor('docker', 'nothing, ever'));
    const caller = new AbortController();
    const called = attest(peer, nothing, caller.signal);
    caller.abort(new Error('cancelled'));
    await expect(called).rejects.toThrow();
    const left = attest(peer, nothing, forever);
    peer.become('peer.exited');
    await expect(left).rejects.toMatchObject({ kind: 'denied', reason: 'peer.exited' });
  });

  it('tells of each answer, and not of one that nobody waits for any more', async () => {
    const docker = attestor('docker', new SpiffeError('unavailable', 'docker.socket', 'no answer'));
    const told: (string | undefined)[] = [];
    const attest = createAttest({ attestors: [attestor('unix', ['unix:uid:1']), docker], clock: createTestClock(), onAnswer: ({ attestor: who, reason }) => told.push(`${who} ${reason}`) });
    const peer = fakePeer();
    await attest(peer, nothing, forever);
    expect(told).toEqual(['unix undefined', 'docker docker.socket']);
    docker.during = () => peer.become('peer.closed');
    await expect(attest(peer, nothing, forever)).rejects.toMatchObject({ reason: 'peer.closed' });
    expect(told.filter((line) => line?.startsWith('docker'))).toHaveLength(1);
  });

  it('tells what was omitted, and when to ask for it again', async () => {
    const one = attestor('unix', ['unix:uid:1']);
    const hash = Promise.withResolvers<void>();
    one.omits = ['unix:sha256', 'unix.sha256.pending', hash.promise];
    const { clock, attest, peer } = setting(one);
    const { reports, pending, incomplete } = await attest(peer, nothing, forever);
    expect(reports[0]?.omitted).toEqual([{ what: 'unix:sha256', reason: 'unix.sha256.pending' }]);
    expect(incomplete).toBe(false);
    let settled = false;
    void pending?.then(() => (settled = true));
    await clock.settle();
    expect(settled).toBe(false);
    hash.reject(new Error('even so'));
    await clock.settle();
    expect(settled).toBe(true);
  });
});

describe('followAttestation', () => {
  function follow(attestors: readonly Scripted[]) {
    const { clock, attest, peer } = setting(...attestors);
    const wanted = createWatch<WantedSelectors>(nothing);
    const stop = new AbortController();
    const seen: Attestation[] = [];
    const ended = (async () => {
      for await (const one of followAttestation({ attest, clock, random: () => 0.5 }, peer, wanted, stop.signal)) seen.push(one);
    })();
    // Failures are looked at by the tests that expect them.
    ended.catch(() => undefined);
    return { clock, peer, wanted, stop, seen, ended };
  }
  const sets = (seen: readonly Attestation[]): readonly string[] => seen.map(({ selectors }) => [...selectors].join(' '));

  it('asks again while one fails, ever more rarely, and yields only what is new', async () => {
    const docker = attestor('docker', new SpiffeError('unavailable', 'docker.socket', 'away'));
    const { clock, seen, stop, ended } = follow([attestor('unix', ['unix:uid:1']), docker]);
    await clock.advance(60_000);
    expect(sets(seen)).toEqual(['unix:uid:1']);
    expect(docker.asked).toBeGreaterThan(5);
    expect(docker.asked).toBeLessThan(15);
    docker.says = ['docker:image_id:a'];
    await clock.advance(15_000);
    expect(sets(seen)).toEqual(['unix:uid:1', 'unix:uid:1 docker:image_id:a']);
    const { asked } = docker;
    await clock.advance(600_000);
    expect(docker.asked).toBe(asked + 10);
    stop.abort(new Error('over'));
    await ended;
    expect(clock.sleepers).toBe(0);
  });

  it('asks again when a pending fact is there', async () => {
    const unix = attestor('unix', ['unix:uid:1']);
    const hash = Promise.withResolvers<void>();
    unix.omits = ['unix:sha256', 'unix.sha256.pending', hash.promise];
    const { clock, seen } = follow([unix]);
    await clock.settle();
    expect(unix.asked).toBe(1);
    unix.omits = undefined;
    unix.says = ['unix:uid:1', 'unix:sha256:aa'];
    hash.resolve();
    await clock.settle();
    expect(sets(seen)).toEqual(['unix:uid:1', 'unix:uid:1 unix:sha256:aa']);
  });

  it('asks again when other selectors are wanted', async () => {
    const unix = attestor('unix', ['unix:uid:1']);
    const { clock, seen, wanted } = follow([unix]);
    await clock.settle();
    unix.says = ['unix:uid:1', 'unix:sha256:aa'];
    wanted.set({ asks: () => true });
    await clock.settle();
    expect(unix.asked).toBe(2);
    expect(sets(seen)).toHaveLength(2);
  });

  it('keeps what an attestor said of this process while that attestor is away', async () => {
    const docker = attestor('docker', ['docker:image_id:a']);
    const unix = attestor('unix', ['unix:uid:1']);
    const { clock, seen, wanted } = follow([unix, docker]);
    await clock.settle();
    docker.says = new SpiffeError('unavailable', 'docker.socket', 'away');
    wanted.set({ asks: () => true });
    await clock.advance(1000);
    unix.says = new SpiffeError('unavailable', 'unix.process.hidden', 'hidden');
    await clock.advance(60_000);
    expect(sets(seen)).toEqual(['unix:uid:1 docker:image_id:a']);
    unix.says = ['unix:uid:2'];
    await clock.advance(15_000);
    expect(sets(seen).at(-1)).toBe('unix:uid:2 docker:image_id:a');
  });

  it.each([
    ['that it may not be believed', new SpiffeError('denied', 'container.ambiguous', 'two containers')],
    ['nothing that is known', new Error('bug')],
  ])('takes back what an attestor said once it says %s', async (_says, error) => {
    const docker = attestor('docker', ['docker:image_id:a']);
    const { clock, seen } = follow([attestor('unix', ['unix:uid:1']), docker]);
    await clock.settle();
    docker.says = error;
    await clock.advance(60_000);
    expect(sets(seen)).toEqual(['unix:uid:1 docker:image_id:a', 'unix:uid:1']);
  });

  it('asks again when an attestor has another answer, and only then', async () => {
    const k8s = attestor('k8s', ['k8s:pod-label:app:a']);
    const labels = createWatch('a');
    k8s.changes = labels;
    const { clock, seen, stop, ended } = follow([k8s]);
    await clock.advance(1000);
    expect(k8s.asked).toBe(1);
    k8s.says = ['k8s:pod-label:app:b'];
    labels.set('b');
    await clock.settle();
    expect(sets(seen)).toEqual(['k8s:pod-label:app:a', 'k8s:pod-label:app:b']);
    expect(k8s.asked).toBe(2);
    stop.abort(new Error('over'));
    await ended;
    expect(clock.sleepers).toBe(0);
  });

  it('asks again within a minute, whatever happens', async () => {
    const systemd = attestor('systemd', ['systemd:id:a.service']);
    const { clock, seen } = follow([systemd]);
    await clock.settle();
    systemd.says = ['systemd:id:b.service'];
    await clock.advance(66_000);
    expect(sets(seen)).toEqual(['systemd:id:a.service', 'systemd:id:b.service']);
  });

  it.each<[string, readonly Scripted[]]>([
    ['all fail', [attestor('unix', new SpiffeError('unavailable', 'unix.process.hidden', 'hidden'))]],
    ['one fails and the others have nothing to say', [attestor('unix', new SpiffeError('unavailable', 'unix.process.hidden', 'hidden')), attestor('process', [])]],
  ])('throws when the first time %s', async (_what, attestors) => {
    const { clock, ended } = follow(attestors);
    await clock.settle();
    await expect(ended).rejects.toMatchObject({ kind: 'unavailable', reason: 'attest.failed', detail: { reasons: 'unix: unix.process.hidden' } });
  });

  it('throws when there is nobody to ask, and not when nobody has anything to say', async () => {
    const none = follow([]);
    await none.clock.settle();
    await expect(none.ended).rejects.toMatchObject({ reason: 'attest.failed' });
    const silent = follow([attestor('process', [])]);
    await silent.clock.settle();
    expect(sets(silent.seen)).toEqual(['']);
  });

  it('takes everything back when nothing is left that may be believed', async () => {
    const unix = attestor('unix', ['unix:uid:1']);
    const { clock, seen } = follow([unix, attestor('process', [])]);
    await clock.settle();
    unix.says = new SpiffeError('denied', 'unix.ids.unmapped', 'nobody');
    await clock.advance(66_000);
    expect(sets(seen)).toEqual(['unix:uid:1', '']);
  });

  it('T-A01 throws when the process is not the same one any more', async () => {
    const unix = attestor('unix', ['unix:uid:1']);
    const { clock, ended, peer } = follow([unix]);
    await clock.settle();
    peer.become('peer.exited');
    await expect(ended).rejects.toMatchObject({ kind: 'denied', reason: 'peer.exited' });
    expect(unix.asked).toBe(1);
  });
});
