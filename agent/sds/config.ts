/**
 * What an operator may say about secret discovery: where it is served, by which names and in which form. What the names
 * mean is `names.ts`.
 */
import { z } from 'zod';
import { section, socketPath } from '../../runtime/config.ts';

const name = (): z.ZodString => z.string().min(1).max(256);

export const sds = section({
  enabled: z.boolean().default(true),
  /** A socket for secret discovery alone. */
  socket_path: socketPath().optional(),
  /** Whether the Workload API's socket answers it too. */
  on_workload_socket: z.boolean().default(true),
  /** Whether calls need the Workload API's security header, which Envoy sends only when it is told to. */
  require_header: z.boolean().default(false),
  default_svid_name: name().default('default'),
  default_bundle_name: name().default('ROOTCA'),
  default_all_bundles_name: name().default('ALL'),
  /** Before the audience of a JWT-SVID. */
  jwt_prefix: name().default('jwt:'),
  /** Plain trusted authorities instead of Envoy's SPIFFE validator, unless a proxy's metadata says otherwise. */
  disable_spiffe_cert_validation: z.boolean().default(false),
}).superRefine((config, context) => {
  const issue = (key: string, message: string): void => context.addIssue({ code: 'custom', path: [key], message });
  const names = ['default_svid_name', 'default_bundle_name', 'default_all_bundles_name'] as const;
  for (const [index, key] of names.entries()) {
    if (config[key].startsWith('spiffe://')) issue(key, 'must not look like a SPIFFE ID');
    if (config[key].startsWith(config.jwt_prefix)) issue(key, 'must not begin as jwt_prefix does');
    const same = names.slice(0, index).find((earlier) => config[earlier] === config[key]);
    if (same !== undefined) issue(key, `must differ from ${same}`);
  }
  const { jwt_prefix: prefix } = config;
  if ('spiffe://'.startsWith(prefix) || prefix.startsWith('spiffe://')) issue('jwt_prefix', 'must not look like a SPIFFE ID');
  if (config.enabled && !config.on_workload_socket && config.socket_path === undefined) {
    issue('on_workload_socket', 'leaves no socket to answer on; give socket_path too, or set enabled to false');
  }
});

export type SdsConfig = z.output<typeof sds>;
