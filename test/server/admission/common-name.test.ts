import { describe, expect, it } from 'vitest';
import { commonNameOf } from '../../../server/admission/common-name.ts';
import { encode, encodeOid, encodeSequence, encodeSet } from '../../../spiffe/x509/der-writer.ts';
import { derTag } from '../../../spiffe/x509/der.ts';
import { encodeName } from '../../../spiffe/x509/encoded.ts';
import { oid } from '../../../spiffe/x509/names.ts';

describe('commonNameOf', () => {
  it.each([
    ['none', encodeName([[oid.organization, 'Acme']]), ''],
    ['an empty name', encodeName([]), ''],
    ['one', encodeName([[oid.organization, 'Acme'], [oid.commonName, 'node-1']]), 'node-1'],
    ['the last of several', encodeName([[oid.commonName, 'first'], [oid.commonName, 'last']]), 'last'],
    ['more than ASCII', encodeName([[oid.commonName, 'knöten']]), 'knöten'],
    [
      'two attributes in one set',
      encodeSequence(encodeSet(encodeSequence(encodeOid(oid.organization), encode(derTag.utf8String, Buffer.from('Acme'))), encodeSequence(encodeOid(oid.commonName), encode(derTag.utf8String, Buffer.from('n'))))),
      'n',
    ],
    ['an encoding nobody uses', encodeSequence(encodeSet(encodeSequence(encodeOid(oid.commonName), encode(derTag.bmpString, Buffer.from('\0n'))))), ''],
  ] as const)('finds %s', (_name, name, expected) => {
    expect(commonNameOf(name)).toBe(expected);
  });
});
