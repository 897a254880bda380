/**
 * The authority that signs now, with what signing needs of it worked out once. Which one that is, and until when, is
 * decided by `slots.ts`.
 */
import { createPublicKey } from 'node:crypto';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { jwtAlgorithmOf, type JwtAlgorithm } from '../../spiffe/jwt-key.ts';
import { parseCertificate } from '../../spiffe/x509/certificate.ts';
import { issuerFrom, type Issuer, type LeafProfile } from '../../spiffe/x509/draft.ts';
import { prepareTemplate, type Template } from '../../spiffe/x509/template.ts';
import type { Watch } from '../../runtime/watch.ts';
import type { AuthorityRecord } from '../store/store.ts';

interface ActiveAuthority {
  readonly id: string;
  readonly keyName: string;
  /** Nothing it signs outlives it. */
  readonly expiresAt: number;
}

export interface ActiveX509 extends ActiveAuthority {
  readonly issuer: Issuer;
  readonly templates: Readonly<Record<LeafProfile, Template>>;
  /** What follows a leaf: DER, up to but without the root. */
  readonly chain: readonly Uint8Array[];
}

export interface ActiveJwt extends ActiveAuthority {
  readonly algorithm: JwtAlgorithm;
}

/** What issuing follows. */
export interface ActiveAuthorities {
  readonly x509: Watch<ActiveX509>;
  readonly jwt: Watch<ActiveJwt>;
  /** `undefined` where no WIT-SVIDs are issued. */
  readonly wit: Watch<ActiveJwt> | undefined;
}

/** @throws internal `authority.certificate` for a record without a certificate, and as `parseCertificate` */
export function activeX509From(record: AuthorityRecord, trustDomain: TrustDomain): ActiveX509 {
  if (record.certificate === undefined) {
    throw new SpiffeError('internal', 'authority.certificate', `the X.509 authority ${record.id} has no certificate`);
  }
  const issuer = issuerFrom(parseCertificate(record.certificate), trustDomain);
  return Object.freeze({
    id: record.id,
    keyName: record.keyName,
    expiresAt: record.expiresAt,
    issuer,
    templates: {
      workload: prepareTemplate('workload', issuer),
      agent: prepareTemplate('agent', issuer),
      server: prepareTemplate('server', issuer),
    },
    chain: Object.freeze([]),
  });
}

/** Of an authority for JWT-SVIDs or for WIT-SVIDs. @throws unsupported `jwt-key.unsupported` */
export function activeJwtFrom(record: AuthorityRecord): ActiveJwt {
  const key = createPublicKey({ key: Buffer.from(record.publicKey), format: 'der', type: 'spki' });
  return Object.freeze({
    id: record.id,
    keyName: record.keyName,
    expiresAt: record.expiresAt,
    algorithm: jwtAlgorithmOf(key),
  });
}
