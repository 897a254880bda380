/**
 * From names to secrets at a moment: what each name means to one caller, in the form its proxy understands. What a stream
 * makes of them is its dialect's business.
 */
import type { TrustDomain } from '../../spiffe/id.ts';
import type { WorkloadUpdate } from '../svids/cache.ts';
import type { HeldJwtSvid } from '../svids/held.ts';
import type { Secret, Secrets } from './dialect.ts';
import { allBundlesSecret, bundleSecret, svidSecret, tokenSecret, type RevocationLists } from './messages.ts';
import { meaningsOf, type Meaning, type SecretNames, type Selection } from './names.ts';
import { checkTokens, type TokenMeaning } from './tokens.ts';
import type { Validator } from './validator.ts';

export interface SecretParts {
  readonly trustDomain: TrustDomain;
  readonly names: SecretNames;
  /** Revocation lists to go out with bundles; a new one is sent with the next update. */
  readonly revoked?: (trustDomain: TrustDomain) => RevocationLists | undefined;
}

export interface Wanted {
  readonly selection: Selection;
  readonly update: WorkloadUpdate;
  readonly validator: Validator;
  /** The token there is. */
  readonly token: (meaning: TokenMeaning) => HeldJwtSvid | undefined;
}

const notRevoked = (): undefined => undefined;

/** @throws limited `sds.tokens`, and as `token` does */
export function secretsOf(parts: SecretParts, wanted: Wanted): Secrets {
  const meanings = meaningsOf(wanted.selection, wanted.update, parts);
  checkTokens([...meanings.values()].filter(({ kind }) => kind === 'token').length);
  const secrets = new Map<string, Secret | 'pending'>();
  for (const [name, meaning] of meanings) {
    const secret = secretOf(name, meaning, parts, wanted);
    if (secret !== undefined) secrets.set(name, secret);
  }
  return secrets;
}

function secretOf(name: string, meaning: Meaning, parts: SecretParts, { validator, token }: Wanted): Secret | 'pending' | undefined {
  const { revoked = notRevoked } = parts;
  switch (meaning.kind) {
    case 'svid':
      return svidSecret(name, meaning.svid);
    case 'bundle':
      return bundleSecret(name, meaning.bundle, { validator, revoked });
    case 'bundles':
      // As one list of authorities they would vouch for one another's trust domains.
      return validator === 'spiffe' ? allBundlesSecret(name, meaning.bundles, revoked) : undefined;
    case 'token': {
      const svid = token(meaning);
      return svid === undefined ? 'pending' : tokenSecret(name, svid);
    }
    case 'pending':
      return 'pending';
  }
}
