/**
 * Any text as a file of entries, through the YAML parser as the command reads it: items of the declared shape, or refused.
 */
import { readEntries } from '../../cli/entry-file.ts';
import { itemToMessage } from '../../cli/entry-fields.ts';
import { expected } from './expected.ts';

export const name = 'entry-file';

export function corpus(): Uint8Array[] {
  return [
    '[{"spiffeId": "spiffe://example.org/a", "parentId": "spiffe://example.org/n", "selectors": ["unix:uid:0"], "expiresAt": null, "hint": "h"}]',
    'entries:\n- spiffeId: spiffe://example.org/a\n  parentId: spiffe://example.org/n\n  selectors: [unix:uid:0, "unix:path:/bin/x"]\n  x509SvidTtlSeconds: 60\n  expiresAt: 2030-01-31T12:00:00Z\n',
    '{"entries":[{"selectors":[{"type":"unix","value":"uid:1"}],"spiffe_id":"spiffe://example.org/b","parent_id":"spiffe://example.org/n","ttl":200,"entry_expiry":1900000000,"federates_with":["spiffe://other.test"],"dns_names":["b"],"admin":true}]}',
    'a: &a [x]\nentries: [*a, *a]\n',
    '__proto__: {polluted: 1}\nentries: [{__proto__: {polluted: 1}, spiffeId: a, parentId: b, selectors: []}]\n',
    '- 1\n- [[[[]]]]\n- ? {a: b}\n  : c\n- !!binary aGk=\n- !!set {a, b}\n- .nan\n- 0x10\n',
    `entries: ${'['.repeat(200)}${']'.repeat(200)}`,
    '%YAML 1.1\n---\n<<: {entries: []}\n...\n---\nx',
  ].map((text) => Buffer.from(text));
}

export function run(input: Uint8Array): void {
  const text = Buffer.from(input).toString('utf8');
  for (const item of expected(() => readEntries(text, 'input')) ?? []) {
    if (typeof item.spiffeId !== 'string' || !Array.isArray(item.selectors)) throw new Error('an item without its fields');
    const message = expected(() => itemToMessage(item));
    if (message !== undefined && !Number.isSafeInteger(message.expires_at)) throw new Error('an expiry that is no number of seconds');
  }
  if ('polluted' in {}) throw new Error('Object.prototype was changed');
}
