/**
 * JWT-SVIDs: no text is accepted but the few that were signed, and those only as they are.
 */
import { readFileSync } from 'node:fs';

import type { Bundle } from '../../spiffe/bundle.ts';
import { composeBundle, emptyBundle, readJwtAuthority } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { parseJwtSvid, validateJwtSvid } from '../../spiffe/jwt-svid.ts';
import { readAuthorities } from '../vectors/generate-authorities.ts';
import type { JwtCase } from '../vectors/generate-jwts.ts';
import { jwtVectorsBundles, jwtVectorsSecond } from '../vectors/generate-jwts.ts';
import { expected } from './expected.ts';

export const name = 'jwt-svid';

const cases = JSON.parse(readFileSync(new URL('../vectors/jwts.json', import.meta.url), 'utf8')) as readonly JwtCase[];
const genuine = new Set(cases.filter(({ verdict }) => verdict === 'accept').map(({ token }) => token));
const authorities = readAuthorities();
const bundles = new Map<string, Bundle>(
  Object.entries(jwtVectorsBundles).map(([trustDomain, keys]) => [
    trustDomain,
    composeBundle({
      ...emptyBundle(trustDomain as TrustDomain),
      jwtAuthorities: Object.entries(keys).map(([keyId, key]) => {
        const publicKey = Buffer.from(authorities[key].publicKey, 'base64');
        return readJwtAuthority({ keyId, publicKey, expiresAt: undefined, tainted: false });
      }),
    }),
  ]),
);

export function corpus(): Uint8Array[] {
  return cases.filter(({ token }) => token.length < 4000).map(({ token }) => Buffer.from(token));
}

export function run(input: Uint8Array): void {
  // As bytes, as text, and as the parts of a token whose JSON was changed.
  for (const token of [Buffer.from(input).toString('latin1'), Buffer.from(input).toString('utf8'), wrapped(input)]) {
    const at = jwtVectorsSecond * 1000;
    const statement = expected(() => validateJwtSvid(token, { bundleFor: (td) => bundles.get(td), audience: 'aud-1', at }));
    if (statement !== undefined && !genuine.has(token)) throw new Error('a token that nobody signed was accepted');
    const svid = expected(() => parseJwtSvid(token));
    if (statement !== undefined && svid?.spiffeId !== statement.spiffeId) throw new Error('readers disagree');
  }
}

/** The input as the payload behind a good header, so that changes reach the claims. */
function wrapped(input: Uint8Array): string {
  const header = Buffer.from('{"alg":"ES256","kid":"k256","typ":"JWT"}').toString('base64url');
  const parts = Buffer.from(input).toString('latin1').split('.');
  const payload = parts.length === 3 ? Buffer.from(parts[1] ?? '', 'base64url') : Buffer.from(input);
  return `${header}.${payload.toString('base64url')}.${'A'.repeat(86)}`;
}
