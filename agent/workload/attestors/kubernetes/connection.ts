/**
 * Asking a kubelet or an API server: credentials as their files are at the moment, and what goes wrong told in the words
 * of a pod source. What is asked and how often is left to the sources.
 */
import { readFileSync } from 'node:fs';
import type { Clock } from '../../../../runtime/clock.ts';
import { createHttpClient } from '../../../../runtime/http.ts';
import type { HttpClient, HttpStream } from '../../../../runtime/http.ts';
import { systemCode } from '../../../../runtime/linux.ts';
import { isSpiffeError, SpiffeError } from '../../../../spiffe/errors.ts';

/** Files are read again for every question, so that what was renewed is used. */
export interface ServerCredentials {
  /** PEM of the authorities that may vouch for the server; those of the runtime where left out. */
  readonly caFile?: string | undefined;
  /** Sent as a bearer token. */
  readonly tokenFile?: string | undefined;
  /** A client certificate; together with its key. */
  readonly certificateFile?: string | undefined;
  readonly keyFile?: string | undefined;
}

export interface ConnectionOptions extends ServerCredentials {
  readonly clock: Clock;
  /** Without a slash at its end. */
  readonly url: string;
  /** What the server's certificate is for, where that is not the URL's host. */
  readonly serverName?: string | undefined;
  /** Sends credentials to, and believes, whoever answers. */
  readonly unverified?: boolean | undefined;
}

export interface Connection {
  /**
   * @returns an answer of status 200, which the caller reads to its end or closes
   * @throws unavailable `k8s.source.*` as `sourceFailure`, and by status: `unauthorized`, `forbidden`, `throttled` (with
   * `retryAfterMs` in its detail if the server says so), `gone`, `status`; `credentials`; the signal's reason
   */
  ask(path: string, signal: AbortSignal): Promise<HttpStream>;
  close(): void;
}

const DEADLINE_MS = 10_000;
const MAX_RETRY_AFTER_MS = 60_000;

/** @throws invalid `k8s.options`, `http.url` */
export function createConnection(options: ConnectionOptions): Connection {
  const { clock, url, caFile, tokenFile, certificateFile, keyFile, serverName, unverified = false } = options;
  const hasCredentials = [caFile, tokenFile, certificateFile, keyFile].some((file) => file !== undefined);
  if (url.startsWith('http:') && (hasCredentials || unverified)) throw unusable('credentials are not sent in the clear');
  if ((certificateFile === undefined) !== (keyFile === undefined)) throw unusable('a certificate and its key belong together');
  // Files may come later, but a place that cannot be asked stays one.
  createHttpClient({ clock, endpoint: { url } }).close();
  let current: { readonly client: HttpClient; readonly made: string } | undefined;

  const clientOf = (): HttpClient => {
    const [ca, certificate, key] = [readText(caFile), readText(certificateFile), readText(keyFile)];
    const made = JSON.stringify([ca, certificate, key]);
    if (current?.made === made) return current.client;
    const client = createHttpClient({
      clock,
      endpoint: {
        url,
        ...(ca === undefined ? {} : { ca }),
        ...(certificate === undefined ? {} : { certificate }),
        ...(key === undefined ? {} : { key }),
        ...(serverName === undefined ? {} : { serverName }),
        ...(unverified ? { unverified } : {}),
      },
    });
    current?.client.close();
    current = { client, made };
    return client;
  };
  const tokenOf = (): string | undefined => {
    const token = readText(tokenFile)?.trim();
    if (token !== undefined && !/^[\x21-\x7e]+$/.test(token)) throw noCredentials('the token file holds no token');
    return token;
  };

  return {
    async ask(path, signal) {
      try {
        const token = tokenOf();
        const client = clientOf();
        const headers = { accept: 'application/json', ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) };
        const answer = await client.stream({ path, headers, signal, deadlineMs: DEADLINE_MS });
        if (answer.status === 200) return answer;
        answer.close();
        throw statusFailure(answer, clock);
      } catch (error) {
        if (signal.aborted) throw error;
        // Whoever is believed without proof cannot have failed to give it.
        throw sourceFailure(unverified && isSpiffeError(error, 'unauthenticated', 'http.tls') ? error.cause : error);
      }
    },
    close: () => current?.client.close(),
  };
}

/** Some kilobytes that a mount of Kubernetes keeps in memory. */
function readText(file: string | undefined): string | undefined {
  if (file === undefined) return undefined;
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw noCredentials(`a file of credentials cannot be read (${systemCode(error) ?? 'unknown'})`, error);
  }
}

function unusable(why: string): SpiffeError {
  return new SpiffeError('invalid', 'k8s.options', `the source of pods cannot be asked like this: ${why}`);
}

function noCredentials(message: string, cause?: unknown): SpiffeError {
  return new SpiffeError('unavailable', 'k8s.source.credentials', message, { cause });
}

function statusFailure({ status, headers }: HttpStream, clock: Clock): SpiffeError {
  const detail = { status };
  switch (status) {
    case 401:
      return new SpiffeError('unavailable', 'k8s.source.unauthorized', 'the credentials are not accepted', { detail });
    case 403:
      return new SpiffeError('unavailable', 'k8s.source.forbidden', 'the credentials do not permit to read pods', { detail });
    case 410:
      return new SpiffeError('unavailable', 'k8s.source.gone', 'what was asked for is too long ago', { detail });
    case 429: {
      const retryAfterMs = retryAfter(headers['retry-after'], clock);
      return new SpiffeError('unavailable', 'k8s.source.throttled', 'the server is asked too often', {
        detail: { ...detail, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) },
      });
    }
    default:
      return new SpiffeError('unavailable', 'k8s.source.status', 'the server does not answer the question', { detail });
  }
}

/** Seconds, or an instant [RFC 9110 10.2.3]. */
function retryAfter(text: string | undefined, clock: Clock): number | undefined {
  if (text === undefined) return undefined;
  const ms = /^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - clock.now();
  return Number.isFinite(ms) ? Math.min(Math.max(ms, 0), MAX_RETRY_AFTER_MS) : undefined;
}

/** Everything a source can fail with, of kind unavailable: that it cannot be asked says nothing against a workload. */
export function sourceFailure(error: unknown): SpiffeError {
  if (isSpiffeError(error, 'unavailable') && error.reason.startsWith('k8s.')) return error;
  const reason = error instanceof SpiffeError ? error.reason : '';
  const context = { detail: error instanceof SpiffeError ? error.detail : {}, cause: error };
  switch (reason) {
    case 'http.unreachable':
      return new SpiffeError('unavailable', 'k8s.source.unreachable', 'the source of pods cannot be reached', context);
    case 'http.tls':
      return new SpiffeError('unavailable', 'k8s.source.tls', 'the source of pods could not be proved', context);
    case 'http.deadline':
      return new SpiffeError('unavailable', 'k8s.source.deadline', 'the source of pods takes too long', context);
    case 'http.too-large':
      return new SpiffeError('unavailable', 'k8s.source.too-large', 'the source of pods says more than is read', context);
    case 'http.credentials':
      return new SpiffeError('unavailable', 'k8s.source.credentials', 'the files of credentials hold nothing usable', context);
    default:
      return new SpiffeError('unavailable', 'k8s.source.broken', 'the source of pods stopped in the middle of an answer', context);
  }
}
