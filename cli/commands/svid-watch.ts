/**
 * `steeple svid watch`: prints every update of the identities of this process, or with `--dir` keeps files of one of them and
 * has a program take them. What is kept, and from where, is `../keep-files.ts`.
 */
import { resolve } from 'node:path';
import { WorkloadApi } from '../../client/index.ts';
import { findGroup, findUser } from '../../runtime/accounts.ts';
import { systemClock } from '../../runtime/clock.ts';
import type { FileChange } from '../../runtime/file-delivery.ts';
import { runHook } from '../../runtime/hook.ts';
import { type HookSignal, hookSignals, signalByPidFile } from '../../runtime/pid-file.ts';
import { type FileOwner, isFileName } from '../../runtime/secret-files.ts';
import { bundleFormats, type BundleFormat, type CredentialFileNames, usualFileNames } from '../../spiffe/credential-files.ts';
import { SpiffeError } from '../../spiffe/errors.ts';
import { parseSpiffeId } from '../../spiffe/id.ts';
import { command, exitCodes, type Io } from '../command.ts';
import type { FlagSpec, FlagValues } from '../flags.ts';
import { type Keeping, keepFiles, type TokenFile } from '../keep-files.ts';
import { publicSocketFlag, workloadAddress } from '../operators.ts';
import { outputFlag, outputForm, plain } from '../print.ts';
import { printContext } from '../svid-print.ts';

const modes = ['0400', '0440', '0600', '0640'] as const;
const onLoss = ['keep', 'remove'] as const;

const fileFlags = {
  dir: { type: 'text', value: 'DIR', summary: 'keep svid.pem, key.pem and bundle.pem there, replaced together' },
  'cert-file': { type: 'text', value: 'NAME', summary: 'with --dir: the certificates; with any file named, no others are written' },
  'key-file': { type: 'text', value: 'NAME', summary: 'with --dir: the private key' },
  'bundle-file': { type: 'text', value: 'NAME', summary: 'with --dir: who to trust' },
  'combined-file': { type: 'text', value: 'NAME', summary: 'with --dir: certificates and key in one file' },
  'bundle-format': { type: 'text', value: 'FORM', choices: bundleFormats, summary: 'what the bundle file is; pem unless given' },
  jwt: { type: 'list', value: 'AUDIENCE=NAME', summary: 'with --dir: a file with a JWT-SVID for this audience; may be repeated' },
  'spiffe-id': { type: 'text', value: 'ID', summary: 'with --dir: which of several identities; the default one unless given' },
  hint: { type: 'text', value: 'HINT', summary: 'with --dir: the identity with this hint' },
  owner: { type: 'text', value: 'USER', summary: 'whom the files are given to, a name or a number' },
  group: { type: 'text', value: 'GROUP', summary: 'the group of the files, a name or a number' },
  mode: { type: 'text', value: 'MODE', choices: modes, summary: 'of files with a key or a token; 0600 unless given' },
  hook: { type: 'text', value: 'COMMAND', summary: 'run after each change: a program with arguments, split at blanks, no shell' },
  'hook-timeout': { type: 'duration', value: 'TIME', summary: 'when the hook is ended; 30s unless given' },
  signal: { type: 'text', value: 'NAME', choices: hookSignals, summary: 'sent after each change to the process of --pid-file' },
  'pid-file': { type: 'text', value: 'FILE', summary: 'begins with the number of the process that gets the signal' },
  executable: { type: 'text', value: 'PATH', summary: 'what that process must run' },
  'on-loss': { type: 'text', value: 'WHAT', choices: onLoss, summary: 'what to do with the files of a lost identity; keep unless given' },
  once: { type: 'switch', summary: 'end after the first set of files is there and the hook was run' },
  timeout: { type: 'duration', value: 'TIME', summary: 'with --once: how long to wait; 30s unless given' },
} as const satisfies Record<string, FlagSpec>;

type FileFlags = FlagValues<typeof fileFlags>;

export const svidWatch = command({
  name: 'svid watch',
  summary: 'print every update of the identities of this process, or keep files of them',
  flags: { ...publicSocketFlag, ...outputFlag, ...fileFlags },
  async run({ flags }, io: Io) {
    const form = outputForm(flags.output);
    const keeping = flags.dir === undefined ? undefined : keepingOf(flags.dir, flags);
    if (keeping === undefined) refuseAlone(flags);
    using api = new WorkloadApi({ address: workloadAddress(flags.socket, io) });
    if (keeping === undefined) {
      for await (const context of api.watchX509Context(io.signal)) printContext(context, form, io);
      return exitCodes.ok;
    }
    await keepFiles(api, keeping, {
      delivered: (svid, bundles) => printContext({ svids: [svid], bundles }, form, io),
      problem: (error) => io.err(`steeple: ${plain(error.message)} [${error.reason}]\n`),
      signal: io.signal,
    });
    return exitCodes.ok;
  },
});

/** @throws invalid `cli.svid.*` */
function keepingOf(dir: string, flags: FileFlags): Keeping {
  const names = fileNames(flags);
  const tokens = flags.jwt.map(tokenFile);
  const named = [names.certificate, names.key, names.bundle, names.combined, ...tokens.map(({ name }) => name)];
  const all = named.filter((name) => name !== undefined);
  for (const name of all) {
    if (!isFileName(name)) throw new SpiffeError('invalid', 'cli.svid.file', `"${name}" is no plain file name`);
  }
  if (new Set(all).size !== all.length) throw new SpiffeError('invalid', 'cli.svid.file', 'two files have the same name');
  if (flags['spiffe-id'] !== undefined && flags.hint !== undefined) {
    throw new SpiffeError('invalid', 'cli.svid.identity', '--spiffe-id and --hint cannot both be given');
  }
  const { owner, group } = flags;
  return {
    directory: resolve(dir),
    owner: async (): Promise<FileOwner> => ({
      ...(owner !== undefined && { uid: await findUser(owner) }),
      ...(group !== undefined && { gid: await findGroup(group) }),
    }),
    secretMode: Number.parseInt(flags.mode ?? '0600', 8),
    names,
    tokens,
    spiffeId: flags['spiffe-id'] === undefined ? undefined : parseSpiffeId(flags['spiffe-id']),
    hint: flags.hint,
    removeOnLoss: flags['on-loss'] === 'remove',
    told: JSON.stringify([flags.hook, flags.signal, flags['pid-file']].filter((flag) => flag !== undefined)),
    notify: notifier(resolve(dir), flags),
    onceWithinMs: flags.once === true ? (flags.timeout ?? 30) * 1_000 : undefined,
  };
}

function fileNames(flags: FileFlags): CredentialFileNames {
  const bundleFormat = (flags['bundle-format'] ?? 'pem') as BundleFormat;
  const given = {
    certificate: flags['cert-file'],
    key: flags['key-file'],
    bundle: flags['bundle-file'],
    combined: flags['combined-file'],
  };
  const none = Object.values(given).every((name) => name === undefined);
  return { ...(none ? usualFileNames : given), bundleFormat };
}

/** An audience may hold `=`, a file's name may not. */
function tokenFile(text: string): TokenFile {
  const at = text.lastIndexOf('=');
  if (at < 1) throw new SpiffeError('invalid', 'cli.svid.jwt', '--jwt wants AUDIENCE=NAME');
  return { audience: text.slice(0, at), name: text.slice(at + 1) };
}

function notifier(directory: string, flags: FileFlags): Keeping['notify'] {
  const { hook, signal, executable, 'pid-file': pidFile } = flags;
  if (hook !== undefined && signal !== undefined) {
    throw new SpiffeError('invalid', 'cli.svid.hook', '--hook and --signal cannot both be given');
  }
  if ((signal === undefined) !== (pidFile === undefined)) {
    throw new SpiffeError('invalid', 'cli.svid.signal', '--signal and --pid-file go together');
  }
  if (hook !== undefined) {
    const [program, ...args] = words(hook);
    const timeoutMs = (flags['hook-timeout'] ?? 30) * 1_000;
    return (change: FileChange, stop) => {
      const env = { STEEPLE_DIRECTORY: directory, STEEPLE_CHANGE: change };
      return runHook({ command: [program, ...args], env, timeoutMs }, systemClock, stop);
    };
  }
  if (signal === undefined || pidFile === undefined) return () => Promise.resolve();
  const wanted = { signal: signal as HookSignal, pidFile: resolve(pidFile), ...(executable !== undefined && { executable }) };
  return () => signalByPidFile(wanted);
}

/** Refuses what only a shell would understand, because there is none. */
function words(hook: string): readonly [string, ...string[]] {
  const [program = '', ...args] = hook.trim().split(/[ \t]+/);
  if (program === '') throw new SpiffeError('invalid', 'cli.svid.hook', '--hook is empty');
  if (/["'`\\$|&;<>()*?]/.test(hook)) {
    throw new SpiffeError('invalid', 'cli.svid.hook', '--hook is run without a shell: name a script that has what needs one');
  }
  return [program, ...args];
}

/** What means nothing without a directory is not taken for done. */
function refuseAlone(flags: FileFlags): void {
  const given = Object.keys(fileFlags).find((name) => {
    const value = flags[name as keyof FileFlags];
    return Array.isArray(value) ? value.length > 0 : value !== undefined;
  });
  if (given !== undefined) throw new SpiffeError('invalid', 'cli.svid.dir', `--${given} goes with --dir`);
}
