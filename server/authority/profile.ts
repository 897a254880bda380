/**
 * What the configuration says about credentials, as one frozen value: an issuance takes it once and uses nothing else, so
 * that a reload in its midst changes nothing of it.
 */
import { createHash } from 'node:crypto';

export interface ProfileSettings {
  /** Life of an X509-SVID whose entry does not say, and of the server's own. */
  readonly x509SvidTtlSeconds: number;
  readonly agentSvidTtlSeconds: number;
  readonly jwtSvidTtlSeconds: number;
  readonly witSvidTtlSeconds: number;
  /** `iss` of JWT-SVIDs; `undefined` leaves it out. */
  readonly jwtIssuer: string | undefined;
}

export interface Profile extends ProfileSettings {
  /** Ends every decision id, so that each credential names the settings it was made under. */
  readonly hash: string;
}

export const defaultProfileSettings: ProfileSettings = {
  x509SvidTtlSeconds: 3600,
  agentSvidTtlSeconds: 3600,
  jwtSvidTtlSeconds: 300,
  witSvidTtlSeconds: 3600,
  jwtIssuer: undefined,
};

export function composeProfile(settings: ProfileSettings): Profile {
  const { x509SvidTtlSeconds, agentSvidTtlSeconds, jwtSvidTtlSeconds, witSvidTtlSeconds, jwtIssuer } = settings;
  const text = JSON.stringify([x509SvidTtlSeconds, agentSvidTtlSeconds, jwtSvidTtlSeconds, jwtIssuer ?? null, witSvidTtlSeconds]);
  const hash = createHash('sha256').update(text).digest('hex').slice(0, 8);
  return Object.freeze({ x509SvidTtlSeconds, agentSvidTtlSeconds, jwtSvidTtlSeconds, witSvidTtlSeconds, jwtIssuer, hash });
}
