import { describe, expect, it } from 'vitest';
import { ConfigError } from '../../../runtime/config.ts';
import { formatServerConfig, parseServerConfig, restartKeys } from '../../../server/config.ts';
import { publicationLeadMs } from '../../../server/federation/config.ts';

const least = 'trust_domain: example.org\n';
const oidc = 'certificate_file: /c.pem, key_file: /k.pem, issuer: "https://oidc.example.org"';
const issuer = 'svids: { jwt_issuer: "https://oidc.example.org" }\n';

function problemsOf(text: string): readonly (readonly [string, string])[] {
  try {
    parseServerConfig(`${least}${text}`);
  } catch (error) {
    if (error instanceof ConfigError) return error.problems.map(({ path, message }) => [path, message]);
    throw error;
  }
  return [];
}

describe('what is shown to everybody', () => {
  it('is nothing unless configured', () => {
    const config = parseServerConfig(least);
    expect(config.federation.endpoint).toBeUndefined();
    expect(config.oidc).toBeUndefined();
    expect(publicationLeadMs(config, 'x509')).toBe(0);
    expect(publicationLeadMs(config, 'jwt')).toBe(0);
  });

  it('has defaults', () => {
    const config = parseServerConfig(`${least}${issuer}federation: { endpoint: {} }\noidc: { ${oidc} }\n`);
    expect(config.federation.endpoint).toEqual({ address: '0.0.0.0', port: 8443, profile: { type: 'https_spiffe' }, refresh_hint: 300_000 });
    expect(config.oidc).toEqual({
      address: '0.0.0.0',
      port: 443,
      certificate_file: '/c.pem',
      key_file: '/k.pem',
      issuer: 'https://oidc.example.org',
      domains: [],
      max_age: 300_000,
    });
  });

  it('is printed so that it reads the same', () => {
    const text = `${least}${issuer}federation: { endpoint: { profile: { type: https_web, certificate_file: /c.pem, key_file: /k.pem }, refresh_hint: 90s } }\noidc: { ${oidc}, jwks_url: "https://cdn.example/keys", max_age: 2m }\n`;
    const config = parseServerConfig(text);
    expect(parseServerConfig(formatServerConfig(config))).toEqual(config);
    expect(restartKeys(parseServerConfig(`${least}${issuer}`), config)).toEqual(['federation', 'oidc']);
  });

  it.each([
    ['federation: { endpoint: { profile: { type: https_web } } }', 'federation.endpoint.profile.certificate_file', 'is required'],
    ['federation: { endpoint: { profile: { type: https_spiffe, key_file: /k.pem } } }', 'federation.endpoint.profile.key_file', 'unknown key'],
    ['federation: { endpoint: { refresh_hint: 1500ms } }', 'federation.endpoint.refresh_hint', 'must be whole seconds'],
    ['federation: { endpoint: { refresh_hint: 0s } }', 'federation.endpoint.refresh_hint', 'must be at least 1s'],
    ['federation: { endpoint: { refresh_hint: 3h } }', 'federation.endpoint.refresh_hint', 'must not be longer than a ninth of authorities.x509.ttl'],
    ['authorities: { wit: { ttl: 30m } }\nsvids: { wit_ttl: 5m }\nfederation: { endpoint: {} }', 'federation.endpoint.refresh_hint', 'must not be longer than a ninth of authorities.wit.ttl'],
    [`oidc: { ${oidc} }`, 'oidc.issuer', 'must be what svids.jwt_issuer says, to the character'],
    [`svids: { jwt_issuer: "https://oidc.example.org/" }\noidc: { ${oidc} }`, 'oidc.issuer', 'must be what svids.jwt_issuer says, to the character'],
    [`${issuer}oidc: { ${oidc}, max_age: 3h }`, 'oidc.max_age', 'must not be longer than a ninth of authorities.jwt.ttl'],
    [`${issuer}oidc: { ${oidc}, domains: ["a b"] }`, 'oidc.domains[0]', 'must be a host name'],
    [`${issuer}oidc: { ${oidc}, jwks_url: "http://x/keys" }`, 'oidc.jwks_url', 'the address of the keys is an https URL without query, fragment or user information'],
    ['oidc: { certificate_file: /c.pem, key_file: /k.pem, issuer: example.org }', 'oidc.issuer', 'an issuer is an https URL without query, fragment or user information'],
  ])('%s is told to be wrong', (text, path, message) => {
    expect(problemsOf(text)).toContainEqual([path, message]);
  });
});

describe('FED-02: the time between publishing a key and signing with it', () => {
  it.each([
    ['federation: { endpoint: { refresh_hint: 1m } }', 180_000, 180_000],
    [`${issuer}oidc: { ${oidc}, max_age: 10m }`, 0, 1_800_000],
    [`${issuer}federation: { endpoint: { refresh_hint: 20m } }\noidc: { ${oidc}, max_age: 10m }`, 3_600_000, 3_600_000],
  ])('is three times what others wait before they look again: %s', (text, x509, jwt) => {
    const config = parseServerConfig(`${least}${text}`);
    expect(publicationLeadMs(config, 'x509')).toBe(x509);
    expect(publicationLeadMs(config, 'jwt')).toBe(jwt);
  });
});
