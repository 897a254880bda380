import { describe, expect, it } from 'vitest';
import { loadServices } from '../../../proto/load.ts';
import type { FollowResponse__Output } from '../../../proto/gen/steeple/node/v1/FollowResponse.ts';
import { parseWitSvid } from '../../../spiffe/wit-svid.ts';
import { parseCertificate } from '../../../spiffe/x509/certificate.ts';
import { agentCaller, stream, unary } from '../../help/api.ts';
import { openApiWorld } from '../../help/api-world.ts';

const { 'steeple.node.v1.Node': service } = loadServices('steeple.node.v1.Node');
const spool = 'a-spool-of-16-chars';

async function openNode(options: Parameters<typeof openApiWorld>[0] = {}) {
  const world = await openApiWorld(options);
  const agent = await world.admit('a');
  const caller = agentCaller(agent);
  /** Requests are pushed; answers are pulled. */
  const follow = (...first: object[]) => {
    const waiting: object[] = [...first];
    let wake = Promise.withResolvers<void>();
    const stop = new AbortController();
    async function* requests() {
      for (;;) {
        for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) yield next;
        await wake.promise;
        wake = Promise.withResolvers();
      }
    }
    const answers = stream(service.Follow, world.nodeApi.Follow, requests(), caller, stop.signal);
    return {
      send(request: object) {
        waiting.push(request);
        wake.resolve();
      },
      next: async (): Promise<FollowResponse__Output> => {
        const step = await answers.next();
        if (step.done === true) throw new Error('the stream ended');
        return step.value;
      },
      stop: () => stop.abort(new Error('left')),
    };
  };
  return { ...world, agent, caller, follow };
}

const hello = (more: object = {}) => ({ hello: { min_version: 1, max_version: 2, agent_version: '9', ...more } });

describe('Follow', () => {
  it('welcomes, gives a snapshot, then changes as they commit', async () => {
    const { follow, register, agent, registry } = await openNode();
    await register(agent, '/before');
    const following = follow(hello());
    expect(await following.next()).toMatchObject({ step: 'welcome', welcome: { version: 2, snapshot: true } });
    const page = await following.next();
    expect(page.snapshot?.entries.map((entry) => entry.spiffe_id?.path)).toEqual(['/before']);
    expect(page.snapshot?.bundles.map((bundle) => bundle.trust_domain)).toEqual(['example.org']);
    expect(page.snapshot?.authorities.map(({ kind, state }) => [kind, state])).toEqual(
      expect.arrayContaining([
        ['KIND_X509', 'STATE_ACTIVE'],
        ['KIND_JWT', 'STATE_ACTIVE'],
      ]),
    );
    expect(page.snapshot?.last).not.toBeNull();
    const coming = following.next();
    await register(agent, '/after');
    const change = await coming;
    expect(change.changes?.changes.map((item) => item.entry?.spiffe_id?.path)).toEqual(['/after']);
    following.send({ confirm: { position: change.changes?.position } });
    await expect.poll(() => registry.feed.following().map(({ confirmedRevision }) => confirmedRevision)).toEqual([Number(change.changes?.position?.revision)]);
    following.stop();
  });

  it('N and N-1: version 2 resumes at a position, version 1 takes a snapshot', async () => {
    const { follow, register, agent } = await openNode();
    await register(agent, '/web');
    const first = follow(hello());
    await first.next();
    const position = (await first.next()).snapshot?.last;
    first.stop();
    const resumed = follow(hello({ position }));
    expect((await resumed.next()).welcome).toMatchObject({ version: 2, snapshot: false });
    resumed.stop();
    const older = follow(hello({ position, max_version: 1 }));
    expect((await older.next()).welcome).toMatchObject({ version: 1, snapshot: true });
    older.stop();
    const elsewhere = follow(hello({ position: { ...position, epoch: 'another' } }));
    expect((await elsewhere.next()).welcome).toMatchObject({ snapshot: true });
    elsewhere.stop();
  });

  it.each([
    ['something else than hello', { confirm: {} }, 'node.follow.hello'],
    ['versions of the future', hello({ min_version: 3, max_version: 4 }), 'node.follow.version'],
    ['versions of the past', hello({ min_version: 0, max_version: 0 }), 'node.follow.version'],
    ['a revision beyond counting', hello({ position: { epoch: 'x', revision: '18446744073709551615' } }), 'proto.integer.range'],
  ])('refuses %s', async (_, request, reason) => {
    const { follow } = await openNode();
    await expect(follow(request).next()).rejects.toMatchObject({ reason });
  });

  it('a confirmation of nothing ends the stream', async () => {
    const { follow } = await openNode();
    const following = follow(hello());
    await following.next();
    await following.next();
    const ended = expect(following.next()).rejects.toMatchObject({ reason: 'node.follow.confirm' });
    following.send(hello());
    await ended;
  });
});

describe('Behind', () => {
  it('tells an agent whether something that concerns it is on its way', async () => {
    const { nodeApi, caller, register, agent, admit, store } = await openNode();
    const before = store.position;
    const ask = async () => (await unary(service.Behind, nodeApi.Behind, { position: before }, caller)).behind;
    expect(await ask()).toBe(false);
    await register(await admit('b'), '/other');
    expect(await ask()).toBe(true);
    await register(agent, '/web');
    expect(await ask()).toBe(true);
  });
});

describe('Issue', () => {
  it('signs many at once, each by its entry, refusals in their place', async () => {
    const { nodeApi, caller, register, agent, admit, request, store } = await openNode();
    const web = await register(agent, '/web');
    const foreign = await register(await admit('b'), '/db');
    const key = request().publicKey;
    const process = { pid: 7, start_time: 9, uid: 1000, gid: 1000, path: '/bin/web\n\u001b[31m' };
    const answer = await unary(
      service.Issue,
      nodeApi.Issue,
      {
        x509: [
          { entry_id: web, public_key: key, process },
          { entry_id: foreign, public_key: key },
          { entry_id: web, public_key: Buffer.from('no key') },
        ],
        jwt: [
          { entry_id: web, audience: ['x'] },
          { entry_id: web, audience: [''] },
        ],
      },
      caller,
    );
    expect(answer.x509.map((item) => item.refusal?.kind ?? '')).toEqual(['', 'missing', 'invalid']);
    expect(answer.jwt.map((item) => item.refusal?.kind ?? '')).toEqual(['', 'invalid']);
    const leaf = parseCertificate(answer.x509[0]?.cert_chain[0] ?? Buffer.alloc(0));
    expect(leaf.uris).toEqual(['spiffe://example.org/web']);
    expect((await store.getCredential(leaf.serial.hex))?.process).toBe('pid=7,start=9,uid=1000,gid=1000,path=/bin/web??[31m');
  });

  it('signs WIT-SVIDs where they are configured, and says so where they are not', async () => {
    for (const wit of [true, false]) {
      const { nodeApi, caller, register, agent, request } = await openNode({ wit });
      const asked = [{ entry_id: await register(agent, '/web'), public_key: request().publicKey, algorithm: 'ES256' }];
      const answer = await unary(service.Issue, nodeApi.Issue, { wit: asked }, caller);
      expect(answer.wit.map((item) => item.refusal?.reason ?? parseWitSvid(item.token).spiffeId)).toEqual([wit ? 'spiffe://example.org/web' : 'wit.disabled']);
    }
  });

  it('bounds a batch', async () => {
    const { nodeApi, caller } = await openNode();
    const x509 = Array.from({ length: 1001 }, () => ({ entry_id: 'x', public_key: Buffer.from('x') }));
    await expect(unary(service.Issue, nodeApi.Issue, { x509 }, caller)).rejects.toMatchObject({ kind: 'limited' });
  });
});

describe('Report', () => {
  const event = (sequence: number, more: object = {}) => ({ sequence, at_ms: 5, kind: 'KIND_DELIVERED' as const, spiffe_id: 'spiffe://example.org/web', credential: 'ab', ...more });

  it('records what the agent witnessed once, under the name of the agent', async () => {
    const { nodeApi, caller, agent, store } = await openNode();
    const report = (events: object[]) => unary(service.Report, nodeApi.Report, { spool, events }, caller);
    expect(await report([event(1), event(2, { kind: 'KIND_REFUSED', reason: 'workload.no-identity' })])).toEqual({ recorded_through: '2' });
    expect(await report([event(2), event(3)])).toEqual({ recorded_through: '3' });
    const { items } = await store.searchAudit({ actor: agent.id }, 100, '');
    const witnessed = items.filter(({ type }) => type.startsWith('workload.'));
    expect(witnessed.map(({ type, outcome, reason }) => [type, outcome, reason])).toEqual([
      ['workload.delivered', 'done', ''],
      ['workload.refused', 'refused', 'workload.no-identity'],
      ['workload.delivered', 'done', ''],
    ]);
  });

  it.each([
    ['an unknown kind', { events: [event(1, { kind: 99 })] }, 'proto.enum.unknown'],
    ['no kind', { events: [event(1, { kind: 0 })] }, 'proto.enum.unknown'],
    ['a spool that is a path', { spool: '../../../../etc/passwd' }, 'node.report.spool'],
    ['no spool', { spool: '' }, 'node.report.spool'],
  ])('T-B12 refuses %s', async (_, request, reason) => {
    const { nodeApi, caller } = await openNode();
    await expect(unary(service.Report, nodeApi.Report, { spool, ...request }, caller)).rejects.toMatchObject({ reason });
  });

  it('T-J03 bounds texts and keeps their bytes', async () => {
    const { nodeApi, caller, store } = await openNode();
    const path = `/bin/${'x'.repeat(10_000)}\n"; DROP TABLE`;
    const hostile = event(1, { process: { pid: 1, path }, selectors: Array.from({ length: 5000 }, (_, index) => `unix:uid:${index}`) });
    await unary(service.Report, nodeApi.Report, { spool, events: [hostile], inventory: { facts: { kernel: '6.1' } } }, caller);
    const { items } = await store.searchAudit({ actor: caller.name }, 100, '');
    const delivered = items.find(({ type }) => type === 'workload.delivered');
    expect(String(delivered?.detail['path'])).toHaveLength(2048);
    expect(delivered?.detail['selectors']).toHaveLength(200);
    expect(items.find(({ type }) => type === 'agent.inventory')?.detail).toEqual({ kernel: '6.1' });
  });
});
