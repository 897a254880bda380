/**
 * Key pairs of authorities: made, and used to sign, on the thread pool, so that the main thread goes on meanwhile. Where
 * the private halves are kept is left to the key stores.
 */
import { createPublicKey, generateKeyPair, sign, type KeyObject } from 'node:crypto';
import { derTag, enter, finish, integerOf, readTagged, readWhole } from '../../spiffe/x509/der.ts';
import type { KeyType } from '../store/store.ts';
import type { SignatureForm } from './keys.ts';

/** Node prints a `KeyObject` without its content, so that it can be held in an ordinary object. */
export interface KeyPair {
  readonly type: KeyType;
  readonly privateKey: KeyObject;
  /** SubjectPublicKeyInfo, DER. */
  readonly publicKey: Uint8Array;
}

export const keyTypes = ['ec-p256', 'ec-p384', 'rsa-2048', 'rsa-4096'] as const satisfies readonly KeyType[];

const curveOf = { 'ec-p256': 'prime256v1', 'ec-p384': 'secp384r1' } as const;
const bitsOf = { 'rsa-2048': 2048, 'rsa-4096': 4096 } as const;

export async function generatePair(type: KeyType): Promise<KeyPair> {
  return pairOf(type, await generatePrivateKey(type));
}

export function pairOf(type: KeyType, privateKey: KeyObject): KeyPair {
  return { type, privateKey, publicKey: createPublicKey(privateKey).export({ type: 'spki', format: 'der' }) };
}

/** The type a private key is of, or nothing when it is none that authorities use. */
export function typeOfKey(privateKey: KeyObject): KeyType | undefined {
  const { namedCurve, modulusLength } = privateKey.asymmetricKeyDetails ?? {};
  return keyTypes.find((type) =>
    type === 'ec-p256' || type === 'ec-p384'
      ? privateKey.asymmetricKeyType === 'ec' && namedCurve === curveOf[type]
      : privateKey.asymmetricKeyType === 'rsa' && modulusLength === bitsOf[type],
  );
}

/** @throws what the platform throws when the key cannot be used */
export async function signWith(pair: KeyPair, data: Uint8Array, form: SignatureForm): Promise<Uint8Array> {
  const signature = await signBytes(pair, data);
  const octets = coordinateOctets[pair.type];
  return form === 'jose' && octets !== undefined ? joseOf(signature, octets) : signature;
}

const coordinateOctets: Readonly<Record<KeyType, number | undefined>> = { 'ec-p256': 32, 'ec-p384': 48, 'rsa-2048': undefined, 'rsa-4096': undefined };

function signBytes(pair: KeyPair, data: Uint8Array): Promise<Uint8Array> {
  const digest = pair.type === 'ec-p384' ? 'sha384' : 'sha256';
  return new Promise((resolve, reject) => {
    // The bare key: with options around it the call costs the main thread five times as much (docs/performance.md).
    sign(digest, data, pair.privateKey, (error, signature) => {
      if (error === null) resolve(signature);
      else reject(error);
    });
  });
}

/** The two numbers of an ECDSA signature, as RFC 7518 3.4 has them: of fixed length, one after the other. */
function joseOf(der: Uint8Array, octets: number): Uint8Array {
  const numbers = enter(readWhole(der, derTag.sequence));
  const signature = new Uint8Array(2 * octets);
  for (const end of [octets, 2 * octets]) {
    const number = integerOf(readTagged(numbers, derTag.integer));
    const significant = number.subarray(Math.max(0, number.length - octets));
    signature.set(significant, end - significant.length);
  }
  finish(numbers);
  return signature;
}

function generatePrivateKey(type: KeyType): Promise<KeyObject> {
  return new Promise((resolve, reject) => {
    const done = (error: Error | null, _publicKey: KeyObject, privateKey: KeyObject): void => {
      if (error === null) resolve(privateKey);
      else reject(error);
    };
    if (type === 'ec-p256' || type === 'ec-p384') generateKeyPair('ec', { namedCurve: curveOf[type] }, done);
    else generateKeyPair('rsa', { modulusLength: bitsOf[type] }, done);
  });
}
