/**
 * The attestor that `docs/attestors.md` builds, taken from the page: its code compiles where the page says it goes, its
 * own test runs here, and the lines that wire it do.
 */
import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import type * as table from '../../agent/attestors.ts';
import type * as schema from '../../agent/workload/config.ts';
import { silentLogger } from '../../runtime/log.ts';
import { systemClock } from '../../runtime/clock.ts';

const root = path.dirname(path.dirname(path.dirname(fileURLToPath(import.meta.url))));
const page = readFileSync(path.join(root, 'docs', 'attestors.md'), 'utf8');
const blocks = new Map([...page.matchAll(/^```ts (.+)\n([\s\S]*?)^```$/gm)].map(([, name = '', code = '']) => [name, code]));

function block(name: string): string {
  const code = blocks.get(name);
  if (code === undefined) throw new Error(`docs/attestors.md has no code called ${name}`);
  return code;
}

/** The file with the code of a block put before the one line that is `line`. */
function patched(file: string, line: string, name: string): string {
  const text = readFileSync(path.join(root, file), 'utf8');
  const parts = text.split(line);
  if (parts.length !== 2) throw new Error(`${file} has another number of lines ${line}`);
  return parts.join(`${block(name)}${line}`);
}

// A tree with the page's files, where everything else is a link to the real one.
const tree = mkdtempSync(path.join(tmpdir(), 'steeple-page-'));
afterAll(() => rmSync(tree, { recursive: true, force: true }));
const own: Readonly<Record<string, string>> = {
  'agent/workload/attestors/netns.ts': block('netns.ts'),
  'test/agent/workload/attestors/netns.test.ts': block('netns.test.ts'),
  'agent/workload/config.ts': patched('agent/workload/config.ts', '  systemd: systemd.optional(),\n', 'workload/config.ts'),
  'agent/attestors.ts': block('attestors.ts') + patched('agent/attestors.ts', '  return attestors;\n', 'attestors.ts workloadAttestors'),
  'tsconfig.json': JSON.stringify({ extends: path.join(root, 'tsconfig.json'), include: ['agent/workload/attestors/netns.ts', 'test/agent', 'agent/attestors.ts'] }),
};
const folders = new Set(Object.keys(own).flatMap((file) => file.split('/').slice(0, -1).map((_, depth, parts) => parts.slice(0, depth + 1).join('/'))));
for (const folder of ['', ...folders]) {
  mkdirSync(path.join(tree, folder), { recursive: true });
  if (folder.startsWith('test/')) continue;
  for (const name of readdirSync(path.join(root, folder))) {
    const file = path.posix.join(folder, name);
    if (!folders.has(file) && !(file in own) && !name.startsWith('.')) symlinkSync(path.join(root, file), path.join(tree, file));
  }
}
for (const [file, text] of Object.entries(own)) writeFileSync(path.join(tree, file), text);

describe('the attestor of docs/attestors.md', async () => {
  await import(path.join(tree, 'test/agent/workload/attestors/netns.test.ts'));
});

it('compiles where the page puts it, and so do the lines that wire it', async () => {
  const tsc = promisify(execFile)(path.join(root, 'node_modules', '.bin', 'tsc'), ['--noEmit', '-p', tree]);
  // What it finds is on its output, which a failure carries along.
  expect(await tsc.catch((error: unknown) => error)).toMatchObject({ stdout: '', stderr: '' });
}, 60_000);

it('is made when it is configured, and only then', async () => {
  const { workload } = (await import(path.join(tree, 'agent/workload/config.ts'))) as typeof schema;
  const { workloadAttestors } = (await import(path.join(tree, 'agent/attestors.ts'))) as typeof table;
  const namesFor = (section: object): readonly string[] => workloadAttestors(workload.parse(section), { clock: systemClock, random: () => 0.5, log: silentLogger }).map(({ name }) => name);
  expect(namesFor({ netns: {} })).toEqual([...namesFor({}), 'netns']);
});
