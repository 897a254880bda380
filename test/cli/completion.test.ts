import { execFileSync, spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { completionScript, shells } from '../../cli/completion.ts';
import { commands } from '../../cli/main.ts';
import { steeple } from '../help/cli.ts';

const script = completionScript('bash', commands);

/** What bash offers after these words; the last one is being typed. */
function offered(...words: readonly string[]): readonly string[] {
  const program = `${script}
COMP_WORDS=(steeple "$@"); COMP_CWORD=$#
_steeple
printf '%s\\n' "\${COMPREPLY[@]}"`;
  return execFileSync('bash', ['-c', program, 'bash', ...words], { encoding: 'utf8' }).split('\n').filter((word) => word !== '').toSorted();
}

const has = (program: string): boolean => spawnSync(program, ['--version']).error === undefined;

describe('completion', () => {
  it.each(shells)('is printed for %s', async (shell) => {
    expect(await steeple(['completion', shell])).toEqual({ code: 0, out: completionScript(shell, commands), err: '' });
  });

  it('bash: offers first words, second words, flags, and what a prefix leaves', () => {
    expect(offered('')).toEqual([...new Set(commands.map(({ name }) => name.split(' ')[0] ?? ''))].toSorted());
    expect(offered('entry', '')).toEqual(['count', 'create', 'delete', 'show', 'update']);
    expect(offered('en')).toEqual(['entry']);
    expect(offered('entry', 'create', '--x')).toEqual(['--x509-svid-ttl']);
    expect(offered('explain', '--')).toEqual(['--admin-socket', '--output', '--pid']);
    expect(offered('entry', 'create', '--hint', 'x', '--spiffe')).toEqual(['--spiffe-id']);
    expect(offered('nonsense', '')).toEqual([]);
  });

  it.each(commands.map((command) => [command.name, command] as const))('bash: offers every flag of %s', (name, { flags }) => {
    const wanted = Object.keys(flags).map((flag) => `--${flag}`);
    expect(offered(...name.split(' '), '--')).toEqual(wanted.toSorted());
  });

  it('offers the choices of a flag', () => {
    expect(offered('entry', 'show', '--output', '')).toEqual(['json', 'pretty', 'table']);
    expect(offered('entry', 'show', '--output', 'j')).toEqual(['json']);
  });

  it.runIf(has('zsh'))('zsh: the script is one', () => {
    expect(spawnSync('zsh', ['-n'], { input: completionScript('zsh', commands) })).toMatchObject({ status: 0 });
  });

  it.runIf(has('fish'))('fish: the script is one', () => {
    expect(spawnSync('fish', ['--no-execute'], { input: completionScript('fish', commands) })).toMatchObject({ status: 0 });
  });

  it('zsh and fish: every command and flag is in the script', () => {
    const fish = completionScript('fish', commands);
    const zsh = completionScript('zsh', commands);
    expect(zsh.startsWith('#compdef steeple\n')).toBe(true);
    for (const { name, flags } of commands) {
      for (const flag of Object.keys(flags)) {
        expect(fish).toContain(` -l ${flag} `);
        expect(zsh).toContain(`--${flag}`);
      }
      for (const word of name.split(' ')) expect(fish).toMatch(new RegExp(` -a ${word}(?: |$)`, 'm'));
    }
  });

  it('quotes what shells would take for their own', () => {
    const tricky = [{ ...commands[0]!, name: 'x', summary: "it's a $(touch /x) \\ `x`", flags: {} }];
    expect(completionScript('fish', tricky)).toContain(String.raw`-d 'it\'s a $(touch /x) \\ ` + "`x`'");
  });
});
