/**
 * The CLI's lines to a server's operators' socket and to an agent's sockets: where they are, the calls, and batches cut to
 * size. What is asked over them is the commands' business.
 */
import { resolve } from 'node:path';
import { loadServices, type ServiceDefinitions, type ServiceName } from '../proto/load.ts';
import { systemClock } from '../runtime/clock.ts';
import { createRpcClient, type RpcClient } from '../runtime/rpc/call.ts';
import type { Io } from './command.ts';
import type { FlagSpec } from './flags.ts';

export const serverSocketFlag = {
  socket: { type: 'text', value: 'PATH', summary: "the server's operators' socket" },
} as const satisfies Record<string, FlagSpec>;

export const agentSocketFlag = {
  'admin-socket': { type: 'text', value: 'PATH', summary: "the agent's private socket" },
} as const satisfies Record<string, FlagSpec>;

export const publicSocketFlag = {
  socket: { type: 'text', value: 'PATH', summary: "the agent's public socket; SPIFFE_ENDPOINT_SOCKET when absent" },
} as const satisfies Record<string, FlagSpec>;

const defaultServerSocket = '/run/steeple/server/api.sock';
const defaultAgentSocket = '/run/steeple/agent/private/admin.sock';
const defaultWorkloadAddress = 'unix:///run/steeple/agent/public/api.sock';

/** Our variable wins over SPIRE's; the flag wins over both. */
export function serverSocket(flag: string | undefined, io: Io): string {
  return flag ?? io.env['STEEPLE_SERVER_SOCKET'] ?? io.env['SPIRE_SERVER_PRIVATE_SOCKET'] ?? defaultServerSocket;
}

/** Where the Workload API is, as `WorkloadApi` takes it; a flag may be a plain path, relative ones too. */
export function workloadAddress(flag: string | undefined, io: Io): string {
  const given = flag ?? io.env['SPIFFE_ENDPOINT_SOCKET'] ?? defaultWorkloadAddress;
  return flag === undefined || /^(?:unix|tcp):/.test(given) ? given : `unix://${resolve(given)}`;
}

export interface Line<N extends ServiceName> {
  readonly client: RpcClient;
  readonly services: Pick<ServiceDefinitions, N>;
  readonly signal: AbortSignal;
}

/** Opens a line to the server, uses it, closes it. @throws unavailable `rpc.unreachable` */
export async function withServer<N extends ServiceName, T>(
  socket: string | undefined,
  io: Io,
  names: readonly N[],
  use: (line: Line<N>) => Promise<T>,
): Promise<T> {
  return withSocket(serverSocket(socket, io), io, names, use);
}

export async function withAgent<T>(
  socket: string | undefined,
  io: Io,
  use: (line: Line<'steeple.agent.v1.Admin'>) => Promise<T>,
): Promise<T> {
  return withSocket(socket ?? io.env['STEEPLE_AGENT_ADMIN_SOCKET'] ?? defaultAgentSocket, io, ['steeple.agent.v1.Admin'], use);
}

async function withSocket<N extends ServiceName, T>(
  path: string,
  io: Io,
  names: readonly N[],
  use: (line: Line<N>) => Promise<T>,
): Promise<T> {
  const client = createRpcClient({ clock: systemClock, address: `unix:${path}`, maxReceiveBytes: 64 * 1024 * 1024 });
  try {
    return await use({ client, services: loadServices(...names), signal: io.signal });
  } finally {
    client.close();
  }
}

/** Every page of a listing, one after the other. */
export async function* pages<T>(
  fetch: (token: string) => Promise<{ readonly items: readonly T[]; readonly next: string }>,
): AsyncGenerator<readonly T[]> {
  let token = '';
  do {
    const page = await fetch(token);
    if (page.items.length > 0) yield page.items;
    token = page.next;
  } while (token !== '');
}

/** Slices of at most `size`. */
export function* slices<T>(items: readonly T[], size: number): Generator<readonly T[]> {
  for (let start = 0; start < items.length; start += size) yield items.slice(start, start + size);
}
