/**
 * WIT-SVIDs and their proofs: nobody is identified but by the few pairs that were signed, and those only as they are.
 */
import { readFileSync } from 'node:fs';

import type { Bundle } from '../../spiffe/bundle.ts';
import { composeBundle, emptyBundle, readJwtAuthority } from '../../spiffe/bundle.ts';
import type { TrustDomain } from '../../spiffe/id.ts';
import { validateWitProof } from '../../spiffe/wit-proof.ts';
import { parseWitSvid, receiveWitSvid } from '../../spiffe/wit-svid.ts';
import { readAuthorities } from '../vectors/generate-authorities.ts';
import type { WitCase } from '../vectors/generate-wits.ts';
import { witVectorsAudience, witVectorsBundles, witVectorsSecond } from '../vectors/generate-wits.ts';
import { expected } from './expected.ts';

export const name = 'wit-svid';

const cases = JSON.parse(readFileSync(new URL('../vectors/wits.json', import.meta.url), 'utf8')) as readonly WitCase[];
const plain = cases.filter((row) => row.transactionToken === undefined && row.token.length + row.proof.length < 6000);
const genuine = new Set(plain.filter(({ verdict }) => verdict === 'accept').map(({ token, proof }) => `${token} ${proof}`));
const [goodToken = '', goodProof = ''] = [...genuine][0]?.split(' ') ?? [];
const authorities = readAuthorities();
const bundles = new Map<string, Bundle>(
  Object.entries(witVectorsBundles).map(([trustDomain, keys]) => [
    trustDomain,
    composeBundle({
      ...emptyBundle(trustDomain as TrustDomain),
      witAuthorities: Object.entries(keys).map(([keyId, key]) =>
        readJwtAuthority({ keyId, publicKey: Buffer.from(authorities[key].publicKey, 'base64'), expiresAt: undefined, tainted: false }),
      ),
    }),
  ]),
);

export function corpus(): Uint8Array[] {
  return plain.map(({ token, proof }) => Buffer.from(`${token} ${proof}`));
}

export function run(input: Uint8Array): void {
  const text = Buffer.from(input).toString('latin1');
  const [token = '', proof = ''] = text.split(' ');
  // The pair as it is, and each half beside a good other one, so that changes reach what comes later.
  for (const pair of [
    { token, proof },
    { token: goodToken, proof: token },
    { token, proof: goodProof },
    { token: goodToken, proof: wrapped(proof) },
  ]) {
    const trust = { bundleFor: (td: TrustDomain) => bundles.get(td), audience: [witVectorsAudience], at: witVectorsSecond * 1000 };
    const statement = expected(() => validateWitProof(pair, trust));
    if (statement === undefined) continue;
    if (!genuine.has(`${pair.token} ${pair.proof}`)) throw new Error('a pair that nobody signed was accepted');
    if (parseWitSvid(pair.token).spiffeId !== statement.spiffeId) throw new Error('readers disagree');
  }
  expected(() => receiveWitSvid(token, proof));
}

/** The input's claims behind a good header. */
function wrapped(text: string): string {
  const [, payload = ''] = text.split('.');
  return `${Buffer.from('{"alg":"ES256","typ":"wpt+jwt"}').toString('base64url')}.${payload}.${'A'.repeat(86)}`;
}
