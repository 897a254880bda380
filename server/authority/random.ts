/**
 * What issuing draws at random: serial numbers, key and token ids, names of keys. Nothing here is secret.
 */
import { randomBytes, randomInt } from 'node:crypto';

const keyIdAlphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789';
const serialOctets = 16;
/** Drawn in one go: a draw for each serial costs several times as much. */
const serialsAtOnce = 256;

let drawn = Buffer.alloc(0);
let taken = 0;

/** 16 octets, not all zero: a serial number in [1, 2^128 − 1]. */
export function randomSerial(): Uint8Array {
  for (;;) {
    if (taken >= drawn.length) {
      drawn = randomBytes(serialOctets * serialsAtOnce);
      taken = 0;
    }
    const serial = Uint8Array.prototype.slice.call(drawn, taken, taken + serialOctets);
    taken += serialOctets;
    if (serial.some((octet) => octet !== 0)) return serial;
  }
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
