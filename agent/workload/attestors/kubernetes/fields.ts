/**
 * JSON from elsewhere, looked into without believing that it has the form it should have.
 */

export type Fields = Readonly<Record<string, unknown>>;

const nothing: Fields = Object.freeze({});
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** The members of an object; none of anything else. */
export function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : nothing;
}

/** @returns undefined when it is not JSON, or not in UTF-8 */
export function parseBytes(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(utf8.decode(bytes));
  } catch {
    return undefined;
  }
}
