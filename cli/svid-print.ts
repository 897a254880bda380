/**
 * X509-SVIDs and bundles for people and for programs; keys are not shown.
 */
import type { X509Context } from '../client/index.ts';
import { systemClock } from '../runtime/clock.ts';
import { formatPemCertificates } from '../spiffe/pem.ts';
import type { X509Svid } from '../spiffe/x509-svid.ts';
import type { Io } from './command.ts';
import { distance, instant, type OutputForm, record } from './print.ts';

/** One record for each identity; as JSON, one line with all of them. */
export function printContext({ svids, bundles }: Pick<X509Context, 'svids' | 'bundles'>, form: OutputForm, io: Io): void {
  if (form === 'json') {
    const certificates = Object.fromEntries([...bundles].map(([domain, list]) => [domain, formatPemCertificates(list)]));
    io.out(`${JSON.stringify({ svids: svids.map(svidJson), bundles: certificates })}\n`);
    return;
  }
  const now = systemClock.now();
  for (const svid of svids) {
    io.out(
      record([
        ['SPIFFE ID', svid.spiffeId],
        ['Serial', svid.serial],
        ['Valid from', instant(svid.notBeforeAt)],
        ['Expires', `${instant(svid.expiresAt)} (${distance(svid.expiresAt, now)})`],
        ...(svid.hint === '' ? [] : [['Hint', svid.hint] as const]),
        ['Bundles', [...bundles.keys()]],
      ]),
    );
  }
}

function svidJson(svid: X509Svid): Readonly<Record<string, unknown>> {
  const { spiffeId, serial, hint } = svid;
  return {
    spiffeId,
    serial,
    hint,
    notBeforeAt: instant(svid.notBeforeAt),
    expiresAt: instant(svid.expiresAt),
    certificates: formatPemCertificates(svid.chain),
  };
}
