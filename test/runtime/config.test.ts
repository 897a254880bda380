import { readdirSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { absolutePath, ConfigError, duration, parseConfig, parsed, parseDuration, port, section, size, socketPath } from '../../runtime/config.ts';
import type { ConfigProblem, Overlay } from '../../runtime/config.ts';
import { parseTrustDomain } from '../../spiffe/id.ts';

const schema = section({
  trust_domain: parsed(parseTrustDomain),
  listen: section({ host: z.string().default('0.0.0.0'), port: port().default(8081) }).prefault({}),
  ttl: duration({ min: '1m', max: '24h' }).prefault('1h'),
  limit: size({ max: 1_048_576 }).prefault('64KiB'),
  socket: socketPath().default('/run/steeple/api.sock'),
  attestors: z.array(z.discriminatedUnion('type', [section({ type: z.literal('unix'), hash: z.boolean().default(false) }), section({ type: z.literal('docker'), socket: absolutePath() })])).default([]),
});

const problemsOf = (text: string, overlays: readonly Overlay[] = []): readonly ConfigProblem[] => {
  try {
    parseConfig(text, schema, overlays);
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    expect(error).toMatchObject({ kind: 'invalid', reason: 'config.invalid' });
    return (error as ConfigError).problems;
  }
  return [];
};

describe('parseConfig', () => {
  it('yields a frozen value with its defaults', () => {
    const config = parseConfig('trust_domain: example.org\nattestors:\n  - type: unix\n', schema);
    expect(config).toEqual({
      trust_domain: 'example.org',
      listen: { host: '0.0.0.0', port: 8081 },
      ttl: 3_600_000,
      limit: 65_536,
      socket: '/run/steeple/api.sock',
      attestors: [{ type: 'unix', hash: false }],
    });
    expect([config, config.listen, config.attestors, config.attestors[0]].every(Object.isFrozen)).toBe(true);
  });

  it('tells all problems at once, each with its path, unknown keys included', () => {
    const problems = problemsOf(`
trust_domain: Example
listen: {port: 99999, hots: x}
ttl: 1 fortnight
limit: 2MiB
socket: relative
extra: 1
attestors: [{type: unix, hsah: true}, {type: podman}, {type: docker}]
`);
    expect(problems.map((problem) => problem.path).toSorted()).toEqual(
      ['attestors[0].hsah', 'attestors[1].type', 'attestors[2].socket', 'extra', 'limit', 'listen.hots', 'listen.port', 'socket', 'trust_domain', 'ttl'].toSorted(),
    );
    expect(problems.find((problem) => problem.path === 'extra')?.message).toBe('unknown key');
    expect(problems.find((problem) => problem.path === 'trust_domain')?.message).toContain('lowercase');
  });

  it('says of what is missing that it is required, not what it would have to be', () => {
    expect(problemsOf('{}').find((problem) => problem.path === 'trust_domain')?.message).toBe('is required');
  });

  it('lets flags win over the file, and complains about them alike', () => {
    const flags: Overlay[] = [
      { path: ['listen', 'port'], value: 9000 },
      { path: ['trust_domain'], value: 'flag.test' },
    ];
    expect(parseConfig('trust_domain: example.org\nlisten: {port: 1}', schema, flags)).toMatchObject({
      trust_domain: 'flag.test',
      listen: { host: '0.0.0.0', port: 9000 },
    });
    expect(parseConfig('', schema, flags).listen.port).toBe(9000);
    expect(problemsOf('trust_domain: example.org\nlisten: 5', flags).map((problem) => problem.path)).toEqual(['listen']);
    expect(problemsOf('', [...flags, { path: ['listen', 'nope'], value: 1 }])).toEqual([{ path: 'listen.nope', message: 'unknown key' }]);
  });

  it.each([
    ['a repeated key', 'trust_domain: a\ntrust_domain: b', 'unique'],
    ['a tab as indentation', 'listen:\n\tport: 1', 'line 2'],
    ['an alias', 'trust_domain: &a example.org\nsocket: *a', 'aliases'],
    ['an alias bomb', bomb(), 'aliases'],
    ['a prototype key', 'trust_domain: example.org\n__proto__: {port: 1}', '__proto__'],
    ['a nested prototype key', 'listen: {"__proto__": {polluted: true}}', '__proto__'],
    ['a foreign tag', 'trust_domain: !!js/function "x"', 'tag'],
    ['a key that is no text', '? {a: 1}\n: 2', 'plain text'],
    ['depth', `listen: ${'['.repeat(40)}${']'.repeat(40)}`, 'nested deeper'],
    ['great depth', `listen: ${'['.repeat(100_000)}`, ''],
    ['size', `# ${'x'.repeat(2_000_000)}`, 'too large'],
    ['two documents', 'trust_domain: a\n---\ntrust_domain: b', 'document'],
    ['a list', '- a', 'expected object'],
  ])('refuses %s', (_case, text, message) => {
    const problems = problemsOf(text);
    expect(problems.length).toBeGreaterThan(0);
    expect(problems.map((problem) => problem.message.toLowerCase()).join()).toContain(message.toLowerCase());
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });

  it('names a socket path that is over the kernel’s limit', () => {
    const path = `/run/${'x'.repeat(103)}`;
    const [problem] = problemsOf(`trust_domain: a\nsocket: ${path}`);
    expect(problem?.path).toBe('socket');
    expect(problem?.message).toContain('has 108 bytes, the kernel allows 107');
    expect(problemsOf(`trust_domain: a\nsocket: /run/${'x'.repeat(102)}`)).toEqual([]);
    expect(problemsOf(`trust_domain: a\nsocket: /run/${'é'.repeat(52)}`)).toHaveLength(1);
  });
});

describe('parseDuration', () => {
  it.each([
    ['250ms', 250],
    ['90s', 90_000],
    ['10m', 600_000],
    ['1h', 3_600_000],
    ['7d', 604_800_000],
    ['1h30m', 5_400_000],
    ['0s', 0],
  ])('%s is %i ms', (text, ms) => expect(parseDuration(text)).toBe(ms));

  it.each(['', '1', 's', '1 h', '-1s', '1.5h', '1H', '1w', '999999999999d', '1s\n'])('%j is none', (text) => {
    expect(parseDuration(text)).toBeUndefined();
  });
});

it('has fuzz targets for what it parses', () => {
  expect(readdirSync(new URL('../fuzz/', import.meta.url))).toEqual(expect.arrayContaining(['config.fuzz.ts', 'status.fuzz.ts']));
});

function bomb(): string {
  const lines = ['a0: &a0 [x, x, x, x, x, x, x, x]'];
  for (let level = 1; level < 10; level += 1) lines.push(`a${level}: &a${level} [${`*a${level - 1}, `.repeat(8)}]`);
  return lines.join('\n');
}
