/**
 * What issuing draws at random: serial numbers, key and token ids, names of keys. Nothing here is secret.
 */
import { randomBytes, randomInt } from 'node:crypto';

const keyIdAlphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789';
const serialOctets = 16;
const draw = createDraws(serialOctets);

/** 16 octets, not all zero: a serial number in [1, 2^128 − 1]. */
export function randomSerial(): Uint8Array {
  for (;;) {
    const serial = draw();
    if (serial.some((octet) => octet !== 0)) return serial;
  }
}

/** Draws of so many octets, many in one go: each alone costs several times as much. None is given out twice. */
function createDraws(octets: number): () => Uint8Array {
  const atOnce = 256;
  let drawn = new Uint8Array();
  let taken = 0;
  return () => {
    if (taken >= drawn.length) {
      drawn = randomBytes(octets * atOnce);
      taken = 0;
    }
    taken += octets;
    return Uint8Array.from(drawn.subarray(taken - octets, taken));
  };
}

/** 32 characters that mean nothing, as SPIRE names JWT keys. */
export function randomKeyId(): string {
  return Array.from({ length: 32 }, () => keyIdAlphabet[randomInt(keyIdAlphabet.length)]).join('');
}

/** The octets of a version 4 UUID, unpadded base64url. */
export function randomTokenId(): string {
  const octets = randomBytes(16);
  octets[6] = ((octets[6] ?? 0) & 0x0f) | 0x40;
  octets[8] = ((octets[8] ?? 0) & 0x3f) | 0x80;
  return octets.toString('base64url');
}

export function randomHex(octets: number): string {
  return randomBytes(octets).toString('hex');
}
