/**
 * Writes `jwts.json`: tokens for the audience `aud-1` at one instant, each with the verdict it must get against the
 * bundles of `example.org` and `other.org` that the file holds. Signatures are random, so the tokens change with each run.
 */
import { constants, createHmac, sign } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { writeFileSync } from 'node:fs';

import type { AuthorityName } from './generate-authorities.ts';
import { privateKeyOf, readAuthorities } from './generate-authorities.ts';
import { formatCases } from './generate-ids.ts';

export interface JwtCase {
  readonly name: string;
  readonly token: string;
  /** `accept`, or kind and reason of the refusal. */
  readonly verdict: string;
}

/** Seconds since the epoch at which all tokens are looked at. */
export const jwtVectorsSecond = 1_800_000_000;
const now = jwtVectorsSecond;
const b64 = (value: string | Uint8Array): string => Buffer.from(value).toString('base64url');
const authorities = readAuthorities();

/** Key id and key of each JWT authority in the two bundles. */
export const jwtVectorsBundles: Readonly<Record<string, Readonly<Record<string, AuthorityName>>>> = {
  'example.org': { k256: 'p256', k384: 'p384', k521: 'p521', rsa: 'rsa2048', rsa4096: 'rsa4096', shared: 'p256-other' },
  'other.org': { foreign: 'p256-foreign', shared: 'p256-foreign' },
};

const goodHeader = { alg: 'ES256', kid: 'k256', typ: 'JWT' };
const goodClaims = { sub: 'spiffe://example.org/web', aud: ['aud-1'], exp: now + 300, iat: now };

interface Making {
  readonly header?: object;
  /** Text in place of the JSON of the header. */
  readonly rawHeader?: string;
  readonly claims?: object;
  readonly rawClaims?: string;
  readonly key?: AuthorityName;
  readonly alg?: string;
}

function make(making: Making = {}): string {
  const header = making.rawHeader ?? JSON.stringify({ ...goodHeader, ...making.header });
  const claims = making.rawClaims ?? JSON.stringify({ ...goodClaims, ...making.claims });
  const input = `${b64(header)}.${b64(claims)}`;
  return `${input}.${b64(signatureOf(input, making.alg ?? 'ES256', privateKeyOf(authorities[making.key ?? 'p256'])))}`;
}

function signatureOf(input: string, alg: string, key: KeyObject): Uint8Array {
  const hash = `sha${alg.slice(2)}`;
  if (alg.startsWith('ES')) return sign(hash, Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' });
  if (alg.startsWith('RS')) return sign(hash, Buffer.from(input), key);
  if (alg === 'EdDSA') return sign(undefined, Buffer.from(input), key);
  return sign(hash, Buffer.from(input), {
    key,
    padding: constants.RSA_PKCS1_PSS_PADDING,
    saltLength: constants.RSA_PSS_SALTLEN_DIGEST,
  });
}

export function jwtCases(): readonly JwtCase[] {
  const cases: JwtCase[] = [];
  const add = (name: string, token: string, verdict: string): number => cases.push({ name, token, verdict });
  const good = make();
  const [h = '', p = '', s = ''] = good.split('.');
  const resign = (input: string): string => `${input}.${b64(signatureOf(input, 'ES256', privateKeyOf(authorities.p256)))}`;

  accepted(add);
  forms(add, h, p, s);
  encodings(add, good, h, p, s, resign);
  headers(add);
  for (const [name, claim, verdict] of claimRows) add(name, make({ claims: claim }), verdict);
  for (const [name, raw, verdict] of rawClaimRows) add(name, make({ rawClaims: raw }), verdict);
  signatures(add, h, p, s);
  return cases;
}

type Add = (name: string, token: string, verdict: string) => void;

function accepted(add: Add): void {
  const fits: readonly (readonly [alg: string, kid: string, key: AuthorityName])[] = [
    ['ES256', 'k256', 'p256'],
    ['ES384', 'k384', 'p384'],
    ['ES512', 'k521', 'p521'],
    ['RS256', 'rsa', 'rsa2048'],
    ['RS384', 'rsa', 'rsa2048'],
    ['RS512', 'rsa4096', 'rsa4096'],
    ['PS256', 'rsa', 'rsa2048'],
    ['PS384', 'rsa4096', 'rsa4096'],
    ['PS512', 'rsa', 'rsa2048'],
  ];
  for (const [alg, kid, key] of fits) add(`JWT-03 ${alg}`, make({ header: { alg, kid }, alg, key }), 'accept');
  for (const [alg, kid, key] of fits) {
    for (const other of ['ES256', 'ES384', 'ES512', 'RS256', 'PS256'].filter((name) => name !== alg)) {
      // RSA keys do RS and PS alike; the signature is then of the wrong kind.
      add(
        `T-11 signed with ${alg} by ${kid}, said to be ${other}`,
        make({ header: { alg: other, kid }, alg, key }),
        'unauthenticated jwt-svid.signature',
      );
    }
  }
  add('JWT-06 without typ', make({ rawHeader: '{"alg":"ES256","kid":"k256"}' }), 'accept');
  add('JWT-06 typ JOSE', make({ header: { typ: 'JOSE' } }), 'accept');
  add(
    'JWT-16 of the other trust domain',
    make({ header: { kid: 'foreign' }, claims: { sub: 'spiffe://other.org/web' }, key: 'p256-foreign' }),
    'accept',
  );
  add('JWT-16 a key ID that both have, here', make({ header: { kid: 'shared' }, key: 'p256-other' }), 'accept');
  add(
    'JWT-16 a key ID that both have, there',
    make({ header: { kid: 'shared' }, claims: { sub: 'spiffe://other.org/web' }, key: 'p256-foreign' }),
    'accept',
  );
  add(
    'JWT-05 members in another order, with spaces',
    make({ rawHeader: ' { "typ" : "JWT" , "kid":"k256",\n"alg":"ES256"} ' }),
    'accept',
  );
}

function forms(add: Add, h: string, p: string, s: string): void {
  const form = 'invalid jwt-svid.form';
  const rows: readonly (readonly [name: string, token: string])[] = [
    ['nothing', ''],
    ['one part', h],
    ['two parts', `${h}.${p}`],
    ['four parts', `${h}.${p}.${s}.`],
    ['four parts with more', `${h}.${p}.${s}.${s}`],
    ['JWE of five parts', `${b64('{"alg":"RSA-OAEP","enc":"A256GCM"}')}.${s}.${s}.${s}.${s}`],
    ['JSON serialization', JSON.stringify({ payload: p, protected: h, signature: s })],
    ['general JSON serialization', JSON.stringify({ payload: p, signatures: [{ protected: h, signature: s }] })],
  ];
  for (const [name, token] of rows) add(`JWT-01 ${name}`, token, form);
  const encoding = 'invalid jwt-svid.encoding';
  add('JWT-01 only dots', '..', encoding);
  add('JWT-01 empty header', `.${p}.${s}`, encoding);
  add('JWT-01 empty payload', `${h}..${s}`, encoding);
  add('JWT-01 empty signature', `${h}.${p}.`, encoding);
  add('T-D01 with the word Bearer', `Bearer ${h}.${p}.${s}`, encoding);
  add('T-D01 one byte too long', `${h}.${p}.`.padEnd(32_769, 'A'), 'invalid jwt-svid.too-large');
  add('T-D01 a token in a token', make({ rawClaims: JSON.stringify(`${h}.${p}.${s}`) }), encoding);
}

function encodings(add: Add, good: string, h: string, p: string, s: string, resign: (input: string) => string): void {
  const bad = 'invalid jwt-svid.encoding';
  const rows: readonly (readonly [name: string, token: string])[] = [
    ['space before', ` ${good}`],
    ['space behind', `${good} `],
    ['line end behind', `${good}\n`],
    ['line end inside', `${h}\n.${p}.${s}`],
    ['padding of the header', resign(`${h}=.${p}`)],
    ['padding of the payload', resign(`${h}.${p}==`)],
    ['padding of the signature', `${good}==`],
    ['standard alphabet in the signature', `${h}.${p}.${'+/'.repeat(43)}`],
    ['a zero byte', `${h}.${p}\0.${s}`],
    ['a character that is skipped', `${h}.${p}!.${s}`],
    ['other than ASCII', `${h}.${p}é.${s}`],
    ['one character of four', resign(`${h}.${'A'.repeat(5)}`)],
    ['unused bits in the signature', `${h}.${p}.${setUnusedBits(s)}`],
    ['unused bits in the payload', resign(`${h}.${setUnusedBits(b64('{}'))}`)],
  ];
  for (const [name, token] of rows) add(`T-10 ${name}`, token, bad);
  const texts: readonly (readonly [name: string, json: string | Uint8Array])[] = [
    ['not JSON', 'hello'],
    ['an array', '[]'],
    ['null', 'null'],
    ['a number', '1'],
    ['a text', '"x"'],
    ['a comma too many', '{"alg":"ES256",}'],
    ['more behind', '{"alg":"ES256","kid":"k256"}{}'],
    ['a comment', '{"alg":"ES256"/**/}'],
    ['single quotes', "{'alg':'ES256'}"],
    ['a byte order mark', '\ufeff{"alg":"ES256","kid":"k256"}'],
    ['not UTF-8', Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d)],
    ['UTF-16', Buffer.from('{"alg":"ES256"}', 'utf16le')],
    ['half a character', '{"alg":"ES256","kid":"\\ud800"}'],
    ['unfinished', '{"alg":"ES256"'],
    ['alg twice', '{"alg":"ES256","alg":"ES256","kid":"k256"}'],
    ['alg twice, once escaped', '{"alg":"none","\\u0061lg":"ES256","kid":"k256"}'],
    ['kid twice', '{"alg":"ES256","kid":"x","kid":"k256"}'],
    ['deep', `{"alg":${'['.repeat(100)}${']'.repeat(100)}}`],
    ['NaN', '{"alg":NaN}'],
    ['infinite', '{"alg":1e999}'],
  ];
  for (const [name, json] of texts) add(`T-D01 header: ${name}`, resign(`${b64(json)}.${p}`), bad);
  for (const [name, json] of texts) add(`T-D01 payload: ${name}`, resign(`${h}.${b64(json)}`), bad);
}

/** The same bytes for a lenient reader, another text. */
function setUnusedBits(part: string): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  return part.slice(0, -1) + (alphabet[alphabet.indexOf(part.at(-1) ?? 'A') + 1] ?? '');
}

function headers(add: Add): void {
  const algs = [
    'none',
    'None',
    'NONE',
    'nOnE',
    '',
    'HS256',
    'HS384',
    'HS512',
    'EdDSA',
    'Ed25519',
    'ES256K',
    'es256',
    'ES256 ',
    'ES256\0',
    'RS1',
    'PS1',
    'RSA-OAEP',
    'dir',
    'A256GCMKW',
    'ML-DSA-44',
    'ES',
    null,
    256,
    true,
    ['ES256'],
    { alg: 'ES256' },
    'constructor',
    '__proto__',
    'toString',
  ];
  for (const alg of algs) add(`JWT-04 alg ${JSON.stringify(alg)}`, make({ header: { alg } }), 'invalid jwt-svid.alg');
  add('JWT-04 no alg', make({ rawHeader: '{"kid":"k256","typ":"JWT"}' }), 'invalid jwt-svid.alg');
  add(
    'JWT-04 EdDSA, signed',
    make({ header: { alg: 'EdDSA', kid: 'k256' }, alg: 'EdDSA', key: 'ed25519' }),
    'invalid jwt-svid.alg',
  );
  add(
    'JWT-04 none before all else is wrong',
    make({ rawHeader: '{"alg":"none","crit":["x"],"jwk":{}}', rawClaims: '{}' }),
    'invalid jwt-svid.alg',
  );
  const unsigned = `${b64('{"alg":"none","kid":"k256"}')}.${b64(JSON.stringify(goodClaims))}`;
  add('JWT-04 none, without signature', `${unsigned}.`, 'invalid jwt-svid.alg');
  for (const form of ['der', 'pem'] as const) {
    const input = `${b64('{"alg":"HS256","kid":"k256"}')}.${b64(JSON.stringify(goodClaims))}`;
    const secret = publicKeyBytes('p256', form);
    add(
      `JWT-04 HMAC with the public key, ${form}`,
      `${input}.${b64(createHmac('sha256', secret).update(input).digest())}`,
      'invalid jwt-svid.alg',
    );
  }
  const jwk = { kty: 'EC', crv: 'P-256', x: 'AA', y: 'AA' };
  const extra: readonly object[] = [
    { jwk },
    { jku: 'https://evil.example/keys' },
    { x5u: 'https://evil.example/chain' },
    { x5c: ['AA=='] },
    { x5t: 'AA' },
    { 'x5t#S256': 'AA' },
    { crit: ['exp'] },
    { crit: [] },
    { crit: ['b64'], b64: false },
    { b64: false },
    { b64: true },
    { cty: 'JWT' },
    { zip: 'DEF' },
    { enc: 'A256GCM' },
    { epk: jwk },
    { iss: 'x' },
    { Alg: 'ES256' },
    { KID: 'k256' },
    { '': 1 },
    { constructor: 1 },
  ];
  for (const header of extra) add(`JWT-02 header ${JSON.stringify(header)}`, make({ header }), 'invalid jwt-svid.header');
  add(
    'JWT-02 header __proto__',
    make({ rawHeader: '{"alg":"ES256","kid":"k256","__proto__":{"typ":"JWT"}}' }),
    'invalid jwt-svid.header',
  );
  for (const typ of [
    'jwt',
    'Jwt',
    'jose',
    '',
    'wit+jwt',
    'at+jwt',
    'application/jwt',
    'JWT ',
    'dpop+jwt',
    'wpt+jwt',
    'JWE',
    null,
    1,
    ['JWT'],
  ]) {
    add(`JWT-06 T-12 typ ${JSON.stringify(typ)}`, make({ header: { typ } }), 'invalid jwt-svid.typ');
  }
  for (const kid of ['', null, 1, ['k256'], { a: 1 }, false])
    add(`JWT-05 kid ${JSON.stringify(kid)}`, make({ header: { kid } }), 'invalid jwt-svid.kid');
  add('JWT-05 no kid', make({ rawHeader: '{"alg":"ES256","typ":"JWT"}' }), 'invalid jwt-svid.kid');
  const kids = [
    'K256',
    'k256 ',
    ' k256',
    'k256\0',
    'k25',
    'k2567',
    '../k256',
    '/dev/null',
    '../../etc/passwd',
    "' OR 1=1 --",
    'k256%00',
    '__proto__',
    'constructor',
    '0',
    '*',
    'https://evil.example/k',
    'foreign',
    'x'.repeat(4000),
  ];
  for (const kid of kids)
    add(`T-D01 kid ${JSON.stringify(kid.slice(0, 30))}`, make({ header: { kid } }), 'unauthenticated jwt-svid.key-unknown');
}

function publicKeyBytes(name: AuthorityName, form: 'der' | 'pem'): string | Uint8Array {
  const der = Buffer.from(authorities[name].publicKey, 'base64');
  const lines = der.toString('base64').replace(/(.{64})/g, '$1\n');
  return form === 'der' ? der : `-----BEGIN PUBLIC KEY-----\n${lines}\n-----END PUBLIC KEY-----\n`;
}

const sub = 'invalid jwt-svid.sub';
const aud = 'invalid jwt-svid.aud';
const exp = 'invalid jwt-svid.exp';
const nbf = 'invalid jwt-svid.nbf';
const iat = 'invalid jwt-svid.iat';
const expired = 'unauthenticated jwt-svid.expired';
const notYet = 'unauthenticated jwt-svid.not-yet';
const otherAudience = 'unauthenticated jwt-svid.audience';

const claimRows: readonly (readonly [name: string, claims: object, verdict: string])[] = [
  ['JWT-07 no sub', { sub: undefined }, sub],
  ['JWT-07 empty sub', { sub: '' }, sub],
  ['JWT-07 sub null', { sub: null }, sub],
  ['JWT-07 sub a number', { sub: 1 }, sub],
  ['JWT-07 sub several', { sub: ['spiffe://example.org/web'] }, sub],
  ['JWT-07 sub not an ID', { sub: 'web' }, sub],
  ['JWT-07 sub of upper case', { sub: 'spiffe://EXAMPLE.org/web' }, sub],
  ['JWT-07 sub that climbs', { sub: 'spiffe://example.org/a/../web' }, sub],
  ['JWT-07 sub with a space behind', { sub: 'spiffe://example.org/web ' }, sub],
  ['JWT-07 sub of another scheme', { sub: 'https://example.org/web' }, sub],
  ['JWT-07 sub with a query', { sub: 'spiffe://example.org/web?x' }, sub],
  ['JWT-16 sub of a trust domain nobody trusts', { sub: 'spiffe://third.org/web' }, 'unauthenticated jwt-svid.untrusted'],
  [
    'JWT-16 sub of a trust domain that begins alike',
    { sub: 'spiffe://example.org.evil/web' },
    'unauthenticated jwt-svid.untrusted',
  ],
  ['JWT-16 sub named like an object member', { sub: 'spiffe://__proto__/web' }, 'unauthenticated jwt-svid.untrusted'],
  ['T-11 sub of the other trust domain, our key', { sub: 'spiffe://other.org/web' }, 'unauthenticated jwt-svid.key-unknown'],
  ['JWT-09 no aud', { aud: undefined }, aud],
  ['T-13 aud empty text', { aud: '' }, aud],
  ['T-13 aud empty list', { aud: [] }, aud],
  ['T-13 aud list of an empty text', { aud: [''] }, aud],
  ['JWT-09 aud null', { aud: null }, aud],
  ['JWT-09 aud a number', { aud: 1 }, aud],
  ['JWT-09 aud an object', { aud: { 'aud-1': true } }, aud],
  ['JWT-09 aud list with a number', { aud: ['aud-1', 1] }, aud],
  ['JWT-09 aud list in a list', { aud: [['aud-1']] }, aud],
  ['JWT-09 aud list with null', { aud: ['aud-1', null] }, aud],
  ['T-13 aud other', { aud: 'aud-2' }, otherAudience],
  ['T-13 aud others', { aud: ['aud-2', 'aud-3'] }, otherAudience],
  ['T-13 aud of other case', { aud: ['AUD-1'] }, otherAudience],
  ['T-13 aud that begins alike', { aud: ['aud-10', 'aud'] }, otherAudience],
  ['T-13 aud with a space', { aud: ['aud-1 ', ' aud-1'] }, otherAudience],
  ['T-13 aud joined', { aud: 'aud-1,aud-2' }, otherAudience],
  ['T-13 aud any', { aud: '*' }, otherAudience],
  ['JWT-22 aud one text', { aud: 'aud-1' }, 'accept'],
  ['JWT-22 aud several', { aud: ['aud-0', '', 'aud-1', 'aud-1'] }, 'accept'],
  ['JWT-11 no exp', { exp: undefined }, exp],
  ['JWT-11 exp null', { exp: null }, exp],
  ['JWT-11 exp a text', { exp: String(now + 300) }, exp],
  ['JWT-11 exp true', { exp: true }, exp],
  ['JWT-11 exp a list', { exp: [now + 300] }, exp],
  ['T-D01 exp a fraction', { exp: now + 300.5 }, exp],
  ['T-D01 exp negative', { exp: -1 }, exp],
  ['T-D01 exp beyond year 9999', { exp: 253_402_300_800 }, exp],
  ['T-D01 exp in milliseconds', { exp: (now + 300) * 1000 }, exp],
  ['JWT-12 exp 0', { exp: 0 }, expired],
  ['JWT-12 exp long past', { exp: now - 3600, iat: now - 7200 }, expired],
  ['JWT-12 exp past by the leeway', { exp: now - 60, iat: now - 600 }, expired],
  ['JWT-12 exp past by less than the leeway', { exp: now - 59, iat: now - 600 }, 'accept'],
  ['JWT-12 exp now', { exp: now }, 'accept'],
  ['JWT-12 exp in year 9999', { exp: 253_402_300_799 }, 'accept'],
  ['JWT-15 nbf past', { nbf: now - 10 }, 'accept'],
  ['JWT-15 nbf ahead by the leeway', { nbf: now + 60 }, 'accept'],
  ['JWT-15 nbf ahead by more', { nbf: now + 61 }, notYet],
  ['JWT-15 nbf a text', { nbf: String(now) }, nbf],
  ['JWT-15 nbf null', { nbf: null }, nbf],
  ['JWT-15 nbf negative', { nbf: -1 }, nbf],
  ['JWT-15 iat ahead by the leeway', { iat: now + 60 }, 'accept'],
  ['JWT-15 iat ahead by more', { iat: now + 61 }, notYet],
  ['JWT-15 iat a text', { iat: String(now) }, iat],
  ['JWT-15 iat null', { iat: null }, iat],
  ['JWT-15 no iat', { iat: undefined }, 'accept'],
  ['JWT-14 other claims', { iss: 'https://example.org', jti: 'x', role: { admin: true }, n: null }, 'accept'],
  ['JWT-07 sub without a path', { sub: 'spiffe://example.org' }, 'accept'],
];

const rawGood = `"sub":"spiffe://example.org/web","aud":"aud-1"`;
const rawClaimRows: readonly (readonly [name: string, json: string, verdict: string])[] = [
  ['T-D01 exp twice', `{${rawGood},"exp":1,"exp":${now + 300}}`, 'invalid jwt-svid.encoding'],
  ['T-D01 sub twice', `{${rawGood},"sub":"spiffe://example.org/admin","exp":${now + 300}}`, 'invalid jwt-svid.encoding'],
  ['T-D01 aud twice', `{${rawGood},"aud":"aud-2","exp":${now + 300}}`, 'invalid jwt-svid.encoding'],
  ['T-D01 a member twice deep inside', `{${rawGood},"exp":${now + 300},"x":[{"a":1,"a":2}]}`, 'invalid jwt-svid.encoding'],
  ['T-D01 exp of 400 digits', `{${rawGood},"exp":${'9'.repeat(400)}}`, 'invalid jwt-svid.encoding'],
  ['T-D01 exp beyond 2^53', `{${rawGood},"exp":9007199254740993}`, exp],
  ['T-D01 exp with a leading zero', `{${rawGood},"exp":0${now + 300}}`, 'invalid jwt-svid.encoding'],
  ['T-D01 exp with a plus', `{${rawGood},"exp":+${now + 300}}`, 'invalid jwt-svid.encoding'],
  ['T-D01 exp in hex', `{${rawGood},"exp":0x7fffffff}`, 'invalid jwt-svid.encoding'],
  ['T-D01 exp in another case', `{${rawGood},"Exp":${now + 300}}`, exp],
  ['T-D01 empty payload', '{}', sub],
  ['T-D01 claims through a prototype', `{"__proto__":{${rawGood},"exp":${now + 300}}}`, sub],
  ['T-D01 deep claims', `{${rawGood},"exp":${now + 300},"x":${'['.repeat(50)}${']'.repeat(50)}}`, 'invalid jwt-svid.encoding'],
  ['JWT-22 exp as an exact float', `{${rawGood},"exp":${now + 300}.0}`, 'accept'],
];

function signatures(add: Add, h: string, p: string, s: string): void {
  const wrong = 'unauthenticated jwt-svid.signature';
  const raw = Buffer.from(s, 'base64url');
  const flipped = Buffer.from(raw);
  flipped[10] = (flipped[10] ?? 0) ^ 1;
  const [r, tail] = [raw.subarray(0, 32), raw.subarray(32)];
  const rows: readonly (readonly [name: string, signature: Uint8Array])[] = [
    ['one bit flipped', flipped],
    ['all zero', Buffer.alloc(64)],
    ['all ones', Buffer.alloc(64, 0xff)],
    ['r of zero', Buffer.concat([Buffer.alloc(32), tail])],
    ['s of zero', Buffer.concat([r, Buffer.alloc(32)])],
    ['halves swapped', Buffer.concat([tail, r])],
    ['cut', raw.subarray(0, 63)],
    ['longer', Buffer.concat([raw, Buffer.of(0)])],
    ['one byte', Buffer.of(0)],
    ['DER', derSignature(h, p)],
    ['twice', Buffer.concat([raw, raw])],
    ['padded to P-384', Buffer.concat([Buffer.alloc(16), r, Buffer.alloc(16), tail])],
  ];
  for (const [name, signature] of rows) add(`T-10 signature ${name}`, `${h}.${p}.${b64(signature)}`, wrong);
  add('T-D01 another payload', `${h}.${b64(JSON.stringify({ ...goodClaims, sub: 'spiffe://example.org/admin' }))}.${s}`, wrong);
  add('T-D01 another header', `${b64('{"alg":"ES256","kid":"k256"}')}.${p}.${s}`, wrong);
  add('T-D01 another key of the bundle', make({ key: 'p256-other' }), wrong);
  add("T-D01 other domain's key with same kid", make({ header: { kid: 'shared' }, key: 'p256-foreign' }), wrong);
  add(
    'T-D01 our key with same kid in the other domain',
    make({ header: { kid: 'shared' }, claims: { sub: 'spiffe://other.org/web' }, key: 'p256-other' }),
    wrong,
  );
  const pssInput = `${b64('{"alg":"PS256","kid":"rsa"}')}.${p}`;
  for (const saltLength of [0, 20, 64]) {
    const key = privateKeyOf(authorities.rsa2048);
    const signature = sign('sha256', Buffer.from(pssInput), { key, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength });
    add(`T-10 PS256 with a salt of ${saltLength}`, `${pssInput}.${b64(signature)}`, wrong);
  }
  const rsInput = `${b64('{"alg":"RS256","kid":"rsa"}')}.${p}`;
  for (const length of [0, 1, 255, 257, 512]) {
    const signature = Buffer.alloc(length, 1);
    add(
      `T-10 RS256 signature of ${length} bytes`,
      `${rsInput}.${b64(signature)}`,
      length === 0 ? 'invalid jwt-svid.encoding' : wrong,
    );
  }
}

function derSignature(h: string, p: string): Uint8Array {
  return sign('sha256', Buffer.from(`${h}.${p}`), privateKeyOf(authorities.p256));
}

if (import.meta.main) writeFileSync(new URL('jwts.json', import.meta.url), formatCases(jwtCases()));
