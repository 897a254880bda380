/**
 * SPIRE's figures about a running agent, for tools that ask for them; more is told by our own `api.ts`.
 */
import { X509Certificate } from 'node:crypto';
import type { DebugDefinition } from '../../proto/gen/spire/agent/debug/v1/Debug.ts';
import type { GetInfoResponse } from '../../proto/gen/spire/agent/debug/v1/GetInfoResponse.ts';
import { idToMessage } from '../../proto/convert/id.ts';
import { secondsFromInstant } from '../../proto/convert/scalar.ts';
import { trustDomainId, trustDomainOf } from '../../spiffe/id.ts';
import { parseCertificate } from '../../spiffe/x509/certificate.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import type { Clock } from '../../runtime/clock.ts';
import type { Peer } from '../../runtime/peer.ts';
import type { ServiceHandlers } from '../../runtime/rpc/handlers.ts';

export interface DebugApiOptions {
  readonly clock: Pick<Clock, 'now' | 'monotonic'>;
  /** The agent's own. */
  readonly svid: () => X509Svid | undefined;
  /** DER, of the authorities of the own trust domain. */
  readonly authorities: () => readonly Uint8Array[];
  readonly counts: () => { readonly x509: number; readonly jwt: number };
  /** Epoch milliseconds; undefined before the first synchronisation. */
  readonly syncedAt: () => number | undefined;
}

export function debugApi(options: DebugApiOptions): ServiceHandlers<DebugDefinition, Peer> {
  const startedAt = options.clock.monotonic();
  return {
    async GetInfo(): Promise<GetInfoResponse> {
      const { x509, jwt } = options.counts();
      return {
        svid_chain: chainOf(options.svid(), options.authorities()),
        uptime: Math.floor((options.clock.monotonic() - startedAt) / 1000),
        svids_count: x509,
        last_sync_success: secondsFromInstant(options.syncedAt() ?? 0),
        cached_x509_svids_count: x509,
        cached_jwt_svids_count: jwt,
        cached_svidstore_x509_svids_count: 0,
      };
    },
  };
}

/** From the leaf to the authority it was signed under. */
function chainOf(svid: X509Svid | undefined, authorities: readonly Uint8Array[]): NonNullable<GetInfoResponse['svid_chain']> {
  const top = svid?.chain.at(-1);
  if (svid === undefined || top === undefined) return [];
  const last = new X509Certificate(top);
  const root = authorities.find((authority) => last.checkIssued(new X509Certificate(authority)));
  return [...svid.chain, ...(root === undefined ? [] : [root])].map((der, index) => ({
    id: idToMessage(index === 0 ? svid.spiffeId : trustDomainId(trustDomainOf(svid.spiffeId))),
    expires_at: secondsFromInstant(parseCertificate(der).notAfterAt),
    subject: subjectOf(der),
  }));
}

/** As Go writes names: the last part first, with commas between. */
function subjectOf(der: Uint8Array): string {
  return new X509Certificate(der).subject?.split('\n').toReversed().join(',') ?? '';
}
