/**
 * What an operator may say about how nodes prove themselves: one section a type. What the types mean is each verifier's;
 * from section to verifier is `../verifiers.ts`.
 */
import { z } from 'zod';
import { absolutePath, section } from '../../runtime/config.ts';

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
]);

export type NodeAttestorConfig = z.output<typeof nodeAttestor>;
