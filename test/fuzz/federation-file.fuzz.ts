/**
 * Any text as a file of federation relationships, through the YAML parser as the command reads it: items of the declared
 * shape, bundles of which the text can be read again, or refused.
 */
import { readRelationships } from '../../cli/federation-file.ts';
import { expected } from './expected.ts';

export const name = 'federation-file';

const key = '{"use":"x509-svid","kty":"EC","crv":"P-256","x":"fK-w","y":"wq-g","x5c":["MIIB"]}';

export function corpus(): Uint8Array[] {
  return [
    '[{"trustDomain":"far.example","bundleEndpointUrl":"https://far.example/","bundleEndpointProfile":"https_web"}]',
    '- trustDomain: far.example\n  bundleEndpointURL: https://far.example/\n  bundleEndpointProfile: https_spiffe\n  endpointSpiffeID: spiffe://far.example/b\n',
    `{"federationRelationships":[{"trustDomain":"a","bundleEndpointURL":"u","bundleEndpointProfile":"https_spiffe","endpointSPIFFEID":"i","trustDomainBundle":{"keys":[${key}],"spiffe_sequence":18446744073709551615},"trustDomainBundleFormat":"spiffe"}]}`,
    '[{"trustDomain":"a","bundleEndpointURL":"u","bundleEndpointProfile":"https_web","trustDomainBundle":"-----BEGIN CERTIFICATE-----","trustDomainBundleFormat":"pem","state":{}}]',
    '{"FEDERATIONRELATIONSHIPS":[],"federationRelationships":[{"TRUSTDOMAIN":"a","trustDomain":"b"}]}',
    '__proto__: {polluted: 1}\nfederationRelationships: [{__proto__: {polluted: 1}, trustDomain: a}]\n',
    'a: &a [x]\nfederationRelationships: [*a, *a]\n',
    '[{"trustDomain":"a","bundleEndpointURL":"u","bundleEndpointProfile":"https_web","trustDomainBundle":{"a":.nan,"b":0x10,"c":!!binary aGk=}}]',
  ].map((text) => Buffer.from(text));
}

export function run(input: Uint8Array): void {
  const text = Buffer.from(input).toString('utf8');
  for (const item of expected(() => readRelationships(text, 'input')) ?? []) {
    if (typeof item.trustDomain !== 'string' || typeof item.endpointUrl !== 'string') throw new Error('an item without its fields');
    if (item.bundle !== undefined && typeof item.bundle.text !== 'string') throw new Error('a bundle that is no text');
  }
  if ('polluted' in {}) throw new Error('Object.prototype was changed');
}
