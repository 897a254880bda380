import { describe, expect, it } from 'vitest';
import { commands } from '../../cli/main.ts';
import { parseFlags, spireSpellings, type FlagSpecs } from '../../cli/flags.ts';

const specs = {
  name: { type: 'text', summary: '' },
  selector: { type: 'list', summary: '' },
  count: { type: 'number', summary: '' },
  ttl: { type: 'duration', summary: '' },
  admin: { type: 'switch', summary: '' },
  form: { type: 'text', summary: '', choices: ['table', 'json'] },
  file: { type: 'text', summary: '' },
} as const satisfies FlagSpecs;

const parse = (...args: string[]) => parseFlags(specs, args);

describe('flags', () => {
  it.each([
    [['--name', 'a']],
    [['--name=a']],
    [['-name', 'a']],
    [['-name=a']],
  ])('take their value as in %j', (args) => {
    expect(parse(...args).flags.name).toBe('a');
  });

  it('keep what follows the first equals sign', () => {
    expect(parse('--selector=k8s:label:a=b', '--name=').flags).toMatchObject({ selector: ['k8s:label:a=b'], name: '' });
  });

  it('take values that look like flags', () => {
    expect(parse('--name', '--admin').flags).toEqual({ name: '--admin', selector: [] });
  });

  it('collect lists in order, and are empty without', () => {
    expect(parse('--selector', 'a:1', '-selector=b:2').flags.selector).toEqual(['a:1', 'b:2']);
    expect(parse().flags).toEqual({ selector: [] });
  });

  it.each([
    [['--admin'], true],
    [['--admin=true'], true],
    [['-admin=false'], false],
    [[], undefined],
  ])('switch by %j', (args, value) => {
    expect(parse(...args).flags.admin).toBe(value);
  });

  it.each([
    ['90', 90],
    ['90s', 90],
    ['5m', 300],
    ['1h30m', 5400],
    ['2d', 172_800],
    ['0', 0],
  ])('read the duration %s', (text, seconds) => {
    expect(parse('--ttl', text).flags.ttl).toBe(seconds);
  });

  it('leave positionals, and everything after --', () => {
    expect(parse('a', '--admin', '-', 'b', '--', '--name', '-x')).toMatchObject({ positionals: ['a', '-', 'b', '--name', '-x'], flags: { admin: true } });
    expect(parse('-5', '--ttl', '5').positionals).toEqual(['-5']);
  });

  it('have short forms for the usual', () => {
    expect(parse('-f', 'x.yaml').flags.file).toBe('x.yaml');
  });

  it.each([
    ['unknown', ['--nope'], 'cli.flag.unknown'],
    ['a name of Object', ['--constructor=x'], 'cli.flag.unknown'],
    ['a name of Object', ['--__proto__=x'], 'cli.flag.unknown'],
    ['another letter case', ['--Name', 'a'], 'cli.flag.unknown'],
    ['no value', ['--name'], 'cli.flag.missing-value'],
    ['twice', ['--name=a', '-name=b'], 'cli.flag.repeated'],
    ['twice', ['--admin', '--admin=false'], 'cli.flag.repeated'],
    ['not a number', ['--count', '1.5'], 'cli.flag.value'],
    ['not a number', ['--count', '-1'], 'cli.flag.value'],
    ['not a number', ['--count='], 'cli.flag.value'],
    ['not a duration', ['--ttl', '5 m'], 'cli.flag.value'],
    ['not a duration', ['--ttl', 'm5'], 'cli.flag.value'],
    ['not a duration', ['--ttl', ''], 'cli.flag.value'],
    ['not a choice', ['--form', 'xml'], 'cli.flag.value'],
    ['not a switch', ['--admin=yes'], 'cli.flag.value'],
  ])('are refused: %s (%j)', (_what, args, reason) => {
    expect(() => parse(...args)).toThrow(expect.objectContaining({ kind: 'invalid', reason }));
  });

  it('suggest what was meant', () => {
    expect(() => parse('--sel', 'a')).toThrow(/did you mean --selector\?/);
    expect(() => parse('--selctor', 'a')).toThrow(/did you mean --selector\?/);
    expect(() => parse('--selecctor', 'a')).toThrow(/did you mean --selector\?/);
    expect(() => parse('--selektor', 'a')).toThrow(/did you mean --selector\?/);
    expect(() => parse('--zzz')).not.toThrow(/did you mean/);
  });
});

describe("SPIRE's spellings", () => {
  const flagSets = commands.map(({ name, flags }) => ({ name, flags }));

  it.each(Object.keys(spireSpellings))('-%s stands for a flag of ours somewhere, with one dash and with two', (spelling) => {
    const users = flagSets.filter(({ flags }) => spireSpellings[spelling]?.some((ours) => Object.hasOwn(flags, ours)) === true);
    expect(users).not.toEqual([]);
    for (const { flags } of users) {
      const ours = spireSpellings[spelling]?.find((name) => Object.hasOwn(flags, name)) ?? '';
      const spec = flags[ours];
      const value = spec?.choices?.[0] ?? (spec?.type === 'switch' ? 'true' : '5');
      const expected = parseFlags(flags, [`--${ours}=${value}`]);
      for (const dashes of ['-', '--']) expect(parseFlags(flags, [`${dashes}${spelling}=${value}`])).toEqual(expected);
    }
  });

  it.each([
    ['entry create', '-spiffeID a -parentID b -selector c:d -x509SVIDTTL 60 -jwtSVIDTTL 30 -federatesWith e -dns f -admin -downstream -entryExpiry 9 -entryID g -hint h -storeSVID -data i -node -socketPath j -output json'],
    ['entry update', '-entryID g -spiffeID a -parentID b -selector c:d'],
    ['entry show', '-entryID g -spiffeID a -parentID b -selector c:d -federatesWith e -matchSelectorsOn exact -matchFederatesWithOn any -downstream -hint h -output pretty'],
    ['entry count', '-spiffeID a -parentID b -selector c:d -federatesWith e -hint h -downstream'],
    ['entry delete', '-entryID g -file x'],
    ['agent list', '-selector a:b -matchSelectorsOn subset -attestationType join_token -banned -canReattest -expiresBefore x'],
    ['agent show', '-spiffeID a'],
    ['agent ban', '-spiffeID a'],
    ['agent evict', '-spiffeID a'],
    ['agent purge', '-expiredFor 30m -dryRun'],
    ['token generate', '-spiffeID a -ttl 60 -output json'],
    ['bundle show', '-format spiffe -socketPath j'],
    ['bundle set', '-id a -format pem -path x'],
    ['bundle delete', '-id a -mode restrict'],
    ['x509 mint', '-spiffeID a -ttl 1h -dns b -write x'],
    ['jwt mint', '-spiffeID a -audience b -ttl 5m'],
    ['server run', '-config x -trustDomain a -dataDir b -socketPath c -logLevel debug'],
    ['server healthcheck', '-socketPath a -shallow -verbose'],
    ['agent run', '-config x -trustDomain a -serverAddress b -serverPort 8081 -joinToken c -socketPath d -trustBundle e -insecureBootstrap -dataDir f -logLevel warn'],
    ['agent healthcheck', '-socketPath a -shallow -verbose'],
  ])('are understood by %s', (name, line) => {
    const flags = commands.find((command) => command.name === name)?.flags ?? {};
    expect(parseFlags(flags, line.split(' ')).positionals).toEqual([]);
  });
});
