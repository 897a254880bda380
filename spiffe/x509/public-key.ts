/**
 * Public keys as certificates hold them: read one strictly, and refuse every key that is weak, malformed or unusual
 * before anything is signed for it. Private keys and their storage are elsewhere.
 */
import { hash } from 'node:crypto';
import { SpiffeError } from '../errors.ts';
import {
  derTag,
  enter,
  finish,
  integerOf,
  octetsOf,
  oidOf,
  readTagged,
  readWhole,
  unsignedToBigInt,
  type DerElement,
} from './der.ts';
import { curves, oid, rsaBits, sameBytes, type Curve, type KeyAlgorithm } from './names.ts';

/** A SubjectPublicKeyInfo taken apart; views into what was read. */
export interface PublicKeyInfo {
  readonly algorithm: string;
  /** The parameters of the algorithm, absent when there are none. */
  readonly parameters: DerElement | undefined;
  /** The content of the bit string: an EC point, an RSAPublicKey. */
  readonly key: Uint8Array;
}

const maxSpkiBytes = 2048;
/** Go and others keep the exponent in 32 bits. */
const maxExponent = 2n ** 31n;
/** Boulder's limit for trial division. */
const smallPrimes = primesBelow(752);
const smallPrimeProduct = smallPrimes.reduce((product, prime) => product * BigInt(prime), 1n);
/** For each prime the residues of powers of 65537: keys of the broken Infineon library show no other (ROCA, CVE-2017-15361). */
const rocaResidues = smallPrimes
  .filter((prime) => prime > 2 && prime <= 167)
  .map((prime) => [prime, powersOf65537(prime)] as const);
const fermatRounds = 100;

/** @throws invalid `der.*` */
export function readPublicKeyInfo(spki: Uint8Array): PublicKeyInfo {
  const cursor = enter(readWhole(spki, derTag.sequence));
  const identifier = enter(readTagged(cursor, derTag.sequence));
  const algorithm = oidOf(readTagged(identifier, derTag.oid));
  const parameters = identifier.at < identifier.end ? readTagged(identifier, identifier.source[identifier.at] ?? 0) : undefined;
  finish(identifier);
  const key = octetsOf(readTagged(cursor, derTag.bitString));
  finish(cursor);
  return { algorithm, parameters, key };
}

/**
 * SHA-1 of the key bits, what subject key identifiers are made of [RFC 5280 4.2.1.2, method 1].
 * @throws invalid `der.*`
 */
export function keyIdOf(spki: Uint8Array): Uint8Array {
  return keyIdOfBits(readPublicKeyInfo(spki).key);
}

export function keyIdOfBits(key: Uint8Array): Uint8Array {
  return hash('sha1', key, 'buffer');
}

/**
 * Whether a leaf may be issued for this key, given as a DER SubjectPublicKeyInfo: a point of P-256, P-384 or P-521 written
 * uncompressed, or RSA of 2048 to 8192 bits that shows none of the known weaknesses. Ed25519 is refused: SPIFFE allows
 * it, but common TLS stacks refuse the certificate, and SPIRE's agents never ask for it. Lists of keys that were once
 * generated badly (Debian 2008) are not consulted.
 * @throws invalid `der.*`, `key.parameters|point|rsa.*`; unsupported `key.algorithm|curve|rsa.size`
 */
export function checkPublicKey(spki: Uint8Array): KeyAlgorithm {
  if (lastChecked !== undefined && sameBytes(lastChecked.spki, spki)) return lastChecked.algorithm;
  const algorithm = algorithmOf(spki);
  lastChecked = { spki: Uint8Array.from(spki), algorithm };
  return algorithm;
}

/** The same key is checked as it arrives and again in what is about to be signed; the same bytes get the same answer. */
let lastChecked: { readonly spki: Uint8Array; readonly algorithm: KeyAlgorithm } | undefined;

function algorithmOf(spki: Uint8Array): KeyAlgorithm {
  const { algorithm, parameters, key } = readPublicKeyInfo(boundedSpki(spki));
  if (algorithm === oid.ecPublicKey) return checkEcKey(parameters, key);
  if (algorithm === oid.rsaEncryption) {
    if (parameters?.tag !== derTag.null || parameters.end !== parameters.contentStart) {
      throw new SpiffeError('invalid', 'key.parameters', 'an RSA key has null as its parameters');
    }
    checkRsaKey(key);
    return 'RSA';
  }
  throw new SpiffeError('unsupported', 'key.algorithm', 'key is neither EC nor RSA');
}

function boundedSpki(spki: Uint8Array): Uint8Array {
  if (spki.length > maxSpkiBytes) throw new SpiffeError('unsupported', 'key.rsa.size', 'public key is too large');
  return spki;
}

function checkEcKey(parameters: DerElement | undefined, point: Uint8Array): Curve {
  // Explicit curve parameters let the sender choose the mathematics (CVE-2020-0601).
  if (parameters?.tag !== derTag.oid) throw new SpiffeError('invalid', 'key.parameters', 'an EC key names its curve');
  const named = oidOf(parameters);
  const curve = (Object.keys(curves) as Curve[]).find((name) => curves[name].oid === named);
  if (curve === undefined) throw new SpiffeError('unsupported', 'key.curve', 'curve is not P-256, P-384 or P-521');
  const { coordinateBytes } = curves[curve];
  if (point.length !== 1 + 2 * coordinateBytes || point[0] !== 0x04) {
    throw new SpiffeError('invalid', 'key.point', 'EC point is not in uncompressed form');
  }
  const x = unsignedToBigInt(point.subarray(1, 1 + coordinateBytes));
  const y = unsignedToBigInt(point.subarray(1 + coordinateBytes));
  const { p, b } = equations[curve];
  // All three are y² = x³ - 3x + b with cofactor 1, so a point on the curve is a point of the group.
  if (x >= p || y >= p || (y * y - (x * x - 3n) * x - b) % p !== 0n) {
    throw new SpiffeError('invalid', 'key.point', 'EC point is not on its curve');
  }
  return curve;
}

function checkRsaKey(key: Uint8Array): void {
  const cursor = enter(readWhole(key, derTag.sequence));
  const modulusOctets = integerOf(readTagged(cursor, derTag.integer));
  const exponentOctets = integerOf(readTagged(cursor, derTag.integer));
  finish(cursor);
  if ((modulusOctets[0] ?? 0) >= 0x80 || (exponentOctets[0] ?? 0) >= 0x80) {
    throw new SpiffeError('invalid', 'key.rsa.negative', 'RSA modulus or exponent is negative');
  }
  const modulus = unsignedToBigInt(modulusOctets);
  const exponent = unsignedToBigInt(exponentOctets);
  const bits = modulus.toString(2).length;
  if (bits < rsaBits.min || bits > rsaBits.max || bits % 8 !== 0) {
    throw new SpiffeError('unsupported', 'key.rsa.size', 'RSA modulus is not of 2048 to 8192 bits, a multiple of 8', {
      detail: { bits },
    });
  }
  if (exponent < 65537n || exponent >= maxExponent || exponent % 2n === 0n) {
    throw new SpiffeError('invalid', 'key.rsa.exponent', 'RSA exponent is even, below 65537 or above 31 bits');
  }
  const residue = modulus % smallPrimeProduct;
  if (smallPrimes.some((prime) => residue % BigInt(prime) === 0n)) {
    throw new SpiffeError('invalid', 'key.rsa.small-factor', 'RSA modulus is divisible by a small prime');
  }
  if (rocaResidues.every(([prime, residues]) => residues.has(Number(residue % BigInt(prime))))) {
    throw new SpiffeError('invalid', 'key.rsa.roca', 'RSA key was generated by a library with the ROCA weakness');
  }
  if (hasClosePrimes(modulus)) {
    throw new SpiffeError('invalid', 'key.rsa.close-primes', 'RSA primes are so close that the key is easily factored');
  }
}

/** Fermat's factorisation for a bounded number of rounds. */
function hasClosePrimes(modulus: bigint): boolean {
  let a = squareRoot(modulus);
  if (a * a < modulus) a += 1n;
  let difference = a * a - modulus;
  for (let round = 0; round < fermatRounds; round += 1) {
    // Squares end in few patterns, so most rounds need no root.
    if (squareResidues.has(Number(difference & 0xffn))) {
      const root = squareRoot(difference);
      if (root * root === difference) return true;
    }
    difference += 2n * a + 1n;
    a += 1n;
  }
  return false;
}

const squareResidues: ReadonlySet<number> = new Set(Array.from({ length: 256 }, (_, n) => (n * n) & 0xff));

/** Newton's iteration from above: the largest integer whose square is not larger. */
function squareRoot(value: bigint): bigint {
  if (value < 2n) return value;
  let guess = 1n << BigInt(Math.ceil(value.toString(16).length * 2));
  for (;;) {
    const next = (guess + value / guess) >> 1n;
    if (next >= guess) return guess;
    guess = next;
  }
}

function primesBelow(limit: number): readonly number[] {
  const primes: number[] = [];
  for (let n = 2; n < limit; n += 1) if (primes.every((prime) => n % prime !== 0)) primes.push(n);
  return primes;
}

function powersOf65537(prime: number): ReadonlySet<number> {
  const powers = new Set<number>();
  for (let power = 1; !powers.has(power); power = (power * 65537) % prime) powers.add(power);
  return powers;
}

/** Modulus and constant of each curve [SP 800-186 3.2.1]. */
const equations: Readonly<Record<Curve, { readonly p: bigint; readonly b: bigint }>> = {
  'P-256': {
    p: 2n ** 256n - 2n ** 224n + 2n ** 192n + 2n ** 96n - 1n,
    b: 0x5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604bn,
  },
  'P-384': {
    p: 2n ** 384n - 2n ** 128n - 2n ** 96n + 2n ** 32n - 1n,
    b: 0xb3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aefn,
  },
  'P-521': {
    p: 2n ** 521n - 1n,
    b: BigInt(
      '0x51953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109' +
        'e156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00',
    ),
  },
};

