/**
 * Evidence into an agent SVID: over a connection that trusts a configured bundle, and on the same connection the bundle
 * of the moment. When to attest, and what to do when it fails, is `identity.ts`.
 */
import { composeRequest } from '../../spiffe/x509/request.ts';
import { parseX509Svid, type X509Svid } from '../../spiffe/x509-svid.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { isSpiffeError, SpiffeError } from '../../spiffe/errors.ts';
import { isMemberOf, serverId, type TrustDomain } from '../../spiffe/id.ts';
import type { RpcClient } from '../../runtime/rpc/call.ts';
import type { EvidenceSource } from './evidence.ts';
import { attestAgent, getBundle, renewAgent } from './messages.ts';
import { pinnedBundle, readTrustBundle, type FirstTrust } from './trust.ts';
import type { NodeKeys } from './keys.ts';

/** What a connection without a certificate of ours believes: a bundle, or whoever answers with the server's name. */
export type AnonymousTrust = Bundle | 'unverified';

/** Opens a connection to the server that presents no certificate; whoever asked closes it. */
export type ConnectAnonymously = (trust: AnonymousTrust) => RpcClient;

export interface NodeAdmission {
  readonly svid: X509Svid;
  readonly bundle: Bundle;
  readonly reattestable: boolean;
}

export interface AttestNodeOptions {
  readonly trustDomain: TrustDomain;
  readonly connect: ConnectAnonymously;
  readonly source: EvidenceSource;
  readonly trust: AnonymousTrust;
  readonly generateKeys: () => Promise<NodeKeys>;
}

/**
 * @throws what the evidence, the connection and the server throw; invalid `attest.id` when the server names the agent as
 * it must not, and the reasons of X509-SVIDs
 */
export async function attestNode(options: AttestNodeOptions, signal: AbortSignal): Promise<NodeAdmission> {
  const { trustDomain, source, trust } = options;
  const [evidence, keys] = await Promise.all([source.produce(), options.generateKeys()]);
  const client = options.connect(trust);
  try {
    const request = composeRequest({ privateKey: keys.privateKey, publicKey: keys.publicKey });
    const { svid, reattestable } = await attestAgent(client, { type: source.type, evidence, request }, signal);
    const own = ownSvid(svid.certificates, keys, trustDomain);
    return { svid: own, reattestable, bundle: await currentBundle(client, trust, trustDomain, signal) };
  } finally {
    client.close();
  }
}

/** @throws as `attestNode` */
export async function renewNode(
  client: RpcClient,
  keys: NodeKeys,
  trustDomain: TrustDomain,
  signal: AbortSignal,
): Promise<X509Svid> {
  const request = composeRequest({ privateKey: keys.privateKey, publicKey: keys.publicKey });
  const { certificates } = await renewAgent(client, request, signal);
  return ownSvid(certificates, keys, trustDomain);
}

/**
 * What to trust on first contact, by configuration.
 * @throws as `readTrustBundle`, `pinnedBundle`, and what asking for the bundle throws
 */
export async function firstTrust(
  trust: FirstTrust,
  trustDomain: TrustDomain,
  connect: ConnectAnonymously,
  signal: AbortSignal,
): Promise<AnonymousTrust> {
  switch (trust.type) {
    case 'file':
      return readTrustBundle(trust.path, trust.format, trustDomain);
    case 'insecure':
      return 'unverified';
    case 'pin': {
      // A server need not send its authority in the handshake, so it is asked for, and believed by its hash alone.
      const client = connect('unverified');
      try {
        const claimed = await getBundle(client, signal);
        return pinnedBundle({ ...claimed, trustDomain }, trust.sha256);
      } finally {
        client.close();
      }
    }
  }
}

function ownSvid(chain: readonly Uint8Array[], keys: NodeKeys, trustDomain: TrustDomain): X509Svid {
  const svid = parseX509Svid({ chain, pkcs8Key: keys.privateKey.export({ type: 'pkcs8', format: 'der' }) });
  if (!isMemberOf(svid.spiffeId, trustDomain) || svid.spiffeId === serverId(trustDomain)) {
    throw new SpiffeError('invalid', 'attest.id', `the server gave this agent the ID ${svid.spiffeId}`);
  }
  return svid;
}

/** A one-time token is spent by now, so a bundle that cannot be had does not undo what was gained. */
async function currentBundle(client: RpcClient, trust: AnonymousTrust, trustDomain: TrustDomain, signal: AbortSignal): Promise<Bundle> {
  try {
    const bundle = await getBundle(client, signal);
    if (bundle.trustDomain === trustDomain && bundle.x509Authorities.length > 0) return bundle;
    throw new SpiffeError('invalid', 'attest.bundle', 'the server answered with a bundle that is empty or not of this trust domain');
  } catch (error) {
    if (trust === 'unverified' || !isSpiffeError(error) || error.kind === 'invalid') throw error;
    return trust;
  }
}
