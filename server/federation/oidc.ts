/**
 * OpenID Connect Discovery for our JWT-SVIDs: who issues them, and the keys that sign them, for parties that know nothing
 * of SPIFFE. Only the public part of JWT authorities is shown; TLS and connections belong to the HTTPS server.
 */
import type { DocumentRefusal, HttpDocument } from '../../runtime/http-document.ts';
import { jsonDocument, noSuchPage } from '../../runtime/http-document.ts';
import type { Watch } from '../../runtime/watch.ts';
import { mapWatch } from '../../runtime/watch.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { formatJwk } from '../../spiffe/jwk.ts';
import { readJwtKey, jwtAlgorithmOf } from '../../spiffe/jwt-key.ts';

export interface OidcOptions {
  /** `iss` of our JWT-SVIDs, to the character. */
  readonly issuer: string;
  /** Where relying parties fetch the keys; beside the discovery document unless given. */
  readonly jwksUrl: string | undefined;
  /** Host names by which the pages may be asked for, beside those of the two URLs. */
  readonly domains: readonly string[];
  readonly bundle: Watch<Pick<Bundle, 'jwtAuthorities'>>;
  readonly maxAgeSeconds: number;
}

/** Of every kind of key an authority may have, so that a change of kind changes nothing for those who read this once. */
const signingAlgorithms = ['RS256', 'ES256', 'ES384'];
const discoveryPath = '/.well-known/openid-configuration';
const keysPath = '/keys';

/**
 * An issuer as OpenID Connect Discovery 3 has it: `https`, a host, no query, no fragment, no user information.
 * @throws invalid `oidc.issuer`
 */
export function parseIssuer(text: string): string {
  return checkedUrl(text, 'an issuer is');
}

/** @throws invalid `oidc.issuer` */
export function parseJwksUrl(text: string): string {
  return checkedUrl(text, 'the address of the keys is');
}

/**
 * What is at a path of a host. Tainted keys are shown until they are revoked, as in the bundle: what they signed counts
 * until then.
 */
export function oidcPages(options: OidcOptions): (path: string, host: string | undefined) => HttpDocument | DocumentRefusal {
  const { issuer, maxAgeSeconds, bundle } = options;
  const base = issuer.replace(/\/$/, '');
  const prefix = new URL(base).pathname.replace(/\/$/, '');
  const jwksUrl = options.jwksUrl ?? `${base}${keysPath}`;
  const ownHosts = [issuer, jwksUrl].map((url) => new URL(url).hostname);
  const hosts = new Set([...ownHosts, ...options.domains.map((name) => name.toLowerCase())]);
  // Read by scripts in browsers as well; there is nothing in them that depends on who asks.
  const form = { maxAgeSeconds, headers: { 'access-control-allow-origin': '*' } };
  const discovery = jsonDocument(
    JSON.stringify({
      issuer,
      jwks_uri: jwksUrl,
      response_types_supported: ['id_token'],
      subject_types_supported: ['public'],
      id_token_signing_alg_values_supported: signingAlgorithms,
      claims_supported: ['iss', 'sub', 'aud', 'exp', 'iat'],
    }),
    form,
  );
  const keys = mapWatch(bundle, ({ jwtAuthorities }): HttpDocument | DocumentRefusal => {
    if (jwtAuthorities.length === 0) return { status: 503, message: 'there are no keys yet', headers: { 'retry-after': '5' } };
    return jsonDocument(formatSigningKeys(jwtAuthorities), form);
  });
  const keyPaths = new Set([`${prefix}${keysPath}`, new URL(jwksUrl).pathname]);
  return (path, host) => {
    if (!hosts.has(hostnameOf(host))) return { status: 421, message: 'this host is not served here' };
    if (path === `${prefix}${discoveryPath}`) return discovery;
    return keyPaths.has(path) ? keys.value : noSuchPage;
  };
}

/** The keys as relying parties of OpenID Connect expect them: each with its purpose and the one algorithm it is used with. */
function formatSigningKeys(authorities: Bundle['jwtAuthorities']): string {
  const keys = authorities.map(({ keyId, publicKey }) => {
    const key = readJwtKey(publicKey);
    const { kty = '', ...members } = formatJwk(key);
    return { kty, use: 'sig', alg: jwtAlgorithmOf(key), kid: keyId, ...members };
  });
  return JSON.stringify({ keys });
}

function checkedUrl(text: string, what: string): string {
  const isPlain = /^https:\/\/[^\s/?#\\@]+(?:\/[^\s?#\\]*)?$/.test(text) && URL.canParse(text);
  if (!isPlain || text.length > 2048) {
    throw new SpiffeError('invalid', 'oidc.issuer', `${what} an https URL without query, fragment or user information`);
  }
  return text;
}

/** Of a `Host` header, which may have a port. */
function hostnameOf(host: string | undefined): string {
  const url = `https://${host ?? ''}/`;
  return /[^\w.:[\]-]/.test(host ?? '') || !URL.canParse(url) ? '' : new URL(url).hostname;
}
