/**
 * Any words as a command line: parsed or refused, without touching a prototype; what was parsed keeps what was written.
 */
import { commands } from '../../cli/main.ts';
import { parseFlags } from '../../cli/flags.ts';
import { plain } from '../../cli/print.ts';
import { expected } from './expected.ts';

export const name = 'flags';

/** Words are separated by zero bytes, as the kernel has them. */
const lines = [
  ['--spiffe-id', 'spiffe://example.org/a', '-parentID=spiffe://example.org/n', '-selector', 'unix:uid:0', '--ttl=1h30m', '--admin'],
  ['--output', 'json', '-f', '-', '--', '--x', 'rest'],
  ['--federates-with=a', '-federatesWith', 'b', '--downstream=false', '--x509-svid-ttl', '90'],
  ['--__proto__=x', '--constructor', 'y', '-toString', 'z'],
  ['--limit', '007', '--since', '15m', '--kind', 'x509', '--unexpired=true'],
  ['-5', '-', '---', '--=', '-=', '--a=b=c', ''],
  ['--trust-bundle', '\u001b[2J', '--port', '99999999999999999999'],
];

export function corpus(): Uint8Array[] {
  return lines.map((words) => Buffer.from(words.join('\0')));
}

export function run(input: Uint8Array): void {
  const words = Buffer.from(input).toString('utf8').split('\0');
  for (const command of commands) {
    const parsed = expected(() => parseFlags(command.flags, words));
    if (parsed === undefined) continue;
    const { flags, positionals } = parsed;
    if (Object.getPrototypeOf(flags) !== Object.prototype) throw new Error('flags have another prototype');
    for (const [flag, value] of Object.entries(flags as Readonly<Record<string, unknown>>)) {
      const spec = command.flags[flag];
      if (spec === undefined) throw new Error('a flag that is not declared');
      if (value === undefined) continue;
      const wanted = spec.type === 'list' ? 'object' : spec.type === 'switch' ? 'boolean' : spec.type === 'text' ? 'string' : 'number';
      if (typeof value !== wanted) throw new Error(`--${flag} is a ${typeof value}`);
      if (typeof value === 'number' && !(Number.isSafeInteger(value) && value >= 0)) throw new Error(`--${flag} is ${value}`);
      if (spec.choices !== undefined && !spec.choices.some((choice) => choice === value)) throw new Error('a choice that is none');
    }
    if (!positionals.every((word) => words.includes(word))) throw new Error('an argument that was not written');
  }
  if (/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/u.test(plain(words.join(' ')))) throw new Error('text that acts on a terminal');
  if ('polluted' in {}) throw new Error('Object.prototype was changed');
}
