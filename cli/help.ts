/**
 * Help texts, made from the table of commands.
 */
import type { Command } from './command.ts';
import type { FlagSpec } from './flags.ts';

/** The commands whose name starts with as many of the words as any does. */
export function programHelp(commands: readonly Command[], words: readonly string[]): string {
  const prefix = words.join(' ');
  const list = commands.filter(({ name }) => prefix === '' || name === prefix || name.startsWith(`${prefix} `));
  if (list.length === 0) return programHelp(commands, words.slice(0, -1));
  const width = Math.max(...list.map(({ name }) => name.length));
  const lines = list.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`);
  return `Usage: steeple COMMAND [flags]\n\n${lines.join('\n')}\n\nsteeple COMMAND --help tells more. SPIRE's spellings of flags work too.\n`;
}

export function commandHelp({ name, summary, usage, flags, positionals = [] }: Command): string {
  const arguments_ = positionals.map((word) => ` [${word}]`).join('');
  const forms = (usage ?? [`[flags]${arguments_}`]).map((form) => `steeple ${name} ${form}`);
  const names = Object.entries(flags).map(([flag, spec]) => [`--${flag}${valueText(spec)}`, spec] as const);
  const width = Math.max(0, ...names.map(([text]) => text.length));
  const lines = names.map(([text, spec]) => {
    const choices = spec.choices === undefined ? '' : ` (${spec.choices.join(', ')})`;
    return `  ${text.padEnd(width)}  ${spec.summary}${choices}`;
  });
  const list = lines.length === 0 ? '' : `\n${lines.join('\n')}\n`;
  return `Usage: ${forms.join('\n       ')}\n\n${summary}\n${list}`;
}

function valueText(spec: FlagSpec): string {
  if (spec.type === 'switch') return '';
  return ` ${spec.value ?? 'VALUE'}`;
}
