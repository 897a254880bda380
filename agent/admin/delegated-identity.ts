/**
 * SPIRE's delegated identity: identities of other workloads of this node for callers whose own identity is one of the
 * authorized delegates, asked anew with every update. Referring to workloads and sending updates is `broker/`.
 */
import type { DelegatedIdentityDefinition } from '../../proto/gen/spire/api/agent/delegatedidentity/v1/DelegatedIdentity.ts';
import type { FetchJWTSVIDsRequest__Output } from '../../proto/gen/spire/api/agent/delegatedidentity/v1/FetchJWTSVIDsRequest.ts';
import type { FetchJWTSVIDsResponse } from '../../proto/gen/spire/api/agent/delegatedidentity/v1/FetchJWTSVIDsResponse.ts';
import type { SubscribeToX509SVIDsRequest__Output } from '../../proto/gen/spire/api/agent/delegatedidentity/v1/SubscribeToX509SVIDsRequest.ts';
import type { SubscribeToX509SVIDsResponse } from '../../proto/gen/spire/api/agent/delegatedidentity/v1/SubscribeToX509SVIDsResponse.ts';
import type { Selector__Output } from '../../proto/gen/spire/api/types/Selector.ts';
import { selectorsFromMessages } from '../../proto/convert/selector.ts';
import { jwtSvidToMessage, x509SvidToMessage } from '../../proto/convert/svid.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { trustDomainId, type SpiffeId, type TrustDomain } from '../../spiffe/id.ts';
import { canonicalSelectors, type Selector } from '../../spiffe/selector.ts';
import { linkedController, untilAborted, type LinkedController } from '../../runtime/abort.ts';
import type { Peer } from '../../runtime/peer.ts';
import type { CallContext, ServiceHandlers } from '../../runtime/rpc/handlers.ts';
import type { Watch } from '../../runtime/watch.ts';
import { brokered, brokeredOnce, type BrokeringOptions } from '../broker/stream.ts';
import type { Subject, Subjects } from '../broker/subjects.ts';
import type { WorkloadUpdate } from '../svids/cache.ts';
import type { Tokens } from '../svids/tokens.ts';
import type { Holdings } from '../sync/holdings.ts';
import type { Caller } from '../workload/caller.ts';
import { jwtBundlesResponse, x509BundlesResponse } from '../workload/messages.ts';
import { requireSame } from '../workload/same-process.ts';
import { callerUpdates, noIdentity } from '../workload/updates.ts';

export interface DelegatedIdentityOptions extends BrokeringOptions {
  readonly delegates: ReadonlySet<SpiffeId>;
  /** The caller itself, attested as any workload. */
  readonly callerOf: (peer: Peer) => Caller;
  readonly subjects: Pick<Subjects, 'process' | 'selectors'>;
  readonly tokens: Pick<Tokens, 'fetch'>;
  /** With the bundles of every trust domain that the agent knows. */
  readonly holdings: Watch<Pick<Holdings, 'bundles'>>;
}

type Call = CallContext<Peer>;
type Bundles = ReadonlyMap<TrustDomain, Bundle>;

/** A caller that may act for others, for as long as the signal has not aborted. */
interface Delegate {
  readonly id: SpiffeId;
  readonly signal: AbortSignal;
  /** @throws denied `workload.no-identity`, `delegate.unauthorized`, `peer.*` */
  requireStill(): void;
  release(): void;
}

export function delegatedIdentityApi(options: DelegatedIdentityOptions): ServiceHandlers<DelegatedIdentityDefinition, Peer> {
  const { subjects, tokens, witness, holdings } = options;

  const callers = new WeakMap<Peer, Caller>();
  /** One for all calls of a connection: it is attested anew until that ends. */
  const callerOf = (peer: Peer): Caller => {
    const caller = callers.get(peer) ?? options.callerOf(peer);
    callers.set(peer, caller);
    return caller;
  };

  /** Whom a delegate refers to; a refusal is on record, whoever was meant. */
  const subjectOf = (selectors: readonly Selector__Output[], pid: number, { id }: Delegate, { method }: Call): Subject => {
    try {
      if ((selectors.length === 0) === (pid === 0)) {
        throw new SpiffeError('invalid', 'delegate.reference', 'must provide either selectors or non-zero PID, but not both');
      }
      return pid === 0 ? subjects.selectors(selectorsOf(selectors), id) : subjects.process(pid, id);
    } catch (error) {
      if (error instanceof SpiffeError) witness.refused({ process: undefined, behalf: { broker: id, reference: '' } }, method, error);
      throw error;
    }
  };

  async function* svids(request: SubscribeToX509SVIDsRequest__Output, call: Call): AsyncGenerator<SubscribeToX509SVIDsResponse> {
    const delegate = await admit({ ...options, callerOf }, call);
    try {
      const subject = subjectOf(request.selectors, request.pid, delegate, call);
      yield* brokered(options, subject, { method: call.method, signal: delegate.signal }, {
        svids: true,
        // Nobody is told that there is nothing: an empty list says so, and the stream goes on.
        unregistered: true,
        narrow({ update }) {
          delegate.requireStill();
          return withoutPrivileged(update);
        },
        compose: svidsResponse,
      });
    } finally {
      delegate.release();
    }
  }

  /** Every bundle; one that is dropped stays in the messages of a stream that had it, as SPIRE has it. */
  async function* allBundles<T>(call: Call, compose: (all: Bundles) => T): AsyncGenerator<T> {
    const delegate = await admit({ ...options, callerOf }, call);
    const kept = new Map<TrustDomain, Bundle>();
    try {
      for await (const { bundles } of holdings.values(delegate.signal)) {
        const changed = [...bundles].filter(([name, bundle]) => kept.get(name) !== bundle);
        if (changed.length === 0) continue;
        for (const [name, bundle] of changed) kept.set(name, bundle);
        delegate.requireStill();
        yield compose(kept);
      }
      delegate.signal.throwIfAborted();
    } finally {
      delegate.release();
    }
  }

  const fetchJwt = async (request: FetchJWTSVIDsRequest__Output, call: Call): Promise<FetchJWTSVIDsResponse> => {
    const audience = request.audience.filter((name) => name !== '');
    if (audience.length === 0) throw new SpiffeError('invalid', 'workload.audience', 'audience must be specified');
    const delegate = await admit({ ...options, callerOf }, call);
    try {
      const subject = subjectOf(request.selectors, request.pid, delegate, call);
      return await brokeredOnce(options, subject, { method: call.method, signal: delegate.signal }, {
        narrow: ({ update }) => withoutPrivileged(update),
        async answer({ entries }, signal) {
          if (entries.length === 0) throw noIdentity();
          const { process } = subject;
          const answers = await Promise.all(entries.map(async (entry) => ({ entry, svid: await tokens.fetch({ entry, audience, process }, signal) }))).catch(unavailable);
          delegate.requireStill();
          subject.requireStill();
          for (const { svid } of answers) witness.deliveredToken(subject, svid);
          return { svids: answers.map(({ entry, svid }) => jwtSvidToMessage({ ...svid, id: svid.spiffeId, hint: entry.hint })) };
        },
      });
    } finally {
      delegate.release();
    }
  };

  return {
    SubscribeToX509SVIDs: svids,
    SubscribeToX509Bundles: (_request: unknown, call: Call) => allBundles(call, (all) => ({ ca_certificates: x509BundlesResponse(all).bundles ?? {} })),
    FetchJWTSVIDs: fetchJwt,
    SubscribeToJWTBundles: (_request: unknown, call: Call) => allBundles(call, jwtBundlesResponse),
  };
}

/** @throws denied `workload.no-identity`, `delegate.unauthorized`; as `callerUpdates` */
async function admit(options: DelegatedIdentityOptions, { connection: peer, method, signal }: Call): Promise<Delegate> {
  const { delegates } = options;
  const caller = options.callerOf(peer);
  const stop = linkedController(signal);
  const first = Promise.withResolvers<SpiffeId>();
  let now: WorkloadUpdate | undefined;
  const authorized = (): SpiffeId => {
    requireSame(peer);
    const id = now?.entries.find(({ spiffeId }) => delegates.has(spiffeId))?.spiffeId;
    if (id === undefined) throw new SpiffeError('denied', 'delegate.unauthorized', 'caller not configured as an authorized delegate');
    return id;
  };
  const follow = async (): Promise<void> => {
    for await (const next of callerUpdates(options, { caller, svids: false }, stop.signal)) {
      now = next.update;
      first.resolve(authorized());
      next.sent();
    }
  };
  follow().catch((error: unknown) => {
    const ended = error instanceof Error ? error : new Error('the delegate is not attested any more');
    if (!stop.signal.aborted && ended instanceof SpiffeError) options.witness.refused(caller, method, ended);
    first.reject(ended);
    stop.abort(ended);
  });
  try {
    return delegateOf(await untilAborted(first.promise, signal), stop, authorized);
  } catch (error) {
    stop.abort(new Error('not admitted'));
    stop.unlink();
    throw error;
  }
}

function delegateOf(id: SpiffeId, stop: LinkedController, authorized: () => SpiffeId): Delegate {
  return {
    id,
    signal: stop.signal,
    requireStill: () => void authorized(),
    release() {
      stop.abort(new Error('the call is over'));
      stop.unlink();
    },
  };
}

/** @throws invalid `delegate.selectors` */
function selectorsOf(messages: readonly Selector__Output[]): readonly Selector[] {
  try {
    return canonicalSelectors(selectorsFromMessages(messages));
  } catch (cause) {
    throw new SpiffeError('invalid', 'delegate.selectors', 'could not parse provided selectors', { cause });
  }
}

/** What lets its holder ask the server for more is nobody's to act with. */
function withoutPrivileged(update: WorkloadUpdate): WorkloadUpdate {
  const entries = update.entries.filter(({ admin, downstream }) => !admin && !downstream);
  return entries.length === update.entries.length ? update : { ...update, entries, identities: update.identities.filter(({ entry }) => entries.includes(entry)) };
}

function svidsResponse({ identities }: WorkloadUpdate): SubscribeToX509SVIDsResponse {
  return {
    x509_svids: identities.map(({ entry, svid }) => ({
      x509_svid: x509SvidToMessage({ id: svid.spiffeId, certificates: svid.chain, expiresAt: svid.expiresAt, hint: entry.hint }),
      x509_svid_key: svid.key.export({ type: 'pkcs8', format: 'der' }),
    })),
    federates_with: [...new Set(identities.flatMap(({ entry }) => entry.federatesWith.map(trustDomainId)))].toSorted(),
  };
}

function unavailable(error: unknown): never {
  if (!isSpiffeError(error)) throw error;
  const detail = { because: error.reason };
  throw new SpiffeError('unavailable', 'workload.jwt-unavailable', `could not fetch JWT-SVID: ${error.message}`, { detail, cause: error });
}
