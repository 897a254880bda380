import { describe, expect, it } from 'vitest';
import { refreshIntervalMs, spreadMs } from '../../../server/federation/interval.ts';
import { composeBundle, emptyBundle, readX509Authority } from '../../../spiffe/bundle.ts';
import { parseTrustDomain } from '../../../spiffe/id.ts';
import { authorityExtensions, ecPair, forgeCertificate } from '../../help/forge.ts';

const far = parseTrustDomain('far.example');
const bounds = { shortestMs: 60_000, longestMs: 86_400_000 };
const minute = 60_000;
const startAt = Date.UTC(2026, 0, 1);

const hinted = (refreshHintSeconds: number) => composeBundle({ ...emptyBundle(far), refreshHintSeconds });
/** With a root of each life. */
function rooted(...livesMs: readonly number[]) {
  const x509Authorities = livesMs.map((lifeMs) => {
    const { privateKey, spki } = ecPair();
    const extensions = authorityExtensions('spiffe://far.example');
    return readX509Authority(forgeCertificate({ signer: privateKey, spki, extensions, validity: [startAt, startAt + lifeMs] }));
  });
  return composeBundle({ ...emptyBundle(far), x509Authorities });
}

describe('refreshIntervalMs', () => {
  it.each([
    ['FED-04 the hint', hinted(600), 600_000],
    ['FED-04 five minutes without one', hinted(0), 300_000],
    ['FED-04 five minutes with roots that live long', rooted(365 * 24 * 60 * minute), 300_000],
    ['spire-wire 10 a tenth of the shortest root life', rooted(24 * 60 * minute, 30 * minute), 3 * minute],
    ['spire-wire 10 a minute at least, by roots', rooted(5 * minute), minute],
    ['spire-wire 10 a minute at least, by the hint', hinted(1), minute],
    ['a day at most, so that a publisher cannot hide a revocation', hinted(Number.MAX_SAFE_INTEGER), 86_400_000],
    ['the shortest without a bundle', undefined, minute],
  ] as const)('%s', (_name, bundle, expected) => {
    expect(refreshIntervalMs(bundle, bounds)).toBe(expected);
  });
});

describe('spreadMs', () => {
  it.each([
    ['never late', 300_000, 0, 300_000],
    ['earlier by a tenth at most', 300_000, 0.999_999, 270_000],
    ['never below the shortest', 60_000, 0.999_999, 60_000],
  ] as const)('%s', (_name, interval, random, expected) => {
    expect(spreadMs(interval, random, bounds)).toBe(expected);
  });
});
