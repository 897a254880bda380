import { createECDH, createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { kdfa, kdfe, makeCredential } from '../../../../server/admission/tpm/credential.ts';
import { readPublicArea } from '../../../../runtime/tpm/structures.ts';
import { areaName, areaOf, keyAttributes, openCredential, softAttestationKey, softEndorsementKey } from '../../../help/tpm.ts';

const hex = (text: string): Buffer => Buffer.from(text, 'hex');
const secretKey = hex('000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f');

describe('kdfa', () => {
  // What `openssl kdf … KBKDF` derives with the label as salt and the contexts as info.
  it.each([
    ['sha256', 'STORAGE', '000baabbcc', 128, '43ed68053c246f8270ff3db5c2a86808'],
    ['sha256', 'INTEGRITY', '', 256, 'bacf689f634ece301e1f1b15b072d9c87db6a69585db42b1a0cb8f73ebe2692e'],
    ['sha256', 'X', '0102', 512, 'a73c2892742076045e18f337331482900547d9ace6daf76c413e59b617a15199c23105451bfecf2d1c1e71ea82d42a9dd8d60c34e0104e94676acfd30e895816'],
    ['sha384', 'STORAGE', '000c', 384, '1a92ef532ce3a4f42949813a2c967a6cb648f863cc451cd5366ae398838891aae39ec8a54e007deeed61d16b729634b5'],
  ] as const)('derives what OpenSSL derives with %s for %s', (hash, label, context, bits, expected) => {
    const [contextU, contextV] = [hex(context).subarray(0, 1), hex(context).subarray(1)];
    expect(kdfa({ hash, key: secretKey, label, contextU, contextV, bits })).toEqual(hex(expected));
  });
});

describe('kdfe', () => {
  // What `openssl kdf … SSKDF` derives with everything after the shared secret as info.
  it.each([
    ['sha256', 256, '4c8c88fb03ddec4b5bbb4b7ae841d9e7d33579ee683174e03780f507f8223e92'],
    ['sha384', 384, '3efb2529e95e42498cd546365748a59242cd1c2cb2de2b4cc53e4823a4cd332ef424e83e9247cb313cd87e7289fd4263'],
    ['sha256', 512, '4c8c88fb03ddec4b5bbb4b7ae841d9e7d33579ee683174e03780f507f8223e92f94dff67670ca318bf6c71353305f0b70b1514187af9ec7b224761037f8a765c'],
  ] as const)('derives what OpenSSL derives with %s in %i bits', (hash, bits, expected) => {
    expect(kdfe({ hash, z: secretKey, label: 'IDENTITY', partyU: hex('0a0b'), partyV: hex('0c0d'), bits })).toEqual(hex(expected));
  });
});

describe('makeCredential', () => {
  const name = areaName(softAttestationKey('P-256').area);
  const kinds = ['rsa', 'P-256', 'P-384'] as const;

  it.each(kinds)('makes what only the TPM with the endorsement key of %s opens, and for that object alone', (kind) => {
    const [ours, theirs] = [softEndorsementKey(kind), softEndorsementKey(kind)];
    const secret = createHash('sha256').update(kind).digest();
    const { credential, secret: seed } = makeCredential(readPublicArea(ours.area), name, secret);
    expect(openCredential(ours, name, credential, seed)).toEqual(secret);
    expect(openCredential(theirs, name, credential, seed)).toBeUndefined();
    expect(openCredential(ours, areaName(softAttestationKey('P-256').area), credential, seed)).toBeUndefined();
    expect(openCredential(ours, name, Uint8Array.from(credential, (octet, at) => (at === 40 ? octet ^ 1 : octet)), seed)).toBeUndefined();
  });

  it('takes coordinates as a TPM has them, with or without leading zeros', () => {
    // A key whose x begins with a zero octet, found by trying.
    const ecdh = createECDH('prime256v1');
    let point = ecdh.generateKeys();
    while (point[1] !== 0) point = ecdh.generateKeys();
    const form = softEndorsementKey('P-256').area;
    const head = form.subarray(0, form.length - 68);
    const run = (bytes: Buffer): Buffer => Buffer.concat([Buffer.of(0, bytes.length), bytes]);
    const [x, y] = [point.subarray(1, 33), point.subarray(33)];
    for (const written of [x, x.subarray(1)]) {
      const area = readPublicArea(Buffer.concat([head, run(written), run(y)]));
      const { credential, secret } = makeCredential(area, name, Buffer.alloc(32, 3));
      const z = ecdh.computeSecret(Buffer.concat([Buffer.of(4), secret.subarray(2, 34), secret.subarray(36)]));
      const seed = kdfe({ hash: 'sha256', z, label: 'IDENTITY', partyU: secret.subarray(2, 34), partyV: written, bits: 256 });
      expect(credential.subarray(2, 34)).toEqual(macOf(seed, credential.subarray(34)));
    }
  });

  const macOf = (seed: Uint8Array, identity: Uint8Array): Buffer => {
    const key = kdfa({ hash: 'sha256', key: seed, label: 'INTEGRITY', bits: 256 });
    const pad = (octet: number): Buffer => Buffer.from(Buffer.concat([key, Buffer.alloc(32)]).map((value) => value ^ octet));
    const inner = createHash('sha256').update(pad(0x36)).update(identity).update(name).digest();
    return createHash('sha256').update(pad(0x5c)).update(inner).digest();
  };

  it.each([
    ['a key that protects nothing', areaOf({ key: softEndorsementKey('rsa').publicKey, attributes: keyAttributes.endorsement }), 32],
    ['a secret longer than a digest', softEndorsementKey('rsa').area, 33],
  ])('refuses %s', (_name, area, length) => {
    expect(() => makeCredential(readPublicArea(area), name, Buffer.alloc(length))).toThrow(expect.objectContaining({ kind: 'invalid', reason: 'tpm-devid.endorsement-key' }));
  });
});
