/**
 * Base64 as the standards mean it: one text per byte string, everything else refused. `Buffer.from` alone skips what it
 * does not know and mixes both alphabets, so a signed text could be changed without changing its meaning.
 */

/** Standard alphabet with padding [RFC 4648 4]; `undefined` for any text that `encodeBase64` would not write. */
export function decodeBase64(text: string): Uint8Array | undefined {
  const bytes = Buffer.from(text, 'base64');
  return bytes.toString('base64') === text ? bytes : undefined;
}

/** URL alphabet without padding [RFC 7515 2]; `undefined` for any text that `encodeBase64url` would not write. */
export function decodeBase64url(text: string): Uint8Array | undefined {
  const bytes = Buffer.from(text, 'base64url');
  return bytes.toString('base64url') === text ? bytes : undefined;
}

export function encodeBase64(bytes: Uint8Array): string {
  return view(bytes).toString('base64');
}

export function encodeBase64url(bytes: Uint8Array): string {
  return view(bytes).toString('base64url');
}

function view(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
