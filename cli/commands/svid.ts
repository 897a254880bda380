/**
 * `steeple svid fetch|watch|validate`: what the Workload API gives the calling process. It uses the library as any
 * workload would.
 */
import { chmod, mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { WorkloadApi, type X509Context } from '../../client/index.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId, trustDomainOf } from '../../spiffe/id.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import type { X509Svid } from '../../spiffe/x509-svid.ts';
import { command, type Command, exitCodes, type Io } from '../command.ts';
import type { FlagSpec } from '../flags.ts';
import { publicSocketFlag, workloadAddress } from '../operators.ts';
import { instant, json, outputFlag, type OutputForm, outputForm, plain } from '../print.ts';
import { printContext } from '../svid-print.ts';
import { svidWatch } from './svid-watch.ts';

const dirFlag = {
  dir: { type: 'text', value: 'DIR', summary: 'write svid.N.pem, svid.N.key and bundle.N.pem here' },
} as const satisfies Record<string, FlagSpec>;

export const svidCommands: readonly Command[] = [
  command({
    name: 'svid fetch',
    summary: 'print the identities of this process, or JWT-SVIDs for an audience',
    flags: {
      ...publicSocketFlag,
      ...outputFlag,
      ...dirFlag,
      audience: { type: 'list', value: 'NAME', summary: 'fetch JWT-SVIDs for this audience; may be repeated' },
      'spiffe-id': { type: 'text', value: 'ID', summary: 'with --audience: only for this identity' },
      timeout: { type: 'duration', value: 'TIME', summary: 'how long to wait; 5s unless given' },
    },
    async run({ flags }, io) {
      using api = openApi(flags.socket, io);
      const deadline = { deadlineMs: (flags.timeout ?? 5) * 1000, signal: io.signal };
      const form = outputForm(flags.output);
      if (flags.audience.length > 0) {
        const asked = flags['spiffe-id'];
        const request = { audience: flags.audience, ...(asked !== undefined && { spiffeId: parseSpiffeId(asked) }) };
        const svids = await api.fetchJwtSvids(request, deadline);
        if (form === 'json') io.out(json(svids.map((svid) => ({ ...svid, expiresAt: instant(svid.expiresAt) }))));
        else io.out(svids.map((svid) => `${svid.spiffeId}\n${svid.token}\n`).join(''));
        return exitCodes.ok;
      }
      await show(await api.fetchX509Context(deadline), form, flags.dir, io);
      return exitCodes.ok;
    },
  }),
  svidWatch,
  command({
    name: 'svid validate',
    summary: 'have the agent check a JWT-SVID',
    flags: {
      ...publicSocketFlag,
      ...outputFlag,
      audience: { type: 'text', value: 'NAME', summary: 'who the token must be for' },
      svid: { type: 'text', value: 'TOKEN', summary: 'the token; standard input when absent' },
    },
    async run({ flags }, io) {
      const { audience } = flags;
      if (audience === undefined) throw new SpiffeError('invalid', 'cli.svid.audience', '--audience is needed');
      const token = flags.svid ?? (await io.input()).trim();
      using api = openApi(flags.socket, io);
      try {
        const { spiffeId, claims } = await api.validateJwtSvid(token, audience, { signal: io.signal });
        if (outputForm(flags.output) === 'json') io.out(json({ spiffeId, claims }));
        else io.out(`${spiffeId}\n${plain(JSON.stringify(claims))}\n`);
        return exitCodes.ok;
      } catch (error) {
        if (!(error instanceof SpiffeError) || error.kind !== 'invalid') throw error;
        io.err(`steeple: not valid: ${plain(error.message)}\n`);
        return exitCodes.failed;
      }
    },
  }),
];

function openApi(flag: string | undefined, io: Io): WorkloadApi {
  return new WorkloadApi({ address: workloadAddress(flag, io) });
}

async function show(context: X509Context, form: OutputForm, dir: string | undefined, io: Io): Promise<void> {
  if (dir !== undefined) await writeFiles(context, dir);
  printContext(context, form, io);
}

/** Each file replaced whole, the key readable by its owner only from its first byte. */
async function writeFiles(context: X509Context, dir: string): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  for (const [index, svid] of context.svids.entries()) {
    await replace(join(dir, `svid.${index}.pem`), formatPemCertificates(svid.chain), 0o644);
    await replace(join(dir, `svid.${index}.key`), keyText(svid), 0o600);
    const bundle = context.bundles.get(trustDomainOf(svid.spiffeId)) ?? [];
    await replace(join(dir, `bundle.${index}.pem`), formatPemCertificates(bundle), 0o644);
  }
}

function keyText(svid: X509Svid): string {
  return String(svid.privateKey.export({ type: 'pkcs8', format: 'pem' }));
}

async function replace(path: string, text: string, mode: number): Promise<void> {
  const temporary = `${path}.new`;
  await writeFile(temporary, text, { mode });
  await chmod(temporary, mode);
  await rename(temporary, path);
}
