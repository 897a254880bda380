/**
 * A Workload API for the tests of programs that use one: on a socket of its own, from an authority in memory, under the test's
 * control. It attests nobody: whoever connects is granted what the test says.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadWorkloadService } from '../../proto/workload.ts';
import type { JWTSVIDRequest__Output } from '../../proto/gen/JWTSVIDRequest.ts';
import type { JWTSVIDResponse } from '../../proto/gen/JWTSVIDResponse.ts';
import type { ValidateJWTSVIDRequest__Output } from '../../proto/gen/ValidateJWTSVIDRequest.ts';
import type { ValidateJWTSVIDResponse } from '../../proto/gen/ValidateJWTSVIDResponse.ts';
import type { WITSVIDRequest__Output } from '../../proto/gen/WITSVIDRequest.ts';
import type { X509SVIDResponse } from '../../proto/gen/X509SVIDResponse.ts';
import { type Clock, systemClock } from '../../runtime/clock.ts';
import { type CallContext, rpcService } from '../../runtime/rpc/handlers.ts';
import { createRpcServer, type RpcServer } from '../../runtime/rpc/serve.ts';
import { createWatch } from '../../runtime/watch.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { validateJwtSvid } from '../../spiffe/jwt-svid.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import { createFakeAuthority, type FakeAuthority } from './authority.ts';
import { type Contrary, createTroublemaker, type Step, type Troublemaker } from './contrary.ts';
import {
  type FakeGrant,
  type Granted,
  jwtBundlesMessage,
  noIdentity,
  refusedAsInvalid,
  structOf,
  witBundlesMessage,
  witMessage,
  x509BundlesMessage,
  x509Message,
} from './granted.ts';

/** Where to listen, and for which trust domain. */
export interface FakeWorkloadApiOptions {
  /** `example.org` unless given. */
  readonly trustDomain?: string;
  /** A Unix socket in a folder of its own, which goes with it, unless `tcp` on the loopback is asked for. */
  readonly transport?: 'unix' | 'tcp';
  readonly clock?: Clock;
}

type Call = CallContext<Socket>;
type State = Granted | SpiffeError;

/**
 * Grants nothing until it is told to. To be closed, or held by `await using`.
 */
export class FakeWorkloadApi implements AsyncDisposable {
  /** As SPIFFE_ENDPOINT_SOCKET has it. */
  readonly address: string;
  /** Signs what is granted. `rotate` it, then `rotate()` here, to exchange the keys of the trust domain. */
  readonly authority: FakeAuthority;
  readonly #place: Place;
  readonly #clock: Clock;
  readonly #rpc: RpcServer<Socket>;
  readonly #sockets = new Set<Socket>();
  readonly #calls = new Map<string, number>();
  readonly #state = createWatch<State>(noIdentity);
  #listener: Server | undefined;
  #grants: readonly FakeGrant[] = [];
  #federated: readonly Bundle[] = [];
  #trouble: Troublemaker | undefined;

  private constructor(authority: FakeAuthority, place: Place, clock: Clock) {
    this.authority = authority;
    this.address = place.address;
    this.#place = place;
    this.#clock = clock;
    this.#rpc = createRpcServer<Socket>({ clock, services: [this.#service()] });
  }

  /** Listens when it resolves. @throws invalid `id.trust-domain.*`, unavailable `fake.listen` */
  static async start(options: FakeWorkloadApiOptions = {}): Promise<FakeWorkloadApi> {
    const clock = options.clock ?? systemClock;
    const authority = createFakeAuthority(options.trustDomain ?? 'example.org', clock);
    const place = await (options.transport === 'tcp' ? tcpPlace() : unixPlace());
    const api = new FakeWorkloadApi(authority, place, clock);
    await api.resume();
    return api;
  }

  /** Grants these identities and no others, to open streams and to those that come: SPIFFE IDs, paths such as `/web`, or more. */
  grant(...identities: readonly (string | FakeGrant)[]): void {
    this.#grants = identities.map((identity) => (typeof identity === 'string' ? { identity } : identity));
    this.rotate();
  }

  /** Makes new SVIDs for what is granted, and sends them. */
  rotate(): void {
    const grants = this.#grants;
    const granted: Granted = {
      grants,
      x509: grants.map((grant) => this.authority.x509Svid(grant.identity, grant)),
      wit: grants.map((grant) => this.authority.witSvid(grant.identity, grant)),
      bundle: this.authority.bundle,
      federated: this.#federated,
    };
    this.#state.set(grants.length === 0 ? noIdentity : granted);
  }

  /** Tells the bundles of these other trust domains and of no others, beside one's own. */
  federate(...bundles: readonly Bundle[]): void {
    this.#federated = bundles;
    const state = this.#state.value;
    if (!(state instanceof SpiffeError)) this.#state.set({ ...state, bundle: this.authority.bundle, federated: bundles });
  }

  /** Takes everything back: PermissionDenied, as an agent answers that has no identity for the caller. */
  deny(): void {
    this.refuse(noIdentity);
  }

  /** Answers with this, until something is granted again. Its kind is the gRPC status. */
  refuse(error: SpiffeError): void {
    this.#state.set(error);
  }

  /** Makes trouble from now on, or no more. */
  contrary(contrary: Contrary | undefined): void {
    this.#trouble = contrary === undefined ? undefined : createTroublemaker(contrary);
  }

  /** What is granted now as it was sent last, in the order of the grants. */
  get svids(): readonly X509Svid[] {
    const state = this.#state.value;
    return state instanceof SpiffeError ? [] : state.x509;
  }

  /** How often each method was called, such as `FetchX509SVID`. */
  get calls(): ReadonlyMap<string, number> {
    return this.#calls;
  }

  /** Breaks all connections, as an agent that is killed does; new ones are taken. */
  disconnect(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Goes away, as an agent that is stopped does, until `resume`. */
  async suspend(): Promise<void> {
    const listener = this.#listener;
    this.#listener = undefined;
    if (listener === undefined) return;
    const closed = new Promise((resolve) => listener.close(resolve));
    this.disconnect();
    await closed;
  }

  /** Listens again, at the same address. @throws unavailable `fake.listen` */
  async resume(): Promise<void> {
    if (this.#listener !== undefined) return;
    const listener = createServer((socket) => {
      this.#sockets.add(socket);
      socket.once('close', () => this.#sockets.delete(socket));
      this.#rpc.inject(socket, socket);
    });
    await new Promise<void>((resolve, reject) => {
      listener.once('error', (cause) => {
        reject(new SpiffeError('unavailable', 'fake.listen', 'the fake Workload API cannot listen', { cause }));
      });
      listener.listen(this.#place.listen, resolve);
    });
    this.#listener = listener;
  }

  /** Ends all calls, and takes the socket away. May be called again. */
  async close(): Promise<void> {
    await this.#rpc.close(0);
    await this.suspend();
    await this.#place.remove();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #service(): ReturnType<typeof rpcService<ReturnType<typeof loadWorkloadService>, Socket>> {
    const { authority } = this;
    return rpcService(loadWorkloadService(), {
      FetchX509SVID: (_request: unknown, call: Call) => this.#stream(call, x509Message),
      FetchX509Bundles: (_request: unknown, call: Call) => this.#stream(call, x509BundlesMessage),
      FetchJWTBundles: (_request: unknown, call: Call) => this.#stream(call, jwtBundlesMessage),
      FetchWITSVID: (request: WITSVIDRequest__Output, call: Call) =>
        this.#stream(call, (granted) => witMessage(granted, request.spiffe_id)),
      FetchWITBundles: (_request: unknown, call: Call) => this.#stream(call, witBundlesMessage),
      FetchJWTSVID: async (request: JWTSVIDRequest__Output, call: Call): Promise<JWTSVIDResponse> => {
        const granted = this.#admit(call);
        if (request.audience.every((name) => name === '')) {
          throw new SpiffeError('invalid', 'workload.audience', 'audience must be specified');
        }
        const svids = granted.grants
          .map(({ identity, hint = '', jwtTtlSeconds: ttlSeconds = 300 }) => authority.jwtSvid(identity, request.audience, { hint, ttlSeconds }))
          .filter(({ spiffeId }) => request.spiffe_id === '' || spiffeId === request.spiffe_id);
        if (svids.length === 0) throw noIdentity;
        return { svids: svids.map(({ spiffeId, token, hint }) => ({ spiffe_id: spiffeId, svid: token, hint })) };
      },
      ValidateJWTSVID: async (request: ValidateJWTSVIDRequest__Output, call: Call): Promise<ValidateJWTSVIDResponse> => {
        const { bundle, federated } = this.#admit(call);
        const bundleFor = (name: string): Bundle | undefined => [bundle, ...federated].find(({ trustDomain }) => trustDomain === name);
        const expected = { bundleFor, audience: request.audience, at: this.#clock.now() };
        const { spiffeId, claims } = refusedAsInvalid(() => validateJwtSvid(request.svid, expected));
        return { spiffe_id: spiffeId, claims: structOf(claims) };
      },
    });
  }

  /** Counts the call, and holds it to the header [Workload Endpoint 3]. */
  #admit({ method, metadata }: Call): Granted {
    const name = method.slice(method.lastIndexOf('/') + 1);
    this.#calls.set(name, (this.#calls.get(name) ?? 0) + 1);
    if (metadata.get('workload.spiffe.io').join() !== 'true') {
      throw new SpiffeError('invalid', 'workload.header', 'security header missing from request');
    }
    const state = this.#state.value;
    if (state instanceof SpiffeError) throw state;
    return state;
  }

  async *#stream<T>(call: Call, message: (granted: Granted) => T): AsyncGenerator<T> {
    this.#admit(call);
    for await (const state of this.#state.values(call.signal)) {
      if (state instanceof SpiffeError) throw state;
      const update = message(state);
      yield* this.#inTrouble(update, call.signal);
      yield update;
    }
  }

  async *#inTrouble<T>(update: T, signal: AbortSignal): AsyncGenerator<T> {
    const isX509 = typeof update === 'object' && update !== null && 'federated_bundles' in update;
    const steps = (isX509 ? this.#trouble?.x509Steps(update as X509SVIDResponse) : this.#trouble?.steps()) ?? [];
    for (const step of steps as readonly Step<T>[]) {
      if ('send' in step) yield step.send;
      else if ('waitMs' in step) await this.#clock.sleep(step.waitMs, signal);
      else if ('refuse' in step) throw step.refuse;
      else this.disconnect();
    }
  }
}

/** Where it listens, and what to do about the place in the end. */
interface Place {
  readonly address: string;
  readonly listen: { readonly path: string } | { readonly host: string; readonly port: number };
  readonly remove: () => Promise<void>;
}

async function unixPlace(): Promise<Place> {
  const directory = await mkdtemp(join(tmpdir(), 'fake-workload-api-'));
  const path = join(directory, 'api.sock');
  return { address: `unix://${path}`, listen: { path }, remove: () => rm(directory, { recursive: true, force: true }) };
}

/** A port that was free a moment ago, so that it stays the same when the API goes away and comes back. */
async function tcpPlace(): Promise<Place> {
  const host = '127.0.0.1';
  const probe = createServer();
  await new Promise<void>((resolve) => {
    probe.listen(0, host, resolve);
  });
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return { address: `tcp://${host}:${port}`, listen: { host, port }, remove: () => Promise.resolve() };
}
