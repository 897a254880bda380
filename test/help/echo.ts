/**
 * The echo service: its definition, and a server and client of it over a Unix socket of their own. For tests of
 * `runtime/rpc` alone.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { Server, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadSync } from '@grpc/proto-loader';
import type { MethodDefinition, ServiceDefinition } from '@grpc/proto-loader';
import { systemClock } from '../../runtime/clock.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createRpcClient } from '../../runtime/rpc/call.ts';
import type { RpcClient } from '../../runtime/rpc/call.ts';
import { rpcService } from '../../runtime/rpc/handlers.ts';
import type { CallContext, RpcService, ServiceHandlers } from '../../runtime/rpc/handlers.ts';
import { createRpcServer } from '../../runtime/rpc/serve.ts';
import type { RpcServer, RpcServerOptions } from '../../runtime/rpc/serve.ts';

export interface EchoText {
  value: string;
  count: number;
}

export interface EchoDefinition extends ServiceDefinition {
  Say: MethodDefinition<Partial<EchoText>, Partial<EchoText>, EchoText, EchoText>;
  Count: MethodDefinition<Partial<EchoText>, Partial<EchoText>, EchoText, EchoText>;
  Collect: MethodDefinition<Partial<EchoText>, Partial<EchoText>, EchoText, EchoText>;
  Chat: MethodDefinition<Partial<EchoText>, Partial<EchoText>, EchoText, EchoText>;
}

const loaded = loadSync(fileURLToPath(new URL('./echo.proto', import.meta.url)), { keepCase: true, defaults: true });

export const echo = loaded['steeple.test.Echo'] as unknown as EchoDefinition;

/** What each test connection is injected with. */
export interface EchoPeer {
  readonly number: number;
}

export type EchoHandlers = ServiceHandlers<EchoDefinition, EchoPeer>;

/** Says what it is told, and who told it. */
export const plainEcho: EchoHandlers = {
  Say: (request: EchoText, call: CallContext<EchoPeer>) => Promise.resolve({ value: `${call.connection.number}:${request.value}` }),
  async *Count(request: EchoText) {
    for (let count = 1; count <= request.count; count += 1) yield await Promise.resolve({ value: request.value, count });
  },
  async Collect(requests: AsyncIterable<EchoText>) {
    let value = '';
    let count = 0;
    for await (const request of requests) {
      value += request.value;
      count += 1;
    }
    return { value, count };
  },
  async *Chat(requests: AsyncIterable<EchoText>) {
    for await (const request of requests) yield { value: `re: ${request.value}` };
  },
};

export interface EchoWorld extends AsyncDisposable {
  readonly server: RpcServer<EchoPeer>;
  readonly path: string;
  /** Server-side sockets, in the order of their arrival. */
  readonly sockets: Socket[];
  client(): RpcClient;
}

export interface EchoWorldOptions extends Partial<Omit<RpcServerOptions<EchoPeer>, 'services'>> {
  readonly handlers?: Partial<EchoHandlers>;
  readonly clientClock?: Clock;
}

export function echoService(handlers: Partial<EchoHandlers> = {}): RpcService<EchoPeer> {
  return rpcService<EchoDefinition, EchoPeer>(echo, { ...plainEcho, ...handlers });
}

export async function startEcho(options: EchoWorldOptions = {}): Promise<EchoWorld> {
  const directory = await mkdtemp(join(tmpdir(), 'steeple-rpc-'));
  const path = join(directory, 'api.sock');
  const { handlers, clientClock, ...rest } = options;
  const server = createRpcServer<EchoPeer>({ clock: systemClock, ...rest, services: [echoService(handlers)] });
  const sockets: Socket[] = [];
  const clients: RpcClient[] = [];
  let number = 0;
  const listener: Server = createServer((socket) => {
    sockets.push(socket);
    number += 1;
    server.inject(socket, { number });
  });
  await new Promise<void>((resolve) => {
    listener.listen(path, resolve);
  });
  return {
    server,
    path,
    sockets,
    client() {
      const client = createRpcClient({ clock: clientClock ?? systemClock, address: `unix:${path}` });
      clients.push(client);
      return client;
    },
    async [Symbol.asyncDispose]() {
      for (const client of clients) client.close();
      await server.close(100);
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => listener.close(resolve));
      await rm(directory, { recursive: true, force: true });
    },
  };
}
