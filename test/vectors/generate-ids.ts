/**
 * Writes `ids.json`: SPIFFE IDs with the verdict the standard gives each, by construction from its alphabet and from the
 * list of traps below, never by asking the parser. Run it with node to write the file anew.
 */
import { writeFileSync } from 'node:fs';

export interface IdCase {
  readonly text: string;
  /** `accept`, or the reason of the refusal. */
  readonly verdict: string;
  readonly why: string;
}

const tdAlphabet = 'abcdefghijklmnopqrstuvwxyz0123456789.-_';
const pathAlphabet = `${tdAlphabet}ABCDEFGHIJKLMNOPQRSTUVWXYZ`;
const td = 'id.trust-domain.characters';
const path = 'id.path.characters';

/** All characters that are one byte in Latin-1. */
const bytes = Array.from({ length: 256 }, (_, code) => String.fromCharCode(code));

/** Letters of other scripts, spaces and marks that look like something else, or like nothing. */
const lookalikes =
  'а е о р с у х ѕ і ј ԁ ո ɡ ı ſ ß ﬁ \u212a \u212b ａ ' +
  '． ／ ＿ － ０ ： ＠ ％ ٠ ० ① ² 。 ․ ‥ … ⁄ ∕ ╱ ⧸ ‐ ‑ ‒ – — − ﹣ ﹍ ‿ ˑ · ' +
  '\u00ad \u034f \u061c \u180e \u200b \u200c \u200d \u200e \u200f \u2028 \u2029 \u202a \u202e \u2060 \u2066 \u2069 \u3000 ' +
  '\ufe0f \ufeff \ufffd \uffff e\u0301 \u{1f4a9} \u{1d41a} \u{e0061} \ud800 \udc00 \udc00\ud800';

const traps: readonly (readonly [text: string, verdict: string])[] = [
  ['spiffe://example.org', 'accept'],
  ['spiffe://example.org/a', 'accept'],
  ['spiffe://example.org/ns/prod/sa/web-1', 'accept'],
  ['spiffe://1.2.3.4/svc', 'accept'],
  ['spiffe://256.1.1.1/svc', 'accept'],
  ['spiffe://0x7f.1/svc', 'accept'],
  ['spiffe://trust_domain.example.org/x', 'accept'],
  ['spiffe://a..b/x', 'accept'],
  ['spiffe://-/x', 'accept'],
  ['spiffe://./x', 'accept'],
  ['spiffe://../x', 'accept'],
  ['spiffe://_', 'accept'],
  ['spiffe://example.org.', 'accept'],
  ['spiffe://.example.org/a', 'accept'],
  ['spiffe://-example-/a', 'accept'],
  ['spiffe://xn--exmple-cua.org/a', 'accept'],
  ['spiffe://example.org.evil/a', 'accept'],
  ['spiffe://example.org/...', 'accept'],
  ['spiffe://example.org/....', 'accept'],
  ['spiffe://example.org/..a', 'accept'],
  ['spiffe://example.org/a..', 'accept'],
  ['spiffe://example.org/a./b', 'accept'],
  ['spiffe://example.org/.hidden', 'accept'],
  ['spiffe://example.org/A', 'accept'],
  ['spiffe://example.org/-', 'accept'],
  ['spiffe://example.org/_', 'accept'],
  ['spiffe://example.org/spire/server', 'accept'],
  ['spiffe://example.org/spire/agent/join_token/0b5f', 'accept'],
  ['spiffe://example.org/spiffe/example.org', 'accept'],
  ['spiffe://example.org/0', 'accept'],
  ['spiffe://example.org/__proto__', 'accept'],
  ['spiffe://constructor/toString', 'accept'],
  ['spiffe://__proto__/a', 'accept'],

  ['', 'id.empty'],
  ['spiffe', 'id.scheme'],
  ['spiffe:', 'id.scheme'],
  ['spiffe:/', 'id.scheme'],
  ['spiffe:example.org/a', 'id.scheme'],
  ['spiffe:/example.org/a', 'id.scheme'],
  ['spiffe:\\\\example.org\\a', 'id.scheme'],
  ['spiffe:\\/example.org/a', 'id.scheme'],
  ['spiffe//example.org/a', 'id.scheme'],
  ['//example.org/a', 'id.scheme'],
  ['/example.org/a', 'id.scheme'],
  ['example.org/a', 'id.scheme'],
  ['example.org', 'id.scheme'],
  ['://example.org/a', 'id.scheme'],
  ['SPIFFE://example.org/a', 'id.scheme'],
  ['Spiffe://example.org/a', 'id.scheme'],
  ['spiffE://example.org/a', 'id.scheme'],
  ['\u017fpiffe://example.org/a', 'id.scheme'],
  ['spiffe\t://example.org/a', 'id.scheme'],
  ['spif\nfe://example.org/a', 'id.scheme'],
  ['http://example.org/a', 'id.scheme'],
  ['https://example.org/a', 'id.scheme'],
  ['spiffes://example.org/a', 'id.scheme'],
  ['xspiffe://example.org/a', 'id.scheme'],
  ['urn:spiffe://example.org/a', 'id.scheme'],
  ['"spiffe://example.org/a"', 'id.scheme'],
  ['<spiffe://example.org/a>', 'id.scheme'],
  [' spiffe://example.org/a', 'id.scheme'],
  ['\tspiffe://example.org/a', 'id.scheme'],
  ['\nspiffe://example.org/a', 'id.scheme'],
  ['\0spiffe://example.org/a', 'id.scheme'],
  ['\ufeffspiffe://example.org/a', 'id.scheme'],
  ['spiffe%3A//example.org/a', 'id.scheme'],
  ['spiffe:%2F%2Fexample.org/a', 'id.scheme'],

  ['spiffe://', 'id.trust-domain.missing'],
  ['spiffe:///', 'id.trust-domain.missing'],
  ['spiffe:///a', 'id.trust-domain.missing'],
  ['spiffe:////a', 'id.trust-domain.missing'],
  ['spiffe://Example.org/a', td],
  ['spiffe://EXAMPLE.ORG/a', td],
  ['spiffe://ex%61mple.org/a', td],
  ['spiffe://example%2eorg/a', td],
  ['spiffe://example.org%2fa', td],
  ['spiffe://example.org%00/a', td],
  ['spiffe://user@example.org/a', td],
  ['spiffe://user:secret@example.org/a', td],
  ['spiffe://@example.org/a', td],
  ['spiffe://:@example.org/a', td],
  ['spiffe://example.org@evil.org/a', td],
  ['spiffe://example.org:443/a', td],
  ['spiffe://example.org:/a', td],
  ['spiffe://example.org:0/a', td],
  ['spiffe://:443/a', td],
  ['spiffe://[::1]/a', td],
  ['spiffe://[::ffff:1.2.3.4]/a', td],
  ['spiffe://[fe80::1%25eth0]/a', td],
  ['spiffe://::1/a', td],
  ['spiffe://*.example.org/a', td],
  ['spiffe://*/a', td],
  ['spiffe://example.org?', td],
  ['spiffe://example.org?q=1', td],
  ['spiffe://example.org#', td],
  ['spiffe://example.org#f', td],
  ['spiffe://example.org\\a', td],
  ['spiffe://example.org ', td],
  ['spiffe://example.org\n', td],
  ['spiffe://example.org\r\n', td],
  ['spiffe://example.org\0', td],
  ['spiffe://example.org\0.evil.org/a', td],
  ['spiffe:// example.org/a', td],
  ['spiffe://example.org /a', td],
  ['spiffe://example.org,evil.org/a', td],
  ['spiffe://example.org;evil.org/a', td],
  ['spiffe://exämple.org/a', td],
  ['spiffe://{{.TrustDomain}}/a', td],
  ['spiffe://${TRUST_DOMAIN}/a', td],
  ['spiffe://?/a', td],

  ['spiffe://example.org/', 'id.path.trailing-slash'],
  ['spiffe://example.org/a/', 'id.path.trailing-slash'],
  ['spiffe://example.org/a/b/', 'id.path.trailing-slash'],
  ['spiffe://example.org//', 'id.path.empty-segment'],
  ['spiffe://example.org//a', 'id.path.empty-segment'],
  ['spiffe://example.org/a//b', 'id.path.empty-segment'],
  ['spiffe://example.org/a//', 'id.path.empty-segment'],
  ['spiffe://example.org///', 'id.path.empty-segment'],
  ['spiffe://example.org/.', 'id.path.dot-segment'],
  ['spiffe://example.org/..', 'id.path.dot-segment'],
  ['spiffe://example.org/./a', 'id.path.dot-segment'],
  ['spiffe://example.org/../a', 'id.path.dot-segment'],
  ['spiffe://example.org/a/.', 'id.path.dot-segment'],
  ['spiffe://example.org/a/..', 'id.path.dot-segment'],
  ['spiffe://example.org/a/./b', 'id.path.dot-segment'],
  ['spiffe://example.org/a/../b', 'id.path.dot-segment'],
  ['spiffe://example.org/a/../../spire/server', 'id.path.dot-segment'],
  ['spiffe://example.org/../example.com/a', 'id.path.dot-segment'],
  ['spiffe://example.org/./', 'id.path.dot-segment'],
  ['spiffe://example.org/%61', path],
  ['spiffe://example.org/%2e%2e/a', path],
  ['spiffe://example.org/%2E/a', path],
  ['spiffe://example.org/.%2e/a', path],
  ['spiffe://example.org/a%2fb', path],
  ['spiffe://example.org/a%5cb', path],
  ['spiffe://example.org/a%252e', path],
  ['spiffe://example.org/a%00', path],
  ['spiffe://example.org/%', path],
  ['spiffe://example.org/%2', path],
  ['spiffe://example.org/%zz', path],
  ['spiffe://example.org/%u002e', path],
  ['spiffe://example.org/%c0%ae%c0%ae/a', path],
  ['spiffe://example.org/..;/a', path],
  ['spiffe://example.org/..\\a', path],
  ['spiffe://example.org/\\..\\a', path],
  ['spiffe://example.org/a?', path],
  ['spiffe://example.org/a?q=1', path],
  ['spiffe://example.org/a#', path],
  ['spiffe://example.org/a#f', path],
  ['spiffe://example.org/?', path],
  ['spiffe://example.org/a b', path],
  ['spiffe://example.org/ a', path],
  ['spiffe://example.org/a:b', path],
  ['spiffe://example.org/a@b', path],
  ['spiffe://example.org/a~b', path],
  ['spiffe://example.org/~root', path],
  ['spiffe://example.org/a+b', path],
  ['spiffe://example.org/a=b', path],
  ['spiffe://example.org/a,b', path],
  ['spiffe://example.org/a;v=1', path],
  ['spiffe://example.org/a|b', path],
  ['spiffe://example.org/a&b', path],
  ['spiffe://example.org/$(id)', path],
  ['spiffe://example.org/`id`', path],
  ['spiffe://example.org/{{.Name}}', path],
  ['spiffe://example.org/${name}', path],
  ['spiffe://example.org/%s%n', path],
  ['spiffe://example.org/<script>', path],
  ["spiffe://example.org/a'--", path],
  ['spiffe://example.org/a"b', path],
  ['spiffe://example.org/*', path],
  ['spiffe://example.org/a*', path],
  ['spiffe://example.org/ä', path],
  ['spiffe://example.org/a ', path],
  ['spiffe://example.org/a\n', path],
  ['spiffe://example.org/a\r\n', path],
  ['spiffe://example.org/a\0', path],
  ['spiffe://example.org/a\0/../b', path],
  ['spiffe://example.org/a\u2028', path],
  ['spiffe://example.org/a, spiffe://example.org/b', path],
  ['spiffe://example.org/a\nspiffe://example.org/b', path],
];

export function idCases(): readonly IdCase[] {
  const cases: IdCase[] = traps.map(([text, verdict]) => ({ text, verdict, why: 'trap' }));
  const add = (text: string, verdict: string, why: string): number => cases.push({ text, verdict, why });

  for (const [code, c] of bytes.entries()) {
    const hex = code.toString(16).padStart(2, '0');
    const inTd = tdAlphabet.includes(c) ? 'accept' : td;
    const inPath = pathAlphabet.includes(c) ? 'accept' : path;
    // A slash ends the trust domain; at its start there is none.
    add(`spiffe://exa${c}mple.org/web`, c === '/' ? 'accept' : inTd, `ID-05 byte ${hex} inside the trust domain`);
    add(`spiffe://${c}example.org`, c === '/' ? 'id.trust-domain.missing' : inTd, `ID-05 byte ${hex} before the trust domain`);
    add(`spiffe://example.org${c}/web`, c === '/' ? 'id.path.empty-segment' : inTd, `ID-05 byte ${hex} behind the trust domain`);
    add(`spiffe://example.org/a${c}b`, c === '/' ? 'accept' : inPath, `ID-12 byte ${hex} inside a segment`);
    const alone = c === '.' ? 'id.path.dot-segment' : c === '/' ? 'id.path.empty-segment' : inPath;
    add(`spiffe://example.org/a/${c}/b`, alone, `ID-12 byte ${hex} as a segment`);
    add(`spiffe://example.org/a${c}`, c === '/' ? 'id.path.trailing-slash' : inPath, `ID-12 byte ${hex} at the end`);
    add(`spiffe://exa%${hex}mple.org/a`, td, 'ID-06 percent-encoding in the trust domain');
    add(`spiffe://example.org/a%${hex.toUpperCase()}b`, path, 'ID-09 percent-encoding in the path');
  }
  for (const text of lookalikes.split(' ')) {
    add(`spiffe://ex${text}mple.org/web`, td, 'ID-05 look-alike in the trust domain');
    add(`spiffe://example.org/w${text}b`, path, 'ID-12 look-alike in the path');
  }
  for (const length of [1, 2, 63, 64, 253, 254, 255])
    add(`spiffe://${'d'.repeat(length)}/a`, 'accept', `ID-16 trust domain of ${length}`);
  for (const length of [256, 257, 1000])
    add(`spiffe://${'d'.repeat(length)}/a`, 'id.trust-domain.length', `ID-16 trust domain of ${length}`);
  add(`spiffe://${'d'.repeat(255)}`, 'accept', 'ID-16 without a path');
  add(`spiffe://${'d'.repeat(256)}`, 'id.trust-domain.length', 'ID-16 without a path');
  const prefix = 'spiffe://example.org/';
  for (const length of [2047, 2048]) add(prefix.padEnd(length, 'p'), 'accept', `ID-14 ${length} bytes`);
  for (const length of [2049, 2050, 4096, 100_000]) add(prefix.padEnd(length, 'p'), 'id.length', `ID-15 ${length} bytes`);
  add(prefix.padEnd(2048, 'p/').replace(/\/$/, 'p'), 'accept', 'ID-14 many segments');
  add(`spiffe://${'d'.repeat(255)}/`.padEnd(2048, 'p'), 'accept', 'ID-14 with the longest trust domain');
  add(`spiffe://${'d'.repeat(255)}/`.padEnd(2049, 'p'), 'id.length', 'ID-15 with the longest trust domain');
  add(prefix.padEnd(2047, 'p') + 'é', path, 'ID-14 2048 characters in 2049 bytes');
  return cases;
}

/** One case a line, so that changes can be read. */
export function formatCases(cases: readonly unknown[]): string {
  return `[\n${cases.map((row) => JSON.stringify(row)).join(',\n')}\n]\n`;
}

if (import.meta.main) writeFileSync(new URL('ids.json', import.meta.url), formatCases(idCases()));
