/**
 * From what a signer sent to what may be held: the credential must be for this entry and this key, and obey the rules of
 * its kind. Who vouches for the signer is the connection's business.
 */
import { createPublicKey, generateKeyPair, type KeyObject } from 'node:crypto';
import { promisify } from 'node:util';
import type { RegistrationEntry } from '../../spiffe/entry.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseJwtSvid } from '../../spiffe/jwt-svid.ts';
import { renewAt } from '../../spiffe/rotation.ts';
import { parseCertificate } from '../../spiffe/x509/certificate.ts';
import { sameBytes } from '../../spiffe/x509/names.ts';
import { checkLeaf } from '../../spiffe/x509-svid.ts';
import { parseWitSvid } from '../../spiffe/wit-svid.ts';
import type { HeldJwtSvid, HeldWitSvid, HeldX509Svid } from './held.ts';
import type { JwtRequest, JwtSigned, KeyPair } from './signer.ts';

const generate = promisify(generateKeyPair);

/** A new P-256 pair, made off the main thread. */
export async function generateKeys(): Promise<KeyPair> {
  const { publicKey, privateKey } = await generate('ec', { namedCurve: 'P-256' });
  return { publicKey: publicKey.export({ type: 'spki', format: 'der' }), privateKey };
}

export function keyPairOf(privateKey: KeyObject): KeyPair {
  return { publicKey: createPublicKey(privateKey).export({ type: 'spki', format: 'der' }), privateKey };
}

/** When an SVID came, and the jitter drawn for it then, in [0, 1). */
export interface Receipt {
  readonly at: number;
  readonly jitter: number;
}

/**
 * Half of the life that is left: what was backdated against clocks that differ is no life, and counting it would have
 * short-lived SVIDs renewed without end.
 */
export function halfLife(notBeforeAt: number, expiresAt: number, { at, jitter }: Receipt): number {
  return renewAt(Math.min(Math.max(notBeforeAt, at), expiresAt), expiresAt, jitter);
}

/** @throws invalid `svid.received.id|key|chain-empty`, and what reading a leaf throws */
export function receiveX509(
  entry: Pick<RegistrationEntry, 'id' | 'spiffeId' | 'revisionNumber'>,
  chain: readonly Uint8Array[],
  keys: KeyPair,
  receipt: Receipt,
): HeldX509Svid {
  const [first] = chain;
  if (first === undefined) throw new SpiffeError('invalid', 'svid.received.chain-empty', 'the signed chain is empty');
  const leaf = parseCertificate(first);
  const spiffeId = checkLeaf(leaf);
  if (spiffeId !== entry.spiffeId) {
    throw new SpiffeError('invalid', 'svid.received.id', 'the signed SVID has another name than the entry', {
      detail: { entry: entry.id },
    });
  }
  if (!sameBytes(leaf.spki, keys.publicKey)) {
    throw new SpiffeError('invalid', 'svid.received.key', 'the signed SVID is for another key', { detail: { entry: entry.id } });
  }
  const { notBeforeAt, notAfterAt: expiresAt } = leaf;
  return Object.freeze({
    entryId: entry.id,
    spiffeId,
    chain: Object.freeze([...chain]),
    key: keys.privateKey,
    serial: leaf.serial.hex,
    authorityId: Buffer.from(leaf.authorityKeyId ?? []).toString('hex'),
    notBeforeAt,
    expiresAt,
    renewAt: halfLife(notBeforeAt, expiresAt, receipt),
    entryRevision: entry.revisionNumber,
  });
}

/** @throws invalid `svid.received.id|audience`, and as `parseJwtSvid` */
export function receiveJwt(request: Omit<JwtRequest, 'process'>, signed: JwtSigned, receipt: Receipt): HeldJwtSvid {
  const { entry } = request;
  const svid = parseJwtSvid(signed.token);
  if (svid.spiffeId !== entry.spiffeId) {
    throw new SpiffeError('invalid', 'svid.received.id', 'the signed SVID has another name than the entry', {
      detail: { entry: entry.id },
    });
  }
  if (!request.audience.every((name) => svid.audience.includes(name))) {
    throw new SpiffeError('invalid', 'svid.received.audience', 'the signed token lacks an audience that was asked for');
  }
  const issuedAt = svid.issuedAt ?? signed.issuedAt;
  const { expiresAt } = svid;
  return Object.freeze({
    entryId: entry.id,
    entryRevision: entry.revisionNumber,
    spiffeId: svid.spiffeId,
    audience: request.audience,
    token: svid.token,
    keyId: keyIdOf(svid.token),
    issuedAt,
    expiresAt,
    renewAt: halfLife(issuedAt, expiresAt, receipt),
  });
}

/** @throws invalid `svid.received.id|key`, and as `parseWitSvid` */
export function receiveWit(
  entry: Pick<RegistrationEntry, 'id' | 'spiffeId' | 'revisionNumber'>,
  token: string,
  keys: KeyPair,
  receipt: Receipt,
): HeldWitSvid {
  const { spiffeId, confirmation, keyId, jti, notBeforeAt, issuedAt, expiresAt } = parseWitSvid(token);
  if (spiffeId !== entry.spiffeId) {
    throw new SpiffeError('invalid', 'svid.received.id', 'the signed SVID has another name than the entry', {
      detail: { entry: entry.id },
    });
  }
  if (!sameBytes(confirmation.key.export({ type: 'spki', format: 'der' }), keys.publicKey)) {
    throw new SpiffeError('invalid', 'svid.received.key', 'the signed SVID is for another key', { detail: { entry: entry.id } });
  }
  const startsAt = issuedAt ?? notBeforeAt ?? receipt.at;
  return Object.freeze({
    entryId: entry.id,
    entryRevision: entry.revisionNumber,
    spiffeId,
    token,
    key: keys.privateKey,
    algorithm: confirmation.algorithm,
    keyId,
    jti: jti ?? '',
    issuedAt: startsAt,
    expiresAt,
    renewAt: halfLife(startsAt, expiresAt, receipt),
  });
}

/** Of a token that was parsed before. */
function keyIdOf(token: string): string {
  const header: unknown = JSON.parse(Buffer.from(token.slice(0, token.indexOf('.')), 'base64url').toString('utf8'));
  return typeof header === 'object' && header !== null && 'kid' in header && typeof header.kid === 'string' ? header.kid : '';
}
