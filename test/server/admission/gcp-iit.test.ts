import { constants, createHmac, createPublicKey, sign, type KeyObject } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { createGcpIitVerifier, readInstance, type GcpIitOptions } from '../../../server/admission/gcp-iit.ts';
import { parseKeySet, type IssuerKeys } from '../../../server/admission/issuer-keys.ts';
import type { VerifiedNode, Verifier } from '../../../server/admission/verifier.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { createTestClock } from '../../help/clock.ts';
import { ecPair, rsaPair } from '../../help/forge.ts';
import { exampleOrg, idOf } from '../../help/store.ts';
import { createRandom } from '../../fuzz/mutate.ts';
import { lookalikes, wrongValues, type Mutant } from '../../vectors/documents.ts';

const at = Date.UTC(2026, 5, 1);
const second = at / 1000;
const issuer = 'https://accounts.google.com';
const audience = 'spire-gcp-node-attestor';

const google = rsaPair();
const next = rsaPair();
const stranger = rsaPair();
const short = rsaPair(1024);
const elliptic = ecPair();

function jwkOf(key: KeyObject, kid: string, more: Readonly<Record<string, unknown>> = {}): Readonly<Record<string, unknown>> {
  return { ...createPublicKey(key).export({ format: 'jwk' }), kid, use: 'sig', ...more };
}

const keySet = JSON.stringify({
  keys: [
    jwkOf(google.privateKey, 'current', { alg: 'RS256' }),
    jwkOf(next.privateKey, 'next', { alg: 'RS256' }),
    jwkOf(stranger.privateKey, 'sealing', { use: 'enc' }),
    jwkOf(short.privateKey, 'short'),
    jwkOf(elliptic.privateKey, 'elliptic'),
  ],
});

const folder = mkdtempSync(path.join(tmpdir(), 'gcp-iit-'));
afterAll(() => rmSync(folder, { recursive: true }));
const jwksFile = path.join(folder, 'keys.json');
writeFileSync(jwksFile, keySet, { mode: 0o600 });

const options: GcpIitOptions = {
  clock: createTestClock(at),
  projectAllowList: ['big-kahuna-123456', 'other-project'],
  keys: { jwksFile },
};
/** Holds the keys themselves, so that a thousand forgeries read no file. */
const keys = parseKeySet(Buffer.from(keySet));
const verifier = createGcpIitVerifier(options, (): IssuerKeys => ({ current: async () => keys }));

const engine = {
  instance_creation_timestamp: 1_780_000_000,
  instance_id: '152986662232938449',
  instance_name: 'blog-server',
  project_id: 'big-kahuna-123456',
  project_number: 739_419_398_126,
  zone: 'us-west1-b',
} as const;
const claims = {
  aud: audience,
  azp: '102176384125136243527',
  email: '739419398126-compute@developer.gserviceaccount.com',
  email_verified: true,
  exp: second + 3600,
  google: { compute_engine: engine },
  iat: second,
  iss: issuer,
  sub: '102176384125136243527',
} as const;
const header = { alg: 'RS256', kid: 'current', typ: 'JWT' } as const;

function encodePart(value: unknown): string {
  return Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
}

interface TokenForm {
  readonly header?: unknown;
  readonly claims?: unknown;
  readonly key?: KeyObject;
  /** By default as the honest header says. */
  readonly signer?: (signed: Buffer) => Buffer;
}

function tokenOf(form: TokenForm = {}): string {
  const signed = `${encodePart(form.header ?? header)}.${encodePart(form.claims ?? claims)}`;
  const signer = form.signer ?? ((bytes) => sign('sha256', bytes, form.key ?? google.privateKey));
  return `${signed}.${signer(Buffer.from(signed)).toString('base64url')}`;
}

const withClaims = (change: Readonly<Record<string, unknown>>): string => tokenOf({ claims: { ...claims, ...change } });
const withEngine = (change: Readonly<Record<string, unknown>>): string => withClaims({ google: { compute_engine: { ...engine, ...change } } });

const honest = tokenOf();
const honestNode: VerifiedNode = {
  agentId: idOf('/spire/agent/gcp_iit/big-kahuna-123456/152986662232938449'),
  selectors: [
    'gcp_iit:project-id:big-kahuna-123456',
    'gcp_iit:zone:us-west1-b',
    'gcp_iit:instance-name:blog-server',
    'gcp_iit:sa:739419398126-compute@developer.gserviceaccount.com',
  ] as never,
  canReattest: false,
  firstUseOnly: true,
  tokenHash: undefined,
};

function show(evidence: Uint8Array | string, instant = at, by: Verifier = verifier): Promise<VerifiedNode> {
  const challenge = (): Promise<Uint8Array> => Promise.reject(new Error('nothing is asked back'));
  return by.verify(Buffer.from(evidence), challenge, { trustDomain: exampleOrg, remoteAddress: '192.0.2.1', at: instant });
}

async function outcomeOf(evidence: Uint8Array | string, instant = at, by: Verifier = verifier): Promise<{ readonly reason: string; readonly kind: string | undefined }> {
  try {
    await show(evidence, instant, by);
    return { reason: 'accepted', kind: undefined };
  } catch (error) {
    if (!(error instanceof SpiffeError)) throw error;
    return { reason: error.reason, kind: error.kind };
  }
}

describe('createGcpIitVerifier', () => {
  it('tells of an instance what its token says, once', async () => {
    expect(await show(honest)).toEqual(honestNode);
    expect(await show(tokenOf({ header: { ...header, kid: 'next' }, key: next.privateKey }))).toEqual(honestNode);
  });

  it('reads the keys from a file, and the new ones when it changes', async () => {
    const clock = createTestClock(at);
    const fromFile = createGcpIitVerifier({ ...options, clock });
    expect(await show(honest, at, fromFile)).toEqual(honestNode);
    const later = tokenOf({ header: { ...header, kid: 'later' }, key: stranger.privateKey });
    expect(await outcomeOf(later, at, fromFile)).toMatchObject({ reason: 'gcp-iit.signature' });
    writeFileSync(jwksFile, JSON.stringify({ keys: [jwkOf(stranger.privateKey, 'later', { alg: 'RS256' })] }), { mode: 0o600 });
    await clock.advance(60_000);
    expect(await show(later, at, fromFile)).toEqual(honestNode);
    expect(await outcomeOf(honest, at, fromFile)).toMatchObject({ reason: 'gcp-iit.signature' });
  });

  it.each([
    ['missing', path.join(folder, 'none.json'), undefined],
    ['no key set', path.join(folder, 'wrong.json'), '{"keys":0}'],
    ['empty', path.join(folder, 'empty.json'), '{"keys":[]}'],
  ])('blames no node when the file with the keys is %s', async (_name, file, text) => {
    if (text !== undefined) writeFileSync(file, text, { mode: 0o600 });
    const broken = createGcpIitVerifier({ ...options, keys: { jwksFile: file } });
    expect(await outcomeOf(honest, at, broken)).toEqual({ reason: 'gcp-iit.keys', kind: 'unavailable' });
  });

  it('tells no service account that the token does not', async () => {
    const { selectors } = await show(withClaims({ email: undefined, email_verified: undefined }));
    expect(selectors).toEqual(honestNode.selectors.slice(0, 3));
  });

  it('knows tokens to their last second and some, for clocks that differ', async () => {
    expect(await outcomeOf(honest, at - 30_000)).toMatchObject({ reason: 'accepted' });
    expect(await outcomeOf(honest, at - 31_000)).toMatchObject({ reason: 'gcp-iit.expired' });
    expect(await outcomeOf(honest, at + 3_629_999)).toMatchObject({ reason: 'accepted' });
    expect(await outcomeOf(honest, at + 3_630_000)).toMatchObject({ reason: 'gcp-iit.expired' });
  });

  it.each([[], ['*'], [''], ['Big-Kahuna'], ['a/b']])('is not made with projects %j', (...projectAllowList) => {
    expect(() => createGcpIitVerifier({ ...options, projectAllowList })).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'gcp-iit.options' }));
  });
});

/** Reasons and kind that a family is refused for. */
const reasons: Readonly<Record<string, readonly [reasons: readonly string[], kind: string]>> = {
  'other algorithm': [['gcp-iit.malformed', 'gcp-iit.signature'], 'invalid'],
  'other key': [['gcp-iit.malformed', 'gcp-iit.signature'], 'invalid'],
  'header that names a key': [['gcp-iit.malformed'], 'invalid'],
  'header that is none': [['gcp-iit.malformed'], 'invalid'],
  'payload exchanged': [['gcp-iit.signature'], 'invalid'],
  'wrong signature': [['gcp-iit.signature', 'gcp-iit.malformed'], 'invalid'],
  'other form': [['gcp-iit.malformed'], 'invalid'],
  'one bit': [['gcp-iit.malformed', 'gcp-iit.signature'], 'invalid'],
  random: [['gcp-iit.malformed', 'gcp-iit.signature'], 'invalid'],
  'claim twice': [['gcp-iit.malformed'], 'invalid'],
  'for somebody else': [['gcp-iit.audience'], 'denied'],
  'audience of a wrong type': [['gcp-iit.malformed', 'gcp-iit.audience'], ''],
  'of another issuer': [['gcp-iit.issuer', 'gcp-iit.malformed'], ''],
  'not now': [['gcp-iit.expired'], 'denied'],
  'instant that is none': [['gcp-iit.malformed'], 'invalid'],
  'of no instance': [['gcp-iit.claims'], 'invalid'],
  'of another project': [['gcp-iit.project'], 'denied'],
  'claim that looks right': [['gcp-iit.claims'], 'invalid'],
  'claim of a wrong type': [['gcp-iit.claims'], 'invalid'],
  'claim missing': [['gcp-iit.claims'], 'invalid'],
  'service account that is none': [['gcp-iit.claims'], 'invalid'],
  'evidence beyond measure': [['gcp-iit.malformed'], 'invalid'],
};

type Row = readonly [family: string, name: string, token: string | Uint8Array, at?: number];

function* mutants(): Generator<Mutant> {
  for (const rows of [forgedHeaders(), forgedForms(), forgedClaims(), damagedTokens()]) {
    for (const [family, name, token, instant] of rows) {
      yield { family, name, evidence: Buffer.from(token), ...(instant === undefined ? {} : { at: instant }) };
    }
  }
}

function* forgedHeaders(): Generator<Row> {
  const spki = createPublicKey(google.privateKey).export({ type: 'spki', format: 'pem' });
  const jwk = JSON.stringify(createPublicKey(google.privateKey).export({ format: 'jwk' }));
  const unsigned = () => Buffer.alloc(0);
  for (const alg of ['none', 'None', 'NONE', 'nOnE', '', 'HS256', 'HS384', 'HS512', 'EdDSA', 'RS1', 'rs256', 'RS256 ', 'dir', 'A128KW', 'ES256K', 'RSA-OAEP', null, 0, true, [], ['RS256'], {}, undefined]) {
    yield ['other algorithm', `${JSON.stringify(alg)} signed`, tokenOf({ header: { ...header, alg } })];
    yield ['other algorithm', `${JSON.stringify(alg)} unsigned`, tokenOf({ header: { ...header, alg }, signer: unsigned })];
    yield ['other algorithm', `${JSON.stringify(alg)} one byte`, tokenOf({ header: { ...header, alg }, signer: () => Buffer.of(0) })];
  }
  for (const [alg, hash] of [['HS256', 'sha256'], ['HS384', 'sha384'], ['HS512', 'sha512']] as const) {
    for (const secret of [spki, String(spki).trim(), jwk, keySet, '']) {
      yield ['other algorithm', `${alg} with the public key`, tokenOf({ header: { ...header, alg }, signer: (bytes) => createHmac(hash, secret).update(bytes).digest() })];
    }
  }
  const pss = { key: google.privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: constants.RSA_PSS_SALTLEN_DIGEST };
  for (const [alg, hash] of [['RS384', 'sha384'], ['RS512', 'sha512']] as const) {
    yield ['other algorithm', alg, tokenOf({ header: { ...header, alg }, signer: (bytes) => sign(hash, bytes, google.privateKey) })];
    yield ['other algorithm', `${alg} named RS256`, tokenOf({ signer: (bytes) => sign(hash, bytes, google.privateKey) })];
  }
  for (const alg of ['PS256', 'RS256', 'PS384', 'PS512']) {
    yield ['other algorithm', `PSS as ${alg}`, tokenOf({ header: { ...header, alg }, signer: (bytes) => sign('sha256', bytes, pss) })];
  }
  const ec = { key: elliptic.privateKey, dsaEncoding: 'ieee-p1363' } as const;
  for (const kid of ['elliptic', 'current']) {
    for (const alg of ['ES256', 'RS256', 'ES384', 'ES512']) {
      yield ['other algorithm', `${alg} with ${kid}`, tokenOf({ header: { ...header, alg, kid }, signer: (bytes) => sign('sha256', bytes, ec) })];
    }
  }

  for (const kid of ['next', 'none', 'Current', 'current ', ' current', 'cur', 'sealing', 'short', 'elliptic', '../current', '0', '', undefined, null, 0, true, [], ['current'], {}]) {
    yield ['other key', `${JSON.stringify(kid)} signed by Google`, tokenOf({ header: { ...header, kid } })];
    yield ['other key', `${JSON.stringify(kid)} signed by a stranger`, tokenOf({ header: { ...header, kid }, key: stranger.privateKey })];
  }
  yield ['other key', 'a stranger’s under the right ID', tokenOf({ key: stranger.privateKey })];
  yield ['other key', 'the next one under the right ID', tokenOf({ key: next.privateKey })];
  yield ['other key', 'a short one', tokenOf({ header: { ...header, kid: 'short' }, key: short.privateKey })];

  const theirs = createPublicKey(stranger.privateKey).export({ format: 'jwk' });
  const naming: Readonly<Record<string, unknown>> = {
    jwk: theirs,
    jku: 'https://example.org/keys',
    x5u: 'https://example.org/certificate',
    x5c: ['AAAA'],
    crit: ['exp'],
    b64: false,
    zip: 'DEF',
    enc: 'A256GCM',
    epk: theirs,
    cty: 'JWT',
    p2c: 1_000_000,
    iss: issuer,
    nonce: 'x',
    exp: 0,
  };
  for (const [name, value] of Object.entries(naming)) {
    yield ['header that names a key', `${name} by a stranger`, tokenOf({ header: { ...header, [name]: value }, key: stranger.privateKey })];
    yield ['header that names a key', `${name} by Google`, tokenOf({ header: { ...header, [name]: value } })];
    yield ['header that names a key', `${name} without a key ID`, tokenOf({ header: { alg: 'RS256', [name]: value }, key: stranger.privateKey })];
  }
  for (const typ of ['at+jwt', 'JOSE', 'jwt', 'secevent+jwt', '', null, 0, []]) yield ['header that is none', `typ ${JSON.stringify(typ)}`, tokenOf({ header: { ...header, typ } })];
  for (const text of ['', 'null', '[]', '"RS256"', '{}', '{', 'x', `{"alg":"RS256","alg":"RS256","kid":"current"}`, `{"alg":"none","alg":"RS256","kid":"current"}`, `{"alg":"RS256","kid":"next","kid":"current"}`, `{"\\u0061lg":"RS256","alg":"RS256","kid":"current"}`, `${JSON.stringify(header)}x`, `\ufeff${JSON.stringify(header)}`, `${'['.repeat(100)}`]) {
    yield ['header that is none', text.slice(0, 40), tokenOf({ header: text })];
  }
}

function* forgedForms(): Generator<Row> {
  const [head = '', payload = '', signature = ''] = honest.split('.');
  const [, otherPayload = ''] = withEngine({ instance_id: '1', project_id: 'other-project' }).split('.');
  yield ['payload exchanged', 'of another instance', `${head}.${otherPayload}.${signature}`];
  for (const [name, change] of Object.entries({ aud: 'x', exp: second + 7200, iss: 'x', email: 'a@b.c', sub: '1', extra: 1 })) {
    yield ['payload exchanged', name, `${head}.${encodePart({ ...claims, [name]: change })}.${signature}`];
  }
  for (const [name, change] of Object.entries({ project_id: 'other-project', zone: 'us-west1-c', instance_id: '1', instance_name: 'x' })) {
    yield ['payload exchanged', name, `${head}.${encodePart({ ...claims, google: { compute_engine: { ...engine, [name]: change } } })}.${signature}`];
  }
  yield ['payload exchanged', 'the same in another order', `${head}.${encodePart(Object.fromEntries(Object.entries(claims).toReversed()))}.${signature}`];
  yield ['payload exchanged', 'the same with a space', `${head}.${encodePart(`${JSON.stringify(claims)} `)}.${signature}`];
  yield ['payload exchanged', 'header and all of another, signature of this', `${encodePart({ kid: 'current', alg: 'RS256' })}.${payload}.${signature}`];

  const bytes = Buffer.from(signature, 'base64url');
  for (let bit = 0; bit < bytes.length * 8; bit += 13) {
    const turned = Buffer.from(bytes);
    turned[bit >> 3] = (turned[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    yield ['wrong signature', `bit ${bit}`, `${head}.${payload}.${turned.toString('base64url')}`];
  }
  for (const [name, wrong] of [
    ['none', Buffer.alloc(0)],
    ['zeros', Buffer.alloc(256)],
    ['ones', Buffer.alloc(256, 0xff)],
    ['one', Buffer.concat([Buffer.alloc(255), Buffer.of(1)])],
    ['short', bytes.subarray(1)],
    ['long', Buffer.concat([Buffer.of(0), bytes])],
    ['longer', Buffer.concat([bytes, Buffer.of(0)])],
    ['of another token', Buffer.from(withClaims({ sub: '1' }).split('.')[2] ?? '', 'base64url')],
  ] as const) {
    yield ['wrong signature', name, `${head}.${payload}.${wrong.toString('base64url')}`];
  }

  for (const [name, token] of [
    ['one part', head],
    ['two parts', `${head}.${payload}`],
    ['four parts', `${honest}.${signature}`],
    ['five parts', `${honest}.${head}.${payload}`],
    ['no header', `.${payload}.${signature}`],
    ['no payload', `${head}..${signature}`],
    ['dots', '..'],
    ['twice', `${honest}${honest}`],
    ['with a space before', ` ${honest}`],
    ['with a line after', `${honest}\n`],
    ['with a NUL after', `${honest}\u0000`],
    ['as a bearer', `Bearer ${honest}`],
    ['in quotes', JSON.stringify(honest)],
    ['in JSON', JSON.stringify({ token: honest })],
    ['as flattened JSON', JSON.stringify({ protected: head, payload, signature })],
    ['as general JSON', JSON.stringify({ payload, signatures: [{ protected: head, signature }] })],
    ['with padding', `${head}=.${payload}.${signature}`],
    ['with padding at the end', `${honest}==`],
    ['of the other alphabet', Buffer.from(honest.split('.').map((part) => Buffer.from(part, 'base64url').toString('base64')).join('.'))],
    ['with a character nobody reads', `${head}.${payload}.${signature.slice(0, 9)}!${signature.slice(9)}`],
    ['with spare bits', `${head}.${payload}.${signature.slice(0, -1)}${spare(signature.at(-1) ?? '')}`],
    ['in UTF-16', Buffer.from(honest, 'utf16le')],
    ['with a mark before', `\ufeff${honest}`],
  ] as const) {
    yield ['other form', name, token];
  }
  for (const [name, token] of [
    ['nothing', ''],
    ['large', 'x'.repeat(1 << 20)],
    ['a large claim', withClaims({ filler: 'x'.repeat(20_000) })],
    ['a large signature', `${head}.${payload}.${'A'.repeat(30_000)}`],
    ['many dots', '.'.repeat(16_000)],
    ['deep', withClaims({ filler: JSON.parse(`${'['.repeat(40)}${']'.repeat(40)}`) as unknown })],
  ] as const) {
    yield ['evidence beyond measure', name, token];
  }
}

/** The last character, with one of the bits set that say nothing. */
function spare(character: string): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  return alphabet[alphabet.indexOf(character) ^ 1] ?? '';
}

function* forgedClaims(): Generator<Row> {
  const json = JSON.stringify(claims);
  for (const [name, value] of Object.entries(claims)) {
    const member = `${JSON.stringify(name)}:${JSON.stringify(value)}`;
    yield ['claim twice', `${name} before`, tokenOf({ claims: json.replace('{', `{${member},`) })];
    yield ['claim twice', `${name} after`, tokenOf({ claims: json.replace(/\}$/, `,${member}}`) })];
    yield ['claim twice', `${name} escaped`, tokenOf({ claims: json.replace('{', `{"\\u00${name.codePointAt(0)?.toString(16)}${name.slice(1)}":${JSON.stringify(value)},`) })];
  }
  yield ['claim twice', 'two instances', tokenOf({ claims: json.replace('"compute_engine":', `"compute_engine":${JSON.stringify({ ...engine, instance_id: '1' })},"compute_engine":`) })];
  for (const name of Object.keys(engine)) {
    yield ['claim twice', `${name} of the instance`, tokenOf({ claims: json.replace(`"${name}":`, `"${name}":"1","${name}":`) })];
  }

  for (const aud of ['', 'spire', `${audience}/`, ` ${audience}`, `${audience} `, audience.toUpperCase(), `https://${audience}`, 'https://vault.example.org', '*', ...lookalikes(audience)]) {
    yield ['for somebody else', JSON.stringify(aud), withClaims({ aud })];
    yield ['for somebody else', `${JSON.stringify(aud)} too`, withClaims({ aud: [audience, aud] })];
    yield ['for somebody else', `${JSON.stringify(aud)} first`, withClaims({ aud: [aud, audience] })];
  }
  for (const aud of [[], [audience, audience]]) yield ['for somebody else', JSON.stringify(aud), withClaims({ aud })];
  for (const aud of [undefined, null, 0, true, {}, { [audience]: true }, [[audience]], [null], [audience, 1], [audience, {}]]) {
    yield ['audience of a wrong type', JSON.stringify(aud) ?? 'none', withClaims({ aud })];
  }
  for (const iss of ['accounts.google.com', `${issuer}/`, 'http://accounts.google.com', `${issuer}.example.org`, 'https://example.org', issuer.toUpperCase(), '', undefined, null, 0, [issuer], {}, ...lookalikes(issuer)]) {
    yield ['of another issuer', JSON.stringify(iss) ?? 'none', withClaims({ iss })];
  }
  for (const [name, change] of [
    ['expired', { iat: second - 7200, exp: second - 3600 }],
    ['just expired', { iat: second - 3000, exp: second - 30 }],
    ['issued in the future', { iat: second + 31 }],
    ['not before the future', { nbf: second + 31 }],
    ['in milliseconds', { iat: at / 10 }],
    ['for ever, but long ago', { iat: second - 86_400, exp: 253_402_300_799 }],
    ['backwards', { iat: second + 3600, exp: second - 3600 }],
    ['at the beginning of time', { iat: 0, exp: 0 }],
  ] as const) {
    yield ['not now', name, withClaims(change)];
  }
  yield ['not now', 'a day later', honest, at + 86_400_000];
  yield ['not now', 'a year later', honest, at + 31_536_000_000];
  yield ['not now', 'an hour early', honest, at - 3_600_000];
  for (const name of ['exp', 'iat', 'nbf']) {
    for (const value of [null, '', String(second + 60), second + 0.5, -1, 1e300, 253_402_300_800, true, [], {}, [second]]) {
      yield ['instant that is none', `${name} ${JSON.stringify(value)}`, withClaims({ [name]: value })];
    }
  }
  for (const name of ['exp', 'iat']) yield ['instant that is none', `${name} missing`, withClaims({ [name]: undefined })];
  yield ['instant that is none', 'exp without end', tokenOf({ claims: json.replace(/"exp":\d+/, '"exp":1e999') })];
  yield ['instant that is none', 'exp that is no number', tokenOf({ claims: json.replace(/"exp":\d+/, '"exp":NaN') })];
  yield ['instant that is none', 'sub missing', withClaims({ sub: undefined })];

  // Longer ones make no token that is looked into.
  const values = wrongValues.filter((value) => JSON.stringify(value).length < 10_000);
  for (const [index, value] of [undefined, ...values].entries()) {
    yield ['of no instance', `google ${index}`, withClaims({ google: value })];
    yield [isObject(value) ? 'claim missing' : 'of no instance', `compute_engine ${index}`, withClaims({ google: { compute_engine: value } })];
  }
  yield ['of no instance', 'beside google', withClaims({ google: undefined, compute_engine: engine })];
  yield ['of no instance', 'of another name', withClaims({ Google: { compute_engine: engine }, google: {} })];
  yield ['of no instance', 'of a person', withClaims({ google: undefined, hd: 'example.org', email: 'someone@example.org' })];
  for (const project_id of ['my-project', 'big-kahuna-123457', 'big-kahuna', 'other-projects']) {
    yield ['of another project', project_id, withEngine({ project_id })];
  }
  for (const name of ['project_id', 'zone', 'instance_id', 'instance_name'] as const) {
    for (const [index, value] of [...lookalikes(engine[name]), engine[name].toUpperCase().concat('A'), `${engine[name]}/..`, `example.com:${engine[name]}`, `projects/1/zones/${engine[name]}`].entries()) {
      yield ['claim that looks right', `${name} ${index}`, withEngine({ [name]: value })];
    }
    for (const [index, value] of values.entries()) yield ['claim of a wrong type', `${name} ${index}`, withEngine({ [name]: value })];
    yield ['claim missing', name, withEngine({ [name]: undefined })];
  }
  yield ['claim of a wrong type', 'an instance that is a number', withEngine({ instance_id: 152_986_662_232_938 })];
  yield ['claim that looks right', 'an instance with a zero before', withEngine({ instance_id: `0${engine.instance_id}` })];
  yield ['claim that looks right', 'an instance below zero', withEngine({ instance_id: `-${engine.instance_id}` })];
  for (const [index, change] of [
    { email_verified: false },
    { email_verified: 'true' },
    { email_verified: 1 },
    { email_verified: undefined },
    { email_verified: null },
    { email: '' },
    { email: null },
    { email: 7 },
    { email: [claims.email] },
    { email: 'nobody' },
    { email: '@example.org' },
    { email: 'a@b@c' },
    { email: `a@${'b'.repeat(300)}` },
    ...lookalikes(claims.email).map((email) => ({ email })),
  ].entries()) {
    yield ['service account that is none', `${index}`, withClaims(change)];
  }
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function* damagedTokens(): Generator<Row> {
  const random = createRandom(20_260_601);
  const bytes = Buffer.from(honest);
  for (let index = 0; index < bytes.length; index += 4) {
    const out = Buffer.from(bytes);
    out[index] = (out[index] ?? 0) ^ (1 << Math.floor(random() * 7));
    yield ['one bit', `${index}`, out];
  }
  for (let i = 0; i < 150; i += 1) {
    const from = Math.floor(random() * bytes.length);
    const to = from + 1 + Math.floor(random() * 20);
    const part = random() < 0.5 ? Buffer.alloc(0) : bytes.subarray(0, Math.floor(random() * 40));
    const out = Buffer.concat([bytes.subarray(0, from), part, bytes.subarray(to)]);
    if (!out.equals(bytes)) yield ['random', `${i}`, out];
  }
}

describe('T-B07: forged tokens', () => {
  const all = [...mutants()];

  it('are refused, all of them, each family for its reason', async () => {
    const accepted: string[] = [];
    const wrong: unknown[] = [];
    for (const { family, name, evidence, at: instant } of all) {
      const outcome = await outcomeOf(evidence, instant);
      const [own, kind] = reasons[family] ?? [[], ''];
      if (outcome.reason === 'accepted') accepted.push(`${family}: ${name}`);
      if (!own.includes(outcome.reason) || (kind !== '' && outcome.kind !== kind)) wrong.push({ family, name, ...outcome });
    }
    expect(accepted).toEqual([]);
    expect(wrong).toEqual([]);
  });

  it('are more than a thousand, of every family', () => {
    expect(all.length).toBeGreaterThan(1000);
    expect(new Set(all.map(({ family }) => family))).toEqual(new Set(Object.keys(reasons)));
  });

  it('differ from honest ones, which the same check lets pass', async () => {
    expect(all.filter(({ evidence, at: instant }) => instant === undefined && Buffer.from(evidence).equals(Buffer.from(honest)))).toEqual([]);
    expect(await outcomeOf(Buffer.from(honest))).toMatchObject({ reason: 'accepted' });
  });
});

describe('readInstance', () => {
  it('reads nothing that was not verified', () => {
    // @ts-expect-error: only what was verified may be read.
    expect(readInstance({ claims })).toMatchObject({ projectId: engine.project_id });
  });

  it('tells nothing that is not in the bytes that were signed', async () => {
    const name = fc.stringMatching(/^[a-z][a-z0-9-]{0,20}[a-z0-9]$/);
    const instance = fc.record({
      project_id: fc.constantFrom(...options.projectAllowList),
      instance_id: fc.bigInt({ min: 1n, max: 2n ** 64n - 1n }).map(String),
      instance_name: name,
      zone: name,
    });
    await fc.assert(
      fc.asyncProperty(instance, instance, async (signed, other) => {
        const token = withEngine(signed);
        const payload = String(Buffer.from(token.split('.')[1] ?? '', 'base64url'));
        const { agentId, selectors } = await show(token);
        for (const text of [...agentId.split('/').slice(6), ...selectors.map((one) => one.split(':').at(-1) ?? '')]) {
          expect(payload).toContain(`"${text}"`);
        }
        const [head = '', , signature = ''] = token.split('.');
        const twisted = [head, withEngine(other).split('.')[1], signature].join('.');
        expect((await outcomeOf(twisted)).reason).toBe(twisted === token ? 'accepted' : 'gcp-iit.signature');
      }),
      { numRuns: 60 },
    );
  });
});
