/**
 * A CI system's issuer of OIDC tokens: it signs whatever it is given, right or wrong, and serves its discovery document and
 * key set over TLS, with anything put in their place on request. No rule of tokens is known here.
 */
import { createHmac, createPublicKey, generateKeyPairSync, sign, type KeyObject } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { createClusterAuthority } from './kubernetes-tls.ts';

export type SignerAlgorithm = 'RS256' | 'PS256' | 'ES256' | 'ES384';

export interface OidcSigner {
  readonly keyId: string;
  readonly algorithm: SignerAlgorithm;
  readonly privateKey: KeyObject;
  /** The element of a key set. */
  readonly jwk: Readonly<Record<string, unknown>>;
  /** @param header replaces members of the right one; `undefined` takes one away */
  sign(claims: object | string, header?: Readonly<Record<string, unknown>>): string;
}

export function createOidcSigner(keyId: string, algorithm: SignerAlgorithm = 'RS256'): OidcSigner {
  const { privateKey } = algorithm.startsWith('ES')
    ? generateKeyPairSync('ec', { namedCurve: algorithm === 'ES256' ? 'P-256' : 'P-384' })
    : generateKeyPairSync('rsa', { modulusLength: 2048 });
  return signerOf(keyId, algorithm, privateKey);
}

export function signerOf(keyId: string, algorithm: SignerAlgorithm, privateKey: KeyObject): OidcSigner {
  const hash = algorithm === 'ES384' ? 'sha384' : 'sha256';
  const form = algorithm === 'PS256' ? { padding: 6, saltLength: 32 } : { dsaEncoding: 'ieee-p1363' as const };
  return {
    keyId,
    algorithm,
    privateKey,
    jwk: { ...createPublicKey(privateKey).export({ format: 'jwk' }), kid: keyId, alg: algorithm, use: 'sig' },
    sign(claims, header = {}) {
      const signed = signingInput({ typ: 'JWT', alg: algorithm, kid: keyId, ...header }, claims);
      return `${signed}.${sign(hash, Buffer.from(signed), { key: privateKey, ...form }).toString('base64url')}`;
    },
  };
}

/** Signed with a text that both ends would share, such as a public key that was taken for one. */
export function signShared(secret: string | Uint8Array, claims: object, header: object): string {
  const signed = signingInput(header, claims);
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

/** Header and payload, encoded; a text stands for itself. */
export function signingInput(header: object, claims: object | string): string {
  const encode = (part: object | string): string =>
    Buffer.from(typeof part === 'string' ? part : JSON.stringify(part)).toString('base64url');
  return `${encode(header)}.${encode(claims)}`;
}

/** As GitHub says of a job that runs for a push to the default branch, five minutes long. */
export function jobClaims(issuer: string, at: number, changed: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  const second = Math.floor(at / 1000);
  return {
    jti: 'c5b0c6a4-3f0a-4a4e-9b0e-2a8d1c9b7e10',
    sub: 'repo:octo-org/octo-repo:ref:refs/heads/main',
    aud: 'steeple',
    ref: 'refs/heads/main',
    sha: '94b0a9bd4e7e1b7c3f6f4f0a6d9d6e1e2f3a4b5c',
    repository: 'octo-org/octo-repo',
    repository_owner: 'octo-org',
    actor_id: '12',
    repository_visibility: 'private',
    repository_id: '74',
    repository_owner_id: '65',
    run_id: '1658821493',
    run_number: '10',
    run_attempt: '1',
    runner_environment: 'github-hosted',
    actor: 'octocat',
    workflow: 'release',
    head_ref: '',
    base_ref: '',
    event_name: 'push',
    ref_type: 'branch',
    job_workflow_ref: 'octo-org/octo-repo/.github/workflows/release.yml@refs/heads/main',
    iss: issuer,
    nbf: second - 600,
    exp: second + 300,
    iat: second,
    ...changed,
  };
}

export interface OidcServer extends AsyncDisposable {
  /** Its issuer, without a slash at its end. */
  readonly issuer: string;
  readonly ca: string;
  /** Paths asked for so far. */
  readonly requests: readonly string[];
  /** What is said at a path; absent ones are 404, a function answers as it likes. */
  readonly pages: Map<string, object | string | ((incoming: IncomingMessage, response: ServerResponse) => void)>;
  setKeys(...keys: readonly object[]): void;
}

export const discoveryPath = '/.well-known/openid-configuration';
export const keysPath = '/.well-known/jwks';

export async function serveOidc(...keys: readonly object[]): Promise<OidcServer> {
  const authority = createClusterAuthority('ci-ca');
  const { certificate, key } = authority.issue('ci', ['127.0.0.1']);
  const pages: OidcServer['pages'] = new Map();
  const requests: string[] = [];
  const server = createServer({ cert: certificate, key }, (incoming, response) => {
    const path = incoming.url ?? '';
    requests.push(path);
    const page = pages.get(path);
    if (page === undefined) response.writeHead(404).end();
    else if (typeof page === 'function') page(incoming, response);
    else response.writeHead(200, { 'content-type': 'application/json' }).end(typeof page === 'string' ? page : JSON.stringify(page));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const issuer = `https://127.0.0.1:${String((server.address() as AddressInfo).port)}`;
  const setKeys = (...set: readonly object[]): void => void pages.set(keysPath, { keys: set });
  pages.set(discoveryPath, { issuer, jwks_uri: `${issuer}${keysPath}`, id_token_signing_alg_values_supported: ['RS256'] });
  setKeys(...keys);
  return {
    issuer,
    ca: authority.ca,
    requests,
    pages,
    setKeys,
    async [Symbol.asyncDispose]() {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}
