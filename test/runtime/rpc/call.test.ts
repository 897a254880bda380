import { connect } from 'node:net';
import { describe, expect, it } from 'vitest';
import { untilAborted } from '../../../runtime/abort.ts';
import { systemClock } from '../../../runtime/clock.ts';
import { createRpcClient } from '../../../runtime/rpc/call.ts';
import type { CallContext } from '../../../runtime/rpc/handlers.ts';
import { createTestClock } from '../../help/clock.ts';
import { echo, startEcho } from '../../help/echo.ts';
import type { EchoPeer, EchoText } from '../../help/echo.ts';

const never = { Say: (_: EchoText, call: CallContext<EchoPeer>) => untilAborted(new Promise<never>(() => undefined), call.signal) };

describe('createRpcClient', () => {
  it('fails a call at its deadline, by its own clock, and cancels it', async () => {
    const clientClock = createTestClock();
    const ends: number[] = [];
    await using world = await startEcho({ clientClock, handlers: never, observe: (end) => ends.push(end.code) });
    const call = world.client().unary(echo.Say, {});
    const outcome = expect(call).rejects.toMatchObject({ kind: 'unavailable', reason: 'rpc.deadline' });
    await clientClock.advance(29_000);
    for (let i = 0; i < 200 && world.server.connections === 0; i += 1) await systemClock.sleep(5);
    expect(ends).toEqual([]);
    await clientClock.advance(1_000);
    await outcome;
    for (let i = 0; i < 200 && ends.length === 0; i += 1) await systemClock.sleep(5);
    expect(ends).toEqual([1]);
    expect(clientClock.sleepers).toBe(0);
  });

  it('gives streams no deadline unless asked', async () => {
    const clientClock = createTestClock();
    await using world = await startEcho({
      clientClock,
      handlers: {
        async *Count(_request: EchoText, call: CallContext<EchoPeer>) {
          yield { count: 1 };
          await untilAborted(new Promise<never>(() => undefined), call.signal);
        },
      },
    });
    const free = world.client().serverStream(echo.Count, {});
    const bound = world.client().serverStream(echo.Count, {}, { deadlineMs: 5_000 });
    await free.next();
    await bound.next();
    expect(clientClock.sleepers).toBe(1);
    const [, late] = [free.next().catch(() => undefined), bound.next()];
    const outcome = expect(late).rejects.toMatchObject({ reason: 'rpc.deadline' });
    await clientClock.advance(6_000);
    await outcome;
  });

  it('rejects with the reason of the signal, before and during a call, and leaves no listener', async () => {
    await using world = await startEcho({ handlers: never });
    const client = world.client();
    const stop = new AbortController();
    const reason = new Error('stopped');
    const call = client.unary(echo.Say, {}, { signal: stop.signal });
    await systemClock.sleep(20);
    stop.abort(reason);
    await expect(call).rejects.toBe(reason);
    await expect(client.unary(echo.Say, {}, { signal: stop.signal })).rejects.toBe(reason);
    await expect(client.serverStream(echo.Count, {}, { signal: stop.signal }).next()).rejects.toBe(reason);
  });

  it('says that nobody is there, and finds the server once it is', async () => {
    const missing = createRpcClient({ clock: systemClock, address: 'unix:/nonexistent/steeple.sock' });
    await expect(missing.unary(echo.Say, {})).rejects.toMatchObject({
      kind: 'unavailable',
      reason: 'rpc.unreachable',
      message: 'cannot connect to unix:/nonexistent/steeple.sock (ENOENT)',
    });
    missing.close();
    await using world = await startEcho();
    const client = world.client();
    await client.unary(echo.Say, {});
    world.sockets[0]?.destroy();
    await systemClock.sleep(20);
    expect(await client.unary(echo.Say, { value: 'again' })).toMatchObject({ value: '2:again' });
  });

  it('fails what is in flight when it is closed, and what comes after', async () => {
    await using world = await startEcho({ handlers: never });
    const client = world.client();
    const call = client.unary(echo.Say, {});
    const outcome = expect(call).rejects.toMatchObject({ kind: 'unavailable', reason: 'rpc.closed' });
    await systemClock.sleep(20);
    client.close();
    client.close();
    await outcome;
    await expect(client.unary(echo.Say, {})).rejects.toMatchObject({ reason: 'rpc.closed' });
  });

  it('tells a conversation’s end to its reader alone', async () => {
    await using world = await startEcho();
    const client = world.client();
    const chat = client.converse(echo.Chat);
    await chat.send({ value: 'a' });
    await chat.responses.next();
    world.sockets[0]?.destroy();
    await expect(chat.responses.next()).rejects.toMatchObject({ kind: 'unavailable' });
    await expect(chat.send({ value: 'b' })).rejects.toMatchObject({ kind: 'unavailable' });
    // Nobody reads this one; its failure must not end the process.
    const unread = client.converse(echo.Chat);
    await unread.send({ value: 'c' });
    world.sockets.at(-1)?.destroy();
    await systemClock.sleep(30);
    connect(world.path).destroy();
  });
});
