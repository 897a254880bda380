import { describe, expect, it } from 'vitest';
import { systemClock } from '../../../runtime/clock.ts';
import type { HttpDocument } from '../../../runtime/http-document.ts';
import { createWatch } from '../../../runtime/watch.ts';
import { bundlePage } from '../../../server/federation/endpoint.ts';
import { parseBundleDocument } from '../../../spiffe/bundle-document.ts';
import { bundleEquals, emptyBundle } from '../../../spiffe/bundle.ts';
import { createDomain } from '../../help/bundle-endpoint.ts';

const home = createDomain('home.test', systemClock.now());

describe('the page of our bundle', () => {
  it('FED-01, FED-04, FED-16: is the bundle with the hint of the configuration', () => {
    const page = bundlePage(createWatch(home.bundle), 300)('/') as HttpDocument;
    const bundle = parseBundleDocument(page.body, home.bundle.trustDomain);
    expect(bundleEquals(bundle, { ...home.bundle, refreshHintSeconds: 300 })).toBe(true);
    expect(page.headers).toMatchObject({ 'content-type': 'application/json', 'cache-control': 'public, max-age=60' });
  });

  it('is a new one with each bundle, and made once for each', () => {
    const source = createWatch(home.bundle);
    const at = bundlePage(source, 300);
    const first = at('/') as HttpDocument;
    expect(at('/')).toBe(first);
    source.set({ ...home.bundle, sequence: 8n });
    const second = at('/') as HttpDocument;
    expect(second.etag).not.toBe(first.etag);
    expect(String(second.body)).toContain('"spiffe_sequence":8');
  });

  it('says nothing before there is anything to trust, and that there is nothing once all was revoked', () => {
    const source = createWatch(emptyBundle(home.bundle.trustDomain));
    const at = bundlePage(source, 300);
    expect(at('/')).toMatchObject({ status: 503 });
    source.set({ ...emptyBundle(home.bundle.trustDomain), sequence: 9n });
    expect(String((at('/') as HttpDocument).body)).toContain('"keys":[]');
  });

  it.each(['', '/bundle', '//', '/.well-known/openid-configuration'])('is nowhere else: %j', (path) => {
    expect(bundlePage(createWatch(home.bundle), 300)(path)).toMatchObject({ status: 404 });
  });
});
