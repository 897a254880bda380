/**
 * The server as a program: the file and what lies over it, signals, exit codes, backup and restore. What runs is
 * `server.ts`; how the words got here is the command line's.
 */
import { cp, mkdir, readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { url as inspectorUrl } from 'node:inspector';
import process from 'node:process';
import { systemClock } from '../runtime/clock.ts';
import { ConfigError, formatProblem, type Overlay } from '../runtime/config.ts';
import { checkFooting } from '../runtime/floor.ts';
import { createHealth } from '../runtime/health.ts';
import { createLogger, type RootLogger } from '../runtime/log.ts';
import { createMetrics } from '../runtime/metrics.ts';
import { notifyWhenReady } from '../runtime/notify.ts';
import { createWatch, type WatchSource } from '../runtime/watch.ts';
import { isSpiffeError, SpiffeError } from '../spiffe/errors.ts';
import { formatServerConfig, parseServerConfig, restartKeys, type ServerConfig } from './config.ts';
import { keysDirectory, runServerParts, storePath } from './server.ts';
import { backupStore, restoreStore } from './store/backup.ts';

/** What the program is given by whoever starts it. */
export interface ServerIo {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborts when the server is to stop. */
  readonly signal: AbortSignal;
}

export interface ServerFlags {
  /** `undefined` takes the default file if it is there. */
  readonly config: string | undefined;
  readonly overlays: readonly Overlay[];
}

/** Stable for service managers. */
export const serverExitCodes = { stopped: 0, unavailable: 69, internal: 70, denied: 77, config: 78 } as const;

const defaultConfigFile = '/etc/steeple/server.yaml';
const storeFile = 'steeple.sqlite';

/** Runs until the signal aborts; yields the exit code. */
export async function runServer(flags: ServerFlags, version: string, io: ServerIo): Promise<number> {
  let started: ServerConfig;
  try {
    started = await readConfig(flags);
  } catch (error) {
    return tellProblems(error, io);
  }
  const live = createWatch(started);
  const log = createLogger({ clock: systemClock, level: started.log.level, format: started.log.format, write: io.out });
  const health = createHealth();
  // The parts declare theirs one after the other; until all have, nothing unmet does not mean ready.
  const opened = health.condition('started', 'the server is still starting');
  const reload = (): void => void reloadConfig(flags, started, live, log);
  process.on('SIGHUP', reload);
  const over = new AbortController();
  try {
    checkFooting({ version: process.versions.node, execArgv: process.execArgv, inspectorUrl: inspectorUrl() });
    log.info('server.starting', { version, trustDomain: started.trust_domain, pid: process.pid });
    void notifyWhenReady(health.state, io.env['NOTIFY_SOCKET'], AbortSignal.any([io.signal, over.signal]));
    const parts = { config: started, version, clock: systemClock, log, metrics: createMetrics(), health, live, onListening: () => opened.meet() };
    await runServerParts(parts, io.signal);
    log.info('server.stopped');
    return serverExitCodes.stopped;
  } catch (error) {
    const code = exitCodeOf(error);
    log.error('server.ended', { code, error });
    return code;
  } finally {
    over.abort(new Error('the server is over'));
    process.off('SIGHUP', reload);
  }
}

/** Prints the configuration in force, or everything wrong with it. */
export async function validateServer(flags: ServerFlags, io: Pick<ServerIo, 'out' | 'err'>): Promise<number> {
  try {
    io.out(formatServerConfig(await readConfig(flags)));
    return serverExitCodes.stopped;
  } catch (error) {
    return tellProblems(error, io);
  }
}

/** Copies the store, also of a running server, and the key files into a directory that must not exist yet. */
export async function backupServer(flags: ServerFlags, to: string, io: Pick<ServerIo, 'out' | 'err'>): Promise<number> {
  try {
    const config = await readConfig(flags);
    await mkdir(to, { mode: 0o700 }).catch((cause: unknown) => {
      throw new SpiffeError('exists', 'server.backup.target', `${to} cannot be made; name a directory that does not exist yet`, { cause });
    });
    const keys = keysDirectory(config);
    // Keys first: one made in between is then missing from the copy's store as well, and forgotten.
    if (keys !== undefined) await cp(keys, path.join(to, 'keys'), { recursive: true, preserveTimestamps: true });
    const facts = await backupStore(storePath(config), path.join(to, storeFile));
    io.out(`backed up ${facts.trustDomain} at revision ${facts.revision} to ${to}\n`);
    return serverExitCodes.stopped;
  } catch (error) {
    return tellProblems(error, io);
  }
}

/** Puts a backup in place of what is there, which has to be asked for; the server must not be running. */
export async function restoreServer(flags: ServerFlags, from: string, replace: boolean, io: Pick<ServerIo, 'out' | 'err'>): Promise<number> {
  try {
    const config = await readConfig(flags);
    const facts = await restoreStore(path.join(from, storeFile), storePath(config), { clock: systemClock, actor: `operator:${process.getuid?.() ?? 0}/${process.pid}`, replace });
    const keys = keysDirectory(config);
    if (keys !== undefined) await restoreKeys(path.join(from, 'keys'), keys);
    io.out(`restored ${facts.trustDomain} at revision ${facts.revision}, epoch ${facts.epoch}; agents will take a snapshot\n`);
    return serverExitCodes.stopped;
  } catch (error) {
    return tellProblems(error, io);
  }
}

/** Keys of later authorities stay beside them; the server forgets those that its store does not know. */
async function restoreKeys(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true, mode: 0o700 });
  for (const name of await readdir(from)) {
    const source = path.join(from, name);
    if ((await stat(source)).isFile()) await cp(source, path.join(to, name), { force: true, preserveTimestamps: true });
  }
}

/** @throws ConfigError; missing `server.config.missing` */
async function readConfig(flags: ServerFlags): Promise<ServerConfig> {
  const file = flags.config ?? defaultConfigFile;
  let text = '';
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    const absent = cause instanceof Error && 'code' in cause && cause.code === 'ENOENT';
    if (flags.config !== undefined || !absent) {
      throw new SpiffeError('missing', 'server.config.missing', `the configuration file ${file} cannot be read`, { cause });
    }
  }
  return parseServerConfig(text, flags.overlays);
}

/** Log level, default TTLs and rates are applied at once, the rest is named; what is not valid changes nothing. */
async function reloadConfig(flags: ServerFlags, started: ServerConfig, live: WatchSource<ServerConfig>, log: RootLogger): Promise<void> {
  try {
    const next = await readConfig(flags);
    log.setLevel(next.log.level);
    log.info('config.reloaded', { restart: restartKeys(started, next) });
    live.set({ ...started, svids: { ...started.svids, ...next.svids, jwt_issuer: started.svids.jwt_issuer }, limits: { ...next.limits, entries: started.limits.entries } });
  } catch (error) {
    const problems = error instanceof ConfigError ? error.problems.map(formatProblem) : undefined;
    log.error('config.refused', { problem: problems, error });
  }
}

function tellProblems(error: unknown, io: Pick<ServerIo, 'err'>): number {
  if (error instanceof ConfigError) {
    for (const problem of error.problems) io.err(`${formatProblem(problem)}\n`);
    return serverExitCodes.config;
  }
  if (!isSpiffeError(error)) throw error;
  io.err(`${error.message} [${error.reason}]\n`);
  return exitCodeOf(error);
}

function exitCodeOf(error: unknown): number {
  if (!isSpiffeError(error)) return serverExitCodes.internal;
  switch (error.kind) {
    case 'internal':
      return serverExitCodes.internal;
    case 'denied':
    case 'unauthenticated':
      return serverExitCodes.denied;
    case 'unavailable':
    case 'limited':
      return serverExitCodes.unavailable;
    default:
      return serverExitCodes.config;
  }
}
