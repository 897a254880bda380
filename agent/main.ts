/**
 * The agent as a program: arguments over the file, signals, exit codes. What runs is `agent.ts`; how the words got here is
 * the command line's.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { url as inspectorUrl } from 'node:inspector';
import process from 'node:process';
import { parseArgs } from 'node:util';
import { isSpiffeError, SpiffeError } from '../spiffe/errors.ts';
import { systemClock } from '../runtime/clock.ts';
import { ConfigError, formatProblem, type Overlay } from '../runtime/config.ts';
import { checkFooting } from '../runtime/floor.ts';
import { createHealth } from '../runtime/health.ts';
import { createLogger, type RootLogger } from '../runtime/log.ts';
import { createMetrics } from '../runtime/metrics.ts';
import { notifyWhenReady } from '../runtime/notify.ts';
import { runAgentParts } from './agent.ts';
import { formatAgentConfig, parseAgentConfig, restartKeys, type AgentConfig } from './config.ts';
import type { SealingKeyFile } from './svids/disk.ts';

/** What the program is given by whoever starts it. */
export interface AgentIo {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborts when the agent is to stop. */
  readonly signal: AbortSignal;
}

/** Stable for service managers: 3 and 4 mean that starting again does not help. */
export const agentExitCodes = {
  stopped: 0,
  usage: 2,
  /** The server has banned this agent. */
  banned: 3,
  /** The agent must join anew: a new token, or evidence that convinces. */
  mustRejoin: 4,
  unavailable: 69,
  internal: 70,
  denied: 77,
  config: 78,
} as const;

const defaultConfigFile = '/etc/steeple/agent.yaml';

/** Flags that put one key over the file's. */
const overlayFlags: Readonly<Record<string, readonly string[]>> = {
  'trust-domain': ['trust_domain'],
  'server-address': ['server', 'address'],
  'server-port': ['server', 'port'],
  'data-dir': ['data_dir'],
  'socket-path': ['socket_path'],
  'admin-socket-path': ['admin_socket_path'],
  'join-token': ['attestor', 'token'],
  'join-token-file': ['attestor', 'token_file'],
  'trust-bundle': ['trust_bundle', 'path'],
  'trust-bundle-format': ['trust_bundle', 'format'],
  'trust-pin': ['trust_bundle', 'pin'],
  'log-level': ['log', 'level'],
  'log-format': ['log', 'format'],
};
const numbers = new Set(['server-port']);

export interface AgentArguments {
  readonly file: string;
  /** Whether the file was named; the default one may be missing. */
  readonly named: boolean;
  readonly overlays: readonly Overlay[];
}

/**
 * @param argv `--config FILE` and the flags above
 * @throws invalid `agent.usage`
 */
export function parseAgentArguments(argv: readonly string[]): AgentArguments {
  const options = Object.fromEntries([...Object.keys(overlayFlags), 'config'].map((name) => [name, { type: 'string' as const }]));
  let values: Readonly<Record<string, string | boolean | undefined>>;
  try {
    values = parseArgs({ args: [...argv], options: { ...options, 'insecure-bootstrap': { type: 'boolean' } }, strict: true }).values;
  } catch (cause) {
    throw new SpiffeError('invalid', 'agent.usage', cause instanceof Error ? cause.message : 'arguments are not understood', { cause });
  }
  const overlays: Overlay[] = [];
  for (const [name, where] of Object.entries(overlayFlags)) {
    const value = values[name];
    if (value === undefined) continue;
    // A token on the command line goes with the attestor that takes one, whatever the file says.
    if (where[0] === 'attestor') overlays.push({ path: ['attestor', 'type'], value: 'join_token' });
    overlays.push({ path: where, value: numbers.has(name) ? Number(value) : value });
  }
  if (values['insecure-bootstrap'] === true) overlays.push({ path: ['trust_bundle', 'insecure'], value: true });
  const file = values['config'];
  return { file: typeof file === 'string' ? file : defaultConfigFile, named: file !== undefined, overlays };
}

/** Runs until the signal aborts; yields the exit code. */
export async function runAgent(argv: readonly string[], version: string, io: AgentIo): Promise<number> {
  let given: AgentArguments;
  let config: AgentConfig;
  try {
    given = parseAgentArguments(argv);
    config = await readConfig(given);
  } catch (error) {
    return tellProblems(error, io);
  }
  const log = createLogger({ clock: systemClock, level: config.log.level, format: config.log.format, write: io.out });
  const health = createHealth();
  // The parts declare theirs one after the other; until all have, nothing unmet does not mean ready.
  const started = health.condition('started', 'the agent is still starting');
  const reload = (): void => void reloadConfig(given, config, log);
  process.on('SIGHUP', reload);
  const over = new AbortController();
  try {
    checkFooting({ version: process.versions.node, execArgv: process.execArgv, inspectorUrl: inspectorUrl() });
    log.info('agent.starting', { version, trustDomain: config.trust_domain, pid: process.pid });
    void notifyWhenReady(health.state, io.env['NOTIFY_SOCKET'], AbortSignal.any([io.signal, over.signal]));
    await runAgentParts(
      {
        config,
        version,
        clock: systemClock,
        random: Math.random,
        log,
        logLevel: log,
        metrics: createMetrics(),
        health,
        sealingKey: sealingKeyOf(config, io.env),
        onComposed: () => started.meet(),
      },
      io.signal,
    );
    log.info('agent.stopped');
    return agentExitCodes.stopped;
  } catch (error) {
    const code = exitCodeOf(error);
    log.error('agent.ended', { code, error });
    return code;
  } finally {
    over.abort(new Error('the agent is over'));
    process.off('SIGHUP', reload);
  }
}

/** Prints the configuration in force, or everything wrong with it. */
export async function validateAgent(argv: readonly string[], io: Pick<AgentIo, 'out' | 'err'>): Promise<number> {
  try {
    io.out(formatAgentConfig(await readConfig(parseAgentArguments(argv))));
    return agentExitCodes.stopped;
  } catch (error) {
    return tellProblems(error, io);
  }
}

/** @throws ConfigError; missing `agent.config.missing` */
async function readConfig(given: AgentArguments): Promise<AgentConfig> {
  let text = '';
  try {
    text = await readFile(given.file, 'utf8');
  } catch (cause) {
    const absent = cause instanceof Error && 'code' in cause && cause.code === 'ENOENT';
    if (given.named || !absent) {
      throw new SpiffeError('missing', 'agent.config.missing', `the configuration file ${given.file} cannot be read`, { cause });
    }
  }
  return parseAgentConfig(text, given.overlays);
}

/** The log level is applied at once, the rest is named; what is not valid changes nothing. */
async function reloadConfig(given: AgentArguments, running: AgentConfig, log: RootLogger): Promise<void> {
  try {
    const next = await readConfig(given);
    log.setLevel(next.log.level);
    log.info('config.reloaded', { restart: restartKeys(running, next) });
  } catch (error) {
    const problems = error instanceof ConfigError ? error.problems.map(formatProblem) : undefined;
    log.error('config.refused', { file: given.file, problem: problems, error });
  }
}

function sealingKeyOf(config: AgentConfig, env: AgentIo['env']): SealingKeyFile | undefined {
  const { key_file: file, key_credential: credential } = config.cache;
  if (file !== undefined) return { path: file, kind: 'private' };
  if (credential === undefined) return undefined;
  const directory = env['CREDENTIALS_DIRECTORY'];
  if (directory === undefined) {
    throw new SpiffeError('invalid', 'agent.credential', `cache.key_credential names ${credential}, but the service manager passed no credentials`);
  }
  return { path: path.join(directory, credential), kind: 'credential' };
}

function tellProblems(error: unknown, io: Pick<AgentIo, 'err'>): number {
  if (error instanceof ConfigError) {
    for (const problem of error.problems) io.err(`${formatProblem(problem)}\n`);
    return agentExitCodes.config;
  }
  if (!isSpiffeError(error)) throw error;
  io.err(`${error.message}\n`);
  return error.reason === 'agent.usage' ? agentExitCodes.usage : agentExitCodes.config;
}

function exitCodeOf(error: unknown): number {
  if (!isSpiffeError(error)) return agentExitCodes.internal;
  switch (error.reason) {
    case 'identity.banned':
      return agentExitCodes.banned;
    case 'identity.must-rejoin':
      return agentExitCodes.mustRejoin;
  }
  switch (error.kind) {
    case 'internal':
      return agentExitCodes.internal;
    case 'denied':
    case 'unauthenticated':
      return agentExitCodes.denied;
    case 'invalid':
      return agentExitCodes.config;
    default:
      return agentExitCodes.unavailable;
  }
}
