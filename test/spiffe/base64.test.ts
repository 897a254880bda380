import fc from 'fast-check';
import { expect, it } from 'vitest';

import { decodeBase64, decodeBase64url, encodeBase64, encodeBase64url } from '../../spiffe/base64.ts';

it('comes back as it was', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 70 }), (bytes) => {
      expect(decodeBase64(encodeBase64(bytes))).toEqual(Buffer.from(bytes));
      expect(decodeBase64url(encodeBase64url(bytes))).toEqual(Buffer.from(bytes));
    }),
  );
});

it.each([
  'A',
  'AA',
  'AAA',
  'AA=',
  'AB==',
  'AAB=',
  'AA==\n',
  ' AA==',
  'AA== ',
  'AAAA====',
  '_-8=',
  'A===',
  '=',
  'AA==AA==',
  'é===',
])('T-10: refuses %j in the standard alphabet', (text) => {
  expect(decodeBase64(text)).toBeUndefined();
});

it.each(['A', 'AA==', 'AB', 'AAB', '+/8', 'AA\n', ' AA', 'AAAAA', 'AA.', '='])('T-10: refuses %j in the URL alphabet', (text) => {
  expect(decodeBase64url(text)).toBeUndefined();
});

it('encodes a part of a larger buffer alone', () => {
  expect(encodeBase64url(Uint8Array.of(0, 251, 255, 0).subarray(1, 3))).toBe('-_8');
});
