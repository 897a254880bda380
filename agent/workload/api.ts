/**
 * The Workload API's methods: who calls is in the connection, what it gets is in the cache, and before anything leaves the
 * process must still be the one that connected. The socket and its bounds are `listen.ts`.
 */
import { isDeepStrictEqual } from 'node:util';
import type { SpiffeWorkloadAPIDefinition } from '../../proto/gen/SpiffeWorkloadAPI.ts';
import type { JWTSVIDRequest__Output } from '../../proto/gen/JWTSVIDRequest.ts';
import type { JWTSVIDResponse } from '../../proto/gen/JWTSVIDResponse.ts';
import type { ValidateJWTSVIDRequest__Output } from '../../proto/gen/ValidateJWTSVIDRequest.ts';
import type { ValidateJWTSVIDResponse } from '../../proto/gen/ValidateJWTSVIDResponse.ts';
import type { WITSVIDRequest__Output } from '../../proto/gen/WITSVIDRequest.ts';
import type { WITSVIDResponse } from '../../proto/gen/WITSVIDResponse.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId, trustDomainOf, type SpiffeId, type TrustDomain } from '../../spiffe/id.ts';
import type { JsonObject } from '../../spiffe/json.ts';
import { validateJwtSvid } from '../../spiffe/jwt-svid.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { CallContext, ServiceHandlers } from '../../runtime/rpc/handlers.ts';
import type { Holdings } from '../sync/holdings.ts';
import type { WorkloadUpdate } from '../svids/cache.ts';
import type { Tokens } from '../svids/tokens.ts';
import type { Caller } from './caller.ts';
import {
  claimsToStruct,
  jwtBundlesResponse,
  jwtSvidResponse,
  witBundlesResponse,
  witSvidResponse,
  x509BundlesResponse,
  x509SvidResponse,
} from './messages.ts';
import { requireSame } from './same-process.ts';
import { callerUpdates, noIdentity, type CallerUpdate, type UpdatesOptions, type UpdateWanted } from './updates.ts';
import { witUpdates, type WitUpdatesOptions } from './wit-updates.ts';
import { createHandover, type Witness } from './witness.ts';

export interface WorkloadApiOptions extends UpdatesOptions {
  readonly clock: Clock;
  readonly trustDomain: TrustDomain;
  readonly holdings: () => Holdings;
  readonly tokens: Pick<Tokens, 'fetch'>;
  /** Absent where WIT-SVIDs are not served. */
  readonly wits?: WitUpdatesOptions['wits'] | undefined;
  readonly witness: Witness;
  /** Claims of tokens of other trust domains that are passed on besides `sub`, `exp` and `aud`. */
  readonly allowedForeignClaims: ReadonlySet<string>;
  /** Whether callers without an identity may have the own trust domain's bundle. */
  readonly bundlesForAll: boolean;
}

type Call = CallContext<Caller>;

export function workloadApi(options: WorkloadApiOptions): ServiceHandlers<SpiffeWorkloadAPIDefinition, Caller> {
  const { clock, trustDomain, holdings, tokens, witness } = options;

  /** Runs one call, and records how it was refused or that its stream is over. */
  async function* witnessed<T>(call: Call, stream: AsyncIterable<T>): AsyncGenerator<T> {
    try {
      yield* stream;
    } catch (error) {
      if (!call.signal.aborted && error instanceof SpiffeError) witness.refused(call.connection, call.method, error);
      throw error;
    } finally {
      witness.closed(call.connection, call.method);
    }
  }

  /** Each message that says something new; the process is looked at again before each. */
  async function* messages<T>(call: Call, wanted: Omit<UpdateWanted, 'caller'>, compose: (update: WorkloadUpdate) => T, leaving?: (update: WorkloadUpdate) => void): AsyncGenerator<T> {
    const caller = call.connection;
    let last: T | undefined;
    for await (const next of callerUpdates(options, { ...wanted, caller }, call.signal)) {
      // Every field is mandatory, and without a bundle there is nothing to trust [Workload API 5.2.1].
      if (!next.update.bundles.has(trustDomain)) continue;
      if (last === undefined) witness.matched(caller, next);
      const message = compose(next.update);
      if (last === undefined || !isDeepStrictEqual(message, last)) {
        requireSame(caller.peer);
        leaving?.(next.update);
        yield message;
        last = message;
        witness.updated(next.update.committedAt);
      }
      next.sent();
    }
  }

  const svidStream = (call: Call): AsyncIterable<ReturnType<typeof x509SvidResponse>> => {
    const handover = createHandover(witness, call.connection);
    const leaving = (update: WorkloadUpdate): void => handover.leaving(update.identities.map(({ svid }) => svid));
    return messages(call, { svids: true }, (update) => x509SvidResponse(update, trustDomain), leaving);
  };

  const bundleStream = <T>(call: Call, compose: (update: WorkloadUpdate) => T): AsyncIterable<T> =>
    messages(call, { svids: false, unregistered: options.bundlesForAll }, compose);

  /** The first update of a caller, for the methods that answer once. */
  const firstUpdate = async (call: Call, unregistered: boolean): Promise<CallerUpdate> => {
    for await (const next of callerUpdates(options, { caller: call.connection, svids: false, unregistered }, call.signal)) return next;
    throw noIdentity();
  };

  const answered = async <T>(call: Call, answer: () => Promise<T>): Promise<T> => {
    try {
      const response = await answer();
      requireSame(call.connection.peer);
      return response;
    } catch (error) {
      if (!call.signal.aborted && error instanceof SpiffeError) witness.refused(call.connection, call.method, error);
      throw error;
    }
  };

  const fetchJwt = async (request: JWTSVIDRequest__Output, call: Call): Promise<JWTSVIDResponse> => {
    const audience = request.audience.filter((name) => name !== '');
    if (audience.length === 0) throw new SpiffeError('invalid', 'workload.audience', 'audience must be specified');
    const asked = request.spiffe_id === '' ? undefined : askedId(request.spiffe_id);
    const { update } = await firstUpdate(call, false);
    const entries = update.entries.filter((entry) => asked === undefined || entry.spiffeId === asked);
    if (entries.length === 0) throw noIdentity();
    const { process } = call.connection;
    try {
      const svids = entries.map(async (entry) => ({ entry, svid: await tokens.fetch({ entry, audience, process }, call.signal) }));
      return jwtSvidResponse(await Promise.all(svids));
    } catch (error) {
      if (!isSpiffeError(error)) throw error;
      throw new SpiffeError('unavailable', 'workload.jwt-unavailable', `could not fetch JWT-SVID: ${error.message}`, {
        detail: { because: error.reason },
        cause: error,
      });
    }
  };

  const validateJwt = async (request: ValidateJWTSVIDRequest__Output, call: Call): Promise<ValidateJWTSVIDResponse> => {
    if (request.audience === '') throw new SpiffeError('invalid', 'workload.audience', 'audience must be specified');
    if (request.svid === '') throw new SpiffeError('invalid', 'workload.svid', 'svid must be specified');
    const { update } = await firstUpdate(call, true);
    const bundles = new Map(update.bundles);
    const own = holdings().bundles.get(trustDomain);
    if (own !== undefined) bundles.set(trustDomain, own);
    try {
      const bundleFor = (name: TrustDomain): ReturnType<typeof bundles.get> => bundles.get(name);
      const statement = validateJwtSvid(request.svid, { bundleFor, audience: request.audience, at: clock.now() });
      const foreign = trustDomainOf(statement.spiffeId) !== trustDomain;
      const claims = foreign ? allowedClaims(statement.claims, options.allowedForeignClaims) : statement.claims;
      return { spiffe_id: statement.spiffeId, claims: claimsToStruct(claims, statement.audience) };
    } catch (error) {
      if (!isSpiffeError(error)) throw error;
      // What is wrong with the token is wrong with the request, whatever the validator calls it.
      throw new SpiffeError('invalid', error.reason, error.message, { detail: error.detail, cause: error });
    }
  };

  async function* witStream(wits: WitUpdatesOptions['wits'], request: WITSVIDRequest__Output, call: Call): AsyncGenerator<WITSVIDResponse> {
    const asked = request.spiffe_id === '' ? undefined : askedId(request.spiffe_id);
    const caller = call.connection;
    const handover = createHandover(witness, caller);
    let last: WITSVIDResponse | undefined;
    for await (const { from, svids } of witUpdates({ ...options, wits }, { caller, asked }, call.signal)) {
      if (last === undefined) witness.matched(caller, from);
      const message = witSvidResponse(svids);
      if (last === undefined || !isDeepStrictEqual(message, last)) {
        requireSame(caller.peer);
        handover.leaving(svids.map(({ svid: { entryId, spiffeId, jti: serial } }) => ({ entryId, spiffeId, serial })));
        yield message;
        last = message;
        witness.updated(from.update.committedAt);
      }
      from.sent();
    }
  }

  const { wits } = options;
  const unsupported = (): never => {
    throw new SpiffeError('unsupported', 'workload.wit', 'WIT-SVIDs are not supported');
  };

  return {
    FetchX509SVID: (_request: unknown, call: Call) => witnessed(call, svidStream(call)),
    FetchX509Bundles: (_request: unknown, call: Call) =>
      witnessed(call, bundleStream(call, ({ bundles }) => x509BundlesResponse(bundles))),
    FetchJWTBundles: (_request: unknown, call: Call) =>
      witnessed(call, bundleStream(call, ({ bundles }) => jwtBundlesResponse(bundles))),
    FetchJWTSVID: (request: JWTSVIDRequest__Output, call: Call) => answered(call, () => fetchJwt(request, call)),
    ValidateJWTSVID: (request: ValidateJWTSVIDRequest__Output, call: Call) => answered(call, () => validateJwt(request, call)),
    FetchWITSVID: (request: WITSVIDRequest__Output, call: Call) =>
      wits === undefined ? unsupported() : witnessed(call, witStream(wits, request, call)),
    FetchWITBundles: (_request: unknown, call: Call) =>
      wits === undefined ? unsupported() : witnessed(call, bundleStream(call, ({ bundles }) => witBundlesResponse(bundles))),
  };
}

function askedId(text: string): SpiffeId {
  try {
    return parseSpiffeId(text);
  } catch (error) {
    if (!isSpiffeError(error)) throw error;
    throw new SpiffeError('invalid', 'workload.spiffe-id', `invalid requested SPIFFE ID: ${error.message}`, { cause: error });
  }
}

function allowedClaims(claims: JsonObject, allowed: ReadonlySet<string>): JsonObject {
  return Object.fromEntries(Object.entries(claims).filter(([name]) => name === 'sub' || name === 'exp' || name === 'aud' || allowed.has(name)));
}
