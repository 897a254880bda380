/**
 * Output: tables for people, JSON for programs, and text from elsewhere made safe for a terminal. What is shown is the
 * commands' business.
 */
import type { FlagSpec } from './flags.ts';

export type OutputForm = 'table' | 'json';

export const outputFlag = {
  output: { type: 'text', value: 'FORM', summary: 'table or json', choices: ['table', 'json', 'pretty'] },
} as const satisfies Record<string, FlagSpec>;

/** SPIRE's `pretty` is our table. */
export function outputForm(value: string | undefined): OutputForm {
  return value === 'json' ? 'json' : 'table';
}

/** Control, format and separator characters and halves of pairs are shown as escapes, so that no name can act on a terminal. */
export function plain(text: string): string {
  return text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, (char) => {
    const code = (char.codePointAt(0) ?? 0).toString(16);
    return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, '0')}`;
  });
}

/** Columns padded with two spaces between; cells are made plain. Ends with a newline; `''` without rows. */
export function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return '';
  const lines = [header, ...rows.map((row) => row.map(plain))];
  const widths = header.map((_, column) => Math.max(...lines.map((line) => (line[column] ?? '').length)));
  return lines
    .map((line) => line.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd())
    .map((line) => `${line}\n`)
    .join('');
}

/** `name: value` lines, aligned; a list value takes a line for each item. */
export function record(fields: readonly (readonly [string, string | readonly string[]])[]): string {
  const width = Math.max(0, ...fields.map(([name]) => name.length));
  const lines: string[] = [];
  for (const [name, value] of fields) {
    const items = typeof value === 'string' ? [value] : value.length === 0 ? ['-'] : value;
    for (const [index, item] of items.entries()) {
      lines.push(`${(index === 0 ? `${name}:` : '').padEnd(width + 1)} ${plain(item === '' ? '-' : item)}\n`);
    }
  }
  return lines.join('');
}

/** One document with two-space indent and a newline; bigints as decimal text. */
export function json(value: unknown): string {
  return `${JSON.stringify(value, (_, item: unknown) => (typeof item === 'bigint' ? item.toString() : item), 2)}\n`;
}

/** An instant for people; `never` for an absent one. */
export function instant(at: number | undefined): string {
  return at === undefined || at === 0 ? 'never' : new Date(at).toISOString().replace('.000Z', 'Z');
}

/** How long from now, roughly: `in 4m`, `2h ago`. */
export function distance(at: number, now: number): string {
  const seconds = Math.round(Math.abs(at - now) / 1000);
  const [count, unit] =
    seconds < 120 ? [seconds, 's'] : seconds < 7200 ? [Math.round(seconds / 60), 'm'] : seconds < 172_800 ? [Math.round(seconds / 3600), 'h'] : [Math.round(seconds / 86_400), 'd'];
  return at >= now ? `in ${count}${unit}` : `${count}${unit} ago`;
}
