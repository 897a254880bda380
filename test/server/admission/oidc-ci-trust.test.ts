import { describe, expect, it } from 'vitest';
import { checkTrusts, type OidcCiTrust } from '../../../server/admission/oidc-ci-trust.ts';

const trust: OidcCiTrust = {
  name: 'release',
  issuer: 'https://ci.example',
  audience: 'steeple',
  subject: 'repo:octo-org/octo-repo:ref:refs/heads/main',
  claims: { workflow: 'release' },
  keys: { discovery: true },
};
const config = expect.objectContaining({ kind: 'invalid', reason: 'oidc-ci.config' }) as Error;
const check = (...trusts: readonly Partial<OidcCiTrust>[]) => () => checkTrusts(trusts.map((changed) => ({ ...trust, ...changed })));

describe('checkTrusts', () => {
  it.each([
    ['an issuer with a path', { issuer: 'https://oidc.ci.example/org/1a2b' }],
    ['an issuer with a path and a slash', { issuer: 'https://gitlab.example/ci/' }],
    ['an issuer with a port', { issuer: 'https://ci.example:8443' }],
    ['an issuer with a slash', { issuer: 'https://ci.example/' }],
    ['an environment with a colon', { subject: 'repo:octo-org/octo-repo:environment:prod%3Aeu' }],
    ['a project of GitLab', { subject: 'project_path:group/sub/my.project-1:ref_type:branch:ref:release/1.2+rc' }],
    ['words', { subject: 'sc://Org/My Project/connection' }],
    ['an audience that is a URL', { audience: 'https://steeple.example' }],
    ['keys in a file', { keys: { jwksFile: '/etc/keys.json' } }],
    ['keys on another host', { keys: { discovery: true, jwksHost: 'keys.ci.example:8443' } }],
    ['no claims', { claims: {} }],
  ] as const)('takes %s', (_what, changed) => {
    expect(check(changed)).not.toThrow();
  });

  const refused: readonly (readonly [what: string, changed: Partial<OidcCiTrust>])[] = [
    ['any subject', { subject: '*' }],
    ['any branch', { subject: 'repo:octo-org/octo-repo:*' }],
    ['any repository', { subject: 'repo:octo-org/*:ref:refs/heads/main' }],
    ['any one character', { subject: 'repo:octo-org/octo-repo:ref:refs/heads/mai?' }],
    ['a choice', { subject: 'repo:octo-org/octo-repo:ref:refs/heads/[mn]ain' }],
    ['an alternative', { subject: 'repo:octo-org/a|repo:octo-org/b' }],
    ['an expression', { subject: '^repo:octo-org/octo-repo:ref:refs/heads/main' }],
    ['an expression that ends', { subject: 'repo:octo-org/octo-repo:ref:refs/heads/main$' }],
    ['one or more of anything', { subject: 'repo:octo-org/octo-repo:.+' }],
    ['an escape', { subject: 'repo:octo-org/octo\\-repo' }],
    ['a template', { subject: 'repo:octo-org/{repo}:ref:refs/heads/main' }],
    ['a blank to fill in', { subject: 'repo:<org>/<repo>:ref:refs/heads/main' }],
    ['an empty subject', { subject: '' }],
    ['a subject with a line end', { subject: `${trust.subject}\n` }],
    ['a subject with a space behind it', { subject: `${trust.subject} ` }],
    ['a subject with an unseen character', { subject: 'repo:octo-org/octo\u200b-repo' }],
    ['a subject that reads backwards', { subject: 'repo:octo-org/\u202eoper' }],
    ['a subject with a no-break space', { subject: 'repo:octo\u00a0org' }],
    ['a subject in another form', { subject: 'repo:octo-org/cafe\u0301' }],
    ['a subject of 2 kB', { subject: 'x'.repeat(2_000) }],
    ['any audience', { audience: '*' }],
    ['no audience', { audience: '' }],
    ['any value of a claim', { claims: { workflow: '*' } }],
    ['an empty value of a claim', { claims: { workflow: '' } }],
    ['an empty name of a claim', { claims: { '': 'x' } }],
    ['the subject as a claim', { claims: { sub: 'x' } }],
    ['the issuer as a claim', { claims: { iss: 'x' } }],
    ['the audience as a claim', { claims: { aud: 'x' } }],
    ['http', { issuer: 'http://ci.example' }],
    ['a host alone', { issuer: 'ci.example' }],
    ['any issuer', { issuer: 'https://*.ci.example' }],
    ['an issuer with a query', { issuer: 'https://ci.example/?a=b' }],
    ['an issuer with a password', { issuer: 'https://user:password@ci.example' }],
    ['an issuer in other letters', { issuer: 'https://CI.example' }],
    ['an issuer with its usual port', { issuer: 'https://ci.example:443' }],
    ['an issuer that climbs', { issuer: 'https://ci.example/a/../b' }],
    ['T-B03: a name with a slash', { name: 'a/b' }],
    ['T-B03: a name that climbs', { name: '..' }],
    ['an empty name', { name: '' }],
    ['a host for keys that is a URL', { keys: { discovery: true, jwksHost: 'https://ci.example' } }],
    ['a host for keys in other letters', { keys: { discovery: true, jwksHost: 'Keys.example' } }],
    ['an age that is none', { maxTokenAgeMs: -1 }],
    ['an age that is no number', { maxTokenAgeMs: Number.NaN }],
  ];
  it.each(refused)('NHI6: refuses %s', (_what, changed) => {
    expect(check(changed)).toThrow(config);
  });

  it('refuses one name for two', () => {
    expect(check({}, { subject: 'other' })).toThrow(config);
    expect(check({}, { subject: 'other', name: 'other' })).not.toThrow();
  });

  it('refuses two ways to the keys of one issuer', () => {
    expect(check({}, { name: 'b', subject: 'b', keys: { jwksFile: '/etc/keys.json' } })).toThrow(config);
    expect(check({}, { name: 'b', subject: 'b', keys: { discovery: true, jwksHost: 'keys.example' } })).toThrow(config);
    expect(check({}, { name: 'b', subject: 'b', issuer: 'https://b.example', keys: { jwksFile: '/etc/keys.json' } })).not.toThrow();
  });

  it('refuses two that believe the same token, which could then be used with each', () => {
    expect(check({}, { name: 'b' })).toThrow(config);
    expect(check({}, { name: 'b', claims: {} })).toThrow(config);
    expect(check({}, { name: 'b', claims: { environment: 'production' } })).toThrow(config);
    expect(check({}, { name: 'b', claims: { workflow: 'build' } })).not.toThrow();
    expect(check({}, { name: 'b', audience: 'another' })).not.toThrow();
    expect(check({ claims: {} }, { name: 'b', claims: { constructor: 'x' } })).toThrow(config);
  });
});
