/**
 * An authority in memory, for tests: SVIDs of all kinds under keys of its own, which it can exchange. It signs for
 * any identity of any trust domain, so that forgeries can be tried; no production trust belongs here.
 */
import { createPublicKey, generateKeyPairSync, type KeyObject, randomBytes, randomUUID, sign } from 'node:crypto';
import { type Clock, systemClock } from '../../runtime/clock.ts';
import { type Bundle, composeBundle, emptyBundle, type JwtAuthority } from '../../spiffe/bundle.ts';
import { composeSpiffeId, parseSpiffeId, parseTrustDomain, type SpiffeId, type TrustDomain } from '../../spiffe/id.ts';
import { signJwtText } from '../../spiffe/jwt-key.ts';
import { assembleJwtSvid, draftJwtSvid, type JwtSvid, parseJwtSvid } from '../../spiffe/jwt-svid.ts';
import { assembleWitSvid, draftWitSvid, formatPrivateJwk, receiveWitSvid, type WitSvid } from '../../spiffe/wit-svid.ts';
import { parseCertificate } from '../../spiffe/x509/certificate.ts';
import { encodeBitString, encodeSequence } from '../../spiffe/x509/der-writer.ts';
import { type Draft, draftAuthority, draftLeaf, issuerFrom, validityOf } from '../../spiffe/x509/draft.ts';
import { signatureSchemes } from '../../spiffe/x509/names.ts';
import { parseX509Svid, type X509Svid } from '../../spiffe/x509-svid.ts';

/** What to put into an SVID besides the identity. */
export interface FakeSvidOptions {
  /** An hour for X509-SVIDs, five minutes for tokens, unless given; negative for one that is over. */
  readonly ttlSeconds?: number;
  readonly hint?: string;
}

/** What to put into an X509-SVID besides the identity. */
export interface FakeX509SvidOptions extends FakeSvidOptions {
  readonly dnsNames?: readonly string[];
}

/** A trust domain's authority. Identities are whole SPIFFE IDs, of any trust domain, or paths in its own such as `/web`. */
export interface FakeAuthority {
  readonly trustDomain: TrustDomain;
  /** Whom verifiers of this trust domain are to believe. */
  readonly bundle: Bundle;
  x509Svid(identity: string, options?: FakeX509SvidOptions): X509Svid;
  jwtSvid(identity: string, audience: string | readonly string[], options?: FakeSvidOptions): JwtSvid;
  witSvid(identity: string, options?: FakeSvidOptions): WitSvid;
  /** Signs with new keys from now on; the bundle holds the new ones and the old ones. */
  rotate(): void;
  /** Takes all but the newest keys out of the bundle: what they signed counts no more. */
  retire(): void;
}

/** Epoch milliseconds. */
interface Life {
  readonly notBeforeAt: number;
  readonly issuedAt: number;
  readonly expiresAt: number;
}

interface Keys {
  readonly x509: KeyObject;
  readonly certificate: Uint8Array;
  readonly jwt: KeyObject;
  readonly jwtKeyId: string;
  readonly wit: KeyObject;
  readonly witKeyId: string;
}

const authorityTtlSeconds = 10 * 365 * 86_400;
const signature = signatureSchemes['ecdsa-sha256'];

/** @throws invalid `id.trust-domain.*` */
export function createFakeAuthority(trustDomain: string, clock: Clock = systemClock): FakeAuthority {
  const name = parseTrustDomain(trustDomain);
  let keys = newKeys(name, clock.now());
  let bundle = withKeys(emptyBundle(name), keys);
  const idOf = (identity: string): SpiffeId =>
    identity.startsWith('/') ? composeSpiffeId(name, identity) : parseSpiffeId(identity);
  const lifeOf = ({ ttlSeconds = 300 }: FakeSvidOptions): Life => {
    const now = clock.now();
    // One that is over was good once.
    const issuedAt = ttlSeconds > 0 ? now : now - 3_600_000;
    return { notBeforeAt: issuedAt, issuedAt, expiresAt: now + ttlSeconds * 1_000 };
  };
  return {
    trustDomain: name,
    get bundle() {
      return bundle;
    },
    x509Svid(identity, options = {}) {
      const privateKey = newKey();
      const { ttlSeconds = 3_600, dnsNames = [], hint = '' } = options;
      const now = clock.now();
      const { notAfterAt } = validityOf(now, ttlSeconds);
      const { notBeforeAt } = validityOf(ttlSeconds > 0 ? now : now - 3_600_000, 0);
      const issuer = issuerFrom(parseCertificate(keys.certificate), name);
      const publicKey = spkiOf(privateKey);
      const fields = { serial: newSerial(), notBeforeAt, notAfterAt, publicKey, spiffeId: idOf(identity), dnsNames };
      const leaf = signed(draftLeaf('workload', issuer, fields), keys.x509);
      return parseX509Svid({ chain: [leaf], pkcs8Key: privateKey.export({ type: 'pkcs8', format: 'der' }), hint });
    },
    jwtSvid(identity, audience, options = {}) {
      const names = typeof audience === 'string' ? [audience] : audience;
      const holder = { spiffeId: idOf(identity), audience: names, jti: randomUUID() };
      const text = draftJwtSvid({ ...lifeOf(options), ...holder, keyId: keys.jwtKeyId, algorithm: 'ES256' });
      return parseJwtSvid(assembleJwtSvid(text, signJwtText('ES256', keys.jwt, text)), options.hint);
    },
    witSvid(identity, options = {}) {
      const key = newKey();
      const confirmation = { key: createPublicKey(key), algorithm: 'ES256' } as const;
      const holder = { spiffeId: idOf(identity), confirmation, jti: randomUUID() };
      const text = draftWitSvid({ ...lifeOf(options), ...holder, keyId: keys.witKeyId, algorithm: 'ES256' });
      const token = assembleWitSvid(text, signJwtText('ES256', keys.wit, text));
      return receiveWitSvid(token, formatPrivateJwk(key, 'ES256'), options.hint);
    },
    rotate() {
      keys = newKeys(name, clock.now());
      bundle = withKeys(bundle, keys);
    },
    retire() {
      bundle = withKeys({ ...emptyBundle(name), sequence: bundle.sequence }, keys);
    },
  };
}

function newKeys(trustDomain: TrustDomain, now: number): Keys {
  const x509 = newKey();
  const fields = { serial: newSerial(), ...validityOf(now, authorityTtlSeconds), publicKey: spkiOf(x509), trustDomain };
  // Early enough for whatever is made to have been valid in the past.
  const certificate = signed(draftAuthority({ ...fields, notBeforeAt: fields.notBeforeAt - 86_400_000 }), x509);
  return { x509, certificate, jwt: newKey(), jwtKeyId: randomUUID(), wit: newKey(), witKeyId: randomUUID() };
}

function withKeys(bundle: Bundle, keys: Keys): Bundle {
  const authority = (keyId: string, key: KeyObject): JwtAuthority => ({ keyId, publicKey: spkiOf(key), expiresAt: undefined, tainted: false });
  return composeBundle({
    ...bundle,
    x509Authorities: [...bundle.x509Authorities, { certificate: keys.certificate, tainted: false }],
    jwtAuthorities: [...bundle.jwtAuthorities, authority(keys.jwtKeyId, keys.jwt)],
    witAuthorities: [...bundle.witAuthorities, authority(keys.witKeyId, keys.wit)],
    sequence: bundle.sequence + 1n,
  });
}

function signed({ tbs }: Draft, key: KeyObject): Uint8Array {
  return encodeSequence(tbs, signature.identifier, encodeBitString(sign(signature.digest, tbs, key)));
}

function newKey(): KeyObject {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
}

function spkiOf(key: KeyObject): Uint8Array {
  return Uint8Array.from(createPublicKey(key).export({ type: 'spki', format: 'der' }));
}

function newSerial(): Uint8Array {
  const serial = Uint8Array.from(randomBytes(16));
  // Neither zero in front nor negative when it is read by others.
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  return serial;
}
