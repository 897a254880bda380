/**
 * What sources and pages say, read from their text: thrown reasons, names in quotes, rows of tables, links and anchors.
 * Whether they agree is `check.ts`.
 */

export interface Call {
  readonly line: number;
  /** Source text of each argument, trimmed. */
  readonly args: readonly string[];
}

/**
 * Every call written as `opening(`, such as `new SpiffeError`, outside of comments.
 * @param text TypeScript as it was written
 */
export function callsOf(text: string, opening: string): Call[] {
  const calls: Call[] = [];
  const code = withoutComments(text);
  const escaped = opening.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');
  for (const { index, 0: match } of code.matchAll(new RegExp(`(?<![\\w.])${escaped}\\(`, 'g'))) {
    const line = code.slice(0, index).split('\n').length;
    calls.push({ line, args: argumentsAt(code, index + match.length) });
  }
  return calls;
}

/**
 * The texts that an expression can yield when it is one literal, or a choice between literals; `undefined` when it is
 * anything else.
 */
export function literalsOf(expression: string): readonly string[] | undefined {
  const chosen = /\?\s*('[^'\\]*')\s*:\s*([\s\S]+)$/.exec(expression);
  if (chosen?.[1] !== undefined && chosen[2] !== undefined) {
    const rest = literalsOf(chosen[2].trim());
    return rest === undefined ? undefined : [chosen[1].slice(1, -1), ...rest];
  }
  const literal = /^'([^'\\]*)'(?: as const)?$/.exec(expression);
  return literal?.[1] === undefined ? undefined : [literal[1]];
}

/** Comments blanked, line breaks kept; strings and templates are left as they are. */
export function withoutComments(text: string): string {
  return text.replace(/'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`|\/\*[\s\S]*?\*\/|(?<!\\)\/\/[^\n]*/g, (match) =>
    match.startsWith('/') ? match.replaceAll(/[^\n]/g, ' ') : match,
  );
}

function argumentsAt(code: string, start: number): string[] {
  const args: string[] = [];
  let from = start;
  let depth = 0;
  for (let at = start; at < code.length; at += 1) {
    const character = code[at] ?? '';
    if ('\'"`'.includes(character)) {
      at = endOfText(code, at);
    } else if ('([{'.includes(character)) {
      depth += 1;
    } else if (')]}'.includes(character)) {
      if (depth === 0) {
        const last = code.slice(from, at).trim();
        return last === '' ? args : [...args, last];
      }
      depth -= 1;
    } else if (character === ',' && depth === 0) {
      args.push(code.slice(from, at).trim());
      from = at + 1;
    }
  }
  return args;
}

function endOfText(code: string, start: number): number {
  const quote = code[start];
  for (let at = start + 1; at < code.length; at += 1) {
    if (code[at] === '\\') at += 1;
    else if (code[at] === quote) return at;
  }
  return code.length;
}

export interface Row {
  readonly line: number;
  /** Trimmed; a bar within a cell is written `\|`. */
  readonly cells: readonly string[];
}

/** Rows of a page's tables without their heads and rules. */
export function rowsOf(markdown: string): Row[] {
  const lines = markdown.split('\n');
  const isRow = (at: number): boolean => /^\|.*\|$/.test(lines[at] ?? '');
  const isRule = (at: number): boolean => /^\|(?:\s*:?-+:?\s*\|)+$/.test(lines[at] ?? '');
  return lines.flatMap((text, at) => {
    if (!isRow(at) || isRule(at) || isRule(at + 1)) return [];
    return [{ line: at + 1, cells: text.slice(1, -1).split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll('\\|', '|')) }];
  });
}

/** The text of a cell that is one piece of code, or `undefined`. */
export function codeIn(cell: string | undefined): string | undefined {
  return /^`([^`]+)`$/.exec(cell ?? '')?.[1];
}

/** Targets of links within the repository, code blocks aside. */
export function linksOf(markdown: string): { readonly line: number; readonly target: string }[] {
  return proseLines(markdown).flatMap(({ line, text }) =>
    [...text.matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, target = '']) => (/^[a-z]+:/.test(target) ? [] : [{ line, target }])),
  );
}

/** The anchors that a page's headings make. */
export function anchorsOf(markdown: string): ReadonlySet<string> {
  return new Set(
    proseLines(markdown).flatMap(({ text }) => {
      const heading = /^#{1,6} (.+)$/.exec(text)?.[1];
      return heading === undefined ? [] : [heading.toLowerCase().replaceAll(/[^\p{L}\p{N}\s_-]/gu, '').replaceAll(' ', '-')];
    }),
  );
}

/** Paths of the repository that a page cites: tests with or without a name, other sources by their full name. */
export function citedPathsOf(markdown: string): { readonly line: number; readonly path: string }[] {
  const form = /(?<![\w/.-])(?:test\/[\w./-]*[\w/]|(?:spiffe|runtime|client|agent|server|cli|proto|bin|docs)\/[\w./-]*\.(?:ts|cjs|proto|md)\b)/g;
  return markdown.split('\n').flatMap((text, at) => [...text.matchAll(form)].map(([path]) => ({ line: at + 1, path })));
}

/** Cases cited beside a test, written as path and quoted name: `test/a.test.ts` "name of the case". */
export function casesOf(markdown: string): { readonly line: number; readonly path: string; readonly name: string }[] {
  return markdown.split('\n').flatMap((text, at) =>
    [...text.matchAll(/`(test\/[\w./-]+)`((?:,? "[^"]+")+)/g)].flatMap(([, path = '', names = '']) =>
      [...names.matchAll(/"([^"]+)"/g)].map(([, name = '']) => ({ line: at + 1, path, name })),
    ),
  );
}

/** A page's sections: each heading with the text down to the next one of any level. */
export function sectionsOf(markdown: string): { readonly line: number; readonly heading: string; readonly text: string }[] {
  const lines = markdown.split('\n');
  const starts = proseLines(markdown).flatMap(({ line, text }) => (/^#{1,6} /.test(text) ? [line] : []));
  return starts.map((line, index) => ({
    line,
    heading: (lines[line - 1] ?? '').replace(/^#+ /, ''),
    text: lines.slice(line, (starts[index + 1] ?? lines.length + 1) - 1).join('\n'),
  }));
}

function proseLines(markdown: string): { readonly line: number; readonly text: string }[] {
  let inCode = false;
  return markdown.split('\n').flatMap((text, at) => {
    if (text.startsWith('```')) {
      inCode = !inCode;
      return [];
    }
    return inCode ? [] : [{ line: at + 1, text }];
  });
}
