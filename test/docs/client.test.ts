/**
 * The examples of `docs/client.md`, taken from the page: each compiles under strict settings and runs against the fake Workload
 * API, and prints what its comments say. And no symbol of the library goes without a word and an example.
 */
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest';
import { createFakeAuthority } from '../../client/testing/authority.ts';
import { FakeWorkloadApi } from '../../client/testing/fake-workload-api.ts';

const root = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));
const page = readFileSync(path.join(root, 'docs', 'client.md'), 'utf8');
/** By the heading they stand under, numbered where there are several. */
const examples = readExamples();
/** As programs name them, and where they are here. */
const entries: Readonly<Record<string, string>> = { '@steeple/client': 'client/index.ts', '@steeple/client/testing': 'client/testing/index.ts' };

const place = mkdtempSync(path.join(tmpdir(), 'steeple-examples-'));
const other = createFakeAuthority('other.test');
let fake: FakeWorkloadApi;

beforeAll(async () => {
  mkdirSync(path.join(place, 'run'));
  writeFileSync(path.join(place, 'package.json'), '{"type":"module"}');
  symlinkSync(path.join(root, 'node_modules'), path.join(place, 'node_modules'));
  process.chdir(path.join(place, 'run'));
  fake = await FakeWorkloadApi.start();
  process.env['SPIFFE_ENDPOINT_SOCKET'] = fake.address;
});

beforeEach(() => {
  fake.federate(other.bundle);
  fake.grant({ identity: '/web', hint: 'internal' }, '/admin');
});

afterAll(async () => {
  delete process.env['SPIFFE_ENDPOINT_SOCKET'];
  process.chdir(root);
  await fake.close();
  rmSync(place, { recursive: true, force: true });
});

describe('the examples of docs/client.md', () => {
  it.each([...examples])('run and print what they say: %s', { timeout: 30_000 }, async (name, code) => {
    const file = path.join(place, 'run', `${name.replace(/\W+/g, '-')}.ts`);
    writeFileSync(file, code.replaceAll(/'(@steeple\/client(?:\/\w+)?)'/g, (whole, entry: string) => `'${path.join(root, entries[entry] ?? whole)}'`));
    const printed: string[] = [];
    const log = vi.spyOn(console, 'log').mockImplementation((...parts: unknown[]) => void printed.push(parts.map(String).join(' ')));
    try {
      await import(file);
    } finally {
      log.mockRestore();
    }
    const said = [...code.matchAll(/console\.log\(.*\/\/ (.*)$/gm)].map(([, text]) => text);
    expect(printed).toEqual(said);
  });

  it('compile, each by itself', { timeout: 60_000 }, async () => {
    const folder = path.join(place, 'compile');
    mkdirSync(folder);
    for (const [name, code] of examples) writeFileSync(path.join(folder, `${name.replace(/\W+/g, '-')}.ts`), code);
    const paths = Object.fromEntries(Object.entries(entries).map(([name, file]) => [name, [path.join(root, file)]]));
    writeFileSync(
      path.join(folder, 'tsconfig.json'),
      JSON.stringify({ extends: path.join(root, 'tsconfig.json'), compilerOptions: { paths, noUnusedLocals: true }, include: ['*.ts'] }),
    );
    const { stdout } = await promisify(execFile)(path.join(root, 'node_modules', '.bin', 'tsc'), ['--noEmit', '-p', folder]).catch((error: unknown) => error as { stdout: string });
    expect(stdout.slice(0, 2_000)).toBe('');
  });
});

describe.each(Object.entries(entries))('what %s exports', (_name, entry) => {
  const exported = exportsOf(entry);

  it('is something', () => {
    expect(exported.length).toBeGreaterThan(4);
  });

  it('has a docstring where it is declared', () => {
    const bare = exported.filter(({ file, declared }) => {
      const text = readFileSync(path.join(root, file), 'utf8');
      return !new RegExp(`\\*/\\nexport (?:abstract |async )?(?:class|const|function\\*?|interface|type|let) ${declared}\\b`).test(text);
    });
    expect(bare.map(({ name, file }) => `${file}: ${name}`)).toEqual([]);
  });

  it('is used in an example, or named in the table of types', () => {
    const code = [...examples.values()].join('\n');
    const types = /^## Types\n([\s\S]*?)(?=^## |$(?![\s\S]))/m.exec(page)?.[1] ?? '';
    const missing = exported.filter(({ name, isType }) => !new RegExp(`\\b${name}\\b`).test(code) && !(isType && types.includes(`\`${name}\``)));
    expect(missing.map(({ name }) => name)).toEqual([]);
  });
});

describe('the table against go-spiffe', () => {
  const rows = [...page.matchAll(/^\| `(\w+\.[^`]+)` \| (.+) \|$/gm)].map(([, theirs = '', ours = '']) => ({ theirs, ours }));

  it('has all that it exports, each once', () => {
    const api = readFileSync(path.join(root, 'test', 'vectors', 'go-spiffe-api.txt'), 'utf8').trim().split('\n');
    expect(api.length).toBeGreaterThan(400);
    expect(rows.flatMap(({ theirs }) => theirs.split(', ')).toSorted()).toEqual(api.toSorted());
  });

  it('names nothing of ours that is not there', () => {
    const known = new Set(Object.values(entries).flatMap((entry) => exportsOf(entry).map(({ name }) => name)));
    const named = rows.flatMap(({ ours }) => [...ours.matchAll(/`(\w+)(?:[.(][^`]*)?`/g)].map(([, name = '']) => name));
    expect(named.filter((name) => !known.has(name) && !/^[a-z]+$/.test(name))).toEqual([]);
    const members = rows.flatMap(({ ours }) => [...ours.matchAll(/`([A-Z]\w+)\.(\w+)/g)].map(([, owner = '', member = '']) => ({ owner, member })));
    const declaring = new Map(Object.values(entries).flatMap((entry) => exportsOf(entry).map(({ name, file }) => [name, file])));
    const absent = members.filter(({ owner, member }) => !new RegExp(`^  (?:static |async |readonly |get )*${member}\\b`, 'm').test(declarationOf(declaring.get(owner) ?? '', owner)));
    expect(absent).toEqual([]);
  });
});

/** A class or an interface with what it extends, as text. */
function declarationOf(file: string, name: string): string {
  const text = readFileSync(path.join(root, file), 'utf8');
  const [, rest = ''] = text.split(new RegExp(`^(?:export )?(?:class|interface) ${name}\\b`, 'm'));
  const own = rest.slice(0, rest.search(/^\}/m));
  const [, base] = /^ extends (\w+)/.exec(own) ?? [];
  return base === undefined || !text.includes(`interface ${base}`) ? own : own + declarationOf(file, base);
}

function readExamples(): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  let heading = '';
  for (const match of page.matchAll(/^#+ (.+)$|^```ts\n([\s\S]*?)^```$/gm)) {
    const [, title, code] = match;
    if (title !== undefined) heading = title;
    if (code === undefined) continue;
    const taken = [...found.keys()].filter((name) => name.startsWith(heading)).length;
    found.set(taken === 0 ? heading : `${heading} ${taken + 1}`, code);
  }
  return found;
}

interface Exported {
  readonly name: string;
  readonly declared: string;
  readonly file: string;
  readonly isType: boolean;
}

/** An entry is a list of exports from other files, and nothing else. */
function exportsOf(entry: string): readonly Exported[] {
  const text = readFileSync(path.join(root, entry), 'utf8');
  return [...text.matchAll(/^export (type )?\{([^}]*)\} from '([^']+)';/gm)].flatMap(([, allTypes, list = '', from = '']) =>
    list
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '')
      .map((item) => {
        const [declared = '', name = declared] = item.replace(/^type /, '').split(' as ');
        return { name, declared, file: path.posix.join(path.posix.dirname(entry), from), isType: allTypes !== undefined || item.startsWith('type ') };
      }),
  );
}
