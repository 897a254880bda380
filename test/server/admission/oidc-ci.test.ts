import { createPublicKey, sign } from 'node:crypto';
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { createIssuerKeys, parseKeySet, type IssuerKeys } from '../../../server/admission/issuer-keys.ts';
import type { OidcCiTrust } from '../../../server/admission/oidc-ci-trust.ts';
import { createOidcCiVerifier } from '../../../server/admission/oidc-ci.ts';
import type { VerifiedNode } from '../../../server/admission/verifier.ts';
import { decodeBase64url } from '../../../spiffe/base64.ts';
import { SpiffeError } from '../../../spiffe/errors.ts';
import { pathOf } from '../../../spiffe/id.ts';
import { createAdmissionWorld } from '../../help/admission-world.ts';
import { createTestClock } from '../../help/clock.ts';
import { createOidcSigner, jobClaims, signerOf, signingInput, signShared, type OidcSigner } from '../../help/oidc.ts';
import { exampleOrg } from '../../help/store.ts';

const at = Date.UTC(2026, 5, 1);
const second = at / 1000;
const issuer = 'https://ci.example';
const main = createOidcSigner('key-1');
const other = createOidcSigner('key-2', 'ES256');
const foreign = createOidcSigner('key-1');
const release: OidcCiTrust = {
  name: 'release',
  issuer,
  audience: 'steeple',
  subject: 'repo:octo-org/octo-repo:ref:refs/heads/main',
  claims: { job_workflow_ref: 'octo-org/octo-repo/.github/workflows/release.yml@refs/heads/main' },
  keys: { discovery: true },
};

function keysOf(...signers: readonly Pick<OidcSigner, 'jwk'>[]): IssuerKeys {
  const set = Buffer.from(JSON.stringify({ keys: signers.map(({ jwk }) => jwk) }));
  return createIssuerKeys({ clock: createTestClock(), load: async () => parseKeySet(set), freshMs: 60_000 });
}

interface Stand {
  readonly trusts?: readonly OidcCiTrust[];
  readonly keys?: IssuerKeys;
  readonly trust?: unknown;
}

function show(token: unknown, { trusts = [release], keys = keysOf(main, other), trust }: Stand = {}): Promise<VerifiedNode> {
  return showPayload(Buffer.from(JSON.stringify({ token, trust })), { trusts, keys });
}

function showPayload(payload: Uint8Array, { trusts = [release], keys = keysOf(main, other) }: Stand = {}): Promise<VerifiedNode> {
  const verifier = createOidcCiVerifier({ clock: createTestClock(), trusts }, () => keys);
  const never = (): Promise<Uint8Array> => Promise.reject(new Error('a challenge was posed'));
  return verifier.verify(payload, never, { trustDomain: exampleOrg, remoteAddress: '192.0.2.1', at });
}

const claims = (changed: Readonly<Record<string, unknown>> = {}) => jobClaims(issuer, at, changed);
const job = (changed: Readonly<Record<string, unknown>> = {}, header: Readonly<Record<string, unknown>> = {}): string => main.sign(claims(changed), header);
const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');

describe('createOidcCiVerifier', () => {
  it('admits the job that is trusted, once, and tells what its CI system says of it', async () => {
    const node = await show(job());
    expect(node).toEqual({
      agentId: expect.stringMatching(/^spiffe:\/\/example\.org\/spire\/agent\/oidc_ci\/release\/[0-9a-f]{64}$/) as string,
      selectors: [
        'oidc_ci:trust:release',
        'oidc_ci:issuer:https://ci.example',
        'oidc_ci:subject:repo:octo-org/octo-repo:ref:refs/heads/main',
        'oidc_ci:repository:octo-org/octo-repo',
        'oidc_ci:repository_id:74',
        'oidc_ci:repository_owner:octo-org',
        'oidc_ci:repository_owner_id:65',
        'oidc_ci:repository_visibility:private',
        'oidc_ci:ref:refs/heads/main',
        'oidc_ci:ref_type:branch',
        'oidc_ci:sha:94b0a9bd4e7e1b7c3f6f4f0a6d9d6e1e2f3a4b5c',
        'oidc_ci:workflow:release',
        'oidc_ci:job_workflow_ref:octo-org/octo-repo/.github/workflows/release.yml@refs/heads/main',
        'oidc_ci:event_name:push',
        'oidc_ci:run_id:1658821493',
        'oidc_ci:run_number:10',
        'oidc_ci:run_attempt:1',
        'oidc_ci:runner_environment:github-hosted',
        'oidc_ci:actor:octocat',
        'oidc_ci:actor_id:12',
      ],
      canReattest: false,
      firstUseOnly: true,
      tokenHash: undefined,
    });
  });

  it.each(['RS256', 'PS256', 'ES256', 'ES384'] as const)('believes keys for %s', async (algorithm) => {
    const signer = createOidcSigner('k', algorithm);
    await expect(show(signer.sign(claims()), { keys: keysOf(main, signer) })).resolves.toBeDefined();
  });

  it('believes what an honest issuer may also write', async () => {
    await expect(show(job({}, { x5t: 'eCJi', 'x5t#S256': 'eCJi' }))).resolves.toBeDefined();
    await expect(show(job({}, { typ: undefined }))).resolves.toBeDefined();
    await expect(show(job({ aud: ['steeple'] }))).resolves.toBeDefined();
    await expect(show(job({ nbf: undefined }))).resolves.toBeDefined();
    await expect(show(job({ anything: { else: [1, 2.5, null] } }))).resolves.toBeDefined();
    await expect(show(job({}, { kid: undefined }), { keys: keysOf(main) })).resolves.toBeDefined();
  });

  it('bears clocks that are half a minute apart, and no more', async () => {
    for (const changed of [{ exp: second - 29 }, { nbf: second + 30 }, { iat: second + 30 }, { iat: second - 930, exp: second + 1 }]) {
      await expect(show(job(changed))).resolves.toBeDefined();
    }
    for (const changed of [{ exp: second - 30 }, { nbf: second + 31 }, { iat: second + 31 }, { iat: second - 931 }]) {
      await expect(show(job(changed))).rejects.toMatchObject({ reason: 'oidc-ci.time' });
    }
  });

  it('has an age for tokens that a trust can set', async () => {
    const old = job({ iat: second - 3_600, exp: second + 60 });
    await expect(show(old, { trusts: [{ ...release, maxTokenAgeMs: 3_600_000 }] })).resolves.toBeDefined();
    await expect(show(job({ iat: second - 100 }), { trusts: [{ ...release, maxTokenAgeMs: 60_000 }] })).rejects.toMatchObject({ reason: 'oidc-ci.time' });
  });

  const staging: OidcCiTrust = { ...release, name: 'staging', subject: 'repo:octo-org/octo-repo:environment:staging' };
  it('finds the trust that fits, and takes none other than the one that is asked for', async () => {
    const trusts = [staging, release];
    expect(pathOf((await show(job(), { trusts })).agentId)).toMatch(/^\/spire\/agent\/oidc_ci\/release\//);
    expect(pathOf((await show(job({ sub: staging.subject }), { trusts })).agentId)).toMatch(/^\/spire\/agent\/oidc_ci\/staging\//);
    await expect(show(job(), { trusts, trust: 'release' })).resolves.toBeDefined();
    await expect(show(job(), { trusts, trust: 'staging' })).rejects.toMatchObject({ kind: 'denied', reason: 'oidc-ci.subject' });
    await expect(show(job(), { trusts, trust: 'absent' })).rejects.toMatchObject({ kind: 'denied', reason: 'oidc-ci.issuer' });
  });

  it('tells two trusts of one subject apart by a claim', async () => {
    const of = (name: string, workflow: string): OidcCiTrust => ({ ...release, name, claims: { workflow } });
    const trusts = [of('a', 'build'), of('b', 'release')];
    expect(pathOf((await show(job(), { trusts })).agentId)).toMatch(/^\/spire\/agent\/oidc_ci\/b\//);
  });

  it('believes a job of a pull request where a trust names the event', async () => {
    const review: OidcCiTrust = { ...release, subject: 'repo:octo-org/octo-repo:pull_request', claims: { event_name: 'pull_request' } };
    const token = job({ sub: review.subject, event_name: 'pull_request' });
    await expect(show(token, { trusts: [review] })).resolves.toBeDefined();
    await expect(show(token, { trusts: [{ ...review, claims: {} }] })).rejects.toMatchObject({ reason: 'oidc-ci.event' });
  });

  it('lets agents renew for as long as jobs take', () => {
    const renewable = (changed: object) => createOidcCiVerifier({ clock: createTestClock(), trusts: [release], ...changed }, () => keysOf(main)).renewableMs;
    expect([renewable({}), renewable({ maxAgentLifeMs: 60_000 })]).toEqual([21_600_000, 60_000]);
  });

  it('tells no selectors of claims that are no plain texts', async () => {
    const { selectors } = await show(job({ workflow: 'a\nb', environment: '', run_id: 7, ref: 'r'.repeat(2_000), actor: '\u202eevil', repository_id: ['74'] }));
    expect(selectors.filter((each) => /^oidc_ci:(?:workflow|environment|run_id|ref|actor|repository_id):/.test(each))).toEqual([]);
  });

  describe('knows a token again', () => {
    it('G-10: by its jti, whatever else was signed anew', async () => {
      const first = await show(job());
      expect((await show(job())).agentId).toBe(first.agentId);
      expect((await show(job({ iat: second - 1 }))).agentId).toBe(first.agentId);
      expect((await show(other.sign(claims()))).agentId).toBe(first.agentId);
      expect((await show(job({ jti: 'another' }))).agentId).not.toBe(first.agentId);
    });

    it.each([undefined, ''])('G-10: by what was signed, where jti is %j', async (jti) => {
      const token = other.sign(claims({ jti }));
      const first = await show(token);
      expect((await show(other.sign(claims({ jti })))).agentId).toBe(first.agentId);
      // For every ECDSA signature there is a second one that anybody can compute.
      const [header, payload, signature = ''] = token.split('.');
      const raw = Buffer.from(decodeBase64url(signature)!);
      const order = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;
      const s = order - BigInt(`0x${raw.subarray(32).toString('hex')}`);
      const twin = Buffer.concat([raw.subarray(0, 32), Buffer.from(s.toString(16).padStart(64, '0'), 'hex')]).toString('base64url');
      expect(twin).not.toBe(signature);
      expect((await show(`${header}.${payload}.${twin}`)).agentId).toBe(first.agentId);
      expect((await show(other.sign(claims({ jti, run_attempt: '2' })))).agentId).not.toBe(first.agentId);
    });

    it('G-10: so that a re-run with an old token makes no second agent, nor two at a time', async () => {
      const clock = createTestClock(at);
      const verifier = createOidcCiVerifier({ clock, trusts: [release] }, () => keysOf(main));
      const world = await createAdmissionWorld({ verifiers: [verifier], limits: { failureMs: 0 } });
      const token = main.sign(jobClaims(issuer, world.clock.now()));
      const payload = Buffer.from(JSON.stringify({ token }));
      const admit = () =>
        world.admission.admit({ type: 'oidc_ci', payload, csr: world.csr, address: '192.0.2.1' }, () => Promise.reject(new Error()), world.scope, new AbortController().signal);
      const attempts = await Promise.allSettled(Array.from({ length: 20 }, admit));
      expect(attempts.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
      await expect(admit()).rejects.toMatchObject({ kind: 'denied', reason: 'agent.already-attested' });
      expect([...world.agents.values()]).toMatchObject([{ attestationType: 'oidc_ci', canReattest: false }]);
    });

    it('G-10: apart from another issuer’s of the same jti', async () => {
      const elsewhere = { ...release, name: 'elsewhere', issuer: 'https://other.example' };
      const [one, two] = await Promise.all([show(job()), show(job({ iss: elsewhere.issuer }), { trusts: [release, elsewhere] })]);
      expect(pathOf(one.agentId).split('/').at(-1)).not.toBe(pathOf(two.agentId).split('/').at(-1));
    });
  });

  const publicPem = createPublicKey(main.privateKey).export({ type: 'spki', format: 'pem' }).toString();
  const publicDer = createPublicKey(main.privateKey).export({ type: 'spki', format: 'der' });
  const hs = { alg: 'HS256', typ: 'JWT', kid: 'key-1' };
  const [goodHeader = '', goodPayload = '', goodSignature = ''] = job().split('.');
  const resigned = (header: object, payload: object | string): string => {
    const signed = signingInput(header, payload);
    return `${signed}.${sign('sha256', Buffer.from(signed), main.privateKey).toString('base64url')}`;
  };
  const refused: readonly (readonly [what: string, token: unknown, reason: string])[] = [
    // Another job.
    ['a fork’s pull request', job({ sub: 'repo:octo-org/octo-repo:pull_request', event_name: 'pull_request', ref: 'refs/pull/7/merge' }), 'oidc-ci.subject'],
    ['a fork’s own run', job({ sub: 'repo:mallory/octo-repo:ref:refs/heads/main', repository: 'mallory/octo-repo' }), 'oidc-ci.subject'],
    ['a pull request that runs as the branch', job({ event_name: 'pull_request_target' }), 'oidc-ci.event'],
    ['a review that runs as the branch', job({ event_name: 'pull_request_review' }), 'oidc-ci.event'],
    ['a merge request that runs as the branch', job({ pipeline_source: 'merge_request_event' }), 'oidc-ci.event'],
    ['another branch', job({ sub: 'repo:octo-org/octo-repo:ref:refs/heads/dev', ref: 'refs/heads/dev' }), 'oidc-ci.subject'],
    ['a tag of the branch’s name', job({ sub: 'repo:octo-org/octo-repo:ref:refs/tags/main', ref_type: 'tag' }), 'oidc-ci.subject'],
    ['an environment instead of the branch', job({ sub: 'repo:octo-org/octo-repo:environment:main' }), 'oidc-ci.subject'],
    ['another workflow', job({ job_workflow_ref: 'octo-org/octo-repo/.github/workflows/test.yml@refs/heads/main' }), 'oidc-ci.claim'],
    ['the workflow of another branch', job({ job_workflow_ref: 'octo-org/octo-repo/.github/workflows/release.yml@refs/heads/dev' }), 'oidc-ci.claim'],
    ['a claim that is missing', job({ job_workflow_ref: undefined }), 'oidc-ci.claim'],
    ['a claim in a list', job({ job_workflow_ref: [release.claims?.['job_workflow_ref']] }), 'oidc-ci.claim'],
    ['a re-run with an old token', job({ iat: second - 3_600, exp: second - 3_300 }), 'oidc-ci.time'],
    ['a token too old, that has not expired', job({ iat: second - 3_600, exp: second + 3_600 }), 'oidc-ci.time'],
    // Texts that are nearly equal.
    ['a subject that is a wildcard', job({ sub: 'repo:octo-org/octo-repo:*' }), 'oidc-ci.subject'],
    ['a subject that begins right', job({ sub: 'repo:octo-org/octo-repo:ref:refs/heads/main2' }), 'oidc-ci.subject'],
    ['a subject that ends early', job({ sub: 'repo:octo-org/octo-repo:ref:refs/heads/mai' }), 'oidc-ci.subject'],
    ['a subject in other letters', job({ sub: 'repo:Octo-Org/octo-repo:ref:refs/heads/main' }), 'oidc-ci.subject'],
    ['a subject with a slash at its end', job({ sub: `${release.subject}/` }), 'oidc-ci.subject'],
    ['a subject with a line end', job({ sub: `${release.subject}\n` }), 'oidc-ci.subject'],
    ['a subject with a NUL', job({ sub: `${release.subject}\u0000` }), 'oidc-ci.subject'],
    ['a subject with a Cyrillic letter', job({ sub: release.subject.replace('main', 'm\u0430in') }), 'oidc-ci.subject'],
    ['a subject with an unseen character', job({ sub: release.subject.replace('main', 'ma\u200bin') }), 'oidc-ci.subject'],
    ['a subject in full-width letters', job({ sub: release.subject.replace('main', '\uff4dain') }), 'oidc-ci.subject'],
    ['a subject in percents', job({ sub: release.subject.replace('main', 'm%61in') }), 'oidc-ci.subject'],
    ['an audience in other letters', job({ aud: 'Steeple' }), 'oidc-ci.audience'],
    ['another audience', job({ aud: 'https://github.com/octo-org' }), 'oidc-ci.audience'],
    ['an audience with a slash at its end', job({ aud: 'steeple/' }), 'oidc-ci.audience'],
    ['an array of audiences, ours among them', job({ aud: ['steeple', 'vault'] }), 'oidc-ci.audience'],
    ['an array of audiences, ours last', job({ aud: ['vault', 'steeple'] }), 'oidc-ci.audience'],
    ['an array of our audience twice', job({ aud: ['steeple', 'steeple'] }), 'oidc-ci.audience'],
    ['an empty array of audiences', job({ aud: [] }), 'oidc-ci.audience'],
    ['no audience', job({ aud: undefined }), 'oidc-ci.audience'],
    ['audiences in an object', job({ aud: { 0: 'steeple' } }), 'oidc-ci.malformed'],
    ['a number for an audience', job({ aud: 1 }), 'oidc-ci.malformed'],
    ['an issuer with a slash at its end', job({ iss: `${issuer}/` }), 'oidc-ci.issuer'],
    ['an issuer in other letters', job({ iss: 'https://CI.example' }), 'oidc-ci.issuer'],
    ['another issuer', job({ iss: 'https://ci.example.evil' }), 'oidc-ci.issuer'],
    ['a member of every object for an issuer', job({ iss: 'constructor' }), 'oidc-ci.issuer'],
    ['issuers in a list', job({ iss: [issuer] }), 'oidc-ci.malformed'],
    // Time.
    ['an expired token', job({ exp: second - 60 }), 'oidc-ci.time'],
    ['a token from later', job({ nbf: second + 60 }), 'oidc-ci.time'],
    ['a token issued later', job({ iat: second + 60 }), 'oidc-ci.time'],
    ['no expiry', job({ exp: undefined }), 'oidc-ci.malformed'],
    ['no instant of issue', job({ iat: undefined }), 'oidc-ci.malformed'],
    ['text for the expiry', job({ exp: String(second + 300) }), 'oidc-ci.malformed'],
    ['an expiry beyond all time', job({ exp: 1e300 }), 'oidc-ci.malformed'],
    ['a fraction of a second', job({ exp: second + 0.5 }), 'oidc-ci.malformed'],
    ['null for nbf', job({ nbf: null }), 'oidc-ci.malformed'],
    // Claims that are missing or of another kind.
    ['no subject', job({ sub: undefined }), 'oidc-ci.malformed'],
    ['an empty subject', job({ sub: '' }), 'oidc-ci.malformed'],
    ['subjects in a list', job({ sub: [release.subject] }), 'oidc-ci.malformed'],
    ['no issuer', job({ iss: undefined }), 'oidc-ci.malformed'],
    ['a number for a jti', job({ jti: 1 }), 'oidc-ci.malformed'],
    ['two subjects', main.sign(`{"sub":"x",${JSON.stringify(claims()).slice(1)}`), 'oidc-ci.malformed'],
    ['two subjects, one escaped', main.sign(`{"\\u0073ub":"x",${JSON.stringify(claims()).slice(1)}`), 'oidc-ci.malformed'],
    ['a payload that is a list', main.sign('[]'), 'oidc-ci.malformed'],
    ['a payload with something behind it', main.sign(`${JSON.stringify(claims())} {}`), 'oidc-ci.malformed'],
    // The signature.
    ['alg none', `${encode({ alg: 'none', typ: 'JWT', kid: 'key-1' })}.${goodPayload}.`, 'oidc-ci.algorithm'],
    ['alg none with a signature', `${encode({ alg: 'none', typ: 'JWT', kid: 'key-1' })}.${goodPayload}.${goodSignature}`, 'oidc-ci.algorithm'],
    ['alg None', `${encode({ alg: 'None', kid: 'key-1' })}.${goodPayload}.${goodSignature}`, 'oidc-ci.algorithm'],
    ['no alg', job({}, { alg: undefined }), 'oidc-ci.algorithm'],
    ['HS256 with the public key in PEM', signShared(publicPem, claims(), hs), 'oidc-ci.algorithm'],
    ['HS256 with the public key in DER', signShared(publicDer, claims(), hs), 'oidc-ci.algorithm'],
    ['HS256 with the modulus', signShared(String(main.jwk['n']), claims(), hs), 'oidc-ci.algorithm'],
    ['RS256 for a key of an EC curve', job({}, { kid: 'key-2' }), 'oidc-ci.key'],
    ['ES256 for an RSA key', other.sign(claims(), { kid: 'key-1' }), 'oidc-ci.key'],
    ['RS512 for a key that is for RS256', job({}, { alg: 'RS512' }), 'oidc-ci.key'],
    ['another’s key of the same ID', foreign.sign(claims()), 'oidc-ci.signature'],
    ['a key ID that nobody has', job({}, { kid: 'key-3' }), 'oidc-ci.key'],
    ['no key ID where there are several keys', job({}, { kid: undefined }), 'oidc-ci.key'],
    ['an empty key ID', job({}, { kid: '' }), 'oidc-ci.malformed'],
    ['a number for a key ID', job({}, { kid: 1 }), 'oidc-ci.malformed'],
    ['a key of its own in the header', foreign.sign(claims(), { jwk: foreign.jwk }), 'oidc-ci.malformed'],
    ['a key set of its own', foreign.sign(claims(), { jku: 'https://evil.example/jwks' }), 'oidc-ci.malformed'],
    ['a certificate elsewhere', job({}, { x5u: 'https://evil.example/x5u' }), 'oidc-ci.malformed'],
    ['a certificate of its own', job({}, { x5c: ['MIIB'] }), 'oidc-ci.malformed'],
    ['a critical extension', job({}, { crit: ['exp'] }), 'oidc-ci.malformed'],
    ['an unencoded payload', job({}, { b64: false, crit: ['b64'] }), 'oidc-ci.malformed'],
    ['an access token', job({}, { typ: 'at+jwt' }), 'oidc-ci.malformed'],
    ['a changed payload', `${goodHeader}.${encode({ ...claims(), run_attempt: '2' })}.${goodSignature}`, 'oidc-ci.signature'],
    ['a changed header', `${encode({ alg: 'RS256', kid: 'key-1' })}.${goodPayload}.${goodSignature}`, 'oidc-ci.signature'],
    ['the signature of zeros', `${goodHeader}.${goodPayload}.${Buffer.alloc(256).toString('base64url')}`, 'oidc-ci.signature'],
    ['half of the signature', `${goodHeader}.${goodPayload}.${goodSignature.slice(0, 100)}`, 'oidc-ci.signature'],
    ['no signature', `${goodHeader}.${goodPayload}.`, 'oidc-ci.malformed'],
    ['a header with two algorithms', resigned({}, '').replace(/^[^.]*\.[^.]*/, `${Buffer.from('{"alg":"none","alg":"RS256"}').toString('base64url')}.${goodPayload}`), 'oidc-ci.malformed'],
    // The form.
    ['two parts', `${goodHeader}.${goodPayload}`, 'oidc-ci.malformed'],
    ['five parts', `${job()}.a.b`, 'oidc-ci.malformed'],
    ['padding', `${goodHeader}.${goodPayload}=.${goodSignature}`, 'oidc-ci.malformed'],
    ['a space before it', ` ${job()}`, 'oidc-ci.malformed'],
    ['a line end behind it', `${job()}\n`, 'oidc-ci.malformed'],
    ['the JSON form of a JWS', JSON.stringify({ payload: goodPayload, signatures: [{ protected: goodHeader, signature: goodSignature }] }), 'oidc-ci.malformed'],
    ['T-B05: 20 kB', job({ filler: 'x'.repeat(15_000) }), 'oidc-ci.malformed'],
    ['T-B05: 200 levels', main.sign('{"a":'.repeat(200)), 'oidc-ci.malformed'],
    ['no text', 1, 'oidc-ci.malformed'],
    ['an empty text', '', 'oidc-ci.malformed'],
    ['nothing', undefined, 'oidc-ci.malformed'],
  ];
  it.each(refused)('G-10: refuses %s', async (_what, token, reason) => {
    const error: unknown = await show(token).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(SpiffeError);
    expect(error).toMatchObject({
      kind: reason === 'oidc-ci.malformed' ? 'invalid' : 'denied',
      reason,
      message: expect.stringMatching(/^nodeattestor\(oidc_ci\): /) as string,
    });
    if (typeof token === 'string' && token.length > 20) expect(inspect(error, { depth: 10 })).not.toContain(token);
  });

  it('T-B07: believes nothing but the very text that was signed', async () => {
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    const token = job();
    const verifier = createOidcCiVerifier({ clock: createTestClock(), trusts: [release] }, () => keysOf(main, other));
    let refusals = 0;
    for (let place = 0; place < token.length; place += 1) {
      const at64 = alphabet.indexOf(token[place] ?? '');
      const changed = `${token.slice(0, place)}${at64 < 0 ? '-' : alphabet[(at64 + 1 + (place % 63)) % 64]}${token.slice(place + 1)}`;
      const shown = verifier.verify(Buffer.from(JSON.stringify({ token: changed })), () => Promise.reject(new Error()), { trustDomain: exampleOrg, remoteAddress: '', at });
      refusals += await shown.then(
        () => 0,
        (error: unknown) => (error instanceof SpiffeError ? 1 : 0),
      );
    }
    expect(token.length).toBeGreaterThan(1_000);
    expect(refusals).toBe(token.length);
    const [others, forged] = [other.sign(claims()).split('.'), foreign.sign(claims()).split('.')];
    for (const parts of [[goodHeader, goodPayload, others[2]], [others[0], goodPayload, goodSignature], [goodHeader, forged[1], forged[2]]]) {
      await expect(show(parts.join('.'))).rejects.toMatchObject({ kind: 'denied' });
    }
  });

  it('refuses a key ID that two keys have, and tells keys of one ID apart by their kind', async () => {
    await expect(show(job(), { keys: keysOf(main, foreign) })).rejects.toMatchObject({ reason: 'oidc-ci.key' });
    const twin = signerOf('key-1', 'ES256', other.privateKey);
    await expect(show(job(), { keys: keysOf(main, twin) })).resolves.toBeDefined();
  });

  const payloads: readonly (readonly [what: string, payload: string])[] = [
    ['no JSON', '{'],
    ['a list', '[]'],
    ['the token alone', job()],
    ['two tokens', `{"token":"a","token":"${job()}"}`],
    ['a trust that is no text', `{"token":"${job()}","trust":["release"]}`],
    ['null for a trust', `{"token":"${job()}","trust":null}`],
    ['T-B05: 100 kB', ' '.repeat(100_000)],
  ];
  it.each(payloads)('refuses evidence that is %s', async (_what, payload) => {
    await expect(showPayload(Buffer.from(payload))).rejects.toMatchObject({ kind: 'invalid', reason: 'oidc-ci.malformed' });
  });

  it('asks for keys of issuers that are trusted, and for no others', async () => {
    const asked: (string | undefined)[] = [];
    const known = keysOf(main, other);
    const spied: IssuerKeys = { current: (keyId) => (asked.push(keyId), known.current(keyId)) };
    for (const token of [job({ iss: 'https://evil.example' }), signShared('x', claims(), hs), job({}, { jku: 'https://evil.example' })]) {
      await expect(show(token, { keys: spied })).rejects.toBeInstanceOf(SpiffeError);
    }
    expect(asked).toEqual([]);
    await show(job(), { keys: spied });
    expect(asked).toEqual(['key-1']);
  });

  it('says that it cannot judge while there are no keys', async () => {
    const none: IssuerKeys = createIssuerKeys({ clock: createTestClock(), load: () => Promise.reject(new SpiffeError('unavailable', 'http.unreachable', 'no')), freshMs: 1 });
    await expect(show(job(), { keys: none })).rejects.toMatchObject({ kind: 'unavailable', reason: 'oidc-ci.keys', detail: { because: 'http.unreachable' } });
  });
});
