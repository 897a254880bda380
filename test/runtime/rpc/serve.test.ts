import { connect as connectHttp2, constants } from 'node:http2';
import type { ClientHttp2Session } from 'node:http2';
import { connect, createServer } from 'node:net';
import type { Socket } from 'node:net';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { gzipSync } from 'node:zlib';
import { ServerCredentials, status as grpcStatus } from '@grpc/grpc-js';
import type { Server as GrpcServer } from '@grpc/grpc-js';
import { describe, expect, it } from 'vitest';
import { untilAborted } from '../../../runtime/abort.ts';
import { systemClock } from '../../../runtime/clock.ts';
import { createRpcClient } from '../../../runtime/rpc/call.ts';
import type { CallEnd } from '../../../runtime/rpc/calls.ts';
import type { CallContext } from '../../../runtime/rpc/handlers.ts';
import { createWatch } from '../../../runtime/watch.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { createTestClock } from '../../help/clock.ts';
import { echo, startEcho } from '../../help/echo.ts';
import type { EchoPeer, EchoText } from '../../help/echo.ts';

const until = async (done: () => boolean): Promise<void> => {
  for (let i = 0; i < 1_000 && !done(); i += 1) await systemClock.sleep(5);
  expect(done()).toBe(true);
};
const all = async <T>(values: AsyncIterable<T>): Promise<T[]> => {
  const list: T[] = [];
  for await (const value of values) list.push(value);
  return list;
};
const preface = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0])]);
const forever = (signal: AbortSignal): Promise<never> => untilAborted(new Promise<never>(() => undefined), signal);

describe('the four shapes', () => {
  it('answers unary calls, each with the context of its connection', async () => {
    await using world = await startEcho();
    const [first, second] = [world.client(), world.client()];
    expect(await first.unary(echo.Say, { value: 'a' })).toMatchObject({ value: '1:a' });
    expect(await second.unary(echo.Say, { value: 'b' })).toMatchObject({ value: '2:b' });
    expect(await first.unary(echo.Say, { value: 'c' })).toMatchObject({ value: '1:c' });
    expect(world.server.connections).toBe(2);
  });

  it('streams to, from and both ways', async () => {
    await using world = await startEcho();
    const client = world.client();
    expect((await all(client.serverStream(echo.Count, { value: 'x', count: 50 }))).map((text) => text.count)).toEqual(
      Array.from({ length: 50 }, (_, i) => i + 1),
    );
    const chat = client.converse(echo.Chat);
    await chat.send({ value: 'one' });
    expect((await chat.responses.next()).value).toMatchObject({ value: 're: one' });
    await chat.send({ value: 'two' });
    expect((await chat.responses.next()).value).toMatchObject({ value: 're: two' });
    chat.finish();
    expect((await chat.responses.next()).done).toBe(true);
  });

  it('refuses a service whose handler is missing', async () => {
    await expect(startEcho({ handlers: { Say: undefined as never } })).rejects.toMatchObject({ reason: 'rpc.handler.missing' });
  });
});

describe('errors', () => {
  it('reach our client as they were thrown', async () => {
    await using world = await startEcho({
      handlers: { Say: () => Promise.reject(new SpiffeError('missing', 'entry.missing', 'no such entry', { detail: { id: 'e1' } })) },
    });
    await expect(world.client().unary(echo.Say, {})).rejects.toMatchObject({
      name: 'SpiffeError',
      kind: 'missing',
      reason: 'entry.missing',
      message: 'no such entry',
      detail: { id: 'e1' },
    });
  });

  it('hide what is not ours behind an incident that the server can name', async () => {
    const ends: CallEnd<EchoPeer>[] = [];
    await using world = await startEcho({
      observe: (end) => ends.push(end),
      handlers: {
        Say: () => Promise.reject(new TypeError('password is hunter2')),
        async *Count() {
          yield { count: 1 };
          throw await Promise.resolve(new RangeError('hunter2'));
        },
      },
    });
    const client = world.client();
    const error: unknown = await client.unary(echo.Say, {}).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ kind: 'internal', reason: 'internal' });
    expect(JSON.stringify([error, (error as Error).message])).not.toContain('hunter2');
    expect(ends[0]).toMatchObject({ code: grpcStatus.INTERNAL, reason: 'internal', error: expect.any(TypeError) });
    expect((error as SpiffeError).detail['incident']).toBe(ends[0]?.incident);

    const stream = client.serverStream(echo.Count, {});
    expect((await stream.next()).value).toMatchObject({ count: 1 });
    await expect(stream.next()).rejects.toMatchObject({ kind: 'internal' });
    expect(ends[1]).toMatchObject({ code: grpcStatus.INTERNAL, error: expect.any(RangeError) });
  });

  it('blame the caller for bytes that are no message, and us for messages that cannot be sent', async () => {
    await using world = await startEcho({ handlers: { Say: () => Promise.resolve({ count: 'not a number' as never }) } });
    const client = world.client();
    const garbage = { ...echo.Count, requestSerialize: () => Buffer.from([0xff, 0xff, 0xff]) };
    await expect(all(client.serverStream(garbage, {}))).rejects.toMatchObject({ kind: 'invalid', reason: 'rpc.request.malformed' });
    const chat = client.converse({ ...echo.Chat, requestSerialize: () => Buffer.from([0x0a, 0xff]) });
    await chat.send({});
    await expect(chat.responses.next()).rejects.toMatchObject({ reason: 'rpc.request.malformed' });
  });
});

describe('order of a call', () => {
  it('observes, then admits, then handles', async () => {
    const order: string[] = [];
    await using world = await startEcho({
      access: async (call) => {
        await systemClock.sleep(5);
        order.push(`access ${call.method} ${String(call.metadata.get('token')[0])}`);
        if (call.metadata.get('token')[0] !== 'good') throw new SpiffeError('denied', 'access.denied', 'no');
      },
      observe: (end) => order.push(`end ${end.code} ${end.reason}`),
      handlers: {
        Say: () => {
          order.push('handler');
          return Promise.resolve({});
        },
      },
    });
    const client = world.client();
    await expect(client.unary(echo.Say, {}, { headers: { token: 'bad' } })).rejects.toMatchObject({ reason: 'access.denied' });
    await client.unary(echo.Say, {}, { headers: { token: 'good' } });
    await until(() => order.length === 5);
    expect(order).toEqual([
      'access /steeple.test.Echo/Say bad',
      'end 7 access.denied',
      'access /steeple.test.Echo/Say good',
      'handler',
      'end 0 ',
    ]);
  });

  it('answers nothing on a connection that has no context', async () => {
    let stray: ((socket: Socket) => void) | undefined;
    await using world = await startEcho({
      extend: (server) => {
        const injector = (server as GrpcServer).createConnectionInjector(ServerCredentials.createInsecure());
        stray = (socket) => injector.injectConnection(socket);
      },
    });
    const directory = await mkdtemp(join(tmpdir(), 'steeple-stray-'));
    const listener = createServer((socket) => stray?.(socket));
    await new Promise<void>((resolve) => {
      listener.listen(join(directory, 's'), resolve);
    });
    const client = createRpcClient({ clock: systemClock, address: `unix:${join(directory, 's')}` });
    await expect(client.unary(echo.Say, {})).rejects.toMatchObject({ kind: 'unauthenticated' });
    client.close();
    listener.close();
    await rm(directory, { recursive: true });
    expect(world.server.connections).toBe(0);
  });
});

describe('ends', () => {
  it('aborts the handler when the caller cancels, disappears, or the deadline passes', async () => {
    const reasons: string[] = [];
    const ends: CallEnd<EchoPeer>[] = [];
    const waiting = new Set<CallContext<EchoPeer>>();
    await using world = await startEcho({
      observe: (end) => ends.push(end),
      handlers: {
        async *Count(_request: EchoText, call: CallContext<EchoPeer>) {
          waiting.add(call);
          try {
            yield { count: 1 };
            await forever(call.signal);
          } catch (error) {
            reasons.push((error as SpiffeError).reason);
            throw error;
          } finally {
            waiting.delete(call);
          }
        },
      },
    });
    const stop = new AbortController();
    const stream = world.client().serverStream(echo.Count, {}, { signal: stop.signal });
    await stream.next();
    const why = new Error('changed my mind');
    stop.abort(why);
    await expect(stream.next()).rejects.toBe(why);
    await until(() => reasons.length === 1);

    for await (const text of world.client().serverStream(echo.Count, {})) {
      expect(text.count).toBe(1);
      break;
    }
    await until(() => reasons.length === 2);

    const lost = world.client().serverStream(echo.Count, {});
    await lost.next();
    world.sockets.at(-1)?.destroy();
    await expect(lost.next()).rejects.toMatchObject({ kind: 'unavailable' });
    await until(() => reasons.length === 3);
    expect(new Set(reasons)).toEqual(new Set(['rpc.cancelled']));
    expect(waiting.size).toBe(0);
    expect(ends.map((end) => end.code)).toEqual([grpcStatus.CANCELLED, grpcStatus.CANCELLED, grpcStatus.CANCELLED]);
  });

  it('drains in under a second: unary calls end, streams are told why', async () => {
    const release = Promise.withResolvers<void>();
    await using world = await startEcho({
      handlers: {
        Say: async () => {
          await release.promise;
          return { value: 'done' };
        },
        async *Count(_request: EchoText, call: CallContext<EchoPeer>) {
          yield { count: 1 };
          await forever(call.signal);
        },
      },
    });
    const client = world.client();
    const stream = client.serverStream(echo.Count, {});
    await stream.next();
    const answer = client.unary(echo.Say, {});
    await until(() => world.server.connections === 1);
    await systemClock.sleep(20);
    const started = systemClock.monotonic();
    const closed = world.server.close(5_000);
    await expect(stream.next()).rejects.toMatchObject({ kind: 'unavailable', reason: 'rpc.shutting-down' });
    release.resolve();
    expect(await answer).toMatchObject({ value: 'done' });
    await closed;
    expect(systemClock.monotonic() - started).toBeLessThan(4_000);
    expect(world.server.connections).toBe(0);
    await expect(world.client().unary(echo.Say, {})).rejects.toMatchObject({ kind: 'unavailable' });
  });

  it('cuts what does not end within the grace', async () => {
    await using world = await startEcho({ handlers: { Say: () => new Promise<never>(() => undefined) } });
    const answer = world.client().unary(echo.Say, {});
    const outcome = expect(answer).rejects.toMatchObject({ kind: 'unavailable' });
    await until(() => world.server.connections === 1);
    await systemClock.sleep(20);
    await world.server.close(50);
    await outcome;
    await until(() => world.server.connections === 0);
  });

  it('T-B09: cuts the connections of one peer, with the reason, and leaves the others', async () => {
    await using world = await startEcho({
      handlers: {
        async *Count(_request: EchoText, call: CallContext<EchoPeer>) {
          yield { count: call.connection.number };
          await forever(call.signal);
        },
      },
    });
    const [first, second] = [world.client(), world.client()];
    const [one, two] = [first.serverStream(echo.Count, {}), second.serverStream(echo.Count, {})];
    await one.next();
    await two.next();
    world.server.cut((peer) => peer.number === 1, new SpiffeError('denied', 'agent.banned', 'agent is banned'));
    await expect(one.next()).rejects.toMatchObject({ kind: 'denied', reason: 'agent.banned' });
    await until(() => world.server.connections === 1);
    expect(await second.unary(echo.Say, { value: 'still' })).toMatchObject({ value: '2:still' });
  });
});

describe('bounds', () => {
  it('T-A11: has one message in flight to a reader that does not read, and skips to the newest', async () => {
    const watch = createWatch(0);
    let made = 0;
    await using world = await startEcho({
      handlers: {
        async *Count(_request: EchoText, call: CallContext<EchoPeer>) {
          for await (const count of watch.values(call.signal)) {
            made += 1;
            yield { count, value: 'x'.repeat(1_000_000) };
          }
        },
      },
    });
    const session = await http2Session(world.path, { initialWindowSize: 1_000 });
    const stream = request(session, '/steeple.test.Echo/Count', framed(Buffer.alloc(0)));
    stream.pause();
    await until(() => made === 1);
    for (let count = 1; count <= 100; count += 1) {
      watch.set(count);
      await systemClock.sleep(1);
    }
    expect(made).toBeLessThanOrEqual(2);
    session.destroy();
  });

  it('T-A11: cuts a reader that takes nothing for the time allowed', async () => {
    const clock = createTestClock();
    await using world = await startEcho({
      clock,
      bounds: { stalledWriteMs: 60_000 },
      handlers: {
        async *Count(_request: EchoText, call: CallContext<EchoPeer>) {
          for (;;) {
            if (call.signal.aborted) return;
            yield await Promise.resolve({ value: 'x'.repeat(1_000_000) });
          }
        },
      },
    });
    const session = await http2Session(world.path, { initialWindowSize: 1_000 });
    request(session, '/steeple.test.Echo/Count', framed(Buffer.alloc(0))).pause();
    await systemClock.sleep(200);
    await clock.advance(50_000);
    expect(world.server.connections).toBe(1);
    await clock.advance(12_000);
    await until(() => world.server.connections === 0);
  });

  it('T-A16: refuses an oversized message on its header, also one that inflates to it', async () => {
    const ends: CallEnd<EchoPeer>[] = [];
    await using world = await startEcho({ bounds: { maxReceiveBytes: 100_000 }, observe: (end) => ends.push(end) });
    const session = await http2Session(world.path);
    const header = Buffer.from([0, 0xff, 0xff, 0xff, 0xff]);
    expect(await statusOf(request(session, '/steeple.test.Echo/Say', header, { end: false }))).toBe(grpcStatus.RESOURCE_EXHAUSTED);
    const bomb = gzipSync(Buffer.alloc(10_000_000));
    expect(bomb.length).toBeLessThan(100_000);
    const inflated = request(session, '/steeple.test.Echo/Say', framed(bomb, 1), { headers: { 'grpc-encoding': 'gzip' } });
    expect(await statusOf(inflated)).toBe(grpcStatus.RESOURCE_EXHAUSTED);
    session.destroy();
  });

  it('T-A16: reads one request of a stream at a time', async () => {
    const waiting = Promise.withResolvers<void>();
    await using world = await startEcho({
      handlers: {
        Collect: async (requests: AsyncIterable<EchoText>) => {
          await waiting.promise;
          let count = 0;
          for await (const text of requests) count += text.value.length;
          return { count };
        },
      },
    });
    const session = await http2Session(world.path);
    const body = Buffer.concat(Array.from({ length: 40 }, () => framed(Buffer.concat([Buffer.from([0x0a, 0x80, 0x80, 0x04]), Buffer.alloc(65_536, 97)]))));
    const stream = request(session, '/steeple.test.Echo/Collect', body);
    await systemClock.sleep(300);
    // 2.6 MB offered; the flow-control window and one message are all that the server takes before it is asked.
    expect(world.sockets[0]!.bytesRead).toBeLessThan(500_000);
    waiting.resolve();
    expect(await statusOf(stream)).toBe(grpcStatus.OK);
    session.destroy();
  });

  it('T-A12: ends a connection that keeps resetting its streams', async () => {
    await using world = await startEcho({ bounds: { resetBurst: 50, resetsPerSecond: 1 } });
    const session = await http2Session(world.path);
    for (let i = 0; i < 400 && !session.destroyed; i += 1) {
      const stream = request(session, '/steeple.test.Echo/Say', Buffer.alloc(0), { end: false });
      stream.close(constants.NGHTTP2_CANCEL);
      if (i % 20 === 0) await systemClock.sleep(2);
    }
    await until(() => world.server.connections === 0);
  });

  it('T-A12: cuts silent and idle connections', async () => {
    const clock = createTestClock();
    await using world = await startEcho({ clock, bounds: { firstCallMs: 20_000, idleMs: 300_000 } });
    const silent = connect(world.path);
    await until(() => world.server.connections === 1);
    const client = world.client();
    await client.unary(echo.Say, {});
    expect(world.server.connections).toBe(2);
    await clock.advance(21_000);
    await until(() => silent.destroyed || world.server.connections === 1);
    await clock.advance(250_000);
    expect(world.server.connections).toBe(1);
    await clock.advance(30_000);
    await until(() => world.server.connections === 0);
    silent.destroy();
  });

  it('finds half-open connections by their silence to a ping', async () => {
    await using world = await startEcho({ bounds: { pingEveryMs: 50, pingTimeoutMs: 50 } });
    const alive = await http2Session(world.path);
    const gone = connect(world.path);
    gone.on('error', () => undefined);
    // Speaks once and never again, as a machine that lost its power does.
    gone.write(preface);
    await until(() => world.server.connections === 2);
    await until(() => world.server.connections === 1);
    expect(alive.destroyed).toBe(false);
    alive.destroy();
    gone.destroy();
  });

  it.each([
    ['no HTTP/2 at all', Buffer.from('GET / HTTP/1.1\r\nHost: x\r\n\r\n')],
    ['a frame larger than allowed', Buffer.concat([preface, Buffer.from([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1])])],
    ['data on a stream never opened', Buffer.concat([preface, Buffer.from([0, 0, 1, 0, 0, 0, 0, 0, 1, 0])])],
    ['a settings frame on a stream', Buffer.concat([preface, Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 1])])],
  ])('T-A12: ends the session of a peer that sends %s', async (_case, bytes) => {
    await using world = await startEcho();
    const socket = connect(world.path);
    socket.on('error', () => undefined);
    socket.write(bytes);
    await until(() => world.sockets.length === 1 && world.server.connections === 0);
    socket.destroy();
  });

  it('takes no more connections than allowed', async () => {
    await using world = await startEcho({ bounds: { maxConnections: 1 } });
    await world.client().unary(echo.Say, {});
    await expect(world.client().unary(echo.Say, {})).rejects.toMatchObject({ kind: 'unavailable' });
    const dead = new PassThrough();
    world.server.inject(dead, { number: 9 });
    expect(dead.destroyed).toBe(true);
  });

  it('sends old connections away, except those with a call that keeps them', async () => {
    const clock = createTestClock();
    await using world = await startEcho({
      clock,
      bounds: { idleMs: 86_400_000 },
      agePolicy: { maxAgeMs: 180_000, graceMs: 50, keeps: (method) => method.endsWith('/Count') },
      handlers: {
        async *Count(_request: EchoText, call: CallContext<EchoPeer>) {
          yield { count: 1 };
          await forever(call.signal);
        },
      },
    });
    const [passing, following] = [world.client(), world.client()];
    expect(await passing.unary(echo.Say, { value: 'a' })).toMatchObject({ value: '1:a' });
    const stop = new AbortController();
    const stream = following.serverStream(echo.Count, {}, { signal: stop.signal });
    await stream.next();
    await clock.advance(240_000);
    await until(() => world.server.connections === 1);
    expect(await following.unary(echo.Say, { value: 'b' })).toMatchObject({ value: '2:b' });
    expect(await passing.unary(echo.Say, { value: 'a' })).toMatchObject({ value: '3:a' });
    stop.abort(new Error('enough'));
    await expect(stream.next()).rejects.toThrow('enough');
    await systemClock.sleep(20);
    await clock.advance(2_000);
    await until(() => world.server.connections === 1);
  });
});

async function http2Session(path: string, settings: { initialWindowSize?: number } = {}): Promise<ClientHttp2Session> {
  const session = connectHttp2('http://localhost', { createConnection: () => connect(path), settings });
  session.on('error', () => undefined);
  await new Promise<void>((resolve) => session.once('remoteSettings', () => resolve()));
  return session;
}

function framed(message: Buffer, compressed = 0): Buffer {
  const header = Buffer.alloc(5);
  header.writeUInt8(compressed, 0);
  header.writeUInt32BE(message.length, 1);
  return Buffer.concat([header, message]);
}

function request(
  session: ClientHttp2Session,
  path: string,
  body: Buffer,
  options: { end?: boolean; headers?: Record<string, string> } = {},
): ReturnType<ClientHttp2Session['request']> {
  const stream = session.request({
    ':method': 'POST',
    ':path': path,
    te: 'trailers',
    'content-type': 'application/grpc',
    ...options.headers,
  });
  stream.on('error', () => undefined);
  stream.write(body);
  if (options.end !== false) stream.end();
  return stream;
}

async function statusOf(stream: ReturnType<ClientHttp2Session['request']>): Promise<number> {
  return new Promise((resolve) => {
    stream.on('response', (headers) => {
      if (headers['grpc-status'] !== undefined) resolve(Number(headers['grpc-status']));
    });
    stream.on('trailers', (headers) => resolve(Number(headers['grpc-status'])));
    stream.on('close', () => resolve(-1));
    stream.resume();
  });
}
