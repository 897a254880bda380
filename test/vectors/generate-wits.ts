/**
 * Writes `wits.json`: WIT-SVIDs with a proof of possession for one target at one instant, each pair with the verdict it
 * must get against the bundles that the file names. Signatures are random, so the tokens change with each run.
 */
import { constants, createHash, createHmac, sign } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { writeFileSync } from 'node:fs';

import type { AuthorityName } from './generate-authorities.ts';
import { privateKeyOf, publicKeyOf, readAuthorities } from './generate-authorities.ts';
import { formatCases } from './generate-ids.ts';

export interface WitCase {
  readonly name: string;
  readonly token: string;
  readonly proof: string;
  /** The transaction token beside them. */
  readonly transactionToken?: string;
  /** `accept`, or kind and reason of the refusal. */
  readonly verdict: string;
}

/** Seconds since the epoch at which all pairs are looked at, and the target they are for. */
export const witVectorsSecond = 1_800_000_000;
export const witVectorsAudience = 'https://api.example.org/orders';

/** Key id and key of each WIT authority in the two bundles; `jwt` is a JWT authority of the first. */
export const witVectorsBundles: Readonly<Record<string, Readonly<Record<string, AuthorityName>>>> = {
  'example.org': { k256: 'p256', k384: 'p384', k521: 'p521', rsa: 'rsa2048', shared: 'p256-other' },
  'other.org': { foreign: 'p256-foreign', shared: 'p256-foreign' },
};
export const witVectorsJwtAuthority: { readonly keyId: string; readonly key: AuthorityName } = { keyId: 'jwt', key: 'rsa4096' };

const now = witVectorsSecond;
const b64 = (value: string | Uint8Array): string => Buffer.from(value).toString('base64url');
const hashOf = (text: string): string => createHash('sha256').update(text).digest('base64url');
const authorities = readAuthorities();

/** The workload's own key, unless a row says otherwise. */
const holder: AuthorityName = 'p256-other';

type Json = Readonly<Record<string, unknown>>;

function jwkOf(name: AuthorityName, change: Json = {}): Json {
  return { ...publicKeyOf(authorities[name]).export({ format: 'jwk' }), alg: 'ES256', ...change };
}

const goodHeader: Json = { alg: 'ES256', kid: 'k256', typ: 'wit+jwt' };
const goodClaims: Json = {
  sub: 'spiffe://example.org/web',
  exp: now + 3600,
  iat: now,
  nbf: now - 10,
  jti: 'wit-1',
  cnf: { jwk: jwkOf(holder) },
};
const goodProofHeader: Json = { alg: 'ES256', typ: 'wpt+jwt' };
const goodProofClaims: Json = { aud: witVectorsAudience, exp: now + 30, jti: 'proof-1' };

interface Making {
  readonly header?: Json;
  readonly claims?: Json;
  readonly key?: AuthorityName;
  readonly alg?: string;
}

function make(base: Making, { header, claims, key, alg }: Making): string {
  const input = `${b64(JSON.stringify({ ...base.header, ...header }))}.${b64(JSON.stringify({ ...base.claims, ...claims }))}`;
  return `${input}.${b64(signatureOf(input, alg ?? 'ES256', privateKeyOf(authorities[key ?? base.key ?? 'p256'])))}`;
}

const wit = (making: Making = {}): string => make({ header: goodHeader, claims: goodClaims, key: 'p256' }, making);
const proofFor = (token: string, making: Making = {}): string =>
  make({ header: goodProofHeader, claims: { ...goodProofClaims, wth: hashOf(token) }, key: holder }, making);

function signatureOf(input: string, alg: string, key: KeyObject): Uint8Array {
  const hash = `sha${alg.slice(2)}`;
  if (alg.startsWith('ES')) return sign(hash, Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' });
  if (alg.startsWith('RS')) return sign(hash, Buffer.from(input), key);
  if (alg === 'EdDSA') return sign(undefined, Buffer.from(input), key);
  return sign(hash, Buffer.from(input), { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST });
}

type Add = (name: string, verdict: string, token: string, proof?: string, transactionToken?: string) => void;

export function witCases(): readonly WitCase[] {
  const cases: WitCase[] = [];
  const add: Add = (name, verdict, token, proof = proofFor(token), transactionToken?) => {
    cases.push({ name, token, proof, ...(transactionToken === undefined ? {} : { transactionToken }), verdict });
  };
  accepted(add);
  tokens(add);
  claims(add);
  confirmations(add);
  trust(add);
  proofs(add);
  return cases;
}

function accepted(add: Add): void {
  add('WIT-40 a token and its proof', 'accept', wit());
  const fits: readonly (readonly [alg: string, kid: string, key: AuthorityName])[] = [
    ['ES256', 'k256', 'p256'],
    ['ES384', 'k384', 'p384'],
    ['ES512', 'k521', 'p521'],
    ['RS256', 'rsa', 'rsa2048'],
    ['RS384', 'rsa', 'rsa2048'],
    ['RS512', 'rsa', 'rsa2048'],
    ['PS256', 'rsa', 'rsa2048'],
    ['PS384', 'rsa', 'rsa2048'],
    ['PS512', 'rsa', 'rsa2048'],
  ];
  for (const [alg, kid, key] of fits) add(`WIT-06 token signed with ${alg}`, 'accept', wit({ header: { alg, kid }, alg, key }));
  for (const [alg, , key] of fits) {
    const token = wit({ claims: { cnf: { jwk: jwkOf(key, { alg }) } } });
    add(`WIT-12 proof made with ${alg}`, 'accept', token, proofFor(token, { header: { alg }, alg, key }));
  }
  add('WIT-08 unknown headers', 'accept', wit({ header: { cty: 'JWT', x: 1, jku: 'https://evil.example/keys', jwk: jwkOf('p384') } }));
  add('WIT-22 unknown claims', 'accept', wit({ claims: { region: 'eu', groups: ['a'] } }));
  add('WIT-13 WIT-14 no jti', 'accept', wit({ claims: { jti: undefined } }));
  add('WIT-17 no nbf', 'accept', wit({ claims: { nbf: undefined } }));
  add('WIT-17 nbf within the leeway', 'accept', wit({ claims: { nbf: now + 60 } }));
  add('WIT-19 iat in the future', 'accept', wit({ claims: { iat: now + 3000 } }));
  add('WIT-19 no iat', 'accept', wit({ claims: { iat: undefined } }));
  add('WIT-20 with iss', 'accept', wit({ claims: { iss: 'spiffe://example.org' } }));
  add('WIT-15 expired within the leeway', 'accept', wit({ claims: { exp: now - 59 } }));
  const foreign = wit({ header: { kid: 'foreign' }, claims: { sub: 'spiffe://other.org/web' }, key: 'p256-foreign' });
  add('T-11 of the other trust domain', 'accept', foreign);
  const token = wit();
  add('WIT-40 aud as a list of one', 'accept', token, proofFor(token, { claims: { aud: [witVectorsAudience] } }));
  add('WIT-40 empty oth', 'accept', token, proofFor(token, { claims: { oth: {} } }));
  add('WIT-38 with a transaction token', 'accept', token, proofFor(token, { claims: { tth: hashOf('txn') } }), 'txn');
}

function tokens(add: Add): void {
  const good = wit();
  const [h = '', p = '', s = ''] = good.split('.');
  const proof = proofFor(good);
  for (const [name, token, reason] of [
    ['nothing', '', 'form'],
    ['two parts', `${h}.${p}`, 'form'],
    ['four parts', `${good}.`, 'form'],
    ['five parts', `${h}.${s}.${s}.${s}.${s}`, 'form'],
    ['JSON serialization', JSON.stringify({ payload: p, protected: h, signature: s }), 'form'],
    ['only dots', '..', 'encoding'],
    ['empty signature', `${h}.${p}.`, 'encoding'],
    ['padding', `${good}==`, 'encoding'],
    ['a space before', ` ${good}`, 'encoding'],
    ['the word WIT before', `WIT ${good}`, 'encoding'],
    ['a payload that is no object', `${h}.${b64('[]')}.${s}`, 'encoding'],
    ['a claim twice', `${h}.${b64('{"sub":"a","sub":"b"}')}.${s}`, 'encoding'],
    ['one byte too long', `${h}.${p}.`.padEnd(32_769, 'A'), 'too-large'],
  ] as const) {
    add(`WIT-01 ${name}`, `invalid jws.${reason}`, token, proof);
  }
  for (const kid of [undefined, '', null, 1, ['k256']]) add(`WIT-02 kid ${String(JSON.stringify(kid))}`, 'invalid wit-svid.kid', wit({ header: { kid } }));
  for (const kid of ['K256', 'k256 ', 'k25', 'foreign', '__proto__']) {
    add(`WIT-03 kid ${JSON.stringify(kid)}`, 'unauthenticated wit-svid.key-unknown', wit({ header: { kid } }));
  }
  for (const typ of [undefined, 'JWT', 'jwt', 'JOSE', 'WIT+JWT', 'wpt+jwt', 'application/wit+jwt', 'wit+jwt ', '', null, ['wit+jwt']]) {
    add(`WIT-05 T-12 typ ${String(JSON.stringify(typ))}`, 'invalid wit-svid.typ', wit({ header: { typ } }));
  }
  for (const alg of [undefined, 'none', 'HS256', 'EdDSA', 'Ed25519', 'es256', 'ES256K', 'constructor', null, ['ES256']]) {
    add(`WIT-06 T-14 alg ${String(JSON.stringify(alg))}`, 'invalid wit-svid.alg', wit({ header: { alg } }));
  }
  const hmac = `${b64('{"alg":"HS256","kid":"k256","typ":"wit+jwt"}')}.${p}`;
  const secret = authorities.p256.publicKey;
  add('WIT-06 HMAC with the public key', 'invalid wit-svid.alg', `${hmac}.${b64(createHmac('sha256', Buffer.from(secret, 'base64')).update(hmac).digest())}`);
  for (const crit of [['exp'], [], ['b64'], 'exp']) add(`WIT-08 crit ${JSON.stringify(crit)}`, 'invalid wit-svid.crit', wit({ header: { crit } }));
  add('WIT-06 another algorithm of the same key', 'unauthenticated wit-svid.signature', wit({ header: { alg: 'ES384' } }));
  add('WIT-06 signed by another key', 'unauthenticated wit-svid.signature', wit({ key: 'p256-foreign' }));
  add('WIT-06 signature changed', 'unauthenticated wit-svid.signature', `${h}.${p}.${b64(Buffer.alloc(64, 1))}`, proof);
  add('WIT-06 signature of another length', 'unauthenticated wit-svid.signature', `${h}.${p}.${b64(Buffer.alloc(63, 1))}`, proof);
  add('WIT-09 payload changed', 'unauthenticated wit-svid.signature', `${h}.${b64(JSON.stringify({ ...goodClaims, sub: 'spiffe://example.org/db' }))}.${s}`);
}

function claims(add: Add): void {
  const bad = (rule: string, claim: string, values: readonly unknown[]): void => {
    for (const value of values) {
      add(`${rule} ${claim} ${String(JSON.stringify(value))}`, `invalid wit-svid.${claim}`, wit({ claims: { [claim]: value } }));
    }
  };
  bad('WIT-09', 'sub', [undefined, '', null, 1, 'web', 'https://example.org/web', 'spiffe://example.org/', 'SPIFFE://example.org/web', ['spiffe://example.org/web']]);
  bad('WIT-21', 'aud', ['https://api.example.org', ['a'], [], '', null]);
  bad('WIT-15', 'exp', [undefined, null, '1800003600', now + 0.5, -1, 1e300, true]);
  bad('WIT-17', 'nbf', [null, String(now), now + 0.5, -1]);
  bad('WIT-19', 'iat', [null, String(now), now + 0.5, -1]);
  bad('WIT-13', 'jti', [null, 1, ['a']]);
  add('WIT-15 expired', 'unauthenticated wit-svid.expired', wit({ claims: { exp: now - 60 } }));
  add('WIT-15 expired for long', 'unauthenticated wit-svid.expired', wit({ claims: { exp: 1 } }));
  add('WIT-17 nbf in the future', 'unauthenticated wit-svid.not-yet', wit({ claims: { nbf: now + 61 } }));
}

function confirmations(add: Add): void {
  const bad = (name: string, cnf: unknown): void => add(name, 'invalid wit-svid.cnf', wit({ claims: { cnf } }));
  for (const cnf of [undefined, null, {}, [], 'key', { kid: 'k' }, { jwk: null }, { jwk: [] }, { jwk: '{}' }]) {
    bad(`WIT-10 cnf ${String(JSON.stringify(cnf))}`, cnf);
  }
  bad('WIT-10 more than one key', { jwk: jwkOf(holder), jku: 'https://evil.example/keys' });
  bad('WIT-10 an encrypted key beside it', { jwk: jwkOf(holder), jwe: 'a.b.c.d.e' });
  bad('WIT-11 T-16 a private key', { jwk: { ...privateKeyOf(authorities[holder]).export({ format: 'jwk' }), alg: 'ES256' } });
  bad('WIT-11 T-16 a private RSA key', { jwk: { ...privateKeyOf(authorities.rsa2048).export({ format: 'jwk' }), alg: 'RS256' } });
  bad('WIT-11 a symmetric key', { jwk: { kty: 'oct', k: 'AAAA', alg: 'HS256' } });
  bad('WIT-11 k beside a public key', { jwk: jwkOf(holder, { k: 'AAAA' }) });
  bad('WIT-12 no alg', { jwk: jwkOf(holder, { alg: undefined }) });
  bad('WIT-12 alg none', { jwk: jwkOf(holder, { alg: 'none' }) });
  bad('WIT-12 T-14 EdDSA', { jwk: { ...publicKeyOf(authorities.ed25519).export({ format: 'jwk' }), alg: 'EdDSA' } });
  bad('WIT-12 T-16 alg of another curve', { jwk: jwkOf(holder, { alg: 'ES384' }) });
  bad('WIT-12 T-16 alg of another type', { jwk: jwkOf(holder, { alg: 'RS256' }) });
  bad('WIT-12 secp256k1', { jwk: { ...publicKeyOf(authorities.secp256k1).export({ format: 'jwk' }), alg: 'ES256' } });
  bad('WIT-12 T-10 RSA of 1024 bits', { jwk: { ...publicKeyOf(authorities.rsa1024).export({ format: 'jwk' }), alg: 'RS256' } });
  bad('WIT-11 a coordinate that is missing', { jwk: jwkOf(holder, { y: undefined }) });
  bad('WIT-11 a point off the curve', { jwk: jwkOf(holder, { y: jwkOf('p256')['y'] }) });
}

function trust(add: Add): void {
  add('T-11 an unknown trust domain', 'unauthenticated wit-svid.untrusted', wit({ claims: { sub: 'spiffe://unknown.org/web' } }));
  add('T-11 the other trust domain speaks for this one', 'unauthenticated wit-svid.key-unknown', wit({ header: { kid: 'foreign' }, key: 'p256-foreign' }));
  add('T-11 a key ID that both have, of the other key', 'unauthenticated wit-svid.signature', wit({ header: { kid: 'shared' }, key: 'p256-foreign' }));
  const { keyId, key } = witVectorsJwtAuthority;
  add('WIT-33 T-12 signed by a JWT authority', 'unauthenticated wit-svid.key-unknown', wit({ header: { kid: keyId, alg: 'RS256' }, alg: 'RS256', key }));
}

function proofs(add: Add): void {
  const token = wit();
  const good = proofFor(token);
  const [h = '', p = ''] = good.split('.');
  for (const [name, proof] of [
    ['nothing', ''],
    ['two parts', `${h}.${p}`],
    ['padding', `${good}=`],
    ['the scheme before', `WPT ${good}`],
    ['JSON', '{}'],
    ['too long', `${h}.${p}.`.padEnd(32_769, 'A')],
  ] as const) {
    add(`WIT-24 T-15 proof: ${name}`, 'invalid wit-proof.form', token, proof);
  }
  add('WIT-24 T-15 the token as its own proof', 'invalid wit-proof.typ', token, token);
  for (const typ of [undefined, 'JWT', 'wit+jwt', 'dpop+jwt', 'WPT+JWT', null]) {
    add(`WIT-38 typ ${String(JSON.stringify(typ))}`, 'invalid wit-proof.typ', token, proofFor(token, { header: { typ } }));
  }
  for (const alg of [undefined, 'none', 'HS256', 'ES384', 'RS256', null]) {
    add(`WIT-38 alg ${String(JSON.stringify(alg))}`, 'invalid wit-proof.alg', token, proofFor(token, { header: { alg } }));
  }
  add('WIT-40 crit', 'invalid wit-proof.crit', token, proofFor(token, { header: { crit: ['exp'] } }));
  const signature = 'unauthenticated wit-proof.signature';
  add('WIT-24 made with another key', signature, token, proofFor(token, { key: 'p256' }));
  add('WIT-24 made with another key, which it brings along', signature, token, proofFor(token, { header: { jwk: jwkOf('p256') }, key: 'p256' }));
  add('WIT-24 signature changed', signature, token, `${h}.${p}.${b64(Buffer.alloc(64, 1))}`);
  add('WIT-24 signature cut', signature, token, `${h}.${p}.${b64(Buffer.alloc(63, 1))}`);
  const bad = (rule: string, claim: string, values: readonly unknown[]): void => {
    for (const value of values) {
      add(`${rule} ${claim} ${String(JSON.stringify(value))}`, 'invalid wit-proof.claims', token, proofFor(token, { claims: { [claim]: value } }));
    }
  };
  bad('WIT-38', 'aud', [undefined, '', null, 1, [], [witVectorsAudience, 'https://evil.example'], [1]]);
  bad('WIT-27', 'exp', [undefined, null, '1', now + 0.5, -1]);
  bad('WIT-38', 'jti', [undefined, '', null, 1, 'x'.repeat(257)]);
  bad('WIT-40', 'nbf', [null, 'soon']);
  for (const aud of ['https://api.example.org/', 'https://api.example.org/Orders', 'https://evil.example/orders', 'http://api.example.org/orders', `${witVectorsAudience}?a=1`]) {
    add(`WIT-40 WIT-28 aud ${aud}`, 'unauthenticated wit-proof.audience', token, proofFor(token, { claims: { aud } }));
  }
  add('WIT-27 expired', 'unauthenticated wit-proof.expired', token, proofFor(token, { claims: { exp: now - 60 } }));
  add('WIT-40 not yet', 'unauthenticated wit-proof.not-yet', token, proofFor(token, { claims: { nbf: now + 61 } }));
  add('WIT-27 good for too long', 'unauthenticated wit-proof.life', token, proofFor(token, { claims: { exp: now + 361 } }));
  const other = wit({ claims: { jti: 'wit-2' } });
  add('WIT-38 wth of another token with the same key', 'unauthenticated wit-proof.token', token, proofFor(other));
  for (const [name, wth] of Object.entries({ missing: undefined, empty: '', null: null, 'in upper case': hashOf(token).toUpperCase(), 'the token itself': token })) {
    add(`WIT-38 wth ${name}`, 'unauthenticated wit-proof.token', token, proofFor(token, { claims: { wth } }));
  }
  const context = 'unauthenticated wit-proof.context';
  add('WIT-38 a transaction token that is not covered', context, token, good, 'txn');
  add('WIT-38 another transaction token', context, token, proofFor(token, { claims: { tth: hashOf('txn') } }), 'other');
  add('WIT-38 a transaction token that did not come', context, token, proofFor(token, { claims: { tth: hashOf('txn') } }));
  for (const oth of [{ act: 'x' }, [], 'x', null]) add(`WIT-40 oth ${JSON.stringify(oth)}`, context, token, proofFor(token, { claims: { oth } }));
}

if (import.meta.main) writeFileSync(new URL('wits.json', import.meta.url), formatCases(witCases()));
