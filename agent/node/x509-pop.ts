/**
 * Evidence: possession of the private key of a certificate the server trusts for this purpose, proved by signing fresh
 * nonces of both sides. Which certificates convince, and who they make this node, is the server's.
 */
import { constants, createPrivateKey, randomBytes, sign, X509Certificate, type KeyObject } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { EvidenceSource } from './evidence.ts';

const nonceBytes = 32;
const pemCertificate = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g;

export interface X509PopFiles {
  /** PEM: the leaf, possibly followed by intermediates. */
  readonly certificate: string;
  /** PEM, unencrypted. */
  readonly key: string;
  /** PEM of further intermediates. */
  readonly intermediates: string | undefined;
}

/**
 * Read again for each attempt, so that a renewed certificate is used.
 * @throws (from `produce`) unavailable `evidence.x509pop.unreadable`, invalid `evidence.x509pop.certificate|key|mismatch`
 */
export function x509PopEvidence(files: X509PopFiles): EvidenceSource {
  return {
    type: 'x509pop',
    repeatable: true,
    async produce() {
      const chain = [
        ...parseChain(await readText(files.certificate), files.certificate),
        ...(files.intermediates === undefined ? [] : parseChain(await readText(files.intermediates), files.intermediates)),
      ];
      const key = parseKey(await readText(files.key), files.key);
      const [leaf] = chain;
      if (leaf === undefined || !leaf.checkPrivateKey(key)) {
        throw new SpiffeError('invalid', 'evidence.x509pop.mismatch', 'the key does not belong to the certificate');
      }
      return {
        payload: Buffer.from(JSON.stringify({ certificates: chain.map((each) => each.raw.toString('base64')) })),
        // eslint-disable-next-line @typescript-eslint/require-await -- a malformed challenge rejects, it does not throw
        answer: async (challenge) => Buffer.from(answerChallenge(challenge, key, randomBytes(nonceBytes))),
      };
    },
  };
}

/**
 * The response to a challenge, with the nonce of this side passed in. What is signed is the server's nonce, then ours.
 * @throws invalid `evidence.challenge.malformed`
 */
export function answerChallenge(challenge: Uint8Array, key: KeyObject, nonce: Uint8Array): string {
  const isRsa = key.asymmetricKeyType === 'rsa';
  const theirs = challengeNonce(challenge, isRsa ? 'rsa_signature' : 'ecdsa_signature');
  const message = Buffer.concat([theirs, nonce]);
  const ours = Buffer.from(nonce).toString('base64');
  if (isRsa) {
    const signature = sign('sha256', message, {
      key,
      padding: constants.RSA_PKCS1_PSS_PADDING,
      saltLength: constants.RSA_PSS_SALTLEN_MAX_SIGN,
    });
    return JSON.stringify({ rsa_signature: { nonce: ours, signature: signature.toString('base64') }, ecdsa_signature: null });
  }
  const signature = sign('sha256', message, { key, dsaEncoding: 'ieee-p1363' });
  const half = signature.length / 2;
  return JSON.stringify({
    rsa_signature: null,
    ecdsa_signature: {
      nonce: ours,
      r: withoutLeadingZeros(signature.subarray(0, half)).toString('base64'),
      s: withoutLeadingZeros(signature.subarray(half)).toString('base64'),
    },
  });
}

function challengeNonce(challenge: Uint8Array, member: string): Buffer {
  const malformed = (): SpiffeError =>
    new SpiffeError('invalid', 'evidence.challenge.malformed', 'the challenge is not one for this kind of key');
  let parsed: unknown;
  try {
    parsed = JSON.parse(Buffer.from(challenge).toString('utf8'));
  } catch {
    throw malformed();
  }
  const part = memberOf(parsed, member);
  const text = memberOf(part, 'nonce');
  if (typeof text !== 'string') throw malformed();
  const nonce = Buffer.from(text, 'base64');
  if (nonce.length !== nonceBytes) throw malformed();
  return nonce;
}

function memberOf(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>)[name] : undefined;
}

/** As Go's big integers are written: unsigned, big-endian, without leading zeros. */
function withoutLeadingZeros(bytes: Buffer): Buffer {
  let from = 0;
  while (from < bytes.length - 1 && bytes[from] === 0) from += 1;
  return bytes.subarray(from);
}

function parseChain(text: string, path: string): X509Certificate[] {
  try {
    const blocks = text.match(pemCertificate) ?? [];
    if (blocks.length === 0) throw new Error('no certificate');
    return blocks.map((block) => new X509Certificate(block));
  } catch (cause) {
    throw new SpiffeError('invalid', 'evidence.x509pop.certificate', `${path} holds no readable PEM certificate`, { cause });
  }
}

function parseKey(text: string, path: string): KeyObject {
  let key: KeyObject;
  try {
    key = createPrivateKey(text);
  } catch (cause) {
    throw new SpiffeError('invalid', 'evidence.x509pop.key', `${path} holds no readable unencrypted PEM key`, { cause });
  }
  if (key.asymmetricKeyType !== 'rsa' && key.asymmetricKeyType !== 'ec') {
    throw new SpiffeError('invalid', 'evidence.x509pop.key', `${path} holds a key that is neither RSA nor EC`);
  }
  return key;
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new SpiffeError('unavailable', 'evidence.x509pop.unreadable', `${path} cannot be read`, { cause });
  }
}
