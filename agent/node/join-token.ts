/**
 * Evidence: a one-time token that an operator handed over, given as text or as a file. The token itself is never logged
 * and never kept once it was spent.
 */
import { readFile } from 'node:fs/promises';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { EvidenceSource } from './evidence.ts';

const longestToken = 1024;

/**
 * @throws (from `produce`) unavailable `evidence.join-token.unreadable`, invalid `evidence.join-token.none|form`
 */
export function joinTokenEvidence(from: { readonly token: string } | { readonly tokenFile: string }): EvidenceSource {
  return {
    type: 'join_token',
    repeatable: false,
    async produce() {
      const token = 'token' in from ? from.token : await readToken(from.tokenFile);
      if (token === '') throw new SpiffeError('invalid', 'evidence.join-token.none', 'there is no join token to join with');
      if (token.length > longestToken || !/^[\x21-\x7e]+$/.test(token)) {
        throw new SpiffeError('invalid', 'evidence.join-token.form', 'the join token is too long or not printable text');
      }
      return {
        payload: Buffer.from(token, 'utf8'),
        answer: () =>
          Promise.reject(new SpiffeError('denied', 'evidence.challenge.unexpected', 'a join token answers no challenge')),
      };
    },
  };
}

async function readToken(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch (cause) {
    throw new SpiffeError('unavailable', 'evidence.join-token.unreadable', `the join token file ${path} cannot be read`, {
      cause,
    });
  }
}
