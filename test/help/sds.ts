/**
 * A proxy at secret discovery, without a socket between: entries and SVIDs as the test says, requests as the test writes
 * them, responses decoded down to the PEM. What is right, the tests say.
 */
import { Metadata } from '@grpc/grpc-js';
import { createDeliveries } from '../../agent/svids/delivery.ts';
import { createSvidCache, type SvidCache } from '../../agent/svids/cache.ts';
import type { HeldJwtSvid } from '../../agent/svids/held.ts';
import { generateKeys, receiveX509 } from '../../agent/svids/receive.ts';
import type { TokenRequest } from '../../agent/svids/tokens.ts';
import { holdingsOf, noHoldings, type Holdings } from '../../agent/sync/holdings.ts';
import { secretDiscovery } from '../../agent/sds/api.ts';
import type { ConversationParts } from '../../agent/sds/conversation.ts';
import type { Attestation } from '../../agent/workload/attest.ts';
import type { Caller } from '../../agent/workload/caller.ts';
import { loadMessages } from '../../proto/load.ts';
import type { Secret__Output } from '../../proto/gen/envoy/extensions/transport_sockets/tls/v3/Secret.ts';
import type { DeltaDiscoveryRequest } from '../../proto/gen/envoy/service/discovery/v3/DeltaDiscoveryRequest.ts';
import type { DeltaDiscoveryRequest__Output } from '../../proto/gen/envoy/service/discovery/v3/DeltaDiscoveryRequest.ts';
import type { DeltaDiscoveryResponse } from '../../proto/gen/envoy/service/discovery/v3/DeltaDiscoveryResponse.ts';
import type { DiscoveryRequest, DiscoveryRequest__Output } from '../../proto/gen/envoy/service/discovery/v3/DiscoveryRequest.ts';
import type { DiscoveryResponse } from '../../proto/gen/envoy/service/discovery/v3/DiscoveryResponse.ts';
import type { CallContext } from '../../runtime/rpc/handlers.ts';
import { createWatch } from '../../runtime/watch.ts';
import { composeBundle, emptyBundle, type Bundle } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { testAuthority, trustDomain, type TestAuthority } from './agent-server.ts';
import { createTestClock, type TestClock } from './clock.ts';
import { fakePeer, type FakePeer } from './peer.ts';

export const secretUrl = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret';

type Call = CallContext<Caller>;

interface Methods {
  StreamSecrets(requests: AsyncIterable<DiscoveryRequest__Output>, call: Call): AsyncGenerator<DiscoveryResponse>;
  DeltaSecrets(requests: AsyncIterable<DeltaDiscoveryRequest__Output>, call: Call): AsyncGenerator<DeltaDiscoveryResponse>;
  FetchSecrets(request: DiscoveryRequest__Output, call: Call): Promise<DiscoveryResponse>;
}

/** What is in a secret, as a test compares it. */
export interface SecretSeen {
  readonly name: string;
  readonly chain?: string;
  readonly key?: string;
  /** PEM by trust domain for the SPIFFE validator; under `''` as plain authorities. */
  readonly trust?: Readonly<Record<string, string>>;
  readonly crl?: string;
  readonly token?: string;
}

export interface Stream<Request, Response> {
  send(request: Request): void;
  /** No more requests. */
  end(): void;
  /** The next response; waits for one. */
  next(): Promise<Response>;
  /** The next response if there is one without time moving. */
  poll(): Promise<Response | undefined>;
  /** Rejects as the stream does. */
  readonly failed: Promise<never>;
}

export interface SdsWorld {
  readonly clock: TestClock;
  readonly authority: TestAuthority;
  readonly cache: SvidCache;
  readonly peer: FakePeer;
  readonly bundles: Map<TrustDomain, Bundle>;
  readonly told: string[];
  /** Set for signing of tokens to fail. */
  signing: SpiffeError | undefined;
  /** Until then none is answered that is asked for meanwhile. */
  signingTakes: Promise<void> | undefined;
  /** How often a token was asked for. */
  tokenCalls: number;
  tokenLifeMs: number;
  readonly deliveries: ReturnType<typeof createDeliveries>;
  hold(...entries: readonly RegistrationEntry[]): void;
  issue(entry: RegistrationEntry): Promise<void>;
  serve(...entries: readonly RegistrationEntry[]): Promise<void>;
  bundleOf(name: TrustDomain, ...authorities: readonly TestAuthority[]): Bundle;
  stream(): Stream<DiscoveryRequest, DiscoveryResponse>;
  delta(): Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
  fetch(request: DiscoveryRequest): Promise<DiscoveryResponse>;
  close(): void;
}

export function sdsWorld(more: Partial<ConversationParts> = {}): SdsWorld {
  const clock = createTestClock();
  const authority = testAuthority('authority', () => clock.now());
  const peer = fakePeer();
  const stop = new AbortController();
  const told: string[] = [];
  const deliveries = createDeliveries();
  const cache = createSvidCache({ trustDomain, now: () => clock.now(), prefetchLimit: 9, onWanted: () => undefined, onChange: () => undefined });
  let holdings: Holdings = noHoldings;

  const fetchToken = async ({ entry, audience }: TokenRequest): Promise<HeldJwtSvid> => {
    world.tokenCalls += 1;
    if (world.signing !== undefined) throw world.signing;
    const count = world.tokenCalls;
    await world.signingTakes;
    const expiresAt = clock.now() + world.tokenLifeMs;
    return {
      entryId: entry.id,
      entryRevision: entry.revisionNumber,
      spiffeId: entry.spiffeId,
      audience,
      token: `token-${count}-for-${audience.join()}`,
      keyId: 'key',
      issuedAt: clock.now(),
      expiresAt,
      renewAt: clock.now() + world.tokenLifeMs / 2,
    };
  };
  const methods = secretDiscovery({
    clock,
    cache,
    freshness: { catchUp: async () => undefined },
    deliveries,
    trustDomain,
    tokens: { fetch: fetchToken },
    witness: {
      matched: (_caller, { update }) => told.push(`matched ${update.entries.length}`),
      delivered: (_caller, svid, before) => told.push(`${before === undefined ? 'delivered' : 'rotated'} ${svid.spiffeId}`),
      updated: () => undefined,
      refused: (_caller, _method, error) => told.push(`refused ${error.reason}`),
      closed: () => told.push('closed'),
    },
    observer: {
      rejected: (_caller, message, quiet) => told.push(`${quiet ? 'rejected quietly' : 'rejected'}: ${message}`),
      unknown: (_caller, names) => told.push(`unknown ${names.join()}`),
    },
    bundlesForAll: false,
    names: { svid: 'default', bundle: 'ROOTCA', allBundles: 'ALL', jwtPrefix: 'jwt:' },
    validator: 'spiffe',
    ...more,
  }) as unknown as Methods;

  const call = (method: string, signal = stop.signal): Call => {
    const attestation: Attestation = { selectors: new Set(['a:1', 'b:1'].map(parseSelector)), given: new Map(), reports: [], incomplete: false, pending: undefined, rechecks: [] };
    const caller: Caller = { peer, process: { pid: 7, startTime: '1', uid: 1, gid: 1, path: '' }, attested: async () => createWatch(attestation) };
    return { signal, connection: caller, metadata: new Metadata(), method, requestId: '1', deadlineAt: undefined };
  };

  const open = <Request, Response>(answer: (requests: AsyncIterable<Request>, signal: AbortSignal) => AsyncGenerator<Response>): Stream<Request, Response> => {
    // As a server does it: aborted when the call is over, however it ended.
    const over = new AbortController();
    stop.signal.addEventListener('abort', () => over.abort(stop.signal.reason), { once: true });
    const queue: Request[] = [];
    let ended = false;
    let wake = (): void => undefined;
    const requests = (async function* () {
      for (;;) {
        const request = queue.shift();
        if (request !== undefined) yield request;
        else if (ended) return;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
    })();
    const responses = (async function* () {
      try {
        yield* answer(requests, over.signal);
      } finally {
        over.abort(new Error('the call has ended'));
      }
    })();
    const failure = Promise.withResolvers<never>();
    failure.promise.catch(() => undefined);
    let coming: Promise<IteratorResult<Response>> | undefined;
    const take = (): Promise<IteratorResult<Response>> => {
      coming ??= responses.next();
      coming.catch((error: unknown) => failure.reject(error));
      return coming;
    };
    return {
      send(request) {
        queue.push(request);
        wake();
        void take();
      },
      end() {
        ended = true;
        wake();
      },
      async next() {
        const step = await take();
        coming = undefined;
        if (step.done === true) throw new Error('the stream ended');
        return step.value;
      },
      async poll() {
        const here = take();
        await clock.settle();
        const step = await Promise.race([here, Promise.resolve(undefined)]);
        if (step === undefined) return undefined;
        coming = undefined;
        if (step.done === true) throw new Error('the stream ended');
        return step.value;
      },
      failed: failure.promise,
    };
  };

  const world: SdsWorld = {
    clock,
    authority,
    cache,
    peer,
    bundles: new Map(),
    told,
    signing: undefined,
    signingTakes: undefined,
    tokenCalls: 0,
    tokenLifeMs: 300_000,
    deliveries,
    hold(...entries) {
      holdings = holdingsOf({ position: undefined, entries, bundles: [...world.bundles.values()], authorities: [] }, holdings);
      cache.holdingsChanged(holdings);
    },
    async issue(entry) {
      const keys = await generateKeys();
      cache.put(receiveX509(entry, [authority.leaf(entry.spiffeId, keys.publicKey)], keys, { at: clock.now(), jitter: 0.5 }));
    },
    async serve(...entries) {
      world.hold(...entries);
      for (const entry of entries) await world.issue(entry);
    },
    bundleOf: (name, ...authorities) =>
      composeBundle({ ...emptyBundle(name), x509Authorities: (authorities.length === 0 ? [authority] : authorities).map(({ certificate }) => ({ certificate, tainted: false })) }),
    stream: () => open((requests: AsyncIterable<DiscoveryRequest>, signal) => methods.StreamSecrets(requestsOf(requests), call('/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets', signal))),
    delta: () => open((requests: AsyncIterable<DeltaDiscoveryRequest>, signal) => methods.DeltaSecrets(deltasOf(requests), call('/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets', signal))),
    fetch: (request) => methods.FetchSecrets(requestOf(request), call('/envoy.service.secret.v3.SecretDiscoveryService/FetchSecrets')),
    close: () => stop.abort(new SpiffeError('unavailable', 'rpc.cancelled', 'the test is over')),
  };
  world.bundles.set(trustDomain, world.bundleOf(trustDomain));
  return world;
}

/** As they come from the wire, absent fields with their empty value. */
function requestOf(request: DiscoveryRequest): DiscoveryRequest__Output {
  return { version_info: '', node: null, resource_names: [], type_url: secretUrl, response_nonce: '', error_detail: null, ...request } as DiscoveryRequest__Output;
}

async function* requestsOf(requests: AsyncIterable<DiscoveryRequest>): AsyncGenerator<DiscoveryRequest__Output> {
  for await (const request of requests) yield requestOf(request);
}

async function* deltasOf(requests: AsyncIterable<DeltaDiscoveryRequest>): AsyncGenerator<DeltaDiscoveryRequest__Output> {
  for await (const request of requests) {
    yield {
      node: null,
      type_url: secretUrl,
      resource_names_subscribe: [],
      resource_names_unsubscribe: [],
      initial_resource_versions: {},
      response_nonce: '',
      error_detail: null,
      ...request,
    } as DeltaDiscoveryRequest__Output;
  }
}

const types = loadMessages('envoy.extensions.transport_sockets.tls.v3.Secret', 'envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig');

export function seen(value: Uint8Array | Buffer | string | null | undefined): SecretSeen {
  const secret: Secret__Output = types['envoy.extensions.transport_sockets.tls.v3.Secret'].deserialize(Buffer.from(value as Uint8Array));
  const text = (bytes: Buffer | undefined): string => Buffer.from(bytes ?? []).toString();
  const { name, tls_certificate: certificate, validation_context: context, generic_secret: generic } = secret;
  if (certificate !== null && certificate !== undefined) {
    return { name, chain: text(certificate.certificate_chain?.inline_bytes), key: text(certificate.private_key?.inline_bytes) };
  }
  if (generic !== null && generic !== undefined) return { name, token: text(generic.secret?.inline_bytes) };
  const crl = context?.crl === null || context?.crl === undefined ? {} : { crl: text(context.crl.inline_bytes) };
  const custom = context?.custom_validator_config;
  if (custom === null || custom === undefined) return { name, trust: { '': text(context?.trusted_ca?.inline_bytes) }, ...crl };
  const config = types['envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig'].deserialize(Buffer.from((custom.typed_config as unknown as { value: Buffer }).value));
  return { name, trust: Object.fromEntries(config.trust_domains.map((domain) => [domain.name, text(domain.trust_bundle?.inline_bytes)])), ...crl };
}

export function secretsIn({ resources }: DiscoveryResponse): SecretSeen[] {
  return (resources ?? []).map((any) => seen((any as unknown as { value: Buffer }).value));
}

export function changedIn({ resources }: DeltaDiscoveryResponse): SecretSeen[] {
  return (resources ?? []).map(({ resource }) => seen((resource as unknown as { value: Buffer }).value));
}
