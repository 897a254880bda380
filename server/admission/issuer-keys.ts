/**
 * The keys of an OIDC issuer: read from a file, or found by its discovery document and kept for a while, asked for again
 * at a bounded rate. Whether a token is signed with one of them is `oidc-token.ts`.
 */
import { isJsonArray, isJsonObject, parseJson, type JsonObject, type JsonValue } from '../../spiffe/json.ts';
import { parseSignatureJwk } from '../../spiffe/jwk.ts';
import { checkJwtKey, isJwtAlgorithm, jwtAlgorithmFits } from '../../spiffe/jwt-key.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import type { Clock } from '../../runtime/clock.ts';
import { readTrustedFile } from '../../runtime/files.ts';
import { createHttpClient } from '../../runtime/http.ts';
import type { IssuerKey } from './oidc-token.ts';

export type OidcKeyPlace =
  /** A JSON Web Key Set that an operator keeps up to date; read again when it is some seconds old. */
  | { readonly jwksFile: string }
  | {
      readonly discovery: true;
      /** PEM of the authorities of the issuer's own certificate; those that come with the runtime if absent. */
      readonly ca?: string;
      /** Host, with its port if it has one, that the issuer's keys may be on besides its own. */
      readonly jwksHost?: string;
    };

export interface IssuerKeys {
  /**
   * The keys as they were last seen, seen anew when they are old or `keyId` is not among them.
   * @throws unavailable `oidc-ci.keys`
   */
  current(keyId: string | undefined): Promise<readonly IssuerKey[]>;
}

export interface IssuerKeysOptions {
  readonly clock: Pick<Clock, 'monotonic'>;
  readonly load: () => Promise<readonly IssuerKey[]>;
  /** How long keys are used without a second look. */
  readonly freshMs: number;
}

const maxDocumentBytes = 64 * 1024;
const maxSetBytes = 256 * 1024;
const maxKeys = 100;
const discoveryFreshMs = 10 * 60_000;
const fileFreshMs = 10_000;
/** Looks at the source are this far apart, whoever asks for whatever key. */
const shortestIntervalMs = 10_000;
/** A key that was withdrawn counts no longer than this where the source is out of reach. */
const longestStaleMs = 60 * 60_000;

/** @param issuer as tokens name it, an `https:` URL */
export function openIssuerKeys(issuer: string, place: OidcKeyPlace, clock: Clock): IssuerKeys {
  if ('jwksFile' in place) {
    const load = async (): Promise<readonly IssuerKey[]> => parseKeySet(await readTrustedFile(place.jwksFile, maxSetBytes));
    return createIssuerKeys({ clock, load, freshMs: fileFreshMs });
  }
  return createIssuerKeys({ clock, load: () => discover(issuer, place, clock), freshMs: discoveryFreshMs });
}

/** One look at a time, whoever waits for it. */
export function createIssuerKeys({ clock, load, freshMs }: IssuerKeysOptions): IssuerKeys {
  let known: { readonly keys: readonly IssuerKey[]; readonly seenAt: number } | undefined;
  let failure: SpiffeError | undefined;
  let triedAt = Number.NEGATIVE_INFINITY;
  let looking: Promise<void> | undefined;

  const look = async (): Promise<void> => {
    triedAt = clock.monotonic();
    try {
      known = { keys: await load(), seenAt: clock.monotonic() };
      failure = undefined;
    } catch (cause) {
      failure = unavailable(cause);
    } finally {
      looking = undefined;
    }
  };
  const isDue = (keyId: string | undefined): boolean =>
    known === undefined ||
    clock.monotonic() - known.seenAt >= freshMs ||
    (keyId !== undefined && !known.keys.some((each) => each.keyId === keyId));

  return {
    async current(keyId) {
      if (isDue(keyId)) {
        if (looking === undefined && clock.monotonic() - triedAt >= shortestIntervalMs) looking = look();
        await looking;
      }
      if (known !== undefined && (failure === undefined || clock.monotonic() - known.seenAt < longestStaleMs)) return known.keys;
      throw failure ?? unavailable(undefined);
    },
  };
}

/**
 * What of a key set can check a signature; the rest of it is left alone, as the standard asks [RFC 7517 5].
 * @throws invalid `oidc-ci.key-set`, `json.*`, `jwk.secret`
 */
export function parseKeySet(bytes: Uint8Array): readonly IssuerKey[] {
  const listed = objectOf(bytes, maxSetBytes)['keys'];
  if (!isJsonArray(listed) || listed.length > maxKeys) throw malformed('has no list of keys, or one that is too long');
  const keys = listed.flatMap((element) => (isJsonObject(element) ? keysOf(element) : []));
  if (keys.length === 0) throw malformed('holds no key that signs with an allowed algorithm');
  return keys;
}

function keysOf(jwk: JsonObject): readonly IssuerKey[] {
  const { use, alg, kid, key_ops: operations } = jwk as { readonly [name in 'use' | 'alg' | 'kid' | 'key_ops']?: JsonValue };
  if (use !== undefined && use !== 'sig') return [];
  if (operations !== undefined && !(isJsonArray(operations) && operations.includes('verify'))) return [];
  if (alg !== undefined && !isJwtAlgorithm(alg)) return [];
  if (kid !== undefined && (typeof kid !== 'string' || kid === '')) return [];
  try {
    const key = parseSignatureJwk(jwk);
    if (key === undefined) return [];
    checkJwtKey(key);
    return alg !== undefined && !jwtAlgorithmFits(alg, key) ? [] : [{ keyId: kid, algorithm: alg, key }];
  } catch (error) {
    if (isSpiffeError(error, 'invalid', 'jwk.malformed') || isSpiffeError(error, 'unsupported')) return [];
    throw error;
  }
}

type Discovery = Extract<OidcKeyPlace, { readonly discovery: true }>;

async function discover(issuer: string, place: Discovery, clock: Clock): Promise<readonly IssuerKey[]> {
  const { origin, host, pathname } = new URL(issuer);
  const path = `${pathname.replace(/\/$/, '')}/.well-known/openid-configuration`;
  const document = objectOf(await get(origin, path, maxDocumentBytes, place, clock), maxDocumentBytes);
  // Else any tenant of a shared host could speak for another [OpenID Connect Discovery 4.3].
  if (document['issuer'] !== issuer) throw malformed('is announced by another issuer');
  const uri = document['jwks_uri'];
  const where = typeof uri === 'string' && URL.canParse(uri) ? new URL(uri) : undefined;
  if (where?.protocol !== 'https:' || where.username !== '' || where.password !== '') throw malformed('is at no https URL');
  // The document may not send this server's questions just anywhere.
  if (where.host !== host && where.host !== place.jwksHost) throw malformed('is on another host than the issuer');
  return parseKeySet(await get(where.origin, `${where.pathname}${where.search}`, maxSetBytes, place, clock));
}

async function get(origin: string, path: string, maxBytes: number, { ca }: Discovery, clock: Clock): Promise<Uint8Array> {
  const client = createHttpClient({ clock, endpoint: { url: origin, ...(ca === undefined ? {} : { ca }) } });
  try {
    const { status, body } = await client.request({ path, maxBytes, headers: { accept: 'application/json' } });
    if (status !== 200) throw malformed(`cannot be had, status ${status}`);
    return body;
  } finally {
    client.close();
  }
}

function objectOf(bytes: Uint8Array, maxBytes: number): JsonObject {
  const value = parseJson(bytes, { maxBytes, maxDepth: 8, integers: 'number' });
  if (!isJsonObject(value)) throw malformed('is no object');
  return value;
}

function malformed(how: string): SpiffeError {
  return new SpiffeError('invalid', 'oidc-ci.key-set', `the issuer's key set ${how}`);
}

function unavailable(cause: unknown): SpiffeError {
  const detail = cause instanceof SpiffeError ? { because: cause.reason } : {};
  const message = 'nodeattestor(oidc_ci): the keys of the issuer cannot be had at the moment';
  return new SpiffeError('unavailable', 'oidc-ci.keys', message, { detail, cause });
}
