/**
 * `steeple svid fetch|watch|validate`: what the Workload API gives the calling process. It uses the library as any
 * workload would.
 */
import { chmod, mkdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type WitSvid, WorkloadApi, type X509Context } from '../../client/index.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId, trustDomainOf } from '../../spiffe/id.ts';
import { formatPemCertificates } from '../../spiffe/pem.ts';
import { formatPrivateJwk } from '../../spiffe/wit-svid.ts';
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
    summary: 'print the identities of this process, its WIT-SVIDs, or JWT-SVIDs for an audience',
    flags: {
      ...publicSocketFlag,
      ...outputFlag,
      ...dirFlag,
      audience: { type: 'list', value: 'NAME', summary: 'fetch JWT-SVIDs for this audience; may be repeated' },
      wit: { type: 'switch', summary: 'fetch WIT-SVIDs; with --dir also wit.N.jwt and wit.N.jwk' },
      'spiffe-id': { type: 'text', value: 'ID', summary: 'with --audience or --wit: only for this identity' },
      timeout: { type: 'duration', value: 'TIME', summary: 'how long to wait; 5s unless given' },
    },
    async run({ flags }, io) {
      using api = openApi(flags.socket, io);
      const deadline = { deadlineMs: (flags.timeout ?? 5) * 1000, signal: io.signal };
      const form = outputForm(flags.output);
      const asked = flags['spiffe-id'];
      const identity = asked === undefined ? {} : { spiffeId: parseSpiffeId(asked) };
      if (flags.wit) {
        await showWits(await api.fetchWitSvids(identity, deadline), form, flags.dir, io);
        return exitCodes.ok;
      }
      if (flags.audience.length > 0) {
        const svids = await api.fetchJwtSvids({ audience: flags.audience, ...identity }, deadline);
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

/** Without its key a WIT-SVID is worth nothing, so that it may be shown; the key goes to a file, or nowhere. */
async function showWits(svids: readonly WitSvid[], form: OutputForm, dir: string | undefined, io: Io): Promise<void> {
  if (dir !== undefined) {
    await mkdir(dir, { recursive: true, mode: 0o700 });
    for (const [index, { token, privateKey, algorithm }] of svids.entries()) {
      await replace(join(dir, `wit.${index}.jwt`), token, 0o644);
      await replace(join(dir, `wit.${index}.jwk`), formatPrivateJwk(privateKey, algorithm), 0o600);
    }
  }
  if (form === 'json') {
    io.out(json(svids.map(({ spiffeId, token, hint, expiresAt }) => ({ spiffeId, token, hint, expiresAt: instant(expiresAt) }))));
  } else io.out(svids.map(({ spiffeId, token }) => `${spiffeId}\n${token}\n`).join(''));
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
