/**
 * What operators have signed without an entry: they name the identity themselves, and the record says that they did. The
 * same drafts, checks, intents and signatures as everything else.
 */
import type { Clock } from '../../runtime/clock.ts';
import { dnsNameFault } from '../../spiffe/dns-name.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { isMemberOf, isWorkloadId, parseSpiffeId, type SpiffeId, type TrustDomain } from '../../spiffe/id.ts';
import { checkProofOfPossession, parseRequest, type CertificateRequest } from '../../spiffe/x509/request.ts';
import { witness } from '../audit/scope.ts';
import { createDecisionId } from '../governance/decide.ts';
import type { CredentialIntent, Scope, Store } from '../store/store.ts';
import type { ActiveAuthorities } from './active.ts';
import { readyJwt, readyWit, readyX509 } from './drafts.ts';
import { svidOf, witDisabled } from './issue.ts';
import type { Profile } from './profile.ts';
import { signToken, signX509, type IssuedJwtSvid, type IssuedX509Svid, type SignDeps } from './sign.ts';

export interface MintDeps extends SignDeps {
  readonly trustDomain: TrustDomain;
  readonly clock: Pick<Clock, 'now'>;
  readonly active: ActiveAuthorities;
  readonly profile: () => Profile;
  readonly store: Pick<Store, 'recordIntents' | 'recordResults' | 'recordAudit'>;
}

export interface MintJwtRequest {
  /** A workload's. */
  readonly spiffeId: SpiffeId;
  readonly audience: readonly string[];
  /** 0 means the default. */
  readonly ttlSeconds: number;
}

export interface MintWitRequest extends Omit<MintJwtRequest, 'audience'> {
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
  /** Of that key; `''` for what fits it best. */
  readonly algorithm: string;
}

export interface Mint {
  /**
   * Names and subject come from the request, which is an operator's. `ttlSeconds` 0 means the default.
   * @throws invalid `mint.csr.malformed|signature|uri|dns`, unavailable `authority.expired`, and what store and keys throw
   */
  mintX509(csr: Uint8Array, ttlSeconds: number, scope: Scope): Promise<IssuedX509Svid>;
  /**
   * @throws invalid `mint.id`, `jwt-svid.audience.missing|too-large`, unavailable `authority.expired`, and what store and
   *   keys throw
   */
  mintJwt(asked: MintJwtRequest, scope: Scope): Promise<IssuedJwtSvid>;
  /**
   * @throws unsupported `wit.disabled`, invalid `mint.id`, `wit.public-key|algorithm`, unavailable `authority.expired`, and
   *   what store and keys throw
   */
  mintWit(asked: MintWitRequest, scope: Scope): Promise<IssuedJwtSvid>;
}

/** A Name without attributes. */
const emptyNameBytes = 2;

export function createMint(deps: MintDeps): Mint {
  const { trustDomain, clock, active, store } = deps;

  const grantOf = (spiffeId: SpiffeId, at: number, profile: Profile) => ({
    spiffeId,
    entryId: '',
    agentId: '' as const,
    decisionId: `${createDecisionId(at)}-${profile.hash}`,
    reason: 'minted-by-operator',
    process: '',
  });

  const requireWorkload = (spiffeId: SpiffeId): void => {
    if (isMemberOf(spiffeId, trustDomain) && isWorkloadId(spiffeId)) return;
    throw new SpiffeError('invalid', 'mint.id', `invalid SPIFFE ID: "${spiffeId}" is not a workload ID of "${trustDomain}"`);
  };

  const record = async (intent: CredentialIntent, scope: Scope): Promise<void> => {
    await store.recordIntents([intent]);
    const detail = { kind: intent.kind, spiffeId: intent.spiffeId, expiresAt: intent.expiresAt };
    await store.recordAudit([witness(scope, 'credential.minted', { subject: intent.id, reason: intent.reason, detail })]);
  };

  return {
    async mintX509(csr, ttlSeconds, scope) {
      const request = readRequest(csr);
      const spiffeId = readId(request, trustDomain);
      checkDnsNames(request.dnsNames);
      const at = clock.now();
      const profile = deps.profile();
      const ready = readyX509(
        active.x509.value,
        {
          ...grantOf(spiffeId, at, profile),
          profile: 'workload',
          ttlSeconds: ttlSeconds > 0 ? ttlSeconds : profile.x509SvidTtlSeconds,
          publicKey: request.publicKey,
          dnsNames: request.dnsNames,
          ...(request.subject.length > emptyNameBytes && { subject: request.subject }),
        },
        at,
      );
      await record(ready.intent, scope);
      return svidOf(await signX509(deps, ready, ''));
    },

    async mintWit({ spiffeId, publicKey, algorithm, ttlSeconds }, scope) {
      if (active.wit === undefined) throw witDisabled();
      requireWorkload(spiffeId);
      const at = clock.now();
      const profile = deps.profile();
      const ttl = ttlSeconds > 0 ? ttlSeconds : profile.witSvidTtlSeconds;
      const ready = readyWit(active.wit.value, { ...grantOf(spiffeId, at, profile), ttlSeconds: ttl, publicKey, algorithm }, at);
      await record(ready.intent, scope);
      return svidOf(await signToken(deps, ready, ''));
    },

    async mintJwt({ spiffeId, audience, ttlSeconds }, scope) {
      requireWorkload(spiffeId);
      const at = clock.now();
      const profile = deps.profile();
      const grant = {
        ...grantOf(spiffeId, at, profile),
        ttlSeconds: ttlSeconds > 0 ? ttlSeconds : profile.jwtSvidTtlSeconds,
        audience,
        issuer: profile.jwtIssuer,
        includeJti: false,
      };
      const ready = readyJwt(active.jwt.value, grant, at);
      await record(ready.intent, scope);
      return svidOf(await signToken(deps, ready, ''));
    },
  };
}

function readRequest(csr: Uint8Array): CertificateRequest {
  // A copy: what was checked is what is issued.
  const bytes = Uint8Array.from(csr);
  try {
    const request = parseRequest(bytes);
    checkProofOfPossession(request);
    return request;
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    const context = { detail: { reason: cause.reason }, cause };
    if (cause.reason.startsWith('request.signature')) {
      throw new SpiffeError('invalid', 'mint.csr.signature', `invalid CSR: signature verify failed: ${cause.message}`, context);
    }
    throw new SpiffeError('invalid', 'mint.csr.malformed', `malformed CSR: ${cause.message}`, context);
  }
}

function readId(request: CertificateRequest, trustDomain: TrustDomain): SpiffeId {
  const [uri, second] = request.uris;
  if (uri === undefined) throw uriError('CSR URI SAN is required');
  if (second !== undefined) throw uriError('only one URI SAN is expected');
  let id: SpiffeId;
  try {
    id = parseSpiffeId(uri);
  } catch (cause) {
    if (!(cause instanceof SpiffeError)) throw cause;
    throw uriError(`CSR URI SAN is invalid: ${cause.message}`, cause);
  }
  if (!isMemberOf(id, trustDomain)) {
    throw uriError(`CSR URI SAN is invalid: "${id}" is not a member of trust domain "${trustDomain}"`);
  }
  if (!isWorkloadId(id)) throw uriError(`CSR URI SAN is invalid: "${id}" is not a workload ID`);
  return id;
}

function checkDnsNames(names: readonly string[]): void {
  for (const name of names) {
    const fault = dnsNameFault(name);
    if (fault !== undefined) throw dnsError(`CSR DNS name is not valid: ${fault}`);
  }
  if (new Set(names).size !== names.length) throw dnsError('CSR DNS name appears twice');
  for (const name of names.filter((each) => each.startsWith('*.'))) {
    const parent = name.slice(1);
    // A wildcard stands for one label.
    const isCovered = (other: string): boolean => other.endsWith(parent) && !other.slice(0, -parent.length).includes('.');
    const covered = names.find((other) => other !== name && isCovered(other));
    if (covered !== undefined) throw dnsError(`CSR DNS names overlap: ${name} covers ${covered}`);
  }
}

function uriError(message: string, cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'mint.csr.uri', message, { cause });
}

function dnsError(message: string): SpiffeError {
  return new SpiffeError('invalid', 'mint.csr.dns', message);
}
