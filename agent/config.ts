/**
 * What an operator may say about an agent: the schema of its file with every default, and the rules across keys. Keys keep
 * the file's spelling; reading the file and the flags is `main.ts`.
 */
import path from 'node:path';
import { stringify } from 'yaml';
import { z } from 'zod';
import { parseTrustDomain } from '../spiffe/id.ts';
import { absolutePath, duration, parseConfig, parsed, port, section, size, socketPath, type Overlay } from '../runtime/config.ts';
import { logLevels, Secret } from '../runtime/log.ts';
import { authorizedDelegates, broker, brokerProblems } from './broker/config.ts';
import { deliveries } from './delivery/config.ts';
import { nodeAttestor } from './node/config.ts';
import { sds } from './sds/config.ts';
import { workload } from './workload/config.ts';

const trustBundle = z.union(
  [
    section({ path: absolutePath(), format: z.enum(['pem', 'spiffe']).default('pem') }),
    section({ pin: z.string().regex(/^[0-9a-fA-F]{64}$/, 'must be a SHA-256 in hex: 64 digits') }),
    section({ insecure: z.literal(true) }),
  ],
  'must be one of {path, format}, {pin: <sha256>} and {insecure: true}',
);

const count = (min: number, max: number): z.ZodInt => z.int().min(min).max(max);

export const schema = section({
  trust_domain: parsed(parseTrustDomain),
  server: section({
    address: z.string().min(1).default('127.0.0.1'),
    port: port().default(8081),
    min_tls_version: z.enum(['1.2', '1.3']).default('1.3'),
  }).prefault({}),
  data_dir: absolutePath().default('/var/lib/steeple/agent'),
  socket_path: socketPath().default('/run/steeple/agent/public/api.sock'),
  admin_socket_path: socketPath().default('/run/steeple/agent/private/admin.sock'),
  /** What to trust until a bundle was learned; not looked at afterwards. */
  trust_bundle: trustBundle.optional(),
  attestor: nodeAttestor.prefault({ type: 'join_token' }),
  workload: workload.prefault({}),
  broker: broker.optional(),
  authorized_delegates: authorizedDelegates,
  deliveries,
  sds: sds.prefault({}),
  limits: section({
    connections: count(1, 1_000_000).default(10_000),
    connections_per_user: count(1, 1_000_000).default(2_000),
    connects_per_second_per_user: count(1, 1_000_000).default(500),
    calls_per_user: count(1, 1_000_000).default(4_000),
    calls_per_connection: count(1, 10_000).default(100),
    backlog: count(1, 65_535).default(4_096),
    prefetched_svids: count(0, 1_000_000).default(1_000),
    kept_tokens: count(0, 1_000_000).default(10_000),
  }).prefault({}),
  cache: section({
    mode: z.enum(['sealed', 'off']).default('sealed'),
    /** 32 bytes, owner-only. */
    key_file: absolutePath().optional(),
    /** Name of a systemd credential of 32 bytes. */
    key_credential: z
      .string()
      .regex(/^[A-Za-z0-9._-]+$/)
      .optional(),
  }).prefault({}),
  events: section({
    mode: z.enum(['on', 'off']).default('on'),
    spool_size: size({ min: 1024 * 1024, max: 64 * 1024 * 1024 }).default(64 * 1024 * 1024),
  }).prefault({}),
  sync: section({
    /** Between two looks at a server that has no follow stream. */
    poll_interval: duration({ min: '1s', max: '10m' }).prefault('5s'),
  }).prefault({}),
  health: section({ address: z.string().min(1).default('127.0.0.1'), port: port() }).optional(),
  log: section({
    level: z.enum(logLevels).default('info'),
    format: z.enum(['json', 'human']).default('json'),
  }).prefault({}),
}).superRefine((config, context) => {
  const issue = (where: readonly (string | number)[], message: string): void => context.addIssue({ code: 'custom', path: [...where], message });
  const { socket_path, admin_socket_path, cache, sds: secrets } = config;
  for (const [key, publicPath] of [['socket_path', socket_path], ['sds.socket_path', secrets.socket_path]] as const) {
    if (publicPath === undefined) continue;
    const below = path.relative(path.dirname(publicPath), path.dirname(admin_socket_path));
    if (below === '' || (!below.startsWith('..') && !path.isAbsolute(below))) {
      issue(['admin_socket_path'], `must not be in or below the directory of ${key}, which everybody may enter`);
    }
  }
  if (secrets.socket_path === socket_path) issue(['sds', 'socket_path'], 'must differ from socket_path, which has secret discovery as long as on_workload_socket says so');
  for (const { path: where, message } of brokerProblems(config)) issue(where, message);
  if (cache.key_file !== undefined && cache.key_credential !== undefined) {
    issue(['cache', 'key_credential'], 'key_file and key_credential cannot both be given');
  }
  if (cache.mode === 'off' && (cache.key_file ?? cache.key_credential) !== undefined) {
    issue(['cache', 'mode'], 'a key is given for a cache that is off');
  }
});

/** Frozen; keys as in the file. */
export type AgentConfig = z.output<typeof schema>;

/** @throws ConfigError with every problem */
export function parseAgentConfig(text: string, overlays: readonly Overlay[] = []): AgentConfig {
  return parseConfig(text, schema, overlays);
}

/** Numbers once they are read, which a file writes with their unit. */
const durations: ReadonlySet<string> = new Set(['poll_interval', 'relist_interval', 'timeout']);

/** Everything in force, defaults included; secrets are not shown. */
export function formatAgentConfig(config: AgentConfig): string {
  const written = (key: string, value: unknown): unknown => (durations.has(key) ? `${String(value)}ms` : value);
  return stringify(JSON.parse(JSON.stringify(config, written)));
}

/** The keys in which the two differ and that only a restart applies. */
export function restartKeys(before: AgentConfig, after: AgentConfig): readonly string[] {
  const names = new Set([...Object.keys(before), ...Object.keys(after)]) as Set<keyof AgentConfig>;
  return [...names].filter((name) => {
    if (name === 'log') return before.log.format !== after.log.format;
    return plain(before[name]) !== plain(after[name]);
  });
}

function plain(value: unknown): string {
  const reveal = function reveal(this: unknown, key: string, part: unknown): unknown {
    // What is handed in has been through toJSON already, which hides it.
    const raw = typeof this === 'object' && this !== null ? (this as Readonly<Record<string, unknown>>)[key] : undefined;
    return raw instanceof Secret ? String(raw.reveal()) : part;
  };
  return JSON.stringify(value, reveal) ?? '';
}
