/**
 * What an operator may say about how nodes prove themselves: one section a type. What the types mean is each verifier's;
 * from section to verifier is `../verifiers.ts`.
 */
import { z } from 'zod';
import { absolutePath, duration, section } from '../../runtime/config.ts';

const texts = z.array(z.string().min(1));

const apiServer = section({
  url: z.string().min(1),
  /** PEM; the system's authorities when left out. */
  ca: absolutePath().optional(),
  token_file: absolutePath().optional(),
  certificate: absolutePath().optional(),
  key: absolutePath().optional(),
}).superRefine(({ token_file, certificate, key }, context) => {
  const issue = (name: string, message: string): void => context.addIssue({ code: 'custom', path: [name], message });
  if ((certificate === undefined) !== (key === undefined)) issue('key', 'certificate and key belong together');
  if ((token_file === undefined) === (certificate === undefined)) issue('token_file', 'must be given, or certificate and key, and not both');
});

export const nodeAttestor = z.discriminatedUnion('type', [
  section({ type: z.literal('join_token') }),
  section({
    type: z.literal('x509pop'),
    /** PEM file with the authorities whose certificates convince. */
    ca_bundle: absolutePath(),
  }),
  section({
    type: z.literal('k8s_psat'),
    clusters: z
      .array(
        section({
          name: z.string().min(1),
          api_server: apiServer,
          service_account_allow_list: texts.min(1),
          audience: texts.min(1).default(['spire-server']),
          allowed_node_label_keys: texts.default([]),
          allowed_pod_label_keys: texts.default([]),
          use_pod_uid_for_agent_id: z.boolean().default(false),
        }),
      )
      .min(1),
  }),
  section({
    type: z.literal('tpm_devid'),
    /** PEM. */
    devid_ca_path: absolutePath(),
    /** PEM; those between root and endorsement certificates too. */
    endorsement_ca_path: absolutePath(),
  }),
  section({
    type: z.literal('oidc_ci'),
    trusts: z
      .array(
        section({
          name: z.string().min(1),
          issuer: z.string().min(1),
          audience: z.string().min(1),
          subject: z.string().min(1),
          claims: z.record(z.string(), z.string()).default({}),
          /** Without it the issuer's discovery document tells where its keys are. */
          jwks_file: absolutePath().optional(),
          jwks_host: z.string().min(1).optional(),
          /** PEM. */
          ca: absolutePath().optional(),
          max_token_age: duration({ min: '10s', max: '24h' }).prefault('15m'),
        }).superRefine(({ jwks_file, jwks_host, ca }, context) => {
          if (jwks_file !== undefined && (jwks_host ?? ca) !== undefined) {
            context.addIssue({ code: 'custom', path: ['jwks_file'], message: 'jwks_file leaves nothing to ask for: jwks_host and ca cannot be given beside it' });
          }
        }),
      )
      .min(1),
    /** After which an agent renews no more: the job it spoke for is over. */
    max_agent_life: duration({ min: '1m', max: '30d' }).prefault('6h'),
  }),
  section({
    type: z.literal('aws_iid'),
    account_allow_list: texts.min(1),
    certificates: z.array(section({ path: absolutePath(), regions: texts.min(1) })).min(1),
    max_age: duration({ min: '1s', max: '3650d' }).optional(),
  }),
  section({
    type: z.literal('gcp_iit'),
    project_allow_list: texts.min(1),
    /** Google replaces its keys every few days; read again when it is some seconds old. */
    jwks_file: absolutePath(),
  }),
  section({
    type: z.literal('azure_imds'),
    tenants: z.array(section({ tenant_id: z.string().min(1), subscriptions: texts.min(1) })).min(1),
    /** PEM. */
    root_ca_path: absolutePath(),
    intermediate_ca_path: absolutePath(),
    metadata_domains: texts.min(1).default(['metadata.azure.com']),
  }),
]);

export type NodeAttestorConfig = z.output<typeof nodeAttestor>;
