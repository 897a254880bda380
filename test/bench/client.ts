/**
 * What the library costs beside the bare minimum: JWT-SVIDs validated by it and by `jose` alone, with the same keys and tokens,
 * turn by turn in one process.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import process from 'node:process';
import { importJWK, jwtVerify } from 'jose';
import { bundleFromJwtAuthorities, createBundleSet, validateJwtSvid } from '../../client/index.ts';
import { systemClock } from '../../runtime/clock.ts';
import { parseSpiffeId, parseTrustDomain } from '../../spiffe/id.ts';
import { jwtAlgorithmOf, signJwtText, type JwtAlgorithm } from '../../spiffe/jwt-key.ts';
import { assembleJwtSvid, draftJwtSvid } from '../../spiffe/jwt-svid.ts';
import { type Bench, distributionOf, type Report, rounded } from './figure.ts';

const trustDomain = parseTrustDomain('example.org');
const audience = 'orders';
const tokenCount = 500;
const rounds = 12;

interface Signer {
  readonly algorithm: JwtAlgorithm;
  readonly publicKey: KeyObject;
  readonly tokens: readonly string[];
}

function signer(privateKey: KeyObject): Signer {
  const algorithm = jwtAlgorithmOf(createPublicKey(privateKey));
  const now = systemClock.now();
  const tokens = Array.from({ length: tokenCount }, (_, number) => {
    const spiffeId = parseSpiffeId(`spiffe://example.org/ns/shop/sa/web-${number}`);
    const text = draftJwtSvid({ spiffeId, audience: [audience], issuedAt: now, expiresAt: now + 3_600_000, keyId: 'key-1', algorithm, jti: String(number) });
    return assembleJwtSvid(text, signJwtText(algorithm, privateKey, text));
  });
  return { algorithm, publicKey: createPublicKey(privateKey), tokens };
}

async function compare(report: Report, { algorithm, publicKey, tokens }: Signer): Promise<void> {
  const spki = Uint8Array.from(publicKey.export({ type: 'spki', format: 'der' }));
  const bundles = createBundleSet(bundleFromJwtAuthorities(trustDomain, [{ keyId: 'key-1', publicKey: spki, expiresAt: undefined, tainted: false }]));
  const key = await importJWK(publicKey.export({ format: 'jwk' }) as Parameters<typeof importJWK>[0], algorithm);
  const ours = (): void => {
    for (const token of tokens) validateJwtSvid(token, { audience, bundles });
  };
  const bare = async (): Promise<void> => {
    for (const token of tokens) await jwtVerify(token, key, { audience, algorithms: [algorithm] });
  };
  // By processor time, because jose hands its signatures to other threads and the clock would count who else runs.
  const seen = { ours: [] as number[], bare: [] as number[] };
  const clock = { ours: 0, bare: 0 };
  for (let round = -2; round < rounds; round += 1) {
    // The one that goes first is another each time.
    for (const side of round % 2 === 0 ? (['ours', 'bare'] as const) : (['bare', 'ours'] as const)) {
      const [began, cpu] = [performance.now(), process.cpuUsage()];
      await (side === 'ours' ? ours() : bare());
      if (round < 0) continue;
      const { user, system } = process.cpuUsage(cpu);
      seen[side].push((tokenCount * 1_000_000) / (user + system));
      clock[side] += (performance.now() - began) / rounds / tokenCount;
    }
  }
  const distribution = distributionOf(seen.ours);
  const jose = distributionOf(seen.bare);
  report({
    figure: `JWT-SVIDs validated per second of processor time, ${algorithm}`,
    unit: 'per second',
    aim: 'within 20 % of bare jose',
    distribution,
    also: {
      jose,
      ofJose: rounded(distribution.p50 / jose.p50),
      wallMicroseconds: rounded(clock.ours * 1_000),
      joseWallMicroseconds: rounded(clock.bare * 1_000),
      tokens: tokenCount,
    },
  });
}

export const jwtValidate: Bench = {
  name: 'jwt-validate',
  within: 60,
  async run(report) {
    const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
    const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
    for (const key of [ec, rsa]) await compare(report, signer(createPrivateKey(key.export({ type: 'pkcs8', format: 'pem' }))));
  },
};
