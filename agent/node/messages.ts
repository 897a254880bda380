/**
 * The calls by which a node joins and stays, and their messages: AttestAgent with its challenges, RenewAgent, GetBundle,
 * PostStatus. When they are made is `attest.ts` and `identity.ts`.
 */
import { bundleFromMessage } from '../../proto/convert/bundle.ts';
import { x509SvidFromMessage, type IssuedX509Svid } from '../../proto/convert/svid.ts';
import type { AttestAgentResponse__Output } from '../../proto/gen/spire/api/server/agent/v1/AttestAgentResponse.ts';
import type { Bundle } from '../../spiffe/bundle.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import type { RpcClient } from '../../runtime/rpc/call.ts';
import type { Evidence } from './evidence.ts';
import { agentServices } from './wire.ts';

export interface Admission {
  readonly svid: IssuedX509Svid;
  /** Whether the server would take this node's evidence again. */
  readonly reattestable: boolean;
}

const attestDeadlineMs = 30_000;
/** Far more rounds than any verifier needs. */
const mostRounds = 16;

/**
 * Shows evidence and answers challenges until the server admits or refuses.
 * @throws what the server throws; invalid `attest.answer`, `attest.rounds` when it says what it must not
 */
export async function attestAgent(
  client: RpcClient,
  shown: { readonly type: string; readonly evidence: Evidence; readonly request: Uint8Array },
  signal: AbortSignal,
): Promise<Admission> {
  const method = agentServices()['spire.api.server.agent.v1.Agent'].AttestAgent;
  const talk = client.converse(method, { signal, deadlineMs: attestDeadlineMs });
  const payload = Buffer.from(shown.evidence.payload);
  await talk.send({ params: { data: { type: shown.type, payload }, params: { csr: Buffer.from(shown.request) } } });
  let rounds = 0;
  for await (const response of talk.responses) {
    const admitted = admissionOf(response);
    if (admitted !== undefined) {
      talk.finish();
      return admitted;
    }
    rounds += 1;
    if (rounds > mostRounds) throw new SpiffeError('invalid', 'attest.rounds', 'the server poses challenges without end');
    // An empty challenge is one as well.
    const answer = await shown.evidence.answer(response.challenge ?? new Uint8Array());
    await talk.send({ challenge_response: Buffer.from(answer) });
  }
  throw new SpiffeError('invalid', 'attest.answer', 'the server ended attestation without a result');
}

function admissionOf(response: AttestAgentResponse__Output): Admission | undefined {
  switch (response.step) {
    case 'result':
      return { svid: x509SvidFromMessage(response.result?.svid), reattestable: response.result?.reattestable ?? false };
    case 'challenge':
      return undefined;
    default:
      throw new SpiffeError('invalid', 'attest.answer', 'the server answered neither a result nor a challenge');
  }
}

/** @throws what the server throws; invalid `proto.svid.*` */
export async function renewAgent(client: RpcClient, request: Uint8Array, signal: AbortSignal): Promise<IssuedX509Svid> {
  const method = agentServices()['spire.api.server.agent.v1.Agent'].RenewAgent;
  const response = await client.unary(method, { params: { csr: Buffer.from(request) } }, { signal });
  return x509SvidFromMessage(response.svid);
}

/** The server's own trust domain's bundle. @throws what the server throws; invalid `proto.bundle.*` */
export async function getBundle(client: RpcClient, signal: AbortSignal): Promise<Bundle> {
  const method = agentServices()['spire.api.server.bundle.v1.Bundle'].GetBundle;
  return bundleFromMessage(await client.unary(method, {}, { signal }));
}

export async function postStatus(client: RpcClient, agentVersion: string, signal: AbortSignal): Promise<void> {
  const method = agentServices()['spire.api.server.agent.v1.Agent'].PostStatus;
  await client.unary(method, { agent_version: agentVersion }, { signal });
}
