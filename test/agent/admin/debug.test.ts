import { expect, it } from 'vitest';
import { debugApi } from '../../../agent/admin/debug.ts';
import type { GetInfoResponse } from '../../../proto/gen/spire/agent/debug/v1/GetInfoResponse.ts';
import { testAuthority } from '../../help/agent-server.ts';
import { createTestClock } from '../../help/clock.ts';

interface Methods {
  GetInfo(): Promise<GetInfoResponse>;
}

it('tells the chain up to the authority, and the figures', async () => {
  const clock = createTestClock();
  const [authority, other] = [testAuthority('authority', () => clock.now()), testAuthority('other', () => clock.now())];
  const svid = authority.svid('spiffe://example.org/spire/agent/one');
  const syncedAt = clock.now() - 1_500;
  const api = debugApi({ clock, svid: () => svid, authorities: () => [other.certificate, authority.certificate], counts: () => ({ x509: 3, jwt: 2 }), syncedAt: () => syncedAt }) as unknown as Methods;
  await clock.advance(61_900);
  const info = await api.GetInfo();
  expect(info).toMatchObject({ uptime: 61, svids_count: 3, cached_x509_svids_count: 3, cached_jwt_svids_count: 2, cached_svidstore_x509_svids_count: 0, last_sync_success: Math.floor(syncedAt / 1000) });
  expect(info.svid_chain).toMatchObject([
    { id: { trust_domain: 'example.org', path: '/spire/agent/one' }, expires_at: Math.floor(svid.expiresAt / 1000), subject: expect.stringContaining('leaf') },
    { id: { trust_domain: 'example.org', path: '' }, subject: expect.stringContaining('authority') },
  ]);
});

it('has no chain before there is an SVID, and no time of a synchronisation that was not', async () => {
  const api = debugApi({ clock: createTestClock(), svid: () => undefined, authorities: () => [], counts: () => ({ x509: 0, jwt: 0 }), syncedAt: () => undefined }) as unknown as Methods;
  expect(await api.GetInfo()).toMatchObject({ svid_chain: [], last_sync_success: 0, uptime: 0 });
});
