import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { exitCodeOf, exitCodes } from '../../cli/command.ts';
import { commands } from '../../cli/main.ts';
import { version } from '../../cli/version.ts';
import { cliPage } from '../../docs/cli.ts';
import type { ErrorKind } from '../../spiffe/errors.ts';
import { steeple } from '../help/cli.ts';

describe('the program', () => {
  it.each([['--version'], ['version']])('tells its version by %s', async (word) => {
    expect(await steeple([word])).toEqual({ code: 0, out: `steeple ${version}\n`, err: '' });
    expect(version).toMatch(/^\d+\.\d+\.\d+/);
  });

  it('lists every command, and exits as for wrong usage when it is given none', async () => {
    const help = await steeple([]);
    expect(help.code).toBe(exitCodes.usage);
    for (const { name } of commands) expect(help.out).toContain(`  ${name} `);
    for (const words of [['help'], ['--help'], ['-h']]) expect(await steeple(words)).toEqual({ ...help, code: 0 });
  });

  it('narrows help to the words it is given', async () => {
    const { out } = await steeple(['help', 'entry']);
    expect(out).toContain('entry create');
    expect(out).not.toContain('agent list');
    expect((await steeple(['entry', '--help'])).out).toBe(out);
  });

  it.each(commands.map(({ name }) => [name]))('explains %s, without running it', async (name) => {
    const { code, out, err } = await steeple([...name.split(' '), '--help']);
    const flags = commands.find((command) => command.name === name)?.flags ?? {};
    expect([code, err]).toEqual([0, '']);
    expect(out).toMatch(new RegExp(`^Usage: steeple ${name}`));
    for (const flag of Object.keys(flags)) expect(out).toContain(`  --${flag}`);
  });

  it.each([
    [['nonsense']],
    [['entry', 'nonsense']],
    [['entry']],
    [['Entry', 'create']],
    [['\u001b[2J']],
  ])('does not know %j', async (words) => {
    const { code, out, err } = await steeple(words);
    expect(code).toBe(exitCodes.usage);
    expect(out).toBe('');
    expect(err).toMatch(/^steeple: no such command: /);
    expect(err).not.toContain('\u001b');
  });

  it.each([
    [['entry', 'show', '--nope'], 'cli.flag.unknown'],
    [['entry', 'show', 'extra'], 'cli.argument.extra'],
    [['entry', 'show', '--output', 'xml'], 'cli.flag.value'],
    [['completion', 'tcsh'], 'cli.completion.shell'],
    [['completion'], 'cli.completion.shell'],
    [['explain'], 'cli.explain.pid'],
    [['server', 'backup'], 'cli.directory.missing'],
  ])('refuses %j, names the reason and where to read more', async (words, reason) => {
    const { code, out, err } = await steeple(words);
    expect([code, out]).toEqual([exitCodes.usage, '']);
    expect(err).toContain(`[${reason}]`);
    expect(err).toMatch(/See: steeple .+ --help\n$/);
  });

  it('says that nobody listens, and exits as unavailable', async () => {
    const { code, err } = await steeple(['entry', 'count', '--socket', '/nonexistent/api.sock']);
    expect(code).toBe(exitCodes.unavailable);
    expect(err).toMatch(/Is it running, and is the socket path right\?/);
  });

  it('goes quietly when it is interrupted', async () => {
    const { SpiffeError } = await import('../../spiffe/errors.ts');
    const signal = AbortSignal.abort(new SpiffeError('unavailable', 'cli.interrupted', 'interrupted'));
    expect(await steeple(['entry', 'count', '--socket', '/nonexistent/api.sock'], { signal })).toEqual({ code: 130, out: '', err: '' });
  });
});

describe('exit codes', () => {
  const all: Readonly<Record<ErrorKind, number>> = {
    invalid: 2,
    unauthenticated: 77,
    denied: 77,
    missing: 1,
    exists: 1,
    conflict: 1,
    limited: 69,
    unavailable: 69,
    unsupported: 1,
    internal: 70,
  };

  it.each(Object.entries(all))('%s is %d', (kind, code) => {
    expect(exitCodeOf(kind as ErrorKind)).toBe(code);
  });
});

describe('the table of commands', () => {
  it('names each once, and no command is the beginning of another', () => {
    const names = commands.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    expect(names.filter((name) => names.some((other) => other.startsWith(`${name} `)))).toEqual([]);
  });

  it('has what operators were promised', () => {
    const promised = [
      ...['run', 'validate', 'healthcheck', 'backup', 'restore'].map((word) => `server ${word}`),
      ...['run', 'validate', 'healthcheck', 'list', 'show', 'count', 'evict', 'ban', 'purge'].map((word) => `agent ${word}`),
      ...['create', 'show', 'update', 'delete', 'count'].map((word) => `entry ${word}`),
      ...['show', 'list', 'set', 'delete', 'count'].map((word) => `bundle ${word}`),
      ...['show', 'prepare', 'activate'].map((word) => `authority ${word}`),
      ...['create', 'list', 'show', 'update', 'refresh', 'delete'].map((word) => `federation ${word}`),
      ...['fetch', 'watch', 'validate'].map((word) => `svid ${word}`),
    ].concat('token generate', 'x509 mint', 'jwt mint', 'wit mint', 'ledger list', 'ledger show', 'audit tail', 'audit search', 'explain', 'demo', 'completion');
    expect(commands.map(({ name }) => name).toSorted()).toEqual(promised.toSorted());
  });

  it.each(commands.map((command) => [command.name, command] as const))('%s: summaries are one line, flags are in lower case with dashes', (_name, { summary, flags }) => {
    expect(summary).toMatch(/^[^\n]{5,110}$/);
    for (const [flag, spec] of Object.entries(flags)) {
      expect(flag).toMatch(/^[a-z0-9]+(?:-[a-z0-9]+)*$/);
      expect(spec.summary).toMatch(/^[^\n]{5,110}$/);
    }
  });

  it('is what docs/cli.md says; after a change run node docs/cli.ts', () => {
    expect(readFileSync(new URL('../../docs/cli.md', import.meta.url), 'utf8')).toBe(cliPage());
  });
});
