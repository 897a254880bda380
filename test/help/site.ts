/**
 * A trust domain of real processes in one temporary directory: a server, agents, commands of the CLI and workloads that run
 * from paths of their own. What a scenario asks of them is the scenario's.
 */
import { chmod, copyFile, link, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadServices, type ServiceDefinitions, type ServiceName } from '../../proto/load.ts';
import { systemClock } from '../../runtime/clock.ts';
import { createRpcClient, type RpcClient } from '../../runtime/rpc/call.ts';
import { type Finished, runToEnd, type Running, type RunningOptions, startRunning } from './running.ts';

export const trustDomain = 'example.org';
const here = path.dirname(fileURLToPath(import.meta.url));
/** The bin; another installation of it can be named, such as an unpacked package. */
const bin = process.env['STEEPLE_BIN'] ?? path.join(here, '..', '..', 'bin', 'steeple.cjs');
const { findNode } = createRequire(import.meta.url)('../../bin/pinned.cjs') as { findNode(): string | null };
/** The Node that the programs run on. */
export const node = findNode() ?? process.execPath;

export interface SiteOptions {
  /** `example.org` unless given. */
  readonly trustDomain?: string;
  /** Top-level keys of the server's file besides those that the site writes; YAML. */
  readonly server?: string;
}

export interface AgentOptions {
  /** Joins with this token; without one the agent has joined before, or says how in `config`. */
  readonly token?: string;
  /** Further top-level keys of the agent's file; YAML. */
  readonly config?: string;
  readonly run?: RunningOptions;
}

export interface EntryOptions {
  readonly path: string;
  readonly parent: string;
  readonly selectors: readonly string[];
  /** Flags of `entry create` besides. */
  readonly flags?: readonly string[];
}

export interface AgentProcess extends Running {
  /** As `SPIFFE_ENDPOINT_SOCKET` has it. */
  readonly endpoint: string;
  readonly socket: string;
  readonly adminSocket: string;
  readonly directory: string;
}

export interface Site extends AsyncDisposable {
  readonly trustDomain: string;
  readonly directory: string;
  readonly port: number;
  /** The operators' socket. */
  readonly socket: string;
  readonly serverConfig: string;
  readonly bundleFile: string;
  /** Writes the server's file anew; what runs is not told. */
  configureServer(more: string): Promise<void>;
  /** Starts the server and waits until it listens. */
  startServer(run?: RunningOptions): Promise<Running>;
  /** Starts the server and waits for nothing. */
  spawnServer(run?: RunningOptions): Running;
  /** Starts an agent and waits until it serves its socket. */
  startAgent(name: string, options?: AgentOptions): Promise<AgentProcess>;
  /** Runs the CLI against this site's server. */
  steeple(...args: readonly string[]): Promise<Finished>;
  /** The same with `--output json`, parsed; throws with what was printed when the exit code is not 0. */
  ask<T>(...args: readonly string[]): Promise<T>;
  /** A token and the ID of the agent that joins with it. */
  token(...flags: readonly string[]): Promise<{ readonly token: string; readonly agentId: string }>;
  /** Creates an entry; its ID. */
  entry(options: EntryOptions): Promise<string>;
  /** Writes the server's bundle to `bundleFile`. */
  writeBundle(): Promise<void>;
  /** Node under a path of its own, by which an entry may know it. */
  program(name: string): Promise<string>;
  /** Starts `workload.ts` on a program; its endpoint is the agent's. */
  workload(program: string, agent: Pick<AgentProcess, 'endpoint'>, args: readonly string[], run?: RunningOptions): Running;
  /** A client of the operators' socket and the definitions to call with; closed with the site. */
  operators<N extends ServiceName>(...names: readonly N[]): { readonly client: RpcClient; readonly services: Pick<ServiceDefinitions, N> };
  /** Ends with the site. */
  own<T extends Running>(running: T): T;
}

/** Paths of sockets are short, wherever the tests run. */
export async function createSite(options: SiteOptions = {}): Promise<Site> {
  const name = options.trustDomain ?? trustDomain;
  const directory = await mkdtemp('/tmp/steeple-');
  // Workloads of other users come through here to the agents' sockets; what is private is so by itself.
  await chmod(directory, 0o755);
  await mkdir(path.join(directory, 'bin'));
  const port = await freePort();
  const socket = path.join(directory, 'server', 'run', 'api.sock');
  const serverConfig = path.join(directory, 'server.yaml');
  const bundleFile = path.join(directory, 'bundle.pem');
  const started: Running[] = [];
  const clients: RpcClient[] = [];
  const own = <T extends Running>(running: T): T => {
    started.push(running);
    return running;
  };

  const site: Site = {
    trustDomain: name,
    directory,
    port,
    socket,
    serverConfig,
    bundleFile,
    own,
    async configureServer(more) {
      await writeFile(
        serverConfig,
        `trust_domain: ${name}
data_dir: ${directory}/server/data
socket_path: ${socket}
listen: { address: 127.0.0.1, port: ${port} }
${more}
`,
      );
    },
    spawnServer: (run) => own(startRunning([node, bin, 'server', 'run', '--config', serverConfig], run)),
    async startServer(run) {
      const server = site.spawnServer(run);
      await server.until('server.listening', { withinMs: 60_000 });
      return server;
    },
    async startAgent(agentName, { token, config = '', run } = {}) {
      const base = path.join(directory, agentName);
      const [publicSocket, adminSocket] = [path.join(base, 'public', 'api.sock'), path.join(base, 'private', 'admin.sock')];
      await mkdir(base, { recursive: true });
      const file = path.join(base, 'agent.yaml');
      await writeFile(
        file,
        `trust_domain: ${name}
server: { address: 127.0.0.1, port: ${port} }
data_dir: ${base}/data
socket_path: ${publicSocket}
admin_socket_path: ${adminSocket}
trust_bundle: { path: ${bundleFile} }
${token === undefined ? '' : `attestor: { type: join_token, token: ${token} }`}
${config}
`,
        { mode: 0o600 },
      );
      const running = own(startRunning([node, bin, 'agent', 'run', '--config', file], run));
      await running.until('socket.listening', { withinMs: 30_000 });
      return { ...running, endpoint: `unix://${publicSocket}`, socket: publicSocket, adminSocket, directory: base };
    },
    steeple: (...args) => runToEnd([node, bin, ...args], { env: { STEEPLE_SERVER_SOCKET: socket } }),
    async ask<T>(...args: readonly string[]) {
      const { code, stdout, stderr } = await site.steeple(...args, '--output', 'json');
      if (code !== 0) throw new Error(`steeple ${args.join(' ')} exits ${String(code)}: ${stderr}${stdout}`);
      return JSON.parse(stdout) as T;
    },
    async token(...flags) {
      const { token } = await site.ask<{ token: string }>('token', 'generate', ...flags);
      return { token, agentId: `spiffe://${name}/spire/agent/join_token/${token}` };
    },
    async entry({ path: entryPath, parent, selectors, flags = [] }) {
      const [made] = await site.ask<readonly { entry: { id: string } }[]>(
        'entry',
        'create',
        '--spiffe-id',
        `spiffe://${name}${entryPath}`,
        '--parent-id',
        parent,
        ...selectors.flatMap((selector) => ['--selector', selector]),
        ...flags,
      );
      if (made === undefined) throw new Error('no entry was made');
      return made.entry.id;
    },
    async writeBundle() {
      const { code, stdout, stderr } = await site.steeple('bundle', 'show');
      if (code !== 0) throw new Error(stderr);
      await writeFile(bundleFile, stdout);
    },
    async program(name) {
      const file = path.join(directory, 'bin', name);
      // A link where it can be one: the path counts, not the bytes.
      await link(node, file).catch(() => copyFile(node, file));
      return file;
    },
    workload: (program, { endpoint }, args, run = {}) =>
      own(startRunning([program, path.join(here, 'workload.ts'), ...args], { ...run, env: { ...run.env, SPIFFE_ENDPOINT_SOCKET: endpoint } })),
    operators(...names) {
      const client = createRpcClient({ clock: systemClock, address: `unix:${socket}` });
      clients.push(client);
      return { client, services: loadServices(...names) };
    },
    async [Symbol.asyncDispose]() {
      for (const client of clients) client.close();
      // Workloads first: what they say of an agent that goes is of no interest.
      for (const running of started.toReversed()) await running.end('SIGKILL');
      await rm(directory, { recursive: true, force: true });
    },
  };
  await site.configureServer(options.server ?? '');
  return site;
}

/** Nobody has it now; that nobody takes it before its user does is likely enough for a test. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}
