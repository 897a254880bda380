/**
 * The SPIFFE bundle document, a JWK Set, both ways; and the plain JWK Set of the Workload API. Fetching, comparing
 * sequences and choosing whom to believe are left to federation and to the client.
 */
import { decodeBase64, encodeBase64 } from './base64.ts';
import type { Bundle, JwtAuthority, X509Authority } from './bundle.ts';
import { composeBundle, parseAuthorityCertificate, readJwtAuthority, readX509Authority } from './bundle.ts';
import { SpiffeError, isSpiffeError } from './errors.ts';
import type { TrustDomain } from './id.ts';
import type { JsonObject, JsonValue } from './json.ts';
import { isJsonArray, isJsonObject, parseJson } from './json.ts';
import { checkPublicOnly, formatJwk, isKnownKeyType, jwkDescribes, parseSignatureJwk } from './jwk.ts';
import { readJwtKey } from './jwt-key.ts';

/** Far above what any trust domain publishes; keeps a hostile document from holding the process up. */
export const bundleDocumentLimits = { bytes: 2_097_152, keys: 1000 } as const;

const jsonLimits = { maxBytes: bundleDocumentLimits.bytes, maxDepth: 16, integers: 'exact' } as const;
const maxSequence = 2n ** 64n - 1n;

/**
 * The document as a bundle endpoint serves it, in the order certificates, keys. Sequence and hint are left out when
 * they are 0, as SPIRE does; tainted authorities are in it until they are removed.
 * @throws unsupported `jwk.unsupported` for a certificate whose key has no JSON form
 */
export function formatBundleDocument(bundle: Bundle): string {
  const keys = [
    ...bundle.x509Authorities.map(({ certificate }) => ({
      ...formatJwk(parseAuthorityCertificate(certificate).publicKey),
      use: 'x509-svid',
      x5c: [encodeBase64(certificate)],
    })),
    ...bundle.jwtAuthorities.map((authority) => ({ ...formatJwtAuthority(authority), use: 'jwt-svid' })),
    ...bundle.witAuthorities.map((authority) => ({ ...formatJwtAuthority(authority), use: 'wit-svid' })),
  ];
  // Written by hand, because JSON.stringify cannot write integers beyond 2^53 [Trust Domain and Bundle 4.1.1].
  const sequence = bundle.sequence === 0n ? '' : `,"spiffe_sequence":${bundle.sequence.toString()}`;
  const hint = bundle.refreshHintSeconds === 0 ? '' : `,"spiffe_refresh_hint":${bundle.refreshHintSeconds}`;
  return `{"keys":${JSON.stringify(keys)}${sequence}${hint}}`;
}

/**
 * Reads the document of the trust domain it is known to come from. Elements of an unknown type or use are skipped, and
 * so are keys that no token can be signed with; anything else that is wrong refuses the whole document, so that the
 * last good bundle stays [Trust Domain and Bundle 4]. No keys at all is a bundle, and means that nothing is trusted.
 * @throws invalid `bundle-document.form|keys|key-count|sequence|refresh-hint|certificate|key-mismatch|key-id`, and the
 *   reasons of `parseJson`, `parseSignatureJwk` and `composeBundle`
 */
export function parseBundleDocument(input: Uint8Array | string, trustDomain: TrustDomain): Bundle {
  const { document, keys } = readKeySet(input);
  const x509Authorities: X509Authority[] = [];
  const jwtAuthorities: JwtAuthority[] = [];
  const witAuthorities: JwtAuthority[] = [];
  for (const jwk of keys) {
    if (!isKnownKeyType(jwk)) continue;
    // One element is for one type of SVID [Trust Domain and Bundle 4.2].
    if (jwk['use'] === 'x509-svid') x509Authorities.push(...readX509Element(jwk));
    else if (jwk['use'] === 'jwt-svid') jwtAuthorities.push(...readJwtElement(jwk));
    else if (jwk['use'] === 'wit-svid') witAuthorities.push(...readJwtElement(jwk));
  }
  checkRepeats([...jwtAuthorities, ...witAuthorities]);
  return composeBundle({
    trustDomain,
    x509Authorities,
    jwtAuthorities,
    witAuthorities,
    refreshHintSeconds: readRefreshHint(document['spiffe_refresh_hint']),
    sequence: readSequence(document['spiffe_sequence']),
  });
}

/** The JWT authorities as the Workload API hands them on: `kty`, `kid` and the key, nothing else. */
export function formatJwks(bundle: Pick<Bundle, 'jwtAuthorities'>): string {
  return formatKeys(bundle.jwtAuthorities);
}

/** The WIT authorities as the Workload API hands them on, in the same form [Workload API 7.1]. */
export function formatWitJwks(bundle: Pick<Bundle, 'witAuthorities'>): string {
  return formatKeys(bundle.witAuthorities);
}

function formatKeys(authorities: readonly JwtAuthority[]): string {
  return JSON.stringify({ keys: authorities.map(formatJwtAuthority) });
}

/**
 * The JWT authorities out of a key set of the Workload API, where `use` may be absent; elements of another use, of an
 * unknown type or of a key that no JWT-SVID can be signed with are skipped.
 * @throws invalid as `parseBundleDocument`
 */
export function parseJwks(input: Uint8Array | string): readonly JwtAuthority[] {
  return parseKeys(input, 'jwt-svid');
}

/** The WIT authorities out of a key set of the Workload API, as `parseJwks`. @throws invalid as `parseBundleDocument` */
export function parseWitJwks(input: Uint8Array | string): readonly JwtAuthority[] {
  return parseKeys(input, 'wit-svid');
}

function parseKeys(input: Uint8Array | string, wanted: 'jwt-svid' | 'wit-svid'): readonly JwtAuthority[] {
  const authorities: JwtAuthority[] = [];
  for (const jwk of readKeySet(input).keys) {
    const use = jwk['use'];
    if (isKnownKeyType(jwk) && (use === undefined || use === wanted)) authorities.push(...readJwtElement(jwk));
  }
  checkRepeats(authorities);
  return Object.freeze(authorities);
}

function formatJwtAuthority(authority: JwtAuthority): Readonly<Record<string, string>> {
  const { kty = '', ...members } = formatJwk(readJwtKey(authority.publicKey));
  return { kty, kid: authority.keyId, ...members };
}

function readKeySet(input: Uint8Array | string): { readonly document: JsonObject; readonly keys: readonly JsonObject[] } {
  const document = parseJson(input, jsonLimits);
  if (!isJsonObject(document)) throw new SpiffeError('invalid', 'bundle-document.form', 'bundle is not a JSON object');
  const keys = document['keys'];
  if (!isJsonArray(keys)) throw new SpiffeError('invalid', 'bundle-document.keys', 'bundle has no array of keys');
  if (keys.length > bundleDocumentLimits.keys) {
    throw new SpiffeError('invalid', 'bundle-document.key-count', `bundle has more than ${bundleDocumentLimits.keys} keys`);
  }
  if (!keys.every(isJsonObject)) {
    throw new SpiffeError('invalid', 'bundle-document.keys', 'bundle has a key that is not a JSON object');
  }
  return { document, keys };
}

/** The first certificate alone counts; without one the element is ignored [X509-SVID 6.2]. */
function readX509Element(jwk: JsonObject): readonly X509Authority[] {
  checkPublicOnly(jwk);
  const x5c = jwk['x5c'];
  if (x5c === undefined) return [];
  if (!isJsonArray(x5c)) throw certificateFault();
  const [first] = x5c;
  if (first === undefined) return [];
  const der = typeof first === 'string' ? decodeBase64(first) : undefined;
  if (der === undefined) throw certificateFault();
  const authority = readX509Authority(der);
  // Else readers of the one and of the other would trust different keys [RFC 7517 4.7].
  if (!jwkDescribes(jwk, parseAuthorityCertificate(der).publicKey)) {
    throw new SpiffeError('invalid', 'bundle-document.key-mismatch', 'bundle has a key that is not its certificate\'s');
  }
  return [authority];
}

function readJwtElement(jwk: JsonObject): readonly JwtAuthority[] {
  const key = parseSignatureJwk(jwk);
  if (key === undefined) return [];
  const keyId = jwk['kid'];
  if (typeof keyId !== 'string' || keyId === '') {
    throw new SpiffeError('invalid', 'bundle-document.key-id', 'bundle has a JWT or WIT authority without key ID');
  }
  const publicKey = key.export({ format: 'der', type: 'spki' });
  try {
    return [readJwtAuthority({ keyId, publicKey, expiresAt: undefined, tainted: false })];
  } catch (error) {
    // Too weak or too large to be used, but no reason to lose the others.
    if (isSpiffeError(error, 'unsupported')) return [];
    throw error;
  }
}

/** Two keys of one name, even equal ones, are a publisher's mistake or somebody's trick. */
function checkRepeats(authorities: readonly JwtAuthority[]): void {
  if (new Set(authorities.map(({ keyId }) => keyId)).size !== authorities.length) {
    throw new SpiffeError('invalid', 'bundle-document.key-id', 'bundle has two authorities of one key ID');
  }
}

function readSequence(value: JsonValue | undefined): bigint {
  if (value === undefined) return 0n;
  const sequence = typeof value === 'number' && Number.isSafeInteger(value) ? BigInt(value) : value;
  if (typeof sequence !== 'bigint' || sequence < 0n || sequence > maxSequence) {
    throw new SpiffeError('invalid', 'bundle-document.sequence', 'bundle sequence is not an unsigned 64-bit integer');
  }
  return sequence;
}

function readRefreshHint(value: JsonValue | undefined): number {
  if (value === undefined) return 0;
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) {
    throw new SpiffeError('invalid', 'bundle-document.refresh-hint', 'bundle refresh hint is not a number of seconds');
  }
  return value;
}

function certificateFault(): SpiffeError {
  return new SpiffeError('invalid', 'bundle-document.certificate', 'bundle has a certificate that cannot be read');
}
