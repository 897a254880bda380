/**
 * Compiles the programs as the package ships them, once per run, beside the installed packages: types stripped at start
 * would take memory and time that no installation takes.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, rmSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';

const root = path.join(import.meta.dirname, '..', '..');
let built: string | undefined;

/** Path of the compiled command line. @throws what the compiler says */
export function buildPrograms(): string {
  if (built === undefined) {
    const target = path.join(root, 'node_modules', '.cache', 'steeple-bench');
    rmSync(target, { recursive: true, force: true });
    const compiler = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc');
    execFileSync(process.execPath, [compiler, '-p', 'tsconfig.build.json', '--outDir', target, '--declaration', 'false'], { cwd: root, stdio: 'inherit' });
    cpSync(path.join(root, 'proto'), path.join(target, 'proto'), { recursive: true, filter: (source) => !source.endsWith('.ts') });
    cpSync(path.join(root, 'package.json'), path.join(target, 'package.json'));
    built = path.join(target, 'cli', 'main.js');
  }
  return built;
}
