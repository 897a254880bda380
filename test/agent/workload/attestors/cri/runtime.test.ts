import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ContainerState, CriApi, CriContainer } from '../../../../../agent/workload/attestors/cri/messages.ts';
import { createCriRuntime } from '../../../../../agent/workload/attestors/cri/runtime.ts';
import type { CriFacts, CriRuntime } from '../../../../../agent/workload/attestors/cri/runtime.ts';
import { createWatch } from '../../../../../runtime/watch.ts';
import type { WatchSource } from '../../../../../runtime/watch.ts';
import { SpiffeError } from '../../../../../spiffe/errors.ts';
import { createTestClock } from '../../../../help/clock.ts';
import type { TestClock } from '../../../../help/clock.ts';
import { idOf } from '../../../../help/cri.ts';

const forever = new AbortController().signal;
const web = idOf('web');

/** What a runtime behind the API has, and how its events are. */
class FakeApi implements CriApi {
  readonly states = new Map<string, ContainerState>([[web, 'running']]);
  image = 'web:1';
  pods = true;
  closed = false;
  asked = 0;
  streams = 0;
  name = 'containerd';
  release = 'v2.1.4';
  /** Replaced while answers are held back. */
  gate: Promise<unknown> = Promise.resolve();
  failure: SpiffeError | undefined;
  /** The newest event; closed when the stream breaks. */
  happened: WatchSource<string> = createWatch('');
  refuseEvents: SpiffeError | 'end' | undefined;

  async container(id: string, signal: AbortSignal): Promise<CriContainer | undefined> {
    this.asked += 1;
    const state = this.states.get(id);
    const { image, failure } = this;
    await this.gate;
    signal.throwIfAborted();
    if (failure !== undefined) throw failure;
    if (state === undefined) return undefined;
    return { id, name: 'web', state, image, imageRef: '', imageId: '', labels: {}, sandboxId: idOf('pod') };
  }

  pod(): ReturnType<CriApi['pod']> {
    return Promise.resolve(this.pods ? { name: 'web-0', namespace: 'shop', uid: 'u-1', labels: {}, runtimeHandler: '' } : undefined);
  }

  version(): ReturnType<CriApi['version']> {
    return Promise.resolve({ name: this.name, version: this.release });
  }

  async *events(signal: AbortSignal): AsyncIterableIterator<string> {
    this.streams += 1;
    if (this.refuseEvents === 'end') return;
    if (this.refuseEvents !== undefined) throw this.refuseEvents;
    for await (const id of this.happened.values(signal)) if (id !== '') yield id;
    signal.throwIfAborted();
  }

  close(): void {
    this.closed = true;
  }
}

let api: FakeApi;
let clock: TestClock;
let runtime: CriRuntime;
let refusal: SpiffeError | undefined;
let stop: AbortController;
let running: Promise<void> | undefined;
beforeEach(() => {
  api = new FakeApi();
  clock = createTestClock();
  refusal = undefined;
  stop = new AbortController();
  running = undefined;
  const check = (): void => {
    if (refusal !== undefined) throw refusal;
  };
  runtime = createCriRuntime({ clock, random: () => 0.5, api, check });
});
afterEach(async () => {
  stop.abort(new Error('stopped'));
  await running;
});

async function follow(): Promise<void> {
  running = runtime.run(stop.signal);
  await clock.advance(1_000);
}

async function image(id: string = web): Promise<string | undefined> {
  const facts = await runtime.ask(id, forever).answer;
  return facts?.selectors.find((one) => one.startsWith('cri:image:'));
}

describe('an answer', () => {
  it('is asked for once by many, and kept for five seconds where there are no events', async () => {
    const gate = Promise.withResolvers<void>();
    api.gate = gate.promise;
    const all = Promise.all(Array.from({ length: 50 }, () => image()));
    gate.resolve();
    expect(new Set(await all)).toEqual(new Set(['cri:image:web:1']));
    expect(api.asked).toBe(1);
    api.image = 'web:2';
    await clock.advance(4_999);
    expect(await image()).toBe('cri:image:web:1');
    await clock.advance(1);
    expect(await image()).toBe('cri:image:web:2');
    expect(api.asked).toBe(2);
  });

  it('goes to those who stayed when the first asker leaves', async () => {
    const gate = Promise.withResolvers<void>();
    api.gate = gate.promise;
    const leaving = new AbortController();
    const first = runtime.ask(web, leaving.signal).answer;
    const second = runtime.ask(web, forever).answer;
    leaving.abort(new Error('left'));
    await expect(first).rejects.toThrow('left');
    gate.resolve();
    expect(await second).toMatchObject({ podUid: 'u-1' });
    expect(api.asked).toBe(1);
  });

  it('that could not be had is asked for again', async () => {
    api.failure = new SpiffeError('unavailable', 'rpc.unreachable', 'no');
    await expect(image()).rejects.toMatchObject({ reason: 'rpc.unreachable' });
    api.failure = undefined;
    expect(await image()).toBe('cri:image:web:1');
  });

  it('of a container that the runtime does not have is asked for each time', async () => {
    expect(await image(idOf('other'))).toBeUndefined();
    api.states.set(idOf('other'), 'running');
    expect(await image(idOf('other'))).toBe('cri:image:web:1');
  });

  it('that is kept does not outlast a failure to have it anew', async () => {
    await image();
    await clock.advance(5_000);
    api.failure = new SpiffeError('unavailable', 'rpc.unreachable', 'no');
    await expect(image()).rejects.toMatchObject({ reason: 'rpc.unreachable' });
  });

  it('is not asked for where nobody is to be believed', async () => {
    refusal = new SpiffeError('denied', 'cri.socket.owner', 'no');
    await expect(image()).rejects.toMatchObject({ kind: 'denied', reason: 'cri.socket.owner' });
    expect(api.asked).toBe(0);
  });

  it('is kept for 1,024 containers, the least recently asked for going first, and nobody is told', async () => {
    for (let number = 0; number < 1_024; number += 1) api.states.set(idOf(String(number)), 'running');
    const { changed } = runtime.ask(web, forever);
    for (let number = 0; number < 1_023; number += 1) await image(idOf(String(number)));
    await image();
    expect(api.asked).toBe(1_024);
    await image(idOf('1023'));
    expect(api.asked).toBe(1_025);
    // The first of the numbered ones had to go, not the one asked for in between.
    await image();
    expect(api.asked).toBe(1_025);
    await image(idOf('0'));
    expect(api.asked).toBe(1_026);
    expect(changed.value).toBe(0);
  });
});

describe('a container', () => {
  it('that starts is waited for', async () => {
    api.states.set(web, 'created');
    let facts: CriFacts | undefined;
    void runtime.ask(web, forever).answer.then((answer) => (facts = answer));
    await clock.advance(20);
    expect(facts).toBeUndefined();
    api.states.set(web, 'running');
    await clock.advance(20);
    expect(facts).toMatchObject({ podUid: 'u-1' });
    expect(api.asked).toBe(4);
  });

  it('that never starts is not waited for without end', async () => {
    api.states.set(web, 'created');
    let reason: unknown;
    runtime.ask(web, forever).answer.catch((error: unknown) => (reason = error));
    await clock.advance(1_275);
    expect(reason).toMatchObject({ kind: 'unavailable', reason: 'cri.container.not-started' });
    expect(api.asked).toBe(9);
  });

  it.each([
    ['exited', 'denied', 'cri.container.exited'],
    ['unknown', 'unavailable', 'cri.container.state'],
  ] as const)('that is %s is no container of a running process', async (state, kind, reason) => {
    api.states.set(web, state);
    await expect(image()).rejects.toMatchObject({ kind, reason });
  });

  it('whose pod goes in the middle is not told', async () => {
    api.pods = false;
    await expect(image()).rejects.toMatchObject({ kind: 'missing', reason: 'cri.pod.gone' });
  });
});

describe('events', () => {
  it('keep answers good for a minute, and drop the one they are about', async () => {
    await follow();
    api.states.set(idOf('other'), 'running');
    const question = runtime.ask(web, forever);
    await question.answer;
    await image(idOf('other'));
    await clock.advance(59_000);
    await image();
    expect(api.asked).toBe(2);
    const before = question.changed.value;
    api.states.set(web, 'exited');
    api.happened.set(web);
    await clock.settle();
    expect(question.changed.value).not.toBe(before);
    await expect(image()).rejects.toMatchObject({ reason: 'cri.container.exited' });
    await image(idOf('other'));
    expect(api.asked).toBe(3);
    await clock.advance(1_000);
    await image(idOf('other'));
    expect(api.asked).toBe(4);
  });

  it('that come while a question is on its way keep its answer from being kept', async () => {
    await follow();
    const gate = Promise.withResolvers<void>();
    api.gate = gate.promise;
    const question = runtime.ask(web, forever);
    const before = question.changed.value;
    api.happened.set(web);
    await clock.settle();
    gate.resolve();
    await question.answer;
    expect(question.changed.value).not.toBe(before);
    await image();
    expect(api.asked).toBe(2);
  });

  it('are followed by a question of its own, whatever is still on its way', async () => {
    await follow();
    const gate = Promise.withResolvers<void>();
    api.gate = gate.promise;
    const before = runtime.ask(web, forever).answer;
    api.states.set(web, 'exited');
    api.happened.set(web);
    await clock.settle();
    const after = expect(image()).rejects.toMatchObject({ reason: 'cri.container.exited' });
    gate.resolve();
    expect(await before).toMatchObject({ podUid: 'u-1' });
    await after;
    await expect(image()).rejects.toMatchObject({ reason: 'cri.container.exited' });
  });

  it('drop everything when their stream breaks, and call for new answers when there is another', async () => {
    await follow();
    const question = runtime.ask(web, forever);
    await question.answer;
    const before = question.changed.value;
    const old = api.happened;
    api.happened = createWatch('');
    old.close(new SpiffeError('unavailable', 'peer.unavailable', 'gone'));
    await clock.settle();
    expect(question.changed.value).toBe(before);
    await image();
    expect(api.asked).toBe(2);
    await clock.advance(500);
    expect(api.streams).toBe(2);
    await clock.advance(1_000);
    expect(question.changed.value).not.toBe(before);
    await image();
    expect(api.asked).toBe(3);
    await clock.advance(59_000);
    await image();
    expect(api.asked).toBe(3);
  });

  it('make nothing good before their stream has stood for a second', async () => {
    running = runtime.run(stop.signal);
    await clock.advance(500);
    await image();
    await clock.advance(500);
    expect(api.asked).toBe(1);
    await image();
    expect(api.asked).toBe(2);
  });

  it.each([
    ['containerd', '1.6.20~ds1', 0],
    ['containerd', 'v1.7.29', 0],
    ['containerd', 'nonsense', 0],
    ['containerd', '2.0.0', 1],
    ['containerd', 'v2.3.4', 1],
    ['containerd', '10.0.0', 1],
    ['cri-o', '1.34.0', 1],
    ['something else', '9.0', 0],
  ])('of %s %s are listened to only where that takes none from others', async (name, release, streams) => {
    api.name = name;
    api.release = release;
    await follow();
    expect(api.streams).toBe(streams);
  });

  it.each([
    ['end at once', 'end' as const],
    ['are refused', new SpiffeError('unavailable', 'cri.api.missing', 'no')],
  ])('that %s leave answers good for five seconds, and are asked for ever more seldom', async (_name, refuseEvents) => {
    api.refuseEvents = refuseEvents;
    await follow();
    await image();
    await clock.advance(5_000);
    await image();
    expect(api.asked).toBe(2);
    await clock.advance(600_000 - 6_000);
    // 0.5, 1, 2, 4, 8, 16, 32 and from then on 60 seconds apart.
    expect(api.streams).toBe(16);
  });

  it('are not asked of a runtime that is not to be believed', async () => {
    refusal = new SpiffeError('denied', 'cri.socket.mode', 'no');
    await follow();
    expect(api.streams).toBe(0);
    refusal = undefined;
    await clock.advance(1_000);
    expect(api.streams).toBe(1);
  });
});

describe('the end', () => {
  it('closes the connection and ends what is on its way', async () => {
    await follow();
    api.states.set(web, 'created');
    const question = runtime.ask(web, forever).answer;
    const failed = expect(question).rejects.toMatchObject({ kind: 'unavailable', reason: 'cri.stopped' });
    stop.abort(new Error('stopped'));
    await running;
    expect(api.closed).toBe(true);
    await failed;
    expect(clock.sleepers).toBe(0);
  });
});
