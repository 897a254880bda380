import { expect, it } from 'vitest';

import { dnsNameFault } from '../../spiffe/dns-name.ts';

const label63 = 'a'.repeat(63);
const name253 = `${label63}.${label63}.${label63}.${'a'.repeat(61)}`;

it.each(['com', 'example.com', '*.example.com', 'a-hello.com', '1.2', 'a--b.com', '0', label63, name253, '*.com'])(
  'allows %s',
  (name) => {
    expect(dnsNameFault(name)).toBeUndefined();
  },
);

it.each([
  ['', 'empty domain'],
  [' ', 'labels are limited to lowercase letters, numbers, and inner dashes'],
  ['.', 'domain ends with dot'],
  ['example.com.', 'domain ends with dot'],
  ['.example.com', 'empty label'],
  ['a..b', 'empty label'],
  ['*.foo.*.bar', 'too many wildcards'],
  ['**.foo', 'too many wildcards'],
  ['foo.*.bar', 'wildcard must be first label'],
  ['foo*.bar', 'wildcard must be first label'],
  ['*foo.bar', 'wildcard must be first label'],
  ['*', 'wildcard must be first label'],
  ['*.', 'domain ends with dot'],
  ['-hello.com', 'labels are limited to lowercase letters, numbers, and inner dashes'],
  ['hello-.com', 'labels are limited to lowercase letters, numbers, and inner dashes'],
  ['Example.com', 'labels are limited to lowercase letters, numbers, and inner dashes'],
  ['exa_mple.com', 'labels are limited to lowercase letters, numbers, and inner dashes'],
  ['exämple.com', 'labels are limited to lowercase letters, numbers, and inner dashes'],
  ['example.com\n', 'labels are limited to lowercase letters, numbers, and inner dashes'],
  ['example.com\0.evil', 'labels are limited to lowercase letters, numbers, and inner dashes'],
  ['https://example.com', 'labels are limited to lowercase letters, numbers, and inner dashes'],
  ['xn--ls8h.org', 'no punycode or otherwise reserved label'],
  ['example.xn--p1ai', 'no punycode or otherwise reserved label'],
  ['ab--c.com', 'no punycode or otherwise reserved label'],
  [`${label63}a`, 'label longer than 63 characters'],
  [`${name253}a`, 'longer than 253 characters'],
])('refuses %j: %s', (name, fault) => {
  expect(dnsNameFault(name)).toBe(fault);
});
