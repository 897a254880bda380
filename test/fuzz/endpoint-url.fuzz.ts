/**
 * Any text as the URL of a bundle endpoint, and any as the host that is asked for pages: refused, or what everybody else
 * would read in it; and any address is of one scope, however it is written.
 */
import { addressScope, canonicalAddress, networkOf } from '../../runtime/http-address.ts';
import { checkEndpointUrl } from '../../runtime/http-bundle.ts';
import { createWatch } from '../../runtime/watch.ts';
import { oidcPages } from '../../server/federation/oidc.ts';
import { emptyBundle } from '../../spiffe/bundle.ts';
import { parseTrustDomain } from '../../spiffe/id.ts';
import { expected } from './expected.ts';

export const name = 'endpoint-url';

const host = 'oidc.example.org';
const pages = oidcPages({
  issuer: `https://${host}`,
  jwksUrl: undefined,
  domains: [],
  bundle: createWatch(emptyBundle(parseTrustDomain('example.org'))),
  maxAgeSeconds: 1,
});

export function corpus(): Uint8Array[] {
  return [
    'https://example.org/',
    'HTTPS://Example.ORG:8443/a/../b?c=d#e',
    'https://user:password@example.org/',
    'https://@example.org/',
    'https:\\\\example.org\\@evil.test',
    'https://[::ffff:127.0.0.1]:443/',
    'https://0x7f.1/',
    'https://example.org.\t/',
    'http://example.org/',
    '::ffff:169.254.169.254',
    '64:ff9b::a00:1',
    'fe80::1%eth0',
    '2001:db8::1',
    host,
    `${host}:8443`,
    `${host}.`,
    `${host}@evil.test`,
    'oidc%2Eexample.org',
    'https://ex%61mple.org/',
  ].map((text) => Buffer.from(text));
}

export function run(input: Uint8Array): void {
  const text = Buffer.from(input).toString('utf8');
  const url = expected(() => checkEndpointUrl(text));
  if (url !== undefined) {
    const authority = /^https:\/\/([^/?#]*)/i.exec(text)?.[1] ?? '';
    if (url.protocol !== 'https:' || url.username !== '' || url.password !== '' || url.hostname === '') throw new Error('a URL that is none');
    if (authority === '' || /[@%\\\s]/.test(authority)) throw new Error('another host than was written');
  }
  const address = canonicalAddress(text);
  if (address !== undefined) {
    if (canonicalAddress(address) !== address) throw new Error('written in two ways');
    if (addressScope(address) !== addressScope(canonicalAddress(`[${address}]`) ?? '')) throw new Error('of two scopes');
    if (networkOf(text) !== networkOf(address)) throw new Error('of two networks');
  }
  const page = pages('/.well-known/openid-configuration', text);
  if ('body' in page && !/^oidc\.example\.org(?::\d*)?$/.test(text.toLowerCase())) throw new Error('shown to another host');
}
