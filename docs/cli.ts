/**
 * The page about the command line, made from the table of commands. `node docs/cli.ts` writes it; a test compares.
 */
import { writeFileSync } from 'node:fs';
import { exitCodes } from '../cli/command.ts';
import { spireSpellings } from '../cli/flags.ts';
import { commands } from '../cli/main.ts';

const meanings: Readonly<Record<keyof typeof exitCodes, string>> = {
  ok: 'done',
  failed: 'asked for, and the answer is no: an item failed, a check did not pass, something is missing or there already',
  usage: 'the command line or its input is wrong',
  unavailable: 'nobody answers, or not now',
  internal: 'a fault of Steeple',
  denied: 'not allowed',
  config: 'the configuration is wrong',
  interrupted: 'ended by an interrupt',
};

export function cliPage(): string {
  const lines = [
    '# The command line',
    '',
    'Made from the table of commands by `node docs/cli.ts`. `steeple COMMAND --help` tells the same.',
    '',
    'Flags are written `--name value` or `--name=value`; one dash does as well, and what SPIRE calls otherwise is understood',
    'too. Times are seconds, or `90s`, `5m`, `1h30m`, `2d`. Output is a table for people, or with `--output json` a document',
    'for programs; names in it that could act on a terminal are shown with escapes.',
    '',
    'The server is found by `--socket`, `STEEPLE_SERVER_SOCKET`, `SPIRE_SERVER_PRIVATE_SOCKET` or at',
    "`/run/steeple/server/api.sock`; an agent's private socket by `--admin-socket`, `STEEPLE_AGENT_ADMIN_SOCKET` or at",
    '`/run/steeple/agent/private/admin.sock`; the Workload API by `--socket`, `SPIFFE_ENDPOINT_SOCKET` or at',
    '`/run/steeple/agent/public/api.sock`.',
    '',
    '## Commands',
  ];
  for (const { name, summary, usage, flags, positionals = [] } of commands) {
    const forms = usage ?? [['[flags]', ...positionals.map((word) => `[${word}]`)].join(' ')];
    lines.push('', `### ${name}`, '', `${summary[0]?.toUpperCase()}${summary.slice(1)}.`, '', ...forms.map((form) => `    steeple ${name} ${form}`));
    const rows = Object.entries(flags);
    if (rows.length === 0) continue;
    lines.push('', '| flag | what it says |', '|---|---|');
    for (const [flag, spec] of rows) {
      const value = spec.type === 'switch' ? '' : ` ${spec.value ?? 'VALUE'}`;
      const choices = spec.choices === undefined ? '' : ` (${spec.choices.join(', ')})`;
      lines.push(`| \`--${flag}${value}\` | ${spec.summary.replaceAll('|', '\\|')}${choices} |`);
    }
  }
  lines.push('', "## SPIRE's spellings", '', '| SPIRE | here |', '|---|---|');
  for (const [spire, ours] of Object.entries(spireSpellings)) lines.push(`| \`-${spire}\` | ${ours.map((flag) => `\`--${flag}\``).join(', ')} |`);
  lines.push('', '## Exit codes', '', '| code | meaning |', '|---|---|');
  for (const [name, code] of Object.entries(exitCodes)) lines.push(`| ${code} | ${meanings[name as keyof typeof exitCodes]} |`);
  lines.push('| 3 | `agent run`: the server has banned this agent; starting again does not help |');
  lines.push('| 4 | `agent run`: the agent must join anew, with a new token or better evidence |');
  return `${lines.join('\n')}\n`;
}

if (import.meta.main) writeFileSync(new URL('cli.md', import.meta.url), cliPage());
