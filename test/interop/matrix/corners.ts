/**
 * Where the programs of the matrix are, and why one of them cannot take part. Building them is `.ci/interop`; what they say
 * to one another is in the README beside this file.
 */
import { accessSync, constants, realpathSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildProgram, withoutGo } from '../program.ts';

export type Language = 'go' | 'node' | 'python' | 'rust';

/** Program and arguments; `executable` is what the kernel says runs. */
export interface Corner {
  readonly command: readonly [string, ...string[]];
  readonly executable: string;
}

const here = path.dirname(fileURLToPath(import.meta.url));
/** What `.ci/interop` made. */
export const built = path.join(here, '..', '..', '..', '.interop');
const python = path.join(built, 'venv', 'bin', 'python');
const rust = path.join(built, 'rust', 'debug', 'pair');

const lacking: Readonly<Record<Language, string | undefined>> = {
  go: withoutGo,
  node: undefined,
  python: runs(python) ? undefined : 'no Python with spiffe-tls: run .ci/interop',
  rust: runs(rust) ? undefined : 'no Rust program: run .ci/interop',
};

/** Those that can take part here. In CI that is everyone, and whoever is missing fails when it is started. */
export const languages: readonly Language[] = (['go', 'node', 'python', 'rust'] as const).filter(
  (language) => lacking[language] === undefined || process.env['CI'] !== undefined,
);

/** For the title of what is left out; `''` when nothing is. */
export const leftOut = Object.values(lacking).filter((why) => why !== undefined).join('; ');

/** @param node an executable of Node that no other program runs on */
export function cornerOf(language: Language, node: string): Corner {
  switch (language) {
    case 'go': {
      const program = buildProgram();
      return { command: [program, 'pair'], executable: program };
    }
    case 'node':
      return { command: [node, path.join(here, 'pair.ts')], executable: node };
    case 'python':
      // A virtual environment's Python is a link to the one that runs.
      return { command: [python, path.join(here, 'python', 'pair.py')], executable: realpathSync(python) };
    case 'rust':
      return { command: [rust], executable: realpathSync(rust) };
  }
}

function runs(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
