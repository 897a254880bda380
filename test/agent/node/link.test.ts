import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { attestNode, firstTrust, renewNode, type AnonymousTrust } from '../../../agent/node/attest.ts';
import type { EvidenceSource } from '../../../agent/node/evidence.ts';
import { joinTokenEvidence } from '../../../agent/node/join-token.ts';
import { generateNodeKeys } from '../../../agent/node/keys.ts';
import { connectAnonymously, connectMutually, type LinkOptions } from '../../../agent/node/link.ts';
import { getBundle, postStatus } from '../../../agent/node/messages.ts';
import { systemClock } from '../../../runtime/clock.ts';
import type { TlsIdentity } from '../../../runtime/tls.ts';
import { createWatch, type WatchSource } from '../../../runtime/watch.ts';
import { composeBundle, emptyBundle, type Bundle } from '../../../spiffe/bundle.ts';
import type { SpiffeError } from '../../../spiffe/errors.ts';
import type { X509Svid } from '../../../spiffe/x509-svid.ts';
import { startAgentServer, testAuthority, trustDomain, type AgentServer } from '../../help/agent-server.ts';

const agentId = 'spiffe://example.org/spire/agent/join_token/a-token-for-tests';
const { signal } = new AbortController();
const impostor = testAuthority('impostor');

let server: AgentServer;
let link: LinkOptions;

const bundleWith = (certificate: Uint8Array): Bundle => composeBundle({ ...emptyBundle(trustDomain), x509Authorities: [{ certificate, tainted: false }] });

function attest(trust: AnonymousTrust, source: EvidenceSource = joinTokenEvidence({ token: 'a-token-for-tests' })): ReturnType<typeof attestNode> {
  return attestNode({ trustDomain, connect: (trusted) => connectAnonymously(link, trusted), source, trust, generateKeys: generateNodeKeys }, signal);
}

beforeEach(async () => {
  server = await startAgentServer();
  link = { clock: systemClock, host: '127.0.0.1', port: server.port, trustDomain, minVersion: 'TLSv1.3' };
});
afterEach(() => server[Symbol.asyncDispose]());

describe('joining', () => {
  it.each([
    ['a bundle', (): AnonymousTrust => server.bundle],
    ['nobody in particular', (): AnonymousTrust => 'unverified'],
  ])('trusting %s, yields an SVID for a key of our own and the bundle of the moment', async (_name, trust) => {
    const { svid, bundle, reattestable } = await attest(trust());
    expect([svid.spiffeId, reattestable]).toEqual([agentId, false]);
    expect(bundle.x509Authorities).toEqual(server.bundle.x509Authorities);
  });

  it('T-B14: shows its evidence to no other authority’s server', async () => {
    await expect(attest(bundleWith(impostor.certificate))).rejects.toMatchObject({ kind: expect.stringMatching(/unauthenticated|denied|unavailable/) as unknown });
    expect(server.calls.size).toBe(0);
  });

  it('T-B14: insecure bootstrap still asks for the name of the server', async () => {
    const elsewhere = { ...link, trustDomain: 'other.test' as typeof trustDomain };
    const client = connectAnonymously(elsewhere, 'unverified');
    await expect(getBundle(client, signal)).rejects.toMatchObject({ reason: expect.stringMatching(/link\.server-name|rpc\./) as unknown });
    client.close();
    expect(server.calls.size).toBe(0);
  });

  it('a refusal comes through with its kind', async () => {
    await expect(attest(server.bundle, joinTokenEvidence({ token: 'another' }))).rejects.toMatchObject({ kind: 'invalid' });
  });

  it('a pin names the authority to believe; any other hash believes nobody', async () => {
    const { createHash } = await import('node:crypto');
    const connect = (trust: AnonymousTrust): ReturnType<typeof connectAnonymously> => connectAnonymously(link, trust);
    const sha256 = createHash('sha256').update(server.authority.certificate).digest('hex');
    const pinned = await firstTrust({ type: 'pin', sha256 }, trustDomain, connect, signal);
    expect(pinned).toMatchObject({ x509Authorities: server.bundle.x509Authorities });
    await expect(firstTrust({ type: 'pin', sha256: '0'.repeat(64) }, trustDomain, connect, signal)).rejects.toMatchObject({ kind: 'denied', reason: 'trust.pin.mismatch' });
  });
});

describe('the connection of the agent', () => {
  let identity: WatchSource<TlsIdentity>;
  let succeeded: (X509Svid | undefined)[];
  let failed: SpiffeError[];
  const tlsOf = (svid: X509Svid): TlsIdentity => ({ svid, bundles: new Map([[trustDomain, server.bundle]]) });

  const connect = (svid: X509Svid): ReturnType<typeof connectMutually> => {
    identity = createWatch(tlsOf(svid));
    [succeeded, failed] = [[], []];
    return connectMutually(link, identity, { succeeded: (used) => succeeded.push(used), failed: (error) => failed.push(error) });
  };

  it('presents the SVID of the moment, and tells which one did', async () => {
    const { svid } = await attest(server.bundle);
    const client = connect(svid);
    await postStatus(client, '1', signal);
    const renewed = await renewNode(client, await generateNodeKeys(), trustDomain, signal);
    identity.set(tlsOf(renewed));
    await postStatus(client, '1', signal);
    client.close();
    expect(succeeded).toEqual([svid, svid, renewed]);
    expect(server.presented).toEqual(new Set([svid.serial, renewed.serial]));
    expect(renewed.spiffeId).toBe(svid.spiffeId);
  });

  it('tells what a refusal said of the SVID', async () => {
    const { svid } = await attest(server.bundle);
    const client = connect(svid);
    server.refuseAgents('AGENT_BANNED');
    await expect(postStatus(client, '1', signal)).rejects.toMatchObject({ kind: 'denied' });
    client.close();
    expect([succeeded.length, failed.map(({ detail }) => detail['permissionDenied'])]).toEqual([0, ['AGENT_BANNED']]);
  });
});
