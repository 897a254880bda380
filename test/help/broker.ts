/**
 * A broker as a process of its own: it gets its X509-SVID from the Workload API, proves itself and the agent to each other,
 * and asks on behalf of others. Every line it prints is a JSON object; it ends when its input does.
 */
import { loadMessages, loadServices } from '../../proto/load.ts';
import type { WorkloadReference } from '../../proto/gen/spiffe/broker/WorkloadReference.ts';
import { createRpcClient } from '../../runtime/rpc/call.ts';
import { secureChannel } from '../../runtime/rpc/secure.ts';
import { systemClock as clock } from '../../runtime/clock.ts';
import { checkServerIs, createTlsClient, type TlsIdentity } from '../../runtime/tls.ts';
import type { Watch } from '../../runtime/watch.ts';
import { X509Source } from '../../client/index.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId } from '../../spiffe/id.ts';

/** `pid:4711`, `pod:namespace/name`, `uid:…`, or nothing at all. */
export function referenceOf(text: string): WorkloadReference {
  const messages = loadMessages('spiffe.broker.KubernetesObjectReference', 'spiffe.broker.WorkloadPIDReference');
  const [kind, rest] = [text.slice(0, text.indexOf(':')), text.slice(text.indexOf(':') + 1)];
  if (kind === 'pid') {
    const value = messages['spiffe.broker.WorkloadPIDReference'].serialize({ pid: Number(rest) });
    return { reference: { type_url: 'type.googleapis.com/spiffe.broker.WorkloadPIDReference', value } };
  }
  const [namespace = '', name = ''] = rest.split('/');
  const value = messages['spiffe.broker.KubernetesObjectReference'].serialize({
    type: { plural: 'pods', group: 'core' },
    ...(kind === 'pod' ? { key: { namespace, name } } : { uid: rest }),
  });
  return { reference: { type_url: 'type.googleapis.com/spiffe.broker.KubernetesObjectReference', value } };
}

/** A client of the broker endpoint, for whoever has an identity; to be closed. */
export function brokerClient(identity: Watch<TlsIdentity>, address: string, agentId: string): ReturnType<typeof createRpcClient> {
  const tls = createTlsClient({ identity, clock, check: checkServerIs(parseSpiffeId(agentId), identity, clock) });
  return createRpcClient({ clock, address, security: secureChannel(tls) });
}

export const brokerHeader = { headers: { 'broker.spiffe.io': 'true' } };

async function main(): Promise<void> {
  const [address = '', agentId = '', ...asked] = process.argv.slice(2);
  const over = new AbortController();
  process.stdin.resume();
  process.stdin.once('end', () => over.abort());
  const say = (event: string, more: object): void => void process.stdout.write(`${JSON.stringify({ event, at: Date.now(), ...more })}\n`);
  await using source = await X509Source.open({ signal: over.signal });
  const client = brokerClient(source.identity, address, agentId);
  const api = loadServices('spiffe.broker.API')['spiffe.broker.API'];
  const follow = async (text: string): Promise<void> => {
    try {
      const updates = client.serverStream(api.SubscribeToX509SVID, { reference: referenceOf(text) }, { ...brokerHeader, signal: over.signal });
      for await (const { svids } of updates) say('svids', { reference: text, svids: svids.map(({ spiffe_id: id, x509_svid_key: key }) => ({ spiffeId: id, keyBytes: key.length })) });
      say('ended', { reference: text });
    } catch (error) {
      const { kind, reason, message } = error instanceof SpiffeError ? error : { kind: '', reason: '', message: String(error) };
      say('refused', { reference: text, kind, reason, message });
    }
  };
  const token = async (text: string): Promise<void> => {
    const { svids } = await client.unary(api.FetchJWTSVID, { reference: referenceOf(text), audience: ['db'] }, brokerHeader);
    say('tokens', { reference: text, tokens: svids.map(({ spiffe_id: id }) => id) });
  };
  await Promise.all(asked.map((text) => (text.startsWith('token:') ? token(text.slice('token:'.length)) : follow(text))));
  client.close();
  process.stdin.destroy();
}

if (process.argv[1] === import.meta.filename) await main();
