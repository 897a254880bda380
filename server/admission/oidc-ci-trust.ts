/**
 * Which CI jobs are trusted, as an operator writes it down: every condition an exact text, and no token within reach of
 * two trusts. Whether a token meets one is `oidc-ci.ts`.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { checkPath } from '../../spiffe/id.ts';
import type { OidcKeyPlace } from './issuer-keys.ts';

export interface OidcCiTrust {
  /** One segment of a path: it stands in agent IDs. */
  readonly name: string;
  /** `https:` URL, exactly as tokens have it. */
  readonly issuer: string;
  /** What this server goes by, and nobody else. */
  readonly audience: string;
  /** The whole subject, exactly; there are no patterns. */
  readonly subject: string;
  /** Further claims that must be there with exactly this text. */
  readonly claims?: Readonly<Record<string, string>>;
  readonly keys: OidcKeyPlace;
  /** Since the token was issued; 15 minutes if absent. */
  readonly maxTokenAgeMs?: number;
}

const longestText = 1024;
/** Signs of a pattern. Of these git allows some in the names of branches; nobody can trust such a branch. */
const patternSigns = /[*?[\]{}^\\|<>]|\.\+|\$$/;
/** Control and format characters, unassigned ones, other spaces than the plain one. */
const unseen = /[\p{C}\p{Zl}\p{Zp}]|[^\P{Zs} ]/u;
const ownConditions: readonly string[] = ['iss', 'sub', 'aud', 'exp', 'nbf', 'iat', 'jti'];

/** @throws invalid `oidc-ci.config` */
export function checkTrusts(trusts: readonly OidcCiTrust[]): void {
  for (const [index, trust] of trusts.entries()) {
    checkTrust(trust);
    for (const other of trusts.slice(0, index)) {
      if (other.name === trust.name) throw misconfigured(trust, 'is listed twice');
      if (other.issuer === trust.issuer && samePlace(other.keys) !== samePlace(trust.keys)) {
        throw misconfigured(trust, `takes the keys of its issuer from elsewhere than ${other.name}`);
      }
      // A token that two believe could be used with each of them once.
      if (overlaps(trust, other)) {
        throw misconfigured(trust, `believes the same tokens as ${other.name}; tell them apart by a claim`);
      }
    }
  }
}

function checkTrust(trust: OidcCiTrust): void {
  const { name, issuer, audience, subject, claims = {}, keys, maxTokenAgeMs = 0 } = trust;
  try {
    checkPath(`/${name}`);
  } catch (cause) {
    throw misconfigured(trust, 'has a name that no path segment may have', cause);
  }
  if (name.includes('/')) throw misconfigured(trust, 'has a name that no path segment may have');
  if (!isIssuer(issuer)) throw misconfigured(trust, 'has an issuer that is not a plain https URL');
  checkExact(trust, 'audience', audience);
  checkExact(trust, 'subject', subject);
  for (const [claim, value] of Object.entries(claims)) {
    if (ownConditions.includes(claim)) throw misconfigured(trust, `has a condition of its own for ${claim}`);
    checkExact(trust, 'claim name', claim);
    checkExact(trust, claim, value);
  }
  const host = 'discovery' in keys ? keys.jwksHost : undefined;
  if (host !== undefined && !(URL.canParse(`https://${host}`) && new URL(`https://${host}`).host === host)) {
    throw misconfigured(trust, 'has a key host that is no host in lower case');
  }
  if (!Number.isInteger(maxTokenAgeMs) || maxTokenAgeMs < 0) throw misconfigured(trust, 'has a token age that is no duration');
}

/** Written as a URL is written, or no token will ever be equal to it. */
function isIssuer(text: string): boolean {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol !== 'https:' || url.username !== '' || url.password !== '') return false;
  return !text.includes('*') && url.search === '' && url.hash === '' && (url.href === text || url.href === `${text}/`);
}

/** Whoever writes a pattern expects it to match; it would not, and the next release might. */
function checkExact(trust: OidcCiTrust, what: string, text: string): void {
  if (text === '') throw misconfigured(trust, `has no ${what}`);
  if (text.length > longestText) throw misconfigured(trust, `has a ${what} that is too long`);
  if (patternSigns.test(text)) throw misconfigured(trust, `has a ${what} that looks like a pattern; it must be exact`);
  if (unseen.test(text) || text !== text.trim() || text !== text.normalize('NFC')) {
    throw misconfigured(trust, `has a ${what} with characters that cannot be seen`);
  }
}

function samePlace(keys: OidcKeyPlace): string {
  return 'jwksFile' in keys ? `file ${keys.jwksFile}` : `discovery ${keys.jwksHost ?? ''} ${keys.ca ?? ''}`;
}

function overlaps(one: OidcCiTrust, other: OidcCiTrust): boolean {
  if (one.issuer !== other.issuer || one.audience !== other.audience || one.subject !== other.subject) return false;
  return !Object.entries(one.claims ?? {}).some(([claim, value]) => {
    const theirs = Object.hasOwn(other.claims ?? {}, claim) ? other.claims?.[claim] : undefined;
    return theirs !== undefined && theirs !== value;
  });
}

function misconfigured({ name }: OidcCiTrust, what: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'oidc-ci.config', `trust ${JSON.stringify(name.slice(0, 64))} ${what}`, { cause });
}
