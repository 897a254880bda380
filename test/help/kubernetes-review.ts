/**
 * The question of a TokenReview, as JSON or in the protobuf form in which Go's clients send it; answers may be JSON for
 * both. What is answered is `kubernetes.ts`.
 */

export interface TokenReviewQuestion {
  readonly spec?: { readonly token?: string; readonly audiences?: readonly string[] };
}

/** What every object in protobuf begins with. */
const magic = Buffer.from('k8s\0');

export function readReviewQuestion(body: Buffer): TokenReviewQuestion {
  if (!body.subarray(0, magic.length).equals(magic)) return JSON.parse(body.toString()) as TokenReviewQuestion;
  // Unknown { TypeMeta typeMeta = 1; bytes raw = 2 }, TokenReview { ObjectMeta metadata = 1; TokenReviewSpec spec = 2 }
  const [raw = Buffer.alloc(0)] = fieldsOf(body.subarray(magic.length), 2);
  const [spec = Buffer.alloc(0)] = fieldsOf(raw, 2);
  const [token] = fieldsOf(spec, 1);
  return { spec: { token: String(token), audiences: fieldsOf(spec, 2).map(String) } };
}

/** All of a number; every field of these messages has a length. */
function fieldsOf(message: Buffer, number: number): readonly Buffer[] {
  const found: Buffer[] = [];
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = message[at++] ?? 0;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.length) {
    const key = varint();
    if ((key & 7) !== 2) throw new Error(`a field of type ${key & 7}`);
    const length = varint();
    if (key >> 3 === number) found.push(message.subarray(at, at + length));
    at += length;
  }
  return found;
}
