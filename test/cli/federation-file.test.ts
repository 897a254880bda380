import { describe, expect, it } from 'vitest';
import { readRelationships } from '../../cli/federation-file.ts';

const web = { trustDomain: 'far.example', bundleEndpointURL: 'https://far.example/', bundleEndpointProfile: 'https_web' };

describe('readRelationships', () => {
  it('reads our words and SPIRE’s, in YAML and JSON', () => {
    const yaml = '- trustDomain: far.example\n  bundleEndpointUrl: https://far.example/\n  bundleEndpointProfile: https_web\n';
    const expected = [{ trustDomain: 'far.example', endpointUrl: 'https://far.example/', profile: 'https_web', endpointId: undefined, bundle: undefined }];
    expect(readRelationships(yaml, 'f')).toEqual(expected);
    expect(readRelationships(JSON.stringify({ federationRelationships: [web] }), 'f')).toEqual(expected);
  });

  it('BUNDLE-04: keeps every digit of a bundle that is written out', () => {
    const text = `{"federationRelationships":[{"trustDomain":"far.example","bundleEndpointURL":"https://far.example/","bundleEndpointProfile":"https_web","trustDomainBundle":{"keys":[{"a":[1.5,null,true,"x"]}],"spiffe_sequence":18446744073709551615}}]}`;
    expect(readRelationships(text, 'f')[0]?.bundle).toEqual({ format: 'spiffe', text: '{"keys":[{"a":[1.5,null,true,"x"]}],"spiffe_sequence":18446744073709551615}' });
  });

  it.each([
    ['syntax', '{', 'cli.federation-file.syntax'],
    ['no list', '{"entries": []}', 'cli.federation-file.shape'],
    ['nothing', '', 'cli.federation-file.shape'],
    ['an unknown key', JSON.stringify([{ ...web, extra: 1 }]), 'cli.federation-file.shape'],
    ['an unknown profile', JSON.stringify([{ ...web, bundleEndpointProfile: 'http' }]), 'cli.federation-file.shape'],
    ['no object', '[1]', 'cli.federation-file.shape'],
  ])('refuses %s', (_name, text, reason) => {
    expect(() => readRelationships(text, 'f')).toThrow(expect.objectContaining({ kind: 'invalid', reason }) as Error);
  });
});
