/**
 * The rooms of the house and the doors between them, as tables. A failure names the file and the import that offends.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const rooms = ['spiffe', 'runtime', 'client', 'agent', 'server', 'cli', 'proto', 'docs', 'test'] as const;

interface SourceFile {
  readonly path: string;
  /** Without comments and without the contents of strings. */
  readonly code: string;
  readonly text: string;
  readonly imports: readonly string[];
}

/** Which rooms a room may enter besides itself; a pattern narrows it to some of their files. */
const doors: Readonly<Record<string, readonly RegExp[]>> = {
  spiffe: [],
  runtime: [/^spiffe\//],
  client: [/^spiffe\//, /^runtime\/(?:abort|backoff|clock|http[\w-]*|tls|watch)\.ts$/, /^runtime\/rpc\//],
  agent: [/^spiffe\//, /^runtime\//],
  server: [/^spiffe\//, /^runtime\//],
  cli: [/^spiffe\//, /^runtime\//, /^client\//, /^server\/main\.ts$/, /^agent\/main\.ts$/],
  proto: [/^spiffe\//],
  // The check of the pages against the source looks at all of it.
  docs: [/./],
};

/** Who may enter `proto/`, where the shapes of the wire stay. */
const wireFiles = [
  /^proto\//,
  /^test\//,
  /^cli\//,
  /^runtime\/rpc\//,
  /^client\/(?:(?:messages|workload-api)|testing\/(?:contrary|fake-workload-api|granted))\.ts$/,
  /^(?:agent|server)\/.*\b(?:api|sync|admin)\//,
  /^(?:agent|server)\/(?:.*\/)?(?:messages|api|wire|health)\.ts$/,
  // The composition roots load the services they hand on.
  /^agent\/(?:agent|brokering)\.ts$/,
  /^server\/server\.ts$/,
];

/** Inside the two programs: a folder may enter those after it, never those before. */
const storeys: Readonly<Record<string, readonly (readonly string[])[]>> = {
  agent: [['sds', 'broker', 'admin'], ['workload', 'delivery'], ['svids'], ['sync'], ['node']],
  server: [['api'], ['admission', 'registry', 'governance', 'authority', 'federation'], ['audit', 'store']],
};

/** Libraries and the files that may import them. Node's own modules are free except where listed. */
const libraries: Readonly<Record<string, readonly RegExp[]>> = {
  '@grpc/grpc-js': [/^runtime\/rpc\//, /^client\//, /^proto\//, /^(?:agent|server)\/(?:.*\/)?(?:api\/.*|api|listen|reflection|agent|server)\.ts$/],
  '@grpc/proto-loader': [/^runtime\/rpc\//, /^client\//, /^proto\//, /^(?:agent|server)\/(?:.*\/)?(?:api\/.*|api|listen)\.ts$/],
  koffi: [/^runtime\/(?:linux|acceptor|acceptor-worker)\.ts$/],
  kysely: [/^server\/store\//],
  'node:sqlite': [/^server\/store\//],
  pg: [/^server\/store\//],
  pino: [/^runtime\/log\.ts$/],
  systeminformation: [/^agent\/node\//],
  yaml: [/^runtime\/config\.ts$/, /^(?:.*\/)?config\.ts$/, /^cli\//],
  zod: [/^runtime\/config\.ts$/, /^(?:.*\/)?config\.ts$/, /^cli\//],
  'node:timers': [/^runtime\/clock\.ts$/],
  'node:timers/promises': [/^runtime\/clock\.ts$/],
  'node:process': [
    /(?:^|\/)main\.ts$/,
    /^client\/endpoint\.ts$/,
    /^proto\/generate\.ts$/,
    /^docs\/check\.ts$/,
    // The effective user, which owner-only files are compared with; nothing else of the process.
    /^runtime\/files\.ts$/,
  ],
};

/** Words in code and the only files that may say them. */
const words: readonly { readonly what: string; readonly pattern: RegExp; readonly allowed: readonly RegExp[] }[] = [
  {
    what: 'timers and the system time (use Clock)',
    pattern: /\b(?:setTimeout|setInterval|setImmediate|Date\.now|performance\.now|AbortSignal\.timeout)\b|\bnew Date\(\)/,
    allowed: [/^runtime\/clock\.ts$/],
  },
  {
    what: 'process',
    pattern: /(?<![.\w'])process\.(?:env|argv|exit|exitCode|on|once|off|kill|pid|ppid|cwd|chdir|stdin|stdout|stderr|umask|getuid|geteuid|getgid|hrtime|nextTick|memoryUsage|abort|execPath|execArgv|platform|arch|version|versions|title|uptime)\b/,
    allowed: [/(?:^|\/)main\.ts$/, /^client\/endpoint\.ts$/, /^proto\/generate\.ts$/, /^docs\/check\.ts$/],
  },
  { what: 'Math.random (randomness is passed in)', pattern: /\bMath\.random\b/, allowed: [/(?:^|\/)main\.ts$/, /^client\//] },
  { what: 'console (use Logger)', pattern: /\bconsole\.\w+/, allowed: [] },
  {
    what: 'checkWitSvid (nobody is identified by a WIT-SVID without its proof)',
    pattern: /\bcheckWitSvid\b/,
    allowed: [/^spiffe\/wit-(?:svid|proof)\.ts$/],
  },
  { what: 'enum, namespace or decorator', pattern: /^\s*(?:export\s+)?(?:const\s+)?(?:enum|namespace)\s+\w+/m, allowed: [] },
];

/** What the library is made of, which must run on Node 20, and what came after it. */
const libraryFiles = /^(?:spiffe|client|runtime\/rpc)\/|^runtime\/(?:abort|backoff|clock|http[\w-]*|tls|watch)\.ts$/;
const afterNode20 =
  /\bPromise\.(?:withResolvers|try)\b|\bArray\.fromAsync\b|\b(?:Object|Map)\.groupBy\b|\bRegExp\.escape\b|\bError\.isError\b|\bIterator\.|\.(?:isSubsetOf|isSupersetOf|isDisjointFrom|symmetricDifference|toBase64|toHex)\(|\bUint8Array\.from(?:Base64|Hex)\b|\b(?:await )?using \w+ =/;

/** Names that say nothing about what is inside. */
const emptyNames = /^(?:utils?|common|helpers?|core|lib|misc|shared|manager|managers|base)$/;

const files = rooms.flatMap((room) => readRoom(room));
const sources = files.filter((file) => !file.path.startsWith('test/'));
const byPath = new Map(files.map((file) => [file.path, file]));

describe('imports', () => {
  it('point only where they may', () => {
    expect(
      offences(sources, (file, target) => {
        const room = roomOf(file.path);
        const aim = roomOf(target);
        if (aim === room) return undefined;
        if (aim === 'test') return 'nothing imports test';
        if (aim === 'proto') return wireFiles.some((pattern) => pattern.test(file.path)) ? undefined : 'wire messages stop before this file';
        return (doors[room] ?? []).some((pattern) => pattern.test(target)) ? undefined : `${room} may not enter ${aim} there`;
      }),
    ).toEqual([]);
  });

  it('point downwards inside the programs', () => {
    expect(
      offences(sources, (file, target) => {
        const order = storeys[roomOf(file.path)];
        if (order === undefined || roomOf(target) !== roomOf(file.path)) return undefined;
        const [from, to] = [storeyOf(order, file.path), storeyOf(order, target)];
        if (from === undefined || to === undefined) return undefined;
        return to < from ? 'points upwards' : undefined;
      }),
    ).toEqual([]);
  });

  it('reach composition roots and programs only from main files', () => {
    const roots = /^(?:agent\/agent|server\/server|agent\/main|server\/main|cli\/main)\.ts$/;
    expect(
      offences(sources, (file, target) => {
        if (!roots.test(target)) return undefined;
        return /(?:^|\/)main\.ts$/.test(file.path) || /^(?:cli|docs)\//.test(file.path) ? undefined : 'imports a composition root';
      }),
    ).toEqual([]);
  });

  it('have no cycles, types included', () => {
    expect(cycles(files).map((cycle) => cycle.join(' -> '))).toEqual([]);
  });

  it('name existing files with their extension', () => {
    expect(offences(files, (_file, target) => (byPath.has(target) ? undefined : 'does not exist'))).toEqual([]);
  });

  it('take each library only where it is allowed', () => {
    const declared = declaredLibraries();
    const found: string[] = [];
    for (const file of sources) {
      for (const name of file.imports.filter((specifier) => !specifier.startsWith('.'))) {
        const library = name.startsWith('node:') ? name : packageName(name);
        const allowed = libraries[library];
        if (allowed === undefined && !library.startsWith('node:')) found.push(`${file.path}: ${library} has no row in the table`);
        if (allowed !== undefined && !allowed.some((pattern) => pattern.test(file.path))) found.push(`${file.path}: ${library} is not allowed here`);
        if (!library.startsWith('node:') && !declared.has(library)) found.push(`${file.path}: ${library} is not a dependency`);
        if (roomOf(file.path) === 'spiffe' && library !== 'node:crypto') found.push(`${file.path}: spiffe stands on node:crypto alone, not ${library}`);
      }
    }
    expect(found).toEqual([]);
  });
});

describe('sources', () => {
  it.each(words)('say $what only where allowed', ({ pattern, allowed }) => {
    const found = sources
      .filter((file) => !file.path.startsWith('proto/gen/') && !allowed.some((place) => place.test(file.path)))
      .flatMap((file) => {
        // A workload's process is a name of the field; where it is declared it is not the global one.
        const code = /\b(?:const|let)\s+process\b|[({,]\s*process\s*[:,})]/.test(file.code) ? file.code.replace(/\bprocess\./g, '') : file.code;
        const match = pattern.exec(code);
        return match === null ? [] : [`${file.path}: ${match[0].trim()}`];
      });
    expect(found).toEqual([]);
  });

  it('of the library use nothing that Node 20 lacks', () => {
    const found = sources
      .filter((file) => libraryFiles.test(file.path))
      .flatMap((file) => {
        const match = afterNode20.exec(file.code);
        return match === null ? [] : [`${file.path}: ${match[0]}`];
      });
    expect(found).toEqual([]);
  });

  it('have no barrels but the library’s entries', () => {
    const found = sources
      .filter((file) => !/^client\/(?:testing\/)?index\.ts$/.test(file.path) && !file.path.startsWith('proto/gen/'))
      .filter((file) => /^\s*export\s+(?:\*|\{[^}]*\})(?:\s+as\s+\w+)?\s+from\b/m.test(file.code))
      .map((file) => file.path);
    expect(found).toEqual([]);
  });

  it('have names that say something', () => {
    // Other people's packages are named by them.
    const ours = files.filter((file) => !file.path.startsWith('proto/gen/'));
    const found = ours.flatMap((file) => file.path.split('/').filter((part) => emptyNames.test(part.replace(/\.(?:test\.)?ts$/, ''))).map((part) => `${file.path}: ${part}`));
    expect(found).toEqual([]);
  });

  it('open by saying what they own', () => {
    const found = sources.filter((file) => !file.path.startsWith('proto/gen/') && !/^(?:#!.*\n)?\/\*\*/.test(file.text)).map((file) => file.path);
    expect(found).toEqual([]);
  });

  it('are mirrored by the tests', () => {
    // What is tested here is no TypeScript: the .proto files against the wire contract; or it is many files at once: every
    // faulty chain and token against all that the library has to keep them out.
    const others = ['test/proto/contract.test.ts', 'test/client/faults.test.ts', 'test/client/faults-jwt.test.ts', 'test/client/faults-bundles.test.ts'];
    const orphans = files
      .filter((file) => /^test\/(?:spiffe|runtime|client|agent|server|cli|proto)\/.*\.test\.ts$/.test(file.path))
      .filter((file) => {
        const mirrored = file.path.slice('test/'.length).replace(/(?:\.process|\.property|\.long)?\.test\.ts$/, '.ts');
        if (others.includes(file.path)) return false;
        return !byPath.has(mirrored) && ![...byPath.keys()].some((path) => path.startsWith(`${mirrored.replace(/\.ts$/, '')}/`));
      })
      .map((file) => file.path);
    expect(orphans).toEqual([]);
  });
});

describe('this test', () => {
  it('sees imports in every form, and not in comments or strings', () => {
    const text = [
      "import type { A } from './a.ts'; // import './no.ts'",
      "import {\n  B,\n} from './b.ts';",
      "export { C } from './c.ts';",
      "const d = await import('./d.ts');",
      "type E = import('./e.ts').E;",
      "import './f.ts';",
      "/* import './no.ts' */ const s = \"import './no.ts'\";",
    ].join('\n');
    expect(importsOf(text)).toEqual(['./a.ts', './b.ts', './c.ts', './d.ts', './e.ts', './f.ts']);
    expect(codeOf("a('process.env') // process.exit()\n/* Date.now */ b(`Date.now`)")).not.toMatch(/process|Date/);
  });

  it('finds cycles', () => {
    const file = (path: string, ...imports: string[]): SourceFile => ({ path, code: '', text: '', imports });
    expect(cycles([file('x/a.ts', './b.ts'), file('x/b.ts', './c.ts'), file('x/c.ts', './a.ts'), file('x/d.ts', './a.ts')])).toEqual([['x/a.ts', 'x/b.ts', 'x/c.ts', 'x/a.ts']]);
  });
});

function readRoom(room: string): SourceFile[] {
  let entries: string[];
  try {
    entries = readdirSync(join(root, room), { recursive: true, encoding: 'utf8' });
  } catch {
    return [];
  }
  return entries
    .filter((entry) => entry.endsWith('.ts') && !entry.split('/').includes('node_modules'))
    .map((entry) => {
      const path = relative(root, join(root, room, entry));
      const text = readFileSync(join(root, path), 'utf8');
      return { path, text, code: codeOf(text), imports: path === 'test/architecture.test.ts' ? [] : importsOf(text) };
    });
}

/** Comments blanked and strings emptied. Regular expressions and template expressions are left as they are. */
function codeOf(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`/g, (match) => {
    if (match.startsWith('/')) return ' ';
    return match.startsWith('`') ? `\`${(match.match(/\$\{[^}]*\}/g) ?? []).join(' ')}\`` : "''";
  });
}

function importsOf(text: string): string[] {
  const withoutComments = text.replace(/\/\*[\s\S]*?\*\/|(?<![:'"`])\/\/[^\n]*/g, ' ');
  const form = /(?:^|[;\n])\s*(?:import|export)\b[^'";]*?\bfrom\s*'([^']+)'|(?:^|[;\n])\s*import\s*'([^']+)'|(?<!["'\w])import\(\s*'([^']+)'\s*\)/g;
  return [...withoutComments.matchAll(form)].map((match) => match[1] ?? match[2] ?? match[3] ?? '');
}

function offences(list: readonly SourceFile[], judge: (file: SourceFile, target: string) => string | undefined): string[] {
  return list.flatMap((file) =>
    targetsOf(file).flatMap((target) => {
      const offence = judge(file, target);
      return offence === undefined ? [] : [`${file.path} -> ${target}: ${offence}`];
    }),
  );
}

function targetsOf(file: SourceFile): string[] {
  return file.imports.filter((specifier) => specifier.startsWith('.')).map((specifier) => posix.join(dirname(file.path), specifier));
}

function cycles(list: readonly SourceFile[]): string[][] {
  const graph = new Map(list.map((file) => [file.path, targetsOf(file)]));
  const done = new Set<string>();
  const found: string[][] = [];
  const walk = (path: string, trail: readonly string[]): void => {
    const at = trail.indexOf(path);
    if (at >= 0) {
      found.push([...trail.slice(at), path]);
      return;
    }
    if (done.has(path)) return;
    for (const target of graph.get(path) ?? []) walk(target, [...trail, path]);
    done.add(path);
  };
  // What is generated refers to itself as the messages do.
  for (const path of graph.keys()) if (!path.startsWith('proto/gen/')) walk(path, []);
  return found.filter((cycle) => !cycle.every((path) => path.startsWith('proto/gen/')));
}

function roomOf(path: string): string {
  return path.split('/')[0] ?? '';
}

function storeyOf(order: readonly (readonly string[])[], path: string): number | undefined {
  const folder = path.split('/')[1] ?? '';
  const index = order.findIndex((storey) => storey.includes(folder));
  return index < 0 ? undefined : index;
}

function packageName(specifier: string): string {
  return specifier.split('/').slice(0, specifier.startsWith('@') ? 2 : 1).join('/');
}

function declaredLibraries(): Set<string> {
  const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { dependencies?: Record<string, string> };
  return new Set(Object.keys(manifest.dependencies ?? {}));
}
