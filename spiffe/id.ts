/**
 * SPIFFE IDs and trust domains: parse, compose, membership. The raw text is checked byte by byte and kept as it is;
 * nothing here normalises, decodes or resolves, because every form but one is refused [SPIFFE-ID 2].
 */
import { SpiffeError } from './errors.ts';

declare const trustDomainBrand: unique symbol;
declare const spiffeIdBrand: unique symbol;

/** A trust domain name such as `example.org`; compared with `===`. */
export type TrustDomain = string & { readonly [trustDomainBrand]: true };

/** A whole SPIFFE ID such as `spiffe://example.org/web`; compared with `===`. */
export type SpiffeId = string & { readonly [spiffeIdBrand]: true };

const scheme = 'spiffe://';
const maxIdBytes = 2048;
const maxTrustDomainBytes = 255;
const trustDomainForm = /^[a-z0-9._-]+$/;
const segmentForm = /^[A-Za-z0-9._-]+$/;

/**
 * A bare trust domain name.
 * @throws invalid `id.trust-domain.missing|length|characters`
 */
export function parseTrustDomain(text: string): TrustDomain {
  if (text === '') throw new SpiffeError('invalid', 'id.trust-domain.missing', 'trust domain is missing');
  // ASCII only from here on, so characters are bytes [SPIFFE-ID 2.1].
  if (!trustDomainForm.test(text)) {
    throw new SpiffeError(
      'invalid',
      'id.trust-domain.characters',
      'trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores',
    );
  }
  if (text.length > maxTrustDomainBytes) {
    throw new SpiffeError('invalid', 'id.trust-domain.length', 'trust domain is longer than 255 bytes');
  }
  return text as TrustDomain;
}

/**
 * A trust domain given either bare or as a SPIFFE ID, whose path is then dropped, as SPIRE's callers may send it.
 * @throws invalid as `parseTrustDomain` and `parseSpiffeId`
 */
export function trustDomainFromText(text: string): TrustDomain {
  return text.includes(':/') ? trustDomainOf(parseSpiffeId(text)) : parseTrustDomain(text);
}

/**
 * A SPIFFE ID in its only legal form.
 * @throws invalid `id.empty|scheme|length` and the reasons of `parseTrustDomain` and `checkPath`
 */
export function parseSpiffeId(text: string): SpiffeId {
  if (text === '') throw new SpiffeError('invalid', 'id.empty', 'cannot be empty');
  if (!text.startsWith(scheme)) throw new SpiffeError('invalid', 'id.scheme', 'scheme is missing or invalid');
  // Before the rest, so that the work on a hostile text is bounded. A text with other than ASCII characters may be
  // longer in bytes than it seems here, but is refused below for its characters.
  if (text.length > maxIdBytes) throw new SpiffeError('invalid', 'id.length', 'SPIFFE ID is longer than 2048 bytes');
  const slash = text.indexOf('/', scheme.length);
  parseTrustDomain(slash < 0 ? text.slice(scheme.length) : text.slice(scheme.length, slash));
  if (slash >= 0) checkPath(text.slice(slash));
  return text as SpiffeId;
}

/**
 * Joins a trust domain and a path, which is empty or starts with a slash.
 * @throws invalid as `parseSpiffeId`
 */
export function composeSpiffeId(trustDomain: TrustDomain, path: string): SpiffeId {
  // Else the path would run on where the trust domain ends.
  if (path !== '' && !path.startsWith('/')) throw leadingSlashMissing();
  return parseSpiffeId(`${scheme}${trustDomain}${path}`);
}

/**
 * As `composeSpiffeId`, of segments that are written without slashes; none of them gives the trust domain's own ID.
 * @throws invalid as `parseSpiffeId` and `joinPath`
 */
export function spiffeIdFromSegments(trustDomain: TrustDomain, ...segments: readonly string[]): SpiffeId {
  return composeSpiffeId(trustDomain, joinPath(...segments));
}

/**
 * The ID below this one, such as `spiffe://example.org/a` and `/b` to `spiffe://example.org/a/b`.
 * @throws invalid as `composeSpiffeId`
 */
export function appendPath(id: SpiffeId, path: string): SpiffeId {
  return composeSpiffeId(trustDomainOf(id), pathOf(id) + (path === '' ? '' : checkedPath(path)));
}

/**
 * The path made of these segments, each of which starts with a slash there and has none here.
 * @throws invalid as `checkPath`
 */
export function joinPath(...segments: readonly string[]): string {
  for (const segment of segments) checkPathSegment(segment);
  return segments.map((segment) => `/${segment}`).join('');
}

/** @throws invalid `id.path.empty-segment|dot-segment|characters` */
export function checkPathSegment(segment: string): void {
  if (segment === '') throw new SpiffeError('invalid', 'id.path.empty-segment', 'path cannot contain empty segments');
  // A slash is no character of a segment, so that nothing can be slipped in.
  checkSegment(segment);
}

/**
 * The rules of a non-empty path [SPIFFE-ID 2.2].
 * @throws invalid `id.path.leading-slash|trailing-slash|empty-segment|dot-segment|characters`
 */
export function checkPath(path: string): void {
  if (!path.startsWith('/')) throw leadingSlashMissing();
  const segments = path.split('/').slice(1);
  for (const [index, segment] of segments.entries()) {
    if (segment === '') {
      if (index === segments.length - 1) {
        throw new SpiffeError('invalid', 'id.path.trailing-slash', 'path cannot have a trailing slash');
      }
      throw new SpiffeError('invalid', 'id.path.empty-segment', 'path cannot contain empty segments');
    }
    checkSegment(segment);
  }
}

function checkSegment(segment: string): void {
  if (segment === '.' || segment === '..') {
    throw new SpiffeError('invalid', 'id.path.dot-segment', 'path cannot contain dot segments');
  }
  if (!segmentForm.test(segment)) {
    throw new SpiffeError(
      'invalid',
      'id.path.characters',
      'path segment characters are limited to letters, numbers, dots, dashes, and underscores',
    );
  }
}

function checkedPath(path: string): string {
  checkPath(path);
  return path;
}

function leadingSlashMissing(): SpiffeError {
  return new SpiffeError('invalid', 'id.path.leading-slash', 'path must have a leading slash');
}

/** The trust domain in an ID. */
export function trustDomainOf(id: SpiffeId): TrustDomain {
  const slash = id.indexOf('/', scheme.length);
  return (slash < 0 ? id.slice(scheme.length) : id.slice(scheme.length, slash)) as TrustDomain;
}

/** The path with its leading slash, or `''` for the trust domain's own ID. */
export function pathOf(id: SpiffeId): string {
  const slash = id.indexOf('/', scheme.length);
  return slash < 0 ? '' : id.slice(slash);
}

/** The trust domain's own ID, `spiffe://<td>`: key of bundle maps and SAN of authorities. */
export function trustDomainId(trustDomain: TrustDomain): SpiffeId {
  return `${scheme}${trustDomain}` as SpiffeId;
}

/** Whole names only: `example.org` has no members of `example.org.evil`. */
export function isMemberOf(id: SpiffeId, trustDomain: TrustDomain): boolean {
  const end = scheme.length + trustDomain.length;
  return id.startsWith(trustDomain, scheme.length) && (id.length === end || id[end] === '/');
}

/** `/a` and `/a/b` are under `/a`, `/ab` is not: whole segments only. */
export function isUnderPath(id: SpiffeId, prefix: string): boolean {
  const path = pathOf(id);
  return path === prefix || path.startsWith(`${prefix}/`);
}

export function serverId(trustDomain: TrustDomain): SpiffeId {
  return `${scheme}${trustDomain}/spire/server` as SpiffeId;
}

/** Whether the ID is one an agent may have: `/spire/agent/…`. */
export function isAgentId(id: SpiffeId): boolean {
  return pathOf(id).startsWith('/spire/agent/');
}

/** Whether a workload may have the ID: it has a path, and not one that is reserved for the server and the agents. */
export function isWorkloadId(id: SpiffeId): boolean {
  return pathOf(id) !== '' && !isUnderPath(id, '/spire');
}
