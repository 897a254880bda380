/**
 * What an operator may say about a server: the schema of its file with every default, and the rules across keys. Keys keep
 * the file's spelling; reading the file and the flags is `main.ts`.
 */
import { stringify } from 'yaml';
import { z } from 'zod';
import { absolutePath, duration, type Overlay, parseConfig, parsed, port, section, socketPath } from '../runtime/config.ts';
import { logLevels } from '../runtime/log.ts';
import { parseTrustDomain } from '../spiffe/id.ts';
import { nodeAttestor } from './admission/config.ts';
import { checkShown, endpointSection, fetchSection, oidcSection } from './federation/config.ts';

const keyType = z.enum(['ec-p256', 'ec-p384', 'rsa-2048', 'rsa-4096']).default('ec-p256');

const authority = section({
  key_type: keyType,
  /** Of the authority itself; what it signs ends with it at the latest. */
  ttl: duration({ min: '30s', max: '3650d' }).prefault('24h'),
});

const rate = (standard: number): z.ZodDefault<z.ZodInt> => z.int().min(0).max(1_000_000).default(standard);
const ttl = (standard: string) => duration({ min: '1s', max: '365d' }).prefault(standard);

export const schema = section({
  trust_domain: parsed(parseTrustDomain),
  data_dir: absolutePath().default('/var/lib/steeple/server'),
  socket_path: socketPath().default('/run/steeple/server/api.sock'),
  listen: section({
    address: z.string().min(1).default('0.0.0.0'),
    port: port().default(8081),
    min_tls_version: z.enum(['1.2', '1.3']).default('1.3'),
    connections: z.int().min(1).max(1_000_000).default(10_000),
  }).prefault({}),
  store: section({ type: z.literal('sqlite'), path: absolutePath().optional() }).prefault({ type: 'sqlite' }),
  keys: z
    .discriminatedUnion('type', [
      section({
        type: z.literal('disk'),
        directory: absolutePath().optional(),
        /** 32 bytes, owner-only; keys are sealed with it. */
        key_file: absolutePath().optional(),
        /** A file whose first line is a passphrase; keys are sealed with a key derived from it. */
        passphrase_file: absolutePath().optional(),
      }),
      section({ type: z.literal('memory') }),
    ])
    .prefault({ type: 'disk' }),
  authorities: section({
    x509: authority.prefault({}),
    jwt: authority.prefault({}),
    /** WIT-SVIDs are issued when this is here. */
    wit: authority.optional(),
    /** How long agents that are away are waited for before a published authority signs. */
    absence: duration({ min: '0s', max: '365d' }).prefault('1h'),
    /** At which agents of SPIRE poll; they count as told after three of them. */
    poll_interval: duration({ min: '1s', max: '10m' }).prefault('5s'),
  }).prefault({}),
  svids: section({
    x509_ttl: ttl('1h'),
    agent_ttl: ttl('1h'),
    jwt_ttl: ttl('5m'),
    wit_ttl: ttl('1h'),
    jwt_issuer: z.string().min(1).max(2048).optional(),
  }).prefault({}),
  attestors: z.array(nodeAttestor).default([{ type: 'join_token' }]),
  federation: section({ fetch: fetchSection.prefault({}), endpoint: endpointSection.optional() }).prefault({}),
  oidc: oidcSection.optional(),
  limits: section({
    entries: z.int().min(1).max(10_000_000).default(1_500_000),
    /** Calls or items a second of one caller; 0 is no limit. */
    signing: rate(2_000),
    tokens: rate(2_000),
    status: rate(10),
    sync: rate(50),
    report: rate(50),
    publish: rate(500),
  }).prefault({}),
  record: section({
    /** How long a credential stays in the ledger after it expired. */
    credentials: duration({ min: '1h', max: '3650d' }).prefault('30d'),
    audit: duration({ min: '1h', max: '3650d' }).prefault('400d'),
  }).prefault({}),
  health: section({ address: z.string().min(1).default('127.0.0.1'), port: port() }).optional(),
  log: section({
    level: z.enum(logLevels).default('info'),
    format: z.enum(['json', 'human']).default('json'),
  }).prefault({}),
}).superRefine((config, context) => {
  const issue = (path: string[], message: string): void => context.addIssue({ code: 'custom', path, message });
  const { keys, svids, authorities } = config;
  if (keys.type === 'disk' && keys.key_file !== undefined && keys.passphrase_file !== undefined) {
    issue(['keys', 'passphrase_file'], 'key_file and passphrase_file cannot both be given');
  }
  for (const name of ['x509_ttl', 'agent_ttl'] as const) {
    if (svids[name] > authorities.x509.ttl) issue(['svids', name], 'must not be longer than authorities.x509.ttl');
  }
  if (authorities.wit !== undefined && svids.wit_ttl > authorities.wit.ttl) {
    issue(['svids', 'wit_ttl'], 'must not be longer than authorities.wit.ttl');
  }
  if (svids.jwt_ttl > authorities.jwt.ttl) issue(['svids', 'jwt_ttl'], 'must not be longer than authorities.jwt.ttl');
  checkShown(config, issue);
  const types = config.attestors.map(({ type }) => type);
  for (const [index, type] of types.entries()) {
    if (types.indexOf(type) !== index) issue(['attestors', String(index)], `${type} is listed twice`);
  }
});

/** Frozen; keys as in the file, durations in milliseconds. */
export type ServerConfig = z.output<typeof schema>;

/** @throws ConfigError with every problem */
export function parseServerConfig(text: string, overlays: readonly Overlay[] = []): ServerConfig {
  return parseConfig(text, schema, overlays);
}

/** Durations in sections of other rooms. */
const durations: ReadonlySet<string> = new Set(['max_age', 'max_agent_life', 'max_token_age', 'shortest', 'longest', 'refresh_hint']);

/** Everything in force, defaults included, in a form that can be read back. */
export function formatServerConfig(config: ServerConfig): string {
  const { authorities, svids, record } = config;
  const withUnits = (key: string, value: unknown): unknown => (durations.has(key) && typeof value === 'number' ? written(value) : value);
  const { attestors, federation, oidc } = JSON.parse(JSON.stringify(config, withUnits)) as Readonly<Record<string, unknown>>;
  return stringify({
    ...config,
    attestors,
    federation,
    ...(oidc !== undefined && { oidc }),
    authorities: {
      x509: { ...authorities.x509, ttl: written(authorities.x509.ttl) },
      jwt: { ...authorities.jwt, ttl: written(authorities.jwt.ttl) },
      ...(authorities.wit !== undefined && { wit: { ...authorities.wit, ttl: written(authorities.wit.ttl) } }),
      absence: written(authorities.absence),
      poll_interval: written(authorities.poll_interval),
    },
    svids: {
      ...svids,
      x509_ttl: written(svids.x509_ttl),
      agent_ttl: written(svids.agent_ttl),
      jwt_ttl: written(svids.jwt_ttl),
      wit_ttl: written(svids.wit_ttl),
    },
    record: { credentials: written(record.credentials), audit: written(record.audit) },
  });
}

function written(ms: number): string {
  const units = [
    ['d', 86_400_000],
    ['h', 3_600_000],
    ['m', 60_000],
    ['s', 1_000],
  ] as const;
  const [name, length] = units.find(([, unit]) => ms > 0 && ms % unit === 0) ?? ['ms', 1];
  return `${ms / length}${name}`;
}

/** The keys in which the two differ and that only a restart applies. Log level, default TTLs and rates are applied at once. */
export function restartKeys(before: ServerConfig, after: ServerConfig): readonly string[] {
  const fixed = (config: ServerConfig): Record<string, unknown> => ({
    ...config,
    svids: { jwt_issuer: config.svids.jwt_issuer },
    limits: { entries: config.limits.entries },
    log: { format: config.log.format },
  });
  const [a, b] = [fixed(before), fixed(after)];
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((name) => JSON.stringify(a[name]) !== JSON.stringify(b[name]));
}
