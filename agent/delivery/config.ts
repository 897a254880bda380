/**
 * What an operator may say about deliveries: credentials that the agent itself writes to files, for programs that cannot
 * ask for them. Which identity a delivery has is for the server's entries to say.
 */
import { z } from 'zod';
import { absolutePath, duration, parsed, section } from '../../runtime/config.ts';
import { hookSignals } from '../../runtime/pid-file.ts';
import { isFileName } from '../../runtime/secret-files.ts';
import { bundleFormats, usualFileNames } from '../../spiffe/credential-files.ts';
import { parseSpiffeId } from '../../spiffe/id.ts';

const fileName = (): z.ZodString =>
  z.string().refine(isFileName, 'must be a plain file name: letters, digits, . _ -, not beginning with a dot');
const account = (): z.ZodString =>
  z.string().regex(/^(?:\d{1,10}|[A-Za-z_][A-Za-z0-9._-]{0,31}\$?)$/, 'must be the name or number of an account');

const files = section({
  certificate: fileName().optional(),
  key: fileName().optional(),
  bundle: fileName().optional(),
  combined: fileName().optional(),
});

const delivery = section({
  /** Attested as the selector `delivery:NAME`. */
  name: z.string().regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, 'must be lower-case letters, digits, . _ -'),
  directory: absolutePath(),
  owner: account().optional(),
  group: account().optional(),
  /** Of files that hold keys and tokens; the others are 0644. */
  key_mode: z.enum(['0400', '0440', '0600', '0640']).default('0600'),
  files: files.prefault(usualFileNames),
  bundle_format: z.enum(bundleFormats).default('pem'),
  jwt: z.array(section({ file: fileName(), audience: z.array(z.string().min(1)).min(1) })).default([]),
  /** Which of several identities; the default one when neither is given. */
  spiffe_id: parsed(parseSpiffeId).optional(),
  hint: z.string().min(1).optional(),
  /** What becomes of the files when the identity is taken away. */
  on_loss: z.enum(['keep', 'remove']).default('keep'),
  hook: section({
    command: z
      .array(z.string().min(1))
      .min(1)
      .refine(([program = '']) => program.startsWith('/'), 'must begin with an absolute path'),
    timeout: duration({ min: '1s', max: '10m' }).prefault('30s'),
  }).optional(),
  signal: section({
    name: z.enum(hookSignals).default('HUP'),
    pid_file: absolutePath(),
    executable: absolutePath().optional(),
  }).optional(),
}).superRefine((config, context) => {
  const issue = (where: readonly string[], message: string): void =>
    context.addIssue({ code: 'custom', path: [...where], message });
  const names = [...Object.values(config.files), ...config.jwt.map(({ file }) => file)].filter((name) => name !== undefined);
  if (names.length === 0) issue(['files'], 'nothing is to be written');
  if (new Set(names).size !== names.length) issue(['files'], 'two files have the same name');
  if (config.hook !== undefined && config.signal !== undefined) issue(['signal'], 'hook and signal cannot both be given');
  if (config.spiffe_id !== undefined && config.hint !== undefined) issue(['hint'], 'spiffe_id and hint cannot both be given');
});

export const deliveries = z
  .array(delivery)
  .default([])
  .superRefine((all, context) => {
    for (const key of ['name', 'directory'] as const) {
      all.forEach((one, index) => {
        if (all.findIndex((other) => other[key] === one[key]) < index) {
          context.addIssue({ code: 'custom', path: [index, key], message: 'another delivery has the same one' });
        }
      });
    }
  });

export type DeliveryConfig = z.output<typeof delivery>;
