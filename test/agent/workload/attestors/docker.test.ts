import { readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDockerAttestor } from '../../../../agent/workload/attestors/docker.ts';
import type { WantedSelectors } from '../../../../agent/workload/attestor.ts';
import type { DockerAttestor, DockerAttestorOptions, EngineChange } from '../../../../agent/workload/attestors/docker.ts';
import type { ContainerRef } from '../../../../agent/workload/container.ts';
import type { Peer } from '../../../../runtime/peer.ts';
import type { Watch } from '../../../../runtime/watch.ts';
import { SpiffeError } from '../../../../spiffe/errors.ts';
import type { Selector } from '../../../../spiffe/selector.ts';
import { createTestClock } from '../../../help/clock.ts';
import type { TestClock } from '../../../help/clock.ts';
import { newId, startEngineApi } from '../../../help/engine-api.ts';
import type { EngineApi } from '../../../help/engine-api.ts';
import { fakePeer } from '../../../help/peer.ts';

const uid = process.geteuid?.() ?? 0;
let clock: TestClock;
let api: EngineApi;
let attestor: DockerAttestor;
let changes: EngineChange[];
let inside: WeakMap<Peer, ContainerRef>;
const ends: (() => unknown)[] = [];

function create(options: Partial<DockerAttestorOptions> = {}): DockerAttestor {
  const made = createDockerAttestor({
    clock,
    containers: { of: (peer) => inside.get(peer) },
    engines: [{ socketPath: api.socketPath }],
    rootUid: uid,
    subuidFile: '/nonexistent/subuid',
    onEngine: (change) => changes.push(change),
    ...options,
  });
  ends.push(() => made.close());
  return made;
}

/** Runs until the test is over, and is there once the events are followed. */
async function follow(which: DockerAttestor): Promise<AbortController> {
  const stop = new AbortController();
  const over = which.run(stop.signal);
  ends.push(async () => {
    stop.abort(new Error('over'));
    await over;
  });
  await until(() => changes.some(({ kind }) => kind === 'followed'));
  return stop;
}

async function until(done: () => boolean): Promise<void> {
  for (let wait = 0; !done(); wait += 1) {
    if (wait > 4000) throw new Error('condition not met');
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

function peerIn(id: string, ref: Partial<ContainerRef> = {}, peerUid = 1000): Peer {
  const peer: Peer = { ...fakePeer(), uid: peerUid };
  inside.set(peer, { id, runtime: 'docker', podUid: undefined, ownerUid: undefined, ...ref });
  return peer;
}

interface Told {
  readonly selectors: readonly Selector[];
  readonly omitted: readonly string[];
  readonly rechecks: readonly Watch<unknown>[];
}

async function ask(peer: Peer, which = attestor, signal = new AbortController().signal, wanted: WantedSelectors = { asks: () => true }): Promise<Told> {
  const omitted: string[] = [];
  const rechecks: Watch<unknown>[] = [];
  const selectors = await which.attest(peer, {
    wanted,
    signal,
    omit: (what, reason) => omitted.push(`${what} ${reason}`),
    recheck: (watch) => rechecks.push(watch),
  });
  return { selectors, omitted, rechecks };
}

beforeEach(async () => {
  clock = createTestClock();
  changes = [];
  inside = new WeakMap();
  api = await startEngineApi();
  attestor = create();
});
afterEach(async () => {
  for (const end of ends.splice(0).toReversed()) await end();
  await api[Symbol.asyncDispose]();
});

describe('a process', () => {
  it('shows its environment only to entries that ask for one', async () => {
    const { Id: id } = api.start({ Config: { Image: 'web:1', Labels: { app: 'web' }, Env: ['PASSWORD=hunter2'] } });
    const told = async (asks: WantedSelectors['asks']): Promise<string> => (await ask(peerIn(id), attestor, undefined, { asks })).selectors.join();
    expect(await told((prefix) => prefix === 'docker:label:')).not.toContain('hunter2');
    expect(await told((prefix) => prefix === 'docker:env:')).toContain('docker:env:PASSWORD=hunter2');
  });

  it('in a container gets what the engine says of it', async () => {
    const { Id: id } = api.start({ Config: { Image: 'web:1', Labels: { app: 'web', bad: 'a\0' }, Env: ['STAGE=test'] } });
    const { selectors, omitted } = await ask(peerIn(id));
    expect(selectors).toEqual([
      'docker:label:app:web',
      'docker:env:STAGE=test',
      'docker:image_id:web:1',
      `docker:image_config_digest:sha256:${'ab'.repeat(32)}`,
    ]);
    expect(omitted).toEqual(['docker:label docker.selector.control-character']);
  });

  it('in none, or in one of another kind of engine, gets nothing, and no engine is asked', async () => {
    expect((await ask(fakePeer())).selectors).toEqual([]);
    expect((await ask(peerIn(newId(), { runtime: 'crio' }))).selectors).toEqual([]);
    expect(api.asked).toEqual([]);
  });

  it('whose groups may not be believed gets nothing by any engine’s word', async () => {
    const forged = create({
      containers: {
        of: () => {
          throw new SpiffeError('denied', 'container.forged', 'forged');
        },
      },
    });
    await expect(ask(fakePeer(), forged)).rejects.toMatchObject({ kind: 'denied', reason: 'container.forged' });
    expect(api.asked).toEqual([]);
  });

  it('in a container that no engine knows loses what it had', async () => {
    await expect(ask(peerIn(newId()))).rejects.toMatchObject({ kind: 'denied', reason: 'docker.container.unknown' });
    await expect(ask(peerIn(newId(), { runtime: 'libpod' }))).rejects.toMatchObject({ kind: 'denied', reason: 'docker.container.unknown' });
  });

  it('in a container that may be the kubelet’s gets nothing where no engine knows it', async () => {
    const id = newId();
    expect((await ask(peerIn(id, { runtime: 'containerd' }))).selectors).toEqual([]);
    const { Id: known } = api.start();
    expect((await ask(peerIn(known, { runtime: 'containerd' }))).selectors).toContain('docker:label:app:web');
  });

  it('in a container of which the engine says that it does not run is refused, and asked for anew', async () => {
    const container = api.start({ State: { Running: false, Pid: 0 } });
    const peer = peerIn(container.Id);
    await expect(ask(peer)).rejects.toMatchObject({ kind: 'denied', reason: 'docker.container.stopped' });
    container.State = { Running: true, Pid: 42 };
    await clock.advance(1000);
    expect((await ask(peer)).selectors).toContain('docker:label:app:web');
  });

  it('is refused when the engine answers about another container', async () => {
    const { Id: id } = api.start();
    const other = newId();
    api.containers.set(other, api.containers.get(id)!);
    await expect(ask(peerIn(other))).rejects.toMatchObject({ kind: 'denied', reason: 'docker.answer.other' });
  });

  it.each([
    ['no JSON', 'no JSON', 'invalid', 'docker.answer.form'],
    ['10 MB of labels', `{"Config":{"Labels":{"a":"${'x'.repeat(10_000_000)}"}}}`, 'limited', 'http.too-large'],
  ])('is refused when the engine answers with %s; the engine is spared for a moment', async (_what, body, kind, reason) => {
    const { Id: id } = api.start();
    api.fault = (incoming, outgoing) => incoming.url !== '/_ping' && (outgoing.end(body), true);
    for (let round = 0; round < 3; round += 1) await expect(ask(peerIn(id))).rejects.toMatchObject({ kind, reason });
    expect(api.questions(id)).toBe(1);
    api.fault = undefined;
    await clock.advance(1000);
    expect((await ask(peerIn(id))).selectors).toContain('docker:label:app:web');
  });
});

describe('an engine that cannot be asked', () => {
  it.each<[string, () => unknown, string]>([
    ['is gone', () => api.stop(), 'http.unreachable'],
    ['breaks off', () => (api.fault = (_incoming, outgoing) => (outgoing.destroy(), true)), 'http.broken'],
    ['is out of order', () => (api.fault = (_incoming, outgoing) => (outgoing.writeHead(500).end(), true)), 'docker.engine.status'],
  ])('because it %s leaves what was given before, and is asked again at once when it is back', async (_what, happen, reason) => {
    const { Id: id } = api.start();
    const peer = peerIn(id);
    await ask(peer);
    await clock.advance(1000);
    await happen();
    for (let round = 0; round < 2; round += 1) await expect(ask(peer)).rejects.toMatchObject({ kind: 'unavailable', reason });
    const { socketPath, containers } = api;
    if (reason === 'http.unreachable') {
      ends.push(() => rmSync(path.dirname(socketPath), { recursive: true }));
      api = await startEngineApi(socketPath);
    }
    api.fault = undefined;
    for (const [key, container] of containers) api.containers.set(key, container);
    expect((await ask(peer)).selectors).toContain('docker:label:app:web');
  });

  it('because it is silent is given up within its time, and others wait no longer for it', async () => {
    api.fault = () => true;
    const peer = peerIn(newId());
    const answers = [ask(peer), ask(peer), ask(peerIn(newId()))];
    for (const answer of answers) answer.catch(() => undefined);
    await until(() => api.asked.length > 0 && clock.sleepers > 0);
    await clock.advance(2000);
    for (const answer of answers) await expect(answer).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.deadline' });
    expect(clock.sleepers).toBe(0);
  });

  it('does not leave a process that was moved with what it had elsewhere', async () => {
    const { Id: id } = api.start();
    const peer = peerIn(id);
    await ask(peer);
    api.fault = (_incoming, outgoing) => (outgoing.destroy(), true);
    inside.set(peer, { id: newId(), runtime: 'docker', podUid: undefined, ownerUid: undefined });
    await expect(ask(peer)).rejects.toMatchObject({ kind: 'denied', reason: 'docker.container.moved' });
    await expect(ask(peerIn(newId()))).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.broken' });
  });

  it('by a caller who left goes on being asked for the others', async () => {
    const { Id: id } = api.start();
    const gate: (() => void)[] = [];
    await ask(peerIn(id));
    await clock.advance(1000);
    api.fault = (_incoming, outgoing) => (gate.push(() => outgoing.end(JSON.stringify(api.containers.get(id)))), true);
    const stop = new AbortController();
    const left = ask(peerIn(id), attestor, stop.signal);
    const stayed = ask(peerIn(id));
    await until(() => gate.length > 0);
    const reason = new Error('left');
    stop.abort(reason);
    await expect(left).rejects.toBe(reason);
    for (const release of gate) release();
    expect((await stayed).selectors).toHaveLength(4);
    expect(api.questions(id)).toBe(2);
  });
});

describe('several engines', () => {
  let second: EngineApi;
  let both: DockerAttestor;

  beforeEach(async () => {
    second = await startEngineApi();
    second.versions.podman = true;
    ends.unshift(() => second[Symbol.asyncDispose]());
    both = create({ engines: [{ socketPath: api.socketPath }, { socketPath: second.socketPath }] });
  });

  it('are asked one after the other until one knows', async () => {
    const { Id: id } = second.start();
    expect((await ask(peerIn(id, { runtime: 'libpod' }), both)).selectors).toContain('docker:label:app:web');
    expect([api.questions(id), second.questions(id)]).toEqual([1, 1]);
    // Whose name is in the group is known by now.
    const { Id: next } = second.start();
    await ask(peerIn(next, { runtime: 'libpod' }), both);
    expect([api.questions(next), second.questions(next)]).toEqual([0, 1]);
  });

  it('of which one cannot be asked still tell, unless it might be the one that knows', async () => {
    const { Id: id } = second.start();
    api.fault = (_incoming, outgoing) => (outgoing.destroy(), true);
    expect((await ask(peerIn(id), both)).selectors).toContain('docker:label:app:web');
    await expect(ask(peerIn(newId()), both)).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.broken' });
    api.fault = undefined;
    await expect(ask(peerIn(newId()), both)).rejects.toMatchObject({ kind: 'denied', reason: 'docker.container.unknown' });
  });

  it('that are all silent are given up before the whole attestation is', async () => {
    for (const one of [api, second]) one.fault = () => true;
    const { socketPath } = api;
    const many = create({ engines: [{ socketPath }, { socketPath: second.socketPath }, { socketPath }, { socketPath: second.socketPath }] });
    const answer = ask(peerIn(newId()), many);
    answer.catch(() => undefined);
    const beganAt = clock.monotonic();
    for (let at = 1; at <= 4; at += 1) {
      await until(() => api.asked.length + second.asked.length === at && clock.sleepers === 1);
      await clock.jump();
    }
    await expect(answer).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.deadline' });
    expect(clock.monotonic() - beganAt).toBe(4000);
  });

  it('of one that lost its events are forgotten, of the other kept', async () => {
    await follow(both);
    await until(() => api.followers === 1 && second.followers === 1);
    const [one, two] = [api.start(), second.start()];
    await Promise.all([ask(peerIn(one.Id), both), ask(peerIn(two.Id), both)]);
    second.hangUp();
    await until(() => changes.some(({ kind }) => kind === 'lost'));
    await Promise.all([ask(peerIn(one.Id), both), ask(peerIn(two.Id), both)]);
    expect([api.questions(one.Id), second.questions(two.Id)]).toEqual([1, 2]);
  });
});

describe('an engine of a user', () => {
  const ref = { ownerUid: uid };

  it('that is not listed is not asked, and its containers get nothing', async () => {
    const { Id: id } = api.start();
    expect(await ask(peerIn(id, { ownerUid: uid + 1 }, uid + 1))).toMatchObject({ selectors: [], omitted: ['docker docker.owner.unlisted'] });
    expect(api.asked).toEqual([]);
  });

  it('is asked about that user’s groups alone, and root’s engine never about them', async () => {
    const users = create({ engines: [{ socketPath: api.socketPath, ownerUid: uid }] });
    const { Id: id } = api.start();
    expect((await ask(peerIn(id, ref, uid), users)).selectors).toContain('docker:label:app:web');
    expect((await ask(peerIn(id), users)).selectors).toEqual([]);
    expect(await ask(peerIn(id, { ownerUid: uid + 7 }, uid + 7), users)).toMatchObject({ selectors: [], omitted: ['docker docker.owner.unlisted'] });
    const rooted = create();
    expect((await ask(peerIn(id, ref, uid), rooted)).selectors).toEqual([]);
  });

  it('says nothing of processes that run as somebody else', async () => {
    const users = create({ engines: [{ socketPath: api.socketPath, ownerUid: uid }] });
    const { Id: id } = api.start();
    await expect(ask(peerIn(id, ref, uid + 1), users)).rejects.toMatchObject({ kind: 'denied', reason: 'docker.container.user' });
    expect(api.asked).toEqual([]);
  });

  it('whose socket is another’s is not asked', async () => {
    const users = create({ engines: [{ socketPath: api.socketPath, ownerUid: uid + 1 }] });
    const { Id: id } = api.start();
    await expect(ask(peerIn(id, { ownerUid: uid + 1 }, uid + 1), users)).rejects.toMatchObject({ kind: 'denied', reason: 'docker.socket.owner' });
    expect(api.asked).toEqual([]);
  });

  it('and root’s may name the same id without being taken for one another', async () => {
    const users = await startEngineApi();
    ends.unshift(() => users[Symbol.asyncDispose]());
    const both = create({ engines: [{ socketPath: api.socketPath }, { socketPath: users.socketPath, ownerUid: uid }] });
    await follow(both);
    await until(() => api.followers === 1 && users.followers === 1);
    const { Id: id } = api.start();
    users.start({ Id: id, Config: { Labels: { app: 'payments' }, Image: '' } });
    const theirs = peerIn(id, ref, uid);
    expect((await ask(theirs, both)).selectors).toContain('docker:label:app:payments');
    expect((await ask(peerIn(id), both)).selectors).toContain('docker:label:app:web');
    // Nor may one drop what the other said.
    users.event('die', id);
    await ask(theirs, both);
    await until(() => users.questions(id) === 1 || users.questions(id) === 2);
    for (let wait = 0; users.questions(id) < 2 && wait < 500; wait += 1) {
      await new Promise((resolve) => setTimeout(resolve, 2));
      await ask(theirs, both);
    }
    await ask(peerIn(id), both);
    expect([api.questions(id), users.questions(id)]).toEqual([1, 2]);
  });
});

describe('answers', () => {
  it('are shared by all who ask at once, and kept for a burst where no events are followed', async () => {
    const { Id: id } = api.start();
    await Promise.all(Array.from({ length: 100 }, () => ask(peerIn(id))));
    expect(api.questions(id)).toBe(1);
    await clock.advance(999);
    await ask(peerIn(id));
    expect(api.questions(id)).toBe(1);
    await clock.advance(1);
    await ask(peerIn(id));
    expect(api.questions(id)).toBe(2);
  });

  it('are kept while events are followed, and dropped for good in the end', async () => {
    await follow(attestor);
    const { Id: id } = api.start();
    await ask(peerIn(id));
    await clock.advance(599_999);
    await ask(peerIn(id));
    expect(api.questions(id)).toBe(1);
    await clock.advance(1);
    await ask(peerIn(id));
    expect(api.questions(id)).toBe(2);
  });

  it.each(['start', 'die', 'died', 'destroy', 'remove', 'update', 'rename', 'stop', 'pause', 'unpause', 'restart', 'create'])(
    'are dropped when the engine says %s, and who has them is told',
    async (action) => {
      await follow(attestor);
      const container = api.start();
      const other = api.start();
      const { rechecks } = await ask(peerIn(container.Id));
      const before = rechecks.map(({ value }) => value);
      const others = await ask(peerIn(other.Id));
      container.Config = { ...container.Config, Labels: { app: 'changed' } };
      api.event(action, container.Id);
      await until(() => rechecks.some(({ value }, at) => value !== before[at]));
      expect((await ask(peerIn(container.Id))).selectors).toContain('docker:label:app:changed');
      await ask(peerIn(other.Id));
      expect(api.questions(other.Id)).toBe(1);
      expect(others.rechecks).toHaveLength(1);
    },
  );

  it('outlast what changes nothing', async () => {
    await follow(attestor);
    const { Id: id } = api.start();
    const { rechecks } = await ask(peerIn(id));
    const before = rechecks[0]?.value;
    const other = api.start();
    const marker = await ask(peerIn(other.Id));
    for (const action of ['exec_create: sh', 'exec_start: sh', 'exec_die', 'health_status: healthy', 'top', 'attach']) api.event(action, id);
    const was = marker.rechecks[0]?.value;
    api.event('die', other.Id);
    await until(() => marker.rechecks[0]?.value !== was);
    expect(rechecks[0]?.value).toBe(before);
    await ask(peerIn(id));
    expect(api.questions(id)).toBe(1);
  });

  it('that there is no such container are dropped when it is made, and who asked is told', async () => {
    await follow(attestor);
    const id = newId();
    const peer = peerIn(id);
    const rechecks: Watch<unknown>[] = [];
    const question = { wanted: { asks: () => false }, signal: new AbortController().signal, omit: () => undefined };
    for (let round = 0; round < 3; round += 1) {
      await expect(attestor.attest(peer, { ...question, recheck: (watch) => rechecks.push(watch) })).rejects.toMatchObject({ reason: 'docker.container.unknown' });
    }
    expect(api.questions(id)).toBe(1);
    const before = rechecks[0]?.value;
    api.start({ Id: id });
    api.event('create', id);
    await until(() => rechecks[0]?.value !== before);
    expect((await ask(peer)).selectors).toContain('docker:label:app:web');
  });

  it('that there is no such container are kept for a while where events are followed, and for a burst otherwise', async () => {
    const id = newId();
    const peer = peerIn(id);
    const asksAgainAfter = async (ms: number): Promise<void> => {
      await ask(peer).catch(() => undefined);
      const before = api.questions(id);
      await clock.advance(ms - 1);
      await ask(peer).catch(() => undefined);
      expect(api.questions(id)).toBe(before);
      await clock.advance(1);
      await ask(peer).catch(() => undefined);
      expect(api.questions(id)).toBe(before + 1);
    };
    await asksAgainAfter(1000);
    await follow(attestor);
    // What was said before might have changed unseen.
    const before = api.questions(id);
    await ask(peer).catch(() => undefined);
    expect(api.questions(id)).toBe(before + 1);
    await asksAgainAfter(15_000);
  });

  it('given before the events were followed are not kept for long', async () => {
    const { Id: id } = api.start();
    await ask(peerIn(id));
    await follow(attestor);
    await ask(peerIn(id));
    expect(api.questions(id)).toBe(2);
  });
});

describe('following', () => {
  it('drops everything when it breaks, says so once, and comes back with growing waits', async () => {
    await follow(attestor);
    const { Id: id } = api.start();
    await ask(peerIn(id));
    api.fault = (incoming, outgoing) => (incoming.url ?? '').includes('/events') && (outgoing.writeHead(503).end(), true);
    api.hangUp();
    await until(() => changes.length === 2);
    await ask(peerIn(id));
    expect(api.questions(id)).toBe(2);
    const tries = (): number => api.asked.filter((url) => url.includes('/events')).length;
    const waits: number[] = [];
    for (let round = 0; round < 5; round += 1) {
      await until(() => clock.sleepers === 1);
      const [before, at] = [tries(), clock.monotonic()];
      await clock.jump();
      await until(() => tries() > before);
      waits.push(clock.monotonic() - at);
    }
    expect(waits).toEqual([200, 400, 800, 1600, 3200]);
    await until(() => clock.sleepers === 1);
    await ask(peerIn(id));
    expect(api.questions(id)).toBe(3);
    // Kept for a burst only, as long as nothing is followed.
    await clock.advance(1000);
    await ask(peerIn(id));
    expect(api.questions(id)).toBe(4);
    expect(changes.map(({ kind }) => kind)).toEqual(['followed', 'lost']);
    api.fault = undefined;
    await until(() => clock.sleepers === 1);
    await clock.jump();
    await until(() => changes.length === 3);
    expect(changes.at(-1)).toEqual({ kind: 'followed', socketPath: api.socketPath });
    await ask(peerIn(id));
    await ask(peerIn(id));
    expect(api.questions(id)).toBe(5);
  });

  it('is tried ever more seldom when it breaks off each time, and at once after it was steady', async () => {
    await follow(attestor);
    const waits: number[] = [];
    for (const steadyMs of [0, 0, 9_999, 0, 10_000, 0]) {
      await clock.advance(steadyMs);
      const seen = changes.length;
      api.hangUp();
      await until(() => changes.length > seen && clock.sleepers === 1);
      expect(changes.at(-1)?.kind).toBe('lost');
      const at = clock.monotonic();
      await clock.jump();
      waits.push(clock.monotonic() - at);
      await until(() => changes.at(-1)?.kind === 'followed' && api.followers === 1);
    }
    expect(waits).toEqual([200, 400, 800, 1600, 200, 400]);
  });

  it('survives lines of any kind, and ends with its signal', async () => {
    const stop = await follow(attestor);
    const { Id: id } = api.start();
    const { rechecks } = await ask(peerIn(id));
    const before = rechecks[0]?.value;
    for (const line of ['', '{', 'null', '{"Action":{},"Actor":{"ID":"__proto__"}}', '{"Action":"die","Actor":{"ID":"__proto__"}}']) api.tell(line);
    api.event('die', id);
    await until(() => rechecks[0]?.value !== before);
    stop.abort(new Error('over'));
    await until(() => api.followers === 0);
    expect(changes).toHaveLength(1);
  });
});

it('leaves no descriptor behind', async () => {
  await follow(attestor);
  const { Id: id } = api.start();
  const descriptors = (): number => readdirSync('/proc/self/fd').length;
  await ask(peerIn(id));
  const before = descriptors();
  for (let round = 0; round < 20; round += 1) {
    api.event('die', id);
    await ask(peerIn(newId())).catch(() => undefined);
    await ask(peerIn(id));
    api.fault = (incoming, outgoing) => incoming.url?.includes('json') === true && (outgoing.destroy(), true);
    await ask(peerIn(newId())).catch(() => undefined);
    api.fault = undefined;
  }
  await until(() => descriptors() <= before + 4);
});
