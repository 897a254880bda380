/**
 * A list of pods read while its bytes arrive: each pod is handed out as soon as it is complete, so that no list, however
 * long, is held or parsed at once. What a pod says is left to `pod.ts`.
 */
import { SpiffeError } from '../../../../spiffe/errors.ts';
import { fieldsOf, parseBytes } from './fields.ts';

export interface PodListReader {
  /** The pods that these bytes complete, each as JSON has it, undefined for one that could not be read. @throws as `end` */
  feed(bytes: Uint8Array): unknown[];
  /** What the list says besides its items. @throws unavailable `k8s.source.answer` when it is not complete, or no list */
  end(): PodListHead;
}

export interface PodListHead {
  readonly resourceVersion: string;
  /** Asks for the next part; empty when this was the last. */
  readonly continueToken: string;
}

export interface PodListLimits {
  /** A larger pod is read over. */
  readonly podBytes: number;
  /** Everything but the items. */
  readonly headBytes: number;
}

/** The store of an API server refuses objects beyond 1.5 MiB; as JSON they may be larger. */
export const podListLimits: PodListLimits = { podBytes: 3 * 1024 * 1024, headBytes: 64 * 1024 };

const quote = 0x22;
const backslash = 0x5c;
const comma = 0x2c;
const openBrace = 0x7b;
const closeBrace = 0x7d;
const openBracket = 0x5b;
const closeBracket = 0x5d;
/** Where the items begin: at depth 1, outside of strings. */
const itemsBegin = /(?:^|[^\\])"items"[ \t\r\n]*:[ \t\r\n]*$/;
const blank = /^[ \t\r\n]*$/;

export function createPodListReader(limits: PodListLimits = podListLimits): PodListReader {
  return new Reader(limits);
}

class Reader implements PodListReader {
  readonly #limits: PodListLimits;
  /** The list without its items, which is JSON as well. */
  readonly #head: Buffer[] = [];
  #headBytes = 0;
  /** The pieces of the item under way. */
  #item: Buffer[] = [];
  #itemBytes = 0;
  #depth = 0;
  #inString = false;
  #isEscaped = false;
  #inItems = false;
  #done = false;

  constructor(limits: PodListLimits) {
    this.#limits = limits;
  }

  feed(bytes: Uint8Array): unknown[] {
    const piece = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const items: unknown[] = [];
    let from = 0;
    for (let at = this.#inString ? this.#skipString(piece, 0) : 0; at < piece.length; at += 1) {
      const byte = piece[at];
      if (byte === quote) {
        at = this.#skipString(piece, at + 1) - 1;
      } else if (byte === openBrace || byte === openBracket) {
        this.#depth += 1;
        if (byte === openBracket && this.#depth === 2 && !this.#inItems && this.#beginsItems(piece.subarray(from, at))) {
          this.#keepHead(piece.subarray(from, at + 1));
          from = at + 1;
          this.#inItems = true;
        }
      } else if (byte === closeBrace || byte === closeBracket) {
        this.#depth -= 1;
        if (this.#depth < 0) throw malformed();
        if (this.#inItems && this.#depth === 1) {
          this.#endItem(piece.subarray(from, at), items);
          from = at;
          this.#inItems = false;
          this.#done = true;
        }
      } else if (byte === comma && this.#inItems && this.#depth === 2) {
        this.#endItem(piece.subarray(from, at), items);
        from = at + 1;
      }
    }
    if (this.#inItems) this.#keepItem(piece.subarray(from));
    else this.#keepHead(piece.subarray(from));
    return items;
  }

  /** @returns where what follows the string begins; the piece's length when the string goes on after it */
  #skipString(piece: Buffer, from: number): number {
    let at = from;
    if (this.#isEscaped && at < piece.length) {
      this.#isEscaped = false;
      at += 1;
    }
    for (; at < piece.length; at += 1) {
      const byte = piece[at];
      if (byte === backslash) {
        at += 1;
      } else if (byte === quote) {
        this.#inString = false;
        return at + 1;
      }
    }
    this.#inString = true;
    // The piece ends with a backslash.
    this.#isEscaped = this.#isEscaped || at > piece.length;
    return piece.length;
  }

  end(): PodListHead {
    if (this.#depth !== 0 || this.#inString) throw malformed();
    const parsed = parseBytes(Buffer.concat(this.#head));
    if (parsed === undefined) throw malformed();
    const head = fieldsOf(parsed);
    // An empty list comes as null from some servers.
    if (!this.#done && head['items'] !== null) throw malformed();
    const metadata = fieldsOf(head['metadata']);
    return { resourceVersion: textOf(metadata['resourceVersion']), continueToken: textOf(metadata['continue']) };
  }

  #beginsItems(tail: Buffer): boolean {
    if (this.#done) return false;
    const head = Buffer.concat([...this.#head.slice(-64), tail]);
    return itemsBegin.test(head.toString('latin1', Math.max(0, head.length - 64)));
  }

  #keepHead(bytes: Buffer): void {
    this.#headBytes += bytes.length;
    if (this.#headBytes > this.#limits.headBytes) throw malformed();
    // Copied, for the piece it is part of is large and used again.
    if (bytes.length > 0) this.#head.push(Buffer.from(bytes));
  }

  #keepItem(bytes: Buffer): void {
    this.#itemBytes += bytes.length;
    if (this.#itemBytes > this.#limits.podBytes) this.#item = [];
    else if (bytes.length > 0) this.#item.push(bytes);
  }

  #endItem(bytes: Buffer, items: unknown[]): void {
    this.#keepItem(bytes);
    const isTooLarge = this.#itemBytes > this.#limits.podBytes;
    const [only] = this.#item;
    const item = this.#item.length === 1 && only !== undefined ? only : Buffer.concat(this.#item);
    this.#item = [];
    this.#itemBytes = 0;
    if (isTooLarge) items.push(undefined);
    // Nothing at all between the brackets is an empty list, and between commas no JSON.
    else if (!(item.length < 4_096 && blank.test(item.toString('latin1')))) items.push(parseBytes(item));
  }
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function malformed(): SpiffeError {
  return new SpiffeError('unavailable', 'k8s.source.answer', 'the answer is not a list of pods');
}
