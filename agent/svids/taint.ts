/**
 * Which authorities are tainted or revoked, by what the server announced and what its bundle marks. Replacing what they
 * signed is `renew.ts` and `tokens.ts`.
 */
import type { Bundle } from '../../spiffe/bundle.ts';
import { isSpiffeError } from '../../spiffe/errors.ts';
import { parseCertificate } from '../../spiffe/x509/certificate.ts';
import type { AuthorityNotice } from '../sync/holdings.ts';

export interface Tainted {
  /** Subject key ids, lower hex. */
  readonly x509: ReadonlySet<string>;
  /** Key ids, for either kind of token: they are one space. */
  readonly jwt: ReadonlySet<string>;
}

export const nothingTainted: Tainted = Object.freeze({ x509: new Set<string>(), jwt: new Set<string>() });

export function taintedBy(bundle: Bundle | undefined, authorities: Iterable<AuthorityNotice>): Tainted {
  const x509 = new Set<string>();
  const jwt = new Set<string>();
  for (const { kind, id, state } of authorities) {
    if (state === 'tainted' || state === 'revoked') (kind === 'x509' ? x509 : jwt).add(id);
  }
  for (const { tainted, certificate } of bundle?.x509Authorities ?? []) {
    const id = tainted ? subjectKeyId(certificate) : undefined;
    if (id !== undefined) x509.add(id);
  }
  const keys = [...(bundle?.jwtAuthorities ?? []), ...(bundle?.witAuthorities ?? [])];
  for (const { tainted, keyId } of keys) if (tainted) jwt.add(keyId);
  return { x509, jwt };
}

export function sameTaint(a: Tainted, b: Tainted): boolean {
  return same(a.x509, b.x509) && same(a.jwt, b.jwt);
}

function same(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  return a.size === b.size && [...a].every((id) => b.has(id));
}

/** A trust anchor that our reader does not take cannot be told by its key; what it signed is found out at renewal. */
function subjectKeyId(der: Uint8Array): string | undefined {
  try {
    const id = parseCertificate(der).subjectKeyId;
    return id === undefined ? undefined : Buffer.from(id).toString('hex');
  } catch (error) {
    if (isSpiffeError(error)) return undefined;
    throw error;
  }
}
