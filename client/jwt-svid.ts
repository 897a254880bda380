/**
 * JWT-SVIDs outside of the Workload API: the tokens of others checked here, against bundles that are held, without asking
 * the agent. The rules are those of `spiffe/jwt-svid.ts`.
 */
import { systemClock } from '../runtime/clock.ts';
import type { JwtAuthority } from '../spiffe/bundle.ts';
import type { TrustDomain } from '../spiffe/id.ts';
import { type JwtSvidStatement, readJwtSvidUnverified, validateJwtSvid as validate } from '../spiffe/jwt-svid.ts';
import type { JwtBundleSource } from './bundle-set.ts';

/** What a token is held to. */
export interface ValidateJwtSvidOptions {
  /** What this program goes by; of several names the token needs one. */
  readonly audience: string | readonly string[];
  /** Who may sign for whom: a source, or a set of bundles. */
  readonly bundles: JwtBundleSource;
  /** Epoch milliseconds; now unless given. */
  readonly at?: number;
  /** How far clocks may differ; 60 unless given. */
  readonly leewaySeconds?: number;
}

/**
 * Whether the token counts here and now, by the bundle of the trust domain it names [Workload API 6.3].
 * @throws invalid `jwt-svid.too-large|form|encoding|alg|header|kid|typ|sub|exp|nbf|iat|aud`, `jwt-svid.audience.missing`;
 *   unauthenticated `jwt-svid.untrusted|key-unknown|signature|audience|expired|not-yet`
 */
export function validateJwtSvid(token: string, options: ValidateJwtSvidOptions): JwtSvidStatement {
  const { audience, bundles, at = systemClock.now(), leewaySeconds = 60 } = options;
  return validate(token, { audience, at, leewaySeconds, bundleFor: (trustDomain) => bundleOf(bundles, trustDomain) });
}

/**
 * What a token says. It proves nothing about whoever sent it: for tokens that something in front of the program checked, and
 * for logs.
 * @throws invalid as `validateJwtSvid`
 */
export function parseJwtSvidInsecure(token: string): JwtSvidStatement {
  return readJwtSvidUnverified(token);
}

function bundleOf(
  bundles: JwtBundleSource,
  trustDomain: TrustDomain,
): { readonly trustDomain: TrustDomain; readonly jwtAuthorities: readonly JwtAuthority[] } | undefined {
  const jwtAuthorities = bundles.jwtBundleFor(trustDomain);
  return jwtAuthorities === undefined ? undefined : { trustDomain, jwtAuthorities };
}
