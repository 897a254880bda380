/**
 * What stands around the proxies of a test: plain services that answer with what they were told of their caller, a trust
 * domain of its own with nothing but a certificate, and a steady load. The proxies themselves are `config.ts`.
 */
import { Agent, createServer, get, type ClientRequest, type IncomingMessage, type Server } from 'node:http';
import { Agent as TlsAgent, createServer as createTlsServer, get as getTls } from 'node:https';
import type { AddressInfo } from 'node:net';
import { formatPemCertificates } from '../../../spiffe/pem.ts';
import { authorityExtensions, ecPair, extension, forgeCertificate, leafExtensions, nameOf } from '../../help/forge.ts';

/** For one answer; a call takes a few milliseconds. */
const patienceMs = 10_000;

export interface Service extends AsyncDisposable {
  readonly port: number;
  /** How often each SPIFFE ID called, with each of its certificates. */
  readonly callers: ReadonlyMap<string, ReadonlySet<string>>;
  /** What was in the Authorization header of the last call. */
  readonly authorization: string;
}

/** A plain HTTP service behind a proxy, which tells it of the caller in `x-forwarded-client-cert`. */
export async function startService(name: string): Promise<Service> {
  const callers = new Map<string, Set<string>>();
  let authorization = '';
  const server = createServer((request, response) => {
    const told = String(request.headers['x-forwarded-client-cert'] ?? '');
    const [, uri = ''] = /;URI=([^;,]*)/.exec(told) ?? [];
    const [, hash = ''] = /Hash=([0-9a-f]*)/.exec(told) ?? [];
    callers.set(uri, (callers.get(uri) ?? new Set()).add(hash));
    authorization = request.headers.authorization ?? authorization;
    response.end(`${name} was called by ${uri}`);
  });
  server.keepAliveTimeout = 600_000;
  return {
    port: await listening(server),
    callers,
    get authorization() {
      return authorization;
    },
    [Symbol.asyncDispose]: () => closed(server),
  };
}

export interface Foreign extends AsyncDisposable {
  readonly id: string;
  /** PEM. */
  readonly bundle: string;
  readonly port: number;
  readonly callers: ReadonlySet<string>;
  /** Calls a proxy's inbound listener with its own certificate; the status, or what went wrong. */
  call(port: number): Promise<number | string>;
}

/** Somebody of another trust domain, as server and as client. */
export async function startForeign(trustDomain: string): Promise<Foreign> {
  const authority = ecPair();
  const own = ecPair();
  const id = `spiffe://${trustDomain}/peer`;
  const validity = [Date.now() - 60_000, Date.now() + 3_600_000] as const;
  const issuer = nameOf(trustDomain);
  const certificate = forgeCertificate({
    issuer,
    subject: issuer,
    spki: authority.spki,
    signer: authority.privateKey,
    extensions: [...authorityExtensions(`spiffe://${trustDomain}`), extension.subjectKeyId(authority.spki)],
    validity: [...validity],
  });
  const leaf = forgeCertificate({
    issuer,
    subject: nameOf('peer'),
    spki: own.spki,
    signer: authority.privateKey,
    extensions: [...leafExtensions(id), extension.authorityKeyId(authority.spki)],
    validity: [...validity],
  });
  const cert = formatPemCertificates([leaf]);
  const key = own.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  const callers = new Set<string>();
  // Whom it lets in is told by what it was shown: the test looks at that.
  const server = createTlsServer({ cert, key, keepAliveTimeout: 600_000, requestCert: true, rejectUnauthorized: false }, (request, response) => {
    const peer = 'getPeerCertificate' in request.socket ? (request.socket as { getPeerCertificate(): { subjectaltname?: string } }).getPeerCertificate() : {};
    callers.add(peer.subjectaltname ?? '');
    response.end('hello from abroad');
  });
  return {
    id,
    bundle: formatPemCertificates([certificate]),
    port: await listening(server),
    callers,
    call: (port) => callTls(port, { cert, key }),
    [Symbol.asyncDispose]: () => closed(server),
  };
}

/** One call on a connection of its own; the status, or what went wrong. */
export function callTls(port: number, { cert, key }: { readonly cert: string; readonly key: string }): Promise<number | string> {
  const agent = new TlsAgent({ keepAlive: false, maxCachedSessions: 0 });
  return answerOf((take) => getTls({ host: '127.0.0.1', port, cert, key, rejectUnauthorized: false, agent }, take));
}

/** Always comes to an end, whatever becomes of the connection. */
function answerOf(ask: (take: (response: IncomingMessage) => void) => ClientRequest): Promise<number | string> {
  return new Promise((resolve) => {
    const request = ask((response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (more: string) => (body += more));
      response.once('error', (error) => resolve(error.message));
      response.once('close', () => {
        if (!response.complete) resolve('the answer was cut off');
        else resolve(response.statusCode === 200 ? 200 : `${response.statusCode} ${body.slice(0, 200)}`);
      });
    });
    request.setTimeout(patienceMs, () => request.destroy(new Error(`no answer in ${patienceMs} ms`)));
    request.once('error', (error) => resolve(error.message));
  });
}

export interface Load {
  readonly done: number;
  /** What went wrong, with when. */
  readonly failures: readonly string[];
  /** Ends when every call was answered. */
  stop(): Promise<void>;
}

/** So many calls a second, one after the other to each target, whatever became of those before. */
export function startLoad(targets: readonly (() => Promise<number | string>)[], perSecond: number): Load {
  const failures: string[] = [];
  const open = new Set<Promise<void>>();
  const startedAt = Date.now();
  let [started, done] = [0, 0];
  const one = (index: number): void => {
    const call = targets[index % targets.length]!;
    const running: Promise<void> = call()
      .then((answer) => {
        done += 1;
        if (answer !== 200) failures.push(`target ${index % targets.length} after ${Date.now() - startedAt} ms: ${answer}`);
      })
      .finally(() => open.delete(running));
    open.add(running);
  };
  // As many as are due by now: a timer that comes late makes up for it.
  const timer = setInterval(() => {
    for (const due = ((Date.now() - startedAt) / 1_000) * perSecond; started < due; started += 1) one(started);
  }, 5);
  return {
    get done() {
      return done;
    },
    failures,
    async stop() {
      clearInterval(timer);
      await Promise.all(open);
    },
  };
}

/** Calls a plain listener, over connections that are kept. */
export function plainCaller(port: number): () => Promise<number | string> {
  const agent = new Agent({ keepAlive: true, maxSockets: 16 });
  return () => answerOf((take) => get({ host: '127.0.0.1', port, agent }, take));
}

function listening(server: Pick<Server, 'listen' | 'address' | 'once'>): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => resolve((server.address() as AddressInfo).port));
  });
}

function closed(server: Pick<Server, 'close' | 'closeAllConnections'>): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => server.close(() => resolve()));
}
