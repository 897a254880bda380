import process from 'node:process';
import { expect, it, onTestFinished } from 'vitest';
import { adminApi, type AdminApiOptions, type AgentStatus } from '../../../agent/admin/api.ts';
import { createAttest } from '../../../agent/workload/attest.ts';
import type { AttestQuestion, WorkloadAttestor } from '../../../agent/workload/attestor.ts';
import type { Explanation } from '../../../proto/gen/steeple/agent/v1/Explanation.ts';
import type { CallContext } from '../../../runtime/rpc/handlers.ts';
import type { Peer } from '../../../runtime/peer.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { parseSelector } from '../../../spiffe/selector.ts';
import { testEntry } from '../../help/agent-server.ts';
import { createTestClock, type TestClock } from '../../help/clock.ts';

const status = {} as AgentStatus;

function attestor(name: string, says: (question: AttestQuestion) => readonly string[]): WorkloadAttestor {
  return { name, attest: async (_peer, question) => says(question).map(parseSelector) };
}

function setting(attestors: readonly WorkloadAttestor[], entries: AdminApiOptions['entries'] = () => [], bundles: readonly string[] = []): { clock: TestClock; explain: (pid?: number) => Promise<Explanation> } {
  const clock = createTestClock();
  const attest = createAttest({ attestors, clock });
  // Only these two methods are there, whatever shape a service in general has.
  const api = adminApi({ clock, status: () => status, attest, entries, hasBundle: (name) => bundles.includes(name) }) as unknown as {
    Explain(request: { pid: number }, call: CallContext<Peer>): Promise<Explanation>;
  };
  const over = new AbortController();
  onTestFinished(() => over.abort(new Error('over')));
  return { clock, explain: (pid = process.pid) => api.Explain({ pid }, { signal: over.signal } as CallContext<Peer>) };
}

it('tells each attestor’s answer, and why one has none or lacks a part', async () => {
  const docker = attestor('docker', () => {
    throw new SpiffeError('unavailable', 'docker.unreachable', 'gone');
  });
  const unix = attestor('unix', ({ omit }) => {
    omit('unix:path', 'unix.path.hidden');
    return ['unix:uid:1'];
  });
  const { explain } = setting([unix, docker]);
  const { attestors, selectors } = await explain();
  expect(attestors).toEqual([
    { name: 'unix', ms: 0, selectors: ['unix:uid:1'], reason: 'unix:path: unix.path.hidden' },
    { name: 'docker', ms: 0, selectors: [], reason: 'docker.unreachable' },
  ]);
  expect(selectors).toEqual(['unix:uid:1']);
});

it('asks for all that could be told, also what no entry asks for', async () => {
  const { explain } = setting([attestor('process', ({ wanted }) => (wanted.asks('process:seccomp:') ? ['process:seccomp:filter'] : []))]);
  expect((await explain()).selectors).toEqual(['process:seccomp:filter']);
});

it.each([
  ['is there in time', 1_000, ['unix:sha256:aa']],
  ['is not', 6_000, []],
])('waits a while for what is being established, which %s', async (_how, afterMs, expected) => {
  let known: readonly string[] = [];
  const asked = Promise.withResolvers<void>();
  const { clock, explain } = setting([
    attestor('unix', ({ omit }) => {
      asked.resolve();
      if (known.length === 0) {
        omit('unix:sha256', 'unix.sha256.pending', clock.sleep(afterMs, new AbortController().signal).then(() => (known = ['unix:sha256:aa'])));
      }
      return known;
    }),
  ]);
  const explained = explain();
  await asked.promise;
  await clock.advance(5_000);
  expect((await explained).selectors).toEqual(expected);
});

it('tells the entries that match, and of the others those that lack least, first', async () => {
  const entries = [
    testEntry('/far', ['unix:uid:1', 'unix:path:/a', 'unix:path:/b']),
    testEntry('/near', ['unix:uid:1', 'unix:path:/a']),
    testEntry('/right', ['unix:uid:1']),
  ];
  const { explain } = setting([attestor('unix', () => ['unix:uid:1'])], () => entries);
  const { matches, closest } = await explain();
  expect(matches?.map((match) => [match.spiffe_id, match.strength])).toEqual([['spiffe://example.org/right', 1]]);
  expect(closest).toMatchObject([
    { spiffe_id: 'spiffe://example.org/near', missing_selectors: ['unix:path:/a'] },
    { spiffe_id: 'spiffe://example.org/far', missing_selectors: ['unix:path:/a', 'unix:path:/b'] },
  ]);
});

it('says that there is no such process', async () => {
  const { explain } = setting([attestor('unix', () => [])]);
  await expect(explain(0x7fff_fffe)).rejects.toMatchObject({ kind: 'missing', reason: 'explain.no-process' });
});

it('tells which bundles an entry that matches still waits for', async () => {
  const federatesWith = [parseTrustDomain('far.example'), parseTrustDomain('near.example')];
  const entry = { ...testEntry('/web', ['unix:uid:1']), federatesWith };
  const { explain } = setting([attestor('unix', () => ['unix:uid:1'])], () => [entry], ['near.example']);
  expect((await explain()).matches).toMatchObject([{ spiffe_id: entry.spiffeId, pending_bundles: ['far.example'] }]);
});
