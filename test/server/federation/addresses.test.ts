import { describe, expect, it } from 'vitest';
import { addressFilter, parseSubnet } from '../../../server/federation/addresses.ts';

const standard = addressFilter({ private: true, allow: [] });

describe('addressFilter', () => {
  it.each([
    ['a public address', '8.8.8.8', true],
    ['a public address of the new kind', '2a00:1450:4001::1', true],
    ['a network of the organisation', '10.20.30.40', true],
    ['a network of the organisation, of the new kind', 'fd12:3456::1', true],
    ['this machine', '127.0.0.1', false],
    ['this machine, by another of its names', '127.8.8.8', false],
    ['this machine, by zero', '0.0.0.0', false],
    ['this machine, of the new kind', '::1', false],
    ['this machine, mapped', '::ffff:127.0.0.1', false],
    ['this machine, mapped and in hex', '::ffff:7f00:1', false],
    ['this machine, through a translator', '64:ff9b::7f00:1', false],
    ['this machine, through a tunnel', '2002:7f00:1::', false],
    ['the metadata service', '169.254.169.254', false],
    ['the metadata service, mapped', '::ffff:a9fe:a9fe', false],
    ['the metadata service, of the new kind', 'fd00:ec2::254', false],
    ['the link', 'fe80::1%eth0', false],
    ['everybody', '224.0.0.1', false],
    ['no address', 'localhost', false],
  ])('T-B06: %s', (_name, address, expected) => {
    expect(standard(address)).toBe(expected);
  });

  it.each([
    ['10.20.30.40', false],
    ['fd12:3456::1', false],
    ['::ffff:192.168.1.1', false],
    ['8.8.8.8', true],
  ])('T-B06: with private addresses forbidden, %s is %s', (address, expected) => {
    expect(addressFilter({ private: false, allow: [] })(address)).toBe(expected);
  });

  it.each([
    ['127.0.0.1', true],
    ['::ffff:127.0.0.1', true],
    ['127.0.0.2', false],
    ['10.1.255.1', true],
    ['10.2.0.1', false],
    ['::1', false],
  ])('what is allowed by name is no more than that: %s', (address, expected) => {
    expect(addressFilter({ private: false, allow: ['127.0.0.1', '10.1.0.0/16'] })(address)).toBe(expected);
  });
});

describe('parseSubnet', () => {
  it.each([
    ['10.1.0.0/16', { prefix: '10.1.0.0', bits: 16, family: 'ipv4' }],
    ['127.0.0.1', { prefix: '127.0.0.1', bits: 32, family: 'ipv4' }],
    ['fd00::/8', { prefix: 'fd00::', bits: 8, family: 'ipv6' }],
    ['0.0.0.0/0', { prefix: '0.0.0.0', bits: 0, family: 'ipv4' }],
  ])('%s', (text, expected) => {
    expect(parseSubnet(text)).toEqual(expected);
  });

  it.each(['', 'far.example', '10.0.0.0/33', '10.0.0.0/', '10.0.0.0/1/2', '10.0.0.0/-1', '10.0/8', 'fe80::1%eth0', '::/129'])('refuses %j', (text) => {
    expect(() => parseSubnet(text)).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'federation.subnet' }) as Error);
  });
});
