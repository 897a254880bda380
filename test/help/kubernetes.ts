/**
 * A kubelet and an API server of one process, as far as an agent and a server ask them: pods, watches, nodes and token
 * reviews over the real HTTP API, with faults on request. Times nothing by itself; the pods are `kubernetes-pods.ts`.
 */
import { once } from 'node:events';
import { createServer as createPlainServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { TLSSocket } from 'node:tls';
import { createClusterAuthority, type ClusterAuthority } from './kubernetes-tls.ts';
import { readReviewQuestion, type TokenReviewQuestion } from './kubernetes-review.ts';
import type { PodObject } from './kubernetes-pods.ts';

/** What happens to a request instead of its answer; each fault is used up by one request. */
export type ClusterFault =
  /** Answered when the promise settles; one that never does is a server that hangs. */
  | { readonly kind: 'hold'; readonly until: Promise<unknown> }
  | { readonly kind: 'status'; readonly status: number; readonly headers?: Readonly<Record<string, string>> }
  /** The right head, and half of the body. */
  | { readonly kind: 'half' }
  /** The connection ends before the head. */
  | { readonly kind: 'drop' }
  /** This body in place of the right one. */
  | { readonly kind: 'body'; readonly body: string | Uint8Array };

export interface ClusterRequest {
  readonly method: string;
  /** Without the query. */
  readonly path: string;
  readonly query: URLSearchParams;
  readonly token: string | undefined;
  /** Subject of a client certificate that our authority gave. */
  readonly client: string | undefined;
}

export interface TokenReviewed {
  readonly user: { readonly username: string; readonly uid?: string; readonly groups?: readonly string[]; readonly extra?: Readonly<Record<string, readonly string[]>> };
  readonly audiences: readonly string[];
}

export interface NodeObject {
  metadata: { name: string; uid: string; labels?: Record<string, string>; [field: string]: unknown };
  [field: string]: unknown;
}

export interface ClusterOptions {
  /** Whose pods the kubelet tells; `node-1`. */
  readonly nodeName?: string;
  /** Whose authority; one of its own unless given. */
  readonly authority?: ClusterAuthority;
  /** What the server's certificate says; `127.0.0.1` and the node's name unless given. */
  readonly names?: readonly string[];
  /** In the clear and without asking who calls, as the kubelet's read-only port. */
  readonly plain?: boolean;
  /** Whether 410 Gone comes as the answer's status or as the first event of a watch. */
  readonly goneAs?: 'status' | 'event';
}

export interface Cluster extends AsyncDisposable {
  /** Where it is asked, without a slash at its end. */
  readonly url: string;
  readonly authority: ClusterAuthority;
  /** Bearer tokens that are let in. */
  readonly tokens: Set<string>;
  /** All requests so far, oldest first. */
  readonly requests: readonly ClusterRequest[];
  readonly watches: number;
  /** Connections open now. */
  readonly connections: number;
  /** What a TokenReview says of a token. */
  readonly reviews: Map<string, TokenReviewed>;
  readonly nodes: Map<string, NodeObject>;
  /** The newest resourceVersion. */
  readonly version: string;
  /** Makes or replaces a pod and tells those who watch. */
  setPod(pod: PodObject): void;
  setPods(pods: readonly PodObject[]): void;
  deletePod(pod: Pick<PodObject, 'metadata'>): void;
  /** For the next request whose path begins so; faults of one path are used in turn. */
  fail(path: string, ...faults: readonly ClusterFault[]): void;
  /** From here on, what was before is gone: older versions and continue tokens are answered with 410. */
  compact(): void;
  bookmark(): void;
  /** Ends the watches: in order, in the middle of a chunk, or with an ERROR event of this code. */
  endWatches(how: 'end' | 'drop' | number): void;
  /** As it is, to all who watch. */
  sayToWatches(text: string): void;
}

interface Change {
  readonly version: number;
  readonly type: 'ADDED' | 'MODIFIED' | 'DELETED';
  readonly pod: PodObject;
}

interface OpenWatch {
  readonly response: ServerResponse;
  readonly selects: (pod: PodObject) => boolean;
}

export async function createCluster(options: ClusterOptions = {}): Promise<Cluster> {
  const { nodeName = 'node-1', authority = createClusterAuthority(), plain = false, goneAs = 'status' } = options;
  const pods = new Map<string, PodObject>();
  const changes: Change[] = [];
  const pages = new Map<string, { readonly version: number; readonly pods: readonly PodObject[]; readonly limit: number }>();
  const watches = new Set<OpenWatch>();
  const sockets = new Set<Socket>();
  const faults: { readonly path: string; readonly fault: ClusterFault }[] = [];
  const requests: ClusterRequest[] = [];
  const tokens = new Set<string>();
  const reviews = new Map<string, TokenReviewed>();
  const nodes = new Map<string, NodeObject>();
  let version = 1000;
  let compactedAt = 0;

  const record = (type: Change['type'], pod: PodObject): void => {
    version += 1;
    const numbered = structuredClone(pod);
    numbered.metadata.resourceVersion = String(version);
    if (type === 'DELETED') pods.delete(keyOf(pod));
    else pods.set(keyOf(pod), numbered);
    const change = { version, type, pod: numbered };
    changes.push(change);
    for (const watch of watches) if (watch.selects(numbered)) sayChange(watch.response, change);
  };

  const list = (asked: ClusterRequest, response: ServerResponse): void => {
    const selects = selectorOf(asked.query.get('fieldSelector'));
    if (selects === undefined) return refuse(response, 400, 'BadRequest');
    const limit = Number(asked.query.get('limit') ?? 0);
    const token = asked.query.get('continue');
    const page = token === null
      ? { version, limit, pods: [...pods.values()].filter(selects).toSorted((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1)) }
      : pages.get(token);
    if (page === undefined || (token !== null && page.version < compactedAt)) return refuse(response, 410, 'Expired');
    const end = page.limit > 0 ? page.limit : page.pods.length;
    const rest = page.pods.slice(end);
    const next = rest.length === 0 ? undefined : Buffer.from(JSON.stringify({ v: 'meta.k8s.io/v1', rv: page.version, start: keyOf(rest[0]!) })).toString('base64url');
    if (next !== undefined) pages.set(next, { version: page.version, pods: rest, limit: page.limit });
    const metadata = { resourceVersion: String(page.version), ...(next === undefined ? {} : { continue: next, remainingItemCount: rest.length }) };
    answer(response, 200, { kind: 'PodList', apiVersion: 'v1', metadata, items: page.pods.slice(0, end) });
  };

  const watch = (asked: ClusterRequest, response: ServerResponse): void => {
    const selects = selectorOf(asked.query.get('fieldSelector'));
    if (selects === undefined) return refuse(response, 400, 'BadRequest');
    const from = Number(asked.query.get('resourceVersion') ?? 0);
    if (from > 0 && from < compactedAt && goneAs === 'status') return refuse(response, 410, 'Expired');
    response.writeHead(200, { 'content-type': 'application/json', 'transfer-encoding': 'chunked' });
    response.flushHeaders();
    if (from > 0 && from < compactedAt) {
      response.end(`${JSON.stringify({ type: 'ERROR', object: statusOf(410, 'Expired') })}\n`);
      return;
    }
    const open = { response, selects };
    watches.add(open);
    response.once('close', () => watches.delete(open));
    const missed = from > 0 ? changes.filter((change) => change.version > from) : [...pods.values()].map((pod) => ({ version, type: 'ADDED' as const, pod }));
    for (const change of missed) if (selects(change.pod)) sayChange(response, change);
  };

  const route = async (asked: ClusterRequest, incoming: IncomingMessage, response: ServerResponse): Promise<void> => {
    const { method, path, query } = asked;
    if (method === 'POST' && path === '/apis/authentication.k8s.io/v1/tokenreviews') {
      answer(response, 201, reviewOf(readReviewQuestion(await bodyOf(incoming)), reviews));
      return;
    }
    if (method !== 'GET') return refuse(response, 405, 'MethodNotAllowed');
    if (path === '/pods' || path === '/pods/') {
      const items = [...pods.values()].filter((pod) => pod.spec.nodeName === nodeName);
      return answer(response, 200, { kind: 'PodList', apiVersion: 'v1', metadata: {}, items });
    }
    if (path === '/api/v1/pods') return query.get('watch') === '1' || query.get('watch') === 'true' ? watch(asked, response) : list(asked, response);
    const [, namespace, name] = /^\/api\/v1\/namespaces\/([^/]+)\/pods\/([^/]+)$/.exec(path) ?? [];
    const pod = namespace === undefined ? undefined : pods.get(`${namespace}/${name ?? ''}`);
    if (pod !== undefined) return answer(response, 200, { kind: 'Pod', apiVersion: 'v1', ...pod });
    const [, nodeAsked] = /^\/api\/v1\/nodes\/([^/]+)$/.exec(path) ?? [];
    const node = nodeAsked === undefined ? undefined : nodes.get(nodeAsked);
    if (node !== undefined) return answer(response, 200, { kind: 'Node', apiVersion: 'v1', ...node });
    refuse(response, 404, 'NotFound');
  };

  const onRequest = async (incoming: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(incoming.url ?? '/', 'https://cluster');
    const { authorization } = incoming.headers;
    const certificate = incoming.socket instanceof TLSSocket && incoming.socket.authorized ? incoming.socket.getPeerCertificate() : undefined;
    const asked: ClusterRequest = {
      method: incoming.method ?? '',
      path: decodeURIComponent(url.pathname),
      query: url.searchParams,
      token: authorization?.replace(/^Bearer /, ''),
      client: certificate === undefined ? undefined : String(certificate.subject?.CN),
    };
    requests.push(asked);
    const at = faults.findIndex((candidate) => asked.path.startsWith(candidate.path));
    const fault = at < 0 ? undefined : faults.splice(at, 1)[0]?.fault;
    if (fault !== undefined && (await spoil(fault, incoming, response))) return;
    if (!plain && asked.client === undefined && !tokens.has(asked.token ?? '')) return refuse(response, 401, 'Unauthorized');
    await route(asked, incoming, response);
  };

  const handle = (incoming: IncomingMessage, response: ServerResponse): void => {
    onRequest(incoming, response).catch(() => response.destroy());
  };
  const { certificate, key } = authority.issue('kubernetes', options.names ?? ['127.0.0.1', nodeName]);
  const server: Server = plain
    ? createPlainServer(handle)
    : createServer({ cert: certificate, key, ca: authority.ca, requestCert: true, rejectUnauthorized: false }, handle);
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');

  return {
    url: `${plain ? 'http' : 'https'}://127.0.0.1:${String((server.address() as AddressInfo).port)}`,
    authority,
    tokens,
    requests,
    reviews,
    nodes,
    get watches() {
      return watches.size;
    },
    get connections() {
      return sockets.size;
    },
    get version() {
      return String(version);
    },
    setPod: (pod) => record(pods.has(keyOf(pod)) ? 'MODIFIED' : 'ADDED', pod),
    setPods(all) {
      for (const pod of all) record(pods.has(keyOf(pod)) ? 'MODIFIED' : 'ADDED', pod);
    },
    deletePod(pod) {
      const known = pods.get(keyOf(pod));
      if (known !== undefined) record('DELETED', known);
    },
    fail(path, ...more) {
      faults.push(...more.map((fault) => ({ path, fault })));
    },
    compact() {
      version += 1;
      compactedAt = version;
    },
    bookmark() {
      const object = { kind: 'Pod', apiVersion: 'v1', metadata: { resourceVersion: String(version), creationTimestamp: null }, spec: { containers: null }, status: {} };
      for (const { response } of watches) response.write(`${JSON.stringify({ type: 'BOOKMARK', object })}\n`);
    },
    endWatches(how) {
      for (const { response } of watches) {
        if (how === 'drop') response.destroy();
        else if (how === 'end') response.end();
        else response.end(`${JSON.stringify({ type: 'ERROR', object: statusOf(how, how === 410 ? 'Expired' : 'InternalError') })}\n`);
      }
      watches.clear();
    },
    sayToWatches(text) {
      for (const { response } of watches) response.write(text);
    },
    async [Symbol.asyncDispose]() {
      server.close();
      for (const socket of sockets) socket.destroy();
      await once(server, 'close');
    },
  };
}

function keyOf({ metadata: { namespace, name } }: Pick<PodObject, 'metadata'>): string {
  return `${namespace}/${name}`;
}

function selectorOf(text: string | null): ((pod: PodObject) => boolean) | undefined {
  if (text === null || text === '') return () => true;
  const [field, value] = text.split(/==?/);
  if (field === 'spec.nodeName') return (pod) => pod.spec.nodeName === value;
  if (field === 'metadata.name') return (pod) => pod.metadata.name === value;
  return undefined;
}

function sayChange(response: ServerResponse, { type, pod }: Change): void {
  response.write(`${JSON.stringify({ type, object: { kind: 'Pod', apiVersion: 'v1', ...pod } })}\n`);
}

function answer(response: ServerResponse, status: number, body: object): void {
  const bytes = Buffer.from(JSON.stringify(body));
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': bytes.length });
  response.end(bytes);
}

function statusOf(code: number, reason: string): object {
  return { kind: 'Status', apiVersion: 'v1', metadata: {}, status: 'Failure', message: `${reason}: as the test wants it`, reason, code };
}

function refuse(response: ServerResponse, status: number, reason: string, headers: Readonly<Record<string, string>> = {}): void {
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
  answer(response, status, statusOf(status, reason));
}

/** @returns whether the request was answered, or never will be */
async function spoil(fault: ClusterFault, incoming: IncomingMessage, response: ServerResponse): Promise<boolean> {
  switch (fault.kind) {
    case 'hold':
      await fault.until;
      return false;
    case 'status':
      refuse(response, fault.status, `Status${String(fault.status)}`, fault.headers);
      return true;
    case 'drop':
      incoming.socket.destroy();
      return true;
    case 'body':
      response.writeHead(200, { 'content-type': 'application/json' });
      response.end(fault.body);
      return true;
    case 'half': {
      // What the answer would have been, cut in the middle of a body that announced its length.
      const whole = response.end.bind(response);
      response.end = ((bytes: Uint8Array) => {
        response.write(bytes.subarray(0, bytes.length / 2), () => incoming.socket.destroy());
        response.end = whole;
        return response;
      }) as typeof response.end;
      return false;
    }
  }
}

function reviewOf({ spec }: TokenReviewQuestion, reviews: ReadonlyMap<string, TokenReviewed>): object {
  const known = reviews.get(spec?.token ?? '');
  const wanted = spec?.audiences ?? known?.audiences ?? [];
  const audiences = known?.audiences.filter((audience) => wanted.includes(audience)) ?? [];
  const status = known === undefined || audiences.length === 0
    ? { user: {}, error: '[invalid bearer token, Token has been invalidated]' }
    : { authenticated: true, user: known.user, audiences };
  return { kind: 'TokenReview', apiVersion: 'authentication.k8s.io/v1', metadata: { creationTimestamp: null }, spec: { ...spec }, status };
}

async function bodyOf(incoming: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming as AsyncIterable<Buffer>) chunks.push(chunk);
  return Buffer.concat(chunks);
}
