/**
 * Any text as a config: a value or a `ConfigError`, never another error and never a changed prototype.
 */
import { z } from 'zod';
import { absolutePath, ConfigError, duration, parseConfig, section, size, socketPath } from '../../runtime/config.ts';

const schema = section({
  name: z.string().default(''),
  ttl: duration().prefault('1h'),
  limit: size().prefault(1),
  socket: socketPath().default('/s'),
  nested: section({ path: absolutePath().default('/'), list: z.array(z.union([z.string(), z.number()])).default([]) }).prefault({}),
});

export const name = 'config';

export function corpus(): Uint8Array[] {
  return [
    'name: a\nttl: 1h30m\nlimit: 64KiB\nsocket: /run/x.sock\nnested: {path: /a, list: [1, b]}\n',
    'name: &a x\nother: *a\n',
    '__proto__: {polluted: 1}\n"constructor": {prototype: 1}\n',
    '? [complex]\n: !!binary aGk=\n',
    '%YAML 1.1\n---\n<<: {name: b}\n...\n---\nx',
    'name: |\n  text\n  more\nlimit: 0x10\nttl: 1e3\n',
    `nested: ${'{a: '.repeat(50)}${'}'.repeat(50)}`,
    'name: "\\ud800\\0\\x1b"',
  ].map((text) => Buffer.from(text));
}

export function run(input: Uint8Array): void {
  const text = new TextDecoder().decode(input);
  try {
    const value = parseConfig(text, schema);
    if (!Object.isFrozen(value) || !Object.isFrozen(value.nested)) throw new Error('value is not frozen');
    if (Object.getPrototypeOf(value) !== Object.prototype) throw new Error('value has another prototype');
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    if (error.problems.length === 0) throw new Error('refused without a problem', { cause: error });
    for (const problem of error.problems) {
      if (/[\u0000-\u001f]/.test(problem.path)) throw new Error('problem path holds a control character', { cause: error });
    }
  }
  if ('polluted' in {}) throw new Error('Object.prototype was changed');
}
