/**
 * The composition root of the server: every part made once, in order, by hand, and run until a signal aborts. What an
 * operator may choose is `config.ts`; arguments, signals and exit codes are `main.ts`.
 */
import path from 'node:path';
import { loadServices } from '../proto/load.ts';
import type { Clock } from '../runtime/clock.ts';
import { ensurePrivateDirectory, readPrivateFile } from '../runtime/files.ts';
import { type Health, openHealthPages } from '../runtime/health.ts';
import type { Logger } from '../runtime/log.ts';
import type { Metrics } from '../runtime/metrics.ts';
import { type SealingSecret, sealingKey } from '../runtime/seal.ts';
import { runTasks, type Task } from '../runtime/tasks.ts';
import type { TlsIdentity } from '../runtime/tls.ts';
import { createWatch, type Watch, type WatchSource } from '../runtime/watch.ts';
import { isSpiffeError, SpiffeError } from '../spiffe/errors.ts';
import type { SpiffeId, TrustDomain } from '../spiffe/id.ts';
import { createAdmission } from './admission/admit.ts';
import { createAdmissionGate } from './admission/limits.ts';
import { authorizeAgent } from './admission/standing.ts';
import { createAgentsApi } from './api/agents.ts';
import { type BudgetRates, createBudgets } from './api/budget.ts';
import { createBundlesApi } from './api/bundles.ts';
import type { Standing } from './api/caller.ts';
import { createEntriesApi } from './api/entries.ts';
import { createGate } from './api/handlers.ts';
import { createHealthApi } from './api/health.ts';
import { openDoors } from './api/listen.ts';
import { createNodeApi } from './api/node.ts';
import { createOperatorApi } from './api/operator.ts';
import { createSvidsApi } from './api/svids.ts';
import { createTrustDomainsApi } from './api/trust-domains.ts';
import type { AuditEvent } from './audit/event.ts';
import { createRefusals } from './audit/refusals.ts';
import { serverScope, witness } from './audit/scope.ts';
import { createIssuer } from './authority/issue.ts';
import type { KeyStore } from './authority/keys.ts';
import { openDiskKeyStore } from './authority/keys-disk.ts';
import { createMemoryKeyStore } from './authority/keys-memory.ts';
import { createMint } from './authority/mint.ts';
import { openOwnSvid } from './authority/own-svid.ts';
import { composeProfile, type Profile } from './authority/profile.ts';
import { createProofPool } from './authority/proof.ts';
import { openRotation } from './authority/rotate.ts';
import { createSelfUpstream } from './authority/upstream-self.ts';
import type { ServerConfig } from './config.ts';
import { openFederation } from './federate.ts';
import { publicationLeadMs } from './federation/config.ts';
import { countIssued, createObserver } from './observe.ts';
import { openPages } from './pages.ts';
import { createEntryRules } from './registry/entries.ts';
import { runPruning } from './registry/prune.ts';
import { openRegistry, type Registry } from './registry/registry.ts';
import { openSqliteStore } from './store/sqlite.ts';
import type { Store } from './store/store.ts';
import { openVerifiers } from './verifiers.ts';

export interface ServerParts {
  readonly config: ServerConfig;
  readonly version: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: Metrics;
  readonly health: Health;
  /** What is in force; a reload sets it. Only log level, default TTLs and rates are read from it after the start. */
  readonly live: Watch<ServerConfig>;
  /** Told where the TCP door is once it is open. */
  readonly onListening?: (address: { readonly address: string; readonly port: number }) => void;
}

const operatorSocketMode = 0o770;
const operatorDirectoryMode = 0o750;
const ownerOfAuthorities = 'server';
/** Polls of SPIRE's agents after which they have the bundle. */
const pollsUntilTold = 3;
const graceMs = 60_000;

/** Where the database of this configuration is. */
export function storePath(config: ServerConfig): string {
  return config.store.path ?? path.join(config.data_dir, 'store', 'steeple.sqlite');
}

/** Where its keys are; `undefined` for keys that are kept in memory. */
export function keysDirectory(config: ServerConfig): string | undefined {
  return config.keys.type === 'disk' ? (config.keys.directory ?? path.join(config.data_dir, 'keys')) : undefined;
}

/**
 * Runs until the signal aborts.
 * @throws what parts throw that cannot start: `store.*`, `keys.*`, `authority.*`, `listen.*`, `acceptor.*`
 */
export async function runServerParts(parts: ServerParts, signal: AbortSignal): Promise<void> {
  const { config, clock, log } = parts;
  await ensurePrivateDirectory(config.data_dir);
  await using cleanup = new AsyncDisposableStack();
  const store = await openSqliteStore({ path: storePath(config), trustDomain: config.trust_domain, clock });
  cleanup.defer(() => store.close());
  const keys = await openKeys(config);
  cleanup.defer(() => keys.close());
  const loading = clock.monotonic();
  const registry = await openRegistry({
    store,
    trustDomain: config.trust_domain,
    clock,
    maxEntries: config.limits.entries,
    onDelivered: (delayMs) => delivered(delayMs),
  });
  let delivered: (delayMs: number) => void = () => undefined;
  cleanup.defer(() => registry.close());
  log.info('registry.loaded', { count: registry.entries.size, revision: store.position.revision, ms: Math.round(clock.monotonic() - loading) });
  const { tasks, onDelivered } = await compose(parts, store, keys, registry, cleanup);
  delivered = onDelivered;
  await store.recordAudit([witness(serverScope(clock.now()), 'server.started', { subject: config.trust_domain, detail: { version: parts.version } })]);
  try {
    await runTasks(tasks, signal);
  } catch (error) {
    throw isSpiffeError(error, undefined, 'task.failed') && error.cause !== undefined ? error.cause : error;
  } finally {
    await store.recordAudit([witness(serverScope(clock.now()), 'server.stopped', { subject: config.trust_domain })]).catch(() => undefined);
  }
}

interface Composed {
  readonly tasks: Readonly<Record<string, Task>>;
  readonly onDelivered: (delayMs: number) => void;
}

async function compose(parts: ServerParts, store: Store, keys: KeyStore, registry: Registry, cleanup: AsyncDisposableStack): Promise<Composed> {
  const { config, clock, version, health } = parts;
  const trustDomain = config.trust_domain;
  const { entries, agents, bundles, holdings, feed } = registry;
  const startedAt = clock.now();
  const profile = cachedProfile(() => parts.live.value);
  const refusals = createRefusals(store, clock);
  const record = (events: readonly AuditEvent[]): Promise<void> => refusals.record(events);

  // Authorities, and what signs with them.
  const rotation = await openRotation({
    trustDomain,
    owner: ownerOfAuthorities,
    clock,
    store,
    keys,
    upstream: createSelfUpstream(keys),
    delivery: feed,
    furtherKinds: config.authorities.wit === undefined ? [] : ['wit'],
    policy: (kind) => ({
      // One that is configured no more is not made any more either: only its end is looked after.
      keyType: (config.authorities[kind] ?? config.authorities.jwt).key_type,
      lifeMs: (config.authorities[kind] ?? config.authorities.jwt).ttl,
      slots: {
        absenceMs: config.authorities.absence,
        pollMs: pollsUntilTold * config.authorities.poll_interval,
        leadMs: publicationLeadMs(config, kind),
        graceMs,
      },
    }),
    onProblem: (problem) => observer.problem('authorities', problem),
  });
  const issuing = { trustDomain, clock, active: rotation.active, profile, store, keys };
  const issuer = countIssued(createIssuer({ ...issuing, holdings, recordRefusals: record }), (kind, outcome, count) => observer.issued(kind, outcome, count));
  const ownSvid = await openOwnSvid({ clock, issuer, onProblem: (problem) => observer.problem('own-svid', problem) });
  const proofs = createProofPool();
  cleanup.defer(() => proofs.close());
  const observer = createObserver({
    clock,
    log: parts.log,
    metrics: parts.metrics,
    health,
    read: {
      entries: () => entries.size,
      agents: () => agents.size,
      following: () => feed.following().length,
      revision: () => store.position.revision,
      ownExpiryAt: () => ownSvid.svid.value.expiresAt,
      authorityExpiryAt: () => {
        const { x509, jwt, wit } = rotation.active;
        return Math.min(x509.value.expiresAt, jwt.value.expiresAt, wit?.value.expiresAt ?? Number.POSITIVE_INFINITY);
      },
    },
  });

  // Who may do what.
  const verifiers = await openVerifiers(config.attestors, clock);
  cleanup.defer(() => verifiers.close());
  const admission = createAdmission({
    trustDomain,
    clock,
    verifiers: verifiers.all,
    gate: createAdmissionGate(clock),
    agents,
    issuer,
    store,
    recordRefusals: record,
  });
  const grants = (id: SpiffeId, right: 'admin' | 'downstream'): boolean => {
    for (const entry of entries.bySpiffeId(id)) if (entry[right]) return true;
    return false;
  };
  const standing: Standing = {
    isAdmin: (id) => grants(id, 'admin'),
    isDownstream: (id) => grants(id, 'downstream'),
    authorizeAgent: (identity) => authorizeAgent({ clock, agents, store }, identity),
  };
  const gate = createGate({ standing, budgets: createBudgets(clock, () => ratesOf(parts.live.value)), clock, record });

  const federation = await openFederation({ config: config.federation.fetch, clock, log: parts.log, metrics: parts.metrics, store, bundles });
  const { relationships, refresher } = federation;
  cleanup.defer(() => relationships.close());

  // What is answered on the two doors.
  const definitions = loadServices(
    'grpc.health.v1.Health',
    'spire.api.server.agent.v1.Agent',
    'spire.api.server.bundle.v1.Bundle',
    'spire.api.server.entry.v1.Entry',
    'spire.api.server.svid.v1.SVID',
    'spire.api.server.trustdomain.v1.TrustDomain',
    'steeple.node.v1.Node',
    'steeple.operator.v1.Operator',
  );
  const disconnect = (id: SpiffeId, why: 'banned' | 'evicted'): void => {
    feed.disconnect(id, why);
    doors.cut(id, new SpiffeError('denied', 'agent.disconnected', `the agent was ${why}`));
  };
  const shared = [
    gate.service(
      definitions['spire.api.server.agent.v1.Agent'],
      createAgentsApi({ trustDomain, clock, admission, agents, store, disconnect }),
    ),
    gate.service(definitions['spire.api.server.bundle.v1.Bundle'], createBundlesApi({ trustDomain, clock, bundles, store })),
    gate.service(
      definitions['spire.api.server.entry.v1.Entry'],
      createEntriesApi({
        trustDomain,
        clock,
        rules: createEntryRules({ trustDomain, store, entries }),
        entries,
        authorizedEntries: (id) => holdings.authorizedEntries(id, clock.now()),
      }),
    ),
    gate.service(
      definitions['spire.api.server.svid.v1.SVID'],
      createSvidsApi({ trustDomain, clock, issuer, proofs, mint: createMint(issuing), wit: rotation.active.wit !== undefined }),
    ),
    gate.service(
      definitions['spire.api.server.trustdomain.v1.TrustDomain'],
      createTrustDomainsApi({ trustDomain, clock, relationships, bundles, refresher, store }),
    ),
  ];
  const node = gate.service(
    definitions['steeple.node.v1.Node'],
    createNodeApi({
      clock,
      feed: {
        follow: (agentId, from, followVersion, stop) => feed.follow(agentId, from, followVersion, stop),
        behind: (agentId, position) => feed.behind(agentId, position),
        confirm(agentId, position) {
          feed.confirm(agentId, position);
          rotation.wake();
        },
      },
      issuer,
      store,
    }),
  );
  const operators = [
    gate.service(definitions['grpc.health.v1.Health'], createHealthApi(health)),
    gate.service(
      definitions['steeple.operator.v1.Operator'],
      createOperatorApi({
        clock,
        store,
        authorities: rotation,
        federation: { relationships, state: (name) => refresher.state(name), hasBundle: (name) => bundles.get(name) !== undefined },
        unconfirmed: feed.unconfirmed,
        status: () => ({
          version,
          trustDomain,
          startedAt,
          entries: entries.size,
          agents: agents.size,
          followingAgents: feed.following().length,
          federation: federation.counts(),
          unmetConditions: health.state.value.unmet.map(({ name, why }) => `${name}: ${why}`),
        }),
      }),
    ),
  ];

  const identity: WatchSource<TlsIdentity> = createWatch(identityOf(trustDomain, ownSvid.svid.value, bundles));
  const doors = await openDoors({
    clock,
    trustDomain,
    identity,
    tcp: {
      host: config.listen.address,
      port: config.listen.port,
      minVersion: `TLSv${config.listen.min_tls_version}`,
      maxConnections: config.listen.connections,
    },
    socket: { path: config.socket_path, mode: operatorSocketMode, directoryMode: operatorDirectoryMode },
    gate,
    tcpServices: [...shared, node],
    socketServices: [...shared, ...operators],
    observe: (end) => observer.called(end),
    refused: (error, address) => observer.refused(error, address),
  });
  cleanup.defer(() => doors.close());
  observer.listening.meet();
  parts.onListening?.(doors.address);
  parts.log.info('server.listening', { address: doors.address.address, port: doors.address.port, socket: config.socket_path });

  const refresh = (): void => identity.set(identityOf(trustDomain, ownSvid.svid.value, bundles));
  const tasks: Record<string, Task> = {
    authorities: (stop) => rotation.run(stop),
    'own svid': (stop) => ownSvid.run(stop),
    'served svid': async (stop) => {
      for await (const _svid of ownSvid.svid.values(stop)) refresh();
    },
    'served bundle': async (stop) => {
      for await (const _bundle of bundles.own.values(stop)) refresh();
    },
    doors: (stop) => doors.run(stop),
    registry: (stop) => registry.run(stop),
    federation: (stop) => refresher.run(stop),
    refusals: (stop) => refusals.run(stop),
    reloads: (stop) => recordReloads(parts, store, stop),
    pruning: (stop) =>
      runPruning(
        {
          store,
          clock,
          credentialsKeptMs: config.record.credentials,
          auditKeptMs: config.record.audit,
          onFailure: (error) => observer.problem('pruning', error),
        },
        stop,
      ),
  };
  Object.assign(tasks, await openPages({ config, clock, log: parts.log, metrics: parts.metrics, identity, bundle: bundles.own, cleanup }));
  if (config.health !== undefined) {
    const pages = await openHealthPages({ health, metrics: parts.metrics, host: config.health.address, port: config.health.port });
    tasks['health pages'] = (stop) => pages.serve(stop);
  }
  return { tasks, onDelivered: (delayMs) => observer.delivered(delayMs) };
}

/** A reload changes what is issued from now on, so it is on record. */
async function recordReloads({ live, config, clock }: ServerParts, store: Store, signal: AbortSignal): Promise<void> {
  for await (const next of live.values(signal)) {
    if (next === config) continue;
    await store.recordAudit([witness(serverScope(clock.now()), 'server.reloaded', { subject: next.trust_domain, detail: { profile: profileOf(next).hash } })]);
  }
}

function identityOf(trustDomain: TrustDomain, svid: TlsIdentity['svid'], bundles: Registry['bundles']): TlsIdentity {
  return { svid, bundles: new Map([[trustDomain, bundles.own.value]]) };
}

function ratesOf({ limits }: ServerConfig): BudgetRates {
  const { signing, tokens, status, sync, report, publish } = limits;
  return { signing, tokens, status, sync, report, publish };
}

/** One object for as long as the settings are the same, so that an issuance takes a whole one. */
function cachedProfile(live: () => ServerConfig): () => Profile {
  let of: ServerConfig | undefined;
  let profile: Profile | undefined;
  return () => {
    const config = live();
    if (profile === undefined || of !== config) {
      profile = profileOf(config);
      of = config;
    }
    return profile;
  };
}

function profileOf({ svids }: ServerConfig): Profile {
  return composeProfile({
    x509SvidTtlSeconds: Math.floor(svids.x509_ttl / 1000),
    agentSvidTtlSeconds: Math.floor(svids.agent_ttl / 1000),
    jwtSvidTtlSeconds: Math.floor(svids.jwt_ttl / 1000),
    witSvidTtlSeconds: Math.floor(svids.wit_ttl / 1000),
    jwtIssuer: svids.jwt_issuer,
  });
}

async function openKeys(config: ServerConfig): Promise<KeyStore> {
  const directory = keysDirectory(config);
  if (directory === undefined) return createMemoryKeyStore();
  return openDiskKeyStore({ directory, secret: await sealingSecret(config) });
}

async function sealingSecret({ keys }: ServerConfig): Promise<SealingSecret | undefined> {
  if (keys.type !== 'disk') return undefined;
  if (keys.key_file !== undefined) return { type: 'key', key: sealingKey(await readPrivateFile(keys.key_file)) };
  if (keys.passphrase_file === undefined) return undefined;
  const text = (await readPrivateFile(keys.passphrase_file)).toString('utf8');
  const [passphrase = ''] = text.split('\n');
  if (passphrase === '') throw new SpiffeError('invalid', 'keys.passphrase', `the first line of ${keys.passphrase_file} is empty`);
  return { type: 'passphrase', passphrase };
}
