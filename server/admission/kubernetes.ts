/**
 * The three questions that a node's token raises, put to a Kubernetes API server: whose token is it, which pod, which
 * node. Answers are read strictly and only as far as they are used; what they prove of a node is `k8s-psat.ts`.
 */
import { isIP } from 'node:net';
import { SpiffeError } from '../../spiffe/errors.ts';
import { isJsonArray, isJsonObject, parseJson, type JsonObject, type JsonValue } from '../../spiffe/json.ts';
import type { Clock } from '../../runtime/clock.ts';
import { readTrustedFile } from '../../runtime/files.ts';
import { createHttpClient, type HttpAnswer, type HttpRequest } from '../../runtime/http.ts';

export type ApiServerAddress = {
  /** `https://host:port`, with a path when the API server stands behind one. */
  readonly url: string;
  /** PEM of the authorities its certificate chains to; those of the system if absent. */
  readonly ca?: string;
} & (
  | {
      /** Bearer token of this server's own, read again for each question, since kubelets replace it. */
      readonly tokenFile: string;
    }
  | {
      /** PEM of a client certificate, and of its key. */
      readonly certificate: string;
      readonly key: string;
    }
);

export interface TokenReview {
  readonly authenticated: boolean;
  /** Those asked for that the token is meant for; empty from a server that knows no audiences. */
  readonly audiences: readonly string[];
  readonly username: string;
  readonly extra: ReadonlyMap<string, readonly string[]>;
}

export interface PodFacts {
  readonly uid: string;
  readonly nodeName: string;
  /** Undefined until the kubelet has reported it. */
  readonly hostIp: string | undefined;
  readonly labels: ReadonlyMap<string, string>;
}

export interface NodeFacts {
  readonly uid: string;
  readonly labels: ReadonlyMap<string, string>;
}

/** Whoever made it closes it. */
export interface KubernetesApi {
  /** @throws as `pod` */
  reviewToken(token: string, audiences: readonly string[]): Promise<TokenReview>;
  /**
   * @param namespace and name: legal names, see `isNamespace` and `isObjectName`
   * @throws unavailable `kubernetes.status`, invalid `kubernetes.answer`, and what the HTTP client and the token file throw
   */
  pod(namespace: string, name: string): Promise<PodFacts>;
  /** @throws as `pod` */
  node(name: string): Promise<NodeFacts>;
  close(): void;
}

const reviewVersion = 'authentication.k8s.io/v1';
const maxReviewBytes = 256 * 1024;
/** More than etcd takes. */
const maxObjectBytes = 4 * 1024 * 1024;
/** Managed fields repeat the depth of the object they speak of. */
const maxDepth = 64;
const maxTokenBytes = 16 * 1024;

const labelForm = /^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$/;
const subdomainForm = /^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*$/;
/** Safe as a segment of a SPIFFE ID too; nearly always a UUID. */
const uidForm = /^[A-Za-z0-9][-._A-Za-z0-9]{0,127}$/;
const labelValueForm = /^(?:[A-Za-z0-9](?:[-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?$/;

/** [RFC 1123] label, as Kubernetes names namespaces. */
export function isNamespace(text: string): boolean {
  return labelForm.test(text);
}

/** [RFC 1123] subdomain, as Kubernetes names pods, nodes and service accounts. */
export function isObjectName(text: string): boolean {
  return text.length <= 253 && subdomainForm.test(text);
}

export function isUid(text: string): boolean {
  return uidForm.test(text);
}

/** @throws invalid `kubernetes.url` */
export function openKubernetesApi(address: ApiServerAddress, clock: Clock): KubernetesApi {
  const url = parseUrl(address.url);
  const prefix = url.pathname.replace(/\/+$/, '');
  const ca = address.ca === undefined ? {} : { ca: address.ca };
  const own = 'certificate' in address ? { certificate: address.certificate, key: address.key } : {};
  const client = createHttpClient({ clock, endpoint: { url: url.origin, ...ca, ...own } });

  const authorization = async (): Promise<Record<string, string>> =>
    'tokenFile' in address ? { authorization: `Bearer ${await readOwnToken(address.tokenFile)}` } : {};
  const ask = async (what: string, request: HttpRequest, kind: string, version: string): Promise<JsonObject> => {
    const headers = { accept: 'application/json', ...request.headers, ...(await authorization()) };
    return readAnswer(what, await client.request({ ...request, path: `${prefix}${request.path}`, headers }), kind, version);
  };

  return {
    async reviewToken(token, audiences) {
      const review = { kind: 'TokenReview', apiVersion: reviewVersion, spec: { token, audiences } };
      const request = {
        method: 'POST',
        path: `/apis/${reviewVersion}/tokenreviews`,
        headers: { 'content-type': 'application/json' },
        body: Buffer.from(JSON.stringify(review)),
        maxBytes: maxReviewBytes,
      } as const;
      return reviewOf(await ask('token review', request, 'TokenReview', reviewVersion));
    },
    async pod(namespace, name) {
      const path = `/api/v1/namespaces/${encodeURIComponent(namespace)}/pods/${encodeURIComponent(name)}`;
      const pod = await ask('pod', { path, maxBytes: maxObjectBytes }, 'Pod', 'v1');
      const metadata = metadataOf(pod, 'pod', name);
      if (metadata['namespace'] !== namespace) throw unreadable('pod', 'is of another namespace than asked for');
      return podOf(pod, metadata);
    },
    async node(name) {
      const path = `/api/v1/nodes/${encodeURIComponent(name)}`;
      const node = await ask('node', { path, maxBytes: maxObjectBytes }, 'Node', 'v1');
      const metadata = metadataOf(node, 'node', name);
      return { uid: uidOf(metadata, 'node'), labels: labelsOf(metadata, 'node') };
    },
    close: () => client.close(),
  };
}

function parseUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== 'https:' || url.username !== '' || url.password !== '' || url.search !== '' || url.hash !== '') {
    throw new SpiffeError('invalid', 'kubernetes.url', 'the address of the API server is not a plain https URL');
  }
  return url;
}

async function readOwnToken(file: string): Promise<string> {
  const token = (await readTrustedFile(file, maxTokenBytes)).toString('latin1').trim();
  if (!/^[\x21-\x7e]+$/.test(token)) throw new SpiffeError('invalid', 'kubernetes.token', `${file} holds no bearer token`);
  return token;
}

function readAnswer(what: string, { status, body }: HttpAnswer, kind: string, version: string): JsonObject {
  if (status !== 200 && status !== 201) {
    // The text of the answer may repeat the token that was asked about.
    const message = `the API server answers the question for a ${what} with status ${status}`;
    throw new SpiffeError('unavailable', 'kubernetes.status', message, { detail: { what, status } });
  }
  let answer: JsonValue;
  try {
    answer = parseJson(body, { maxBytes: maxObjectBytes, maxDepth, integers: 'number' });
  } catch (cause) {
    throw unreadable(what, 'is no JSON', cause);
  }
  if (!isJsonObject(answer)) throw unreadable(what, 'is no object');
  if (answer['kind'] !== kind || answer['apiVersion'] !== version) throw unreadable(what, 'is of another kind than asked for');
  return answer;
}

function reviewOf(review: JsonObject): TokenReview {
  const what = 'token review';
  const status = memberObject(review, 'status', what);
  const authenticated = status['authenticated'] ?? false;
  if (typeof authenticated !== 'boolean') throw unreadable(what, 'has a malformed authenticated');
  const error = status['error'] ?? '';
  if (typeof error !== 'string') throw unreadable(what, 'has a malformed error');
  // The text is the reason where there is no authentication; with one it contradicts it.
  if (authenticated && error !== '') throw unreadable(what, 'both authenticates and fails');
  if (!authenticated) return { authenticated, audiences: [], username: '', extra: new Map() };
  const user = memberObject(status, 'user', what);
  const username = user['username'];
  if (typeof username !== 'string') throw unreadable(what, 'names no user');
  return { authenticated, audiences: textsOf(status['audiences'], what), username, extra: extraOf(user['extra'], what) };
}

function extraOf(value: JsonValue | undefined, what: string): ReadonlyMap<string, readonly string[]> {
  if (value === undefined || value === null) return new Map();
  if (!isJsonObject(value)) throw unreadable(what, 'has malformed extras');
  return new Map(Object.entries(value).map(([key, texts]) => [key, textsOf(texts, what)]));
}

function textsOf(value: JsonValue | undefined, what: string): readonly string[] {
  if (value === undefined || value === null) return [];
  if (!isJsonArray(value)) throw unreadable(what, 'has something else than a list of texts');
  return value.map((text) => {
    if (typeof text !== 'string') throw unreadable(what, 'has something else than a list of texts');
    return text;
  });
}

function podOf(pod: JsonObject, metadata: JsonObject): PodFacts {
  const what = 'pod';
  const nodeName = memberObject(pod, 'spec', what)['nodeName'];
  if (typeof nodeName !== 'string' || !isObjectName(nodeName)) throw unreadable(what, 'is on no node');
  const hostIp = memberObject(pod, 'status', what)['hostIP'] ?? '';
  if (typeof hostIp !== 'string' || (hostIp !== '' && isIP(hostIp) === 0)) throw unreadable(what, 'has a malformed host IP');
  return { uid: uidOf(metadata, what), nodeName, hostIp: hostIp === '' ? undefined : hostIp, labels: labelsOf(metadata, what) };
}

/** Nothing but the object that was asked for will do. */
function metadataOf(object: JsonObject, what: string, name: string): JsonObject {
  const metadata = memberObject(object, 'metadata', what);
  if (metadata['name'] !== name) throw unreadable(what, 'is another one than asked for');
  return metadata;
}

function uidOf(metadata: JsonObject, what: string): string {
  const uid = metadata['uid'];
  if (typeof uid !== 'string' || !isUid(uid)) throw unreadable(what, 'has no legal UID');
  return uid;
}

function labelsOf(metadata: JsonObject, what: string): ReadonlyMap<string, string> {
  const labels = metadata['labels'];
  if (labels === undefined || labels === null) return new Map();
  if (!isJsonObject(labels)) throw unreadable(what, 'has malformed labels');
  return new Map(
    Object.entries(labels).map(([key, value]) => {
      if (typeof value !== 'string' || !labelValueForm.test(value)) throw unreadable(what, 'has a malformed label');
      return [key, value];
    }),
  );
}

function memberObject(object: JsonObject, name: string, what: string): JsonObject {
  const value = object[name];
  if (!isJsonObject(value)) throw unreadable(what, `has no ${name}`);
  return value;
}

function unreadable(what: string, how: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'kubernetes.answer', `what the API server answers for a ${what} ${how}`, { cause });
}
