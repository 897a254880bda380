/**
 * A seeded mutator for parsers of bytes: the same seed yields the same inputs on every machine. Knows enough of tag, length
 * and value to break them on purpose, and nothing of any one format.
 */

/** Numbers from 0 below 1, the same for the same seed (mulberry32). */
export function createRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}

type Mutation = (input: Uint8Array, random: () => number, corpus: readonly Uint8Array[]) => Uint8Array;

const maxBytes = 1 << 18;
const interesting: readonly number[] = [0x00, 0x01, 0x02, 0x30, 0x31, 0x7f, 0x80, 0x81, 0x82, 0x84, 0xa0, 0xa3, 0xfe, 0xff];
const below = (random: () => number, limit: number): number => Math.floor(random() * limit);

/** A place, more often near the front where the headers are. */
function place(input: Uint8Array, random: () => number): number {
  return below(random, random() < 0.3 ? Math.min(input.length, 64) : input.length);
}

function withOctet(input: Uint8Array, at: number, octet: number): Uint8Array {
  const out = Uint8Array.from(input);
  if (at < out.length) out[at] = octet;
  return out;
}

function spliced(input: Uint8Array, from: number, to: number, part: Uint8Array): Uint8Array {
  return Uint8Array.from(Buffer.concat([input.subarray(0, from), part, input.subarray(to)]));
}

const mutations: readonly Mutation[] = [
  // Turn a bit.
  (input, random) => {
    const at = place(input, random);
    return withOctet(input, at, (input[at] ?? 0) ^ (1 << below(random, 8)));
  },
  // Set an octet to any or an interesting value.
  (input, random) => withOctet(input, place(input, random), below(random, 256)),
  (input, random) => withOctet(input, place(input, random), interesting[below(random, interesting.length)] ?? 0),
  // One more or one less, as lengths and counts go wrong.
  (input, random) => {
    const at = place(input, random);
    return withOctet(input, at, ((input[at] ?? 0) + (random() < 0.5 ? 1 : 255)) & 0xff);
  },
  // Cut off the end, or the front.
  (input, random) => input.slice(0, place(input, random)),
  (input, random) => input.slice(place(input, random)),
  // Take some out.
  (input, random) => {
    const at = place(input, random);
    return spliced(input, at, at + 1 + below(random, 16), new Uint8Array());
  },
  // Put some in.
  (input, random) => {
    const at = place(input, random);
    return spliced(input, at, at, Uint8Array.from({ length: 1 + below(random, 16) }, () => below(random, 256)));
  },
  // Repeat a piece, which lengths then contradict.
  (input, random) => {
    const from = place(input, random);
    const to = from + 1 + below(random, 64);
    return spliced(input, to, to, input.subarray(from, to));
  },
  // A piece of another input in place of one of this.
  (input, random, corpus) => {
    const other = corpus[below(random, corpus.length)] ?? input;
    const [at, from] = [place(input, random), below(random, other.length)];
    const length = 1 + below(random, 128);
    return spliced(input, at, at + below(random, length + 1), other.subarray(from, from + length));
  },
  // A length in long form, often far too large.
  (input, random) => {
    const at = place(input, random);
    const octets = 1 + below(random, 5);
    const length = Uint8Array.from({ length: octets }, () => (random() < 0.4 ? 0xff : below(random, 256)));
    return spliced(input, at + 1, at + 2, Uint8Array.of(0x80 | octets, ...length));
  },
  // A value removed or doubled together with the lengths above it, so that the damage lies deeper.
  (input, random) => rewritten(input, random),
];

/** One to six mutations of a random member of the corpus. */
export function mutate(corpus: readonly Uint8Array[], random: () => number): Uint8Array {
  let out = corpus[below(random, corpus.length)] ?? new Uint8Array();
  for (let count = 1 + below(random, 6); count > 0; count -= 1) {
    const mutation = mutations[below(random, mutations.length)];
    if (mutation !== undefined) out = mutation(out, random, corpus);
    if (out.length > maxBytes) out = out.slice(0, maxBytes);
  }
  return out;
}

interface Value {
  readonly tag: number;
  readonly content: Uint8Array | readonly Value[];
}

/** Reads tag-length-value loosely, changes one value, writes it back with right lengths. */
function rewritten(input: Uint8Array, random: () => number): Uint8Array {
  const values = looseValues(input, 0);
  if (values === undefined) return input;
  return Uint8Array.from(Buffer.concat(changed(values, random).map(encoded)));
}

function looseValues(input: Uint8Array, depth: number): readonly Value[] | undefined {
  const values: Value[] = [];
  let at = 0;
  while (at < input.length) {
    const tag = input[at] ?? 0;
    const first = input[at + 1];
    if (first === undefined) return undefined;
    const octets = first < 0x80 ? 0 : first - 0x80;
    if (octets > 3) return undefined;
    let length = first < 0x80 ? first : 0;
    for (let i = 0; i < octets; i += 1) length = length * 256 + (input[at + 2 + i] ?? 0);
    const from = at + 2 + octets;
    if (from + length > input.length) return undefined;
    const content = input.subarray(from, from + length);
    const inner = (tag & 0x20) !== 0 && depth < 12 ? looseValues(content, depth + 1) : undefined;
    values.push({ tag, content: inner ?? content });
    at = from + length;
  }
  return values;
}

function changed(values: readonly Value[], random: () => number): readonly Value[] {
  const at = below(random, values.length);
  const value = values[at];
  if (value === undefined) return values;
  if (!(value.content instanceof Uint8Array) && value.content.length > 0 && random() < 0.8) {
    return values.with(at, { tag: value.tag, content: changed(value.content, random) });
  }
  const choice = below(random, 5);
  if (choice === 0) return values.toSpliced(at, 1);
  if (choice === 1) return values.toSpliced(at, 0, value);
  if (choice === 2) return values.with(at, values[below(random, values.length)] ?? value);
  if (choice === 3) return values.with(at, { tag: interesting[below(random, interesting.length)] ?? 0, content: value.content });
  const length = below(random, 40);
  return values.with(at, { tag: value.tag, content: Uint8Array.from({ length }, () => below(random, 256)) });
}

function encoded(value: Value): Buffer {
  const content = value.content instanceof Uint8Array ? value.content : Buffer.concat(value.content.map(encoded));
  const { length } = content;
  const header =
    length < 0x80
      ? [length]
      : length < 0x100
        ? [0x81, length]
        : length < 0x10000
          ? [0x82, length >> 8, length & 0xff]
          : [0x83, length >> 16, (length >> 8) & 0xff, length & 0xff];
  return Buffer.concat([Buffer.from([value.tag, ...header]), content]);
}
