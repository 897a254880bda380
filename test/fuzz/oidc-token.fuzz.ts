/**
 * Tokens and key sets of OIDC issuers: nothing is verified but what was signed, and a key set yields public keys or is
 * refused.
 */
import { generateKeyPairSync } from 'node:crypto';
import { parseKeySet } from '../../server/admission/issuer-keys.ts';
import { checkTimes, parseToken, verifyToken } from '../../server/admission/oidc-token.ts';
import { createOidcSigner, jobClaims } from '../help/oidc.ts';
import { expected } from './expected.ts';

export const name = 'oidc-token';

const at = Date.UTC(2026, 5, 1);
const signers = [createOidcSigner('rsa', 'RS256'), createOidcSigner('pss', 'PS256'), createOidcSigner('p256', 'ES256'), createOidcSigner('p384', 'ES384')];
const set = Buffer.from(JSON.stringify({ keys: signers.map(({ jwk }) => jwk) }));
const keys = parseKeySet(set);
const claims = jobClaims('https://ci.example', at);
const tokens = signers.flatMap((signer) => [
  signer.sign(claims),
  signer.sign({ ...claims, aud: ['a', 'b'], nested: { deep: [1, null, 'ü'] } }),
  signer.sign({ iss: 'https://ci.example', sub: 'x', aud: 'a', iat: at / 1000, exp: at / 1000 }, { kid: undefined }),
]);
const genuine = new Set(tokens.map(signedOf));
const secret = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey.export({ format: 'jwk' });

export function corpus(): Uint8Array[] {
  return [...tokens.map((token) => Buffer.from(token)), set, Buffer.from(JSON.stringify({ keys: [secret] }))];
}

export function run(input: Uint8Array): void {
  for (const text of [Buffer.from(input).toString('latin1'), Buffer.from(input).toString('utf8')]) {
    const token = expected(() => parseToken(text));
    const verified = token === undefined ? undefined : expected(() => verifyToken(token, keys));
    if (verified === undefined) continue;
    if (!genuine.has(signedOf(text))) throw new Error('a token that nobody signed was verified');
    if (!/^[0-9a-f]{64}$/.test(verified.fingerprint)) throw new Error('a fingerprint that no segment may be');
    expected(() => checkTimes(verified, at, 60_000));
  }
  for (const { key } of expected(() => parseKeySet(input)) ?? []) {
    if (key.type !== 'public') throw new Error('a key that is not public');
  }
}

/** Of ECDSA there are two signatures for one text, so the text is what counts. */
function signedOf(token: string): string {
  return token.slice(0, token.lastIndexOf('.'));
}
