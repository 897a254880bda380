/**
 * The SPIFFE Broker API's methods: who calls is proved by its connection and is on the list, whom it calls for is found by
 * its reference, and what that one is entitled to is in the cache. The endpoint is `listen.ts`.
 */
import type { APIDefinition } from '../../proto/gen/spiffe/broker/API.ts';
import type { FetchJWTSVIDRequest__Output } from '../../proto/gen/spiffe/broker/FetchJWTSVIDRequest.ts';
import type { FetchJWTSVIDResponse } from '../../proto/gen/spiffe/broker/FetchJWTSVIDResponse.ts';
import type { WorkloadReference__Output } from '../../proto/gen/spiffe/broker/WorkloadReference.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId, type SpiffeId, type TrustDomain } from '../../spiffe/id.ts';
import type { Peer } from '../../runtime/peer.ts';
import type { CallContext, ServiceHandlers } from '../../runtime/rpc/handlers.ts';
import type { WorkloadUpdate } from '../svids/cache.ts';
import type { Tokens } from '../svids/tokens.ts';
import { jwtBundlesResponse, jwtSvidResponse, x509BundlesResponse, x509SvidResponse } from '../workload/messages.ts';
import { sharesPidNamespace } from '../workload/named-process.ts';
import { noIdentity, type CallerUpdate } from '../workload/updates.ts';
import type { AllowedCaller } from './callers.ts';
import type { BrokerConfig } from './config.ts';
import { referenceFromMessage } from './messages.ts';
import { brokered, brokeredOnce, type BrokeringOptions } from './stream.ts';
import type { Subject, Subjects } from './subjects.ts';

/** A broker's connection, made by `listen.ts` after both sides were proved. */
export interface BrokerConnection {
  readonly caller: AllowedCaller;
  /** The process at the other end of a Unix socket; undefined for TCP, whose other end may be on another node. */
  readonly peer: Peer | undefined;
}

export interface BrokerApiOptions extends BrokeringOptions {
  readonly trustDomain: TrustDomain;
  readonly tokens: Pick<Tokens, 'fetch'>;
  readonly subjects: Pick<Subjects, 'process' | 'pod'>;
  readonly profiles: BrokerConfig['profiles'];
  readonly pidNamespace: BrokerConfig['pid_namespace'];
}

type Call = CallContext<BrokerConnection>;
interface Referring {
  readonly reference: WorkloadReference__Output | null;
}

export function brokerApi(options: BrokerApiOptions): ServiceHandlers<APIDefinition, BrokerConnection> {
  const { trustDomain, tokens, subjects, witness } = options;

  /** Who is meant, by a request that passes the check; a refusal is on record, whoever was meant. */
  const subjectOf = async (message: WorkloadReference__Output | null, call: Call, check: () => void): Promise<Subject> => {
    try {
      check();
      return await referredTo(message, call);
    } catch (error) {
      const behalf = { broker: call.connection.caller.id, reference: '' };
      if (!call.signal.aborted && error instanceof SpiffeError) witness.refused({ process: undefined, behalf }, call.method, error);
      throw error;
    }
  };

  const referredTo = async (message: WorkloadReference__Output | null, { connection, signal }: Call): Promise<Subject> => {
    const { caller, peer } = connection;
    const reference = referenceFromMessage(message);
    caller.requireKind(reference.kind);
    if (reference.kind === 'kubernetes') return subjects.pod(reference.pod, caller.id, signal);
    // A number means a process of this node, and who is elsewhere means another (T-25).
    if (peer === undefined) throw new SpiffeError('invalid', 'broker.reference.remote', 'processes can be referred to over the Unix socket alone');
    if (options.pidNamespace === 'same' && !sharesPidNamespace(peer)) {
      throw new SpiffeError('invalid', 'broker.reference.pid-namespace', 'the broker counts processes otherwise than this agent');
    }
    return subjects.process(reference.pid, caller.id);
  };

  const narrowed =
    ({ connection }: Call) =>
    ({ attestation, update }: CallerUpdate): WorkloadUpdate | undefined => {
      // Every field is mandatory, and without a bundle there is nothing to trust [Broker API 5.2.1].
      if (!update.bundles.has(trustDomain)) return undefined;
      return connection.caller.narrow(attestation, update);
    };

  interface Streamed<T> {
    readonly profile: BrokerConfig['profiles'][number];
    readonly svids: boolean;
    readonly compose: (update: WorkloadUpdate) => T;
  }

  async function* stream<T>(message: WorkloadReference__Output | null, call: Call, { profile, svids, compose }: Streamed<T>): AsyncGenerator<T> {
    const subject = await subjectOf(message, call, () => requireProfile(profile));
    yield* brokered(options, subject, call, { svids, narrow: narrowed(call), compose });
  }

  const requireProfile = (profile: BrokerConfig['profiles'][number]): void => {
    if (options.profiles.includes(profile)) return;
    throw new SpiffeError('unsupported', 'broker.profile', 'this profile is switched off');
  };

  const fetchJwt = async (request: FetchJWTSVIDRequest__Output, call: Call): Promise<FetchJWTSVIDResponse> => {
    const audience = request.audience.filter((name) => name !== '');
    let asked: SpiffeId | undefined;
    const subject = await subjectOf(request.reference, call, () => {
      requireProfile('jwt');
      if (audience.length === 0) throw new SpiffeError('invalid', 'workload.audience', 'audience must be specified');
      asked = request.spiffe_id === '' ? undefined : askedId(request.spiffe_id);
      call.connection.caller.requireAudience(audience);
    });
    return brokeredOnce(options, subject, call, {
      narrow: narrowed(call),
      async answer(update, signal) {
        const entries = update.entries.filter(({ spiffeId }) => asked === undefined || spiffeId === asked);
        if (entries.length === 0) throw noIdentity();
        const { process } = subject;
        const svids = await Promise.all(entries.map(async (entry) => ({ entry, svid: await tokens.fetch({ entry, audience, process }, signal) })));
        subject.requireStill();
        for (const { svid } of svids) witness.deliveredToken(subject, svid);
        return jwtSvidResponse(svids);
      },
    });
  };

  return {
    SubscribeToX509SVID: ({ reference }: Referring, call: Call) =>
      stream(reference, call, { profile: 'x509', svids: true, compose: (update) => x509SvidResponse(update, trustDomain) }),
    SubscribeToX509Bundles: ({ reference }: Referring, call: Call) =>
      stream(reference, call, { profile: 'x509', svids: false, compose: ({ bundles }) => x509BundlesResponse(bundles) }),
    FetchJWTSVID: fetchJwt,
    SubscribeToJWTBundles: ({ reference }: Referring, call: Call) =>
      stream(reference, call, { profile: 'jwt', svids: false, compose: ({ bundles }) => jwtBundlesResponse(bundles) }),
  };
}

/** @throws invalid `workload.spiffe-id` */
export function askedId(text: string): SpiffeId {
  try {
    return parseSpiffeId(text);
  } catch (error) {
    if (!isSpiffeError(error)) throw error;
    throw new SpiffeError('invalid', 'workload.spiffe-id', `invalid requested SPIFFE ID: ${error.message}`, { cause: error });
  }
}
