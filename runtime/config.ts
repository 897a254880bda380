/**
 * A YAML file and the flags that overlay it, to one frozen typed value or the list of everything wrong with them. Which
 * keys there are is each program's own schema; reading the file is left to `files.ts`.
 */
import { isCollection, isPair, LineCounter, parseDocument, visit } from 'yaml';
import { z } from 'zod';
import { SpiffeError } from '../spiffe/errors.ts';

/** One thing wrong, where: `listen.port`, `attestors[0].type`, or '' for the whole file. */
export interface ConfigProblem {
  readonly path: string;
  readonly message: string;
}

/** All problems at once. Reason `config.invalid`. */
export class ConfigError extends SpiffeError {
  readonly problems: readonly ConfigProblem[];

  constructor(problems: readonly ConfigProblem[]) {
    const [first] = problems;
    const more = problems.length > 1 ? ` (and ${problems.length - 1} more)` : '';
    const text = first === undefined ? 'unknown problem' : formatProblem(first);
    super('invalid', 'config.invalid', `configuration is not valid: ${text}${more}`, { detail: { problems: problems.length } });
    this.problems = problems;
  }
}

/** A value from the command line, put over the file's at `path`. */
export interface Overlay {
  readonly path: readonly string[];
  readonly value: unknown;
}

/** One line for people. */
export function formatProblem({ path, message }: ConfigProblem): string {
  return path === '' ? message : `${path}: ${message}`;
}

const maxConfigCharacters = 1_048_576;
const maxDepth = 32;
const maxProblems = 100;

/**
 * The frozen output of `schema`. Objects in it should be made with `section`, which makes unknown keys problems.
 * @param text YAML 1.2 without anchors and aliases; an empty one is an empty section
 * @throws ConfigError, invalid `config.invalid`
 */
export function parseConfig<S extends z.ZodType>(text: string, schema: S, overlays: readonly Overlay[] = []): z.output<S> {
  const { value, problems } = readYaml(text);
  if (problems.length > 0) throw new ConfigError(problems.slice(0, maxProblems));
  const result = schema.safeParse(withOverlays(value, overlays));
  if (!result.success) throw new ConfigError(result.error.issues.flatMap(problemsOf).slice(0, maxProblems));
  return deepFreeze(result.data);
}

/** An object whose unknown keys are problems. */
export const section: typeof z.strictObject = z.strictObject;

/** Milliseconds, written `250ms`, `90s`, `10m`, `1h`, `7d` or `1h30m`. A default is given in the same form, with `prefault`. */
export function duration(limits: { readonly min?: string; readonly max?: string } = {}): z.ZodType<number, string> {
  const min = limits.min === undefined ? undefined : parseDuration(limits.min);
  const max = limits.max === undefined ? undefined : parseDuration(limits.max);
  return z.string('must be a duration such as 90s or 1h').transform((text, context) => {
    const ms = parseDuration(text);
    if (ms === undefined) context.addIssue(`"${text}" is not a duration such as 90s or 1h`);
    else if (min !== undefined && ms < min) context.addIssue(`must be at least ${limits.min}`);
    else if (max !== undefined && ms > max) context.addIssue(`must be at most ${limits.max}`);
    return ms ?? z.NEVER;
  });
}

/** Bytes, written as a number or `512B`, `64KiB`, `16MiB`, `1GiB`. */
export function size(limits: { readonly min?: number; readonly max?: number } = {}): z.ZodType<number, string | number> {
  return z.union([z.string(), z.number()], 'must be a size such as 64KiB').transform((given, context) => {
    const bytes = parseSize(given);
    if (bytes === undefined) context.addIssue(`"${given}" is not a size such as 64KiB`);
    else if (limits.min !== undefined && bytes < limits.min) context.addIssue(`must be at least ${limits.min} bytes`);
    else if (limits.max !== undefined && bytes > limits.max) context.addIssue(`must be at most ${limits.max} bytes`);
    return bytes ?? z.NEVER;
  });
}

/** Bytes of a Unix socket's path: `sun_path` without its final NUL. */
export const maxSocketPathBytes = 107;

export function absolutePath(): z.ZodType<string, string> {
  return z
    .string()
    .refine((path) => path.startsWith('/'), 'must be an absolute path')
    .refine((path) => !path.includes('\0'), 'must not contain a NUL character');
}

/** An absolute path that fits the kernel's limit for sockets. */
export function socketPath(): z.ZodType<string, string> {
  return absolutePath().superRefine((path, context) => {
    const bytes = Buffer.byteLength(path);
    if (bytes > maxSocketPathBytes) {
      context.addIssue(`socket path ${shortened(path)} has ${bytes} bytes, the kernel allows ${maxSocketPathBytes}`);
    }
  });
}

export function port(): z.ZodType<number, number> {
  return z.int().min(1).max(65_535);
}

/** A string that a domain parser accepts: `parsed(parseTrustDomain)`. Its message becomes the problem. */
export function parsed<T>(parse: (text: string) => T): z.ZodType<T, string> {
  return z.string().transform((text, context) => {
    try {
      return parse(text);
    } catch (error) {
      context.addIssue(error instanceof SpiffeError ? error.message : 'is not valid');
      return z.NEVER;
    }
  });
}

const unitMs: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const unitBytes: Readonly<Record<string, number>> = { B: 1, KiB: 1_024, MiB: 1_048_576, GiB: 1_073_741_824 };

/** Milliseconds, or undefined when the text is no duration. */
export function parseDuration(text: string): number | undefined {
  if (!/^(?:\d{1,12}(?:ms|[smhd]))+$/.test(text) || text.length > 64) return undefined;
  let total = 0;
  for (const [, digits, unit] of text.matchAll(/(\d+)(ms|[smhd])/g)) total += Number(digits) * (unitMs[unit ?? ''] ?? 0);
  return Number.isSafeInteger(total) ? total : undefined;
}

function parseSize(given: string | number): number | undefined {
  const match = /^(\d{1,12})(B|KiB|MiB|GiB)?$/.exec(String(given));
  if (match === null) return undefined;
  const bytes = Number(match[1]) * (unitBytes[match[2] ?? 'B'] ?? 1);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

function readYaml(text: string): { readonly value: unknown; readonly problems: readonly ConfigProblem[] } {
  if (text.length > maxConfigCharacters) return { value: undefined, problems: [{ path: '', message: 'file is too large' }] };
  try {
    return readDocument(text);
  } catch {
    // Nesting beyond what the parser's recursion survives.
    return { value: undefined, problems: [{ path: '', message: 'file cannot be read as YAML' }] };
  }
}

function readDocument(text: string): { readonly value: unknown; readonly problems: readonly ConfigProblem[] } {
  const lines = new LineCounter();
  const document = parseDocument(text, { version: '1.2', schema: 'core', uniqueKeys: true, lineCounter: lines, prettyErrors: false });
  const problems: ConfigProblem[] = [...document.errors, ...document.warnings].map(({ message, pos }) => {
    const { line, col } = lines.linePos(pos[0]);
    return { path: '', message: `line ${line}, column ${col}: ${message}` };
  });
  const found = (message: string): void => {
    problems.push({ path: '', message });
  };
  visit(document, {
    Alias: () => found('anchors and aliases are not allowed'),
    Pair: (_key, pair) => {
      if (isCollection(pair.key)) found('keys must be plain text');
      else if (String(pair.key) === '__proto__') found('"__proto__" is not a key');
    },
    Collection: (_key, _node, path) => {
      if (path.filter((parent) => !isPair(parent)).length <= maxDepth) return undefined;
      found(`nested deeper than ${maxDepth} levels`);
      return visit.BREAK;
    },
  });
  if (problems.length > 0) return { value: undefined, problems };
  const value: unknown = document.toJS({ maxAliasCount: 0 });
  return { value: value ?? {}, problems };
}

function withOverlays(value: unknown, overlays: readonly Overlay[]): unknown {
  let result = value;
  for (const overlay of overlays) result = overlaid(result, overlay.path, overlay.value);
  return result;
}

function overlaid(value: unknown, path: readonly string[], leaf: unknown): unknown {
  const [key, ...rest] = path;
  if (key === undefined) return leaf;
  // What is no section is left to the schema to complain about, not replaced.
  if (value !== undefined && value !== null && (typeof value !== 'object' || Array.isArray(value))) return value;
  const fields = new Map<string, unknown>(Object.entries(value ?? {}));
  fields.set(key, overlaid(fields.get(key), rest, leaf));
  return Object.fromEntries(fields);
}

function problemsOf(issue: z.core.$ZodIssue): ConfigProblem[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({ path: formatPath([...issue.path, key]), message: 'unknown key' }));
  }
  const isAbsent = issue.code === 'invalid_type' && issue.message.endsWith('received undefined');
  return [{ path: formatPath(issue.path), message: isAbsent ? 'is required' : issue.message }];
}

function formatPath(path: readonly PropertyKey[]): string {
  let text = '';
  for (const part of path) {
    if (typeof part === 'number') text += `[${part}]`;
    else text += `${text === '' ? '' : '.'}${shortened(String(part))}`;
  }
  return text;
}

function shortened(text: string): string {
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, '?').toWellFormed();
  return clean.length > 120 ? `${clean.slice(0, 60)}…${clean.slice(-40)}` : clean;
}

/** Plain objects and arrays only: keys and other class instances in a config are not ours to freeze. */
function deepFreeze<T>(value: T): T {
  if (typeof value !== 'object' || value === null) return value;
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== null && !Array.isArray(value)) return value;
  for (const part of Object.values(value)) deepFreeze(part);
  return Object.freeze(value);
}
