/**
 * `steeple server …` and `steeple agent …`: the two programs run, their configurations checked, their health asked, the
 * server's state backed up. Flags are put over the file here; what they mean is each program's own `main.ts`.
 */
import { resolve } from 'node:path';
import { workloadEndpoint } from '../../client/index.ts';
import type { Overlay } from '../../runtime/config.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { command, type Command } from '../command.ts';
import type { FlagSpec, FlagSpecs, FlagValues } from '../flags.ts';
import { askHealth, healthFlags } from '../health.ts';
import { publicSocketFlag, serverSocket, serverSocketFlag, workloadAddress } from '../operators.ts';
import { version } from '../version.ts';

const logFlags = {
  'log-level': { type: 'text', value: 'LEVEL', summary: 'how much is logged', choices: ['debug', 'info', 'warn', 'error'] },
  'log-format': { type: 'text', value: 'FORM', summary: 'how lines look', choices: ['json', 'human'] },
} as const satisfies Record<string, FlagSpec>;

const serverFlags = {
  config: { type: 'text', value: 'FILE', summary: 'the configuration; /etc/steeple/server.yaml, if it is there' },
  'trust-domain': { type: 'text', value: 'NAME', summary: 'the trust domain' },
  'data-dir': { type: 'text', value: 'DIR', summary: 'where state is kept' },
  socket: { type: 'text', value: 'PATH', summary: "the operators' socket" },
  address: { type: 'text', value: 'IP', summary: 'where agents connect' },
  port: { type: 'number', value: 'N', summary: 'where agents connect' },
  ...logFlags,
} as const satisfies FlagSpecs;

const agentFlags = {
  config: { type: 'text', value: 'FILE', summary: 'the configuration; /etc/steeple/agent.yaml, if it is there' },
  'trust-domain': { type: 'text', value: 'NAME', summary: 'the trust domain' },
  'data-dir': { type: 'text', value: 'DIR', summary: 'where state is kept' },
  socket: { type: 'text', value: 'PATH', summary: 'the public socket, where workloads connect' },
  'admin-socket': { type: 'text', value: 'PATH', summary: "the private socket, for this node's operators" },
  'server-address': { type: 'text', value: 'HOST', summary: 'where the server is' },
  'server-port': { type: 'number', value: 'N', summary: 'where the server is' },
  'join-token': { type: 'text', value: 'TOKEN', summary: 'to join with; seen by whoever lists processes' },
  'join-token-file': { type: 'text', value: 'FILE', summary: 'a file with the token to join with' },
  'trust-bundle': { type: 'text', value: 'FILE', summary: "the server's bundle, for the first contact" },
  'trust-bundle-format': { type: 'text', value: 'FORM', summary: 'what the bundle file is', choices: ['pem', 'spiffe'] },
  'trust-pin': { type: 'text', value: 'SHA256', summary: "the hash of one of the server's authorities, instead of a bundle" },
  'insecure-bootstrap': { type: 'switch', summary: 'DANGEROUS: believe whoever answers the first contact' },
  ...logFlags,
} as const satisfies FlagSpecs;

/** Where each flag lies in the server's configuration. */
const serverPaths: Readonly<Record<Exclude<keyof typeof serverFlags, 'config'>, readonly string[]>> = {
  'trust-domain': ['trust_domain'],
  'data-dir': ['data_dir'],
  socket: ['socket_path'],
  address: ['listen', 'address'],
  port: ['listen', 'port'],
  'log-level': ['log', 'level'],
  'log-format': ['log', 'format'],
};

/** The agent's own name of each flag. */
const agentNames: Readonly<Record<keyof typeof agentFlags, string>> = {
  config: 'config',
  'trust-domain': 'trust-domain',
  'data-dir': 'data-dir',
  socket: 'socket-path',
  'admin-socket': 'admin-socket-path',
  'server-address': 'server-address',
  'server-port': 'server-port',
  'join-token': 'join-token',
  'join-token-file': 'join-token-file',
  'trust-bundle': 'trust-bundle',
  'trust-bundle-format': 'trust-bundle-format',
  'trust-pin': 'trust-pin',
  'insecure-bootstrap': 'insecure-bootstrap',
  'log-level': 'log-level',
  'log-format': 'log-format',
};

/** Flags whose values are paths, which the configuration wants absolute. */
const pathFlags: ReadonlySet<string> = new Set(['config', 'data-dir', 'socket', 'admin-socket', 'join-token-file', 'trust-bundle']);

// The programs are loaded when they are run: what they stand on is much, and other commands need nothing of it.
const server = () => import('../../server/main.ts');
const agent = () => import('../../agent/main.ts');

export const daemonCommands: readonly Command[] = [
  command({
    name: 'server run',
    summary: 'run the server until it is told to stop',
    flags: serverFlags,
    run: async ({ flags }, io) => (await server()).runServer(serverArguments(flags), version, io),
  }),
  command({
    name: 'server validate',
    summary: 'print the configuration in force, or everything wrong with it',
    flags: serverFlags,
    run: async ({ flags }, io) => (await server()).validateServer(serverArguments(flags), io),
  }),
  command({
    name: 'server healthcheck',
    summary: 'ask whether the server can serve',
    flags: { ...serverSocketFlag, ...healthFlags },
    run: async ({ flags }, io) => askHealth({ address: `unix:${serverSocket(flags.socket, io)}`, who: 'server', ...howToAsk(flags) }, io),
  }),
  command({
    name: 'server backup',
    summary: 'copy the store, also of a running server, and the keys into a new directory',
    usage: ['[flags] DIR'],
    flags: serverFlags,
    positionals: ['DIR'],
    run: async ({ flags, positionals }, io) =>
      (await server()).backupServer(serverArguments(flags), wantedDirectory(positionals, 'into which new directory?'), io),
  }),
  command({
    name: 'server restore',
    summary: 'put a backup in place; the server must not be running',
    usage: ['[flags] DIR'],
    flags: { ...serverFlags, replace: { type: 'switch', summary: 'also where there is a store already, which is lost' } },
    positionals: ['DIR'],
    run: async ({ flags, positionals }, io) =>
      (await server()).restoreServer(serverArguments(flags), wantedDirectory(positionals, 'from which backup?'), flags.replace === true, io),
  }),
  command({
    name: 'agent run',
    summary: 'run the agent until it is told to stop',
    flags: agentFlags,
    run: async ({ flags }, io) => (await agent()).runAgent(agentArguments(flags), version, io),
  }),
  command({
    name: 'agent validate',
    summary: 'print the configuration in force, or everything wrong with it',
    flags: agentFlags,
    run: async ({ flags }, io) => (await agent()).validateAgent(agentArguments(flags), io),
  }),
  command({
    name: 'agent healthcheck',
    summary: 'ask whether the agent can serve',
    flags: { ...publicSocketFlag, ...healthFlags },
    run: async ({ flags }, io) => askHealth({ address: workloadEndpoint(workloadAddress(flags.socket, io)), who: 'agent', ...howToAsk(flags) }, io),
  }),
];

function serverArguments(flags: FlagValues<typeof serverFlags>): { readonly config: string | undefined; readonly overlays: readonly Overlay[] } {
  const overlays: Overlay[] = [];
  for (const [name, path] of Object.entries(serverPaths)) {
    const value = flags[name as keyof typeof serverPaths];
    if (value !== undefined) overlays.push({ path, value: given(name, value) });
  }
  return { config: flags.config === undefined ? undefined : resolve(flags.config), overlays };
}

function agentArguments(flags: FlagValues<typeof agentFlags>): readonly string[] {
  const argv: string[] = [];
  for (const [name, known] of Object.entries(agentNames)) {
    const value = flags[name as keyof typeof agentNames];
    if (value === true) argv.push(`--${known}`);
    else if (value !== undefined && value !== false) argv.push(`--${known}=${given(name, value)}`);
  }
  return argv;
}

function given<T extends string | number | boolean>(name: string, value: T): T | string {
  return pathFlags.has(name) ? resolve(String(value)) : value;
}

function howToAsk(flags: FlagValues<typeof healthFlags>): { readonly shallow: boolean; readonly verbose: boolean; readonly timeoutMs: number } {
  return { shallow: flags.shallow === true, verbose: flags.verbose === true, timeoutMs: (flags.timeout ?? 5) * 1000 };
}

function wantedDirectory(positionals: readonly string[], question: string): string {
  const [directory] = positionals;
  if (directory === undefined) throw new SpiffeError('invalid', 'cli.directory.missing', question);
  return resolve(directory);
}
