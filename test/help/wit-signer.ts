/**
 * Signs WIT-SVIDs as a server does, for the tests of those who ask for them.
 */
import type { WitRequest, WitSigned } from '../../agent/svids/signer.ts';
import type { Clock } from '../../runtime/clock.ts';
import { readJwtKey, signJwtText } from '../../spiffe/jwt-key.ts';
import { assembleWitSvid, draftWitSvid } from '../../spiffe/wit-svid.ts';
import { ecPair } from './forge.ts';

export interface TestWitSigner {
  readonly largestBatch: number;
  /** SubjectPublicKeyInfo, DER, of the authority whose key id is `wit-key`. */
  readonly publicKey: Uint8Array;
  /** The SPIFFE IDs of each call. */
  readonly calls: string[][];
  /** Instead of an answer to each request, or to the whole call. */
  refusing: Extract<WitSigned, { refused: unknown }> | undefined;
  failing: Error | undefined;
  /** Called once a request is there. */
  meanwhile: (() => void) | undefined;
  keyId: string;
  lifeMs: number;
  signWit(requests: readonly WitRequest[]): Promise<readonly WitSigned[]>;
}

export function testWitSigner(clock: Pick<Clock, 'now'>): TestWitSigner {
  const authority = ecPair();
  const signer: TestWitSigner = {
    largestBatch: 2,
    publicKey: authority.spki,
    calls: [],
    refusing: undefined,
    failing: undefined,
    meanwhile: undefined,
    keyId: 'wit-key',
    lifeMs: 600_000,
    async signWit(requests) {
      signer.calls.push(requests.map(({ entry }) => entry.spiffeId));
      signer.meanwhile?.();
      if (signer.failing !== undefined) throw signer.failing;
      return requests.map(({ entry, keys }) => {
        if (signer.refusing !== undefined) return signer.refusing;
        const issuedAt = Math.floor(clock.now() / 1000) * 1000;
        const input = draftWitSvid({
          spiffeId: entry.spiffeId,
          confirmation: { key: readJwtKey(keys.publicKey), algorithm: 'ES256' },
          notBeforeAt: issuedAt - 10_000,
          issuedAt,
          expiresAt: issuedAt + signer.lifeMs,
          keyId: signer.keyId,
          algorithm: 'ES256',
          jti: `jti-${signer.calls.length}`,
        });
        return { token: assembleWitSvid(input, signJwtText('ES256', authority.privateKey, input)) };
      });
    },
  };
  return signer;
}
