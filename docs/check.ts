/**
 * Compares the pages of this folder with the source: reasons, metrics, audit events, configuration, commands, links and
 * cited tests. `node docs/check.ts` prints each difference and exits with 1; how text is read is `scan.ts`.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';
import { anchorsOf, callsOf, casesOf, citedPathsOf, codeIn, linksOf, literalsOf, rowsOf, sectionsOf, withoutComments } from './scan.ts';
import { type ConfigKey, configKeys } from './config-keys.ts';

export type Sources = ReadonlyMap<string, string>;

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const rooms = ['spiffe', 'runtime', 'client', 'agent', 'server', 'cli', 'proto'];

/**
 * Reasons that are not written at the throw: file and expression, and what it can be. An empty list hands on the reason
 * of an error that was made elsewhere.
 */
const computed: Readonly<Record<string, readonly string[]>> = {
  'agent/agent.ts `agent.${command.action}`': ['agent.banned', 'agent.evicted', 'agent.renew'],
  'agent/svids/disk.ts reason': ['disk.read', 'disk.write'],
  'agent/svids/messages.ts refusal.reason': [],
  'agent/workload/api.ts error.reason': [],
  'client/testing/granted.ts error.reason': [],
  'runtime/rpc/status.ts bounded(info.reason, maxDetailText)': [],
  'runtime/rpc/status.ts foreignReason(status.code, denied)': [
    'peer.agent-expired',
    'peer.agent-not-attested',
    'peer.agent-not-active',
    'peer.agent-banned',
    'peer.agent-must-reattest',
    'peer.<status>',
    'rpc.deadline',
    'rpc.cancelled',
  ],
  'server/api/entries.ts error.reason': [],
  'server/store/messages.ts sent.reason': [],
  'spiffe/entry.ts reason': ['entry.parent-id', 'entry.spiffe-id', 'entry.selector', 'entry.federates-with'],
};

/** A kind that is taken over from another error. */
const inherited = "its cause's";

/** Each reason that the sources can throw with its kinds, and what of them cannot be told from the text. */
export function thrownReasons(sources: Sources): { readonly reasons: ReadonlyMap<string, ReadonlySet<string>>; readonly problems: readonly string[] } {
  const reasons = new Map<string, Set<string>>();
  const problems: string[] = [];
  const used = new Set<string>();
  for (const [file, text] of sources) {
    const calls = [...callsOf(text, 'new SpiffeError'), ...(/extends SpiffeError\b/.test(text) ? callsOf(text, 'super') : [])];
    for (const { line, args } of calls) {
      const [kind = '', reason = ''] = args;
      const kinds = literalsOf(kind) ?? [inherited];
      const key = `${file} ${reason}`;
      const names = literalsOf(reason) ?? computed[key];
      if (literalsOf(reason) === undefined) used.add(key);
      if (names === undefined) problems.push(`${file}:${line}: the reason \`${reason}\` is no literal; docs/check.ts has to say what it can be`);
      for (const name of names ?? []) {
        const known = reasons.get(name) ?? new Set();
        for (const one of kinds) known.add(one);
        reasons.set(name, known);
      }
    }
  }
  for (const key of Object.keys(computed)) {
    if (sources.has(key.split(' ')[0] ?? '') && !used.has(key)) problems.push(`docs/check.ts: nothing throws \`${key}\` any more`);
  }
  return { reasons, problems };
}

export function checkErrors(page: string, sources: Sources): string[] {
  const { reasons, problems } = thrownReasons(sources);
  const written = new Map<string, ReadonlySet<string>>();
  const found = [...problems];
  for (const { line, cells } of rowsOf(page)) {
    const name = codeIn(cells[0]);
    if (name === undefined || cells.length !== 3) found.push(`docs/errors.md:${line}: a row is reason, kind, meaning`);
    else if (written.has(name)) found.push(`docs/errors.md:${line}: \`${name}\` is listed twice`);
    else written.set(name, new Set((cells[1] ?? '').split(', ')));
    if (cells[2] === '') found.push(`docs/errors.md:${line}: the row does not say what it means`);
  }
  for (const [name, kinds] of reasons) {
    const row = written.get(name);
    if (row === undefined) found.push(`docs/errors.md: \`${name}\` (${[...kinds].join(', ')}) is thrown and has no row`);
    else if (!sameSet(row, kinds)) found.push(`docs/errors.md: \`${name}\` is ${[...kinds].join(', ')}, not ${[...row].join(', ')}`);
  }
  for (const name of written.keys()) if (!reasons.has(name)) found.push(`docs/errors.md: \`${name}\` is thrown nowhere`);
  return found;
}

/** Names in the page's rows against those of the source. */
export function checkNames(pageName: string, page: string, names: readonly string[]): string[] {
  const rows = rowsOf(page).flatMap(({ cells }) => codeIn(cells[0]) ?? []);
  return [
    ...names.filter((name) => !rows.includes(name)).map((name) => `${pageName}: \`${name}\` has no row`),
    ...rows.filter((name) => !names.includes(name)).map((name) => `${pageName}: \`${name}\` is not in the source`),
    ...rows.filter((name, index) => rows.indexOf(name) !== index).map((name) => `${pageName}: \`${name}\` is listed twice`),
  ];
}

export interface MetricRow {
  readonly name: string;
  readonly type: string;
  readonly labels: string;
}

/** Metrics are declared as `metrics.counter({ name, help, labels })`, or through a function that names them first. */
export function declaredMetrics(sources: Sources): MetricRow[] {
  const names = new Set([...sources].flatMap(([file, text]) => (file.startsWith('proto/') ? [] : [...withoutComments(text).matchAll(/'(steeple_(?:server|agent)_[a-z0-9_]+)'/g)].map(([, name = '']) => name))));
  return [...names].toSorted().map((name) => {
    for (const text of sources.values()) {
      const declaration = new RegExp(`\\.(counter|histogram|gauge)\\(\\s*\\{\\s*name: '${name}'[\\s\\S]*?labels: \\{([^}]*)\\}`).exec(text);
      if (declaration !== null) {
        const [, type = '', labels = ''] = declaration;
        const parts = labels.replaceAll(/\[[^\]]*\]/g, '').split(',');
        return { name, type, labels: parts.map((part) => (part.split(':')[0] ?? '').trim()).filter((label) => label !== '').join(', ') };
      }
    }
    return { name, type: 'gauge', labels: '' };
  });
}

export function checkMetrics(page: string, sources: Sources): string[] {
  const declared = declaredMetrics(sources);
  const found = checkNames('docs/metrics.md', page, declared.map(({ name }) => name));
  for (const { line, cells } of rowsOf(page)) {
    const metric = declared.find(({ name }) => name === codeIn(cells[0]));
    if (metric === undefined) continue;
    const labels = (cells[2] ?? '').replaceAll('`', '');
    if (cells[1] !== metric.type) found.push(`docs/metrics.md:${line}: \`${metric.name}\` is a ${metric.type}`);
    if (labels !== metric.labels) found.push(`docs/metrics.md:${line}: the labels of \`${metric.name}\` are "${metric.labels}"`);
  }
  return found;
}

/** Rows are key, default, reload, meaning; the tables of the server come under a heading that names it, and so the agent's. */
export function checkConfig(page: string, programs: Readonly<Record<string, readonly ConfigKey[]>>): string[] {
  return Object.entries(programs).flatMap(([program, keys]) => {
    const text = sectionsOf(page).filter(({ heading }) => heading.startsWith(`${program}: `)).map((section) => section.text).join('\n');
    const found = checkNames(`docs/config.md, ${program}`, text, keys.map(({ name }) => name));
    for (const { cells } of rowsOf(text)) {
      const key = keys.find(({ name }) => name === codeIn(cells[0]));
      if (key === undefined) continue;
      const { name } = key;
      if ((codeIn(cells[1]) ?? cells[1]) !== key.default) found.push(`docs/config.md, ${program}: the default of \`${name}\` is ${key.default}, not ${cells[1] ?? ''}`);
      if (cells[2] !== (key.reloads ? 'yes' : '')) found.push(`docs/config.md, ${program}: a reload ${key.reloads ? 'applies' : 'does not apply'} \`${name}\``);
      if (cells.length !== 4 || cells[3] === '') found.push(`docs/config.md, ${program}: the row of \`${name}\` does not say what it means`);
    }
    return found;
  });
}

export interface CommandFlags {
  readonly name: string;
  readonly flags: readonly string[];
}

/** Each command is named in a heading, and its section says each of its flags. */
export function checkCommands(page: string, commands: readonly CommandFlags[]): string[] {
  const sections = sectionsOf(page);
  return commands.flatMap(({ name, flags }) => {
    const texts = sections.filter(({ heading }) => new RegExp(`\\b${name}\\b`).test(heading)).map(({ text }) => text);
    if (texts.length === 0) return [`docs/cli.md: no heading names \`${name}\``];
    const said = new Set(texts.flatMap((text) => [...text.matchAll(/--([a-z0-9-]+)/g)].map(([, flag = '']) => flag)));
    return flags.filter((flag) => !said.has(flag)).map((flag) => `docs/cli.md: \`${name}\` has a flag --${flag}`);
  });
}

/**
 * Links that lead nowhere, and sources, tests and cases that are cited and do not exist.
 * @param pages by path from the root
 * @param read the text of a file of the repository, or `undefined`; a folder is ''
 */
export function checkReferences(pages: ReadonlyMap<string, string>, read: (file: string) => string | undefined): string[] {
  const found = [...pages].flatMap(([file, page]) => [
    ...linksOf(page).flatMap(({ line, target }) => {
      const [where = '', anchor] = target.split('#');
      const aim = where === '' ? file : path.posix.join(path.posix.dirname(file), where).replace(/\/$/, '');
      const text = read(aim);
      if (text === undefined) return [`${file}:${line}: ${target} leads nowhere`];
      return anchor !== undefined && !anchorsOf(text).has(anchor) ? [`${file}:${line}: ${target} has no such heading`] : [];
    }),
    ...citedPathsOf(page).flatMap(({ line, path: cited }) => (read(cited.replace(/[/.]$/, '')) === undefined ? [`${file}:${line}: ${cited} does not exist`] : [])),
    ...casesOf(page).flatMap(({ line, path: cited, name }) => {
      const text = read(cited);
      return text?.includes(name) === true ? [] : [`${file}:${line}: ${cited} has no case "${name}"`];
    }),
  ]);
  return [...new Set(found)];
}

function sameSet(a: ReadonlySet<string>, b: ReadonlySet<string>): boolean {
  return a.size === b.size && [...a].every((item) => b.has(item));
}

/** All TypeScript of the programs, generated types aside. */
export function readSources(): Sources {
  return new Map(
    rooms
      .flatMap((room) => readdirSync(path.join(root, room), { recursive: true, encoding: 'utf8' }).map((name) => path.posix.join(room, name)))
      .filter((file) => file.endsWith('.ts') && !file.startsWith('proto/gen/'))
      .toSorted()
      .map((file) => [file, readFileSync(path.join(root, file), 'utf8')]),
  );
}

function readPages(): Map<string, string> {
  const names = [
    ...readdirSync(root).filter((name) => name.endsWith('.md')),
    ...readdirSync(path.join(root, 'docs'), { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`),
  ];
  return new Map(names.map((name) => [name, readFileSync(path.join(root, name), 'utf8')]));
}

function readFromRoot(file: string): string | undefined {
  const full = path.join(root, file);
  if (!existsSync(full)) return undefined;
  return /\.\w+$/.test(file) ? readFileSync(full, 'utf8') : '';
}

async function allDifferences(): Promise<string[]> {
  const sources = readSources();
  const pages = readPages();
  const page = (name: string): string => pages.get(`docs/${name}.md`) ?? '';
  const { auditTypes } = await import('../server/audit/event.ts');
  const found = [
    ...checkErrors(page('errors'), sources),
    ...checkMetrics(page('metrics'), sources),
    ...checkNames('docs/audit.md', page('audit'), auditTypes),
    ...checkConfig(page('config'), await configKeys()),
    ...checkReferences(pages, readFromRoot),
  ];
  if (pages.has('docs/cli.md')) {
    const { commands } = await import('../cli/main.ts');
    found.push(...checkCommands(page('cli'), commands.map(({ name, flags }) => ({ name, flags: Object.keys(flags) }))));
  }
  return found;
}

if (import.meta.main) {
  const differences = await allDifferences();
  for (const difference of differences) process.stdout.write(`${difference}\n`);
  process.exitCode = differences.length === 0 ? 0 : 1;
}
