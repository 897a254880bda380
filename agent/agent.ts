/**
 * The composition root of the agent: every part made once, in order, by hand, and run until a signal aborts. What an
 * operator may choose is `config.ts`; arguments, signals and exit codes are `main.ts`.
 */
import { open, type FileHandle } from 'node:fs/promises';
import path from 'node:path';
import { reflectionServices } from '../proto/reflection.ts';
import { isSpiffeError, SpiffeError } from '../spiffe/errors.ts';
import { untilAborted } from '../runtime/abort.ts';
import type { Clock } from '../runtime/clock.ts';
import { ensurePrivateDirectory } from '../runtime/files.ts';
import { openHealthPages, type Health } from '../runtime/health.ts';
import { tryLockFile } from '../runtime/linux.ts';
import type { Logger, RootLogger } from '../runtime/log.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Peer } from '../runtime/peer.ts';
import { rpcService } from '../runtime/rpc/handlers.ts';
import { runTasks, type Task } from '../runtime/tasks.ts';
import { attestorTasks, evidenceSource, workloadAttestors } from './attestors.ts';
import { createBrokering } from './brokering.ts';
import type { AgentConfig } from './config.ts';
import { withdrawDelivery } from './delivery/deliver.ts';
import { createFileDeliveries } from './delivery/deliveries.ts';
import { createDoors } from './doors.ts';
import { eventReceiver } from './events/messages.ts';
import { createReporter, type Reporter } from './events/report.ts';
import { openSpool } from './events/spool.ts';
import { attestNode, firstTrust, renewNode, type ConnectAnonymously } from './node/attest.ts';
import { createIdentity } from './node/identity.ts';
import { gatherInventory } from './node/inventory.ts';
import { generateNodeKeys } from './node/keys.ts';
import { connectAnonymously, connectMutually, type LinkOptions } from './node/link.ts';
import { postStatus } from './node/messages.ts';
import { nodeStateFiles } from './node/state.ts';
import type { FirstTrust } from './node/trust.ts';
import { createObserver } from './observe.ts';
import { secretDiscovery } from './sds/api.ts';
import { secretSettings, sharedSecretServices } from './secrets.ts';
import { createSvidCache } from './svids/cache.ts';
import { createDeliveries } from './svids/delivery.ts';
import { createDiskCache, forgetDiskCache, type SealingKeyFile } from './svids/disk.ts';
import { earliestExpiry, leastLifeLeft } from './svids/held.ts';
import { leanSigner, spireSigner } from './svids/messages.ts';
import { generateKeys, receiveX509 } from './svids/receive.ts';
import { createRenewal } from './svids/renew.ts';
import { firstSupported } from './svids/signer.ts';
import { nothingTainted, sameTaint, taintedBy } from './svids/taint.ts';
import { createTokens } from './svids/tokens.ts';
import { createWits } from './svids/wits.ts';
import { createFollower } from './sync/follow.ts';
import { createHoldings, holdingsOf, noHoldings } from './sync/holdings.ts';
import { askBehind, openFollow, pollSource } from './sync/messages.ts';
import { createPoller } from './sync/poll.ts';
import { synchronise } from './sync/synchronise.ts';
import { observeAnswers } from './workload/answers.ts';
import { workloadApi } from './workload/api.ts';
import { createAttest, followAttestation } from './workload/attest.ts';
import { createCaller, type Caller, type FollowPeer } from './workload/caller.ts';
import { createWanted } from './workload/wanted.ts';
import { createWitness } from './witness.ts';

export interface AgentParts {
  readonly config: AgentConfig;
  readonly version: string;
  readonly clock: Clock;
  /** In [0, 1): jitter. */
  readonly random: () => number;
  readonly log: Logger;
  /** Of `log`, for operators to read and set; where it is left out they cannot. */
  readonly logLevel?: Pick<RootLogger, 'level' | 'setLevel'>;
  readonly metrics: Metrics;
  readonly health: Health;
  /** What the restart cache is sealed with, when it is not a key of its own. */
  readonly sealingKey: SealingKeyFile | undefined;
  /** Told once every part is made, and with it every condition of readiness declared. */
  readonly onComposed?: () => void;
}

/**
 * Runs until the signal aborts.
 * @throws denied `identity.banned|must-rejoin` when the agent has to end for good, and what parts throw that cannot start
 */
export async function runAgentParts(parts: AgentParts, signal: AbortSignal): Promise<void> {
  const { config } = parts;
  const cacheDirectory = path.join(config.data_dir, 'cache');
  await ensurePrivateDirectory(config.data_dir);
  const lock = await lockDirectory(config.data_dir);
  try {
    await ensurePrivateDirectory(cacheDirectory);
    if (config.cache.mode === 'off') await forgetDiskCache(cacheDirectory);
    const tasks = await composeAgent(parts, cacheDirectory, signal);
    parts.onComposed?.();
    await runTasks(tasks, signal);
  } catch (error) {
    const cause: unknown = isSpiffeError(error, undefined, 'task.failed') ? error.cause : error;
    // Whoever may not be an agent any more must not serve from what it remembers either.
    if (isSpiffeError(cause, 'denied') && cause.reason.startsWith('identity.')) {
      await forgetDiskCache(cacheDirectory);
      await withdrawFiles(parts);
    }
    throw cause;
  } finally {
    await lock.close();
  }
}

/** What cannot be taken away is told, and holds up nothing else. */
async function withdrawFiles({ config, clock, log }: AgentParts): Promise<void> {
  const withdrawn = config.deliveries.map(async (delivery) => {
    try {
      await withdrawDelivery(delivery, clock);
    } catch (error) {
      log.error('delivery.failed', { name: delivery.name, reason: unexpected(error).reason });
    }
  });
  await Promise.all(withdrawn);
}

/**
 * Two agents with one state would renew each other's SVID away. The lock goes with the process, however it ends.
 * @throws conflict `agent.data-dir.in-use`
 */
async function lockDirectory(directory: string): Promise<FileHandle> {
  const lock = await open(path.join(directory, 'lock'), 'w', 0o600);
  if (tryLockFile(lock.fd)) return lock;
  await lock.close();
  throw new SpiffeError('conflict', 'agent.data-dir.in-use', `another agent runs with ${directory}`);
}

async function composeAgent(parts: AgentParts, cacheDirectory: string, stopping: AbortSignal): Promise<Readonly<Record<string, Task>>> {
  const { config, version, clock, random, log, metrics, health } = parts;
  const trustDomain = config.trust_domain;
  const deliveries = createDeliveries();
  const wanted = createWanted();

  // What a former process knew, so that workloads are served before the server answers.
  const disk = createDiskCache({
    directory: cacheDirectory,
    keyFile: parts.sealingKey,
    clock,
    content: () => ({ holdings: holdings.value, x509: cache.held(), jwt: tokens.held(), wit: wits.held() }),
    onProblem: (error) => observer.problem('cache.problem', error),
  });
  const touchDisk = config.cache.mode === 'sealed' ? () => disk.touch() : () => undefined;

  let tainted = nothingTainted;
  const cache = createSvidCache({
    trustDomain,
    now: () => clock.now(),
    prefetchLimit: config.limits.prefetched_svids,
    onWanted: (entries) => renewal.want(entries),
    onChange: touchDisk,
  });

  const observer = createObserver({
    clock,
    log,
    metrics,
    health,
    read: {
      entries: () => cache.counts().entries,
      x509Svids: () => cache.counts().x509,
      jwtSvids: () => tokens.size,
      witSvids: () => wits.size,
      streams: () => deliveries.size,
      connections: () => doors.connections,
      queued: () => renewal.queued,
      spooled: () => reporter.waiting,
      earliestExpiryAt: () => earliestExpiry(cache.held()),
      leastLifeLeft: () => leastLifeLeft(cache.held(), clock.now()),
      ownExpiryAt: () => identity.identity.value?.svid.expiresAt,
      heardAt: () => heardAt,
      revision: () => holdings.value.position?.revision,
    },
  });
  let heardAt: number | undefined;

  // The agent's own identity and the connections that stand on it.
  const link: LinkOptions = {
    clock,
    host: config.server.address,
    port: config.server.port,
    trustDomain,
    minVersion: `TLSv${config.server.min_tls_version}`,
  };
  const connect: ConnectAnonymously = (trust) => {
    if (trust === 'unverified' && config.trust_bundle !== undefined && 'insecure' in config.trust_bundle) {
      log.warn('trust.insecure', { remedy: 'configure trust_bundle with a path or a pin: whoever answers first is believed' });
    }
    return connectAnonymously(link, trust);
  };
  const source = await evidenceSource(config.attestor, clock);
  const identity = createIdentity({
    clock,
    random,
    trustDomain,
    files: nodeStateFiles(config.data_dir, trustDomain),
    repeatable: source.repeatable,
    firstTrust: (stop) => firstTrust(firstTrustOf(config), trustDomain, connect, stop),
    attest: (trust, stop) => attestNode({ trustDomain, connect, source, trust, generateKeys: generateNodeKeys }, stop),
    renew: async (stop) => renewNode(client, await generateNodeKeys(), trustDomain, stop),
    onEvent(event) {
      observer.identity(event);
      if (event.what === 'renewed' || event.what === 'attested') follower.reopen();
    },
  });
  const client = connectMutually(link, identity.tls, {
    succeeded: (svid) => identity.confirmUse(svid),
    failed: (error) => identity.refused(error),
  });

  // Signing.
  const signer = firstSupported(leanSigner(client), spireSigner(client), clock);
  const renewal = createRenewal({
    clock,
    random,
    cache,
    signer,
    generateKeys,
    receive: (entry, chain, keys) => receiveX509(entry, chain, keys, { at: clock.now(), jitter: random() }),
    tainted: () => tainted.x509,
    onOutcome: (outcome) => witness.renewed(outcome),
  });
  const tokens = createTokens({
    clock,
    random,
    signer,
    entry: (id) => cache.entry(id),
    tainted: () => tainted.jwt,
    limit: config.limits.kept_tokens,
    onOutcome: (outcome) => witness.signedToken(outcome),
    onChange: touchDisk,
  });

  const wits = createWits({
    clock,
    random,
    signer,
    generateKeys,
    entry: (id) => cache.entry(id),
    tainted: () => tainted.jwt,
    onOutcome: (outcome) => witness.signedWit(outcome),
    onChange: touchDisk,
  });

  // What this node is entitled to.
  const remembered = config.cache.mode === 'sealed' ? await disk.read() : undefined;
  let known = remembered !== undefined;
  const initial = remembered === undefined ? noHoldings : holdingsOf(remembered.holdings);
  const holdings = createHoldings(initial, (now) => {
    cache.holdingsChanged(now);
    wanted.update(now.entries);
    const bundle = now.bundles.get(trustDomain);
    const taint = taintedBy(bundle, now.authorities.values());
    if (!sameTaint(taint, tainted)) {
      tainted = taint;
      renewal.rescan();
      wits.rescan();
    }
    if (bundle !== undefined) {
      identity.learnBundle(bundle).catch((error: unknown) => observer.problem('bundle.not-kept', unexpected(error)));
    }
  });
  if (remembered !== undefined) {
    tainted = taintedBy(initial.bundles.get(trustDomain), initial.authorities.values());
    cache.restore(remembered.x509);
    tokens.restore(remembered.jwt);
    if (config.workload.wit_svids) wits.restore(remembered.wit);
    cache.holdingsChanged(initial);
    wanted.update(initial.entries);
    log.info('cache.read', { count: remembered.x509.length, revision: initial.position?.revision });
  }
  const follower = createFollower({
    clock,
    random,
    holdings,
    open: (hello, stop) => openFollow(client, version, hello, stop),
    delivered: () => deliveries.settled(),
    onCommand(command) {
      const told = new SpiffeError('denied', `agent.${command.action}`, command.reason === '' ? `the server says: ${command.action}` : command.reason);
      log.warn('sync.command', { kind: command.action, reason: command.reason });
      if (command.action === 'banned') identity.banned(told);
      else if (command.action === 'evicted') identity.evicted(told);
      else identity.renewNow();
    },
    onState(state) {
      if (state.state === 'current') known = true;
      heardAt = follower.heardAt ?? heardAt;
      observer.followed(state);
    },
  });
  const poller = createPoller({
    clock,
    random,
    trustDomain,
    holdings,
    source: pollSource(client),
    intervalMs: config.sync.poll_interval,
    onSynced() {
      known = true;
      heardAt = clock.monotonic();
      observer.polled();
    },
    onFailed: (error) => observer.pollFailed(error),
  });
  const synchronisation = synchronise({
    clock,
    holdings,
    follower,
    poller,
    askBehind: (position, stop) => askBehind(client, position, stop),
    onPolling(why) {
      log.info('sync.polling', { reason: why.reason });
      // Whoever follows says so in its hello.
      postStatus(client, version, stopping).catch((error: unknown) => observer.problem('status.failed', unexpected(error)));
    },
  });

  // The record.
  const reporter = await reporterOf(parts, eventReceiver(client), (error) => observer.problem('events.problem', error));
  const witness = createWitness(observer, reporter);

  // Workloads.
  const attestors = workloadAttestors(config.workload, { clock, random, log });
  const attest = createAttest({
    attestors,
    clock,
    onAnswer: observeAnswers({ names: attestors.map(({ name }) => name), clock, metrics, log }),
  });
  const follow: FollowPeer = (whose, stop) => followAttestation({ attest, clock, random }, whose, wanted.wanted, stop);
  const callerOf = (peer: Peer): Caller => createCaller(peer, follow, (caller, attestation) => witness.attested(caller, attestation));
  const updates = { clock, cache, freshness: synchronisation.freshness, deliveries };
  const files = createFileDeliveries(config.deliveries, { ...updates, random, log, metrics, trustDomain, tokens, witness, isKnown: () => known });
  const syncedAt = (): number | undefined => (heardAt === undefined ? undefined : clock.now() - (clock.monotonic() - heardAt));
  const brokering = createBrokering({
    ...updates,
    config,
    log,
    witness,
    identity: identity.tls,
    holdings,
    tokens,
    follow,
    callerOf,
    pods: attestors.find(({ pods }) => pods !== undefined)?.pods,
    isReady: () => known,
    onCall: (end) => observer.called(end),
    figures: { counts: () => ({ x509: cache.counts().x509, jwt: tokens.size }), syncedAt },
    logger: parts.logLevel,
  });
  const doors = createDoors({
    config,
    clock,
    observer,
    callerOf,
    workloadApi: workloadApi({
      ...updates,
      trustDomain,
      holdings: () => holdings.value,
      tokens,
      wits: config.workload.wit_svids ? wits : undefined,
      witness,
      allowedForeignClaims: new Set(config.workload.allowed_foreign_jwt_claims),
      bundlesForAll: config.workload.bundles_for_all,
    }),
    secretDiscovery: secretDiscovery({
      ...updates,
      ...secretSettings(config.sds, observer),
      trustDomain,
      tokens,
      witness,
      bundlesForAll: config.workload.bundles_for_all,
    }),
    reflection: reflectionServices(['SpiffeWorkloadAPI', 'grpc.health.v1.Health', ...sharedSecretServices(config.sds)]).map(({ definition, handlers }) =>
      rpcService<typeof definition, Caller>(definition, handlers),
    ),
    isReady: () => known,
    admin: { attest, entries: () => cache.entries(), hasBundle: (name) => holdings.value.bundles.has(name) },
    operators: brokering.services,
    status: () => ({
      version,
      agentId: identity.identity.value?.svid.spiffeId ?? '',
      svidExpiresAt: identity.identity.value?.svid.expiresAt ?? 0,
      epoch: holdings.value.position?.epoch ?? '',
      revision: holdings.value.position?.revision ?? 0,
      followedAt: syncedAt() ?? 0,
      entries: cache.counts().entries,
      x509Svids: cache.counts().x509,
      jwtSvids: tokens.size,
      workloadStreams: deliveries.size,
      unmetConditions: [...health.state.value.unmet.map(({ name, why }) => `${name}: ${why}`), ...files.problems()],
      spooledEvents: reporter.waiting,
    }),
  });
  const own: Task = async (stop) => {
    try {
      await identity.start(stop);
      joined.resolve();
      await identity.run(stop);
    } finally {
      client.close();
    }
  };
  const joined = Promise.withResolvers<void>();
  /** Not before there is an SVID to present. */
  const onceJoined =
    (task: Task): Task =>
    async (stop) => {
      await untilAborted(joined.promise, stop);
      await task(stop);
    };

  const tasks: Record<string, Task> = {
    workloads: (stop) => doors.workloads(stop),
    ...attestorTasks(attestors),
    ...files.tasks,
    operators: doors.operators,
    ...(brokering.task !== undefined && { brokers: brokering.task }),
    ...(doors.secrets !== undefined && { secrets: doors.secrets }),
    identity: own,
    sync: onceJoined((stop) => synchronisation.run(stop)),
    renewal: (stop) => renewal.run(stop),
    tokens: (stop) => tokens.run(stop),
    wits: (stop) => wits.run(stop),
    events: onceJoined((stop) => reporter.run(stop)),
    conditions: (stop) => observer.watchConditions(stop),
  };
  if (config.cache.mode === 'sealed') tasks['cache'] = (stop) => disk.run(stop);
  if (config.health !== undefined) {
    const pages = await openHealthPages({ health, metrics, host: config.health.address, port: config.health.port });
    tasks['health'] = (stop) => pages.serve(stop);
  }
  return tasks;
}

/** @throws invalid `trust.none` */
function firstTrustOf(config: AgentConfig): FirstTrust {
  const { trust_bundle: trust } = config;
  if (trust === undefined) {
    throw new SpiffeError('invalid', 'trust.none', 'no bundle was learned yet, and trust_bundle does not say what to trust first');
  }
  if ('path' in trust) return { type: 'file', path: trust.path, format: trust.format };
  return 'pin' in trust ? { type: 'pin', sha256: trust.pin } : { type: 'insecure' };
}

async function reporterOf(parts: AgentParts, receiver: Parameters<typeof createReporter>[0]['receiver'], onProblem: (error: SpiffeError) => void): Promise<Reporter> {
  const { config, clock, random, version } = parts;
  if (config.events.mode === 'off') {
    return { record: () => undefined, waiting: 0, run: (stop) => untilAborted(new Promise<never>(() => undefined), stop) };
  }
  const spool = await openSpool({ directory: path.join(config.data_dir, 'events'), maxBytes: config.events.spool_size, now: () => clock.now() });
  const inventory = gatherInventory({ agent_version: version });
  return createReporter({ clock, random, spool, receiver, inventory, onProblem });
}

function unexpected(error: unknown): SpiffeError {
  return error instanceof SpiffeError ? error : new SpiffeError('internal', 'agent.unexpected', 'unexpected failure', { cause: error });
}
