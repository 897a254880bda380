/**
 * Files of one identity of this process, kept newest from the Workload API: which one, its bundles and tokens, and what
 * becomes of them when it is taken away. Flags are `commands/svid-watch.ts`, the directory `runtime/secret-files.ts`.
 */
import { randomInt } from 'node:crypto';
import type { JwtBundles, WorkloadApi, X509Context } from '../client/index.ts';
import { linkedController } from '../runtime/abort.ts';
import { backoffMs } from '../runtime/backoff.ts';
import { systemClock } from '../runtime/clock.ts';
import {
  deliverFiles,
  type FileChange,
  type FileDeliveryEvent,
  type FileSet,
  untilOther,
  type WantedFiles,
} from '../runtime/file-delivery.ts';
import { createSecretDirectory, type FileOwner } from '../runtime/secret-files.ts';
import { createWatch, type WatchSource } from '../runtime/watch.ts';
import { type Bundle, composeBundle } from '../spiffe/bundle.ts';
import { type CredentialFileNames, credentialFiles } from '../spiffe/credential-files.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { type SpiffeId, type TrustDomain, trustDomainOf } from '../spiffe/id.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';

export interface TokenFile {
  readonly audience: string;
  readonly name: string;
}

export interface Keeping {
  readonly directory: string;
  readonly owner: () => Promise<FileOwner>;
  readonly secretMode: number;
  readonly names: CredentialFileNames;
  readonly tokens: readonly TokenFile[];
  /** Which identity; the default one when neither this nor the hint is given. */
  readonly spiffeId: SpiffeId | undefined;
  readonly hint: string | undefined;
  readonly removeOnLoss: boolean;
  /** Names whom `notify` tells. */
  readonly told: string;
  readonly notify: (change: FileChange, signal: AbortSignal) => Promise<void>;
  /** End once the first set is there and told of; throw what kept it from that after so many milliseconds. */
  readonly onceWithinMs: number | undefined;
}

export interface KeepingIo {
  readonly delivered: (svid: X509Svid, bundles: X509Context['bundles']) => void;
  /** Once until something else is the matter. */
  readonly problem: (error: SpiffeError) => void;
  readonly signal: AbortSignal;
}

interface KeptSet extends FileSet {
  readonly svid: X509Svid;
  readonly bundles: X509Context['bundles'];
}

/** What is known so far; `tokens` lacks the files that were not asked for yet, and has `undefined` for those not given. */
interface Known {
  context: X509Context | undefined;
  jwtBundles: JwtBundles | undefined;
  readonly tokens: Map<string, string | undefined>;
  /** Whose they are, also while it is taken away. */
  spiffeId: SpiffeId | undefined;
}

const publicMode = 0o644;
const leastTokenRestMs = 1_000;
const steps = 2 ** 32;
const random = (): number => randomInt(steps) / steps;

/**
 * Returns when the signal aborts, or after the first set if that was wanted.
 * @throws what trying again cannot mend; with `onceWithinMs` whatever was in the way
 */
export async function keepFiles(api: WorkloadApi, keeping: Keeping, io: KeepingIo): Promise<void> {
  const stop = linkedController(io.signal);
  const wanted = createWatch<WantedFiles<KeptSet>>({ is: 'nothing' });
  const identity = createWatch<X509Svid | undefined>(undefined);
  const known: Known = { context: undefined, jwtBundles: undefined, tokens: new Map(), spiffeId: undefined };
  const once = keeping.onceWithinMs;
  const over = new Error('over');
  let failure: unknown;
  let last: SpiffeError | undefined;
  const problem = (error: SpiffeError): void => {
    if (last?.reason !== error.reason || last.message !== error.message) io.problem(error);
    last = error;
  };
  const end = (error?: unknown): void => {
    failure ??= error;
    stop.abort(over);
  };
  const compose = (): void => {
    try {
      const next = composed(keeping, known, identity.value);
      if (next !== undefined) wanted.set(next);
    } catch (error) {
      problem(spiffeError(error));
    }
  };
  const lost = (error: SpiffeError): void => {
    problem(error);
    if (error.kind !== 'denied') return;
    identity.set(undefined);
    if (keeping.removeOnLoss) wanted.set({ is: 'removed' });
  };
  const onEvent = (event: FileDeliveryEvent<KeptSet>): void => {
    if (event.what === 'failed') {
      problem(event.error);
      if (once !== undefined) end(event.error);
    }
    if (event.what !== 'delivered') return;
    last = undefined;
    io.delivered(event.set.svid, event.set.bundles);
    if (once !== undefined) end();
  };

  const tasks: (() => Promise<unknown>)[] = [
    async () => {
      for await (const context of api.watchX509Context(stop.signal, { onError: lost })) {
        const svid = chosen(keeping, context.svids);
        if (svid === undefined) {
          lost(new SpiffeError('denied', 'cli.svid.not-granted', 'no identity of this process is the one that is asked for'));
          continue;
        }
        known.context = context;
        // They are of the identity before, and new ones are asked for.
        if (svid.spiffeId !== known.spiffeId) known.tokens.clear();
        known.spiffeId = svid.spiffeId;
        identity.set(svid);
        compose();
      }
    },
    () => {
      const directory = createSecretDirectory({ path: keeping.directory, owner: keeping.owner });
      const { told, notify } = keeping;
      return deliverFiles({ clock: systemClock, random, directory, told, notify, onEvent }, wanted, stop.signal);
    },
    ...keeping.tokens.map((file) => () => keepToken(api, { file, identity, known, compose, problem }, stop.signal)),
  ];
  if (keeping.names.bundleFormat.startsWith('spiffe')) {
    tasks.push(async () => {
      for await (const bundles of api.watchJwtBundles(stop.signal)) {
        known.jwtBundles = bundles;
        compose();
      }
    });
  }
  if (once !== undefined) {
    tasks.push(async () => {
      await systemClock.sleep(once, stop.signal);
      end(last ?? new SpiffeError('unavailable', 'cli.svid.timeout', 'no identity came in time'));
    });
  }
  await Promise.all(tasks.map((task) => task().catch((error: unknown) => (stop.signal.aborted ? undefined : end(error)))));
  stop.unlink();
  if (failure !== undefined) throw spiffeError(failure);
}

function chosen({ spiffeId, hint }: Keeping, svids: readonly X509Svid[]): X509Svid | undefined {
  return svids.find((svid) => {
    if (spiffeId !== undefined && svid.spiffeId !== spiffeId) return false;
    return hint === undefined || svid.hint === hint;
  });
}

/** @returns undefined while something is not there yet */
function composed(keeping: Keeping, known: Known, svid: X509Svid | undefined): WantedFiles<KeptSet> | undefined {
  const { context, jwtBundles, tokens } = known;
  if (svid === undefined || context === undefined) return undefined;
  if (keeping.names.bundleFormat.startsWith('spiffe') && jwtBundles === undefined) return undefined;
  if (tokens.size < keeping.tokens.length) return undefined;
  const trustDomain = trustDomainOf(svid.spiffeId);
  const given = new Map([...tokens].flatMap(([name, token]) => (token === undefined ? [] : [[name, token] as const])));
  const bundles = new Map([...context.bundles.keys()].map((name) => [name, bundleOf(name, context, jwtBundles)] as const));
  const { chain, privateKey: key } = svid;
  const contents = credentialFiles(keeping.names, { chain, key, trustDomain, bundles, tokens: given });
  const files = contents.map(({ name, content, secret }) => ({ name, content, mode: secret ? keeping.secretMode : publicMode }));
  return { is: 'files', set: { files, svid, bundles: context.bundles } };
}

function bundleOf(trustDomain: TrustDomain, context: X509Context, jwtBundles: JwtBundles | undefined): Bundle {
  return composeBundle({
    trustDomain,
    x509Authorities: (context.bundles.get(trustDomain) ?? []).map((certificate) => ({ certificate, tainted: false })),
    jwtAuthorities: jwtBundles?.get(trustDomain) ?? [],
    refreshHintSeconds: 0,
    sequence: 0n,
  });
}

interface TokenKeeping {
  readonly file: TokenFile;
  readonly identity: WatchSource<X509Svid | undefined>;
  readonly known: Known;
  readonly compose: () => void;
  readonly problem: (error: SpiffeError) => void;
}

/** A token of the identity, a new one at half of its life or when the identity is another. */
async function keepToken(api: WorkloadApi, keeping: TokenKeeping, signal: AbortSignal): Promise<void> {
  const { file, identity, known, compose, problem } = keeping;
  let failures = 0;
  let of: SpiffeId | undefined;
  for (;;) {
    signal.throwIfAborted();
    const svid = identity.value;
    let restMs = 60_000;
    if (svid !== undefined) {
      of = svid.spiffeId;
      try {
        const [token] = await api.fetchJwtSvids({ audience: file.audience, spiffeId: svid.spiffeId }, { signal });
        if (known.spiffeId !== of) continue;
        if (token === undefined) throw new SpiffeError('unavailable', 'cli.svid.no-token', 'the agent gave no token');
        failures = 0;
        known.tokens.set(file.name, token.token);
        restMs = Math.max(leastTokenRestMs, (token.expiresAt - systemClock.now()) / 2);
      } catch (error) {
        signal.throwIfAborted();
        if (known.spiffeId !== of) continue;
        failures += 1;
        problem(spiffeError(error));
        // Certificates do not wait for it, and one that was there stays.
        if (!known.tokens.has(file.name)) known.tokens.set(file.name, undefined);
        restMs = backoffMs(failures, random());
      }
      compose();
    }
    const until = systemClock.monotonic() + restMs;
    // Each rotation brings another SVID of the same identity, which is no reason for another token.
    for (let seen: X509Svid | undefined = svid; ; seen = identity.value) {
      await untilOther(systemClock, identity, seen, Math.max(0, until - systemClock.monotonic()), signal);
      signal.throwIfAborted();
      if (identity.value?.spiffeId !== of || systemClock.monotonic() >= until) break;
    }
  }
}

function spiffeError(error: unknown): SpiffeError {
  if (error instanceof SpiffeError) return error;
  return new SpiffeError('internal', 'cli.svid.unexpected', 'unexpected failure', { cause: error });
}
