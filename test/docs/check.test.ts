import { describe, expect, it } from 'vitest';
import { checkCommands, checkConfig, checkErrors, checkMetrics, checkNames, checkReferences, declaredMetrics, readSources, thrownReasons } from '../../docs/check.ts';
import { callsOf } from '../../docs/scan.ts';
import { configKeys, keysOf } from '../../docs/config-keys.ts';

const thrower = new Map([
  [
    'a/b.ts',
    [
      "// new SpiffeError('invalid', 'in.comment', '')",
      "/** throws new SpiffeError('invalid', 'in.docs', '') */",
      "throw new SpiffeError('invalid', 'one.line', `(${text})`);",
      "return new SpiffeError(\n  'denied',\n  'many.lines',\n  fault('x, (y'),\n  { cause },\n);",
      "new SpiffeError(late ? 'limited' : 'unavailable', early ? 'chosen.first' : late ? 'chosen.second' : 'chosen.third', '');",
      "new SpiffeError(error.kind, 'handed.on', error.message);",
    ].join('\n'),
  ],
  ['a/c.ts', "class E extends SpiffeError {\n  constructor() {\n    super('missing', 'from.super', 'text');\n  }\n}"],
  ['a/d.ts', "class F extends Other {\n  constructor() {\n    super('missing', 'not.ours', 'text');\n  }\n}"],
]);

const errorsPage = [
  '# Errors',
  '| reason | kind | meaning |',
  '|---|---|---|',
  '| `one.line` | invalid | a |',
  '| `many.lines` | denied | b |',
  '| `chosen.first` | limited, unavailable | c |',
  '| `chosen.second` | unavailable, limited | d \\| e |',
  '| `chosen.third` | limited, unavailable | f |',
  "| `handed.on` | its cause's | g |",
  '| `from.super` | missing | h |',
].join('\n');

describe('reasons', () => {
  it('are found in every shape in which they are thrown', () => {
    const { reasons, problems } = thrownReasons(thrower);
    expect(problems).toEqual([]);
    expect([...reasons.keys()].toSorted()).toEqual(['chosen.first', 'chosen.second', 'chosen.third', 'from.super', 'handed.on', 'many.lines', 'one.line']);
    expect([...(reasons.get('chosen.first') ?? [])]).toEqual(['limited', 'unavailable']);
  });

  it('that cannot be told from the text are a problem, not passed over', () => {
    const { problems } = thrownReasons(new Map([['a/b.ts', 'throw new SpiffeError(kind, reasonOf(x), message);']]));
    expect(problems).toEqual([expect.stringContaining('`reasonOf(x)` is no literal')]);
  });

  it('of the source are all of them found: as many calls as the text has', () => {
    for (const [file, text] of readSources()) {
      const written = text.split('\n').filter((line) => !/^\s*(?:\*|\/\/)/.test(line) && /new SpiffeError\(/.test(line)).length;
      expect(callsOf(text, 'new SpiffeError').length, file).toBe(written);
    }
  });

  it('and the page agree', () => {
    expect(checkErrors(errorsPage, thrower)).toEqual([]);
  });

  it.each([
    ['a missing row', '| `many.lines` | denied | b |\n', '', '`many.lines` (denied) is thrown and has no row'],
    ['a row without its source', '# Errors', '| `gone.reason` | invalid | x |', '`gone.reason` is thrown nowhere'],
    ['another kind', '| invalid | a |', '| denied | a |', '`one.line` is invalid, not denied'],
    ['a kind too few', '| limited, unavailable | c |', '| limited | c |', '`chosen.first` is limited, unavailable'],
    ['a row twice', '# Errors', '| `one.line` | invalid | x |', '`one.line` is listed twice'],
    ['a row without a meaning', '| b |', '|  |', 'does not say what it means'],
    ['a row of another form', '# Errors', '| one.line | invalid | x |', 'a row is reason, kind, meaning'],
  ])('%s fails the check', (_name, from, to, expected) => {
    expect(checkErrors(errorsPage.replace(from, to), thrower).join('\n')).toContain(expected);
  });
});

describe('metrics', () => {
  const sources = new Map([
    ['agent/observe.ts', "metrics.counter({ name: 'steeple_agent_a_total', help: 'x', labels: { kind: ['x'], outcome } });\ngauge('steeple_agent_b', 'y', read);"],
    ['server/observe.ts', "metrics.histogram({ name: 'steeple_server_c_seconds', help: 'z', labels: {} }, buckets);"],
  ]);
  const page = '| `steeple_agent_a_total` | counter | `kind, outcome` | x |\n| `steeple_agent_b` | gauge |  | y |\n| `steeple_server_c_seconds` | histogram |  | z |';

  it('are found with type and labels', () => {
    expect(declaredMetrics(sources)).toEqual([
      { name: 'steeple_agent_a_total', type: 'counter', labels: 'kind, outcome' },
      { name: 'steeple_agent_b', type: 'gauge', labels: '' },
      { name: 'steeple_server_c_seconds', type: 'histogram', labels: '' },
    ]);
    expect(checkMetrics(page, sources)).toEqual([]);
  });

  it.each([
    ['`steeple_agent_b`', '`steeple_agent_d`', '`steeple_agent_b` has no row'],
    ['| gauge |', '| counter |', '`steeple_agent_b` is a gauge'],
    ['`kind, outcome`', '`kind`', 'the labels of `steeple_agent_a_total`'],
  ])('%s as %s fails the check', (from, to, expected) => {
    expect(checkMetrics(page.replace(from, to), sources).join('\n')).toContain(expected);
  });
});

describe('names', () => {
  it('missing, invented and repeated ones are told', () => {
    expect(checkNames('p', '| `a` | |\n| `b` | |\n| `b` | |', ['a', 'c'])).toEqual([
      'p: `c` has no row',
      'p: `b` is not in the source',
      'p: `b` is not in the source',
      'p: `b` is listed twice',
    ]);
  });
});

describe('configuration', () => {
  it('is read from the schema, through defaults, choices and lists', () => {
    const schema = {
      properties: {
        name: { type: 'string' },
        place: { default: {}, properties: { port: { default: 1, type: 'integer' }, extra: { type: 'string' } } },
        store: { default: { type: 'a' }, oneOf: [{ properties: { type: {}, path: {} }, required: ['type', 'path'] }, { properties: { type: {} }, required: ['type'] }] },
        size: { type: ['string', 'number'] },
        list: { default: [], items: { oneOf: [{ properties: { type: {} }, required: ['type'] }] } },
      },
      required: ['name'],
    };
    const reloads = (changed: unknown): boolean => JSON.stringify(changed).includes('"port":"another value"');
    expect(keysOf(schema, { name: 'x', place: { port: 1 }, store: { type: 'a' }, size: 64 * 1_048_576, list: [] }, reloads)).toEqual([
      { name: 'name', default: 'required', reloads: false },
      { name: 'place.port', default: '1', reloads: true },
      { name: 'place.extra', default: 'none', reloads: false },
      { name: 'store.type', default: 'a', reloads: false },
      { name: 'store.path', default: 'required', reloads: false },
      { name: 'size', default: '64MiB', reloads: false },
      { name: 'list', default: '[]', reloads: false },
      { name: 'list[].type', default: 'required', reloads: false },
    ]);
  });

  it('tells of the real schemas what a reload applies', async () => {
    const { Server = [], Agent = [] } = await configKeys();
    expect(Agent.filter(({ reloads }) => reloads).map(({ name }) => name)).toEqual(['log.level']);
    const applied = Server.filter(({ reloads }) => reloads).map(({ name }) => name);
    expect(applied).toContain('svids.x509_ttl');
    expect(applied).not.toContain('limits.entries');
  });

  const keys = { Agent: [{ name: 'a.b', default: '5s', reloads: true }] };
  const page = '## Agent: things\n| key | default | reload | meaning |\n|---|---|---|---|\n| `a.b` | `5s` | yes | text |';

  it.each([
    [page, []],
    [page.replace('`a.b`', '`a.c`'), ['docs/config.md, Agent: `a.b` has no row', 'docs/config.md, Agent: `a.c` is not in the source']],
    [page.replace('5s', '6s'), ['docs/config.md, Agent: the default of `a.b` is 5s, not `6s`']],
    [page.replace('yes', ''), ['docs/config.md, Agent: a reload applies `a.b`']],
    [page.replace('text', ''), ['docs/config.md, Agent: the row of `a.b` does not say what it means']],
    [page.replace('Agent: things', 'Server: things'), ['docs/config.md, Agent: `a.b` has no row']],
  ])('page %#', (text, expected) => {
    expect(checkConfig(text, keys)).toEqual(expected);
  });
});

it('a command without a section and a flag that is not said fail the check', () => {
  const page = '## `steeple entry create`\nTakes --file.\n## Other\n--id';
  expect(checkCommands(page, [{ name: 'entry create', flags: ['file', 'id'] }, { name: 'entry show', flags: [] }])).toEqual([
    'docs/cli.md: `entry create` has a flag --id',
    'docs/cli.md: no heading names `entry show`',
  ]);
});

describe('references', () => {
  const files: Readonly<Record<string, string>> = {
    'docs/b.md': '# What to watch',
    'test/a.test.ts': "it('T-01: holds', …",
    docs: '',
    'docs/a.md': '',
  };
  const check = (page: string): string[] => checkReferences(new Map([['docs/a.md', page]]), (file) => files[file]);

  it('that lead somewhere pass, and so do links to the world and in code', () => {
    expect(check('# Own\n[x](b.md) [y](b.md#what-to-watch) [z](https://example.org/x) [dir](../docs/)\n```\n[no](no.md)\n```\n`test/a.test.ts` "T-01: holds"')).toEqual([]);
  });

  it.each([
    ['[x](no.md)', 'docs/a.md:1: no.md leads nowhere'],
    ['[x](b.md#elsewhere)', 'docs/a.md:1: b.md#elsewhere has no such heading'],
    ['see `test/b.test.ts`', 'docs/a.md:1: test/b.test.ts does not exist'],
    ['see server/gone.ts.', 'docs/a.md:1: server/gone.ts does not exist'],
    ['`test/a.test.ts` "T-02: breaks"', 'docs/a.md:1: test/a.test.ts has no case "T-02: breaks"'],
    ['`test/a.test.ts` "T-01: holds", "T-03"', 'docs/a.md:1: test/a.test.ts has no case "T-03"'],
  ])('%s', (page, expected) => {
    expect(check(page)).toEqual([expected]);
  });
});
