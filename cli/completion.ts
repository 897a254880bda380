/**
 * Completion scripts for bash, zsh and fish, made from the table of commands, so that they cannot disagree with it.
 */
import type { Command } from './command.ts';

export const shells = ['bash', 'zsh', 'fish'] as const;
export type Shell = (typeof shells)[number];

interface Word {
  /** The words before this one, joined with spaces. */
  readonly after: string;
  readonly words: readonly string[];
}

export function completionScript(shell: Shell, commands: readonly Command[]): string {
  const words = nextWords(commands);
  switch (shell) {
    case 'bash':
      return bash(words, commands);
    case 'zsh':
      return `#compdef steeple\nautoload -U +X bashcompinit && bashcompinit\n${bash(words, commands)}`;
    case 'fish':
      return fish(commands);
  }
}

/** What may follow each prefix of words: the next word of a command, or its flags. */
function nextWords(commands: readonly Command[]): readonly Word[] {
  const next = new Map<string, Set<string>>();
  const add = (after: string, word: string): void => {
    next.set(after, (next.get(after) ?? new Set()).add(word));
  };
  for (const { name, flags } of commands) {
    const parts = name.split(' ');
    for (const [index, part] of parts.entries()) add(parts.slice(0, index).join(' '), part);
    for (const flag of Object.keys(flags)) add(name, `--${flag}`);
  }
  return [...next].map(([after, set]) => ({ after, words: [...set].toSorted() }));
}

/** What may follow a flag that wants a value: its choices, or nothing but a file. */
function valueCases(commands: readonly Command[]): readonly string[] {
  const cases: string[] = [];
  for (const { name, flags } of commands) {
    const free: string[] = [];
    for (const [flag, { type, choices }] of Object.entries(flags)) {
      if (choices !== undefined) cases.push(`    '${name} --${flag}') words='${choices.join(' ')}' ;;`);
      else if (type !== 'switch') free.push(`'${name} --${flag}'`);
    }
    if (free.length > 0) cases.push(`    ${free.join('|')}) words='' ;;`);
  }
  return cases;
}

function bash(words: readonly Word[], commands: readonly Command[]): string {
  const cases = words.map(({ after, words: list }) => `    ${after === '' ? "''" : `'${after}'`}) words='${list.join(' ')}' ;;`);
  return `_steeple() {
  local cur="\${COMP_WORDS[COMP_CWORD]}" path='' word words=''
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$word" in
      -*) break ;;
      *) path="\${path:+$path }$word" ;;
    esac
  done
  case "$path" in
${cases.join('\n')}
  esac
  case "$path \${COMP_WORDS[COMP_CWORD-1]}" in
${valueCases(commands).join('\n')}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o default -F _steeple steeple
`;
}

function fish(commands: readonly Command[]): string {
  const lines = ['complete -c steeple -f'];
  const quote = (text: string): string => `'${text.replaceAll(/['\\]/g, String.raw`\$&`)}'`;
  const seen = new Set<string>();
  for (const { name, summary, flags } of commands) {
    const parts = name.split(' ');
    for (const [index, part] of parts.entries()) {
      const before = parts.slice(0, index);
      const key = [...before, part].join(' ');
      if (seen.has(key)) continue;
      seen.add(key);
      const condition = index === 0 ? '__fish_use_subcommand' : `__fish_seen_subcommand_from ${before.at(-1) ?? ''}`;
      const text = index === parts.length - 1 ? ` -d ${quote(summary)}` : '';
      lines.push(`complete -c steeple -n ${quote(condition)} -a ${part}${text}`);
    }
    const inside = parts.map((part) => `__fish_seen_subcommand_from ${part}`).join('; and ');
    for (const [flag, spec] of Object.entries(flags)) {
      const value = spec.choices !== undefined ? ` -x -a ${quote(spec.choices.join(' '))}` : spec.type === 'switch' ? '' : ' -r';
      lines.push(`complete -c steeple -n ${quote(inside)} -l ${flag}${value} -d ${quote(spec.summary)}`);
    }
  }
  return `${lines.join('\n')}\n`;
}
