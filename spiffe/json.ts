/**
 * A JSON reader that refuses what `JSON.parse` lets pass: repeated members, bytes that are not UTF-8, unpaired
 * surrogates, numbers out of range, unbounded depth. What the members mean is left to the caller.
 */
import { SpiffeError } from './errors.ts';

/** Frozen all through. */
export type JsonValue = null | boolean | number | bigint | string | readonly JsonValue[] | JsonObject;

/** Without a prototype, so that no member name is special. */
export interface JsonObject {
  readonly [name: string]: JsonValue;
}

export interface JsonLimits {
  /** In UTF-8 bytes. */
  readonly maxBytes: number;
  /** How deep arrays and objects may nest. */
  readonly maxDepth: number;
  /** `exact` yields a bigint for integers beyond 2^53; `number` rounds them as everybody else does. */
  readonly integers: 'exact' | 'number';
}

/**
 * @throws invalid `json.too-large|encoding|syntax|repeated-member|too-deep|number-range`
 */
export function parseJson(input: Uint8Array | string, limits: JsonLimits): JsonValue {
  const size = typeof input === 'string' ? Buffer.byteLength(input) : input.byteLength;
  if (size > limits.maxBytes) throw new SpiffeError('invalid', 'json.too-large', 'JSON text is too large');
  const reader = new Reader(typeof input === 'string' ? input : decodeUtf8(input), limits);
  return reader.document();
}

export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export function isJsonArray(value: JsonValue | undefined): value is readonly JsonValue[] {
  return Array.isArray(value);
}

/** Made once: making one costs as much as reading a token. A byte order mark is kept, and then refused as a syntax error [RFC 8259 8.1]. */
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function decodeUtf8(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw new SpiffeError('invalid', 'json.encoding', 'JSON text is not UTF-8', { cause });
  }
}

const space = /[ \t\n\r]+/y;
/** The last of the characters that space is made of; all others of JSON come after it. */
const lastSpace = 0x20;
const numberForm = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
// Control characters must be escaped [RFC 8259 7].
const stringForm = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const literals = [
  ['true', true],
  ['false', false],
  ['null', null],
] as const;

class Reader {
  readonly #text: string;
  readonly #limits: JsonLimits;
  #at = 0;

  constructor(text: string, limits: JsonLimits) {
    this.#text = text;
    this.#limits = limits;
  }

  document(): JsonValue {
    const value = this.#value(0);
    this.#skipSpace();
    if (this.#at !== this.#text.length) throw syntaxError();
    return value;
  }

  #value(depth: number): JsonValue {
    this.#skipSpace();
    const first = this.#text[this.#at];
    if (first === '{' || first === '[') {
      if (depth >= this.#limits.maxDepth) {
        throw new SpiffeError('invalid', 'json.too-deep', 'JSON text is nested too deeply');
      }
      this.#at += 1;
      return first === '{' ? this.#object(depth + 1) : this.#array(depth + 1);
    }
    if (first === '"') return this.#string();
    for (const [word, value] of literals) {
      if (this.#text.startsWith(word, this.#at)) {
        this.#at += word.length;
        return value;
      }
    }
    return this.#number();
  }

  #object(depth: number): JsonObject {
    const members = Object.create(null) as Record<string, JsonValue>;
    if (this.#skip('}')) return Object.freeze(members);
    do {
      this.#skipSpace();
      if (this.#text[this.#at] !== '"') throw syntaxError();
      const name = this.#string();
      if (name in members) {
        throw new SpiffeError('invalid', 'json.repeated-member', 'JSON object has two members of the same name');
      }
      if (!this.#skip(':')) throw syntaxError();
      members[name] = this.#value(depth);
    } while (this.#skip(','));
    if (!this.#skip('}')) throw syntaxError();
    return Object.freeze(members);
  }

  #array(depth: number): readonly JsonValue[] {
    const items: JsonValue[] = [];
    if (this.#skip(']')) return Object.freeze(items);
    do items.push(this.#value(depth));
    while (this.#skip(','));
    if (!this.#skip(']')) throw syntaxError();
    return Object.freeze(items);
  }

  #string(): string {
    const token = this.#scanString();
    const value: unknown = token.includes('\\') ? JSON.parse(token) : token.slice(1, -1);
    if (typeof value !== 'string') throw syntaxError();
    if (!value.isWellFormed()) {
      throw new SpiffeError('invalid', 'json.encoding', 'JSON string has an unpaired surrogate');
    }
    return value;
  }

  #number(): number | bigint {
    numberForm.lastIndex = this.#at;
    const found = numberForm.exec(this.#text);
    if (found === null) throw syntaxError();
    this.#at = numberForm.lastIndex;
    const value = Number(found[0]);
    if (!Number.isFinite(value)) {
      throw new SpiffeError('invalid', 'json.number-range', 'JSON number is out of range');
    }
    const isInteger = found[1] === undefined && found[2] === undefined;
    return isInteger && this.#limits.integers === 'exact' && !Number.isSafeInteger(value) ? BigInt(found[0]) : value;
  }

  #skip(character: string): boolean {
    this.#skipSpace();
    if (this.#text[this.#at] !== character) return false;
    this.#at += 1;
    return true;
  }

  /** Tokens have no space as a rule, which is seen faster than by the expression. */
  #skipSpace(): void {
    if (this.#text.charCodeAt(this.#at) > lastSpace) return;
    space.lastIndex = this.#at;
    if (space.test(this.#text)) this.#at = space.lastIndex;
  }

  #take(form: RegExp): string {
    form.lastIndex = this.#at;
    const found = form.exec(this.#text);
    if (found === null) throw syntaxError();
    this.#at = form.lastIndex;
    return found[0];
  }

  #scanString(): string {
    return this.#take(stringForm);
  }
}

function syntaxError(): SpiffeError {
  return new SpiffeError('invalid', 'json.syntax', 'text is not JSON');
}
