/**
 * A scripted server for agents: it admits whoever shows the token, streams what the test commits, signs what is asked for
 * and takes events. It has behaviour, not expectations; with `kind: 'spire'` it knows only what SPIRE's servers know.
 */
import { sign } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { loadServices } from '../../proto/load.ts';
import { bundleToMessage } from '../../proto/convert/bundle.ts';
import { entryToMessage } from '../../proto/convert/entry.ts';
import { x509SvidToMessage } from '../../proto/convert/svid.ts';
import type { AttestAgentRequest__Output } from '../../proto/gen/spire/api/server/agent/v1/AttestAgentRequest.ts';
import type { RenewAgentRequest__Output } from '../../proto/gen/spire/api/server/agent/v1/RenewAgentRequest.ts';
import type { BatchNewWITSVIDRequest__Output } from '../../proto/gen/spire/api/server/svid/v1/BatchNewWITSVIDRequest.ts';
import type { BatchNewX509SVIDRequest__Output } from '../../proto/gen/spire/api/server/svid/v1/BatchNewX509SVIDRequest.ts';
import type { NewJWTSVIDRequest__Output } from '../../proto/gen/spire/api/server/svid/v1/NewJWTSVIDRequest.ts';
import type { SyncAuthorizedEntriesRequest__Output } from '../../proto/gen/spire/api/server/entry/v1/SyncAuthorizedEntriesRequest.ts';
import type { Change } from '../../proto/gen/steeple/node/v1/Change.ts';
import type { FollowRequest__Output } from '../../proto/gen/steeple/node/v1/FollowRequest.ts';
import type { FollowResponse } from '../../proto/gen/steeple/node/v1/FollowResponse.ts';
import type { IssueRequest__Output } from '../../proto/gen/steeple/node/v1/IssueRequest.ts';
import type { ReportRequest__Output } from '../../proto/gen/steeple/node/v1/ReportRequest.ts';
import { systemClock } from '../../runtime/clock.ts';
import { permissionDeniedDetail, type PermissionDeniedReason } from '../../runtime/rpc/details.ts';
import { rpcService, type CallContext } from '../../runtime/rpc/handlers.ts';
import { createRpcServer, type RpcServer } from '../../runtime/rpc/serve.ts';
import { createTlsServer, type TlsIdentity } from '../../runtime/tls.ts';
import { createWatch } from '../../runtime/watch.ts';
import { composeBundle, emptyBundle, type Bundle } from '../../spiffe/bundle.ts';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { composeSpiffeId, parseSpiffeId, parseTrustDomain, serverId, type SpiffeId } from '../../spiffe/id.ts';
import { assembleJwtSvid, draftJwtSvid } from '../../spiffe/jwt-svid.ts';
import { parseSelector } from '../../spiffe/selector.ts';
import { parseCertificate } from '../../spiffe/x509/certificate.ts';
import { parseRequest } from '../../spiffe/x509/request.ts';
import { parseX509Svid, type X509Svid } from '../../spiffe/x509-svid.ts';
import { testWitSigner } from './wit-signer.ts';
import { authorityExtensions, ecPair, extension, forgeCertificate, leafExtensions, nameOf, type Pair } from './forge.ts';

export const trustDomain = parseTrustDomain('example.org');
export const hourMs = 3_600_000;

export interface TestAuthority {
  readonly pair: Pair;
  readonly name: string;
  readonly certificate: Uint8Array;
  /** Lower hex. */
  readonly id: string;
  /** DER of a right leaf; `ttlMs` may be negative for one that has expired. */
  leaf(spiffeId: string, publicKey: Uint8Array, ttlMs?: number): Uint8Array;
  svid(spiffeId: string, ttlMs?: number): X509Svid;
}

export function testAuthority(name = 'authority', now: () => number = () => systemClock.now()): TestAuthority {
  const pair = ecPair();
  const certificate = forgeCertificate({
    issuer: nameOf(name),
    subject: nameOf(name),
    spki: pair.spki,
    signer: pair.privateKey,
    extensions: [...authorityExtensions(`spiffe://${trustDomain}`), extension.subjectKeyId(pair.spki)],
    validity: [now() - hourMs, now() + 24 * hourMs],
  });
  const leaf = (spiffeId: string, publicKey: Uint8Array, ttlMs = hourMs): Uint8Array =>
    forgeCertificate({
      issuer: nameOf(name),
      subject: nameOf('leaf'),
      spki: publicKey,
      signer: pair.privateKey,
      extensions: [...leafExtensions(spiffeId), extension.authorityKeyId(pair.spki)],
      validity: [now() - 10_000 + Math.min(0, ttlMs), now() + ttlMs],
    });
  return {
    pair,
    name,
    certificate,
    id: Buffer.from(parseCertificate(certificate).subjectKeyId ?? []).toString('hex'),
    leaf,
    svid(spiffeId, ttlMs) {
      const own = ecPair();
      const pkcs8Key = own.privateKey.export({ type: 'pkcs8', format: 'der' });
      return parseX509Svid({ chain: [leaf(spiffeId, own.spki, ttlMs)], pkcs8Key });
    },
  };
}

let entries = 0;

export function testEntry(spiffePath: string, selectors: readonly string[], fields: Partial<RegistrationEntry> = {}): RegistrationEntry {
  entries += 1;
  return Object.freeze({
    id: `entry-${String(entries).padStart(4, '0')}`,
    spiffeId: composeSpiffeId(trustDomain, spiffePath),
    parentId: composeSpiffeId(trustDomain, '/spire/agent/join_token/t'),
    selectors: selectors.map(parseSelector),
    x509SvidTtlSeconds: 0,
    jwtSvidTtlSeconds: 0,
    federatesWith: [],
    dnsNames: [],
    admin: false,
    downstream: false,
    storeSvid: false,
    hint: '',
    disableX509SvidPrefetch: false,
    jwtSvidIncludeJti: false,
    forbidCache: false,
    expiresAt: undefined,
    createdAt: Date.UTC(2026, 0, 1),
    revisionNumber: 0,
    ...fields,
  });
}

type Connection = { readonly peer: SpiffeId | undefined; readonly serial: string };
type Call = CallContext<Connection>;

export interface AgentServerOptions {
  readonly kind?: 'steeple' | 'spire';
  /** 0 takes a free one. */
  readonly port?: number;
  readonly authority?: TestAuthority;
  readonly workloadTtlMs?: number;
  readonly agentTtlMs?: number;
  readonly jwtTtlMs?: number;
  /** `unknown`: as a server before there were WIT-SVIDs, `off`: as one that is not configured to issue any. */
  readonly wit?: 'on' | 'off' | 'unknown';
  readonly reattestable?: boolean;
  readonly token?: string;
}

export interface AgentServer extends AsyncDisposable {
  readonly port: number;
  readonly authority: TestAuthority;
  readonly bundle: Bundle;
  /** How often each method was called. */
  readonly calls: Map<string, number>;
  readonly confirmed: number[];
  readonly reported: ReportRequest__Output[];
  readonly issued: { readonly entryId: string; readonly pid: number }[];
  /** Serials of agent SVIDs presented on connections. */
  readonly presented: Set<string>;
  /** Commits these as one change: new or changed entries, and ids that go. */
  commit(entries: readonly RegistrationEntry[], removed?: readonly string[]): void;
  commitChange(...changes: Change[]): void;
  setBundle(bundle: Bundle): void;
  /** Held back from the follow stream until `release`. */
  stall(): void;
  release(): void;
  /** From now on every call of an agent is refused with this detail. */
  refuseAgents(reason: PermissionDeniedReason): void;
  /** Refuses to sign for these entries. */
  readonly unsignable: Set<string>;
  /** Stops listening and cuts every connection; `start` brings it back on the same port. */
  stop(): Promise<void>;
  start(): Promise<void>;
}

const epoch = 'epoch-1';

export async function startAgentServer(options: AgentServerOptions = {}): Promise<AgentServer> {
  const { kind = 'steeple', workloadTtlMs = hourMs, agentTtlMs = hourMs, jwtTtlMs = 300_000, token = 'a-token-for-tests', reattestable = false, wit = 'on' } = options;
  const authority = options.authority ?? testAuthority();
  const jwtKey = ecPair();
  const witSigner = testWitSigner(systemClock);
  const jwtAuthority = { keyId: 'jwt-key-1', publicKey: jwtKey.spki, expiresAt: undefined, tainted: false };
  let bundle = composeBundle({
    ...emptyBundle(trustDomain),
    x509Authorities: [{ certificate: authority.certificate, tainted: false }],
    jwtAuthorities: [jwtAuthority],
    witAuthorities: [{ keyId: witSigner.keyId, publicKey: witSigner.publicKey, expiresAt: undefined, tainted: false }],
    sequence: 1n,
  });
  const held = new Map<string, RegistrationEntry>();
  const log: { readonly revision: number; readonly at: number; readonly changes: readonly Change[] }[] = [];
  const revision = createWatch(1);
  const stalled = createWatch(false);
  const calls = new Map<string, number>();
  const confirmed: number[] = [];
  const reported: ReportRequest__Output[] = [];
  const issued: { entryId: string; pid: number }[] = [];
  const presented = new Set<string>();
  const unsignable = new Set<string>();
  let spent = false;
  let refusal: PermissionDeniedReason | undefined;

  const count = (call: Call): void => void calls.set(call.method, (calls.get(call.method) ?? 0) + 1);
  const agentOnly = (call: Call): void => {
    count(call);
    if (call.connection.peer === undefined) throw new SpiffeError('denied', 'call.denied', 'agents only');
    if (refusal !== undefined) throw new SpiffeError('denied', 'call.denied', `refused ${refusal}`, { detail: { why: refusal } });
    presented.add(call.connection.serial);
  };
  const unsupported = (): void => {
    if (kind === 'spire') throw new SpiffeError('unsupported', 'rpc.unimplemented', 'unknown service');
  };
  const agentId = composeSpiffeId(trustDomain, `/spire/agent/join_token/${token}`);

  const names = [
    'spire.api.server.agent.v1.Agent',
    'spire.api.server.bundle.v1.Bundle',
    'spire.api.server.entry.v1.Entry',
    'spire.api.server.svid.v1.SVID',
    'steeple.node.v1.Node',
  ] as const;
  const services = loadServices(...names);
  const rest = new Proxy({}, { get: () => () => Promise.reject(new SpiffeError('unsupported', 'rpc.unimplemented', 'not here')) });
  const withRest = <T extends object>(handlers: T): T =>
    new Proxy(handlers, { get: (target, name) => Reflect.get(target, name) ?? Reflect.get(rest, name) });

  const agentSvid = (csr: Uint8Array): ReturnType<typeof x509SvidToMessage> => {
    const expiresAt = systemClock.now() + agentTtlMs;
    const { publicKey } = parseRequest(csr);
    return x509SvidToMessage({ id: agentId, certificates: [authority.leaf(agentId, publicKey, agentTtlMs)], expiresAt, hint: '' });
  };

  const agentService = withRest({
    async *AttestAgent(requests: AsyncIterable<AttestAgentRequest__Output>, call: Call) {
      count(call);
      for await (const { params } of requests) {
        if (params?.data?.payload.toString('utf8') !== token || (spent && !reattestable)) {
          throw new SpiffeError('invalid', 'token.unknown', 'failed to attest: join token does not exist or has already been used');
        }
        spent = true;
        yield { result: { svid: agentSvid(params.params?.csr ?? Buffer.alloc(0)), reattestable } };
        return;
      }
    },
    async RenewAgent(request: RenewAgentRequest__Output, call: Call) {
      agentOnly(call);
      return { svid: agentSvid(request.params?.csr ?? Buffer.alloc(0)) };
    },
    async PostStatus(_request: unknown, call: Call) {
      agentOnly(call);
      return {};
    },
  });

  const bundleService = withRest({
    async GetBundle(_request: unknown, call: Call) {
      count(call);
      return bundleToMessage(bundle);
    },
  });

  const entryService = withRest({
    async *SyncAuthorizedEntries(requests: AsyncIterable<SyncAuthorizedEntriesRequest__Output>, call: Call) {
      agentOnly(call);
      const pageSize = 3;
      const all = [...held.values()];
      const pages = (ids: readonly RegistrationEntry[]): RegistrationEntry[][] => {
        const cut: RegistrationEntry[][] = [];
        for (let from = 0; from < ids.length; from += pageSize) cut.push(ids.slice(from, from + pageSize));
        return cut.length === 0 ? [[]] : cut;
      };
      let first = true;
      for await (const { ids } of requests) {
        if (first && all.length <= pageSize) {
          yield { entries: all.map((entry) => entryToMessage(entry)) };
          return;
        }
        const cut = pages(first ? all : all.filter((entry) => ids.includes(entry.id)));
        for (const [i, page] of cut.entries()) {
          const more = i < cut.length - 1;
          if (!first) yield { entries: page.map((entry) => entryToMessage(entry)), more };
          else yield { entry_revisions: page.map(({ id, revisionNumber, createdAt }) => ({ id, revision_number: revisionNumber, created_at: createdAt / 1000 })), more };
        }
        first = false;
      }
    },
  });

  const signX509 = (entry: RegistrationEntry, publicKey: Uint8Array): Uint8Array => {
    const ttlMs = entry.x509SvidTtlSeconds === 0 ? workloadTtlMs : entry.x509SvidTtlSeconds * 1000;
    return authority.leaf(entry.spiffeId, publicKey, ttlMs);
  };

  const signJwt = (entry: RegistrationEntry, audience: readonly string[]): { token: string; issuedAt: number; expiresAt: number } => {
    const issuedAt = Math.floor(systemClock.now() / 1000) * 1000;
    const expiresAt = issuedAt + jwtTtlMs;
    const jti = entry.jwtSvidIncludeJti ? `jti-${String(issued.length)}` : undefined;
    const draft = draftJwtSvid({ spiffeId: entry.spiffeId, audience, issuedAt, expiresAt, keyId: jwtAuthority.keyId, algorithm: 'ES256', jti });
    return { token: assembleJwtSvid(draft, sign('sha256', Buffer.from(draft), { key: jwtKey.privateKey, dsaEncoding: 'ieee-p1363' })), issuedAt, expiresAt };
  };

  const disabled = { kind: 'unsupported', reason: 'wit.disabled', message: 'WIT functionality is disabled' } as const;
  const signWit = async (entry: RegistrationEntry, publicKey: Uint8Array, pid: number): Promise<string> => {
    issued.push({ entryId: entry.id, pid });
    // Of the pair a server sees the public half alone.
    const keys = { publicKey, privateKey: jwtKey.privateKey };
    const [signed] = await witSigner.signWit([{ entry, keys, process: undefined }]);
    return signed !== undefined && 'token' in signed ? signed.token : '';
  };

  const svidService = withRest({
    async BatchNewWITSVID({ params }: BatchNewWITSVIDRequest__Output, call: Call) {
      agentOnly(call);
      if (wit !== 'on') throw new SpiffeError('unsupported', disabled.reason, disabled.message);
      return {
        results: await Promise.all(
          params.map(async ({ entry_id, public_key }) => {
            const entry = held.get(entry_id);
            if (entry === undefined) return { status: { code: 5, message: 'entry not found or not authorized' } };
            // Without a status, as SPIRE's own have none on success.
            return { svid: { token: await signWit(entry, public_key, 0) } };
          }),
        ),
      };
    },
    async BatchNewX509SVID({ params }: BatchNewX509SVIDRequest__Output, call: Call) {
      agentOnly(call);
      return {
        results: params.map(({ entry_id, csr }) => {
          const entry = held.get(entry_id);
          if (entry === undefined) return { status: { code: 5, message: 'entry not found or not authorized' } };
          issued.push({ entryId: entry_id, pid: 0 });
          const chain = [signX509(entry, parseRequest(csr).publicKey)];
          return { status: { code: 0, message: 'OK' }, svid: x509SvidToMessage({ id: entry.spiffeId, certificates: chain, expiresAt: systemClock.now() + workloadTtlMs, hint: '' }) };
        }),
      };
    },
    async NewJWTSVID({ entry_id, audience }: NewJWTSVIDRequest__Output, call: Call) {
      agentOnly(call);
      const entry = held.get(entry_id);
      if (entry === undefined) throw new SpiffeError('missing', 'entry.missing', 'entry not found or not authorized');
      const { token: signed, issuedAt, expiresAt } = signJwt(entry, audience);
      const id = { trust_domain: trustDomain, path: entry.spiffeId.slice(`spiffe://${trustDomain}`.length) };
      return { svid: { token: signed, id, issued_at: issuedAt / 1000, expires_at: expiresAt / 1000 } };
    },
  });

  const nodeService = {
    async *Follow(requests: AsyncIterable<FollowRequest__Output>, call: Call): AsyncGenerator<FollowResponse> {
      unsupported();
      agentOnly(call);
      const iterator = requests[Symbol.asyncIterator]();
      const { hello } = (await iterator.next()).value as FollowRequest__Output;
      void (async () => {
        for (let next = await iterator.next(); next.done !== true; next = await iterator.next()) {
          confirmed.push(Number(next.value.confirm?.position?.revision));
        }
      })().catch(() => undefined);
      let at = hello?.position?.epoch === epoch ? Number(hello.position.revision) : -1;
      yield { welcome: { version: 2, server_time_ms: Math.round(systemClock.now()), snapshot: at < 0 } };
      if (at < 0) {
        at = revision.value;
        yield { snapshot: { entries: [...held.values()].map((entry) => entryToMessage(entry)), bundles: [bundleToMessage(bundle)], last: { epoch, revision: at } } };
      }
      for await (const newest of revision.values(call.signal)) {
        for await (const held of stalled.values(call.signal)) if (!held) break;
        for (const { revision: number, at: committed, changes } of log) {
          if (number <= at || number > newest) continue;
          yield { changes: { position: { epoch, revision: number }, committed_at_ms: committed, changes: [...changes] } };
          at = number;
        }
      }
    },
    async Issue(request: IssueRequest__Output, call: Call) {
      unsupported();
      agentOnly(call);
      const missing = { refusal: { kind: 'missing', reason: 'issue.not-authorized', message: 'entry not found or not authorized' } };
      return {
        x509: request.x509.map(({ entry_id, public_key, process }) => {
          const entry = held.get(entry_id);
          if (entry === undefined || unsignable.has(entry_id)) return missing;
          issued.push({ entryId: entry_id, pid: process?.pid ?? 0 });
          return { cert_chain: [Buffer.from(signX509(entry, public_key))], expires_at_ms: systemClock.now() + workloadTtlMs };
        }),
        ...(wit !== 'unknown' && {
          wit: await Promise.all(
            request.wit.map(async ({ entry_id, public_key, process }) => {
              const entry = held.get(entry_id);
              if (wit === 'off') return { refusal: disabled };
              return entry === undefined ? missing : { token: await signWit(entry, public_key, process?.pid ?? 0) };
            }),
          ),
        }),
        jwt: request.jwt.map(({ entry_id, audience, process }) => {
          const entry = held.get(entry_id);
          if (entry === undefined) return missing;
          issued.push({ entryId: entry_id, pid: process?.pid ?? 0 });
          const { token: signed, issuedAt, expiresAt } = signJwt(entry, audience);
          return { token: signed, issued_at_ms: issuedAt, expires_at_ms: expiresAt };
        }),
      };
    },
    async Behind(request: { position: { revision: string } | null }, call: Call) {
      unsupported();
      agentOnly(call);
      return { behind: Number(request.position?.revision ?? -1) < revision.value, position: { epoch, revision: revision.value } };
    },
    async Report(request: ReportRequest__Output, call: Call) {
      unsupported();
      agentOnly(call);
      reported.push(request);
      return { recorded_through: request.events.at(-1)?.sequence ?? 0 };
    },
  };

  const identity = createWatch<TlsIdentity>({
    svid: authority.svid(serverId(trustDomain)),
    bundles: new Map([[trustDomain, bundle]]),
  });
  let running: { readonly rpc: RpcServer<Connection>; close(): Promise<void> } | undefined;
  let port = options.port ?? 0;

  const start = async (): Promise<void> => {
    const rpc = createRpcServer<Connection>({
      clock: systemClock,
      statusDetails: ({ detail }) => (typeof detail['why'] === 'string' ? [permissionDeniedDetail(detail['why'] as PermissionDeniedReason)] : []),
      services: [
        rpcService(services['spire.api.server.agent.v1.Agent'], agentService as never),
        rpcService(services['spire.api.server.bundle.v1.Bundle'], bundleService as never),
        rpcService(services['spire.api.server.entry.v1.Entry'], entryService as never),
        rpcService(services['spire.api.server.svid.v1.SVID'], svidService as never),
        rpcService(services['steeple.node.v1.Node'], nodeService as never),
      ],
    });
    const tls = createTlsServer({
      identity,
      clock: systemClock,
      accept: (socket, peer) => {
        const raw: unknown = socket.getPeerCertificate().serialNumber;
        const serial = typeof raw === 'string' ? raw.toLowerCase() : '';
        rpc.inject(socket, { peer: peer === undefined ? undefined : parseSpiffeId(peer.spiffeId), serial });
      },
    });
    await new Promise<void>((resolve, reject) => {
      tls.server.once('error', reject);
      tls.server.listen(port, '127.0.0.1', resolve);
    });
    port = (tls.server.address() as AddressInfo).port;
    running = {
      rpc,
      async close() {
        const closed = new Promise((resolve) => tls.server.close(resolve));
        await rpc.close(0);
        await closed;
      },
    };
  };

  const commitChange = (...changes: Change[]): void => {
    const next = revision.value + 1;
    log.push({ revision: next, at: Math.round(systemClock.now()), changes });
    revision.set(next);
  };

  await start();
  return {
    get port() {
      return port;
    },
    authority,
    get bundle() {
      return bundle;
    },
    calls,
    confirmed,
    reported,
    issued,
    presented,
    unsignable,
    commit(changed, removed = []) {
      for (const entry of changed) held.set(entry.id, entry);
      for (const id of removed) held.delete(id);
      commitChange(...changed.map((entry) => ({ entry: entryToMessage(entry) })), ...removed.map((id) => ({ removed_entry_id: id })));
    },
    commitChange,
    setBundle(next) {
      bundle = next;
      commitChange({ bundle: bundleToMessage(next) });
    },
    stall: () => stalled.set(true),
    release: () => stalled.set(false),
    refuseAgents(reason) {
      refusal = reason;
    },
    async stop() {
      await running?.close();
      running = undefined;
    },
    start,
    async [Symbol.asyncDispose]() {
      await running?.close();
      revision.close();
    },
  };
}
