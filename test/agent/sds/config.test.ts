import { describe, expect, it } from 'vitest';
import { parseAgentConfig } from '../../../agent/config.ts';
import { secretSettings, sharedSecretServices } from '../../../agent/secrets.ts';
import type { Observer } from '../../../agent/observe.ts';

const config = (text: string): ReturnType<typeof parseAgentConfig> => parseAgentConfig(`trust_domain: example.org\n${text}`);

describe('sds', () => {
  it('has SPIRE’s names and is answered on the Workload API’s socket unless told otherwise', () => {
    const { sds } = config('');
    expect(secretSettings(sds, {} as Observer)).toMatchObject({ names: { svid: 'default', bundle: 'ROOTCA', allBundles: 'ALL', jwtPrefix: 'jwt:' }, validator: 'spiffe' });
    expect(sds).toMatchObject({ enabled: true, on_workload_socket: true, require_header: false });
    expect(sharedSecretServices(sds)).toHaveLength(1);
  });

  it.each([
    ['sds: { enabled: false }', 0],
    ['sds: { on_workload_socket: false, socket_path: /run/steeple/agent/sds/sds.sock }', 0],
    ['sds: { socket_path: /run/steeple/agent/sds/sds.sock }', 1],
  ])('%s shares %i services', (text, count) => {
    expect(sharedSecretServices(config(text).sds)).toHaveLength(count);
  });

  it.each([
    ['sds: { on_workload_socket: false }', 'sds.on_workload_socket'],
    ['sds: { default_svid_name: ALL }', 'sds.default_all_bundles_name'],
    ['sds: { default_bundle_name: default }', 'sds.default_bundle_name'],
    ["sds: { default_svid_name: 'spiffe://example.org/web' }", 'sds.default_svid_name'],
    ["sds: { default_bundle_name: 'jwt:bundle' }", 'sds.default_bundle_name'],
    ["sds: { jwt_prefix: 'spiffe://example.org/' }", 'sds.jwt_prefix'],
    ["sds: { jwt_prefix: s }", 'sds.jwt_prefix'],
    ["sds: { jwt_prefix: '' }", 'sds.jwt_prefix'],
    ['sds: { socket_path: /run/steeple/agent/public/api.sock }', 'sds.socket_path'],
    ['sds: { socket_path: /run/steeple/agent/private/sds.sock }', 'admin_socket_path'],
    ['sds: { names: {} }', 'sds.names'],
  ])('%s is refused at %s', (text, where) => {
    expect(() => config(text)).toThrow(expect.objectContaining({ problems: expect.arrayContaining([expect.objectContaining({ path: where })]) as unknown }));
  });
});
