/**
 * A node without an agent, for what only the wire shows: it joins with a token over TLS, and calls the node service with
 * what it got. Agents that serve workloads are processes of `site.ts`.
 */
import { attestNode, type NodeAdmission } from '../../agent/node/attest.ts';
import { joinTokenEvidence } from '../../agent/node/join-token.ts';
import { generateNodeKeys } from '../../agent/node/keys.ts';
import { connectAnonymously, connectMutually, type LinkOptions } from '../../agent/node/link.ts';
import { readTrustBundle } from '../../agent/node/trust.ts';
import { loadServices } from '../../proto/load.ts';
import type { FollowResponse__Output } from '../../proto/gen/steeple/node/v1/FollowResponse.ts';
import type { Position__Output } from '../../proto/gen/steeple/node/v1/Position.ts';
import { systemClock } from '../../runtime/clock.ts';
import type { RpcClient } from '../../runtime/rpc/call.ts';
import type { TlsIdentity } from '../../runtime/tls.ts';
import { createWatch } from '../../runtime/watch.ts';
import { parseTrustDomain } from '../../spiffe/id.ts';
import { type Site, trustDomain as name } from './site.ts';

const trustDomain = parseTrustDomain(name);

function linkTo(site: Pick<Site, 'port'>): LinkOptions {
  return { clock: systemClock, host: '127.0.0.1', port: site.port, trustDomain, minVersion: 'TLSv1.3' };
}

/** @throws what the server refuses with */
export async function joinNode(site: Pick<Site, 'port' | 'bundleFile'>, token: string): Promise<NodeAdmission> {
  const trust = await readTrustBundle(site.bundleFile, 'pem', trustDomain);
  return attestNode(
    {
      trustDomain,
      connect: (trusted) => connectAnonymously(linkTo(site), trusted),
      source: joinTokenEvidence({ token }),
      trust,
      generateKeys: generateNodeKeys,
    },
    AbortSignal.timeout(60_000),
  );
}

/** The caller closes it. */
export function connectNode(site: Pick<Site, 'port'>, { svid, bundle }: NodeAdmission): RpcClient {
  const identity = createWatch<TlsIdentity>({ svid, bundles: new Map([[trustDomain, bundle]]) });
  return connectMutually(linkTo(site), identity, { succeeded: () => undefined, failed: () => undefined });
}

export interface Hello {
  readonly minVersion: number;
  readonly maxVersion: number;
  readonly position?: Position__Output;
}

/** What came first on a follow stream: the welcome, and all up to where the node has caught up. */
export interface Followed {
  readonly version: number;
  readonly snapshot: boolean;
  /** SPIFFE IDs' paths of entries, from the snapshot or from changes. */
  readonly entries: readonly string[];
  /** IDs of entries that the node is to drop: named, or not among those it is told it still holds. */
  readonly drops: (id: string) => boolean;
  readonly position: Position__Output;
}

/** Follows until it stands at `revision` or beyond, and leaves. */
export async function followTo(client: RpcClient, hello: Hello, revision: number): Promise<Followed> {
  const talk = client.converse(loadServices('steeple.node.v1.Node')['steeple.node.v1.Node'].Follow, { signal: AbortSignal.timeout(20_000) });
  const { minVersion, maxVersion, position } = hello;
  await talk.send({ hello: { min_version: minVersion, max_version: maxVersion, agent_version: '0.0.0-test', ...(position !== undefined && { position }) } });
  let welcome: FollowResponse__Output['welcome'];
  const entries: string[] = [];
  const removed = new Set<string>();
  let held: ReadonlySet<string> | undefined;
  for await (const step of talk.responses) {
    if (step.welcome) welcome = step.welcome;
    if (step.snapshot) entries.push(...step.snapshot.entries.map((entry) => entry.spiffe_id?.path ?? ''));
    for (const change of step.changes?.changes ?? []) {
      if (change.entry) entries.push(change.entry.spiffe_id?.path ?? '');
      if (change.removed_entry_id !== undefined && change.removed_entry_id !== null) removed.add(change.removed_entry_id);
      if (change.held) held = new Set(change.held.ids);
    }
    const at = step.snapshot?.last ?? step.changes?.position ?? step.heartbeat?.position;
    if (welcome && at && Number(at.revision) >= revision) {
      const drops = (id: string): boolean => removed.has(id) || held?.has(id) === false;
      return { version: welcome.version, snapshot: welcome.snapshot, entries, drops, position: at };
    }
  }
  throw new Error('the stream ended before the node had caught up');
}
