import { chmodSync, chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDockerEngine } from '../../../../agent/workload/attestors/docker-engine.ts';
import type { DockerEngine, EngineEvent } from '../../../../agent/workload/attestors/docker-engine.ts';
import { systemClock } from '../../../../runtime/clock.ts';
import type { Clock } from '../../../../runtime/clock.ts';
import { createTestClock } from '../../../help/clock.ts';
import { newId, startEngineApi } from '../../../help/engine-api.ts';
import type { EngineApi } from '../../../help/engine-api.ts';

const uid = process.geteuid?.() ?? 0;
const isRoot = uid === 0;
let api: EngineApi;
let engine: DockerEngine;

function connect(options: { readonly clock?: Clock; readonly socketPath?: string; readonly uid?: number; readonly deadlineMs?: number } = {}): DockerEngine {
  return createDockerEngine({ clock: systemClock, socketPath: api.socketPath, uid, deadlineMs: 2000, ...options });
}

beforeEach(async () => {
  api = await startEngineApi();
  engine = connect();
});
afterEach(async () => {
  engine.close();
  await api[Symbol.asyncDispose]();
});

describe('the version', () => {
  it.each([
    ['the newest of an older engine', 12, '1.41', 'v1.41'],
    ['one that is old enough for most engines', 24, '1.52', 'v1.44'],
    ['one that is new enough for newer ones', 44, '1.52', 'v1.44'],
  ])('spoken is %s', async (_what, oldest, newest, spoken) => {
    api.versions = { oldest, newest };
    const { Id: id } = api.start();
    expect(JSON.parse(String(await engine.inspect(id)))).toMatchObject({ Id: id });
    await engine.inspect(id);
    expect(api.asked).toEqual(['/_ping', `/${spoken}/containers/${id}/json`, `/${spoken}/containers/${id}/json`]);
  });

  it('is asked for again when another engine may have taken the place', async () => {
    const { Id: id } = api.start();
    await engine.inspect(id);
    api.versions = { oldest: 60, newest: '1.70', podman: true };
    await expect(engine.inspect(id)).rejects.toMatchObject({ kind: 'unavailable', reason: 'docker.engine.status', detail: { status: 400 } });
    await expect(engine.inspect(id)).resolves.toBeDefined();
    expect(engine.kind).toBe('podman');
    expect(api.asked.at(-1)).toBe(`/v1.70/containers/${id}/json`);
  });

  it.each([[''], ['2.0'], ['1.41/../..'], ['1.'], ['1.41, 1.41']])('%j is none, and the question is repeated next time', async (newest) => {
    const { Id: id } = api.start();
    api.versions = { oldest: 12, newest };
    await expect(engine.inspect(id)).rejects.toMatchObject({ kind: 'invalid', reason: 'docker.answer.form' });
    api.versions = { oldest: 12, newest: '1.41' };
    await expect(engine.inspect(id)).resolves.toBeDefined();
  });
});

describe('a question', () => {
  it('about a container that the engine does not know has no answer', async () => {
    expect(await engine.inspect(newId())).toBeUndefined();
  });

  it.each([500, 503, 302, 204, 400])('answered with status %i says that the engine cannot be asked', async (status) => {
    api.fault = (incoming, outgoing) => incoming.url !== '/_ping' && (outgoing.writeHead(status).end(), true);
    await expect(engine.inspect(newId())).rejects.toMatchObject({ kind: 'unavailable', reason: 'docker.engine.status', detail: { status } });
  });

  it('that gets half an answer, too large a one or none in time fails as the connection does', async () => {
    const { Id: id } = api.start();
    await engine.inspect(id);
    api.fault = (_incoming, outgoing) => (outgoing.writeHead(200, { 'Content-Length': 100 }).write('half'), setTimeout(() => outgoing.destroy(), 5), true);
    await expect(engine.inspect(id)).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.broken' });
    api.fault = undefined;
    api.start({ Id: id, Config: { Labels: { big: 'x'.repeat(10 * 1024 * 1024) } } });
    await expect(engine.inspect(id)).rejects.toMatchObject({ kind: 'limited', reason: 'http.too-large' });
    api.fault = () => true;
    const hasty = connect({ deadlineMs: 30 });
    await expect(hasty.inspect(id)).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.deadline' });
    hasty.close();
  });

  it('is one of a bounded number, of which few are asked at once', async () => {
    const { Id: id } = api.start();
    engine = connect({ deadlineMs: 15_000 });
    await engine.inspect(id);
    const held: (() => void)[] = [];
    api.fault = (_incoming, outgoing) => (held.push(() => outgoing.writeHead(404).end()), true);
    const all = Array.from({ length: 600 }, () => engine.inspect(id).catch((error: unknown) => error));
    const refused = (await Promise.all(all.slice(512))) as readonly { readonly reason: string }[];
    expect(new Set(refused.map(({ reason }) => reason))).toEqual(new Set(['docker.engine.busy']));
    while (held.length < 8) await new Promise((resolve) => setTimeout(resolve, 1));
    api.fault = (_incoming, outgoing) => (outgoing.writeHead(404).end(), true);
    for (const release of held) release();
    expect(new Set(await Promise.all(all.slice(0, 512)))).toEqual(new Set([undefined]));
    expect(api.most).toBeLessThanOrEqual(8);
    await expect(engine.inspect(id)).resolves.toBeUndefined();
  });
});

describe('the socket', () => {
  it('that is not there cannot be reached', async () => {
    const none = connect({ socketPath: '/nonexistent/engine.sock' });
    await expect(none.inspect(newId())).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.unreachable' });
  });

  it('must not be open to everybody', async () => {
    chmodSync(api.socketPath, 0o662);
    await expect(engine.inspect(newId())).rejects.toMatchObject({ kind: 'denied', reason: 'docker.socket.writable' });
    chmodSync(api.socketPath, 0o660);
    await expect(engine.inspect(newId())).resolves.toBeUndefined();
    // Also once there is a connection.
    chmodSync(api.socketPath, 0o666);
    await expect(engine.inspect(newId())).rejects.toMatchObject({ kind: 'denied', reason: 'docker.socket.writable' });
    await expect(engine.follow(new AbortController().signal, () => undefined).next()).rejects.toMatchObject({ reason: 'docker.socket.writable' });
    expect(api.asked.some((url) => url.includes('/events'))).toBe(false);
  });

  it('must belong to the user whose engine it should be', async () => {
    const other = connect({ uid: uid + 1 });
    await expect(other.inspect(newId())).rejects.toMatchObject({ kind: 'denied', reason: 'docker.socket.owner' });
    expect(api.asked).toEqual([]);
  });

  it.runIf(isRoot)('with the right owner but another user’s process behind it is not asked (needs root)', async () => {
    chownSync(api.socketPath, uid + 1, 0);
    const other = connect({ uid: uid + 1 });
    await expect(other.inspect(newId())).rejects.toMatchObject({ kind: 'unauthenticated', reason: 'http.owner' });
    expect(api.asked).toEqual([]);
    other.close();
  });

  it('that is a file is none', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'engine-'));
    const socketPath = path.join(folder, 'file');
    writeFileSync(socketPath, '', { mode: 0o600 });
    await expect(connect({ socketPath }).inspect(newId())).rejects.toMatchObject({ kind: 'unavailable', reason: 'http.unreachable' });
    rmSync(folder, { recursive: true });
  });
});

describe('events', () => {
  async function following(): Promise<{ readonly seen: EngineEvent[]; readonly end: Promise<unknown>; readonly stop: AbortController }> {
    const stop = new AbortController();
    const open = Promise.withResolvers<void>();
    const seen: EngineEvent[] = [];
    const end = (async () => {
      for await (const event of engine.follow(stop.signal, () => open.resolve())) seen.push(event);
    })().catch((error: unknown) => error);
    await open.promise;
    return { seen, end, stop };
  }

  it('come in the spelling of newer and of older engines; what is none is passed over', async () => {
    const { seen, end, stop } = await following();
    api.tell('{"Action":"die","Actor":{"ID":"a"}}');
    api.tell('{"status":"start","id":"b"}');
    api.tell('{"Action":"die","Actor":null,"id":"c"}');
    for (const line of ['', 'no JSON', 'null', '[]', '7', '{"Action":7,"Actor":{"ID":"x"}}', '{"Action":"die"}', '{"Action":"die","Actor":{"ID":7}}']) api.tell(line);
    api.event('last', 'd');
    while (seen.length < 4) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(seen).toEqual([
      { id: 'a', action: 'die' },
      { id: 'b', action: 'start' },
      { id: 'c', action: 'die' },
      { id: 'd', action: 'last' },
    ]);
    const reason = new Error('enough');
    stop.abort(reason);
    expect(await end).toBe(reason);
  });

  it('that come too thick and fast are listened to no further', async () => {
    const clock = createTestClock();
    engine = connect({ clock });
    const { seen, end } = await following();
    const tell = async (count: number): Promise<void> => {
      const expected = seen.length + count;
      for (let at = 0; at < count; at += 1) api.event('start', String(at));
      while (seen.length < expected) await new Promise((resolve) => setTimeout(resolve, 1));
    };
    for (let second = 0; second < 3; second += 1) {
      await tell(3500);
      await clock.advance(1000);
    }
    for (let at = 0; at < 4200; at += 1) api.event('start', String(at));
    expect(await end).toMatchObject({ kind: 'limited', reason: 'docker.engine.flood' });
    expect(seen.length).toBeLessThan(3 * 3500 + 4200);
  });

  it('that end, break off or grow too long are an error', async () => {
    const ended = await following();
    api.fault = undefined;
    api.hangUp();
    expect(await ended.end).toMatchObject({ kind: 'unavailable', reason: 'http.broken' });
    const long = await following();
    api.tell('x'.repeat(4 * 1024 * 1024 + 1));
    expect(await long.end).toMatchObject({ kind: 'limited', reason: 'http.too-large' });
    api.fault = (incoming, outgoing) => incoming.url !== '/_ping' && (outgoing.writeHead(200).end('{"status":"start","id":"b"}\n'), true);
    const closed = await following();
    expect(await closed.end).toMatchObject({ kind: 'unavailable', reason: 'docker.engine.events' });
    expect(closed.seen).toHaveLength(1);
    api.fault = (incoming, outgoing) => incoming.url !== '/_ping' && (outgoing.writeHead(500).end(), true);
    await expect(engine.follow(new AbortController().signal, () => expect.unreachable()).next()).rejects.toMatchObject({ reason: 'docker.engine.status' });
  });
});
