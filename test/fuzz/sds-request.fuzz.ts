/**
 * Any bytes as requests of secret discovery, one after the other on one stream: refused, or answered with what was asked
 * for and nothing else. What protobuf itself refuses never reaches a stream.
 */
import { createDelta } from '../../agent/sds/delta.ts';
import { mostNames, type Dialect, type Secret, type Secrets } from '../../agent/sds/dialect.ts';
import { deltaResponse, readDeltaRequest, readNode, readSecretRequest, secretResponse } from '../../agent/sds/messages.ts';
import { createStateOfTheWorld } from '../../agent/sds/state-of-the-world.ts';
import { validatorFor } from '../../agent/sds/validator.ts';
import { loadServices } from '../../proto/load.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { expected } from './expected.ts';

export const name = 'sds-request';

const service = loadServices('envoy.service.secret.v3.SecretDiscoveryService')['envoy.service.secret.v3.SecretDiscoveryService'];
const type_url = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret';

export function corpus(): Uint8Array[] {
  const value = { stringValue: 'true', kind: 'stringValue' as const };
  const node = {
    id: 'web-1',
    metadata: { fields: { disable_spiffe_cert_validation: value, __proto__: value } },
    user_agent_build_version: { version: { major_number: 1, minor_number: 40, patch: 0 } },
  };
  const error_detail = { code: 3, message: 'key values mismatch' };
  return [
    service.StreamSecrets.requestSerialize({ node, type_url, resource_names: ['default'] }),
    service.StreamSecrets.requestSerialize({ type_url, resource_names: ['default', 'ROOTCA'], version_info: 'x', response_nonce: '00000001', error_detail }),
    service.StreamSecrets.requestSerialize({ type_url, resource_names: Array.from({ length: 1_001 }, (_, index) => String(index)) }),
    service.DeltaSecrets.requestSerialize({ node, type_url, resource_names_subscribe: ['default', '*'], initial_resource_versions: { default: '1', __proto__: '2' } }),
    service.DeltaSecrets.requestSerialize({ type_url, resource_names_unsubscribe: ['default'], response_nonce: '00000001', error_detail }),
  ];
}

/** In the second world something went and something changed. */
const worlds: readonly Secrets[] = [
  new Map<string, Secret | 'pending'>([secret('default', '1'), secret('ROOTCA', '1'), ['later', 'pending']]),
  new Map<string, Secret | 'pending'>([secret('default', '2'), secret('later', '1')]),
];

export function run(input: Uint8Array): void {
  const bytes = Buffer.from(input);
  converse(bytes, createStateOfTheWorld(), service.StreamSecrets.requestDeserialize, readSecretRequest, (said) => secretResponse(said));
  converse(bytes, createDelta(), service.DeltaSecrets.requestDeserialize, readDeltaRequest, (said) => deltaResponse(said));
  if ('polluted' in {}) throw new Error('Object.prototype was changed');
}

function converse<M extends { readonly node: Parameters<typeof readNode>[0] }, Request>(
  bytes: Buffer,
  dialect: Dialect<Request>,
  decode: (bytes: Buffer) => M,
  read: (message: M) => Request,
  compose: (said: NonNullable<ReturnType<Dialect<Request>['say']>>) => unknown,
): void {
  const nonces = new Set<string>();
  for (const world of worlds) {
    let message: M;
    try {
      message = decode(bytes);
    } catch {
      return;
    }
    validatorFor(readNode(message.node), 'spiffe');
    const request = expected(() => read(message));
    if (request === undefined) return;
    try {
      dialect.take(request);
    } catch (error) {
      if (error instanceof SpiffeError && error.reason === 'sds.names') return;
      throw error;
    }
    const { selection } = dialect;
    if (selection === undefined) throw new Error('asked for nothing, not even everything');
    if (selection.names.size > mostNames) throw new Error('too many names');
    const there = new Map([...world].filter(([one]) => selection.everything || selection.names.has(one)));
    const said = dialect.say(there);
    if (said === undefined) continue;
    if (said.secrets.length + said.removed.length === 0) throw new Error('an empty response');
    if (said.secrets.some((one) => there.get(one.name) !== one)) throw new Error('a secret that was not asked for');
    if (nonces.has(said.nonce)) throw new Error('a nonce twice');
    nonces.add(said.nonce);
    compose(said);
  }
}

function secret(of: string, version: string): readonly [string, Secret] {
  return [of, { name: of, version, encoded: () => Buffer.from(of), svid: undefined }];
}
