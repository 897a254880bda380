/**
 * A scripted agent: a Workload API on a Unix socket that grants what the test says, to streams that are open and to those
 * that come. It checks the header as every agent must, and counts how often it was asked.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadServices } from '../../proto/load.ts';
import type { JWTBundlesResponse } from '../../proto/gen/JWTBundlesResponse.ts';
import type { JWTSVIDRequest__Output } from '../../proto/gen/JWTSVIDRequest.ts';
import type { JWTSVIDResponse } from '../../proto/gen/JWTSVIDResponse.ts';
import type { ValidateJWTSVIDRequest__Output } from '../../proto/gen/ValidateJWTSVIDRequest.ts';
import type { ValidateJWTSVIDResponse } from '../../proto/gen/ValidateJWTSVIDResponse.ts';
import type { X509BundlesResponse } from '../../proto/gen/X509BundlesResponse.ts';
import type { X509SVID } from '../../proto/gen/X509SVID.ts';
import type { X509SVIDResponse } from '../../proto/gen/X509SVIDResponse.ts';
import { systemClock } from '../../runtime/clock.ts';
import { type CallContext, rpcService } from '../../runtime/rpc/handlers.ts';
import { createRpcServer } from '../../runtime/rpc/serve.ts';
import { createWatch, type WatchSource } from '../../runtime/watch.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TestAuthority } from './agent-server.ts';
import { ecPair } from './forge.ts';

/** What a kind of stream says now: a message, or why not. */
type Grant<T> = T | SpiffeError;

export interface ScriptedApi extends AsyncDisposable {
  /** As SPIFFE_ENDPOINT_SOCKET has it. */
  readonly address: string;
  /** Calls that were answered or refused, by method. */
  readonly calls: ReadonlyMap<string, number>;
  x509(grant: Grant<X509SVIDResponse>): void;
  x509Bundles(grant: Grant<X509BundlesResponse>): void;
  jwtBundles(grant: Grant<JWTBundlesResponse>): void;
  /** How tokens are made and checked. */
  tokens: (request: JWTSVIDRequest__Output) => JWTSVIDResponse;
  validate: (request: ValidateJWTSVIDRequest__Output) => ValidateJWTSVIDResponse;
  /** Breaks all connections, as an agent that is killed does; new ones are taken. */
  drop(): void;
}

export const noIdentity = new SpiffeError('denied', 'workload.no-identity', 'no identity issued');

export async function startWorkloadApi(): Promise<ScriptedApi> {
  const directory = await mkdtemp(join(tmpdir(), 'steeple-workload-'));
  const path = join(directory, 'api.sock');
  const { SpiffeWorkloadAPI } = loadServices('SpiffeWorkloadAPI');
  const calls = new Map<string, number>();
  const x509 = createWatch<Grant<X509SVIDResponse>>(noIdentity);
  const x509Bundles = createWatch<Grant<X509BundlesResponse>>(noIdentity);
  const jwtBundles = createWatch<Grant<JWTBundlesResponse>>(noIdentity);

  const admit = ({ method, metadata }: CallContext<Socket>): void => {
    const name = method.slice(method.lastIndexOf('/') + 1);
    calls.set(name, (calls.get(name) ?? 0) + 1);
    // WLEP-05
    if (metadata.get('workload.spiffe.io').join() !== 'true') throw new SpiffeError('invalid', 'workload.header', 'security header missing');
  };
  const stream = <T>(grants: WatchSource<Grant<T>>) =>
    async function* (_request: unknown, call: CallContext<Socket>): AsyncGenerator<T> {
      admit(call);
      for await (const grant of grants.values(call.signal)) {
        if (grant instanceof SpiffeError) throw grant;
        yield grant;
      }
    };
  const unsupported = (): never => {
    throw new SpiffeError('unsupported', 'workload.wit', 'WIT-SVIDs are not served');
  };

  const server = createRpcServer<Socket>({
    clock: systemClock,
    services: [
      rpcService(SpiffeWorkloadAPI, {
        FetchX509SVID: stream(x509),
        FetchX509Bundles: stream(x509Bundles),
        FetchJWTBundles: stream(jwtBundles),
        async FetchJWTSVID(request: JWTSVIDRequest__Output, call: CallContext<Socket>) {
          admit(call);
          return scripted.tokens(request);
        },
        async ValidateJWTSVID(request: ValidateJWTSVIDRequest__Output, call: CallContext<Socket>) {
          admit(call);
          return scripted.validate(request);
        },
        FetchWITSVID: unsupported,
        FetchWITBundles: unsupported,
      }),
    ],
  });
  const sockets = new Set<Socket>();
  const listener = createServer((socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    server.inject(socket, socket);
  });
  await new Promise<void>((resolve) => {
    listener.listen(path, resolve);
  });
  const drop = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  const scripted: ScriptedApi = {
    address: `unix://${path}`,
    calls,
    x509: (grant) => x509.set(grant),
    x509Bundles: (grant) => x509Bundles.set(grant),
    jwtBundles: (grant) => jwtBundles.set(grant),
    tokens: () => {
      throw noIdentity;
    },
    validate: () => {
      throw new SpiffeError('invalid', 'jwt.signature', 'the token does not hold');
    },
    drop,
    async [Symbol.asyncDispose]() {
      await server.close(50);
      drop();
      await new Promise((resolve) => listener.close(resolve));
      await rm(directory, { recursive: true, force: true });
    },
  };
  return scripted;
}

/** One identity as an agent delivers it, with a key of its own. */
export function grantedSvid(authority: TestAuthority, spiffeId: string, fields: Partial<X509SVID> = {}): X509SVID {
  const { privateKey, spki } = ecPair();
  return {
    spiffe_id: spiffeId,
    x509_svid: authority.leaf(spiffeId, spki),
    x509_svid_key: privateKey.export({ type: 'pkcs8', format: 'der' }),
    bundle: authority.certificate,
    hint: '',
    ...fields,
  };
}

export function granted(authority: TestAuthority, ...ids: readonly string[]): X509SVIDResponse {
  return { svids: ids.map((id) => grantedSvid(authority, id)) };
}
