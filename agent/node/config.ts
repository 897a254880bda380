/**
 * What an operator may say about how this node proves itself: one section a type. From section to evidence is
 * `../attestors.ts`.
 */
import { z } from 'zod';
import { absolutePath, section } from '../../runtime/config.ts';
import { Secret } from '../../runtime/log.ts';

const secret = z
  .string()
  .min(1)
  .transform((text) => new Secret(text));

export const nodeAttestor = z.discriminatedUnion('type', [
  section({
    type: z.literal('join_token'),
    token: secret.optional(),
    token_file: absolutePath().optional(),
  }).superRefine(({ token, token_file }, context) => {
    if (token !== undefined && token_file !== undefined) {
      context.addIssue({ code: 'custom', path: ['token_file'], message: 'token and token_file cannot both be given' });
    }
  }),
  section({
    type: z.literal('x509pop'),
    certificate: absolutePath(),
    key: absolutePath(),
    intermediates: absolutePath().optional(),
  }),
  section({
    type: z.literal('k8s_psat'),
    cluster: z.string().min(1),
    token_file: absolutePath().default('/var/run/secrets/tokens/spire-agent'),
  }),
  section({
    type: z.literal('oidc_ci'),
    trust: z.string().min(1).optional(),
    token_file: absolutePath().optional(),
    request: section({
      url: z.string().min(1),
      audience: z.string().min(1),
      token: secret.optional(),
      token_file: absolutePath().optional(),
      /** PEM. */
      ca: absolutePath().optional(),
    })
      .superRefine(({ token, token_file }, context) => {
        if ((token === undefined) === (token_file === undefined)) {
          context.addIssue({ code: 'custom', path: ['token_file'], message: 'must be given, or token, and not both' });
        }
      })
      .optional(),
  }).superRefine(({ token_file, request }, context) => {
    if ((token_file === undefined) === (request === undefined)) {
      context.addIssue({ code: 'custom', path: ['token_file'], message: 'must be given, or request, and not both' });
    }
  }),
  section({
    type: z.literal('tpm_devid'),
    /** PEM. */
    devid_cert_path: absolutePath(),
    devid_priv_path: absolutePath(),
    devid_pub_path: absolutePath(),
    devid_password: secret.optional(),
    owner_hierarchy_password: secret.optional(),
    endorsement_hierarchy_password: secret.optional(),
    /** The only TPM in /dev when left out. */
    tpm_device_path: absolutePath().optional(),
    /** What the TPM itself holds when left out. */
    ek_cert_path: absolutePath().optional(),
  }),
]);

export type NodeAttestorConfig = z.output<typeof nodeAttestor>;
