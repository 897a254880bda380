import { describe, expect, it } from 'vitest';
import { addressScope, canonicalAddress, networkOf } from '../../runtime/http-address.ts';

describe('canonicalAddress', () => {
  it.each([
    ['10.0.0.1', '10.0.0.1'],
    ['::FFFF:10.0.0.1', '10.0.0.1'],
    ['::ffff:a9fe:a9fe', '169.254.169.254'],
    ['0:0:0:0:0:ffff:7f00:1', '127.0.0.1'],
    ['2001:DB8:0:0:0:0:0:1', '2001:db8::1'],
    ['[::1]', '::1'],
    ['fe80::1%eth0', 'fe80::1'],
    ['::', '::'],
  ])('writes %s as %s', (text, expected) => {
    expect(canonicalAddress(text)).toBe(expected);
  });

  it.each(['', 'example.org', '10.0.0', '1.2.3.4.5', ':::'])('knows that %j is none', (text) => {
    expect(canonicalAddress(text)).toBeUndefined();
  });
});

describe('networkOf', () => {
  it.each([
    ['10.0.0.1', '10.0.0.1'],
    ['::ffff:10.0.0.1', '10.0.0.1'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
    ['2001:db8:1:2::1', '2001:db8:1:2'],
    ['2001:db8::1', '2001:db8:0:0'],
    ['fe80::1%eth0', 'fe80:0:0:0'],
    ['', ''],
  ])('of %j is %j', (address, expected) => {
    expect(networkOf(address)).toBe(expected);
  });
});

describe('addressScope', () => {
  it.each([
    ['0.0.0.0', 'local'],
    ['127.0.0.1', 'local'],
    ['127.255.255.254', 'local'],
    ['169.254.169.254', 'local'],
    ['::1', 'local'],
    ['::', 'local'],
    ['fe80::a9fe:a9fe', 'local'],
    ['fd00:ec2::254', 'local'],
    ['100.100.100.200', 'local'],
    ['168.63.129.16', 'local'],
    ['10.255.0.1', 'private'],
    ['100.64.0.1', 'private'],
    ['172.31.255.255', 'private'],
    ['192.168.0.1', 'private'],
    ['fd12::1', 'private'],
    ['192.0.2.1', 'reserved'],
    ['224.0.0.1', 'reserved'],
    ['255.255.255.255', 'reserved'],
    ['ff02::1', 'reserved'],
    ['2001:db8::1', 'reserved'],
    ['4000::1', 'reserved'],
    ['172.32.0.1', 'public'],
    ['8.8.8.8', 'public'],
    ['2606:4700::1111', 'public'],
    // Wrapped for a translator or a tunnel, it leads to where the inner one does.
    ['64:ff9b::7f00:1', 'local'],
    ['64:ff9b::a9fe:a9fe', 'local'],
    ['64:ff9b::808:808', 'public'],
    ['2002:a00:1::1', 'private'],
    ['::a00:1', 'private'],
  ] as const)('of %s is %s', (address, scope) => {
    expect(addressScope(address)).toBe(scope);
  });
});
