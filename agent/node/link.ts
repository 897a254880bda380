/**
 * Connections to the server: anonymous ones for joining, and the one that presents the agent's SVID. What the server says
 * of that SVID on any call is passed on to whoever keeps it.
 */
import { SpiffeError } from '../../spiffe/errors.ts';
import { serverId, type TrustDomain } from '../../spiffe/id.ts';
import { parseCertificate } from '../../spiffe/x509/certificate.ts';
import { readId, type X509Svid } from '../../spiffe/x509-svid.ts';
import type { Clock } from '../../runtime/clock.ts';
import { createRpcClient, type Conversation, type RpcClient } from '../../runtime/rpc/call.ts';
import { secureChannel } from '../../runtime/rpc/secure.ts';
import { checkServerIs, createTlsClient, type PeerCheck, type TlsIdentity, type TlsVersion } from '../../runtime/tls.ts';
import { createWatch, type Watch } from '../../runtime/watch.ts';
import type { AnonymousTrust } from './attest.ts';

export interface LinkOptions {
  readonly clock: Clock;
  readonly host: string;
  readonly port: number;
  readonly trustDomain: TrustDomain;
  readonly minVersion: TlsVersion;
}

/** What became of a call that presented the agent's SVID. */
export interface CallWitness {
  succeeded(svid: X509Svid | undefined): void;
  failed(error: SpiffeError): void;
}

/** A snapshot page or a batch of changes may be larger than what others send. */
const maxReceiveBytes = 64 * 1024 * 1024;

/** A connection without a certificate of ours. */
export function connectAnonymously(options: LinkOptions, trust: AnonymousTrust): RpcClient {
  const bundles = trust === 'unverified' ? new Map() : new Map([[options.trustDomain, trust]]);
  const identity = createWatch<TlsIdentity>({ svid: undefined, bundles });
  const check = trust === 'unverified' ? checkNameOnly(options.trustDomain) : checkServerIs(serverId(options.trustDomain), identity, options.clock);
  return clientOver(options, identity, check);
}

/** The connection of the agent; replaced as a whole when its SVID or the bundle changes. */
export function connectMutually(options: LinkOptions, identity: Watch<TlsIdentity>, witness: CallWitness): RpcClient {
  const check = checkServerIs(serverId(options.trustDomain), identity, options.clock);
  return witnessed(clientOver(options, identity, check), identity, witness);
}

function clientOver(options: LinkOptions, identity: Watch<TlsIdentity>, check: PeerCheck): RpcClient {
  const { clock, host, port, minVersion } = options;
  const security = secureChannel(createTlsClient({ identity, clock, check, minVersion, serverName: host }));
  const address = host.includes(':') ? `[${host}]:${String(port)}` : `${host}:${String(port)}`;
  return createRpcClient({ clock, address, security, maxReceiveBytes });
}

/** Believes whoever has the server's name in a certificate of any making: insecure bootstrap and fetching what a pin names. */
function checkNameOnly(trustDomain: TrustDomain): PeerCheck {
  const expected = serverId(trustDomain);
  return ([leaf]) => {
    const spiffeId = leaf === undefined ? undefined : readId(parseCertificate(leaf));
    if (spiffeId === expected) return { spiffeId };
    throw new SpiffeError('unauthenticated', 'link.server-name', `the server is not ${expected}`, {
      detail: { found: spiffeId ?? '' },
    });
  };
}

function witnessed(client: RpcClient, identity: Watch<TlsIdentity>, witness: CallWitness): RpcClient {
  const tell = (error: unknown): void => {
    if (error instanceof SpiffeError) witness.failed(error);
  };
  return {
    async unary(method, request, options) {
      const { svid } = identity.value;
      try {
        const response = await client.unary(method, request, options);
        witness.succeeded(svid);
        return response;
      } catch (error) {
        tell(error);
        throw error;
      }
    },
    serverStream: (method, request, options) => client.serverStream(method, request, options),
    converse<Req, Res>(method: Parameters<typeof client.converse<Req, Res>>[0], options?: Parameters<typeof client.converse<Req, Res>>[1]): Conversation<Req, Res> {
      const { svid } = identity.value;
      const talk = client.converse(method, options);
      return { ...talk, responses: told(talk.responses, () => witness.succeeded(svid), tell) };
    },
    close: () => client.close(),
  };
}

async function* told<T>(responses: AsyncIterable<T>, first: () => void, failed: (error: unknown) => void): AsyncGenerator<T> {
  let any = false;
  try {
    for await (const response of responses) {
      if (!any) first();
      any = true;
      yield response;
    }
  } catch (error) {
    failed(error);
    throw error;
  }
}
