/**
 * Any text as strict JSON: refused, or the value that JSON itself has; what JSON refuses is refused here too.
 */
import { isDeepStrictEqual } from 'node:util';
import { parseJson } from '../../spiffe/json.ts';
import { expected } from './expected.ts';

export const name = 'json';

export function corpus(): Uint8Array[] {
  return [
    '{"keys":[{"kty":"EC","use":"x509-svid","n":[1,2.5,-3e2,true,false,null]}],"spiffe_sequence":18446744073709551615}',
    '{"a":1,"a":2}',
    '{"__proto__":{"x":1},"constructor":"y"}',
    '["\\u0000\\ud800\\n",""]',
    '[[[[[[[[]]]]]]]]',
    ' {} ',
    '1e400',
    '-0',
    '"unterminated',
  ].map((text) => Buffer.from(text));
}

export function run(input: Uint8Array): void {
  const text = Buffer.from(input).toString('utf8');
  const value = expected(() => parseJson(text, { maxBytes: 65_536, maxDepth: 32, integers: 'exact' }));
  if (value === undefined) return;
  const plain: unknown = JSON.parse(text);
  // Large integers keep their digits here and lose them there.
  const comparable = (item: unknown): unknown => JSON.parse(JSON.stringify(item, (_, part: unknown) => (typeof part === 'bigint' ? Number(part) : part)));
  if (!isDeepStrictEqual(comparable(value), comparable(plain))) throw new Error('another value than JSON has');
}
