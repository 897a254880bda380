/**
 * Two files that belong together, told by their text.
 */
import type { SecretFile } from '../../runtime/secret-files.ts';

export function pairOf(text: string): readonly SecretFile[] {
  return [
    { name: 'svid.pem', content: `certificate ${text}`, mode: 0o644 },
    { name: 'key.pem', content: `key ${text}`, mode: 0o600 },
  ];
}
