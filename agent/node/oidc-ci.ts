/**
 * Evidence: the token that a CI system signs for the job this agent runs in, from a file or from GitHub's runner, which
 * signs one when asked. Which jobs convince is the server's.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import type { Clock } from '../../runtime/clock.ts';
import { readTrustedFile } from '../../runtime/files.ts';
import { createHttpClient, type HttpAnswer } from '../../runtime/http.ts';
import type { EvidenceSource } from './evidence.ts';

export type OidcCiSource = {
  /** The server's trust that is meant; it finds the one that fits if absent. */
  readonly trust?: string;
} & ({ readonly tokenFile: string } | OidcTokenRequest);

export type OidcTokenRequest = {
  /** `ACTIONS_ID_TOKEN_REQUEST_URL`, with its query. */
  readonly requestUrl: string;
  /** As the server's trust has it. */
  readonly audience: string;
  /** PEM of the authorities of the runner's service, for those that run their own. */
  readonly ca?: string;
  readonly clock: Clock;
} & (/** `ACTIONS_ID_TOKEN_REQUEST_TOKEN`. */ { readonly requestToken: string } | { readonly requestTokenFile: string });

const maxTokenBytes = 16 * 1024;
const maxAnswerBytes = 64 * 1024;
const tokenForm = /^[-_A-Za-z0-9]+\.[-_A-Za-z0-9]+\.[-_A-Za-z0-9]+$/;

/**
 * @throws (from `produce`) unavailable `evidence.oidc-ci.unreadable`, invalid `evidence.oidc-ci.token|request-url`, denied
 *   `evidence.oidc-ci.request`, unavailable `oidc-ci.request` and what the HTTP client throws
 */
export function oidcCiEvidence(source: OidcCiSource): EvidenceSource {
  return {
    type: 'oidc_ci',
    // A token counts once, and each request brings another.
    repeatable: 'requestUrl' in source,
    async produce() {
      const token = 'requestUrl' in source ? await requestToken(source) : await readToken(source.tokenFile);
      if (token.length > maxTokenBytes || !tokenForm.test(token)) {
        throw new SpiffeError('invalid', 'evidence.oidc-ci.token', 'what should be the token of a CI job is no signed JWT');
      }
      return {
        payload: Buffer.from(JSON.stringify({ token, ...(source.trust === undefined ? {} : { trust: source.trust }) })),
        answer: () =>
          Promise.reject(new SpiffeError('denied', 'evidence.challenge.unexpected', 'the token of a job answers no challenge')),
      };
    },
  };
}

async function readToken(file: string): Promise<string> {
  try {
    return (await readTrustedFile(file, maxTokenBytes)).toString('latin1').trim();
  } catch (cause) {
    const why = cause instanceof SpiffeError ? { detail: { because: cause.reason }, cause } : { cause };
    throw new SpiffeError('unavailable', 'evidence.oidc-ci.unreadable', `the token file ${file} cannot be read`, why);
  }
}

async function requestToken(source: OidcTokenRequest): Promise<string> {
  const url = URL.canParse(source.requestUrl) ? new URL(source.requestUrl) : undefined;
  if (url === undefined) {
    throw new SpiffeError('invalid', 'evidence.oidc-ci.request-url', 'the address to request a token from is no URL');
  }
  url.searchParams.set('audience', source.audience);
  const bearer = 'requestToken' in source ? source.requestToken : await readToken(source.requestTokenFile);
  if (!/^[\x21-\x7e]+$/.test(bearer)) {
    throw new SpiffeError('invalid', 'evidence.oidc-ci.token', 'there is nothing to request a token with');
  }
  const ca = source.ca === undefined ? {} : { ca: source.ca };
  const client = createHttpClient({ clock: source.clock, endpoint: { url: url.origin, ...ca } });
  try {
    const headers = { accept: 'application/json', authorization: `Bearer ${bearer}` };
    return valueOf(await client.request({ path: `${url.pathname}${url.search}`, headers, maxBytes: maxAnswerBytes }));
  } finally {
    client.close();
  }
}

function valueOf({ status, body }: HttpAnswer): string {
  const detail = { status };
  if (status >= 500 || status === 429) {
    // Asked again: nothing is wrong with the job.
    throw new SpiffeError('unavailable', 'oidc-ci.request', `the runner gives no token now, status ${status}`, { detail });
  }
  if (status !== 200) {
    const message = `the runner refuses a token, status ${status}; the job needs the permission to write ID tokens`;
    throw new SpiffeError('denied', 'evidence.oidc-ci.request', message, { detail });
  }
  let answer: unknown;
  try {
    answer = JSON.parse(body.toString('utf8'));
  } catch {
    answer = undefined;
  }
  const value = typeof answer === 'object' && answer !== null && 'value' in answer ? answer.value : undefined;
  if (typeof value !== 'string') {
    throw new SpiffeError('invalid', 'evidence.oidc-ci.token', 'the answer of the runner holds no token');
  }
  return value;
}
