import { describe, expect, it } from 'vitest';
import {
  hasAnyAttribute,
  hasAttributes,
  nameOf,
  objectAttribute,
  padded,
  pointOf,
  readCertified,
  readPublicArea,
  readSignature,
  subjectPublicKeyInfo,
  withoutSize,
} from '../../../runtime/tpm/structures.ts';
import { encodeSequence, encodeUnsigned } from '../../../spiffe/x509/der-writer.ts';
import { areaName, areaOf, keyAttributes, signatureOf, softAttestationKey, softEndorsementKey, softKey, statementOf } from '../../help/tpm.ts';

const hex = (text: string): Buffer => Buffer.from(text, 'hex');
const long = (...lines: readonly string[]): Buffer => hex(lines.join(''));

/** Endorsement keys of an emulated TPM, as tpm2_readpublic tells them. */
const recorded = [
  {
    kind: 'RSA',
    area: long(
      '0001000b000300b20020837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa00060080004300100800000000000100ebc3',
      'a2c06f745499959bc8abe2d4182a83931e778a88ff939c027f55d9e3bc24ed553033176a8b8aa15819a56f974af84c93f704ac39771f7c4a8e892c44',
      '1579c69cfff530ba4147cdb23b61a36ecdc8e672abeb304bb0e1328ce8cd30f6e3463a34317e3dd0488b2e00272132f58ea9fb95252ece40fb50ae6d',
      '871737ffde9b05ccde54d1a64b39898a99f023be4278b17573d788e37a399eda436c506c7b69cda4b95bf43a9f4d86fd143e6d5c51ce2f3ce7d241e6',
      '9ac0d8aa1e2923957dc6c2f174142460a0cdae3e516066c3850869b2961fe58acd75148893741ae43b2b690b7d626f20e3c00267311106adb3c96014',
      '67067df441aa28e7653ba464ccbd',
    ),
    name: '000bff1259f7d2564a1ff4dc3b85345ec2a927bd006d9d9082a3d71529ac0ddb400b',
    spki: long(
      '30820122300d06092a864886f70d01010105000382010f003082010a0282010100ebc3a2c06f745499959bc8abe2d4182a83931e778a88ff939c027f',
      '55d9e3bc24ed553033176a8b8aa15819a56f974af84c93f704ac39771f7c4a8e892c441579c69cfff530ba4147cdb23b61a36ecdc8e672abeb304bb0',
      'e1328ce8cd30f6e3463a34317e3dd0488b2e00272132f58ea9fb95252ece40fb50ae6d871737ffde9b05ccde54d1a64b39898a99f023be4278b17573',
      'd788e37a399eda436c506c7b69cda4b95bf43a9f4d86fd143e6d5c51ce2f3ce7d241e69ac0d8aa1e2923957dc6c2f174142460a0cdae3e516066c385',
      '0869b2961fe58acd75148893741ae43b2b690b7d626f20e3c00267311106adb3c9601467067df441aa28e7653ba464ccbd0203010001',
    ),
    facts: { nameHash: 'sha256', attributes: 0x300b2, aesBits: 128, scheme: undefined },
  },
  {
    kind: 'P-384',
    area: long(
      '0023000c000300f20030b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e120006',
      '0100004300100004001000300c9ca20c8f71fe5b8eaece10de86c6813083423b41e6e1202cfa0aa569a72c973136f50e7a2d19388a11d55dac346e47',
      '0030c6042e72077d720efa9c5401c4a10aa585e2f9aeeb4a2fc7b30f09fc9ab21d7e8c95e4e96250b4c4704d397d269de044',
    ),
    name: '000c070a40daccad378c5b4a14a6dbc6d5037bd7d4ac86dd8eabc86e7b7420358d444dec435064911ccd30ddf9d1cb02d895',
    spki: long(
      '3076301006072a8648ce3d020106052b81040022036200040c9ca20c8f71fe5b8eaece10de86c6813083423b41e6e1202cfa0aa569a72c973136f50e',
      '7a2d19388a11d55dac346e47c6042e72077d720efa9c5401c4a10aa585e2f9aeeb4a2fc7b30f09fc9ab21d7e8c95e4e96250b4c4704d397d269de044',
    ),
    facts: { nameHash: 'sha384', attributes: 0x300f2, aesBits: 256, scheme: undefined },
  },
];

describe('readPublicArea', () => {
  it.each(recorded)('reads, names and writes out the $kind key of a TPM', ({ area: bytes, name, spki, facts }) => {
    const area = readPublicArea(bytes);
    expect(area).toMatchObject(facts);
    expect(nameOf(area)).toEqual(hex(name));
    expect(Buffer.from(subjectPublicKeyInfo(area.key))).toEqual(spki);
  });

  it.each(['rsa', 'P-256', 'P-384'] as const)('reads a signing key of %s', (kind) => {
    const key = softKey(kind, { attributes: keyAttributes.attestation, scheme: kind === 'rsa' ? [0x0016, 0x000c] : [0x0018, 0x000c], nameHash: 0x000c });
    const area = readPublicArea(key.area);
    expect(area).toMatchObject({ nameHash: 'sha384', aesBits: undefined, scheme: { algorithm: kind === 'rsa' ? 'rsapss' : 'ecdsa', hash: 'sha384' } });
    expect(Buffer.from(subjectPublicKeyInfo(area.key))).toEqual(key.publicKey.export({ type: 'spki', format: 'der' }));
    expect(nameOf(area)).toEqual(areaName(key.area));
    expect(hasAttributes(area, objectAttribute.restricted | objectAttribute.sign)).toBe(true);
    expect(hasAttributes(area, objectAttribute.sign | objectAttribute.decrypt)).toBe(false);
    expect(hasAnyAttribute(area, objectAttribute.sign | objectAttribute.decrypt)).toBe(true);
    expect(hasAnyAttribute(area, objectAttribute.stClear | objectAttribute.decrypt)).toBe(false);
  });

  const { area } = softEndorsementKey('rsa');
  const ecc = softEndorsementKey('P-256').area;
  const at = (bytes: Uint8Array, place: number, ...octets: readonly number[]): Buffer => {
    const copy = Buffer.from(bytes);
    copy.set(octets, place);
    return copy;
  };
  // Where things stand behind a policy of 32 octets: symmetric at 42, scheme at 48, size or curve at 50.
  it.each([
    ['a symmetric key', at(area, 0, 0x00, 0x25), 'tpm.algorithm'],
    ['a name in SHA-1', at(area, 2, 0x00, 0x04), 'tpm.algorithm'],
    ['a policy beyond any digest', at(area, 8, 0x00, 0x41), 'tpm.size'],
    ['XOR for AES', at(area, 42, 0x00, 0x0a), 'tpm.algorithm'],
    ['AES of 64 bits', at(area, 44, 0x00, 0x40), 'tpm.algorithm'],
    ['AES in CBC mode', at(area, 46, 0x00, 0x42), 'tpm.algorithm'],
    ['OAEP', at(area, 48, 0x00, 0x17), 'tpm.algorithm'],
    ['RSA of 1024 bits', at(area, 50, 0x04, 0x00), 'tpm.algorithm'],
    ['a size other than the modulus has', at(area, 50, 0x0c, 0x00), 'tpm.key'],
    ['a modulus shorter than its size', at(area, 58, 0x00), 'tpm.key'],
    ['P-521', at(ecc, 50, 0x00, 0x05), 'tpm.algorithm'],
    ['a scheme to derive keys with', at(ecc, 52, 0x00, 0x20), 'tpm.algorithm'],
    ['a coordinate beyond the curve', at(ecc, 54, 0x00, 0x21), 'tpm.size'],
    ['a byte too many', Buffer.concat([area, Buffer.of(0)]), 'tpm.trailing'],
    ['a byte too few', area.subarray(0, -1), 'tpm.truncated'],
    ['nothing', Buffer.alloc(0), 'tpm.truncated'],
  ])('refuses %s', (_name, bytes, reason) => {
    expect(() => readPublicArea(bytes)).toThrow(expect.objectContaining({ reason }));
  });

  it('takes an exponent of 0 for 65537, and any other for what it is', () => {
    const other = at(area, 52, 0x00, 0x01, 0x00, 0x03);
    expect([readPublicArea(area).key, readPublicArea(other).key]).toMatchObject([{ exponent: 65_537 }, { exponent: 65_539 }]);
  });

  it('writes out coordinates in full length, and refuses absent ones', () => {
    const key = { type: 'ecc', curve: 'P-256', x: Buffer.of(1), y: Buffer.of(2) } as const;
    expect(pointOf(key)).toEqual(Buffer.concat([Buffer.of(4), Buffer.alloc(31), Buffer.of(1), Buffer.alloc(31), Buffer.of(2)]));
    expect(() => pointOf({ ...key, y: Buffer.alloc(0) })).toThrow(expect.objectContaining({ reason: 'tpm.key' }));
    expect(() => padded(Buffer.alloc(33), 32)).toThrow(expect.objectContaining({ reason: 'tpm.key' }));
  });
});

describe('readCertified', () => {
  const statement = statementOf({ name: hex('000b01') });

  it('reads what was certified', () => {
    expect(readCertified(statement)).toMatchObject({ name: hex('000b01'), qualifyingData: Buffer.alloc(0) });
  });

  it.each([
    ['what no TPM generated', statementOf({ name: hex('000b'), magic: 0xff54_4346 }), 'tpm.attest'],
    ['a quote', statementOf({ name: hex('000b'), type: 0x8018 }), 'tpm.attest'],
    ['a statement of a creation', statementOf({ name: hex('000b'), type: 0x801a }), 'tpm.attest'],
    ['a name beyond any digest', statementOf({ name: Buffer.alloc(67) }), 'tpm.size'],
    ['a byte too many', Buffer.concat([statement, Buffer.of(0)]), 'tpm.trailing'],
    ['a byte too few', statement.subarray(0, -1), 'tpm.truncated'],
  ])('refuses %s', (_name, bytes, reason) => {
    expect(() => readCertified(bytes)).toThrow(expect.objectContaining({ kind: 'invalid', reason }));
  });
});

describe('readSignature', () => {
  const rsa = softAttestationKey('rsa');
  const ecc = softAttestationKey('P-256');

  it('reads octets of RSA and numbers of ECC', () => {
    expect(readSignature(signatureOf(hex('00'), rsa.privateKey))).toMatchObject({ algorithm: 'rsassa', hash: 'sha256', parts: [{ length: 256 }] });
    const { algorithm, parts } = readSignature(signatureOf(hex('00'), ecc.privateKey));
    expect(algorithm).toBe('ecdsa');
    expect(encodeSequence(...parts.map(encodeUnsigned)).length).toBeGreaterThan(60);
    expect(parts).toHaveLength(2);
  });

  it.each([
    ['an HMAC', Buffer.concat([hex('0005000b'), Buffer.alloc(32)]), 'tpm.algorithm'],
    ['SHA-1', hex('00140004000101'), 'tpm.algorithm'],
    ['RSA beyond 4096 bits', Buffer.concat([hex('0014000b0201'), Buffer.alloc(513)]), 'tpm.size'],
    ['a number beyond any curve', Buffer.concat([hex('0018000b0031'), Buffer.alloc(49)]), 'tpm.size'],
    ['a byte too many', Buffer.concat([signatureOf(hex('00'), ecc.privateKey), hex('00')]), 'tpm.trailing'],
  ])('refuses %s', (_name, bytes, reason) => {
    expect(() => readSignature(bytes)).toThrow(expect.objectContaining({ reason }));
  });
});

describe('withoutSize', () => {
  it('takes the size off where there is one', () => {
    const { area } = softEndorsementKey('P-256');
    expect(withoutSize(Buffer.concat([Buffer.of(0, area.length), area]))).toEqual(area);
    expect(withoutSize(area)).toEqual(area);
    expect(withoutSize(Buffer.of(1))).toEqual(Buffer.of(1));
    expect(readPublicArea(withoutSize(areaOf({ key: softAttestationKey('P-256').publicKey, attributes: 0 }))).attributes).toBe(0);
  });
});
