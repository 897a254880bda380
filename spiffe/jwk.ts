/**
 * Public keys as JSON Web Keys, with the members the algorithms need and no other [RFC 7518 6]. Which keys a bundle
 * holds, and for what, is `bundle-document.ts`.
 */
import type { JsonWebKey, KeyObject } from 'node:crypto';
import { createPublicKey } from 'node:crypto';

import { decodeBase64url } from './base64.ts';
import { SpiffeError } from './errors.ts';
import type { JsonObject } from './json.ts';

/** The public members of each key type, in the order we write them. */
const publicMembers: Readonly<Record<string, readonly string[]>> = {
  EC: ['crv', 'x', 'y'],
  RSA: ['n', 'e'],
  OKP: ['crv', 'x'],
};

/** Members that give a private or shared key away [RFC 7518 6.2.2, 6.3.2, 6.4]. */
const secretMembers = ['d', 'p', 'q', 'dp', 'dq', 'qi', 'oth', 'k'];

/** Lengths of a coordinate in bytes. */
const curves: Readonly<Record<string, number>> = { 'P-256': 32, 'P-384': 48, 'P-521': 66 };

/** The key's members, `kty` first. @throws unsupported `jwk.unsupported` */
export function formatJwk(key: KeyObject): Readonly<Record<string, string>> {
  let exported: JsonWebKey;
  try {
    exported = key.export({ format: 'jwk' });
  } catch (cause) {
    throw new SpiffeError('unsupported', 'jwk.unsupported', 'public key has no JSON form', { cause });
  }
  const kty = exported.kty ?? '';
  const members: Record<string, string> = { kty };
  for (const name of publicMembers[kty] ?? []) {
    const value = exported[name];
    if (typeof value === 'string') members[name] = value;
  }
  return members;
}

/** Whether we know the key type; a bundle's elements of other types are skipped [Trust Domain and Bundle 4.2.1]. */
export function isKnownKeyType(jwk: JsonObject): boolean {
  const kty = jwk['kty'];
  return typeof kty === 'string' && Object.hasOwn(publicMembers, kty);
}

/** @throws invalid `jwk.secret` when the element holds more than a public key */
export function checkPublicOnly(jwk: JsonObject): void {
  if (secretMembers.some((name) => Object.hasOwn(jwk, name))) {
    throw new SpiffeError('invalid', 'jwk.secret', 'key set contains a private or shared key');
  }
}

/**
 * The key of an EC or RSA element, or `undefined` for a type or curve that no JWT-SVID uses.
 * @throws invalid `jwk.malformed`, and `jwk.secret` as `checkPublicOnly`
 */
export function parseSignatureJwk(jwk: JsonObject): KeyObject | undefined {
  checkPublicOnly(jwk);
  const kty = jwk['kty'];
  if (kty === 'RSA') return importJwk({ kty, n: member(jwk, 'n'), e: member(jwk, 'e') });
  if (kty !== 'EC') return undefined;
  const crv = jwk['crv'];
  if (typeof crv !== 'string') throw malformed();
  const size = Object.hasOwn(curves, crv) ? curves[crv] : undefined;
  return size === undefined ? undefined : importJwk({ kty, crv, x: member(jwk, 'x', size), y: member(jwk, 'y', size) });
}

/** Whether the members of the element, `kty` included, are those of the key. */
export function jwkDescribes(jwk: JsonObject, key: KeyObject): boolean {
  return Object.entries(formatJwk(key)).every(([name, value]) => jwk[name] === value);
}

function importJwk(jwk: JsonWebKey): KeyObject {
  try {
    return createPublicKey({ key: jwk, format: 'jwk' });
  } catch (cause) {
    throw malformed(cause);
  }
}

/** A base64url member; of EC coordinates the length is fixed, of RSA numbers no zero leads [RFC 7518 2, 6.2.1.2]. */
function member(jwk: JsonObject, name: string, size?: number): string {
  const text = jwk[name];
  const bytes = typeof text === 'string' ? decodeBase64url(text) : undefined;
  if (typeof text !== 'string' || bytes === undefined || bytes.length === 0) throw malformed();
  if (size === undefined ? bytes[0] === 0 : bytes.length !== size) throw malformed();
  return text;
}

function malformed(cause?: unknown): SpiffeError {
  return new SpiffeError('invalid', 'jwk.malformed', 'key set contains a key that cannot be read', { cause });
}
