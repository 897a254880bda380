/**
 * Envoy's secret discovery, version 3: both ways of streaming and the single answer. Who calls is in the connection, as on
 * the Workload API, and so is what it is entitled to; the streams themselves are `conversation.ts`.
 */
import type { DeltaDiscoveryRequest__Output } from '../../proto/gen/envoy/service/discovery/v3/DeltaDiscoveryRequest.ts';
import type { DiscoveryRequest__Output } from '../../proto/gen/envoy/service/discovery/v3/DiscoveryRequest.ts';
import type { DiscoveryResponse } from '../../proto/gen/envoy/service/discovery/v3/DiscoveryResponse.ts';
import type { SecretDiscoveryServiceDefinition } from '../../proto/gen/envoy/service/secret/v3/SecretDiscoveryService.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { trustDomainId } from '../../spiffe/id.ts';
import type { CallContext, ServiceHandlers } from '../../runtime/rpc/handlers.ts';
import type { HeldJwtSvid } from '../svids/held.ts';
import type { Caller } from '../workload/caller.ts';
import { requireSame } from '../workload/same-process.ts';
import { callerUpdates, noIdentity, type CallerUpdate } from '../workload/updates.ts';
import { converse, createRecord, type Asked, type ConversationParts } from './conversation.ts';
import { createDelta, type DeltaRequest } from './delta.ts';
import { checkNames, type Secret } from './dialect.ts';
import { deltaResponse, readDeltaRequest, readNode, readSecretRequest, secretResponse } from './messages.ts';
import { meaningsOf, type Selection } from './names.ts';
import { secretsOf } from './secrets.ts';
import { createStateOfTheWorld, versionOf, type SecretRequest } from './state-of-the-world.ts';
import { checkTokens, type TokenMeaning } from './tokens.ts';
import { validatorFor } from './validator.ts';

type Call = CallContext<Caller>;

/** In an error message. */
const mostNamesTold = 8;

export function secretDiscovery(parts: ConversationParts): ServiceHandlers<SecretDiscoveryServiceDefinition, Caller> {
  const { witness } = parts;

  const fetch = async (message: DiscoveryRequest__Output, call: Call): Promise<DiscoveryResponse> => {
    const request = readSecretRequest(message);
    const names = new Set(request.names.filter((name) => name !== ''));
    checkNames(names.size);
    const selection: Selection = { everything: names.size === 0, names };
    const validator = validatorFor(readNode(message.node), parts.validator);
    if (validator === 'authorities' && names.has(parts.names.allBundles)) {
      throw new SpiffeError('unsupported', 'sds.all-bundles', "all bundles in one secret need Envoy's SPIFFE validator");
    }
    const caller = call.connection;
    const next = await firstUpdate(call, selection);
    const tokens = await tokensOf(next, selection, call);
    const wanted = { selection, update: next.update, validator, token: ({ audience }: TokenMeaning) => tokens.get(audience) };
    const secrets = secretsOf(parts, wanted);
    const unknown = [...names].filter((name) => !secrets.has(name));
    if (unknown.length > 0) {
      const told = JSON.stringify(unknown.slice(0, mostNamesTold));
      throw new SpiffeError('invalid', 'sds.unknown-name', `workload is not authorized for the requested identities ${told}`);
    }
    const there = [...secrets.values()].filter((secret): secret is Secret => secret !== 'pending');
    if (there.length < secrets.size && names.size > 0) {
      throw new SpiffeError('unavailable', 'sds.pending', 'not all secrets that were asked for are there yet');
    }
    requireSame(caller.peer);
    const record = createRecord(witness, caller);
    record.came(next);
    record.sent({ secrets: there });
    return secretResponse({ version: versionOf(there), nonce: '', secrets: there, removed: [] });
  };

  /** Waits for X509-SVIDs when something else than bundles is asked for. */
  const firstUpdate = async (call: Call, { everything, names }: Selection): Promise<CallerUpdate> => {
    const bundles = new Set<string>([parts.names.bundle, parts.names.allBundles, trustDomainId(parts.trustDomain)]);
    const svids = everything ? !parts.bundlesForAll : [...names].some((name) => !bundles.has(name));
    const wanted = { caller: call.connection, svids, unregistered: parts.bundlesForAll && !svids };
    for await (const next of callerUpdates(parts, wanted, call.signal)) return next;
    throw noIdentity();
  };

  /** By audience; all are of the first identity. */
  const tokensOf = async ({ update }: CallerUpdate, selection: Selection, call: Call): Promise<ReadonlyMap<string, HeldJwtSvid>> => {
    const meanings = [...meaningsOf(selection, update, parts).values()];
    const wanted = meanings.filter((meaning): meaning is TokenMeaning => meaning.kind === 'token');
    checkTokens(wanted.length);
    const { process } = call.connection;
    const one = async ({ entry, audience }: TokenMeaning): Promise<readonly [string, HeldJwtSvid]> => [
      audience,
      await parts.tokens.fetch({ entry, audience: [audience], process }, call.signal),
    ];
    try {
      return new Map(await Promise.all(wanted.map(one)));
    } catch (error) {
      if (!isSpiffeError(error)) throw error;
      throw new SpiffeError('unavailable', 'sds.jwt-unavailable', `could not fetch JWT-SVID: ${error.message}`, {
        detail: { because: error.reason },
        cause: error,
      });
    }
  };

  return {
    StreamSecrets: (requests: AsyncIterable<DiscoveryRequest__Output>, call: Call) =>
      converse(parts, call, requests, { dialect: createStateOfTheWorld(), read: readStreamed, compose: secretResponse }),
    DeltaSecrets: (requests: AsyncIterable<DeltaDiscoveryRequest__Output>, call: Call) =>
      converse(parts, call, requests, { dialect: createDelta(), read: readDelta, compose: deltaResponse }),
    async FetchSecrets(request: DiscoveryRequest__Output, call: Call) {
      try {
        return await fetch(request, call);
      } catch (error) {
        if (!call.signal.aborted && error instanceof SpiffeError) witness.refused(call.connection, call.method, error);
        throw error;
      }
    },
  };
}

function readStreamed(message: DiscoveryRequest__Output): Asked<SecretRequest> {
  return { request: readSecretRequest(message), node: readNode(message.node) };
}

function readDelta(message: DeltaDiscoveryRequest__Output): Asked<DeltaRequest> {
  return { request: readDeltaRequest(message), node: readNode(message.node) };
}
