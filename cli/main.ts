/**
 * The `steeple` program: finds the command that the words name, parses its flags, runs it, and turns what it throws into
 * one line and an exit code. The commands are in `commands/`.
 */
import { text as readAll } from 'node:stream/consumers';
import { systemClock } from '../runtime/clock.ts';
import { SpiffeError } from '../spiffe/errors.ts';
import { type Command, command, exitCodeOf, exitCodes, type Io } from './command.ts';
import { agentRecordCommands } from './commands/agent-records.ts';
import { bundleCommands } from './commands/bundle.ts';
import { daemonCommands } from './commands/daemons.ts';
import { demoCommands } from './commands/demo.ts';
import { entryCommands } from './commands/entry.ts';
import { explainCommands } from './commands/explain.ts';
import { federationCommands } from './commands/federation.ts';
import { mintCommands } from './commands/mint.ts';
import { recordCommands } from './commands/records.ts';
import { svidCommands } from './commands/svid.ts';
import { completionScript, type Shell, shells } from './completion.ts';
import { parseFlags } from './flags.ts';
import { commandHelp, programHelp } from './help.ts';
import { plain } from './print.ts';
import { version } from './version.ts';

export const commands: readonly Command[] = [
  ...daemonCommands,
  ...entryCommands,
  ...agentRecordCommands,
  ...bundleCommands,
  ...federationCommands,
  ...recordCommands,
  ...svidCommands,
  ...mintCommands,
  ...explainCommands,
  ...demoCommands,
  command({
    name: 'completion',
    summary: 'print a completion script',
    usage: ['bash|zsh|fish'],
    flags: {},
    positionals: ['SHELL'],
    async run({ positionals }, io) {
      const shell = shells.find((known) => known === positionals[0]);
      if (shell === undefined) throw new SpiffeError('invalid', 'cli.completion.shell', `which shell? ${shells.join(', ')}`);
      io.out(completionScript(shell satisfies Shell, commands));
      return exitCodes.ok;
    },
  }),
];

/** Runs one command line. Never throws; what went wrong is written to `io.err`. */
export async function run(args: readonly string[], io: Io): Promise<number> {
  if (args[0] === '--version' || args[0] === 'version') {
    io.out(`steeple ${version}\n`);
    return exitCodes.ok;
  }
  const found = findCommand(args);
  const wantsHelp = args.some((arg) => arg === '--help' || arg === '-h' || arg === '-help');
  if (found === undefined) {
    const words = args.filter((arg) => !arg.startsWith('-'));
    const help = programHelp(commands, words.filter((word) => word !== 'help'));
    if (wantsHelp || words.length === 0 || words[0] === 'help') {
      io.out(help);
      return args.length === 0 ? exitCodes.usage : exitCodes.ok;
    }
    io.err(`steeple: no such command: ${plain(words.join(' '))}\n${help}`);
    return exitCodes.usage;
  }
  if (wantsHelp) {
    io.out(commandHelp(found.command));
    return exitCodes.ok;
  }
  try {
    const parsed = parseFlags(found.command.flags, found.rest);
    checkPositionals(found.command, parsed.positionals);
    return await found.command.run(parsed, io);
  } catch (error) {
    return report(error, found.command, io);
  }
}

function findCommand(args: readonly string[]): { readonly command: Command; readonly rest: readonly string[] } | undefined {
  const words = args.slice(0, args.findIndex((arg) => arg.startsWith('-')) < 0 ? undefined : args.findIndex((arg) => arg.startsWith('-')));
  for (let count = Math.min(3, words.length); count > 0; count -= 1) {
    const name = words.slice(0, count).join(' ');
    const known = commands.find((candidate) => candidate.name === name);
    if (known !== undefined) return { command: known, rest: args.slice(count) };
  }
  return undefined;
}

function checkPositionals({ name, positionals = [] }: Command, given: readonly string[]): void {
  const many = positionals.at(-1)?.endsWith('…') === true;
  if (given.length > positionals.length && !many) {
    const extra = plain(given[positionals.length] ?? '');
    throw new SpiffeError('invalid', 'cli.argument.extra', `${name} does not take "${extra}"; flags start with --`);
  }
}

function report(error: unknown, { name }: Command, io: Io): number {
  if (!(error instanceof SpiffeError)) {
    io.err(`steeple: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    return exitCodes.internal;
  }
  if (error.reason === 'cli.interrupted') return exitCodes.interrupted;
  io.err(`steeple: ${plain(error.message)} [${error.reason}]\n`);
  if (error.reason === 'peer.unavailable' || error.reason === 'rpc.unreachable') {
    io.err('Is it running, and is the socket path right? (--socket, --admin-socket)\n');
  }
  if (error.kind === 'invalid' && error.reason.startsWith('cli.')) io.err(`See: steeple ${name} --help\n`);
  return exitCodeOf(error.kind);
}

/** From here on a second interrupt means that the first is taking too long. */
const patienceMs = 1_000;

async function main(): Promise<void> {
  const stop = new AbortController();
  let interruptedAt: number | undefined;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      // A terminal and whoever started us may both pass on one and the same.
      if (interruptedAt !== undefined && systemClock.monotonic() - interruptedAt > patienceMs) process.exit(exitCodes.interrupted);
      interruptedAt ??= systemClock.monotonic();
      stop.abort(new SpiffeError('unavailable', 'cli.interrupted', 'interrupted'));
    });
  }
  const args = process.argv.slice(2);
  const isDaemon = args[1] === 'run';
  // A reader that went away (`| head`) is no fault of ours and no reason to go on, except for who serves others.
  process.stdout.on('error', () => {
    if (!isDaemon) process.exit(exitCodes.ok);
  });
  process.stderr.on('error', () => undefined);
  process.exitCode = await run(args, {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    input: () => readAll(process.stdin),
    isTerminal: process.stdout.isTTY,
    columns: process.stdout.columns,
    env: process.env,
    signal: stop.signal,
    onHangup: (listener) => void process.on('SIGHUP', listener),
    execPath: process.execPath,
    kill: (pid, signal) => void process.kill(pid, signal),
  });
}

if (import.meta.main) await main();
