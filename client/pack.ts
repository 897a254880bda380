/**
 * Makes `dist/client-package` a package of its own out of what the compiler put there: drops what its entries do not reach,
 * and derives the manifest from what is left. Run by `npm run build:client`, after the compiler.
 */
import { copyFileSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { isBuiltin } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const out = path.join(root, 'dist', 'client-package');

/** What programs may import: the name behind the package's, and the file. */
const entries: Readonly<Record<string, string>> = {
  '.': 'client/index',
  './testing': 'client/testing/index',
};

interface Manifest {
  readonly version: string;
  readonly license: string;
  readonly engines: Readonly<Record<string, string>>;
  readonly dependencies: Readonly<Record<string, string>>;
}

const imported =
  /(?:^|[;\n])\s*(?:import|export)\b[^'";]*?\bfrom\s*['"]([^'"]+)['"]|(?:^|[;\n])\s*import\s*['"]([^'"]+)['"]|(?<![\w.])import\(\s*['"]([^'"]+)['"]/g;

/** Files of a kind that the entries reach, below `out`, and the packages that these import. */
function reach(extension: '.js' | '.d.ts'): { readonly files: ReadonlySet<string>; readonly packages: ReadonlySet<string> } {
  const files = new Set<string>();
  const packages = new Set<string>();
  const visit = (file: string): void => {
    if (files.has(file)) return;
    files.add(file);
    for (const [, ...names] of withoutComments(readFileSync(path.join(out, file), 'utf8')).matchAll(imported)) {
      const name = names.find((found) => found !== undefined) ?? '';
      if (name.startsWith('.')) visit(path.posix.join(path.posix.dirname(file), name.replace(/\.(?:js|ts)$/, extension)));
      else if (!isBuiltin(name)) packages.add(name.split('/').slice(0, name.startsWith('@') ? 2 : 1).join('/'));
    }
  };
  for (const entry of Object.values(entries)) visit(`${entry}${extension}`);
  return { files, packages };
}

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|(?<![:'"`])\/\/[^\n]*/g, '');
}

const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as Manifest;
const code = reach('.js');
const types = reach('.d.ts');

for (const name of readdirSync(out, { recursive: true, encoding: 'utf8' })) {
  const file = path.join(out, name);
  if (statSync(file).isDirectory() || code.files.has(name) || types.files.has(name)) continue;
  rmSync(file);
}
// In declarations the compiler leaves names of sources as they were written, and says of which buffers arrays of bytes are:
// compilers of users are older than ours.
for (const name of types.files) {
  const file = path.join(out, name);
  const text = readFileSync(file, 'utf8');
  const plain = text
    .replaceAll(/(\b(?:from|import)\s*\(?\s*['"]\.[^'"]*)\.ts(['"])/g, '$1.js$2')
    .replaceAll(/\bUint8Array<ArrayBuffer(?:Like)?>/g, 'Uint8Array');
  writeFileSync(file, plain);
}

const dependencies = [...code.packages, ...types.packages].toSorted().map((name) => {
  const version = manifest.dependencies[name];
  if (version === undefined) throw new Error(`the library imports ${name}, which is no dependency of the repository`);
  return [name, `^${version}`] as const;
});
const exported = Object.fromEntries(
  Object.entries(entries).map(([name, entry]) => [name, { types: `./${entry}.d.ts`, default: `./${entry}.js` }]),
);

writeFileSync(
  path.join(out, 'package.json'),
  `${JSON.stringify(
    {
      name: '@steeple/client',
      version: manifest.version,
      description: 'SPIFFE for Node: identities from the Workload API, TLS that follows their rotation, and a fake for tests',
      license: manifest.license,
      type: 'module',
      sideEffects: false,
      engines: manifest.engines,
      exports: { ...exported, './package.json': './package.json' },
      dependencies: Object.fromEntries(dependencies),
    },
    undefined,
    2,
  )}\n`,
);
copyFileSync(path.join(root, 'LICENSE'), path.join(out, 'LICENSE'));
copyFileSync(path.join(root, 'docs', 'client.md'), path.join(out, 'README.md'));
