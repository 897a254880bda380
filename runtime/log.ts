/**
 * One JSON line per event, with names from one closed list, bounded values, and no way to print a secret. What is worth
 * an event is for the modules to say; audit is not logging.
 */
import { KeyObject } from 'node:crypto';
import { pino } from 'pino';
import { SpiffeError } from '../spiffe/errors.ts';
import type { Clock } from './clock.ts';

/** The only field names a line may have besides time, level and event, which it never repeats. Add here before use; never a synonym. */
export const logFields = [
  'address',
  'agent',
  'attempt',
  'attestor',
  'audience',
  'authority',
  'bundle',
  'bytes',
  'caller',
  'cause',
  'change',
  'code',
  'condition',
  'config',
  'count',
  'directory',
  'door',
  'entry',
  'error',
  'executable',
  'expiresAt',
  'file',
  'from',
  'gid',
  'hint',
  'incident',
  'kind',
  'limit',
  'method',
  'ms',
  'name',
  'node',
  'outcome',
  'parent',
  'path',
  'pid',
  'port',
  'problem',
  'program',
  'reason',
  'remedy',
  'requestId',
  'restart',
  'revision',
  'role',
  'schema',
  'selectors',
  'serial',
  'signal',
  'size',
  'skewMs',
  'socket',
  'spiffeId',
  'state',
  'store',
  'task',
  'tier',
  'to',
  'token',
  'trustDomain',
  'type',
  'uid',
  'unmet',
  'version',
] as const;

export type LogField = (typeof logFields)[number];

/** Texts, numbers, lists of texts, errors; whatever else gets here prints as its type. */
export type LogFields = Readonly<Partial<Record<LogField, unknown>>>;

export const logLevels = ['debug', 'info', 'warn', 'error'] as const;
export type LogLevel = (typeof logLevels)[number];

export interface Logger {
  debug(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  error(event: string, fields?: LogFields): void;
  /** A logger that adds these fields to every line. */
  child(fields: LogFields): Logger;
}

export interface RootLogger extends Logger {
  /** In force now. */
  readonly level: LogLevel;
  /** In force at once, for children too. */
  setLevel(level: LogLevel): void;
}

export interface LogOptions {
  readonly clock: Clock;
  readonly level?: LogLevel;
  /** `human` is for a person at a terminal, such as in the demo. */
  readonly format?: 'json' | 'human';
  /** Takes one line with its newline. */
  readonly write: (line: string) => void;
}

const secretText = '[secret]';
const maxText = 1_024;
const maxItems = 64;
const maxCauses = 5;

/** Wraps what must never be printed, by a log, a template or JSON. Only `reveal` gives it back. */
export class Secret<T> {
  readonly #value: T;

  constructor(value: T) {
    this.#value = value;
  }

  reveal(): T {
    return this.#value;
  }

  toString(): string {
    return secretText;
  }

  toJSON(): string {
    return secretText;
  }

  [Symbol.for('nodejs.util.inspect.custom')](): string {
    return secretText;
  }
}

/** A logger that writes with `write`, synchronously and in order. */
export function createLogger(options: LogOptions): RootLogger {
  const { clock } = options;
  const write = options.format === 'human' ? (line: string) => options.write(humanLine(line)) : options.write;
  const root = pino(
    {
      level: options.level ?? 'info',
      base: null,
      messageKey: 'event',
      timestamp: () => `,"time":"${new Date(clock.now()).toISOString()}"`,
      formatters: { level: (level) => ({ level }) },
    },
    { write },
  );

  const withFields = (bound: LogFields): Logger => {
    const line =
      (level: LogLevel) =>
      (event: string, fields?: LogFields): void => {
        if (root.isLevelEnabled(level)) root[level](printable({ ...bound, ...fields }), text(event));
      };
    return {
      debug: line('debug'),
      info: line('info'),
      warn: line('warn'),
      error: line('error'),
      child: (fields) => withFields({ ...bound, ...fields }),
    };
  };

  return {
    ...withFields({}),
    get level() {
      return root.level as LogLevel;
    },
    setLevel(level) {
      root.level = level;
    },
  };
}

/** Says nothing; for tests and for parts that were given no logger. */
export const silentLogger: Logger = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLogger,
};

const known: ReadonlySet<string> = new Set(logFields);

function printable(fields: LogFields): Record<string, unknown> {
  const line: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(fields)) {
    // Types cannot stop a cast; an unknown name could carry anything.
    if (value !== undefined && known.has(name)) line[name] = printableValue(value);
  }
  return line;
}

function printableValue(value: unknown): unknown {
  switch (typeof value) {
    case 'string':
      return text(value);
    case 'number':
      return Number.isFinite(value) ? value : String(value);
    case 'boolean':
      return value;
    case 'bigint':
      return value.toString();
    default:
      return printableObject(value);
  }
}

function printableObject(value: unknown): unknown {
  if (isSecret(value)) return secretText;
  if (value instanceof Error) return printableError(value);
  if (value instanceof Set) return printableList([...(value as Set<unknown>)]);
  if (Array.isArray(value)) return printableList(value as unknown[]);
  return `[${value === null ? 'null' : typeof value}]`;
}

function isSecret(value: unknown): boolean {
  return value instanceof Secret || value instanceof KeyObject || ArrayBuffer.isView(value) || value instanceof ArrayBuffer;
}

function printableList(values: readonly unknown[]): unknown[] {
  const items = values.slice(0, maxItems).map((item) => {
    if (typeof item !== 'object') return printableValue(item);
    return isSecret(item) ? secretText : '[object]';
  });
  return values.length > maxItems ? [...items, `… ${values.length - maxItems} more`] : items;
}

/** Kind, reason and messages down the chain of causes. Stacks only of what is not ours: that is where the bug is. */
function printableError(error: Error): unknown {
  const chain: unknown[] = [];
  let next: unknown = error;
  while (next instanceof Error && chain.length < maxCauses) {
    chain.push(
      next instanceof SpiffeError
        ? { kind: next.kind, reason: text(next.reason), message: text(next.message) }
        : { name: text(next.name), message: text(next.message), at: text(firstFrame(next)) },
    );
    next = next.cause;
  }
  return chain.length === 1 ? chain[0] : chain;
}

function firstFrame(error: Error): string {
  return error.stack?.split('\n').find((line) => line.startsWith('    at '))?.trim() ?? '';
}

/**
 * Bounded, well-formed, and with every control, line-separating or direction-changing character made visible, so that one
 * event stays one line in whatever reads it.
 */
function text(value: string): string {
  const cut = value.length > maxText ? `${value.slice(0, maxText)}… ${value.length - maxText} more` : value;
  return cut
    .toWellFormed()
    .replace(
      /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
      (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
    );
}

function humanLine(json: string): string {
  const { level, time, event, ...fields } = JSON.parse(json) as Record<string, unknown>;
  const clockTime = String(time).slice(11, 19);
  const rest = Object.entries(fields).map(([name, value]) => {
    const plain = typeof value === 'string' ? value : JSON.stringify(value);
    return `${name}=${/\s/.test(plain) ? JSON.stringify(plain) : plain}`;
  });
  const mark = level === 'info' ? '' : `${String(level).toUpperCase()} `;
  return `${[clockTime, `${mark}${String(event)}`, ...rest].join('  ')}\n`;
}
