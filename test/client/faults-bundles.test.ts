/**
 * Bundles with every fault as the library meets them: fetched over HTTPS from an endpoint, and read from a file.
 */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fetchBundle } from '../../client/bundle-endpoint.ts';
import { loadBundle } from '../../client/bundle-set.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseTrustDomain } from '../../spiffe/id.ts';
import { serveEndpoint, type TestEndpoint } from '../help/bundle-endpoint.ts';
import { createClusterAuthority } from '../help/kubernetes-tls.ts';
import type { BundleCase } from '../vectors/generate-bundles.ts';

const cases = JSON.parse(readFileSync(new URL('../vectors/bundles.json', import.meta.url), 'utf8')) as readonly BundleCase[];
const trustDomain = parseTrustDomain('example.org');
const web = createClusterAuthority('web');
const named = web.issue('endpoint', ['127.0.0.1']);

let endpoint: TestEndpoint;
let directory: string;

beforeAll(async () => {
  endpoint = await serveEndpoint({ cert: named.certificate, key: named.key }, (request, response) => {
    const index = Number((request.url ?? '').slice(1));
    response.setHeader('content-type', 'application/json').end(cases[index]?.document ?? '');
  });
  directory = await mkdtemp(path.join(tmpdir(), 'steeple-bundles-'));
});
afterAll(async () => {
  await endpoint[Symbol.asyncDispose]();
  await rm(directory, { recursive: true });
});

/** As the vectors write it. */
async function outcomeOf(get: () => Promise<Bundle>): Promise<string> {
  try {
    await get();
    return 'accepted';
  } catch (error) {
    if (error instanceof SpiffeError) return `${error.kind} ${error.reason}`;
    throw error;
  }
}

const expected = ({ verdict }: BundleCase): string => (/^[a-z]+ [a-z0-9.-]+$/.test(verdict) ? verdict : 'accepted');

describe('bundles with every fault', () => {
  it('BUNDLE-01 to BUNDLE-15: are refused where they are fetched, with the reason of each', async () => {
    const outcomes = await Promise.all(
      cases.map((_, index) => outcomeOf(() => fetchBundle({ url: endpoint.url('127.0.0.1', `/${String(index)}`), trustDomain, profile: { type: 'https_web', ca: web.ca } }))),
    );
    expect(outcomes).toEqual(cases.map(expected));
  });

  it('BUNDLE-01 to BUNDLE-15: are refused where they are read from a file, with the reason of each', async () => {
    const outcomes: string[] = [];
    for (const { document } of cases) {
      const file = path.join(directory, 'bundle.json');
      await writeFile(file, document);
      outcomes.push(await outcomeOf(() => loadBundle(trustDomain, file)));
    }
    expect(outcomes).toEqual(cases.map(expected));
  });

  it('are told from sound ones: both kinds are among the cases', () => {
    const verdicts = cases.map(expected);
    expect(verdicts.filter((verdict) => verdict === 'accepted').length).toBeGreaterThan(10);
    expect(new Set(verdicts).size).toBeGreaterThan(10);
  });
});
