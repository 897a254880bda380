/**
 * One delivery of the agent's configuration: the updates its selector is entitled to, turned into files and kept newest. It
 * is served and recorded as a workload is; what a set of files looks like is `spiffe/credential-files.ts`.
 */
import { linkedController, untilAborted } from '../../runtime/abort.ts';
import { findGroup, findUser } from '../../runtime/accounts.ts';
import { backoffMs } from '../../runtime/backoff.ts';
import type { Clock } from '../../runtime/clock.ts';
import {
  deliverFiles,
  type FileChange,
  type FileDeliveryEvent,
  type FileSet,
  type WantedFiles,
} from '../../runtime/file-delivery.ts';
import { runHook } from '../../runtime/hook.ts';
import { signalByPidFile } from '../../runtime/pid-file.ts';
import { createSecretDirectory, type FileOwner, type SecretDirectory } from '../../runtime/secret-files.ts';
import { runTasks, type Task } from '../../runtime/tasks.ts';
import { createWatch, type WatchSource } from '../../runtime/watch.ts';
import { credentialFiles } from '../../spiffe/credential-files.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { createAlarm } from '../alarm.ts';
import type { X509Identity } from '../svids/cache.ts';
import type { HeldJwtSvid, HeldX509Svid } from '../svids/held.ts';
import type { Tokens } from '../svids/tokens.ts';
import type { Witness } from '../workload/witness.ts';
import type { Attestation } from '../workload/attest.ts';
import type { Attested, Beneficiary } from '../workload/caller.ts';
import { callerUpdates, type CallerUpdate, type UpdatesOptions } from '../workload/updates.ts';
import { attestedDelivery } from './attested.ts';
import type { DeliveryConfig } from './config.ts';

/** The files of one SVID, and the update they follow from. */
export interface IdentityFiles extends FileSet {
  readonly svid: HeldX509Svid;
  readonly from: CallerUpdate;
  /** Files of tokens that could not be had yet. */
  readonly missing: readonly string[];
}

export type DeliveryEvent =
  | FileDeliveryEvent<IdentityFiles>
  /** No entry grants what is configured. `lost` when one did. */
  | { readonly what: 'waiting' | 'lost' }
  /** An entry does, but there is no X509-SVID for it, or none any more. */
  | { readonly what: 'unsigned' }
  | { readonly what: 'no-token'; readonly file: string; readonly error: SpiffeError };

export interface DeliveryParts extends UpdatesOptions {
  /** In [0, 1). */
  readonly random: () => number;
  readonly trustDomain: TrustDomain;
  readonly tokens: Pick<Tokens, 'fetch'>;
  readonly witness: DeliveryWitness;
  /** Whether the holdings are known, so that what is not granted is not to be had. */
  readonly isKnown: () => boolean;
  readonly onEvent: (name: string, event: DeliveryEvent) => void;
}

export interface DeliveryWitness extends Pick<Witness, 'matched' | 'delivered' | 'updated'> {
  attested(caller: Beneficiary, attestation: Attestation): void;
}

/** For the first token, before the certificate is written without one. */
const tokenPatienceMs = 5_000;
/** While a token is being refreshed, or nothing is known yet. */
const againMs = 2_000;
const publicMode = 0o644;

/** Runs until the signal aborts; what fails is told and tried again. */
export function deliveryTask(config: DeliveryConfig, parts: DeliveryParts): Task {
  const { clock, random, witness } = parts;
  const onEvent = (event: DeliveryEvent): void => parts.onEvent(config.name, event);
  return async (signal) => {
    const caller = attestedDelivery(config.name);
    witness.attested(caller, (await caller.attested(signal)).value);
    const wanted = createWatch<WantedFiles<IdentityFiles>>({ is: 'nothing' });
    let before: HeldX509Svid | undefined;
    const seen = (event: FileDeliveryEvent<IdentityFiles>): void => {
      // Also what is there from before a start: whether it was recorded then nobody knows.
      if ((event.what === 'written' || event.what === 'delivered') && event.set.svid !== before) {
        witness.delivered(caller, event.set.svid, before?.entryId === event.set.svid.entryId ? before : undefined);
        before = event.set.svid;
      }
      if (event.what === 'delivered') {
        witness.updated(event.set.from.update.committedAt);
        event.set.from.sent();
      }
      onEvent(event);
    };
    await runTasks(
      {
        compose: (stop) => compose({ config, parts, caller, wanted, onEvent }, stop),
        write: (stop) =>
          deliverFiles<IdentityFiles>(
            {
              clock,
              random,
              directory: directoryOf(config),
              told: JSON.stringify(config.hook?.command ?? config.signal ?? []),
              notify: (change, until) => notify(config, change, clock, until),
              onEvent: seen,
            },
            wanted,
            stop,
          ),
      },
      signal,
    );
  };
}

/**
 * Takes away what was delivered, where that is what loss means, and tells whoever used it: for an agent that may not be one
 * any more, once its tasks have ended.
 * @throws as `SecretDirectory`, `runHook` and `signalByPidFile`
 */
export async function withdrawDelivery(config: DeliveryConfig, clock: Clock): Promise<void> {
  if (config.on_loss !== 'remove') return;
  const directory = directoryOf(config);
  try {
    if (await directory.clear()) await notify(config, 'removed', clock, new AbortController().signal);
  } finally {
    await directory.close();
  }
}

function directoryOf({ directory, owner, group }: DeliveryConfig): SecretDirectory {
  const accounts = async (): Promise<FileOwner> => ({
    ...(owner !== undefined && { uid: await findUser(owner) }),
    ...(group !== undefined && { gid: await findGroup(group) }),
  });
  return createSecretDirectory({ path: directory, owner: accounts });
}

async function notify(config: DeliveryConfig, change: FileChange, clock: Clock, signal: AbortSignal): Promise<void> {
  const { hook, signal: wanted } = config;
  if (hook !== undefined) {
    const env = { STEEPLE_DELIVERY: config.name, STEEPLE_DIRECTORY: config.directory, STEEPLE_CHANGE: change };
    const [program = '', ...args] = hook.command;
    await runHook({ command: [program, ...args], env, timeoutMs: hook.timeout }, clock, signal);
  }
  if (wanted !== undefined) {
    const { name, pid_file: pidFile, executable } = wanted;
    await signalByPidFile({ signal: name, pidFile, ...(executable !== undefined && { executable }) });
  }
}

interface Composing {
  readonly config: DeliveryConfig;
  readonly parts: DeliveryParts;
  readonly caller: Attested;
  readonly wanted: WatchSource<WantedFiles<IdentityFiles>>;
  readonly onEvent: (event: DeliveryEvent) => void;
}

/** Follows the updates, and the tokens, which have their own times. */
async function compose(composing: Composing, signal: AbortSignal): Promise<void> {
  const { parts, caller } = composing;
  const alarm = createAlarm(parts.clock);
  let latest: CallerUpdate | undefined;
  const follow = async (stop: AbortSignal): Promise<void> => {
    for await (const next of callerUpdates(parts, { caller, svids: false, unregistered: true }, stop)) {
      latest = next;
      alarm.ring();
    }
  };
  const work = async (stop: AbortSignal): Promise<void> => {
    const composer = createComposer(composing);
    for (;;) {
      const lookAt = latest === undefined ? undefined : await composer(latest, stop);
      await alarm.until(lookAt, stop);
    }
  };
  await runTasks({ follow, work }, signal);
}

/** Makes what an update says the files that are wanted; yields when to look at the same update again, if ever. */
function createComposer(composing: Composing): (next: CallerUpdate, signal: AbortSignal) => Promise<number | undefined> {
  const { config, parts, caller, wanted, onEvent } = composing;
  const { clock, trustDomain, witness } = parts;
  const keepToken = createTokenKeeper({ config, parts, caller, onEvent });
  const secretMode = Number.parseInt(config.key_mode, 8);
  let matched = false;
  let told = '';
  /** Said once, however often it is found. */
  const tell = (what: 'waiting' | 'lost' | 'unsigned'): void => {
    if (told === what) return;
    told = what;
    onEvent({ what });
  };

  return async (next, signal) => {
    const { update } = next;
    const entry = chosen(config, update.entries);
    if (entry === undefined) {
      next.sent();
      if (!parts.isKnown()) return clock.now() + againMs;
      tell(matched ? 'lost' : 'waiting');
      // Also what a former process left when the entry had gone by the time this one came.
      if (config.on_loss === 'remove') wanted.set({ is: 'removed' });
      else if (wanted.value.is === 'files') wanted.set({ is: 'nothing' });
      return undefined;
    }
    if (!matched) witness.matched(caller, next);
    matched = true;
    const identity = update.identities.find((one: X509Identity) => one.entry === entry);
    if (identity === undefined || !update.bundles.has(trustDomain)) {
      tell('unsigned');
      next.sent();
      return undefined;
    }
    told = '';
    const tainted = update.bundles.get(trustDomain)?.jwtAuthorities.filter((authority) => authority.tainted) ?? [];
    const { tokens, lookAt } = await keepToken(entry, new Set(tainted.map(({ keyId }) => keyId)), signal);
    const { chain, key } = identity.svid;
    const names = { ...config.files, bundleFormat: config.bundle_format };
    try {
      const contents = credentialFiles(names, { chain, key, trustDomain, bundles: update.bundles, tokens });
      const files = contents.map(({ name, content, secret }) => ({ name, content, mode: secret ? secretMode : publicMode }));
      const missing = config.jwt.map(({ file }) => file).filter((file) => !tokens.has(file));
      wanted.set({ is: 'files', set: { files, svid: identity.svid, from: next, missing } });
    } catch (error) {
      // Such as a federated authority that has no form in a bundle document; what was delivered stays.
      if (!(error instanceof SpiffeError)) throw error;
      onEvent({ what: 'failed', step: 'write', error });
      next.sent();
    }
    return lookAt;
  };
}

function chosen(config: DeliveryConfig, entries: readonly RegistrationEntry[]): RegistrationEntry | undefined {
  const { spiffe_id: id, hint } = config;
  return entries.find((entry) => (id === undefined || entry.spiffeId === id) && (hint === undefined || entry.hint === hint));
}

interface KeptTokens {
  /** By file. One that could not be had is not among them; one that could not be renewed is. */
  readonly tokens: ReadonlyMap<string, string>;
  readonly lookAt: number | undefined;
}

/** `tainted` are the keys whose tokens are replaced. */
type TokenKeeper = (entry: RegistrationEntry, tainted: ReadonlySet<string>, signal: AbortSignal) => Promise<KeptTokens>;

function createTokenKeeper(composing: Pick<Composing, 'config' | 'parts' | 'caller' | 'onEvent'>): TokenKeeper {
  const { config, parts, caller, onEvent } = composing;
  const { clock, random } = parts;
  const kept = new Map<string, { readonly svid: HeldJwtSvid | undefined; readonly lookAt: number; readonly failures: number }>();

  const fetchOne = async (entry: RegistrationEntry, audience: readonly string[], signal: AbortSignal): Promise<HeldJwtSvid> => {
    const patience = linkedController(signal);
    const late = new SpiffeError('unavailable', 'delivery.token-late', 'no JWT-SVID was signed in time');
    void clock.sleep(tokenPatienceMs, patience.signal).then(
      () => patience.abort(late),
      () => undefined,
    );
    try {
      const request = { entry, audience, process: caller.process };
      return await untilAborted(parts.tokens.fetch(request, patience.signal), patience.signal);
    } finally {
      patience.abort(late);
      patience.unlink();
    }
  };

  return async (entry, tainted, signal) => {
    // Never beside a certificate of another identity.
    for (const [file, { svid, ...rest }] of kept) if (svid?.spiffeId !== entry.spiffeId) kept.set(file, { ...rest, svid: undefined });
    await Promise.all(
      config.jwt.map(async ({ file, audience }) => {
        const before = kept.get(file);
        const isOfEntry = before?.svid?.entryId === entry.id && before.svid.entryRevision === entry.revisionNumber;
        const isGood = isOfEntry && !tainted.has(before.svid.keyId);
        if (before !== undefined && clock.now() < before.lookAt && (isGood || before.failures > 0)) return;
        try {
          const svid = await fetchOne(entry, audience, signal);
          const renewed = svid.token !== before?.svid?.token;
          kept.set(file, { svid, lookAt: Math.max(svid.renewAt, clock.now() + (renewed ? 0 : againMs)), failures: 0 });
        } catch (error) {
          signal.throwIfAborted();
          if (!(error instanceof SpiffeError)) throw error;
          const failures = (before?.failures ?? 0) + 1;
          kept.set(file, { svid: before?.svid, lookAt: clock.now() + backoffMs(failures, random()), failures });
          onEvent({ what: 'no-token', file, error });
        }
      }),
    );
    const looks = [...kept.values()].map(({ lookAt }) => lookAt);
    return {
      tokens: new Map([...kept].flatMap(([file, { svid }]) => (svid === undefined ? [] : [[file, svid.token] as const]))),
      lookAt: looks.length === 0 ? undefined : Math.min(...looks),
    };
  };
}
