/**
 * Our own bundle as foreign trust domains fetch it: one document at `/`, for anybody [Federation 5]. TLS, connections and
 * the profile belong to the HTTPS server that shows it.
 */
import type { DocumentRefusal, HttpDocument } from '../../runtime/http-document.ts';
import { jsonDocument, noSuchPage } from '../../runtime/http-document.ts';
import type { Watch } from '../../runtime/watch.ts';
import { mapWatch } from '../../runtime/watch.ts';
import { formatBundleDocument } from '../../spiffe/bundle-document.ts';
import type { Bundle } from '../../spiffe/bundle.ts';

/** So that what a cache keeps adds little to the time between two fetches, which the hint is about. */
const hintsPerAge = 5;

/**
 * What is at a path. The document is made once for each bundle, and says the hint of the configuration in place of the
 * bundle's own.
 */
export function bundlePage(bundle: Watch<Bundle>, refreshHintSeconds: number): (path: string) => HttpDocument | DocumentRefusal {
  const maxAgeSeconds = Math.floor(refreshHintSeconds / hintsPerAge);
  const page = mapWatch(bundle, (current): HttpDocument | DocumentRefusal => {
    // Before the first authority is published nobody is to be told that there is nothing to trust.
    if (current.x509Authorities.length === 0 && current.jwtAuthorities.length === 0 && current.sequence === 0n) {
      return { status: 503, message: 'there is no bundle yet', headers: { 'retry-after': '5' } };
    }
    return jsonDocument(formatBundleDocument({ ...current, refreshHintSeconds }), { maxAgeSeconds });
  });
  return (path) => (path === '/' ? page.value : noSuchPage);
}
