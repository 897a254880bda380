/**
 * A server and an agent as processes in a directory of their own, and the operator who registers what a bench needs. The
 * limits that a bench is not about are lifted.
 */
import { existsSync } from 'node:fs';
import { chmod, copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import process from 'node:process';
import { setTimeout as sleep } from 'node:timers/promises';
import { stringify } from 'yaml';
import { loadServices } from '../../proto/load.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createRpcClient } from '../../runtime/rpc/call.ts';
import { trustDomain } from './estate.ts';
import { runPart, startProgram, type Running } from './processes.ts';

/** An entry as a bench asks for it; paths stand for SPIFFE IDs. */
export interface Asked {
  readonly path: string;
  readonly parent: string;
  readonly selectors: readonly string[];
  readonly ttlSeconds?: number;
}

export interface Operator {
  /** Ids in order. @throws when one is refused */
  createEntries(asked: readonly Asked[]): Promise<readonly string[]>;
  deleteEntries(ids: readonly string[]): Promise<void>;
  /** The token, and the path of the agent that will spend it. */
  createToken(): Promise<{ readonly token: string; readonly agent: string }>;
  bundlePem(): Promise<string>;
  close(): void;
}

export interface ServerWorld extends AsyncDisposable {
  readonly directory: string;
  readonly server: Running;
  readonly address: string;
  readonly port: number;
  readonly operator: Operator;
  /** PEM. */
  readonly bundleFile: string;
  /** From start to listening. */
  readonly startMs: number;
}

export interface AgentWorld extends AsyncDisposable {
  readonly agent: Running;
  /** As the Workload API's clients take it. */
  readonly socket: string;
  /** Path of its SPIFFE ID. */
  readonly path: string;
}

export interface ServerSettings {
  /** Entries that are there before the server starts. */
  readonly entries?: number;
  readonly config?: Readonly<Record<string, unknown>>;
}

export async function startServer({ entries = 0, config = {} }: ServerSettings = {}): Promise<ServerWorld> {
  const directory = await mkdtemp(path.join(tmpdir(), 'steeple-bench-'));
  const cleanup = new AsyncDisposableStack();
  cleanup.defer(() => rm(directory, { recursive: true, force: true }));
  try {
    // Other users have to reach the agent's public socket.
    await chmod(directory, 0o755);
    const port = await freePort();
    const socket = path.join(directory, 'server', 'api.sock');
    const settings = {
      trust_domain: trustDomain,
      data_dir: path.join(directory, 'server-data'),
      socket_path: socket,
      listen: { address: '127.0.0.1', port },
      limits: { signing: 0, tokens: 0, status: 0, sync: 0, report: 0, publish: 0 },
      log: { level: 'info' },
      ...config,
    };
    if (entries > 0) await fill(path.join(settings.data_dir, 'store', 'steeple.sqlite'), entries);
    const file = path.join(directory, 'server.yaml');
    await writeFile(file, stringify(settings));
    const began = performance.now();
    const server = cleanup.use(startProgram('server', file));
    await server.line(({ event }) => event === 'server.listening');
    const startMs = performance.now() - began;
    const operator = connectOperator(socket);
    cleanup.defer(() => operator.close());
    const bundleFile = path.join(directory, 'bundle.pem');
    await writeFile(bundleFile, await operator.bundlePem());
    return {
      directory,
      server,
      address: `127.0.0.1:${port}`,
      port,
      operator,
      bundleFile,
      startMs,
      [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
    };
  } catch (error) {
    await cleanup.disposeAsync();
    throw error;
  }
}

/** From the file named for the number in STEEPLE_BENCH_STORES if it is there, which saves minutes when a bench is repeated. */
async function fill(file: string, entries: number): Promise<void> {
  const stores = process.env['STEEPLE_BENCH_STORES'];
  const kept = stores === undefined ? undefined : path.join(stores, `${entries}.sqlite`);
  if (kept !== undefined && existsSync(kept)) {
    await mkdir(path.dirname(file), { recursive: true, mode: 0o700 });
    await copyFile(kept, file);
    await chmod(file, 0o600);
    return;
  }
  await runPart('fill.ts', [file, String(entries)]);
  if (kept !== undefined) await copyFile(file, kept);
}

export interface AgentSettings {
  /** Otherwise per-user limits are lifted. */
  readonly limited?: boolean;
  /** The section of this name. */
  readonly workload?: Readonly<Record<string, unknown>>;
  readonly logLevel?: 'debug' | 'info';
}

export async function startAgent(world: ServerWorld, { limited = false, workload = {}, logLevel = 'info' }: AgentSettings = {}): Promise<AgentWorld> {
  const { token, agent: agentPath } = await world.operator.createToken();
  const root = path.join(world.directory, 'agent');
  await mkdir(root, { recursive: true, mode: 0o755 });
  const socketPath = path.join(root, 'public', 'api.sock');
  const file = path.join(world.directory, 'agent.yaml');
  await writeFile(
    file,
    stringify({
      trust_domain: trustDomain,
      server: { address: '127.0.0.1', port: world.port },
      data_dir: path.join(world.directory, 'agent-data'),
      socket_path: socketPath,
      admin_socket_path: path.join(root, 'private', 'admin.sock'),
      trust_bundle: { path: world.bundleFile, format: 'pem' },
      attestor: { type: 'join_token', token },
      workload,
      log: { level: logLevel },
      ...(!limited && { limits: { connects_per_second_per_user: 1_000_000, connections_per_user: 10_000, calls_per_user: 10_000 } }),
    }),
    { mode: 0o600 },
  );
  const agent = startProgram('agent', file);
  try {
    await agent.line(({ event }) => event === 'socket.listening');
    await agent.line(({ event }) => event === 'sync.connected');
  } catch (error) {
    await agent.stop();
    throw error;
  }
  return { agent, socket: `unix://${socketPath}`, path: agentPath, [Symbol.asyncDispose]: () => agent.stop() };
}

function connectOperator(socket: string): Operator {
  const client = createRpcClient({ clock: systemClock, address: `unix:${socket}`, maxReceiveBytes: 64 * 1024 * 1024 });
  const {
    'spire.api.server.agent.v1.Agent': agents,
    'spire.api.server.bundle.v1.Bundle': bundles,
    'spire.api.server.entry.v1.Entry': entries,
  } = loadServices('spire.api.server.agent.v1.Agent', 'spire.api.server.bundle.v1.Bundle', 'spire.api.server.entry.v1.Entry');
  const idOf = (path: string) => ({ trust_domain: trustDomain, path });
  return {
    async createEntries(asked) {
      const ids: string[] = [];
      for (let from = 0; from < asked.length; from += 500) {
        const { results } = await client.unary(entries.BatchCreateEntry, {
          entries: asked.slice(from, from + 500).map(({ path, parent, selectors, ttlSeconds = 0 }) => ({
            spiffe_id: idOf(path),
            parent_id: idOf(parent),
            selectors: selectors.map((selector) => {
              const colon = selector.indexOf(':');
              return { type: selector.slice(0, colon), value: selector.slice(colon + 1) };
            }),
            x509_svid_ttl: ttlSeconds,
          })),
        });
        for (const { status, entry } of results) {
          if (entry === null) throw new Error(`entry refused: ${status?.message}`);
          ids.push(entry.id);
        }
      }
      return ids;
    },
    async deleteEntries(ids) {
      await client.unary(entries.BatchDeleteEntry, { ids: [...ids] });
    },
    async createToken() {
      const { value } = await client.unary(agents.CreateJoinToken, { ttl: 3600 });
      return { token: value, agent: `/spire/agent/join_token/${value}` };
    },
    async bundlePem() {
      const { x509_authorities } = await client.unary(bundles.GetBundle, {});
      return x509_authorities
        .map(({ asn1 }) => `-----BEGIN CERTIFICATE-----\n${Buffer.from(asn1).toString('base64').replaceAll(/.{64}/g, '$&\n')}\n-----END CERTIFICATE-----\n`)
        .join('');
    },
    close: () => client.close(),
  };
}

/** Waits until it holds. @throws after the time */
export async function until(holds: () => boolean | Promise<boolean>, ms = 60_000): Promise<void> {
  const began = performance.now();
  while (!(await holds())) {
    if (performance.now() - began > ms) throw new Error('waited in vain');
    await sleep(5);
  }
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const address = probe.address();
      const port = typeof address === 'object' && address !== null ? address.port : 0;
      probe.close(() => resolve(port));
    });
  });
}
